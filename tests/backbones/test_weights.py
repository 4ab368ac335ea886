"""Weights and graphs that leave PyTorch, and weights that come: MXNet, ONNX, state dicts. Skipped without PyTorch."""

import argparse
import collections
import contextlib
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import onnx  # noqa: E402
import safetensors.torch as safetensors_torch  # noqa: E402

import convert  # noqa: E402
import train  # noqa: E402
from crunet import symbol_torch  # noqa: E402
from netkit import state_dict  # noqa: E402
from netkit._mxnet import mx  # noqa: E402
from netkit.evaluation import verification as faces  # noqa: E402
from netkit.evaluation.engines import Engine, OnnxEngine, open_engine  # noqa: E402

TINY = 'cru56:net_multiplier=0.125'


class TorchEngine(Engine):
    """A module that computes embeddings of raw images."""

    def __init__(self, module):
        super().__init__('torch', (112, 112, 3), 20)
        self.module = module.eval()

    def run(self, images):
        with torch.no_grad():
            return self.module((torch.tensor(images) - 127.5) / 127.5).numpy()


def verified(engine, folder):
    """Return what verification says of an engine."""
    result = faces.evaluate(engine, 'drawn', os.path.join(folder, 'data', 'drawn.bin'))
    return result.accuracy, result.tars


def test_what_mxnet_trained_verifies_the_same_in_pytorch_and_back(tmp_path, run_tool):
    options = ['--multiplier', '0.125', '--steps', '12', '--per-batch-size', '16', '--identities', '8']
    options += ['--images', '8', '--pairs', '60', '--no-verification', '--output', str(tmp_path)]
    assert run_tool(train, '--network', 'cru56', *options)[0] == 0
    mxnet = verified(open_engine(f'{tmp_path}/cru56,1', 20), str(tmp_path))
    assert mxnet[0].mean != 0.5
    assert run_tool(convert, f'{tmp_path}/cru56,1', '--output', str(tmp_path / 'x.pt'))[0] == 0
    module = symbol_torch.get_model(f'{TINY},pretrained={tmp_path}/x.pt', num_features=256)
    assert verified(TorchEngine(module), str(tmp_path)) == mxnet
    torch.save(module.state_dict(), str(tmp_path / 'back.pt'))
    assert run_tool(convert, str(tmp_path / 'back.pt'), '--output', str(tmp_path / 'back'))[0] == 0
    assert verified(open_engine(f'{tmp_path}/back,0', 20), str(tmp_path)) == mxnet
    first, back = (mx.nd.load(str(tmp_path / name)) for name in ('cru56-0001.params', 'back-0000.params'))
    assert set(first) == set(back)
    differing = [name for name in first if not (first[name] == back[name]).asnumpy().all()]
    assert differing in ([], ['arg:fc1_gamma'])  # weight decay has moved what MXNet takes for 1
    assert (back['arg:fc1_gamma'] == 1).asnumpy().all()


def trained(name, **options):
    """Return a module whose moving statistics have seen something."""
    torch.manual_seed(0)
    module = symbol_torch.get_model(name, **options).train()
    with torch.no_grad():
        module(torch.rand(4, 3, 112, 112) * 2 - 1)
    return module.eval()


@pytest.mark.parametrize('name', [TINY, 'att56:net_multiplier=0.125', 'attnext56:net_multiplier=0.125'])
def test_the_exporter_of_the_hosts_torch2onnx(name, tmp_path):
    """insightface's client must not take the file for one that normalises its input itself."""
    module, path = trained(name, num_features=24), str(tmp_path / 'x.onnx')
    torch.onnx.export(
        module,
        torch.rand(1, 3, 112, 112),
        path,
        input_names=['data'],
        dynamic_axes={'data': {0: 'n'}},
        opset_version=11,
    )
    engine = OnnxEngine(path, batch=3)
    assert not engine.is_raw
    # Not by its names of nodes alone, which PyTorch's exporters have changed: the normalisations are folded.
    assert 'Sub' not in [node.op_type for node in onnx.load(path).graph.node]
    images = np.random.RandomState(0).randint(0, 256, (3, 3, 112, 112)).astype(np.float32)
    expected = TorchEngine(module)(images)
    np.testing.assert_allclose(engine(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_program_of_the_newer_exporter():
    """torch.export, from which torch.onnx.export(dynamo=True) makes its file."""
    module, x = trained(TINY, num_features=24), torch.rand(2, 3, 112, 112)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize('options', [{}, {'channels_last': False}], ids=str)
def test_the_readers_of_state_dicts_agree(options, tmp_path):
    """PyTorch's and ours, both ways."""
    name = 'cru56:net_multiplier=0.25' + ''.join(f',{key}={value}' for key, value in options.items())
    state = trained(name, num_features=24).state_dict()
    torch.save(state, str(tmp_path / 'theirs.pt'))
    found = state_dict.read(str(tmp_path / 'theirs.pt'))
    assert list(found) == list(state)
    assert all(np.array_equal(found[key], value.numpy()) for key, value in state.items())
    state_dict.write(str(tmp_path / 'ours.pt'), found)
    again = torch.load(str(tmp_path / 'ours.pt'), weights_only=True)
    assert list(again) == list(state) and all(torch.equal(again[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    'dtype', ['float16', 'bfloat16', 'float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool']
)
def test_dtypes_of_tensors(dtype, tmp_path):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 3]]).to(getattr(torch, dtype))
    torch.save({'module.a': tensor.t(), 'module.b': torch.nn.Parameter(torch.ones(2))}, str(tmp_path / 'x.pt'))
    found = state_dict.read(str(tmp_path / 'x.pt'))
    np.testing.assert_array_equal(found['a'], (tensor.float() if dtype == 'bfloat16' else tensor).t().numpy())
    assert list(found) == ['a', 'b']


class Whole(torch.nn.Module):
    """A module of a trainer that has the network next to its loss, as in Lightning."""

    def __init__(self, network):
        super().__init__()
        self.model, self.head = network, torch.nn.Linear(24, 3)


def saved(kind, module, path):
    """Save a module's weights as a trainer does."""
    other = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    settings = argparse.Namespace(lr=0.1, path=pathlib.Path('x'), numbers={1, 2}, array=np.zeros(2))
    if kind == 'safetensors':
        return safetensors_torch.save_file(module.state_dict(), path)
    content = {
        'DataParallel': lambda: torch.nn.DataParallel(module).state_dict(),
        'compiled': lambda: torch.compile(module).state_dict(),
        'Lightning': lambda: {
            'state_dict': Whole(module).state_dict(),
            'hyper_parameters': settings,
            'optimizer_states': [torch.optim.Adam(module.parameters()).state_dict()],
        },
        'timm': lambda: {'state_dict': other, 'state_dict_ema': module.state_dict(), 'args': settings, 'metric': 0.5},
        'averaged': lambda: torch.optim.swa_utils.AveragedModel(module).state_dict(),
        'model': lambda: {'model': module.state_dict(), 'epoch': 3, 'scheduler': collections.defaultdict(dict)},
    }[kind]()
    return torch.save(content, path)


@pytest.mark.parametrize('kind', ['DataParallel', 'compiled', 'Lightning', 'timm', 'averaged', 'model', 'safetensors'])
def test_weights_as_trainers_save_them(kind, run_tool, tmp_path):
    """By convert, and by pretrained=; the embeddings are those of the module that was saved."""
    module, path = (
        trained(TINY, num_features=24),
        str(tmp_path / ('x.safetensors' if kind == 'safetensors' else 'x.pt')),
    )
    saved(kind, module, path)
    code, _, err = run_tool(convert, path, '--output', str(tmp_path / 'net'))
    assert code == 0, err
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 112, 112)).astype(np.float32)
    expected = TorchEngine(module)(images)
    close = dict(rtol=0, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(open_engine(f'{tmp_path}/net,0', 2)(images), expected, **close)
    if kind in ('Lightning', 'timm', 'model'):  # of what is next to the weights PyTorch's safe reader takes little
        with pytest.raises(ValueError, match='tools/convert.py reads more'):
            symbol_torch.get_model(f'{TINY},pretrained={path}', num_features=24)
        path = str(tmp_path / 'alone.pt')
        assert run_tool(convert, f'{tmp_path}/net,0', '--output', path)[0] == 0
    again = symbol_torch.get_model(f'{TINY},pretrained={path}', num_features=24)
    np.testing.assert_array_equal(TorchEngine(again)(images), expected)


@pytest.mark.parametrize('read', [state_dict.read, symbol_torch.read_state])
@pytest.mark.parametrize('kind', ['next to the weights', 'bare pickle', 'old format', 'tar'])
def test_nothing_in_a_file_is_called(read, kind, tmp_path):
    """Not by PyTorch's readers of older formats either, which call the pickle module themselves."""

    class Call:
        def __reduce__(self):
            return open, (str(tmp_path / 'made'), 'w')

    path = str(tmp_path / 'x.pt')
    if kind == 'next to the weights':
        torch.save({'state_dict': {'a': torch.zeros(2)}, 'args': Call()}, path)
    elif kind == 'tar':
        (tmp_path / 'storages').write_bytes(pickle.dumps(Call(), 2))
        with tarfile.open(path, 'w') as archive:
            archive.add(str(tmp_path / 'storages'), 'storages')
    else:
        head = [] if kind == 'bare pickle' else [state_dict.OLD_MAGIC, state_dict.OLD_PROTOCOL]
        with open(path, 'wb') as file:
            for content in (*head, Call()):
                pickle.dump(content, file, 2)
    with contextlib.suppress(Exception):
        read(path)
    assert not (tmp_path / 'made').exists()


def test_two_networks_in_a_file_are_told(run_tool, tmp_path):
    whole = torch.nn.ModuleDict({name: trained(TINY, num_features=24) for name in ('student', 'teacher')})
    torch.save(whole.state_dict(), str(tmp_path / 'x.pt'))
    code, _, err = run_tool(convert, str(tmp_path / 'x.pt'), '--output', str(tmp_path / 'net'))
    assert code == 2 and 'has several networks, student., teacher.; save the state dict of one of them' in err
