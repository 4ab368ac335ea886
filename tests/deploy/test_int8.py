"""ONNX files in int8: what they keep, against onnxruntime itself, and which layers stay in float."""

import os
import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnxruntime.quantization import quant_utils
from PIL import Image

import export
import train
from helpers import NARROW, openvino_core, run_here, settled
from netkit import checkpoints
from netkit.data import synthetic
from netkit.data.images import as_jpeg
from netkit.data.pairs import PairSet
from netkit.data.records import FaceRecords
from netkit.data.samples import samples
from netkit.deploy import int8
from netkit.deploy.compare import Different
from netkit.errors import UserError
from netkit.networks import build

SIDE = 48
SHAPE = (SIDE, SIDE, 3)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """A folder of 24 small synthetic faces, and 20 pairs in pairs.bin."""
    folder = tmp_path_factory.mktemp('faces')
    drawn = tmp_path_factory.mktemp('drawn')
    synthetic.write_synthetic(str(drawn), identities=4, images=6, pairs=20, seed=1)
    records = FaceRecords(str(drawn), (112, 112, 3))
    for number in range(len(records)):
        Image.fromarray(records[number][1]).resize((SIDE, SIDE)).save(str(folder / f'{number:02}.png'))
    pairs, encoded = PairSet(str(drawn / 'drawn.bin'), (112, 112, 3)), []
    for number in range(2 * len(pairs)):
        encoded.append(as_jpeg(Image.fromarray(pairs.image(number)).resize((SIDE, SIDE))))
    with open(str(folder / 'pairs.bin'), 'wb') as file:
        pickle.dump((encoded, pairs.same.tolist()), file)
    return str(folder)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A checkpoint of a narrow cru56 with random weights, as PREFIX,EPOCH."""
    prefix, symbol = str(tmp_path_factory.mktemp('model') / 'net'), build('cru56', **NARROW)
    checkpoints.save(prefix, 1, symbol, settled(symbol, (4, 3, SIDE, SIDE)))
    return prefix + ',1'


@pytest.fixture(scope='module')
def in_float(model, tmp_path_factory):
    """The path of the ONNX file in float32."""
    prefix = str(tmp_path_factory.mktemp('float') / 'net')
    done = run_here(
        export, '--model', model, '--image-size', f'{SIDE},{SIDE}', '--fold-bn', '--onnx', '--output', prefix
    )
    assert done.returncode == 0, done.stderr
    return prefix + '-folded.onnx'


def embeddings(path, images):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'data': images.astype(np.float32)})[0]


def cosines(left, right):
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def in_int8(path):
    """Return the names of the layers of an ONNX file whose inputs are quantised."""
    graph = onnx.load(path).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ('Conv', 'Gemm')]
    whole = [node.name for node in layers if all(made.get(name) == 'DequantizeLinear' for name in node.input[:2])]
    partly = [node.name for node in layers if made.get(node.input[1]) == 'DequantizeLinear']
    assert whole == partly
    return whole, [node.name for node in layers]


def run(run_tool, model, faces, output, *options):
    words = ['--model', model, '--image-size', f'{SIDE},{SIDE}', '--fold-bn', '--onnx', '--precision', 'int8']
    options = ['--min-centred-cosine', '-1', *options]  # of random weights there is none to keep
    return run_tool(export, *words, '--calibration', faces, '--output', str(output), *options)


def test_all_layers_if_the_promise_allows(run_tool, model, faces, in_float, tmp_path):
    code, out, err = run(run_tool, model, faces, tmp_path / 'x', '--min-cosine', '0.3')
    assert code == 0, err
    path = str(tmp_path / 'x-folded.onnx')
    quantised, layers = in_int8(path)
    assert quantised == layers and f'{len(layers)} of {len(layers)} layers in int8' in out
    assert os.path.getsize(path) < 0.4 * os.path.getsize(in_float)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert onnx.load(path).opset_import[0].version == onnx.load(in_float).opset_import[0].version
    # What it prints is what onnxruntime finds, on faces that it was not calibrated on.
    calibration, others = samples(faces, SHAPE, 300, 100)
    assert len(calibration) == 18 and len(others) == 6
    found = cosines(embeddings(path, others), embeddings(in_float, others))
    assert f'minimum cosine {found.min():.4f}, mean {found.mean():.4f}' in out
    middle = embeddings(in_float, others).mean(axis=0)
    centred = cosines(embeddings(path, others) - middle, embeddings(in_float, others) - middle).min()
    assert f'smallest from the mean embedding {centred:.4f}' in out and centred < found.min()
    # Seven bits: a sum of two products of eight bits fits 16.
    weights = [numpy_helper.to_array(array) for array in onnx.load(path).graph.initializer]
    weights = [array for array in weights if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == len(layers) and max(np.abs(array.astype(int)).max() for array in weights) <= 64
    files = sorted(os.listdir(str(tmp_path)))
    assert files == ['x-folded-0001.params', 'x-folded-symbol.json', 'x-folded.onnx']


def test_the_option_chooses_the_machine(run_tool, model, faces, tmp_path):
    code, _, err = run(run_tool, model, faces, tmp_path / 'x', '--min-cosine', '0.3', '--int8-for', 'tensorrt')
    assert code == 0, err
    arrays = [numpy_helper.to_array(array) for array in onnx.load(str(tmp_path / 'x-folded.onnx')).graph.initializer]
    assert {array.dtype for array in arrays if array.dtype.kind in 'iu' and array.itemsize == 1} == {np.dtype(np.int8)}


@pytest.fixture(scope='module')
def quantiser(in_float, faces, tmp_path_factory):
    promise = int8.Promise(*samples(faces, SHAPE, 300, 100), min_cosine=0.9, min_centred=0.5, max_drop=0.3)
    return int8.Quantiser(in_float, str(tmp_path_factory.mktemp('scratch')), promise)


@pytest.fixture(scope='module')
def costs(quantiser):
    """What each layer costs, which takes half a minute to find."""
    return quantiser.costs(quantiser.layers())


@pytest.fixture
def known_costs(costs, monkeypatch):
    """Let programs know the costs."""
    monkeypatch.setattr(int8.Quantiser, 'costs', lambda self, layers: {layer: costs[layer] for layer in costs})


@pytest.mark.usefixtures('known_costs')
def test_as_few_layers_in_float_as_the_promise_needs(quantiser, costs, in_float, tmp_path, run_tool, model, faces):
    layers, path = quantiser.layers(), str(tmp_path / 'one.onnx')
    assert set(costs) == set(layers) and list(costs.values()) == sorted(costs.values(), reverse=True)
    assert not os.listdir(quantiser.scratch)
    _, others = samples(faces, SHAPE, 300, 100)
    layer = list(costs)[0]
    quantiser.write(path, [layer])
    assert in_int8(path)[0] == [layer]
    alone = cosines(embeddings(path, others), embeddings(in_float, others)).mean()
    assert costs[layer] == pytest.approx(1 - alone, abs=1e-6)

    def smallest(left):
        quantiser.write(path, [name for name in layers if name not in list(costs)[:left]])
        return cosines(embeddings(path, others), embeddings(in_float, others)).min()

    wanted = round(smallest(5) - 1e-4, 5)  # so that five are enough
    code, out, err = run(run_tool, model, faces, tmp_path / 'x', '--min-cosine', str(wanted))
    assert code == 0, err
    quantised, _ = in_int8(str(tmp_path / 'x-folded.onnx'))
    left = len(layers) - len(quantised)
    assert set(layers) - set(quantised) == set(list(costs)[:left]) and 0 < left <= 5
    assert smallest(left) >= wanted > smallest(left - 1)
    assert all(name in out for name in list(costs)[:left])
    written = ['x-folded-0001.params', 'x-folded-symbol.json', 'x-folded.onnx']
    assert sorted(os.listdir(str(tmp_path))) == ['one.onnx', *written]


@pytest.mark.usefixtures('known_costs')
def test_the_cosine_from_the_mean_embedding_is_a_promise_too(
    quantiser, costs, run_tool, model, faces, tmp_path, in_float
):
    """One that eight layers in float keep, and none in float does not."""
    _, others = samples(faces, SHAPE, 300, 100)
    expected, path = embeddings(in_float, others), str(tmp_path / 'one.onnx')
    middle = expected.mean(axis=0)

    def centred(left):
        quantiser.write(path, [name for name in quantiser.layers() if name not in list(costs)[:left]])
        return cosines(embeddings(path, others) - middle, expected - middle).min()

    wanted = round(centred(8) - 1e-4, 5)
    assert wanted > centred(0)
    options = ['--min-cosine', '0', '--min-centred-cosine', str(wanted)]
    code, out, err = run(run_tool, model, faces, tmp_path / 'x', *options)
    assert code == 0 and 'layers that stay in float' in out, err
    found = embeddings(str(tmp_path / 'x-folded.onnx'), others)
    assert cosines(found - middle, expected - middle).min() >= wanted


@pytest.mark.usefixtures('known_costs')
def test_a_promise_that_cannot_be_kept(run_tool, model, faces, tmp_path):
    code, _, err = run(run_tool, model, faces, tmp_path / 'out' / 'x', '--min-cosine', '1')
    assert code == 1 and 'does not keep a minimum cosine of 1' in err and 'costliest layers in float' in err
    assert len(err.splitlines()) == 1 and not os.path.exists(str(tmp_path / 'out'))


@pytest.mark.usefixtures('known_costs')
def test_the_accuracy_is_a_promise_too(quantiser, in_float, tmp_path, monkeypatch):
    """By an accuracy that falls by a point unless six layers are in float: 1, 2, 4, 8, 6 and 5 are tried."""

    def accuracy(path):
        quantised, layers = in_int8(path)
        return 90.0 if not quantised or len(layers) - len(quantised) >= 6 else 89.0

    def quantise(max_drop):
        path = str(tmp_path / 'x.onnx')
        with open(in_float, 'rb') as source, open(path, 'wb') as target:
            target.write(source.read())
        promise = quantiser.promise._replace(min_cosine=0.0, max_drop=max_drop, accuracy=accuracy)
        return path, int8.quantise(path, str(tmp_path), promise)

    path, found = quantise(0.5)
    quantised, layers = in_int8(path)
    assert len(layers) - len(quantised) == len(found.left) == 6 and found.outcome.drop == 0
    _, found = quantise(1.0)
    assert not found.left and found.outcome.drop == 1.0
    monkeypatch.setattr(int8, 'MOST_LEFT', 0.04)  # two layers
    before = os.path.getsize(in_float)
    with pytest.raises(Different, match='no more than 0.5 points of accuracy lost'):
        quantise(0.5)
    assert os.path.getsize(str(tmp_path / 'x.onnx')) == before


def test_the_accuracy_is_measured_on_the_set_that_is_named(run_tool, model, faces, tmp_path):
    options = ['--min-cosine', '0.3', '--verify', os.path.join(faces, 'pairs.bin'), '--max-drop', '100']
    code, out, err = run(run_tool, model, faces, tmp_path / 'x', *options)
    assert code == 0 and '; accuracy ' in out and ' points' in out, err


# ------------------------------------------------------------------------------------ files of anybody


def as_insightface_has_them(path, target, is_raw=False, folded=True, constants=False, **saving):
    """Write an ONNX file like those of insightface's packs: opset 11, other names, images as its client gives them."""
    graph = onnx.load(path).graph
    nodes, renamed = list(graph.node), {'data': 'input.1', 'fc1': '683'}
    if not is_raw:
        nodes, renamed = nodes[2:], {**renamed, 'Sub_data': 'input.1'}
    for number, node in enumerate(nodes):
        if not is_raw or number > 1:
            node.name = ''
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    arrays = [array for array in graph.initializer if is_raw or not array.name.startswith('data_')]
    if not folded:  # a BatchNorm that onnxruntime can fold into the layer before it
        at = next(place for place, node in enumerate(nodes) if node.op_type == 'Conv')
        width = next(array.dims[0] for array in arrays if array.name == nodes[at].input[1])
        end, nodes[at].output[0] = nodes[at].output[0], 'in front'
        values = dict(scale=2.0, shift=0.5, mean=0.1, variance=1.5)
        arrays += [numpy_helper.from_array(np.full(width, of, np.float32), name) for name, of in values.items()]
        nodes.insert(at + 1, onnx.helper.make_node('BatchNormalization', ['in front', *values], [end]))
    make, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    ends = (
        make('input.1', floats, [None, 3, SIDE, SIDE]),
        make('683', floats, [None, graph.output[0].type.tensor_type.shape.dim[1].dim_value]),
    )
    if constants:  # as nodes
        nodes = [onnx.helper.make_node('Constant', [], [array.name], value=array) for array in arrays] + nodes
        arrays = []
    new = onnx.helper.make_graph(nodes, 'r', ends[:1], ends[1:], arrays)
    model = onnx.helper.make_model(new, opset_imports=[onnx.helper.make_opsetid('', 11)], ir_version=6)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target, **saving)
    return target


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'is_raw': True},
        {'folded': False},
        {'folded': False, 'save_as_external_data': True, 'location': 'weights'},
        {'constants': True},
    ],
    ids=str,
)
def test_a_file_of_anybody(run_tool, in_float, faces, tmp_path, changes):
    given, is_raw = as_insightface_has_them(in_float, str(tmp_path / 'w600k.onnx'), **changes), 'is_raw' in changes
    options = ['--precision', 'int8', '--calibration', faces, '--min-cosine', '0.3', '--min-centred-cosine', '-1']
    options += [
        '--verify',
        os.path.join(faces, 'pairs.bin'),
        '--max-drop',
        '100',
        '--output',
        str(tmp_path / 'out' / 'x'),
    ]
    code, out, err = run_tool(export, '--onnx-in', given, *options)
    assert code == 0, err
    assert ('It takes raw images' if is_raw else 'It takes images in (x - 127.5) / 127.5') in out
    assert os.listdir(str(tmp_path / 'out')) == ['x.onnx'] and '; accuracy ' in out
    path = str(tmp_path / 'out' / 'x.onnx')
    quantised, layers = in_int8(path)
    assert quantised == layers and len(layers) > 50 and f'{len(layers)} of {len(layers)} layers' in out
    assert os.path.getsize(path) < 0.4 * os.path.getsize(in_float)
    code, _, err = run_tool(export, '--onnx-in', path, *options[:-1], str(tmp_path / 'again'))
    assert code == 2 and 'x.onnx is quantised already' in err
    _, others = samples(faces, SHAPE, 300, 100)
    data = others.astype(np.float32) if is_raw else ((others - 127.5) / 127.5).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider']) for file in (given, path)]
    assert [end.name for end in sessions[1].get_inputs()] == ['input.1']
    expected, found = (session.run(None, {'input.1': data})[0] for session in sessions)
    assert f'minimum cosine {cosines(found, expected).min():.4f}' in out
    assert np.ptp(expected) > 0 and cosines(found, expected).min() > 0.5
    names = [node.name for node in onnx.load(path).graph.node[:8]]
    assert any(name.startswith('Sub') for name in names) == any(name.startswith('Mul') for name in names) == is_raw


@pytest.mark.parametrize(
    'options, words',
    [
        ([], '--onnx-in is for --precision int8'),
        (['--precision', 'float16'], '--onnx-in is for --precision int8'),
        (['--precision', 'int8'], 'add --calibration DATA'),
        (['--precision', 'int8', '--calibration', '{faces}', '--fold-bn'], 'without other options of networks'),
        (['--precision', 'int8', '--calibration', '{faces}', '--onnx-in', '{faces}/00.png'], 'is not an ONNX file'),
        (['--precision', 'int8', '--calibration', '{faces}', '--output', '{file}'], 'name another'),
    ],
)
def test_wrong_options_for_a_file_of_anybody(run_tool, in_float, faces, tmp_path, options, words):
    options = [option.format(faces=faces, file=in_float[: -len('.onnx')]) for option in options]
    words_ = ['--onnx-in', in_float, '--output', str(tmp_path / 'x'), *options]
    before = open(in_float, 'rb').read()
    code, _, err = run_tool(export, *words_)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert open(in_float, 'rb').read() == before and not os.listdir(str(tmp_path))


# -------------------------------------------------------------------------------------------------- faces


def test_faces_of_every_kind(faces, tmp_path):
    for number in range(12):
        pixels = np.full(SHAPE, number, np.uint8)
        Image.fromarray(pixels).save(str(tmp_path / f'{number:02}.png'))
    calibration, others = samples(str(tmp_path), SHAPE, 300, 100)
    numbers = [int(image[0, 0, 0]) for image in (*calibration, *others)]
    assert len(calibration) == 9 and len(others) == 3 and sorted(numbers) == list(range(12))
    assert numbers != sorted(numbers)
    other_seed = [int(image[0, 0, 0]) for image in samples(str(tmp_path), SHAPE, 300, 100, seed=1)[0]]
    assert other_seed != numbers[:9]
    calibration, others = samples(str(tmp_path), SHAPE, 4, 3)
    assert (len(calibration), len(others)) == (4, 3)

    pairs = PairSet(os.path.join(faces, 'pairs.bin'), SHAPE)
    calibration, others = samples(os.path.join(faces, 'pairs.bin'), SHAPE, 20, 20)
    expected = {pairs.image(number).transpose(2, 0, 1).tobytes() for number in range(40)}
    assert {image.tobytes() for image in (*calibration, *others)} == expected


def test_faces_that_are_none(tmp_path):
    with pytest.raises(UserError, match='is not a file'):
        samples(str(tmp_path / 'nowhere'), SHAPE, 300, 100)
    with pytest.raises(UserError, match='is a folder without pictures'):
        samples(str(tmp_path), SHAPE, 300, 100)
    for number in range(11):
        Image.new('RGB', (SIDE, SIDE)).save(str(tmp_path / f'{number}.png'))
    with pytest.raises(UserError, match='has 11 images, and 12 are needed'):
        samples(str(tmp_path), SHAPE, 300, 100)
    Image.new('RGB', (SIDE, 40)).save(str(tmp_path / 'x.png'))
    with pytest.raises(UserError, match='x.png is of 40×48, the network takes 48×48'):
        samples(str(tmp_path), SHAPE, 300, 100)


@pytest.mark.parametrize(
    'options, words',
    [
        (['--onnx', '--precision', 'int8', '--no-fold-bn', '--calibration', 'x'], 'leave out --no-fold-bn'),
        (['--onnx', '--precision', 'int8'], 'add --calibration DATA'),
        (['--precision', 'int8', '--fold-bn', '--calibration', 'x'], 'add --onnx'),
        (['--onnx', '--calibration', 'x'], '--calibration, --verify and --int8-for are for --precision int8'),
        (['--onnx', '--int8-for', 'tensorrt'], '--calibration, --verify and --int8-for are for --precision int8'),
        (['--onnx', '--verify', 'x'], '--calibration, --verify and --int8-for are for --precision int8'),
        (['--onnx', '--precision', 'int8', '--fold-bn', '--calibration', 'nowhere'], 'nowhere is not a file'),
    ],
)
def test_wrong_options(run_tool, model, tmp_path, options, words):
    code, _, err = run_tool(
        export, '--model', model, '--image-size', f'{SIDE},{SIDE}', '--output', str(tmp_path / 'x'), *options
    )
    assert code == 2 and words in err and not os.listdir(str(tmp_path)), err


def test_the_options_choose_the_faces(run_tool, model, faces, tmp_path, monkeypatch):
    def samples_(*given):
        raise UserError(str(given))

    monkeypatch.setattr(export, 'samples', samples_)
    options = ['--calibration-images', '7', '--seed', '3']
    code, _, err = run(run_tool, model, faces, tmp_path / 'x', *options)
    assert code == 2 and str((faces, SHAPE, 7, 100, 3)) in err


@pytest.mark.parametrize(
    'options', [['--calibration-images', '3'], ['--calibration-images', '5', '--batch-size', '16']]
)
def test_few_images_are_enough_for_the_ranges(run_tool, model, faces, tmp_path, options):
    code, out, err = run(run_tool, model, faces, tmp_path / 'x', '--min-cosine', '0.1', *options)
    assert code == 0 and 'layers in int8' in out, err


def test_all_images_give_ranges():
    """Also those that do not fill a batch."""
    images = np.arange(5).reshape(5, 1, 1, 1)
    reader, seen = int8._Reader('data', images, 4), []
    while (batch := reader.get_next()) is not None:
        assert batch['data'].shape == (4, 1, 1, 1) and batch['data'].dtype == np.float32
        seen += batch['data'].ravel().astype(int).tolist()
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2]


def test_a_disk_that_is_full_while_the_ranges_are_found(run_tool, model, faces, tmp_path, monkeypatch):
    """onnx does not notice that what it wrote was cut off."""

    def truncated(path):
        raise DecodeError('Error parsing message')

    monkeypatch.setattr(quant_utils, 'load_model_with_shape_infer', truncated)
    code, _, err = run(run_tool, model, faces, tmp_path / 'x')
    assert code == 2 and 'is the disk full?' in err and len(err.splitlines()) == 1 and not os.listdir(str(tmp_path))


def test_accuracy_is_of_other_pairs_than_the_ranges(run_tool, model, faces, tmp_path):
    pairs = os.path.join(faces, 'pairs.bin')
    code, _, err = run(run_tool, model, pairs, tmp_path / 'x', '--verify', os.path.join(faces, '.', 'pairs.bin'))
    assert code == 2 and '--verify and --calibration must be different data' in err and not os.listdir(str(tmp_path))


def test_what_is_read_is_not_overwritten(run_tool, model, tmp_path):
    path = tmp_path / 'x-folded.onnx'
    path.write_bytes(b'faces')
    code, _, err = run(run_tool, model, str(path), tmp_path / 'x')
    assert code == 2 and 'is read, and would be overwritten' in err and path.read_bytes() == b'faces'


# ------------------------------------------------------------------------------------------ a trained network


@pytest.mark.skipif('ALL_DEPTHS' not in os.environ, reason='it trains for minutes; make test-all')
def test_a_trained_network_verifies_as_well(tmp_path):
    """At more than a quarter of its width, on pairs that calibration did not see; in onnxruntime and in OpenVINO."""
    core = openvino_core()
    data, learnt, prefix = str(tmp_path / 'data'), str(tmp_path / 'learnt'), str(tmp_path / 'net')
    words = ['--network', 'cru56', '--multiplier', '0.3125', '--steps', '135', '--output', learnt]
    done = run_here(train, *words, '--draw', '--data', data, '--images', '40', '--pairs', '400')
    assert done.returncode == 0, done.stderr
    words = ['--model', os.path.join(learnt, 'cru56,1'), '--fold-bn', '--onnx', '--output']
    done = run_here(export, *words, prefix)
    assert done.returncode == 0, done.stderr
    done = run_here(export, *words, prefix + '8', '--precision', 'int8', '--calibration', data)
    assert done.returncode == 0, done.stderr
    pairs = PairSet(os.path.join(data, 'drawn.bin'), (112, 112, 3))
    images = np.stack([pairs.image(number).transpose(2, 0, 1) for number in range(2 * len(pairs))]).astype(np.float32)
    model = core.compile_model(prefix + '8-folded.onnx', 'CPU')
    found = {
        'float32': embeddings(prefix + '-folded.onnx', images),
        'int8': embeddings(prefix + '8-folded.onnx', images),
        'OpenVINO': model(images)['fc1'],
    }
    right = {name: share_of_right_answers(rows, np.asarray(pairs.same)) for name, rows in found.items()}
    assert right['float32'] > 0.85 and min(right.values()) >= right['float32'] - 0.003, right
    assert min(cosines(rows, found['float32']).min() for rows in found.values()) > 0.98


def share_of_right_answers(rows, same):
    """Return the accuracy of pairs of embeddings at the best threshold of the cosine."""
    alike = cosines(rows[0::2], rows[1::2])
    return max(((alike >= threshold) == same).mean() for threshold in alike)
