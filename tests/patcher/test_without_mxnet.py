"""The stand-in for MXNet that --without-mxnet puts into arcface_torch, against MXNet; and the blocks for today."""

import importlib.util
import io
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from kills import killed
from PIL import Image

import patch_insightface as command
from helpers import PATIENCE, snapshot
from host.layouts import lay_out_torch
from netkit._mxnet import mx
from patcher import modern, source

cv2 = pytest.importorskip('cv2')


def lay_out(folder):
    """Put the stand-in into a folder, as the patch does."""
    for name, content in modern.stand_in().items():
        path = os.path.join(folder, *name.split('/'))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(content)


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
    """The stand-in, under another name than MXNet's."""
    folder = str(tmp_path_factory.mktemp('stand-in'))
    lay_out(folder)
    path = os.path.join(folder, 'mxnet')
    spec = importlib.util.spec_from_file_location(
        'stand_in', os.path.join(path, '__init__.py'), submodule_search_locations=[path]
    )
    sys.modules['stand_in'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules['stand_in'])
    yield sys.modules['stand_in']
    for name in [name for name in sys.modules if name.partition('.')[0] == 'stand_in']:
        del sys.modules[name]


def encoded(kind, size=(61, 47), mode='RGB', **options):
    """Return an image in a format of Pillow's: noise of large pixels, so that JPEG has something to keep."""
    random = np.random.RandomState(0)
    image = Image.fromarray(random.randint(0, 256, (8, 8, 3)).astype(np.uint8)).resize(size, Image.BICUBIC)
    stream = io.BytesIO()
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter turn
IMAGES = {
    'JPEG': encoded('JPEG'),
    'JPEG with half the colours': encoded('JPEG', quality=70, subsampling=2),
    'progressive JPEG': encoded('JPEG', progressive=True),
    'grey JPEG': encoded('JPEG', mode='L'),
    'turned JPEG': encoded('JPEG', exif=TURNED),
    'PNG': encoded('PNG'),
    'PNG with transparency': encoded('PNG', mode='RGBA'),
}


@pytest.mark.parametrize('name', IMAGES)
def test_images_are_decoded_as_by_mxnet(ours, name):
    for options in ({}, {'to_rgb': False}, {'flag': 0}):
        expected = mx.image.imdecode(IMAGES[name], **options).asnumpy()
        found = ours.image.imdecode(IMAGES[name], **options)
        assert found.shape == expected.shape and found.dtype == np.uint8
        np.testing.assert_array_equal(found.asnumpy(), expected)


@pytest.mark.parametrize('size', [(61, 47), (47, 61), (150, 112), (112, 112)])
def test_images_are_resized_as_by_mxnet(ours, size):
    """By less than the rounding of a pixel's value: the two have other versions of OpenCV."""
    image = encoded('PNG', size)
    expected = mx.image.resize_short(mx.image.imdecode(image), 112).asnumpy().astype(int)
    found = ours.image.resize_short(ours.image.imdecode(image), 112)
    assert found.shape == expected.shape
    assert np.abs(found.asnumpy() - expected).max() <= 1


def test_arrays_as_verification_uses_them(ours):
    """`ours.nd` is `ndarray`; torch.from_numpy needs arrays without negative strides."""
    image, expected = ours.image.imdecode(IMAGES['PNG']), mx.image.imdecode(IMAGES['PNG'])
    moved = ours.nd.transpose(image, axes=(2, 0, 1))
    flipped = ours.ndarray.flip(data=moved, axis=2).asnumpy()
    np.testing.assert_array_equal(flipped, mx.nd.flip(mx.nd.transpose(expected, axes=(2, 0, 1)), axis=2).asnumpy())
    assert min(flipped.strides) > 0 and len(image) == len(expected)


def test_bytes_that_are_no_image(ours):
    for data in (b'', b'no image'):
        with pytest.raises(ValueError, match='bytes are not an image'):
            ours.image.imdecode(data)


MAGIC = b'\x0a\x23\xd7\xce'
CONTENTS = [b'', b'a', b'abcd' * 5, MAGIC, b'abcd' + MAGIC, b'ab' + MAGIC + b'cd', MAGIC * 3 + b'x', b'abc' + MAGIC * 2]


@pytest.mark.parametrize('writes, reads', [('ours', 'mxnet'), ('mxnet', 'ours'), ('ours', 'ours')])
def test_records_are_those_of_mxnet(ours, tmp_path, writes, reads):
    """Also where the data contain the number that begins a record."""
    modules = {'ours': ours.recordio, 'mxnet': mx.recordio}
    paths = str(tmp_path / 'x.idx'), str(tmp_path / 'x.rec')
    contents = []
    record = modules[writes].MXIndexedRecordIO(*paths, 'w')
    for number, content in enumerate(CONTENTS):
        for label in (3.0, [1.5, 2.5], np.arange(3)):
            packed = modules[writes].pack(modules[writes].IRHeader(0, label, number, 7), content)
            assert packed == mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 7), content)
            record.write_idx(10 * len(contents), packed)
            contents.append(packed)
    record.close()
    record = modules[reads].MXIndexedRecordIO(*paths, 'r')
    assert list(record.keys) == [10 * number for number in range(len(contents))]
    for number, content in reversed(list(enumerate(contents))):
        assert record.read_idx(10 * number) == content
        (header, rest), (expected, other) = (module.unpack(content) for module in (ours.recordio, mx.recordio))
        assert rest == other and header._replace(label=0) == expected._replace(label=0)
        np.testing.assert_array_equal(header.label, expected.label)
    record.close()


def test_the_bytes_of_a_file_are_mxnets(ours, tmp_path):
    for name, module in {'ours': ours.recordio, 'mxnet': mx.recordio}.items():
        record = module.MXIndexedRecordIO(str(tmp_path / f'{name}.idx'), str(tmp_path / f'{name}.rec'), 'w')
        for number, content in enumerate(CONTENTS):
            record.write_idx(number, content)
        record.close()
    for end in ('idx', 'rec'):
        assert (tmp_path / f'ours.{end}').read_bytes() == (tmp_path / f'mxnet.{end}').read_bytes()


def written(ours, folder, count=200):
    """Write records of different lengths; return (open records, contents)."""
    paths = os.path.join(folder, 'x.idx'), os.path.join(folder, 'x.rec')
    contents = [bytes([number % 256]) * (number * 37 % 5000) for number in range(count)]
    record = ours.recordio.MXIndexedRecordIO(*paths, 'w')
    for number, content in enumerate(contents):
        record.write_idx(number, content)
    record.close()
    return ours.recordio.MXIndexedRecordIO(*paths, 'r'), contents


def test_forked_processes_read_at_once(ours, tmp_path):
    record, contents = written(ours, str(tmp_path))
    with multiprocessing.get_context('fork').Pool(4, initializer=set_record, initargs=(record,)) as pool:
        found = pool.map(read_one, list(range(len(contents))) * 20, chunksize=7)
    assert found == contents * 20


def set_record(record):
    globals()['_record'] = record


def read_one(number):
    return globals()['_record'].read_idx(number)


def test_a_spawned_process_opens_the_files_itself(ours, tmp_path):
    record, contents = written(ours, str(tmp_path))
    again = pickle.loads(pickle.dumps(record))
    record.close()
    assert [again.read_idx(number) for number in again.keys] == contents
    writing = ours.recordio.MXIndexedRecordIO(str(tmp_path / 'y.idx'), str(tmp_path / 'y.rec'), 'w')
    with pytest.raises(ValueError, match='is being written'):
        pickle.dumps(writing)


def test_damaged_records(ours, tmp_path):
    record, _ = written(ours, str(tmp_path))
    with open(str(tmp_path / 'x.rec'), 'r+b') as file:
        file.truncate(os.path.getsize(str(tmp_path / 'x.rec')) - 100)
    with pytest.raises(ValueError, match='x.rec, record 199: the file ends within the record'):
        record.read_idx(199)
    with pytest.raises(KeyError):
        record.read_idx(200)
    (tmp_path / 'x.idx').write_text('0\t0\nnone\n')
    with pytest.raises(ValueError, match='x.idx:2 is not a number, a tab and an offset'):
        ours.recordio.MXIndexedRecordIO(str(tmp_path / 'x.idx'), str(tmp_path / 'x.rec'), 'r')
    with pytest.raises(ValueError, match="flag='a' is neither"):
        ours.recordio.MXIndexedRecordIO('x.idx', 'x.rec', 'a')


@pytest.mark.parametrize('name', ['sym', 'nd.array', 'image.imread', 'recordio.pack_img', 'gluon.nn', 'io.DataBatch'])
def test_what_else_is_asked_for_is_named(ours, name):
    *within, last = name.split('.')
    module = ours
    for part in within:
        module = getattr(module, part)
    with pytest.raises(AttributeError, match=rf'mxnet\.[\w.]*{last} is not in the stand-in for MXNet'):
        getattr(module, last)


def tree(folder, names=('b', 'a', 'c')):
    """Write a folder of pictures for each name, and a file that is not an image."""
    for name in names:
        os.makedirs(os.path.join(folder, name))
        for number in range(3):
            Image.fromarray(np.full((20, 24, 3), 40 * number, np.uint8)).save(
                os.path.join(folder, name, f'{number}.png')
            )
    with open(os.path.join(folder, 'a', 'none.jpg'), 'w') as file:
        file.write('no image')


def test_im2rec_is_mxnets(tmp_path):
    """The lists are equal to the byte, and what is packed by number, label and pixels."""
    lay_out(str(tmp_path / 'ours'))
    tree(str(tmp_path / 'images'))
    for name, folder in {'ours': tmp_path / 'ours', 'mxnet': tmp_path / 'theirs'}.items():
        os.makedirs(str(folder), exist_ok=True)
        for options in (['--list', '--recursive'], ['--num-thread', '2', '--quality', '100']):
            done = subprocess.run(
                [sys.executable, '-m', 'mxnet.tools.im2rec', *options, 'train', '../images'],
                cwd=str(folder),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, done.stderr
        assert 'none.jpg' in done.stdout + done.stderr, name
    assert (tmp_path / 'ours' / 'train.lst').read_bytes() == (tmp_path / 'theirs' / 'train.lst').read_bytes()
    found = []
    for folder in ('ours', 'theirs'):
        paths = (str(tmp_path / folder / f'train.{end}') for end in ('idx', 'rec'))
        record = mx.recordio.MXIndexedRecordIO(*paths, 'r')
        items = [(number, *mx.recordio.unpack(record.read_idx(number))) for number in record.keys]
        found.append([(number, header, mx.image.imdecode(data).asnumpy().tolist()) for number, header, data in items])
    assert found[0] == found[1] and len(found[0]) == 9
    assert {header.label for _, header, _ in found[0]} == {0, 1, 2}


def test_im2rec_without_a_list(tmp_path):
    lay_out(str(tmp_path))
    done = subprocess.run(
        [sys.executable, '-m', 'mxnet.tools.im2rec', 'train', '.'], cwd=str(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith('im2rec: ') and 'train.lst' in done.stderr
    (tmp_path / 'train.lst').write_text('no line of a list\n')
    done = subprocess.run(
        [sys.executable, '-m', 'mxnet.tools.im2rec', 'train', '.'], cwd=str(tmp_path), capture_output=True, text=True
    )
    assert (
        done.returncode == 2 and done.stderr == 'im2rec: train.lst:1 is not number, label and path, with tabs between\n'
    )
    assert sorted(os.listdir(str(tmp_path))) == ['mxnet', 'scripts', 'train.lst']


def test_a_script_in_another_folder_finds_it(tmp_path):
    lay_out(str(tmp_path))
    (tmp_path / 'scripts' / 'shuffle.py').write_text(
        'import mxnet as mx\nfrom mxnet import ndarray as nd\n'
        'print(mx.recordio.pack(mx.recordio.IRHeader(0, 1, 2, 3), b"") != b"", nd.flip.__module__)\n'
    )
    done = subprocess.run(
        [sys.executable, 'scripts/shuffle.py'], cwd=str(tmp_path), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == 'True mxnet.ndarray\n', done.stderr


# ------------------------------------------------------------------------------------------ the patch

SCHEDULER = """\
class PolynomialLRWarmup(_LRScheduler):
    def __init__(self, optimizer, last_epoch=-1, verbose=False):
        super().__init__(optimizer, last_epoch=last_epoch, verbose=verbose)
        self.power = 1
"""
VERIFICATION = """\
import numpy as np
from scipy import interpolate
from mxnet import ndarray as nd
import mxnet as mx


def threshold(far, thresholds, target):
    return interpolate.interp1d(far, thresholds, kind='slinear')(target)


def never_called(data):
    return mx.io.DataBatch(nd.slice_axis(data))
"""
NUMPY = 'import numpy as np\n\nprint(np.zeros(3).astype(np.int))\n'
OLD = {
    'lr_scheduler.py': SCHEDULER,
    'eval/verification.py': VERIFICATION,
    'eval_ijbc.py': NUMPY,
    'requirement.txt': 'tensorboard\neasydict\nmxnet\nonnx\nsklearn\nopencv-python',
    'torch2onnx.py': 'import torch\nimport numpy as np\n\nx = np.float\ntorch.onnx.export()\n',
    'utils/plot.py': NUMPY.replace('\n', '\r\n'),
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A miniature arcface_torch with the lines of old, patched by a Python that has no MXNet."""
    root = str(tmp_path / 'insightface')
    folder = lay_out_torch(root)
    for name, text in OLD.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), 'w', newline='') as file:
            file.write(text)
    monkeypatch.setattr(command, 'real_mxnet', lambda _: None)
    return root, folder


def content(folder, name):
    with open(os.path.join(folder, name), newline='') as file:
        return file.read()


def test_the_lines_that_today_refuses(checkout):
    root, folder = checkout
    before = snapshot(root)
    assert command.main([root, '--without-mxnet']) == 0
    assert '        super().__init__(optimizer, last_epoch=last_epoch)\n' in content(folder, 'lr_scheduler.py')
    assert [line for line in content(folder, 'requirement.txt').splitlines() if line[0] != '#'] == [
        'tensorboard',
        'easydict',
        'onnx',
        'scikit-learn',
        'opencv-python',
    ]
    for name in OLD:
        if name.endswith('.py'):
            compile(content(folder, name), name, 'exec')
    exporter = content(folder, 'torch2onnx.py')
    assert 'torch.onnx.export, dynamo=False)\nnp.float = float\n' in exporter
    assert exporter.index('import numpy') < exporter.index('np.float = float')
    found = subprocess.run([sys.executable, os.path.join(folder, 'eval_ijbc.py')], capture_output=True, text=True)
    assert found.stdout == '[0 0 0]\n', found.stderr
    assert content(folder, 'utils/plot.py').count('\r\n') == content(folder, 'utils/plot.py').count('\n') == 6
    after = snapshot(root)
    assert command.main([root]) == 0 and snapshot(root) == after  # what is there stays, and is up to date
    assert command.main([root, '--status']) == 0
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before


def test_a_later_version_brings_it_up_to_date(checkout, monkeypatch):
    root, folder = checkout
    before = snapshot(root)
    assert command.main([root, '--without-mxnet']) == 0
    newer = dict(modern.stand_in(), **{'mxnet/io.py': b'# newer\n'})
    del newer['mxnet/gluon.py']
    monkeypatch.setattr(modern, 'stand_in', lambda: newer)
    assert command.main([root, '--status']) == 1
    assert command.main([root]) == 0
    assert content(folder, 'mxnet/io.py') == '# newer\n'
    assert not os.path.exists(os.path.join(folder, 'mxnet', 'gluon.py'))
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before


def test_what_was_mended_by_hand_is_left_alone(checkout):
    root, folder = checkout
    mended = {
        'lr_scheduler.py': SCHEDULER.replace(', verbose=verbose', ''),
        'eval/verification.py': VERIFICATION.replace('interpolate.interp1d(far', 'np.interp(target, far'),
        'eval_ijbc.py': NUMPY.replace('np.int', 'int'),
        'utils/plot.py': NUMPY.replace('np.int', 'np.int64'),
        'requirement.txt': 'torch\n',
        'torch2onnx.py': 'import torch\n\ntorch.onnx.export(dynamo=False)\n',
    }
    for name, text in mended.items():
        with open(os.path.join(folder, name), 'w') as file:
            file.write(text)
    assert command.main([root, '--without-mxnet']) == 0
    assert {name: content(folder, name) for name in mended} == mended
    assert os.path.exists(os.path.join(folder, 'mxnet', 'recordio.py'))


@pytest.mark.parametrize(
    'line, name',
    [
        ('import mxnet as mx; mx.nd.array([1])', 'ndarray.array'),
        ('from mxnet.gluon.data import DataLoader', 'gluon.data.DataLoader'),
        ('from mxnet import nd\nnd.concat()', 'ndarray.concat'),
        ('import mxnet\nmxnet.mod.Module()', 'mod.Module'),
    ],
)
def test_a_version_that_needs_more_is_refused(checkout, line, name):
    root, folder = checkout
    with open(os.path.join(folder, 'onnx_ijbc.py'), 'w') as file:
        file.write(line + '\n')
    before = snapshot(root)
    with pytest.raises(source.Refusal, match=rf'onnx_ijbc.py:\d uses mxnet.{name}, which the stand-in'):
        command.main([root, '--without-mxnet'])
    assert snapshot(root) == before


def test_where_there_is_an_mxnet(checkout, monkeypatch):
    root, folder = checkout
    monkeypatch.setattr(command, 'real_mxnet', modern.real_mxnet)  # this Python has one
    with pytest.raises(source.Refusal, match='this Python has MXNet, in .*mxnet, which the stand-in would hide'):
        command.main([root, '--without-mxnet'])
    assert command.main([root, '--without-mxnet', '--force']) == 0
    assert os.path.exists(os.path.join(folder, 'mxnet', '__init__.py'))


def test_a_folder_of_the_users_own_is_not_replaced(checkout):
    root, folder = checkout
    os.mkdir(os.path.join(folder, 'mxnet'))
    with open(os.path.join(folder, 'mxnet', '__init__.py'), 'w') as file:
        file.write('# mine\n')
    before = snapshot(root)
    with pytest.raises(source.Refusal, match=r'mxnet/__init__.py is not what this plug-in put there'):
        command.main([root, '--without-mxnet'])
    assert snapshot(root) == before


def test_thresholds_are_those_of_the_old_scipy():
    """Of scipy 1.7.3, made with the lines below; false accept rates come in steps, therefore several are equal."""
    names = {'np': np}
    exec('\n'.join(modern.INTERPOLATION), names)
    interp1d = names['interpolate'].interp1d
    far = np.array([0, 0, 0.1, 0.1, 0.1, 0.3, 0.6, 0.6, 1.0])
    thresholds = np.arange(9) * 0.5
    found = [
        float(interp1d(far, thresholds, kind='slinear')(target)) for target in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6)
    ]
    assert found == pytest.approx([0.5, 0.75, 2.0, 2.25, 2.5, 2.5 + 1 / 3, 3.5])
    with pytest.raises(ValueError, match='0.001 is below all of x'):
        interp1d(np.array([0.2, 0.5]), thresholds[:2], kind='slinear')(0.001)


def test_files_of_the_users_own_are_not_looked_at(checkout):
    """In any encoding, with conflicts, as links, in environments; with the option, and without it."""
    root, folder = checkout
    own = {'mine.py': b'# caf\xe9\nimport numpy as np\nx = np.float\n', 'work.py': b'import mxnet as mx\nmx.nd.array\n'}
    own['venv/lib/site-packages/a.py'] = own['mine.py']
    own['merged.py'] = b'<<<<<<< HEAD\n'
    for name, content_of in own.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(content_of)
    os.symlink('eval_ijbc.py', os.path.join(folder, 'onnx_ijbc.py'))
    before = snapshot(root)
    for option in ([], ['--without-mxnet']):
        assert command.main([root, *option]) == 0
        assert {name: open(os.path.join(folder, name), 'rb').read() for name in own} == own
        assert os.path.islink(os.path.join(folder, 'onnx_ijbc.py'))
        assert command.main([root, '--status']) == 0
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before


def test_a_file_that_cannot_be_read_is_no_matter_without_the_option(checkout):
    root, folder = checkout
    with open(os.path.join(folder, 'eval_ijbc.py'), 'wb') as file:
        file.write(b'# caf\xe9\n')
    assert command.main([root]) == 0 and command.main([root, '--revert']) == 0
    with pytest.raises(source.Refusal, match='eval_ijbc.py:1 is not UTF-8'):
        command.main([root, '--without-mxnet'])


@pytest.mark.parametrize(
    'name, text',
    [
        ('requirement.txt', 'tensorboard\nmxnet==1.9.1\r\nsklearn==0.0\r\n'),
        ('requirement.txt', 'mxnet\n# was: foo\nsklearn'),
        ('lr_scheduler.py', SCHEDULER.replace('verbose)\n', 'verbose)\r\n')),
    ],
)
def test_what_could_not_be_restored_is_refused(checkout, name, text):
    root, folder = checkout
    with open(os.path.join(folder, name), 'w', newline='') as file:
        file.write(text)
    before = snapshot(root)
    with pytest.raises(source.Refusal, match='has line ends of two kinds, or a line that begins with "# was: "'):
        command.main([root, '--without-mxnet'])
    assert snapshot(root) == before


@pytest.mark.parametrize('text', ['mxnet', 'mxnet-cu112==1.9.1\nsklearn==0.0', 'sklearn\n\n'])
def test_requirements_come_back(checkout, text):
    root, folder = checkout
    with open(os.path.join(folder, 'requirement.txt'), 'w') as file:
        file.write(text)
    before = snapshot(root)
    assert command.main([root, '--without-mxnet']) == 0
    lines = [line for line in content(folder, 'requirement.txt').splitlines() if line and line[0] != '#']
    assert lines == ['scikit-learn'] * ('sklearn' in text)
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before


def test_mended_by_hand_after_the_patch(checkout):
    root, folder = checkout
    assert command.main([root, '--without-mxnet']) == 0
    text = content(folder, 'eval_ijbc.py').replace('astype(np.int)', 'astype(int)')
    with open(os.path.join(folder, 'eval_ijbc.py'), 'w') as file:
        file.write(text)
    assert command.main([root]) == 0
    assert content(folder, 'eval_ijbc.py') == NUMPY.replace('np.int', 'int')


def test_the_stand_in_is_named_where_its_record_is_lost(checkout, capsys):
    root, folder = checkout
    path = os.path.join(folder, 'backbones', '__init__.py')
    with open(path) as file:
        before = file.read()
    assert command.main([root, '--without-mxnet']) == 0
    with open(path, 'w') as file:
        file.write(before)
    assert command.main([root, '--revert']) == 0
    assert 'Note: recognition/arcface_torch/mxnet/recordio.py stays' in capsys.readouterr().out


def test_a_killed_run_is_undone(checkout):
    """At any of its changes, by the next run."""
    root, folder = checkout
    before = snapshot(root)
    for place in (1, 20, 45, 58):
        assert killed(place, command.main, [root, '--without-mxnet'])
        assert command.main([root, '--revert']) == 0
        assert snapshot(root) == before


def test_what_a_reader_cannot_do(ours, tmp_path):
    record, _ = written(ours, str(tmp_path))
    with pytest.raises(AttributeError, match='MXIndexedRecordIO.seek is not in the stand-in'):
        record.seek(1)
    with pytest.raises(ValueError, match="write_idx needs it open with flag 'w'"):
        record.write_idx(1, b'')
    record.close()
    with pytest.raises(ValueError, match='x.rec is closed; read_idx needs'):
        record.read_idx(1)
    with pytest.raises(AttributeError, match='NDArray.astype is not in the stand-in'):
        ours.image.imdecode(IMAGES['PNG']).astype('float32')
    dataset = importlib.import_module('stand_in.gluon.data').Dataset
    assert dataset is ours.gluon.data.Dataset
