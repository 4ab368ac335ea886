"""The networks inside arcface_torch, put there by patch_insightface.py.

Insightface is the miniature of tests/host. With INSIGHTFACE=/path/to/checkout the same is done to a copy of that
checkout, whose own train_v2.py runs on a CPU by way of tests/host/on_cpu.py. Skipped without PyTorch.
"""

import contextlib
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

torch = pytest.importorskip('torch')

import patch_insightface  # noqa: E402
from helpers import PATIENCE, ROOT, snapshot  # noqa: E402
from host.layouts import lay_out_torch  # noqa: E402
from netkit.data import synthetic  # noqa: E402

CHECKOUT = os.environ.get('INSIGHTFACE')
ON_CPU = os.path.join(ROOT, 'tests', 'host', 'on_cpu.py')
NARROW = 'cru56:net_multiplier=0.125'
CONFIG = """
from configs.ms1mv2_cru56 import config

config.update(
    network={network!r}, embedding_size={size}, fp16={fp16}, batch_size=4, lr={lr}, gradient_acc=2, output={output!r},
    num_classes=4, num_image=16, num_epoch=1, steps=4, rec={faces!r}, val_targets=[], save_all_states=True,
)
"""


@pytest.fixture(params=['miniature'] + ['INSIGHTFACE'] * bool(CHECKOUT))
def host(request, tmp_path):
    """The folder of an arcface_torch that is patched, in a checkout that is as before after --revert."""
    root = str(tmp_path / 'insightface')
    if request.param == 'miniature':
        folder = lay_out_torch(root)
    else:
        folder = os.path.join(root, 'recognition', 'arcface_torch')
        shutil.copytree(os.path.join(CHECKOUT, 'recognition', 'arcface_torch'), folder)
    before = snapshot(root)
    assert patch_insightface.main([root]) == 0
    yield folder
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, 'configs', 'tiny.py'))  # the user's own
    assert patch_insightface.main([root, '--revert']) == 0
    assert {path: value for path, value in snapshot(root).items() if '__pycache__' not in path} == before


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('faces'))
    synthetic.write_synthetic(folder, identities=4, images=4, pairs=10, seed=0)
    return folder


def free_port():
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


def run_script(host, *command, processes=1):
    """Run a script of insightface in `processes` processes, each as torchrun starts it; return what they printed."""
    shared = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port()), 'WORLD_SIZE': str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, ON_CPU, *command],
            cwd=host,
            env=dict(os.environ, **shared, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS='1'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, '\n'.join(out[-3000:] for out in outputs)
    return outputs


def train(host, faces, processes=1, network=NARROW, **changes):
    """Train four steps; return the state dicts of all processes."""
    output = tempfile.mkdtemp(dir=os.path.dirname(faces))
    settings = dict(
        {'network': network, 'size': 32, 'fp16': False, 'output': output, 'faces': faces, 'lr': 0.01}, **changes
    )
    with open(os.path.join(host, 'configs', 'tiny.py'), 'w') as file:
        file.write(CONFIG.format(**settings))
    run_script(host, 'train_v2.py', 'configs/tiny.py', processes=processes)
    found = []
    for rank in range(processes):
        (path,) = glob.glob(os.path.join(glob.escape(output), f'model_{rank}.pt')) or glob.glob(
            os.path.join(glob.escape(output), f'checkpoint_gpu_{rank}.pt')
        )
        state = torch.load(path, weights_only=True)
        found.append(state.get('state_dict_backbone', state))
    return found


def is_statistic(name):
    return name.endswith(('.running_mean', '.running_var', '.num_batches_tracked'))


def get_model(name, **options):
    from crunet import symbol_torch

    return symbol_torch.get_model(name, **options)


@pytest.mark.parametrize('options', [{}, {'network': NARROW + ',memonger=True', 'fp16': True}], ids=str)
def test_two_processes_end_with_equal_weights(host, faces, options):
    """Moving statistics are each process's own there: broadcast_buffers=False."""
    one, other = train(host, faces, processes=2, **options)
    assert [name for name in one if not is_statistic(name) and not torch.equal(one[name], other[name])] == []
    assert not torch.equal(one['bn0.running_mean'], other['bn0.running_mean'])


@pytest.mark.parametrize('lr', [0.0, 0.01])
def test_a_training_starts_from_other_weights_and_trains_all_of_them(host, faces, lr, tmp_path):
    """Without a learning rate the weights at the end are those at the beginning.

    A beta that a BatchNorm after a 1x1 convolution cancels has no gradient but rounding, which float16 between
    the processes has no room for.
    """
    first = get_model(NARROW, num_features=32).state_dict()
    given = {name: torch.rand(value.shape) + 0.5 for name, value in first.items() if value.is_floating_point()}
    torch.save(given, str(tmp_path / 'given.pt'))
    (state,) = train(host, faces, network=f'{NARROW},pretrained={tmp_path}/given.pt', lr=lr)
    module = get_model(NARROW, num_features=32)
    module.load_state_dict(state, strict=True)
    assert torch.isfinite(module.eval()(torch.rand(2, 3, 112, 112))).all()
    betas = [name for name in state if name.endswith('.bias') and f'{name[:-5]}.running_mean' in state]
    learned = [name for name in state if not is_statistic(name) and name not in betas]
    unchanged = [name for name in learned if torch.equal(state[name], given[name])]
    assert unchanged == (['fc1.weight'] if lr else learned)


def test_the_hosts_own_networks_are_as_before(host):
    own = 'r18' if os.path.exists(os.path.join(host, 'torch2onnx.py')) else 'mini'
    code = 'import torch, backbones as b; print(b.get_model(%r, num_features=24)(torch.ones(2, 3, 112, 112)).shape)'
    done = subprocess.run(
        [sys.executable, '-c', code % own], cwd=host, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == 'torch.Size([2, 24])\n', done.stderr
    done = subprocess.run(
        [sys.executable, '-c', code % 'r7'], cwd=host, capture_output=True, text=True, timeout=PATIENCE
    )
    assert 'raise ValueError()' in done.stderr  # insightface's


@pytest.mark.skipif(not CHECKOUT, reason='needs INSIGHTFACE=/path/to/checkout')
@pytest.mark.parametrize('host', ['INSIGHTFACE'], indirect=True)
@pytest.mark.parametrize('size', [512, 256])  # torch2onnx.py asks for 512, so the name says 256
def test_the_hosts_programs(host, faces, size, tmp_path):
    """torch2onnx.py, inference.py and flops.py know the networks by their names."""
    import numpy as np
    import onnxruntime

    name = f'{NARROW},emb_size={size}'
    (state,) = train(host, faces, network=name, size=size)
    model, onnx = str(tmp_path / 'model.pt'), str(tmp_path / 'x.onnx')
    torch.save(state, model)
    run_script(host, 'torch2onnx.py', model, '--output', onnx, '--network', name)
    x = torch.rand((3, 3, 112, 112)) * 2 - 1
    (found,) = onnxruntime.InferenceSession(onnx).run(None, {'data': x.numpy()})
    module = get_model(name, num_features=size)
    module.load_state_dict(state)
    expected = module.eval()(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    (output,) = run_script(host, 'inference.py', '--weight', model, '--network', name)
    assert len(output[output.index('[[') :].split()) >= size
    (output,) = run_script(host, 'flops.py', name)
    assert (
        'Extra-GFLOPs' not in output and float(re.search(r'([\d.]+) GFLOPs', output)[1]) > 0
    )  # its counter sees the layers


def write_ijb(folder):
    """Write a miniature of IJB-C, three lists and 12 pictures of four people; return the faces, (12, 3, 112, 112).

    Its landmarks are insightface's own, moved by whole pixels, so that aligning crops the pictures.
    """
    import numpy as np
    from PIL import Image

    points = np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    )
    points = points + [8, 0] + 15
    for name in ('meta', 'loose_crop'):
        os.makedirs(os.path.join(folder, name))
    noise, faces, lists = np.random.RandomState(9), [], {'name_5pts_score': [], 'face_tid_mid': []}
    for number in range(12):
        pixels = np.random.RandomState(number // 3).randint(20, 230, (8, 8, 3)) + noise.randint(-19, 20, (8, 8, 3))
        path = os.path.join(folder, 'loose_crop', f'{number}.png')
        Image.fromarray(pixels.astype(np.uint8)).resize((150, 150)).save(path)
        faces.append(np.asarray(Image.open(path))[15:127, 15:127].transpose(2, 0, 1))
        landmarks = ' '.join(f'{value:.4f}' for value in points.ravel())
        lists['name_5pts_score'].append(f'{number}.png {landmarks} {0.9 + number / 200}')
        lists['face_tid_mid'].append(f'{number}.png {number + 1} {number + 1}')
    lists['template_pair_label'] = [f'{a + 1} {b + 1} {a // 3 == b // 3:d}' for a in range(12) for b in range(a)]
    for name, lines in lists.items():
        with open(os.path.join(folder, 'meta', f'ijbc_{name}.txt'), 'w') as file:
            file.write('\n'.join(lines) + '\n')
    return np.array(faces, np.float32)


@pytest.mark.skipif(not CHECKOUT, reason='needs INSIGHTFACE=/path/to/checkout')
@pytest.mark.parametrize('host', ['INSIGHTFACE'], indirect=True)
def test_the_hosts_evaluation_on_ijb_takes_our_files(host, tmp_path, monkeypatch):
    """onnx_ijbc.py an ONNX file of tools/export.py, eval_ijbc.py the model.pt; against embeddings of our own module."""
    import numpy as np

    stand_ins = {  # for what they import and need little of
        'insightface/data.py': 'import numpy\nget_image = lambda name: numpy.zeros((112, 112, 3), numpy.uint8)\n',
        'menpo/visualize/viewmatplotlib.py': 'sample_colours_from_colourmap = lambda count, name: ["red"] * count\n',
    }
    for path, text in stand_ins.items():
        (tmp_path / 'packages' / path).parent.mkdir(parents=True)
        (tmp_path / 'packages' / path).write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'packages'))
    name = f'{NARROW},emb_size=512'
    module = get_model(name, num_features=512)
    images = write_ijb(str(tmp_path / 'ijb'))
    with torch.no_grad():
        for _ in range(20):  # settles the statistics
            module.train()(torch.tensor((images - 127.5) / 127.5))
    (tmp_path / 'model').mkdir()
    torch.save(module.state_dict(), str(tmp_path / 'model.pt'))
    export = [os.path.join(ROOT, 'tools', 'export.py'), '--model', str(tmp_path / 'model.pt'), '--network', name]
    command = [sys.executable, *export, '--onnx', '--output', str(tmp_path / 'model' / 'x')]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)

    views = torch.tensor((np.stack([images, images[..., ::-1]]) - 127.5) / 127.5)
    with torch.no_grad():
        embeddings = sum(module.eval()(view).double().numpy() for view in views)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = [unit[a] @ unit[b] for a in range(12) for b in range(a)]
    given = ['--image-path', str(tmp_path / 'ijb'), '--target', 'IJBC']
    (output,) = run_script(host, 'onnx_ijbc.py', '--model-root', str(tmp_path / 'model'), *given)
    assert 'IJBC.npy-IJBC' in output
    found = np.load(str(tmp_path / 'model' / 'IJBC_result' / 'IJBC.npy'))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    model = ['--model-prefix', str(tmp_path / 'model.pt'), '--network', name, '--result-dir', str(tmp_path)]
    run_script(host, 'eval_ijbc.py', *model, *given, '--job', 'x')
    (path,) = glob.glob(str(tmp_path / '**' / 'x*.npy'), recursive=True) + glob.glob(str(tmp_path / 'x' / '*.npy'))
    np.testing.assert_allclose(np.load(path), expected, atol=1e-3)
