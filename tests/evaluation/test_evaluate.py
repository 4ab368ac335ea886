"""tools/evaluate.py against plain MXNet and onnxruntime, on sets that are whole and on sets that are not."""

import io
import json
import os
import pickle
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import evaluate
from helpers import markdown
from netkit import published
from netkit._mxnet import mx
from netkit.data import drawn_faces as faces, synthetic
from netkit.data.pairs import PairSet
from netkit.data.recordio import RecordFile
from netkit.deploy.exporting import save_onnx
from netkit.deploy.plain import plain
from netkit.errors import UserError
from netkit.evaluation import engines, imagenet, protocol, streams
from netkit.graph.naming import is_original
from netkit.graph.nodes import Graph
from netkit.networks import NETWORKS, build, parse

SMALL = dict(net_multiplier=0.1, emb_size=16, memonger=False)


def write_checkpoint(prefix, network, **changes):
    """Write a checkpoint with random weights by plain MXNet; return (symbol, module bound for two images)."""
    symbol = build(network, **{**SMALL, **changes})
    side = changes.get('image_shape', (112, 112, 3))[0]
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([('data', (2, 3, side, side))], for_training=False)
    mx.random.seed(3)
    np.random.seed(3)
    module.init_params(mx.init.Xavier(magnitude=2))
    mx.model.save_checkpoint(prefix, 1, symbol, *module.get_params())
    return symbol, module


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a checkpoint, its ONNX file, and two verification sets."""
    path = tmp_path_factory.mktemp('evaluate here')
    symbol, module = write_checkpoint(str(path / 'net'), 'cru56')
    parameters = {name: array.asnumpy() for arrays in module.get_params() for name, array in arrays.items()}
    save_onnx(str(path / 'net.onnx'), plain(Graph.of(symbol)), parameters, (112, 112, 3), None, 'float32')
    synthetic.write_synthetic(str(path / 'sets'), identities=2, images=2, pairs=25, seed=1)
    os.rename(str(path / 'sets' / 'drawn.bin'), str(path / 'sets' / 'cfp_fp.bin'))
    (path / 'sets' / 'train.rec').unlink()
    synthetic.write_synthetic(str(path / 'more'), identities=2, images=2, pairs=20, seed=2)
    os.rename(str(path / 'more' / 'drawn.bin'), str(path / 'sets' / 'lfw.bin'))
    return path


def embeddings_by_mxnet(prefix, images):
    """Return the embeddings of images, one by one, by mx.mod.Module from the files."""
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 1)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([('data', (1, 3) + images[0].shape[:2])], for_training=False)
    module.set_params(arguments, statistics)
    rows = []
    for image in images:
        module.forward(mx.io.DataBatch([mx.nd.array(image.transpose(2, 0, 1)[None])]), is_train=False)
        rows.append(module.get_outputs()[0].asnumpy()[0])
    return np.array(rows)


def run_json(run_tool, *arguments):
    code, out, err = run_tool(evaluate, *arguments, '--json')
    assert code == 0, err
    return json.loads(out)


def test_faces_are_verified_as_the_host_does(run_tool, folder):
    arguments = ['faces', str(folder / 'net') + ',1', '--data', str(folder / 'sets'), '--batch-size', '7']
    found = run_json(run_tool, *arguments)
    assert [result['set'] for result in found] == ['cfp_fp', 'lfw']
    for result in found:
        with open(str(folder / 'sets' / (result['set'] + '.bin')), 'rb') as file:
            encoded, same = pickle.load(file)
        images = [mx.image.imdecode(image).asnumpy() for image in encoded]
        views = [
            embeddings_by_mxnet(str(folder / 'net'), list(part))
            for part in (images, [image[:, ::-1] for image in images])
        ]
        distance = protocol.distances(views[0].astype(np.float64) + views[1])
        expected = protocol.accuracy(distance, np.array(same))
        assert result['pairs'] == len(same)
        assert (result['accuracy'], result['deviation']) == pytest.approx(expected[:2], abs=1e-9)
        assert result['auc'] == pytest.approx(protocol.roc(distance, same).auc, abs=1e-9)
        assert result['mean_length'] == pytest.approx(np.linalg.norm(np.concatenate(views), axis=1).mean(), rel=1e-5)
        assert result['tar']['0.0001'] is None
        pairs = protocol.cosines_of_pairs(views[0], same)  # without mirror images
        assert result['thresholds'] == [None] * 3 and pairs.different < 100
        (expected,) = protocol.thresholds(pairs, [0.2])
        (other,) = run_json(run_tool, *arguments, '--far', '0.2', '--sets', result['set'])
        assert other['thresholds'][0] == pytest.approx(expected._asdict(), abs=1e-4)


def test_models_stand_side_by_side_and_are_drawn(run_tool, folder, tmp_path):
    checkpoint, model, picture = str(folder / 'net') + ',1', str(folder / 'net.onnx'), str(tmp_path / 'roc.svg')
    code, out, err = run_tool(
        evaluate,
        'faces',
        checkpoint,
        model,
        '--data',
        str(folder / 'sets'),
        '--sets',
        'lfw',
        '--markdown',
        '--plot',
        picture,
    )
    assert code == 0, err
    first, cosines, second, others, nearest = markdown(out)
    assert (
        first == second
        and cosines == others
        and nearest[0][checkpoint] == nearest[0][model] == first[0]['accuracy'].split()[0]
    )
    assert first[0]['TAR at FAR 0.001'] == cosines[1]['cosine above'] == '–' and 'published' not in out
    with open(picture, encoding='utf-8') as file:
        drawn = file.read()
    assert '>0.1<' in drawn and 'mathdefault' not in drawn
    assert drawn.count(', lfw<') == 2 and 'net.onnx' in drawn and 'false accept rate' in drawn


def test_an_onnx_file_that_loads_and_cannot_be_computed(run_tool, folder, tmp_path):
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    shape = onnx.numpy_helper.from_array(np.array([-1, 7919], np.int64), 'shape')
    ends = [
        make.make_tensor_value_info(name, floats, size) for name, size in (('data', ['n', 3, 112, 112]), ('out', None))
    ]
    graph = make.make_graph(
        [make.make_node('Reshape', ['data', 'shape'], ['out'])], 'flat', ends[:1], ends[1:], [shape]
    )
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid('', 11)], ir_version=8), str(tmp_path / 'x.onnx'))
    code, _, err = run_tool(evaluate, 'faces', str(tmp_path / 'x.onnx'), '--data', str(folder / 'sets'))
    assert code == 2 and f'onnxruntime cannot compute {tmp_path}/x.onnx: ' in err and err.count('\n') == 1


def test_an_onnx_file_with_names_that_are_no_text(run_tool, folder, tmp_path):
    content = (folder / 'net.onnx').read_bytes()
    for name in (b'data', b'fc1', b'conv0'):
        assert name in content
        (tmp_path / 'x.onnx').write_bytes(content.replace(name, b'\xff' + name[1:]))
        code, out, err = run_tool(evaluate, 'faces', str(tmp_path / 'x.onnx'), '--data', str(folder / 'sets'))
        assert (code, err.count('\n')) in ((2, 1), (0, 0)) and 'EP Error' not in out, err


def test_each_of_several_models_is_named_in_markdown(run_tool, folder):
    models = [str(folder / 'net') + ',1', str(folder / 'net.onnx')]
    options = ['--data', str(folder / 'sets'), '--sets', 'lfw', '--markdown']
    code, out, err = run_tool(evaluate, 'faces', *models, *options)
    assert code == 0, err
    assert out.count('| lfw ') == 9  # each has three thresholds
    assert all(f'\n{title}:\n\n| set ' in out for title in [*models, 'accuracy'])
    assert 'net,1:' not in run_tool(evaluate, 'faces', models[0], *options)[1]


def test_published_accuracies_are_shown_when_asked_for(run_tool, folder):
    """With the network and the origin that they belong to, whatever was measured."""
    checkpoint, sets = str(folder / 'net') + ',1', ['--sets', 'lfw', '--markdown']
    code, out, err = run_tool(evaluate, 'faces', checkpoint, '--data', str(folder / 'sets'), *sets, '--published')
    assert code == 0, err
    rows = {row['network']: row for row in markdown(out)[-1]}
    assert rows['cru116:net_origin=release']['lfw'] == '0.99867 ± 0.00180'
    assert rows['cru116:net_origin=release']['agedb_30'] == '0.97983 ± 0.00765'
    assert rows['att92:net_origin=facexzoo']['cplfw'] == '0.9033' and rows['att92:net_origin=facexzoo']['cfp_fp'] == '–'
    assert not set(rows) & set(NETWORKS)


def test_published_figures_belong_to_networks_that_exist():
    for row in (*published.FACES, *published.IMAGENET):
        network, settings = parse(row.network)
        assert is_original(network) == isinstance(row, published.ImageNetRow) and set(settings) <= {'net_origin'}
        build(row.network)


def test_a_fixed_batch_and_a_normalisation_of_the_clients(folder, tmp_path):
    """A network without a Sub and a Mul in front gets (x - 127.5) / 127.5, as insightface's client gives it."""
    image = onnx.helper.make_tensor_value_info('input', onnx.TensorProto.FLOAT, [4, 3, 16, 16])
    output = onnx.helper.make_tensor_value_info('out', onnx.TensorProto.FLOAT, [4, 3])
    nodes = [
        onnx.helper.make_node('GlobalAveragePool', ['input'], ['pooled']),
        onnx.helper.make_node('Flatten', ['pooled'], ['out']),
    ]
    graph = onnx.helper.make_graph(nodes, 'mean', [image], [output])
    path = str(tmp_path / 'mean.onnx')
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 13)], ir_version=7), path)
    engine = engines.open_engine(path, 32)
    assert (engine.batch, engine.image_shape) == (4, (16, 16, 3))
    images = np.random.RandomState(0).randint(0, 256, (6, 3, 16, 16))
    np.testing.assert_allclose(engine(images), (images.mean(axis=(2, 3)) - 127.5) / 127.5, atol=1e-5)
    raw = engines.open_engine(str(folder / 'net.onnx'), 5)
    expected = onnxruntime.InferenceSession(str(folder / 'net.onnx'), providers=['CPUExecutionProvider'])
    images = np.random.RandomState(0).randint(0, 256, (3, 3, 112, 112)).astype(np.float32)
    np.testing.assert_allclose(raw(images), expected.run(None, {'data': images})[0], atol=1e-4)


# ------------------------------------------------------------------------------------------------- ImageNet


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
    """A folder of three classes with seven pictures of several sizes, and the same as a RecordIO file."""
    path = tmp_path_factory.mktemp('classes')
    rng = np.random.RandomState(0)
    record = mx.recordio.MXRecordIO(str(path / 'val.rec'), 'w')
    for label, (name, count) in enumerate((('b ird', 2), ('cat', 3), ('[dog]', 2))):
        (path / 'set' / name).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(rng.randint(0, 256, (40 + 9 * number, 70 - 9 * label, 3)).astype(np.uint8))
            image.save(str(path / 'set' / name / f'{number}.png'))
    (path / 'set' / 'cat' / 'notes.txt').write_text('not a picture')
    for label, name in enumerate(sorted(os.listdir(str(path / 'set')))):
        for file in sorted(os.listdir(str(path / 'set' / name))):
            if file.endswith('.png'):
                content = (path / 'set' / name / file).read_bytes()
                record.write(mx.recordio.pack(mx.recordio.IRHeader(0, float(label), 0, 0), content))
    record.close()
    write_checkpoint(str(path / 'net'), 'cru56_imagenet', emb_size=3, image_shape=(32, 32, 3))
    return path


def test_published_errors_are_shown_when_asked_for(run_tool, classes):
    options = ['--data', str(classes / 'set'), '--image-size', '32,32', '--markdown', '--published']
    code, out, err = run_tool(evaluate, 'imagenet', str(classes / 'net') + ',1', *options)
    assert code == 0, err
    rows = {row['network']: row for row in markdown(out)[-1]}
    assert rows['att56_imagenet:net_origin=release'] == {
        'network': 'att56_imagenet:net_origin=release',
        'top-1 error': '21.76',
        'top-5 error': '5.9',
    }
    assert rows['ires50_imagenet:net_origin=release']['top-1 error'] == '22.69'


@pytest.mark.parametrize('data', ['set', 'val.rec'])
def test_top_1_and_top_5_error(run_tool, classes, data):
    code, out, err = run_tool(
        evaluate,
        'imagenet',
        str(classes / 'net') + ',1',
        '--data',
        str(classes / data),
        '--image-size',
        '32,32',
        '--resize',
        '36',
        '--markdown',
    )
    assert code == 0, err
    ((row,),) = markdown(out)
    images, labels = [], []
    for label, name in enumerate(sorted(os.listdir(str(classes / 'set')))):
        for file in sorted(os.listdir(str(classes / 'set' / name))):
            if file.endswith('.png'):
                image = Image.open(str(classes / 'set' / name / file)).convert('RGB')
                width, height = (max(32, round(side * 36 / min(image.size))) for side in image.size)
                image = image.resize((width, height), Image.BILINEAR)
                left, top = (width - 32) // 2, (height - 32) // 2
                images.append(np.asarray(image)[top : top + 32, left : left + 32])
                labels.append(label)
    loaded = imagenet.Images(str(classes / data), 36, 32)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(loaded.load(number), image)
    outputs = embeddings_by_mxnet(str(classes / 'net'), images)
    wrong = (outputs.argmax(axis=1) != labels).mean()
    assert row['images'] == '7' and row['top-1 error'] == f'{100 * wrong:.2f} %' and row['top-5 error'] == '–'
    assert ('1 files were skipped' in out and 'notes.txt' in out) == (data == 'set')


class Labelled:
    """The labels of a classification set, without its images."""

    path, load = 'set', None

    def __init__(self, labels, classes, names=None):
        self.labels, self.classes, self.names = np.array(labels), classes, names

    def __len__(self):
        return len(self.labels)


HUNDRED = Labelled(np.arange(100) % 10, 10)


class Model:
    label = 'the model'


def test_the_rank_of_a_label(monkeypatch):
    """Of seven classes: top-1 and top-5 of labels on ranks 0, 1, 4, 5, 6."""
    outputs = np.tile(np.arange(7, 0, -1, dtype=float), (5, 1))

    monkeypatch.setattr(streams, 'run', lambda *_: outputs)
    assert imagenet.evaluate(None, Labelled([0, 1, 4, 5, 6], 7)).errors == {1: 0.8, 5: 0.4}


def test_a_network_that_says_the_same_of_everything_is_as_good_as_chance(monkeypatch):
    monkeypatch.setattr(streams, 'run', lambda *_: np.zeros((100, 10)))
    assert imagenet.evaluate(Model, HUNDRED).errors == {1: 0.9, 5: 0.5}
    for value in (np.nan, np.inf):
        monkeypatch.setattr(streams, 'run', lambda *_, value=value: np.full((100, 10), value))
        with pytest.raises(UserError, match='the outputs of the model are not finite'):
            imagenet.evaluate(Model, HUNDRED)


def test_images_of_other_classes_than_the_networks(monkeypatch):
    """Without names, a file may lack classes."""
    named = Labelled(np.arange(100) % 10, 10, list('abcdefghij'))
    for outputs, images, is_right in ((10, named, True), (12, HUNDRED, True), (12, named, False), (9, HUNDRED, False)):
        monkeypatch.setattr(streams, 'run', lambda *_, outputs=outputs: np.eye(outputs)[np.arange(100) % 10 % outputs])
        if is_right:
            assert imagenet.evaluate(Model, images).errors[1] == 0
        else:
            with pytest.raises(UserError, match=f'set has 10 classes, the model has {outputs}'):
                imagenet.evaluate(Model, images)


def test_embeddings_that_are_not_finite_are_refused(folder, monkeypatch, run_tool, tmp_path):
    monkeypatch.setattr(streams, 'run', lambda *_, **__: np.full((40, 2, 16), np.nan))
    code, _, err = run_tool(evaluate, 'faces', str(folder / 'net') + ',1', '--data', str(folder / 'sets'))
    assert code == 2 and 'are not finite' in err
    monkeypatch.setattr(streams, 'run', lambda *_, **__: np.full((1, 16), np.nan))
    Image.new('RGB', (112, 112)).save(str(tmp_path / 'face.png'))
    code, _, err = run_tool(evaluate, 'embed', str(folder / 'net') + ',1', str(tmp_path / 'face.png'), '--similar')
    assert code == 2 and 'are not finite' in err


def test_pictures_in_folders_of_people_and_too_many_to_compare(folder, run_tool, tmp_path):
    for number in range(21):
        (tmp_path / 'people' / str(number)).mkdir(parents=True)
        Image.new('RGB', (112, 112)).save(str(tmp_path / 'people' / str(number) / '1.png'))
    options = ['embed', str(folder / 'net') + ',1', str(tmp_path / 'people')]
    code, out, err = run_tool(evaluate, *options, '-o', str(tmp_path / 'x.csv'))
    assert code == 0 and '21 embeddings' in out, err
    code, _, err = run_tool(evaluate, *options, '--similar')
    assert code == 2 and 'cosines of 20 pictures at most, and these are 21' in err
    code, _, err = run_tool(evaluate, *options, '--similar', '--far', '0.1')
    assert code == 2 and '--far needs a folder with a subfolder for each person, and two pictures of one' in err


def test_thresholds_of_a_folder_of_people(folder, run_tool, tmp_path):
    rng, paths = np.random.RandomState(0), []
    for person in range(3):
        identity = faces.draw_identity(rng)
        (tmp_path / str(person) / 'more').mkdir(parents=True)
        for number in range(4):  # a folder within a folder is of the same person
            paths.append(str(tmp_path / str(person) / ('more' if person == 1 and number > 1 else '') / f'{number}.png'))
            Image.fromarray(faces.draw_with_landmarks(identity, rng)[0]).save(paths[-1])
    options = ['embed', str(folder / 'net') + ',1', str(tmp_path), '--similar', '--far', '0.25', '1e-3', '0.001']
    code, out, err = run_tool(evaluate, *options)
    assert code == 0, err
    embeddings = embeddings_by_mxnet(str(folder / 'net'), [np.asarray(Image.open(path)) for path in paths])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    different = sorted(unit[i] @ unit[j] for i in range(12) for j in range(i) if i // 4 != j // 4)
    assert '18 pairs of the same person, 48 of different people' in out
    row = next(line for line in out.splitlines() if ' 0.25 ' in line)
    assert float(row.split('│')[3]) == pytest.approx(different[-13] + 5e-5, abs=6e-5)
    assert '48 pairs of different people say nothing about rates below 1/48' in out
    assert '1.000' in out  # the matrix of a few pictures is there, too
    Image.new('RGB', (112, 112)).save(str(tmp_path / 'x.png'))
    code, _, err = run_tool(evaluate, *options)
    assert code == 2 and 'x.png is in no subfolder, and --far needs one for each person' in err
    code, _, err = run_tool(evaluate, *options[:2], paths[0], paths[1], *options[3:])
    assert code == 2 and '--far needs one folder' in err


def test_records_that_contain_the_magic_number(tmp_path):
    """dmlc splits them there; MXNet writes them, and the reader joins them again."""
    path, rng = str(tmp_path / 'x.rec'), np.random.RandomState(0)
    magic = np.array([0xCED7230A], '<u4').tobytes()
    contents = [magic, b'abcd' + magic + magic + b'efg', rng.bytes(999), b'', magic * 3]
    record = mx.recordio.MXRecordIO(path, 'w')
    for number, content in enumerate(contents):
        label = number if number % 2 else [number, 7.0]
        record.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), content))
    record.close()
    assert list(RecordFile(path)) == [(float(number), content) for number, content in enumerate(contents)]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda content: content[:-5], 'is truncated: it ends within the record at'),
        (lambda content: b'', 'holds no records'),
        (lambda content: b'x' + content, 'is not a RecordIO file: there is no record at 0'),
        (lambda content: content + b'tail', 'is not a RecordIO file: there is no record at'),
    ],
)
def test_damaged_record_files(classes, tmp_path, change, words):
    path = tmp_path / 'x.rec'
    path.write_bytes(change((classes / 'val.rec').read_bytes()))
    with pytest.raises(UserError, match=words):
        RecordFile(str(path))


# ----------------------------------------------------------------------------------------------- embeddings


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures')
    rng = np.random.RandomState(0)
    identity = faces.draw_identity(rng)
    for name in ('a b.png', '人.png', '[c].png'):
        Image.fromarray(faces.draw_face(identity, rng)).save(str(path / name))
    return path


@pytest.mark.parametrize('ending', ['npz', 'csv'])
def test_embeddings_of_pictures(run_tool, folder, pictures, tmp_path, ending):
    output = str(tmp_path / f'out.{ending}')
    code, out, err = run_tool(evaluate, 'embed', str(folder / 'net') + ',1', str(pictures), '-o', output, '--similar')
    assert code == 0, err
    paths = [str(pictures / name) for name in sorted(os.listdir(str(pictures)))]
    expected = embeddings_by_mxnet(str(folder / 'net'), [np.asarray(Image.open(path)) for path in paths])
    if ending == 'npz':
        with np.load(output) as file:
            found, names = file['embeddings'], list(file['paths'])
    else:
        with open(output, encoding='utf-8') as file:
            rows = [line.rstrip('\n').split(',') for line in file][1:]
        names, found = [row[0] for row in rows], np.array([list(map(float, row[1:])) for row in rows])
    assert names == paths
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert f'{unit[0] @ unit[1]:.3f}' in out and out.count('1.000') >= 3


def test_cosines_name_pictures_of_the_same_name_apart(run_tool, folder, pictures, tmp_path):
    for person in ('ann', 'bob'):
        shutil.copytree(str(pictures), str(tmp_path / 'people' / person))
    code, out, err = run_tool(evaluate, 'embed', str(folder / 'net') + ',1', str(tmp_path / 'people'), '--similar')
    assert code == 0, err
    assert 'ann/a b.png' in out and 'bob/a b.png' in out and 'people' not in out


# ------------------------------------------------------------------------------------------------- bad input


def bad_set(folder, name, images, same):
    with open(os.path.join(folder, name + '.bin'), 'wb') as file:
        pickle.dump((images, same), file, protocol=4)


def jpeg(height=112, width=112):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, 'JPEG')
    return buffer.getvalue()


@pytest.mark.parametrize(
    'images, same, words',
    [
        ([jpeg()] * 39 + [b'no image'], [True, False] * 10, r'an image cannot be decoded, or .* \(number 39\)'),
        ([jpeg()] * 39 + [jpeg(64, 96)], [True, False] * 10, 'has an image of 64×96 pixels, which is no 112×112 one'),
        ([jpeg()] * 10, [True, False] * 2 + [True], '5 pairs are not enough for 10 folds'),
        ([jpeg()] * 40, [True] * 20, 'all pairs are of the same person'),
        ([jpeg()] * 40, [True] * 19, 'has 40 images for 19 pairs'),
    ],
)
def test_bad_sets_are_one_sentence(run_tool, folder, tmp_path, images, same, words):
    bad_set(str(tmp_path), 'lfw', images, same)
    code, out, err = run_tool(evaluate, 'faces', str(folder / 'net') + ',1', '--data', str(tmp_path))
    assert code == 2 and len(err.strip().splitlines()) == 1
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(err)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['faces', 'nothing', '--data', '.'], 'there is no verification set (.bin) in .'),
        (['faces', '{net},1', '--data', '{folder}/sets', '--sets', 'agedb_30'], 'there is no agedb_30.bin in'),
        (['faces', '{folder}/sets', '--data', '{folder}/sets'], 'is not a model: name a checkpoint'),
        (['faces', '{folder}/sets/lfw.bin.onnx', '--data', '{folder}/sets'], 'cannot read'),
        (['faces', '{folder}/foreign.onnx', '--data', '{folder}/sets'], 'is not an ONNX file that onnxruntime can run'),
        (['faces', '{net},9', '--data', '{folder}/sets'], 'cannot read'),
        (
            ['faces', '{net},1', '--network', 'att56', '--data', '{folder}/sets'],
            'is it a checkpoint of another network',
        ),
        (['faces', '{net},1', '--data', '{folder}/sets', '--plot', 'roc.txt'], 'does not end in .svg'),
        (['embed', '{net},1', '{folder}'], 'name a file with --output, or ask for --similar'),
        (['embed', '{net},1', '{folder}', '-o', 'x.npz', '--far', '0.1'], '--far is for --similar'),
        (['faces', '{net},1', '--data', '{folder}/sets', '--far', '0'], "'0' is not a number of at least 1e-09"),
        (['embed', '{net},1', '{folder}/sets', '--similar'], 'is a folder without pictures'),
        (['embed', '{net},1', '{folder}/small.png', '--similar'], 'takes aligned faces of 112×112'),
        (['embed', '{net},1', '{folder}/deep.png', '--similar'], 'more than 8 bits'),
        (['embed', '{net},1', '{folder}/video.jpg', '--similar'], 'is not readable as an image'),
        (['embed', '{net},1', '{folder}/small.png', '-o', 'x.txt'], 'does not end in .npz or .csv'),
        (['imagenet', '{net},1', '--data', '{folder}'], 'has no subfolders with images'),
        (['imagenet', '{net},1', '--data', '{folder}/nothing.rec'], 'cannot read'),
        (['imagenet', '{net}.onnx', '--data', '{folder}', '--crop', '96'], 'leave --crop out, or name that side'),
        ([], 'say what to do: faces, imagenet, embed'),
    ],
)
def test_bad_input_is_one_sentence(run_tool, folder, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    (folder / 'foreign.onnx').write_bytes(b'not onnx')
    (folder / 'video.jpg').write_bytes(b'\x00\x00\x00\x18ftypmp42' + bytes(1000))
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(str(folder / 'small.png'))
    Image.fromarray(np.zeros((112, 112), np.uint16)).save(str(folder / 'deep.png'))
    names = {'folder': str(folder), 'net': str(folder / 'net')}
    code, out, err = run_tool(evaluate, *[argument.format(**names) for argument in arguments])
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert not os.listdir(str(tmp_path))


def test_images_stay_encoded_until_they_are_asked_for(folder):
    """A set of 12,000 pictures is never decoded as a whole."""
    pairs = PairSet(str(folder / 'sets' / 'lfw.bin'), (112, 112, 3))
    assert len(pairs) == 20 and all(isinstance(content, bytes) for content in pairs._encoded)
    asked = []

    def load(number):
        asked.append(number)
        return pairs.image(number)

    batches = streams.in_batches(load, 40, 4)
    start, images = next(batches)
    assert start == 0 and images.shape == (4, 112, 112, 3)
    batches.close()
    assert max(asked) < 4 * (streams.AHEAD + 1)
