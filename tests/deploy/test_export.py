"""Export: the deployed networks against the trained ones, in the programs that people deploy them with."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import config as host
import export
from helpers import COMPUTED, NARROW, PLAIN, RELEASED, TOOLS, nodes, settled, shape_of
from netkit import checkpoints, targets
from netkit._mxnet import mx
from netkit.data.images import read_image
from netkit.deploy import compare, exporting, onnx_writer
from netkit.deploy.fold import fold
from netkit.deploy.plain import plain
from netkit.errors import UserError
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol
from netkit.networks import build

TOOL = os.path.join(TOOLS, 'export.py')
TRAINED = dict(NARROW, memonger=True)  # as insightface builds it


def images(count, side, seed=1):
    return np.random.RandomState(seed).randint(0, 256, (count, 3, side, side)).astype(np.float32)


def run_onnx(model, data):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    assert [given.name for given in session.get_inputs()] == ['data']
    return session.run(None, {'data': data})[0]


def assert_same(actual, expected, tolerance=1e-4):
    """Assert that embeddings differ by no more than `tolerance` of the range of what is expected."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.ptp(expected))


def symbol_of(network, **changes):
    return build(network, **changes)


# ------------------------------------------------------------------------------------- all networks


@pytest.mark.parametrize('network', COMPUTED)
def test_a_trained_network_is_exported_as_the_plain_one(network):
    trained = plain(Graph.of(symbol_of(network, **TRAINED)))
    expected = Graph.of(symbol_of(network, **dict(NARROW, **PLAIN)))
    for graph in (trained, expected):
        assert graph.outputs[0][0].attrs.pop('__crunet__')
    for node in expected.nodes():  # the builder marks PReLU's slopes with where they start
        node.attrs = {} if node.op == 'null' else node.attrs
    assert trained.symbol().tojson() == expected.symbol().tojson()
    assert '__' not in trained.symbol().tojson()


@pytest.mark.parametrize('network', COMPUTED + RELEASED)
def test_folded_and_as_onnx_a_network_computes_the_same(network):
    symbol = symbol_of(network, **dict(NARROW, emb_size=16))
    shape = NARROW['image_shape']
    parameters, data = settled(symbol, (2, 3) + shape[:2]), images(3, shape[0])
    expected = compare.compute(symbol, parameters, data)
    folded, fewer, left = fold(plain(Graph.of(symbol)), parameters)
    assert_same(compare.compute(folded.symbol(), fewer, data), expected)
    assert_same(run_onnx(onnx_writer.convert(folded, fewer, shape), data), expected)
    # What stays has no layer on one side, nor one that does not pad on the other.
    assert all(why.startswith('behind ') and 'Convolution' not in why for _, why in left)
    assert sum(node.op == 'BatchNorm' for node in folded.nodes()) == len(left)
    assert not any(node.op == 'Dropout' for node in folded.nodes())


@pytest.mark.parametrize('network, left', [('cru116', 0), ('att92', 6), ('attnext92_imagenet', 0), ('ires50', 12)])
def test_how_many_batchnorms_stay(network, left):
    symbol = symbol_of(network, **NARROW)
    parameters = {
        name: np.ones(shape, np.float32)
        for name, shape in checkpoints.wanted_shapes(symbol, NARROW['image_shape']).items()
    }
    assert len(fold(plain(Graph.of(symbol)), parameters)[2]) == left


# --------------------------------------------------------------------------------------- the program


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of cru56 at quarter width, in the form that training has; return (prefix, symbol, parameters)."""
    symbol = symbol_of('cru56', **dict(TRAINED, image_shape=(112, 112, 3)))
    parameters = settled(symbol, (2, 3, 112, 112))
    prefix = str(tmp_path_factory.mktemp('a model') / 'model')
    checkpoints.save(prefix, 3, symbol, dict(parameters, fc7_weight=np.ones((5, 32), np.float32)))
    return prefix, symbol, parameters


@pytest.fixture
def tool(run_tool):
    """Return a function that runs the tool; it returns (exit code, standard output, standard error)."""
    return functools.partial(run_tool, export)


def test_the_symbol_alone_is_the_same_every_time(tmp_path):
    written = []
    for name in ('one', 'two'):
        done = subprocess.run(
            [sys.executable, TOOL, '--network', 'att56', '--output', str(tmp_path / name / 'att56')],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert os.listdir(str(tmp_path / name)) == ['att56-symbol.json']
        with open(str(tmp_path / name / 'att56-symbol.json'), 'rb') as file:
            written.append(file.read())
    assert written[0] == written[1]


def test_the_symbol_for_images_of_another_size(tool, tmp_path):
    assert tool('--network', 'att56', '--image-size', '128,96', '--output', str(tmp_path / 'att56'))[0] == 0
    symbol = mx.sym.load(str(tmp_path / 'att56-symbol.json'))
    assert symbol.infer_shape(data=(2, 3, 128, 96))[1] == [(2, 512)]


@pytest.mark.parametrize('options', [[], ['--fold-bn'], ['--network', 'cru56']])
def test_a_checkpoint_opens_in_mxnet(trained, tool, tmp_path, options, monkeypatch):
    prefix, symbol, parameters = trained
    if '--network' in options:
        # The choice is the full width; this checkpoint is a quarter of it.
        monkeypatch.setitem(host.network.cru56, 'net_multiplier', 0.25)
        monkeypatch.setitem(host.network.cru56, 'emb_size', 32)
    output = str(tmp_path / 'new folder' / 'cru56')
    code, out, err = tool('--model', prefix + ',3', '--output', output, *options)
    assert code == 0, err
    output += '-folded' * ('--fold-bn' in options)
    assert sorted(os.listdir(os.path.dirname(output))) == [
        os.path.basename(output) + end for end in ('-0003.params', '-symbol.json')
    ]
    assert ('Not to be trained further' in out) == ('--fold-bn' in options)
    data = images(2, 112)
    expected = compare.compute(symbol, parameters, data)

    loaded, arg_params, aux_params = mx.model.load_checkpoint(output, 3)
    assert any(node['op'] == 'BatchNorm' for node in nodes(loaded)) == ('--fold-bn' not in options)
    assert set(arg_params) == set(loaded.list_arguments()) - {'data'}
    assert set(aux_params) == set(loaded.list_auxiliary_states())
    module = mx.mod.Module(loaded, label_names=None)
    module.bind([('data', data.shape)], for_training=False)
    module.set_params(arg_params, aux_params)
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    assert_same(module.get_outputs()[0].asnumpy(), expected)

    block = mx.gluon.SymbolBlock.imports(output + '-symbol.json', ['data'], output + '-0003.params')
    assert_same(block(mx.nd.array(data)).asnumpy(), expected)
    mx.viz.print_summary(loaded, shape={'data': data.shape})
    assert 'conv0' in mx.viz.plot_network(loaded, shape={'data': data.shape}).source


@pytest.mark.parametrize(
    'options, tolerance',
    [
        ([], 1e-4),
        (['--no-fold-bn'], 1e-4),
        (['--fold-bn'], 1e-4),
        (['--fold-bn', '--batch-size', '2'], 1e-4),
        (['--precision', 'float16'], 5e-3),
    ],
)
def test_the_onnx_file_in_onnxruntime(trained, tool, tmp_path, options, tolerance):
    prefix, symbol, parameters = trained
    code, out, err = tool('--model', prefix + ',3', '--onnx', '--output', str(tmp_path / 'cru56'), *options)
    assert code == 0, err
    path = str(tmp_path / (f'cru56{"-folded" * ("--fold-bn" in options)}.onnx'))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [('', 13)]
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (given,), (computed,) = session.get_inputs(), session.get_outputs()
    batch = 2 if '--batch-size' in options else 'batch'
    assert (given.name, given.type, given.shape) == ('data', 'tensor(float)', [batch, 3, 112, 112])
    assert (computed.name, computed.type, computed.shape) == ('fc1', 'tensor(float)', [batch, 32])
    for count in (2,) if '--batch-size' in options else (1, 3):
        data = images(count, 112)
        assert_same(session.run(None, {'data': data})[0], compare.compute(symbol, parameters, data), tolerance)
    has_norms = any(node.op_type == 'BatchNormalization' for node in model.graph.node)
    assert has_norms == ('--no-fold-bn' in options) == ('It is not for OpenCV' in out)
    assert ('BatchNorms folded' in out) != has_norms and ('Not to be trained further' in out) == (
        '--fold-bn' in options
    )
    loaded, _, _ = mx.model.load_checkpoint(path[: -len('.onnx')], 3)
    assert any(node['op'] == 'BatchNorm' for node in nodes(loaded)) == ('--fold-bn' not in options)
    stored = {array.data_type for array in model.graph.initializer if len(array.dims) > 1}
    assert stored == {onnx.TensorProto.FLOAT16 if 'float16' in options else onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    'changes',
    [{}, {'net_input': 2}, {'net_mean': (120.0, 110.0, 100.0), 'net_std': (60.0, 61.0, 62.0)}],
    ids=['scalars', 'BatchNorm', 'channels'],
)
@pytest.mark.parametrize('half', [False, True], ids=['float32', 'float16'])
def test_the_insightface_package_takes_it_for_what_it_is(tmp_path, changes, half):
    insightface = pytest.importorskip('insightface')  # it needs Python 3.10
    symbol = symbol_of('ires50', **dict(NARROW, image_shape=(112, 112, 3), **changes))
    parameters = settled(symbol, (2, 3, 112, 112))
    path, shape = str(tmp_path / 'ires50.onnx'), (112, 112, 3)
    exporting.save_onnx(
        path, *fold(plain(Graph.of(symbol)), parameters)[:2], shape, None, 'float16' if half else 'float32'
    )
    model = insightface.model_zoo.get_model(path, providers=['CPUExecutionProvider'])
    assert type(model).__name__ == 'ArcFaceONNX'
    assert (model.input_mean, model.input_std) == (0, 1)  # the network normalises by itself
    rgb = images(1, 112)
    bgr = rgb[0, ::-1].transpose(1, 2, 0).astype(np.uint8)
    assert_same(model.get_feat(bgr), compare.compute(symbol, parameters, rgb), 5e-3 if half else 1e-4)


def channels_of(data, order, norm=False):
    """Return the image with its channels in an order, each normalised, or all by a BatchNorm."""
    parts = mx.sym.SliceChannel(data, num_outputs=3, axis=1)
    parts = [(parts[number] - 10.0 * (number + 1)) / (50.0 + number) for number in order]
    data = mx.sym.Concat(*parts, dim=1)
    return mx.sym.BatchNorm(data, fix_gamma=False, name='norm') if norm else data


NORMALISATIONS = {  # {name: (function of the image, whether it becomes one multiplication and one subtraction)}
    'scalars': (lambda data: (data - 127.5) * (1 / 128), True),
    'in the other order': (lambda data: data * (1 / 128) + 0.5, True),
    'a BatchNorm': (lambda data: mx.sym.BatchNorm(data, fix_gamma=False, name='norm'), True),
    'channels': (lambda data: channels_of(data, (0, 1, 2)), True),
    'channels and a BatchNorm': (lambda data: channels_of(data, (0, 1, 2), norm=True), True),
    'channels in another order': (lambda data: channels_of(data, (2, 1, 0)), False),
    'nothing': (lambda data: data, True),
    'a multiplication': (lambda data: data * 0.5, True),
    'what is read twice': (lambda data: mx.sym.Concat((data - 127.5) * 0.1, data, dim=1), False),
    'what is not affine': (lambda data: mx.sym.sqrt(data) * 0.1, False),
}


@pytest.mark.parametrize('name', NORMALISATIONS)
def test_the_normalisation_is_a_multiplication_and_then_a_subtraction(name):
    """Which onnxsim leaves; both have an effect, or it would remove them."""
    normalised, is_all = NORMALISATIONS[name]
    symbol = mx.sym.Convolution(normalised(mx.sym.Variable('data')), num_filter=4, kernel=(3, 3), pad=(1, 1), name='c')
    symbol = mx.sym.FullyConnected(symbol, num_hidden=8, name='fc1')
    parameters = settled(symbol, (2, 3, 16, 16))
    model = onnx_writer.convert(plain(Graph.of(symbol)), parameters, (16, 16, 3))
    first, second, third, *_ = model.graph.node
    assert (first.name, first.op_type, first.input[0]) == ('Mul_data', 'Mul', 'data')
    assert (second.name, second.op_type, second.input[0]) == ('Sub_data', 'Sub', 'Mul_data')
    assert sum('data' in node.input for node in model.graph.node) == 1
    assert (third.op_type == 'Conv') == is_all and ('Sub_data' in third.input)
    constants = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    assert (constants['data_scale'] != 1).any() and (constants['data_shift'] != 0).any()
    data = images(2, 16)
    assert_same(run_onnx(model, data), compare.compute(symbol, parameters, data), 1e-5)
    half = onnx_writer.in_half_precision(model)  # the same two, in float32, which has numbers that are nearly nothing
    assert [node.name for node in half.graph.node[:3]] == ['Mul_data', 'Sub_data', 'Cast_data']
    stored = {array.name: onnx.numpy_helper.to_array(array) for array in half.graph.initializer}
    for name in ('data_scale', 'data_shift'):
        assert stored[name].dtype == np.float32 and np.array_equal(stored[name], constants[name])
    assert_same(run_onnx(half, data), compare.compute(symbol, parameters, data), 1e-2)


def save_detector(path, points, side=128):
    """Write a file like SCRFD's, which finds one face with five points in every image of `side` pixels a side.

    Its outputs are scores, distances to the sides of a box and to the points, for strides of 8, 16 and 32 pixels and
    two anchors a place.
    """
    strides, outputs = (8, 16, 32), {}
    for kind, (name, width) in enumerate({'score': 1, 'box': 4, 'points': 10}.items()):
        for stride in strides:
            values = np.zeros(((side // stride) ** 2 * 2, width), np.float32)
            if stride == 8:  # the first anchor, whose centre is (0, 0)
                values[0] = (0.9, (0, 0, side / stride, side / stride), points.ravel() / stride)[kind]
            outputs[f'{name}_{stride}'] = values
    nodes = [
        onnx.helper.make_node('Constant', [], [name], value=onnx.numpy_helper.from_array(values))
        for name, values in outputs.items()
    ]
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape)
        for name, values in outputs.items()
    ]
    data = onnx.helper.make_tensor_value_info('input.1', onnx.TensorProto.FLOAT, (1, 3, side, side))
    graph = onnx.helper.make_graph(nodes, 'detector', [data], infos)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 13)], ir_version=8)
    onnx.save(model, path)


def test_face_analysis_finds_it_in_a_folder_of_its_models(tmp_path):
    """As docs/deployment.md says: detect, align, embed in one call; the alignment is that of `crunet.align`."""
    insightface = pytest.importorskip('insightface')  # it needs Python 3.10
    from PIL import Image

    from crunet.alignment import TEMPLATE, aligned

    folder = tmp_path / 'models' / 'ours'
    folder.mkdir(parents=True)
    symbol = symbol_of('cru56', **dict(NARROW, image_shape=(112, 112, 3)))
    parameters = settled(symbol, (2, 3, 112, 112))
    folded = fold(plain(Graph.of(symbol)), parameters)[:2]
    exporting.save_onnx(str(folder / 'recognition.onnx'), *folded, (112, 112, 3), None, 'float32')
    points = np.asarray(TEMPLATE) * 0.8 + 14
    save_detector(str(folder / 'detection.onnx'), points)

    analysis = insightface.app.FaceAnalysis('ours', root=str(tmp_path), providers=['CPUExecutionProvider'])
    analysis.prepare(ctx_id=-1, det_size=(128, 128))
    smooth = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
    picture = Image.fromarray(smooth).resize((128, 128), Image.BICUBIC)
    (face,) = analysis.get(np.asarray(picture)[:, :, ::-1])

    np.testing.assert_allclose(face.kps, points, atol=1e-3)
    pictures = aligned(picture, points), picture.resize((112, 112)), Image.new('RGB', (112, 112), (128, 128, 128))
    pixels = np.stack([np.asarray(of, np.float32).transpose(2, 0, 1) for of in pictures])
    expected, unaligned, grey = compare.compute(symbol, parameters, pixels)

    def cosine(embedding):  # of differences from grey: embeddings of random weights are much alike
        one, other = embedding - grey, expected - grey
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    assert cosine(face.embedding) > 0.999 > 0.99 > cosine(unaligned)


@pytest.mark.parametrize('network', ['cru56', 'att56', 'attnext56_imagenet', 'ires50'])
def test_opencv_takes_it(tmp_path, network):
    import cv2

    symbol = symbol_of(network, **NARROW)
    shape = NARROW['image_shape']
    parameters = settled(symbol, (2, 3) + shape[:2])
    path = str(tmp_path / 'net.onnx')
    exporting.save_onnx(path, plain(Graph.of(symbol)), parameters, shape, None, 'float32')
    net = cv2.dnn.readNetFromONNX(path)
    data = images(1, shape[0])
    net.setInput(data)
    assert_same(net.forward(), compare.compute(symbol, parameters, data))


@pytest.mark.parametrize('changes', [TRAINED, dict(NARROW, **PLAIN)], ids=['trained', 'plain'])
def test_a_checkpoint_of_float16(tool, tmp_path, changes):
    exact = settled(symbol_of('att56', **changes), (2, 3, 48, 48))
    symbol = symbol_of('att56', fp16=True, **changes)
    types, _, _ = symbol.infer_type(data=np.float32)
    halves = {name for name, kind in zip(symbol.list_arguments(), types) if kind is np.float16}
    statistics = set(symbol.list_auxiliary_states())
    mx.nd.save(
        str(tmp_path / 'model-0001.params'),
        {
            ('aux:' if name in statistics else 'arg:') + name: mx.nd.array(
                array, dtype='float16' if name in halves else 'float32'
            )
            for name, array in exact.items()
        },
    )
    symbol.save(str(tmp_path / 'model-symbol.json'))
    code, out, err = tool(
        '--model',
        str(tmp_path / 'model') + ',1',
        '--image-size',
        '48,48',
        '--fold-bn',
        '--onnx',
        '--output',
        str(tmp_path / 'net'),
    )
    assert code == 0, err
    assert 'conv0_weight' in halves
    session = onnxruntime.InferenceSession(str(tmp_path / 'net-folded.onnx'), providers=['CPUExecutionProvider'])
    data = images(2, 48)
    expected = compare.compute(symbol_of('att56', **changes), exact, data)
    assert_same(session.run(None, {'data': data})[0], expected, 5e-3)  # the weights were rounded


def test_a_checkpoint_of_another_width(trained, tool, tmp_path):
    code, out, err = tool(
        '--model', trained[0] + ',3', '--network', 'cru56', '--multiplier', '0.25', '--output', str(tmp_path / 'net')
    )
    assert code == 2 and 'add --multiplier' not in err  # its embedding differs
    assert 'pre_fc1_weight in shape' in err, err


@pytest.mark.parametrize(
    'network, expected', [('att56', (112, 112)), ('att56_imagenet', (224, 224)), ('ires50_imagenet', None)]
)
def test_the_size_of_the_images_is_what_the_parameters_fit(tmp_path, network, expected):
    symbol = symbol_of(network, net_multiplier=0.05, emb_size=8)
    prefix, shape = str(tmp_path / 'model'), shape_of(network)
    checkpoints.save(
        prefix,
        1,
        symbol,
        {name: np.ones(sizes, np.float32) for name, sizes in checkpoints.wanted_shapes(symbol, shape).items()},
    )
    if expected:
        assert targets.of_checkpoint(prefix + ',1').image_shape == expected + (3,)
    else:
        with pytest.raises(UserError, match='accepts any image size; pass --image-size'):
            targets.of_checkpoint(prefix + ',1')
    assert targets.of_checkpoint(prefix + ',1', shape).image_shape == shape


def test_an_image_of_16_bits_is_refused(tmp_path):
    from PIL import Image

    path = str(tmp_path / 'deep.png')
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(path)
    with pytest.raises(UserError, match='has more than 8 bits a channel; save it with 8'):
        compare.comparison_images((112, 112, 3), read_image(path, 112, 112))


def test_an_image_is_compared_too(trained, tool, tmp_path):
    from PIL import Image

    path = str(tmp_path / 'a face.png')
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 70, 3), np.uint8)).save(path)
    assert compare.comparison_images((112, 112, 3), read_image(path, 112, 112)).shape == (4, 3, 112, 112)
    code, out, err = tool('--model', trained[0] + ',3', '--image', path, '--output', str(tmp_path / 'out'))
    assert code == 0, err
    assert 'largest difference' in out


def test_what_differs_is_not_kept(trained, tool, tmp_path, monkeypatch):
    monkeypatch.setitem(compare.TOLERANCES, 'float32', 1e-12)
    code, out, err = tool(
        '--model', trained[0] + ',3', '--fold-bn', '--onnx', '--output', str(tmp_path / 'out' / 'net')
    )
    assert code == 1 and 'net-folded-0003.params differs from the network' in err and len(err.splitlines()) == 1
    assert os.listdir(str(tmp_path)) == []


# ------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    'options, words',
    [
        ([], 'pass --network, --model or both'),
        (['--network', 'cru57'], "there is no network 'cru57'; choose from cru56"),
        (['--network', 'cru56', '--onnx'], 'pass --model'),
        (['--model', 'nothing'], 'nothing is neither PREFIX,EPOCH'),
        (['--model', 'nothing,1'], 'cannot read nothing-symbol.json: No such file or directory'),
        (['--model', '{model},7'], 'model-0007.params: No such file or directory'),
        (['--model', '{model},3', '--batch-size', '2'], 'add --onnx'),
        (['--model', '{model},3', '--onnx', '--batch-size', '0'], "'0' is not an integer of at least 1"),
        (['--model', '{model},3', '--image-size', '112'], "'112' is not HEIGHT,WIDTH"),
        (['--model', '{model},3', '--image-size', '224,224'], 'pre_fc1_weight in shape'),
        (['--model', '{model},3', '--image', 'none.png'], '--image none.png is not readable as an image'),
        (
            ['--model', '{model},3', '--network', 'cru56'],
            'is of another width: its first layer has 16 filters, cru56 has 64; add --multiplier 0.25',
        ),
        (
            ['--model', '{model},3', '--network', 'cru56', '--multiplier', '0.125'],
            'cru56 with --multiplier 0.125 has 8; add --multiplier 0.25',
        ),
        (['--output', ''], "'' is a folder; add how the names of the files begin"),
        (['--output', 'folder/'], "'folder/' is a folder; add how the names of the files begin, like folder/cru116"),
        (['--output', '..'], "'..' is a folder; add how the names of the files begin"),
        (['--output', 'a' * 250], 'is longer than the 236 bytes that the name of a file has room for'),
        (['--model', '{model},3', '--network', 'att56'], 'is it a checkpoint of another network'),
        (['--model', '{model},3', '--output', '{model}'], 'would overwrite the --model'),
    ],
)
def test_wrong_options(trained, tool, tmp_path, options, words):
    options = [option.replace('{model}', trained[0]) for option in options]
    code, out, err = tool('--output', str(tmp_path / 'out' / 'net'), *options)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert os.listdir(str(tmp_path)) == []


def change_parameters(edit):
    def change(folder):
        path = os.path.join(folder, 'model-0003.params')
        arrays = mx.nd.load(path)
        edit(arrays)
        mx.nd.save(path, arrays)

    return change


def change_symbol(edit):
    def change(folder):
        path = os.path.join(folder, 'model-symbol.json')
        with open(path) as file:
            content = json.load(file)
        edit(content)
        with open(path, 'w') as file:
            json.dump(content, file)

    return change


def truncate(name, share):
    def change(folder):
        path = os.path.join(folder, name)
        with open(path, 'r+b') as file:
            file.truncate(int(os.path.getsize(path) * share))

    return change


def node(content, name):
    return next(node for node in content['nodes'] if node['name'] == name)


def set_value(name, value):
    def edit(arrays):
        arrays[name][0] = value

    return edit


def halves(data):
    return mx.sym.split_v2(data, 2, axis=1)


def largest(data):
    return mx.sym.topk(data, k=2, axis=1, ret_typ='both', name='largest')


def thirds(data):
    return mx.sym.SliceChannel(data, num_outputs=3, axis=1, name='thirds')


@pytest.mark.parametrize('operator, count', [(halves, 2), (largest, 2), (thirds, 3)])
def test_a_symbol_may_have_operators_of_several_outputs(tmp_path, operator, count):
    path = str(tmp_path / 'model-symbol.json')
    several = operator(mx.sym.Variable('data'))
    symbol = mx.sym.add_n(*[several[place] for place in range(count)], name='sum')
    symbol.save(path)
    assert load_symbol(path).tojson() == symbol.tojson()
    for beyond in (count, -1, 1000):
        with open(path) as file:
            content = json.load(file)
        content['nodes'][-1]['inputs'][-1][1] = beyond
        with open(path, 'w') as file:
            json.dump(content, file)
        with pytest.raises(UserError, match='is not a symbol JSON of MXNet'):
            load_symbol(path)


def old_attributes(node, key):
    """Put the attributes of a node where older versions of MXNet have them, with a division by zero."""
    node[key] = dict(node.pop('attrs'), num_group='0')


@pytest.mark.parametrize(
    'op, attrs',
    [
        ('GroupNorm', {'num_groups': '0'}),
        ('Reshape', {'shape': '(-4, -1, 0)'}),
        ('Reshape', {'shape': '(0, 0, -4, 0, -1, 0)'}),
        ('SliceChannel', {'num_outputs': '3000000'}),
        ('SliceChannel', {'num_outputs': '0'}),
    ],
)
def test_operators_that_end_mxnet_are_refused(tmp_path, op, attrs):
    inputs = ['data'] + ['gamma', 'beta'] * (op == 'GroupNorm')
    variables = [{'op': 'null', 'name': name, 'inputs': []} for name in inputs]
    content = {
        'nodes': [
            *variables,
            {'op': op, 'name': 'fc1', 'attrs': attrs, 'inputs': [[i, 0, 0] for i in range(len(inputs))]},
        ],
        'arg_nodes': list(range(len(inputs))),
        'heads': [[len(inputs), 0, 0]],
        'attrs': {'mxnet_version': ['int', 10901]},
    }
    path = tmp_path / 'x-symbol.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='is not a symbol JSON of MXNet'):
        load_symbol(str(path))


def test_a_reshape_that_splits_an_axis_is_taken(tmp_path):
    path = str(tmp_path / 'x-symbol.json')
    mx.sym.reshape(mx.sym.Variable('data'), shape=(0, -4, 10, -1, 0)).save(path)
    assert load_symbol(path).infer_shape(data=(2, 30, 7))[1] == [(2, 10, 3, 7)]


@pytest.mark.parametrize(
    'change, words',
    [
        (truncate('model-0003.params', 0.9), 'is not readable as an MXNet .params file'),
        (truncate('model-symbol.json', 0.5), 'is not a symbol JSON of MXNet'),
        (truncate('model-symbol.json', 0), 'is not a symbol JSON of MXNet'),
        (
            change_parameters(lambda arrays: arrays.pop('arg:stage2_unit1_conv1_weight')),
            'has no stage2_unit1_conv1_weight',
        ),
        (
            change_parameters(lambda arrays: arrays.update({'arg:bn0_gamma': mx.nd.ones(3)})),
            'bn0_gamma in shape (3,) where',
        ),
        (
            change_parameters(lambda arrays: arrays.update({'arg:stage9_weight': mx.nd.ones(3)})),
            'has stage9_weight, for which',
        ),
        (
            change_parameters(lambda arrays: arrays.update({'fc1': mx.nd.ones(3)})),
            'fc1 has neither arg: nor aux: in front',
        ),
        (change_parameters(set_value('arg:conv0_weight', float('nan'))), 'has NaN or infinity in conv0_weight'),
        (change_parameters(set_value('aux:bn0_moving_var', float('inf'))), 'has NaN or infinity in bn0_moving_var'),
        (change_parameters(set_value('aux:bn0_moving_var', -1)), 'are not finite'),
        (
            change_symbol(lambda content: node(content, 'conv0').update(op='Nonsense')),
            'is not a symbol that this MXNet knows',
        ),
        (
            change_symbol(lambda content: node(content, 'relu0')['inputs'][0].__setitem__(1, 5)),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: content['nodes'][9]['inputs'].append([999999, 0, 0])),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: node(content, 'conv0')['attrs'].update(num_group='0')),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: node(content, 'conv0')['attrs'].update(num_group='00')),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: old_attributes(node(content, 'conv0'), 'attr')),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: old_attributes(node(content, 'conv0'), 'param')),
            'is not a symbol JSON of MXNet',
        ),
        (
            change_symbol(lambda content: node(content, 'conv0')['attrs'].update(stride='(0, 1)')),
            'is not a symbol JSON of MXNet',
        ),
        (change_symbol(lambda content: node(content, 'fc1').update(name='embedding')), 'there is no fc1_output'),
        (
            change_symbol(lambda content: node(content, 'data').update(name='image')),
            'the network has no input called data',
        ),
    ],
)
def test_files_that_are_damaged_or_foreign(trained, tool, tmp_path, change, words):
    for name in ('model-symbol.json', 'model-0003.params'):
        with open(os.path.join(os.path.dirname(trained[0]), name), 'rb') as source:
            (tmp_path / name).write_bytes(source.read())
    change(str(tmp_path))
    code, out, err = tool(
        '--model', str(tmp_path / 'model') + ',3', '--fold-bn', '--output', str(tmp_path / 'out' / 'net')
    )
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert sorted(os.listdir(str(tmp_path))) == ['model-0003.params', 'model-symbol.json']


# ------------------------------------------------------------------------------------- foreign networks

OPERATORS = {
    'convolution': lambda x: mx.sym.Convolution(
        x, num_filter=6, kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 2), num_group=3, name='op'
    ),
    'fully connected': lambda x: mx.sym.FullyConnected(x, num_hidden=5, name='op'),
    'fully connected, unflattened': lambda x: mx.sym.FullyConnected(x, num_hidden=5, flatten=False, name='op'),
    'unflattened without bias': lambda x: mx.sym.FullyConnected(
        x, num_hidden=5, flatten=False, no_bias=True, name='op'
    ),
    'batch norm': lambda x: mx.sym.BatchNorm(x, fix_gamma=False, eps=1e-3, name='op'),
    'batch norm, fixed gamma': lambda x: mx.sym.BatchNorm(x, name='op'),
    'batch norm of vectors': lambda x: mx.sym.BatchNorm(mx.sym.Flatten(x, name='flat'), name='op'),
    'max pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='max', name='op'),
    'max pooling, full': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), stride=(2, 2), pool_type='max', pooling_convention='full', name='op'
    ),
    'average pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type='avg', name='op'),
    'average without padding': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), pad=(1, 1), pool_type='avg', count_include_pad=False, name='op'
    ),
    'global average': lambda x: mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type='avg', name='op'),
    'global maximum': lambda x: mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type='max', name='op'),
    'resize': lambda x: mx.sym.contrib.BilinearResize2D(x, height=13, width=7, name='op'),
    'nearest': lambda x: mx.sym.UpSampling(x, scale=2, sample_type='nearest', name='op'),
    'concat': lambda x: mx.sym.Concat(x, x * 2, x - 1, dim=1, name='op'),
    'slice channel': lambda x: mx.sym.SliceChannel(x, num_outputs=3, axis=1, name='op')[1],
    'slice axis': lambda x: mx.sym.slice_axis(x, axis=1, begin=1, end=None, name='op'),
    'reshape': lambda x: mx.sym.reshape(x, shape=(0, -1, 2, 4), name='op'),
    'reshape, special': lambda x: mx.sym.reshape(x, shape=(-1, 0, -2), name='op'),
    'expand and squeeze': lambda x: mx.sym.squeeze(mx.sym.expand_dims(x, axis=1, name='wide') + 1, axis=1, name='op'),
    'transpose': lambda x: mx.sym.transpose(x, axes=(0, 2, 3, 1), name='op'),
    'softmax': lambda x: mx.sym.softmax(mx.sym.Flatten(x, name='flat') * 0.01, name='op'),
    'normalised': lambda x: mx.sym.L2Normalization(x, mode='instance', name='op'),
    'mean': lambda x: mx.sym.mean(x, axis=(2, 3), keepdims=True, name='op'),
    'clip': lambda x: mx.sym.clip(x, 20, 100, name='op'),
    'sum': lambda x: mx.sym.add_n(x, x * 2, x / 3, name='op'),
    'reversed scalars': lambda x: mx.sym._internal._rdiv_scalar(200 - x + 1e3, scalar=7.0, name='op'),
    'power': lambda x: (x + 1) ** 0.5,
    'squeeze and excite': lambda x: mx.sym.broadcast_mul(
        x,
        mx.sym.Activation(
            mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type='avg', name='squeeze') * 0.01,
            act_type='sigmoid',
            name='gate',
        ),
        name='op',
    ),
    'normalised weight': lambda x: mx.sym.FullyConnected(
        x,
        weight=mx.sym.L2Normalization(mx.sym.Variable('class_weight', shape=(5, 192)), mode='instance', name='unit'),
        no_bias=True,
        num_hidden=5,
        name='op',
    ),
}
OPERATORS.update(
    ('activation ' + kind, lambda x, kind=kind: mx.sym.Activation(x - 127, act_type=kind, name='op'))
    for kind in ('relu', 'sigmoid', 'tanh', 'softrelu', 'softsign')
)
OPERATORS.update(
    ('leaky ' + kind, lambda x, kind=kind: mx.sym.LeakyReLU(x - 127, act_type=kind, name='op'))
    for kind in ('leaky', 'prelu', 'elu', 'selu', 'gelu')
)
OPERATORS.update(
    (name, lambda x, name=name: getattr(mx.sym, name)(x * 0.01 + 0.1, name='op'))
    for name in ('relu', 'sigmoid', 'tanh', 'abs', 'sqrt', 'exp', 'log', 'negative')
)


@pytest.mark.parametrize('case', OPERATORS)
def test_operators_of_other_networks(case):
    data = images(3, 8)
    symbol = mx.sym.Flatten(OPERATORS[case](mx.sym.Variable('data')), name='fc1')
    shapes = checkpoints.wanted_shapes(symbol, (8, 8, 3))
    random = np.random.RandomState(0)
    parameters = {name: random.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
    expected = compare.compute(symbol, parameters, data)
    model = onnx_writer.convert(plain(Graph.of(symbol)), parameters, (8, 8, 3))
    assert_same(run_onnx(model, data), expected)
    assert_same(run_onnx(model, data[:1]), expected[:1])


def nearly_prelu(x, by, scalar=1.0, act='relu', sign=-1.0, of_another=False, shape=None, kernel=(1, 1)):
    """Return what differs from PReLU as the networks write it in one place; by default in none."""
    gamma = mx.sym.Variable('slopes', shape=(3,))
    x, another = x - 127, x - 126
    y = another if of_another else x
    bend = mx.sym.reshape(scalar - gamma, shape=shape or ((1, -1, 1, 1) if by == 'mul' else (-1, 1, 1, 1)))
    scale = {'num_filter': 3, 'num_group': 3, 'kernel': kernel, 'no_bias': True}
    if by == 'mul':
        minus = mx.sym.negative(y)
    else:
        minus = mx.sym.Convolution(y, weight=mx.sym._internal._full(shape=(3, 1, 1, 1), value=sign), **scale)
    negative = mx.sym.Activation(minus, act_type=act)
    return x + (
        mx.sym.broadcast_mul(negative, bend) if by == 'mul' else mx.sym.Convolution(negative, weight=bend, **scale)
    )


@pytest.mark.parametrize(
    'changes, expected',
    [
        ({'by': 'mul'}, True),
        ({'by': 'mul', 'scalar': 2.0}, False),
        ({'by': 'mul', 'act': 'tanh'}, False),
        ({'by': 'conv'}, True),
        ({'by': 'conv', 'scalar': 2.0}, False),
        ({'by': 'conv', 'act': 'sigmoid'}, False),
        ({'by': 'conv', 'sign': 1.0}, False),
        ({'by': 'mul', 'of_another': True}, False),
        ({'by': 'conv', 'of_another': True}, False),
        ({'by': 'mul', 'shape': (1, 1, 1, -1)}, False),
        ({'by': 'conv', 'kernel': (3, 3)}, False),
    ],
)
def test_only_prelu_is_taken_for_one(changes, expected):
    graph = plain(Graph.of(nearly_prelu(mx.sym.Variable('data'), **changes)))
    assert any(node.op == 'LeakyReLU' for node in graph.nodes()) == expected


def test_one_slope_for_all_channels_stays_one():
    """Gluon's PReLU; from the operator alone MXNet would infer a slope for each channel."""
    slope = mx.sym.Variable('slope', shape=(1,))
    symbol = mx.sym.LeakyReLU(mx.sym.Variable('data'), gamma=slope, act_type='prelu', name='act')
    assert plain(Graph.of(symbol)).symbol().infer_shape(data=(2, 3, 4, 4))[0] == [(2, 3, 4, 4), (1,)]


@pytest.mark.parametrize(
    'symbol, words',
    [
        (lambda x: mx.sym.LRN(x, nsize=3, name='old'), 'old is a LRN, an operator that is not known here'),
        (
            lambda x: mx.sym.Pooling(x, kernel=(2, 2), pool_type='sum', name='pool'),
            'pool, a Pooling, has pool_type=sum',
        ),
        (lambda x: mx.sym.BatchNorm(x, axis=3, name='norm'), 'norm, a BatchNorm, has axis=3'),
        (
            lambda x: mx.sym.SliceChannel(x, num_outputs=3, axis=1, squeeze_axis=True, name='slices')[0],
            'slices, a SliceChannel, has squeeze_axis=True',
        ),
        (
            lambda x: mx.sym.LeakyReLU(
                x, gamma=mx.sym.abs(mx.sym.Variable('g', shape=(3,)), name='size'), act_type='prelu', name='act'
            ),
            'act, a LeakyReLU, reads size, which is computed',
        ),
    ],
)
def test_operators_that_are_not_known(symbol, words):
    symbol = mx.sym.Flatten(symbol(mx.sym.Variable('data')), name='fc1')
    parameters = {
        name: np.ones(shape, np.float32) for name, shape in checkpoints.wanted_shapes(symbol, (8, 8, 3)).items()
    }
    with pytest.raises(UserError, match=words):
        onnx_writer.convert(plain(Graph.of(symbol)), parameters, (8, 8, 3))


def test_parameters_whose_shape_nobody_knows():
    symbol = mx.sym.broadcast_add(mx.sym.Variable('data'), mx.sym.Variable('other'), name='fc1')
    with pytest.raises(UserError, match='nothing in the network tells the shape of other'):
        checkpoints.wanted_shapes(symbol, (8, 9, 3))


# ------------------------------------------------------------------------------------------- folding


def norm(x, name='norm', **attributes):
    return mx.sym.BatchNorm(x, fix_gamma=False, name=name, **attributes)


def conv(x, name='conv', **attributes):
    return mx.sym.Convolution(x, **dict({'num_filter': 6, 'kernel': (1, 1), 'name': name}, **attributes))


def shared_weight(x):
    weight = mx.sym.Variable('shared_weight')
    one = conv(norm(x, 'norm1'), 'conv1', weight=weight, no_bias=True, num_filter=3)
    return conv(norm(one, 'norm2'), 'conv2', weight=weight, no_bias=True, num_filter=3) + conv(
        x, 'conv3', weight=weight, no_bias=True, num_filter=3
    )


FOLDS = {
    'behind a convolution': (lambda x: norm(conv(x, no_bias=True)), []),
    'behind one that pads': (lambda x: norm(conv(x, kernel=(3, 3), pad=(1, 1))), []),
    'behind a layer': (lambda x: norm(mx.sym.FullyConnected(x, num_hidden=5, name='layer')), []),
    'in front of one that does not pad': (lambda x: conv(norm(x), kernel=(3, 3), stride=(2, 2)), []),
    'in front of one that pads': (
        lambda x: conv(norm(x), kernel=(3, 3), pad=(1, 1)),
        ['behind the image, in front of a padded convolution'],
    ),
    'in front of groups': (lambda x: conv(norm(x), num_group=3, kernel=(2, 3), no_bias=True), []),
    'in front of a layer': (
        lambda x: mx.sym.FullyConnected(mx.sym.Dropout(norm(x), name='drop'), num_hidden=5, name='layer'),
        [],
    ),
    'in front of two layers': (lambda x: [conv(y, 'a') + conv(y, 'b') for y in [norm(x)]][0], []),
    'in front of a layer and a sum': (
        lambda x: [conv(y, num_filter=3) + y for y in [norm(x)]][0],
        ['behind the image, in front of Convolution and elemwise_add'],
    ),
    'behind a layer that is read twice': (
        lambda x: [mx.sym.relu(norm(y), name='relu') + y for y in [conv(x)]][0],
        ['behind a layer that others read too, in front of relu'],
    ),
    'behind a layer that others read first': (
        lambda x: [mx.sym.relu(y, name='relu') + norm(y) for y in [conv(x)]][0],
        ['behind a layer that others read too, in front of elemwise_add'],
    ),
    'with the gamma that MXNet does not read by default': (lambda x: mx.sym.BatchNorm(conv(x), name='norm'), []),
    'of a weight that is shared': (shared_weight, []),
    'two in a row': (lambda x: norm(norm(conv(x), 'first')), []),
    'along another axis': (lambda x: conv(norm(x, axis=3)), ['over axis 3 instead of the channels']),
    'between activations': (
        lambda x: mx.sym.relu(norm(mx.sym.tanh(x, name='tanh')), name='relu'),
        ['behind tanh, in front of relu'],
    ),
}


@pytest.mark.parametrize('case', FOLDS)
def test_folding(case):
    build_case, left = FOLDS[case]
    data = images(2, 8)
    symbol = mx.sym.Flatten(build_case(mx.sym.Variable('data')), name='fc1')
    random = np.random.RandomState(0)
    parameters = {
        name: random.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in checkpoints.wanted_shapes(symbol, (8, 8, 3)).items()
    }
    before = {name: array.copy() for name, array in parameters.items()}
    folded, fewer, stayed = fold(plain(Graph.of(symbol)), parameters)
    assert [why for _, why in stayed] == left
    assert_same(compare.compute(folded.symbol(), fewer, data), compare.compute(symbol, parameters, data), 1e-5)
    assert set(fewer) == set(checkpoints.wanted_shapes(folded.symbol(), (8, 8, 3)))
    assert not any(name.endswith('_own') for name in fewer)  # what nobody shares keeps its name
    assert all((before[name] == parameters[name]).all() for name in parameters)  # the caller's are as they were


@pytest.mark.parametrize('width', [0.26, 0.265625, 0.3333])
def test_the_width_that_is_named_fits(tmp_path, width):
    """A rounded count of filters is of many widths; the one that is named has to give every layer its shape."""
    symbol = build('cru56', net_multiplier=width, image_shape=(64, 64, 3))
    parameters = {
        name: np.zeros(shape, np.float32) for name, shape in checkpoints.wanted_shapes(symbol, (64, 64, 3)).items()
    }
    checkpoints.save(str(tmp_path / 'x'), 1, symbol, parameters)
    for asked_for in (1.0, 0.25):
        with pytest.raises(UserError, match='is of another width') as caught:
            targets.of_checkpoint(f'{tmp_path}/x,1', (64, 64, 3), 'cru56', asked_for)
        named = float(str(caught.value).rpartition(' ')[2])
        assert targets.of_checkpoint(f'{tmp_path}/x,1', (64, 64, 3), 'cru56', named).parameters
