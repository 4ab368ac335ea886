"""tools/pack.py: what it writes is read by plain MXNet, Pillow and pickle; what it cannot take is named."""

import contextlib
import csv
import io
import os
import pickle
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image

import pack
from crunet import alignment
from netkit._mxnet import mx
from netkit.data import detect, drawn_faces as faces, images, packing
from netkit.data.images import Unusable
from netkit.data.records import FaceRecords
from netkit.errors import UserError


def write_person(folder, name, count, rng, form='JPEG', side=112):
    """Draw `count` pictures of a person into a folder; return their paths."""
    identity, paths = faces.draw_identity(rng), []
    os.makedirs(os.path.join(str(folder), name))
    for number in range(count):
        path = os.path.join(str(folder), name, f'{number}.{"jpg" if form == "JPEG" else "png"}')
        Image.fromarray(faces.draw_face(identity, rng)).resize((side, side)).save(path, form)
        paths.append(path)
    return paths


@pytest.fixture
def people(tmp_path):
    """A folder of five people whose names are not all easy."""
    folder, rng = tmp_path / 'my people', np.random.RandomState(0)
    for name, count in (('b c', 3), ('[a]', 4), ('王', 2), ('d', 3), ('e', 3)):
        write_person(folder, name, count, rng)
    return folder


def read_by_mxnet(folder):
    """Return [(label, bytes), …] of a data set's images and its ranges of images, by MXNet's reader and record 0."""
    record = mx.recordio.MXIndexedRecordIO(os.path.join(folder, 'train.idx'), os.path.join(folder, 'train.rec'), 'r')
    header, _ = mx.recordio.unpack(record.read_idx(0))
    found = []
    for number in range(1, int(header.label[0])):
        head, content = mx.recordio.unpack(record.read_idx(number))
        found.append((float(head.label), content))
    ranges = [
        list(mx.recordio.unpack(record.read_idx(number))[0].label)
        for number in range(int(header.label[0]), int(header.label[1]))
    ]
    return found, ranges


def light(content):
    """Return the bytes of an image as a grey PIL image, as they are stored."""
    return Image.open(io.BytesIO(content)).convert('L')


def test_pictures_are_packed_as_they_are(run_tool, people, tmp_path):
    output = str(tmp_path / 'new folder' / 'set')
    code, out, err = run_tool(pack, 'faces', str(people), '--output', output)
    assert code == 0 and '15 images of 5 people' in out, err
    found, ranges = read_by_mxnet(output)
    expected = [
        (float(label), (people / name / f'{number}.jpg').read_bytes())
        for label, name in enumerate(sorted(os.listdir(str(people))))
        for number in range(len(os.listdir(str(people / name))))
    ]
    assert found == expected
    assert ranges == [[1, 5], [5, 8], [8, 11], [11, 14], [14, 16]]
    with open(os.path.join(output, 'property')) as file:
        assert file.read() == '5,112,112\n'
    with open(os.path.join(output, 'train.lst'), encoding='utf-8') as file:
        lines = file.read().splitlines()
    assert len(lines) == 15 and lines[0].endswith('/[a]/0.jpg\t0') and lines[-1].endswith('/王/1.jpg\t4')
    assert sorted(os.listdir(output)) == ['property', 'train.idx', 'train.lst', 'train.rec']


def test_people_of_the_pairs_are_kept_out_of_training(run_tool, people, tmp_path):
    output = str(tmp_path / 'set')
    code, out, err = run_tool(pack, 'faces', str(people), '--output', output, '--pairs', '10', '--share', '0.4')
    assert code == 0 and '10 pairs of 2 people who are kept out' in out, err
    with open(os.path.join(output, 'pairs.bin'), 'rb') as file:
        images, same = pickle.load(file)
    assert len(images) == 20 and same == [True, False] * 5
    owner = {
        (people / name / file).read_bytes(): name
        for name in os.listdir(str(people))
        for file in os.listdir(str(people / name))
    }
    names = [owner[content] for content in images]
    assert [first == second for first, second in zip(names[0::2], names[1::2])] == same
    assert len({frozenset(pair) for pair in zip(images[0::2], images[1::2])}) == 10  # no pair twice, none with itself
    assert all(len(pair) == 2 for pair in map(set, zip(images[0::2], images[1::2])))
    assert not set(names) & {owner[content] for _, content in read_by_mxnet(output)[0]}
    assert len(FaceRecords(output, (112, 112, 3))) + sum(name in names for name in owner.values()) == 15


def face_with_landmarks(points, side=300):
    """Return a black picture with a white dot at each of some points, (x, y)."""
    image = np.zeros((side, side, 3), np.uint8)
    for x, y in np.round(points).astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    return Image.fromarray(image)


def test_faces_are_aligned_within_half_a_pixel(tmp_path):
    """A face that is turned, enlarged and moved comes to ArcFace's template: seen in the pixels, one dot at a time."""
    angle, scale = 0.4, 2.1
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.round(np.array(alignment.TEMPLATE) @ rotation.T + (110, 10))
    path = str(tmp_path / 'face.png')
    for number, (x, y) in enumerate(alignment.TEMPLATE):
        face_with_landmarks(points[number : number + 1]).save(path)
        found = np.asarray(Image.open(io.BytesIO(packing.face(path, 112, lambda *_: points))).convert('L')).astype(
            float
        )
        rows, columns = np.mgrid[:112, :112]
        centre = (found * columns).sum() / found.sum(), (found * rows).sum() / found.sum()
        np.testing.assert_allclose(centre, (x, y), atol=0.5, err_msg=str(number))


def test_the_similarity_is_the_best_there_is():
    """Of noisy points: no small change of its four numbers comes nearer, and there is no reflection."""
    rng = np.random.RandomState(0)
    source, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    matrix = alignment.similarity(source, target)
    a, b = matrix[0, 0], matrix[1, 0]
    np.testing.assert_allclose(matrix[:, :2], [[a, -b], [b, a]], atol=1e-12)

    def error(numbers):
        a, b, x, y = numbers
        return ((source @ np.array([[a, -b], [b, a]]).T + (x, y) - target) ** 2).sum()

    best = np.array([a, b, matrix[0, 2], matrix[1, 2]])
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 1e-3:
        assert error(best + step) > error(best)


def test_landmarks_from_a_file(run_tool, tmp_path):
    folder, rows = tmp_path / 'people', ['path,a,b,c,d,e,f,g,h,i,j']
    points = np.array(alignment.TEMPLATE) * 2
    for name in ('a', 'b'):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            face_with_landmarks(points, 230).save(str(folder / name / f'{number}.png'))
            rows.append(f'{name}/{number}.png,' + ','.join(f'{value:.1f}' for value in points.ravel()))
    listing = tmp_path / 'landmarks.csv'
    listing.write_text('\ufeff' + '\r\n'.join(rows) + '\r\n', encoding='utf-8')
    output = str(tmp_path / 'set')
    code, out, err = run_tool(pack, 'faces', str(folder), '--output', output, '--landmarks', str(listing))
    assert code == 0 and '4 images of 2 people' in out, err
    assert FaceRecords(output, (112, 112, 3))[0][1].shape == (112, 112, 3)
    listing.write_text('\n'.join(rows[:-1]), encoding='utf-8')
    code, out, err = run_tool(
        pack, 'faces', str(folder), '--output', str(tmp_path / 'most'), '--landmarks', str(listing), '--min-images', '1'
    )
    assert code == 0 and '3 images of 2 people' in out and 'has no line in --landmarks' in ' '.join(out.split()), err
    listing.write_text('a/0.png,1,2,3\n' * 2)
    code, _, err = run_tool(pack, 'faces', str(folder), '--output', output, '--landmarks', str(listing))
    assert code == 2 and 'landmarks.csv:1 is not a path and ten numbers' in err


def test_what_cannot_be_packed_is_named(run_tool, people, tmp_path):
    folder = people / 'd'
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(str(folder / 'tiny.png'))
    Image.fromarray(np.zeros((112, 112), np.uint16)).save(str(folder / 'deep.png'))
    Image.new('CMYK', (112, 112)).save(str(folder / 'print.jpg'))
    (folder / 'cut.jpg').write_bytes((folder / '0.jpg').read_bytes()[:500])
    (folder / 'film.mp4').write_bytes(b'ftyp')
    (folder / 'inner').mkdir()
    (people / 'loose.jpg').write_bytes((folder / '0.jpg').read_bytes())
    write_person(people, 'only one', 1, np.random.RandomState(3))
    code, out, err = run_tool(pack, 'faces', str(people), '--output', str(tmp_path / 'set'))
    assert code == 0 and '16 images of 5 people' in out, err  # the CMYK picture is taken, as RGB
    flat = ' '.join(out.split())
    for name, why in (
        ('tiny.png', 'is of 1×1 pixels, not 112×112'),
        ('deep.png', 'has more than 8 bits'),
        ('cut.jpg', 'is not readable as an image'),
        ('film.mp4', 'is not an image by its name'),
        ('inner', 'is a folder within a folder'),
        ('loose.jpg', 'is in no folder of its own'),
        ('only one', 'has 1 usable pictures, fewer than --min-images'),
    ):
        assert name in flat and why in flat, name
    assert 'skipped: 7' in out
    assert len(FaceRecords(str(tmp_path / 'set'), (112, 112, 3))) == 16
    found, _ = read_by_mxnet(str(tmp_path / 'set'))
    assert {Image.open(io.BytesIO(content)).mode for _, content in found} == {'RGB'}


def test_pictures_are_turned_the_right_way_up(run_tool, people, tmp_path):
    """A camera held upright says so in EXIF; decoders do not all look."""
    picture, exif = Image.new('RGB', (112, 112)), Image.Exif()
    picture.paste((255, 255, 255), (0, 0, 112, 56))  # the upper half is white
    exif[0x0112] = 6  # to be turned by 90° clockwise: the right half is white
    picture.save(str(people / 'd' / 'turned.jpg'), exif=exif)
    output = str(tmp_path / 'set')
    assert run_tool(pack, 'faces', str(people), '--output', output)[0] == 0
    _, content = read_by_mxnet(output)[0][4 + 3 + 3]  # the last of the third person
    assert light(content).getpixel((100, 10)) > 250 and light(content).getpixel((10, 10)) < 5
    assert not Image.open(io.BytesIO(content)).getexif()


@pytest.mark.parametrize(
    'options, words',
    [
        (
            ['faces', '{people}', '--output', '{out}', '--min-images', '4'],
            'has 1 people with pictures that can be packed',
        ),
        (
            ['faces', '{people}', '--output', '{out}', '--pairs', '10', '--share', '0.9'],
            '5 people are too few for a training',
        ),
        (['faces', '{people}', '--output', '{out}', '--pairs', '5000'], 'take --pairs 18 at most'),
        (
            ['faces', '{few}', '--output', '{out}', '--pairs', '10'],
            '2 pairs of the same person and 4 of different people; take more people by --share',
        ),
        (['faces', '{people}/nothing', '--output', '{out}'], 'cannot read'),
        (['faces', '{people}', '--output', '{out}', '--landmarks', '{people}/x.csv'], 'cannot read'),
        (['faces', '{people}', '--output', '{people}/d/0.jpg'], 'cannot write to'),
        (['classes', '{people}/d', '--output', '{out}/x.rec'], 'has 0 folders of classes'),
        (['classes', '{people}', '--output', '{out}/x.txt'], 'does not end in .rec'),
        (['classes', '{empty}', '--output', '{out}/x.rec'], 'has no picture; remove it, or put pictures into it'),
        ([], 'say what to pack: faces, classes'),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(run_tool, people, tmp_path, options, words):
    for name in 'ab':
        (tmp_path / 'empty' / name).mkdir(parents=True)
    for name in 'abcd':
        write_person(tmp_path / 'few', name, 2, np.random.RandomState(0))
    names = {'people': str(people), **{name: str(tmp_path / name) for name in ('out', 'empty', 'few')}}
    code, out, err = run_tool(pack, *[option.format(**names) for option in options])
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / 'out').exists()


def test_classes_become_a_record_file(run_tool, people, tmp_path):
    Image.new('RGB', (600, 300), (10, 200, 30)).save(str(people / 'd' / 'wide.png'))
    Image.new('RGB', (50, 50)).save(str(people / 'd' / 'small.png'))
    (people / 'd' / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
    output = str(tmp_path / 'out' / 'train.rec')
    code, out, err = run_tool(pack, 'classes', str(people), '--output', output, '--resize', '100')
    assert code == 0 and '17 images of 5 classes' in out and 'cut.jpg' in out, err
    record, found = mx.recordio.MXRecordIO(output, 'r'), []
    while True:
        content = record.read()
        if content is None:
            break
        header, image = mx.recordio.unpack(content)
        found.append((int(header.label), Image.open(io.BytesIO(image)).size))
    labels = [label for label, _ in found]
    assert labels != sorted(labels)  # a trainer that reads from the front sees all classes
    assert sorted(labels) == [0] * 4 + [1] * 3 + [2] * 5 + [3] * 3 + [4] * 2
    assert (2, (50, 50)) in found and (2, (200, 100)) in found  # nothing is enlarged
    assert {size for _, size in found} == {(50, 50), (100, 100), (200, 100)}


def test_a_failing_write_leaves_nothing(people, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, 'write_faces', lambda folder, *_: open(os.path.join(folder, 'train.rec'), 'w').close())
    with pytest.raises(UserError, match='could not be written completely'):
        packing.pack_faces(str(people), str(tmp_path / 'set'), packing.Options())
    assert not (tmp_path / 'set').exists()


def test_many_people_are_paired_without_listing_all_pairs():
    people = [packing.Person(str(number), [b'%d %d' % (number, image) for image in range(3)]) for number in range(700)]
    images, same = packing.draw_pairs(people, packing.Options(pairs=3000))
    assert len(same) == 3000 and sum(same) == 1500
    owners = [content.split()[0] for content in images]
    assert [first == second for first, second in zip(owners[0::2], owners[1::2])] == same
    assert len({frozenset(pair) for pair in zip(images[0::2], images[1::2])}) == 3000


# ------------------------------------------------------------------------------------- landmarks of faces


def seen_in(change, seed):
    """Return where a drawn face differs in red if `change`, {part: colour}, recolours it, and its landmarks."""
    both = []
    for changes in ({}, change):
        rng = np.random.RandomState(seed)
        identity = faces.draw_identity(rng)._replace(beard=0.0, **changes)
        both.append(faces.draw_with_landmarks(identity, rng))
    (first, points), (second, _) = both
    return np.abs(first.astype(int) - second).sum(axis=2) > 60, first, points


@pytest.mark.parametrize('seed', [0, 4, 7, 8, 15, 19])
def test_landmarks_of_drawn_faces_are_where_the_parts_are(seed):
    """Lips and irises are found by recolouring them and nothing else."""
    mask, _, points = seen_in({'lips': (255, 0, 255)}, seed)
    rows, columns = np.nonzero(mask)
    left, right = columns.argmin(), columns.argmax()
    for found, expected in ((left, points[3]), (right, points[4])):
        assert (
            np.hypot(columns[found] - expected[0], rows[found] - expected[1]) < 1.2
        )  # the mouth's ends are thinner than a pixel
    mask, _, points = seen_in({'iris': (255, 0, 0)}, seed)
    rows, columns = np.nonzero(mask)
    for half, expected in ((columns < 56, points[0]), (columns >= 56, points[1])):
        assert abs(columns[half].mean() - expected[0]) < 0.5 and abs(rows[half].mean() - expected[1]) < 0.5


def test_drawn_faces_are_aligned_by_their_landmarks_within_a_pixel(run_tool, tmp_path):
    """Turned, enlarged, moved, then packed with --landmarks: the lips come to where the template has them.

    Red lips are found in the packed images; the ends of the mouth, which five points of another face can only meet as
    well as a similarity does, are compared with the similarity that NumPy's least squares finds.
    """
    rows, expected = [], []
    for person in range(2):
        (tmp_path / 'people' / str(person)).mkdir(parents=True)
        for number, seed in enumerate((0, 4, 7)):
            _, image, points = seen_in({}, seed)
            mask, _, _ = seen_in({'lips': (255, 0, 255)}, seed)
            picture = Image.fromarray(np.where(mask[..., None], (255, 0, 255), image // 3).astype(np.uint8))
            turned = picture.transform((300, 300), Image.AFFINE, (0.6, 0.1, -20, -0.1, 0.6, -15), Image.BILINEAR)
            inverse = np.linalg.inv([[0.6, 0.1, -20], [-0.1, 0.6, -15], [0, 0, 1]])
            moved = (np.column_stack([points + 0.5, np.ones(5)]) @ inverse.T)[:, :2] - 0.5
            path = tmp_path / 'people' / str(person) / f'{number}.png'
            turned.save(str(path))
            rows.append(f'{person}/{number}.png,' + ','.join(map(str, moved.ravel())))
            # x' = a·x - b·y + c, y' = b·x + a·y + d
            system = np.vstack([[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in points])
            a, b, c, d = np.linalg.lstsq(system, alignment.TEMPLATE.ravel(), rcond=None)[0]
            lips = np.column_stack(np.nonzero(mask)[::-1]).mean(axis=0)
            expected.append((a * lips[0] - b * lips[1] + c, b * lips[0] + a * lips[1] + d))
    (tmp_path / 'l.csv').write_text('\n'.join(rows))
    output, people = str(tmp_path / 'set'), str(tmp_path / 'people')
    code, _, err = run_tool(pack, 'faces', people, '--output', output, '--landmarks', str(tmp_path / 'l.csv'))
    assert code == 0, err
    records = FaceRecords(output, (112, 112, 3))
    for position, (x, y) in enumerate(expected):
        image = records[position][1].astype(int)
        found = np.nonzero((image[..., 0] > 150) & (image[..., 2] > 150) & (image[..., 1] < 110))
        assert np.hypot(found[1].mean() - x, found[0].mean() - y) < 1, position


def detection_model(path, points, side=640, stride=32):
    """Write an ONNX file in the form of insightface's detectors (SCRFD) that finds a face in red pictures.

    Outputs are scores, boxes and landmarks of strides 8, 16 and 32, two anchors a cell; distances are in strides.
    """
    outputs, initializers = [], []
    # 1 where the first channel, red, is larger on average than the last, else 0.
    initializers.append(onnx.numpy_helper.from_array(np.array([1, 0, -1], np.float32).reshape(1, 3, 1, 1), 'channels'))
    nodes = [
        onnx.helper.make_node('Mul', ['input.1', 'channels'], ['weighted']),
        onnx.helper.make_node('ReduceMean', ['weighted'], ['difference'], keepdims=0),
        onnx.helper.make_node('Sign', ['difference'], ['sign']),
        onnx.helper.make_node('Relu', ['sign'], ['is_red']),
    ]
    for kind, width in (('score', 1), ('box', 4), ('points', 10)):
        for of in (8, 16, 32):
            values = np.zeros(((side // of) ** 2 * 2, width), np.float32)
            if of == stride and points is not None:
                cell = 10 * (side // of) + 8  # at (8, 10)
                anchor = np.array([8, 10]) * of
                row = {'score': [0.9], 'box': [2, 2, 2, 2], 'points': ((points - anchor) / of).ravel()}[kind]
                values[2 * cell] = row
            name = f'{kind}{of}'
            initializers.append(onnx.numpy_helper.from_array(values, name + '_values'))
            nodes.append(onnx.helper.make_node('Mul', [name + '_values', 'is_red'], [name]))
            outputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape))
    image = onnx.helper.make_tensor_value_info('input.1', onnx.TensorProto.FLOAT, [1, 3, side, side])
    graph = onnx.helper.make_graph(nodes, 'detector', [image], outputs, initializers)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 11)], ir_version=8), path)


def test_faces_are_found_by_a_detection_model(run_tool, tmp_path):
    """The packed image is the one that the same landmarks in a file give."""
    pytest.importorskip('insightface')
    points, rows = np.array(alignment.TEMPLATE) * 2 + (150, 200), []
    for name in 'ab':
        (tmp_path / 'people' / name).mkdir(parents=True)
        for number in range(2):
            red = np.asarray(face_with_landmarks(points, 640)) * np.array([1, 0, 0], np.uint8)
            Image.fromarray(red).save(str(tmp_path / 'people' / name / f'{number}.png'))
            rows.append(f'{name}/{number}.png,' + ','.join(map(str, points.ravel())))
    (tmp_path / 'l.csv').write_text('\n'.join(rows))
    detection_model(str(tmp_path / 'det.onnx'), points)
    people = str(tmp_path / 'people')
    for name, *option in (('found', '--detect', 'det.onnx'), ('told', '--landmarks', 'l.csv')):
        option[1] = str(tmp_path / option[1])
        code, out, err = run_tool(pack, 'faces', people, '--output', str(tmp_path / name), *option)
        assert code == 0 and '4 images of 2 people' in out, err
    found, told = (FaceRecords(str(tmp_path / name), (112, 112, 3))[0][1].astype(int) for name in ('found', 'told'))
    assert found.max() > 200 and np.abs(found - told).max() <= 6
    detection_model(str(tmp_path / 'blind.onnx'), None)
    options = ['--output', str(tmp_path / 'none'), '--detect', str(tmp_path / 'blind.onnx')]
    code, out, err = run_tool(pack, 'faces', people, *options)
    assert code == 2 and 'has no face that the detector finds' in out + err and not (tmp_path / 'none').exists()


def test_what_is_no_detection_model(run_tool, people, tmp_path):
    pytest.importorskip('insightface')
    (tmp_path / 'text.onnx').write_text('no model')
    image = onnx.helper.make_tensor_value_info('data', onnx.TensorProto.FLOAT, [1, 3, 112, 112])
    output = onnx.helper.make_tensor_value_info('out', onnx.TensorProto.FLOAT, [1, 3, 1, 1])
    nodes = [onnx.helper.make_node('GlobalAveragePool', ['data'], ['out'])]
    graph = onnx.helper.make_graph(nodes, 'mean', [image], [output])
    opsets = [onnx.helper.make_opsetid('', 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), str(tmp_path / 'face.onnx'))
    for name, words in (
        ('missing.onnx', 'no such file'),
        ('text.onnx', 'is not a model that insightface can run'),
        ('face.onnx', 'is not a detection model with five landmarks'),
    ):
        options = ['--output', str(tmp_path / 'out'), '--detect', str(tmp_path / name)]
        code, out, err = run_tool(pack, 'faces', str(people), *options)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err


# ------------------------------------------------------------------------------- what a second reader found


def test_a_set_of_pairs_is_not_left_beside_a_training_that_may_hold_its_people(run_tool, people, tmp_path):
    output = str(tmp_path / 'set')
    assert run_tool(pack, 'faces', str(people), '--output', output, '--pairs', '10', '--share', '0.4')[0] == 0
    code, _, err = run_tool(pack, 'faces', str(people), '--output', output)
    assert code == 2 and 'pairs.bin may be of an earlier packing' in err
    os.remove(os.path.join(output, 'pairs.bin'))
    assert run_tool(pack, 'faces', str(people), '--output', output)[0] == 0


def test_the_list_names_the_pictures_in_the_order_of_the_records(run_tool, people, tmp_path):
    output = str(tmp_path / 'set')
    assert run_tool(pack, 'faces', str(people), '--output', output)[0] == 0
    rows = [line.split('\t') for line in (tmp_path / 'set' / 'train.lst').read_text().splitlines()]
    images, _ = read_by_mxnet(output)
    assert len(rows) == len(images) > 5
    for (_, path, label), (expected, content) in zip(rows, images):
        assert int(label) == expected and open(path, 'rb').read() == content


def test_names_that_are_no_text_or_hold_tabs(run_tool, tmp_path):
    rng = np.random.RandomState(0)
    folder = tmp_path / 'people'
    for name in ('a', os.fsdecode(b'p\xff1'), 'tab\there'):
        write_person(folder, name, 2, rng)
    code, out, err = run_tool(pack, 'faces', str(folder), '--output', str(tmp_path / 'set'))
    assert code == 0 and '4 images of 2 people' in out and 'has a tab or a line break' in ' '.join(out.split()), err
    assert b'p\xff1' in (tmp_path / 'set' / 'train.lst').read_bytes()


def test_landmarks_with_absolute_paths_outside_and_without_a_heading(run_tool, tmp_path, monkeypatch):
    points = np.array(alignment.TEMPLATE) * 2
    for name in 'ab':
        (tmp_path / 'people' / name).mkdir(parents=True)
        for number in range(2):
            face_with_landmarks(points, 230).save(str(tmp_path / 'people' / name / f'{number}.png'))
    rows = [
        f'{tmp_path}/people/{name}/{number}.png,' + ','.join(map(str, points.ravel()))
        for name in 'ab'
        for number in range(2)
    ]
    monkeypatch.chdir(tmp_path)
    listing = tmp_path / 'l.csv'
    for first, words in ((rows[0], '4 images'), (rows[0] + 'x', 'l.csv:1 is not a path and ten numbers')):
        listing.write_text('\n'.join([first, *rows[1:]]))
        _, out, err = run_tool(pack, 'faces', 'people', '--output', 'set', '--landmarks', 'l.csv')
        assert words in out + err
    far = rows[0].split(',')[0] + ',' + ','.join(map(str, (points * 100).ravel()))
    listing.write_text('\n'.join([far, *rows[1:]]))
    options = ['--output', 'most', '--landmarks', 'l.csv', '--min-images', '1']
    code, out, err = run_tool(pack, 'faces', 'people', *options)
    assert code == 0 and '3 images of 2 people' in out and 'outside the picture' in ' '.join(out.split()), err


def test_folders_that_are_no_classes(run_tool, people, tmp_path):
    (people / '.git').mkdir()
    options = ['--output', str(tmp_path / 'train.rec')]
    code, out, err = run_tool(pack, 'classes', str(people), *options)
    assert code == 0 and 'images of 5 classes' in out and 'is hidden' in out, err
    (people / 'empty').mkdir()
    code, _, err = run_tool(pack, 'classes', str(people), *options)
    assert code == 2 and 'empty has no picture; remove it, or put pictures into it' in err
    (people / 'empty' / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
    code, _, err = run_tool(pack, 'classes', str(people), *options)
    assert code == 2 and 'empty has no picture that can be packed' in err


def test_a_picture_too_long_to_be_scaled_is_left_out(run_tool, people, tmp_path):
    Image.new('RGB', (1, 5000)).save(str(people / 'd' / 'long.png'))
    code, out, err = run_tool(pack, 'classes', str(people), '--output', str(tmp_path / 'train.rec'))
    assert code == 0 and 'images of 5 classes' in out, err  # it is packed as it is: nothing is enlarged
    with pytest.raises(ValueError, match='too long and narrow to be scaled'):
        images.centre(Image.new('RGB', (1, 5000)), 256, 224)


def test_too_few_pairs_are_refused(run_tool, people, tmp_path):
    code, _, err = run_tool(pack, 'faces', str(people), '--output', str(tmp_path / 'set'), '--pairs', '6')
    assert code == 2 and '6 pairs are too few for 10 folds' in err


def test_classes_for_which_the_disk_has_no_room(run_tool, people, tmp_path, monkeypatch):
    def write(*_):
        raise mx.MXNetError('Check failed: std: :fwrite(ptr, 1, size, fp_) == size: FileStream.Write incomplete')

    monkeypatch.setattr(mx.recordio.MXRecordIO, 'write', write)
    code, _, err = run_tool(pack, 'classes', str(people), '--output', str(tmp_path / 'out' / 'x.rec'))
    assert code == 2 and 'x.rec could not be written completely, perhaps because the disk is full: ' in err
    assert err.count('\n') == 1 and not (tmp_path / 'out').exists()


class Model:
    """A detection model that finds a face in the middle, at points that are known, where there is room around it."""

    def __init__(self, room=0, turned=0, finds=True):
        self.room, self.turned, self.finds, self.seen = room, turned, finds, 0

    def detect(self, image, max_num):
        self.seen += 1
        height, width = image.shape[:2]
        border = 0 if image[:, 0].any() else width // 6  # a quarter of a side on both ends is a sixth of the whole
        if not self.finds or border < self.room:
            return np.zeros((0, 5)), np.zeros((0, 5, 2))
        points = (np.array(alignment.TEMPLATE) - 56) * (width - 2 * border) / 224
        angle = np.radians(self.turned)
        points = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return np.ones((1, 5)), points[None] + (width / 2, height / 2)


def detector_of(**options):
    """Return a Detector with a Model."""
    found = detect.Detector.__new__(detect.Detector)
    found.model, found.without = Model(**options), 0
    return found


def test_a_face_without_room_around_it_is_found_with_a_border():
    """Its landmarks are those of the picture without one."""
    image = Image.new('RGB', (96, 96), 'white')
    expected = detector_of()('x', image)
    np.testing.assert_allclose(detector_of(room=10)('x', image), expected)
    with pytest.raises(Unusable, match='has no face that the detector finds'):
        detector_of(room=40)('x', image)


@pytest.mark.parametrize('turned, is_used', [(0, True), (-50, True), (70, False), (180, False)])
def test_a_face_that_is_turned(turned, is_used):
    """Upside down a detector takes one thing for the other."""
    with contextlib.nullcontext() if is_used else pytest.raises(Unusable, match='is turned by (70|180) degrees'):
        detector_of(turned=turned)('x', Image.new('RGB', (96, 96), 'white'))


def test_a_hundred_pictures_without_a_face_are_enough():
    blind, image = detector_of(finds=False), Image.new('RGB', (96, 96), 'white')
    for number in range(199):
        if number == 99:
            blind.model.finds = True
            blind('x', image)  # one face, and the count begins again
            blind.model.finds = False
            continue
        with pytest.raises(Unusable):
            blind('x', image)
    with pytest.raises(UserError, match='^100 pictures in a row have no face .*, the last is last.png'):
        blind('last.png', image)


def test_what_was_detected_is_not_lost(people, tmp_path, run_tool, monkeypatch):
    """By an interruption, or pairs that do not fit; not even where the file ends within a line."""
    model = Model()
    monkeypatch.setattr(pack, 'Detector', lambda path: detector_of())
    monkeypatch.setattr(detect.Detector, 'found', lambda self, image: model.detect(np.asarray(image), 1)[1][0])
    options = ['faces', str(people), '--detect', 'x.onnx', '--output', str(tmp_path / 'out')]
    code, out, err = run_tool(pack, *options, '--pairs', '5000')
    assert code == 2 and '--pairs 5000' in err and not (tmp_path / 'out').exists()
    kept, pictures = tmp_path / 'out.x.landmarks.csv', model.seen
    assert pictures > 10 and len(kept.read_text().splitlines()) == pictures and str(kept) in out
    kept.write_text(kept.read_text()[:-20])
    assert run_tool(pack, *options)[0] == 0 and model.seen == pictures + 1
    found = (tmp_path / 'out' / 'train.rec').read_bytes()
    again = ['faces', str(people), '--landmarks', str(kept), '--output', str(tmp_path / 'told')]
    assert run_tool(pack, *again)[0] == 0 and (tmp_path / 'told' / 'train.rec').read_bytes() == found


def test_a_file_that_is_no_list_of_landmarks_stays(tmp_path):
    """Nor is a picture that is newer than the list taken for the one in it."""
    notes, kept = tmp_path / 'notes.csv', tmp_path / 'kept.csv'
    for text in ('my notes', 'my notes\nand more\n'):
        notes.write_text(text)
        with pytest.raises(UserError, match='is not a list of landmarks; move it away'):
            detect.Remembering(None, str(notes), str(tmp_path))
        assert notes.read_text() == text
    picture = tmp_path / 'x.png'
    picture.write_bytes(b'')
    kept.write_text('x.png,' + ','.join('1' * 10) + '\n')
    for later, expected in ((-100, 1), (100, 2)):
        os.utime(str(picture), (kept.stat().st_mtime + later,) * 2)
        find = detect.Remembering(lambda *_: np.full((5, 2), 2.0), str(kept), str(tmp_path))
        assert (find(str(picture), None) == expected).all()


def test_other_kinds_of_pictures_and_hidden_files(tmp_path, run_tool):
    rng = np.random.RandomState(0)
    for name in 'ab':
        (tmp_path / 'people' / name).mkdir(parents=True)
        for ending, kind in (('jfif', 'JPEG'), ('gif', 'GIF'), ('pgm', 'PPM')):
            image = Image.fromarray(rng.randint(0, 256, (112, 112, 3), np.uint8))
            image = image.convert('L') if ending == 'pgm' else image
            image.save(str(tmp_path / 'people' / name / f'x.{ending}'), kind)
        (tmp_path / 'people' / name / '._x.jpg').write_bytes(b'of macOS')
        (tmp_path / 'people' / name / 'y.heic').write_bytes(b'none')
    code, out, err = run_tool(pack, 'faces', str(tmp_path / 'people'), '--output', str(tmp_path / 'out'))
    assert code == 0 and '6 images of 2 people' in out and '._x' not in out, err
    assert 'skipped: 2, listed in' in ' '.join(out.split())
    with open(str(tmp_path / 'out' / 'skipped.csv'), newline='') as file:
        rows = list(csv.reader(file))
    assert [os.path.basename(row[0]) for row in rows] == ['path', 'y.heic', 'y.heic']


def test_a_name_that_would_break_a_list(people, tmp_path, run_tool):
    """And what was skipped before is listed no more."""
    source = tmp_path / 'people'
    shutil.copytree(str(people), str(source))
    folder = next(path for path in source.iterdir() if len(list(path.iterdir())) > 2)
    picture = next(iter(sorted(folder.iterdir())))
    picture.rename(folder / 'a\tb\n.jpg')
    options = ['faces', str(source), '--output', str(tmp_path / 'out')]
    assert run_tool(pack, *options)[0] == 0
    listed = (tmp_path / 'out' / 'train.lst').read_text().splitlines()
    assert all(len(line.split('\t')) == 3 for line in listed)
    assert 'has a tab or a line break in its name' in (tmp_path / 'out' / 'skipped.csv').read_text()
    (folder / 'a\tb\n.jpg').unlink()
    assert run_tool(pack, *options)[0] == 0
    assert 'has a tab' not in (tmp_path / 'out' / 'skipped.csv').read_text()


def test_skipped_files_are_counted_by_reason():
    skipped = {'a': 'is of 96×96 pixels', 'b': 'is of 80×96 pixels', 'c': 'is hidden', 'd': 'is of 1×1 pixels'}
    assert packing.counted(skipped) == [('is of 96×96 pixels', 3, 'a'), ('is hidden', 1, 'c')]
