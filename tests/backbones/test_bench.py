"""The benchmark's PyTorch modules beside MXNet. How fast anything is, no test says. Skipped without PyTorch."""

import pytest

torch = pytest.importorskip('torch')

import benchmark  # noqa: E402
from helpers import SMALL, markdown  # noqa: E402
from netkit.bench import timed_networks as choices, torch_steps  # noqa: E402

QUICK = ['--engine', 'torch', '--per-batch-size', '2', '--repetitions', '1', '--markdown']


def test_the_same_networks_in_turns(run_tool):
    narrow = SMALL.replace('0.1', '0.25')  # narrower ones PyTorch cannot compute in channels_last
    code, out, _ = run_tool(benchmark, f'cru56:memonger=True,net_prelu=mul,{narrow}', *QUICK)
    assert code == 0
    for rows in markdown(out):
        labels = [row['choice'].split(', ', 1)[-1] for row in rows]
        assert [label for label in labels if label.startswith('PyTorch')] == list(torch_steps.WAYS)
        assert all(float(row['ms/image']) > 0 for row in rows)


def test_the_one_written_by_hand(run_tool):
    options = 'net_multiplier=0.25,emb_size=16'
    code, out, _ = run_tool(benchmark, f'cru116:{options}', *QUICK, '--peer', 'by_hand', '--only', 'inference')
    assert code == 0 and 'PyTorch, by hand' in out
    for network, words in (('cru56', 'only cru116 is written by hand'), ('cru116_imagenet', 'only cru116')):
        code, _, err = run_tool(benchmark, network, *QUICK, '--peer', 'by_hand')
        assert code == 2 and words in err
    code, _, err = run_tool(benchmark, 'cru116_imagenet', *QUICK)
    assert code == 2 and 'is for face networks' in err


@pytest.mark.parametrize('training', [False, True])
def test_a_step_does_what_its_row_says(training):
    """In the precision and layout of its label, with gradients where it trains."""
    choice = choices.parse_choice('cru56:net_multiplier=0.25')
    for label, (half, last) in torch_steps.WAYS.items():
        module = torch_steps.module_of(choice, fp16=half, channels_last=last)
        step = torch_steps.TorchStep(module, (2, 3, 112, 112), training, last)
        assert module.fp16 == half and module.channels_last == last, label
        assert step.images.is_contiguous(memory_format=torch.channels_last) == last
        step()
        assert module.training == training and (module.conv0_weight.grad is not None) == training


def test_recomputed_and_narrow(run_tool):
    """Narrow networks are left out in the layout in which PyTorch writes beyond its memory."""
    choice = choices.parse_choice('cru56:net_multiplier=0.25,memonger=True')
    assert torch_steps.module_of(choice).using_checkpoint
    code, out, _ = run_tool(benchmark, 'cru56:net_multiplier=0.125', *QUICK, '--only', 'inference')
    assert code == 0 and 'PyTorch, bfloat16' in out and 'channels last' not in out
