"""The networks inside insightface, put there by hand as the README says, or by patch_insightface.py.

Insightface is the miniature of tests/host, in every layout. With INSIGHTFACE=/path/to/checkout the same is
done to a copy of that checkout, whose trainer needs scikit-learn, scipy <= 1.7.3 and opencv as well.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

import pytest

import patch_insightface
from helpers import PATIENCE, ROOT, snapshot
from host.layouts import LAYOUTS, lay_out, symbol_folder
from netkit._mxnet import mx
from netkit.data import synthetic

CHECKOUT = os.environ.get('INSIGHTFACE')
MODULES = ('face_blocks.py', 'face_settings.py', 'fcrunet.py', 'fresattention.py', 'firesnet.py')
NETWORKS = {'cru56': ('fcrunet', 56), 'att56': ('fresattention', 56), 'ires50': ('firesnet', 50)}


@pytest.fixture(scope='session')
def faces_folder(tmp_path_factory):
    # 40 pairs: insightface divides by the number of different pairs in each of ten folds.
    folder = str(tmp_path_factory.mktemp('faces with space'))
    synthetic.write_synthetic(folder, identities=4, images=4, pairs=40, seed=0)
    os.rename(os.path.join(folder, 'drawn.bin'), os.path.join(folder, 'lfw.bin'))  # a name of insightface's config
    return folder


@pytest.fixture(params=sorted(LAYOUTS) + ['INSIGHTFACE'] * bool(CHECKOUT))
def trainer(request, tmp_path):
    """A trainer folder to plug networks into, in a checkout that may be spoilt."""
    if request.param != 'INSIGHTFACE':
        return lay_out(str(tmp_path), request.param)[0]
    for name in ('recognition', 'common'):
        if os.path.isdir(os.path.join(CHECKOUT, name)):
            shutil.copytree(os.path.join(CHECKOUT, name), str(tmp_path / name), symlinks=True)
    for folder in ('arcface_mxnet', 'ArcFace', ''):
        if os.path.exists(str(tmp_path / 'recognition' / folder / 'train.py')):
            return str(tmp_path / 'recognition' / folder)
    raise AssertionError(f'{CHECKOUT} has no MXNet trainer')


def plug_in_by_hand(trainer):
    """Do what the README tells a user to do."""
    for module in MODULES:
        shutil.copy(os.path.join(ROOT, 'symbols', module), symbol_folder(trainer))
    script = os.path.join(trainer, 'train.py')
    with open(script) as file:
        text = file.read()
    last_import = re.findall(r'^import f\w+$', text, re.MULTILINE)[-1]
    with open(script, 'w') as file:
        file.write(
            text.replace(last_import, last_import + ''.join('\nimport ' + module for module, _ in NETWORKS.values()), 1)
        )
    with open(os.path.join(trainer, 'sample_config.py')) as file:
        text = file.read()
    lines = ''.join(
        "network.{0} = edict()\nnetwork.{0}.net_name = '{1}'\nnetwork.{0}.num_layers = {2}\n".format(name, *choice)
        for name, choice in NETWORKS.items()
    )
    with open(os.path.join(trainer, 'config.py'), 'w') as file:
        file.write(re.sub(r'^(dataset = edict\(\))', lines.replace('\\', '\\\\') + r'\1', text, flags=re.MULTILINE))


def plug_in_by_patch(trainer):
    shutil.copy(os.path.join(trainer, 'sample_config.py'), os.path.join(trainer, 'config.py'))
    assert patch_insightface.main([trainer]) == 0


def set_up_small_run(trainer, faces_folder):
    """Edit config.py as a user would: this data set, two steps, a narrow network."""
    with open(os.path.join(trainer, 'config.py'), 'a') as file:
        file.write(f'\ndataset.emore.dataset_path = {faces_folder!r}\ndataset.emore.num_classes = 4\n')
        file.write("dataset.emore.val_targets = ['lfw']\nconfig.max_steps = 1\nnetwork.cru56.net_origin = 'release'\n")
        file.write(
            'for _name in ({}):\n    network[_name].net_multiplier = 0.25\n'.format(', '.join(map(repr, NETWORKS)))
        )


def train(trainer, network, models):
    """Run insightface's trainer for two steps; return its output."""
    command = [
        sys.executable,
        '-u',
        'train.py',
        '--network',
        network,
        '--loss',
        'arcface',
        '--dataset',
        'emore',
        '--per-batch-size',
        '2',
        '--lr',
        '0.001',
        '--verbose',
        '1',
        '--ckpt',
        '2',
        '--models-root',
        models,
    ]
    done = subprocess.run(
        command,
        cwd=trainer,
        env=dict(os.environ, CUDA_VISIBLE_DEVICES=''),
        timeout=PATIENCE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


# Every layout with both ways of plugging in; in a real checkout all of them.
RUNS = [
    ('A', plug_in_by_hand, 'cru56'),
    ("A'", plug_in_by_hand, 'att56'),
    ('B', plug_in_by_hand, 'ires50'),
    ('C', plug_in_by_hand, 'cru56'),
    ('C', plug_in_by_patch, 'att56'),  # and cru56 in all of them, with the revert, below
]
RUNS += [('INSIGHTFACE', way, name) for way in (plug_in_by_hand, plug_in_by_patch) for name in NETWORKS if CHECKOUT]


@pytest.mark.parametrize('trainer, plug_in, network', RUNS, indirect=['trainer'])
def test_trains(trainer, faces_folder, plug_in, network, tmp_path):
    plug_in(trainer)
    set_up_small_run(trainer, faces_folder)
    output = train(trainer, network, str(tmp_path / 'models'))
    assert 'Network FLOPs' in output
    files = sorted(glob.glob(str(tmp_path / 'models' / '*' / 'model-*')))
    assert [os.path.basename(path) for path in files][-1] == 'model-symbol.json'
    symbol, arg_params, aux_params = mx.model.load_checkpoint(files[-1][: -len('-symbol.json')], 1)
    assert symbol.list_outputs() == ['fc1_output']
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())
    # Of CRU-Net as released, the projection of the shortcut has a separate weight.
    assert network != 'cru56' or 'stage2_unit1_shortcut_weight' in arg_params


def test_patched_trained_and_reverted_nothing_is_left(trainer, faces_folder, tmp_path_factory):
    root = (
        os.path.dirname(trainer)
        if os.path.basename(trainer) == 'recognition'
        else os.path.dirname(os.path.dirname(trainer))
    )
    before = snapshot(root)
    plug_in_by_patch(trainer)
    set_up_small_run(trainer, faces_folder)
    train(trainer, 'cru56', str(tmp_path_factory.mktemp('models')))
    assert patch_insightface.main([trainer, '--revert']) == 0
    os.remove(os.path.join(trainer, 'config.py'))  # the user's own
    after = snapshot(root)
    assert {path: after[path] for path in after if '__pycache__' not in path} == before


def test_same_bytes_work_without_any_config(tmp_path):
    """The builder's own function needs neither insightface nor its config."""
    for module in MODULES:
        shutil.copy(os.path.join(ROOT, 'symbols', module), str(tmp_path))
    code = "import fcrunet, sys; s = fcrunet.build(56, emb_size=8); print(s.name, 'config' in sys.modules)"
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=str(tmp_path), stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == 'fc1 False\n'
