"""The model repository for a Triton server: what its own definition of a configuration says to ours."""

import os

import numpy as np
import onnxruntime
import pytest

import export
from helpers import NARROW, compute, settled
from netkit import checkpoints
from netkit.networks import build

SIDE = NARROW['image_shape'][0]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A checkpoint of a narrow cru56, as (PREFIX,EPOCH; symbol; parameters)."""
    prefix, symbol = str(tmp_path_factory.mktemp('model') / 'net'), build('cru56', **NARROW)
    parameters = settled(symbol, (4, 3, SIDE, SIDE))
    checkpoints.save(prefix, 1, symbol, parameters)
    return prefix + ',1', symbol, parameters


def run(run_tool, model, output, repository, *options):
    words = ['--model', model[0], '--image-size', f'{SIDE},{SIDE}', '--output', str(output), '--onnx']
    return run_tool(export, *words, '--triton', str(repository), *options)


@pytest.mark.parametrize('precision, name', [('float32', 'face'), ('float16', 'Gesichter "ä" \\1')])
def test_a_repository_as_triton_reads_it(run_tool, model, tmp_path, precision, name):
    model_config = pytest.importorskip('tritonclient.grpc.model_config_pb2')  # it needs Python 3.10
    from google.protobuf import text_format

    repository = tmp_path / 'models'
    (repository / 'another').mkdir(parents=True)
    code, out, err = run(run_tool, model, tmp_path / name, repository, '--precision', precision)
    assert code == 0 and f'tritonserver --model-repository {repository}' in ' '.join(out.split()), err
    assert sorted(os.listdir(str(repository))) == sorted(['another', name])
    assert sorted(os.listdir(str(repository / name))) == ['1', 'config.pbtxt']
    assert os.listdir(str(repository / name / '1')) == ['model.onnx']
    config = text_format.Parse((repository / name / 'config.pbtxt').read_text('utf-8'), model_config.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (name, 'onnxruntime', 32)
    assert config.HasField('dynamic_batching')
    session = onnxruntime.InferenceSession(str(repository / name / '1' / 'model.onnx'))
    # A server with max_batch_size adds the images in front of `dims`, which have to be what the file takes and gives.
    for described, real in zip((config.input, config.output), (session.get_inputs(), session.get_outputs())):
        ((ours,), (theirs,)) = described, real
        assert (ours.name, list(ours.dims)) == (theirs.name, theirs.shape[1:]) and isinstance(theirs.shape[0], str)
        assert ours.data_type == model_config.TYPE_FP32 and theirs.type == 'tensor(float)'
    images = np.random.RandomState(0).randint(0, 256, (3, 3, SIDE, SIDE)).astype(np.float32)
    expected = compute(*model[1:], images)
    bound = {'float32': 1e-4, 'float16': 1e-2}[precision] * np.ptp(expected)
    np.testing.assert_allclose(session.run(None, {'data': images})[0], expected, rtol=0, atol=bound)


def test_a_model_that_is_there_already_stays(run_tool, model, tmp_path):
    folder = tmp_path / 'models' / 'face-folded'
    folder.mkdir(parents=True)
    (folder / 'config.pbtxt').write_text('mine')
    code, _, err = run(run_tool, model, tmp_path / 'face', tmp_path / 'models', '--fold-bn')
    assert code == 2 and 'face-folded already exists; remove it, or pass another --output or --triton' in err
    assert (folder / 'config.pbtxt').read_text() == 'mine' and os.listdir(str(tmp_path)) == ['models']


def test_a_repository_and_files_are_both_written_or_neither(run_tool, model, tmp_path, monkeypatch):
    def fails(*given):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(export.triton.shutil, 'copyfile', fails)
    code, _, err = run(run_tool, model, tmp_path / 'out' / 'face', tmp_path / 'models')
    assert code == 2 and 'No space left on device' in err and not os.listdir(str(tmp_path))


@pytest.mark.parametrize(
    'options, words',
    [
        (
            ['--triton', 'models', '--onnx', '--batch-size', '1'],
            '--triton is for a file that takes any number of images',
        ),
        (['--triton', 'models'], "--batch-size, --precision and --triton are the ONNX file's; add --onnx"),
        (['--triton', '', '--onnx'], 'the name of the folder is empty'),
    ],
)
def test_wrong_options(run_tool, model, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_tool(export, '--model', model[0], '--output', 'face', *options)
    assert code == 2 and words in err and not os.listdir(str(tmp_path))
