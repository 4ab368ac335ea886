"""Damage files at random and check that each is read correctly or refused with one sentence.

    python benchmarks/fuzz.py --minutes 60

Every reader of foreign files gets valid files with bytes changed, removed, doubled and swapped, and pickles with
other names. The program stops at an error other than a refusal, a new file, a reader that takes over a minute, or an
archive with checksums that is read differently. It stores the file that caused this in out/.
"""

import argparse
import contextlib
import functools
import io
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, 'tools'), os.path.join(ROOT, 'tests'), ROOT]

from netkit.project import find_builders  # noqa: E402

find_builders()

from PIL import Image  # noqa: E402

import patch_insightface  # noqa: E402
from helpers import snapshot  # noqa: E402
from host.layouts import lay_out  # noqa: E402
from netkit import checkpoints, state_dict  # noqa: E402
from netkit._mxnet import mx  # noqa: E402
from netkit.data.landmarks import read_landmarks  # noqa: E402
from netkit.data.pairs import read_pairs  # noqa: E402
from netkit.data.records import FaceRecords, image_shape_of  # noqa: E402
from netkit.data.synthetic import write_synthetic  # noqa: E402
from netkit.deploy.exporting import save_onnx  # noqa: E402
from netkit.deploy.plain import plain  # noqa: E402
from netkit.errors import UserError  # noqa: E402
from netkit.evaluation.engines import OnnxEngine  # noqa: E402
from netkit.graph.nodes import Graph  # noqa: E402
from netkit.graph.symbol_json import load_symbol  # noqa: E402
from netkit.networks import build  # noqa: E402
from netkit.training import state  # noqa: E402

SHAPE, SLOW = (112, 112, 3), 60  # seconds
WITH_CHECKSUMS = 'pt', 'npz'  # zip archives: the values read are the values written
CONFIG = os.path.join('checkout', 'recognition', 'arcface_mxnet', 'config.py')


def read_set(folder):
    """Read a whole data set."""
    image_shape_of(folder)
    records = FaceRecords(folder, SHAPE, 'skip')
    return [records[number] for number in range(len(records))]


def read_onnx(path):
    """Open an ONNX file and compute with it."""
    engine = OnnxEngine(path, 1)
    return engine(np.zeros((1, 3, *engine.image_shape[:2]), np.float32))


def patch_and_revert(checkout):
    """Install the networks in a checkout and remove them; raise UserError if refused."""
    before, told = snapshot(checkout), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        is_refused = patch_insightface.program([checkout])
        assert not is_refused or snapshot(checkout) == before, 'a checkout that was refused is another one now'
        assert is_refused or patch_insightface.program([checkout, '--revert']) == 0
    assert snapshot(checkout) == before, 'a checkout is not as it was'
    if is_refused:
        raise UserError(told.getvalue())


def parameters():
    """Return small parameters of a network, {name: array}."""
    random = np.random.RandomState(0)
    return {'conv0_weight': random.rand(4, 3, 3, 3).astype('f4'), 'fc1_gamma': np.ones(4, 'f4')}


def write_originals(folder):
    """Write good files; return {kind: (name of the file to damage, function of the folder that reads it)}."""
    write_synthetic(folder, 2, 2, 10, 0)
    arrays, symbol = parameters(), build('cru56', net_multiplier=0.05, emb_size=8, image_shape=(32, 32, 3))
    mx.nd.save(os.path.join(folder, 'x-0001.params'), {f'arg:{name}': mx.nd.array(of) for name, of in arrays.items()})
    state_dict.write(os.path.join(folder, 'x.pt'), arrays)
    state_dict.write(os.path.join(folder, 'x.safetensors'), arrays)
    symbol.save(os.path.join(folder, 'x-symbol.json'))
    shapes = checkpoints.wanted_shapes(symbol, (32, 32, 3))
    ones = {name: np.ones(shape, 'f4') for name, shape in shapes.items()}
    save_onnx(os.path.join(folder, 'x.onnx'), plain(Graph.of(symbol)), ones, (32, 32, 3), None, 'float32')
    with open(os.path.join(folder, 'points.csv'), 'w', encoding='utf-8') as file:
        file.writelines(f'{name}.png,' + ','.join(map(str, range(10))) + '\n' for name in 'abc')
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(buffer, 'JPEG')
    picture = np.frombuffer(buffer.getvalue(), np.uint8)
    with open(os.path.join(folder, 'five.bin'), 'wb') as file:
        pickle.dump(([picture] * 4, [True, np.bool_(False)]), file, protocol=5)
    trainer = lay_out(os.path.join(folder, 'checkout'), 'C')[0]
    shutil.copy(os.path.join(trainer, 'sample_config.py'), os.path.join(folder, CONFIG))
    state.save(folder, {'steps': np.array(1), 'a': np.ones(3, 'f4')}, {'lr': 0.1}, state.Progress([1.0, 0.5], None, 1))

    def of(function, name, *more):
        return name, lambda at: function(os.path.join(at, name), *more)

    return {
        'bin': of(read_pairs, 'drawn.bin', SHAPE),
        'bin, protocol 5': of(read_pairs, 'five.bin', SHAPE),
        'rec': ('train.rec', read_set),
        'idx': ('train.idx', read_set),
        'property': ('property', read_set),
        'params': of(checkpoints.load_parameters, 'x-0001.params'),
        'pt': of(checkpoints.load_parameters, 'x.pt'),
        'safetensors': of(checkpoints.load_parameters, 'x.safetensors'),
        'npz': (state.FILE, lambda at: state.load(at, {'lr': 0.1})),
        'symbol': of(load_symbol, 'x-symbol.json'),
        'onnx': of(read_onnx, 'x.onnx'),
        'landmarks': of(read_landmarks, 'points.csv', '.'),
        'config': (CONFIG, lambda at: patch_and_revert(os.path.join(at, 'checkout'))),
    }


def damaged(content, random):
    """Return the bytes with a few changed, removed, doubled, swapped or inserted."""
    content = bytearray(content)
    for _ in range(random.randint(1, 4)):
        if not content:
            break
        at, length = random.randint(len(content)), int(2 ** random.uniform(0, 8))
        if random.rand() < 0.5:  # most formats have their metadata at the start and end
            at = at % 256 if random.rand() < 0.5 else max(len(content) - 1 - at % 256, 0)
        kind = random.randint(7)
        if kind == 0:
            content[at] ^= 1 << random.randint(8)
        elif kind == 1:
            content[at : at + 4] = bytes(random.choice([0, 255, 127, 128], 4).tolist())
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif kind == 4:
            other = random.randint(len(content))
            content[at : at + length], content[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
        elif kind == 5:
            del content[at:]
        else:
            content[at:at] = random.choice(
                [b'cos\nsystem\n', b'cbuiltins\neval\n', b'../', b'\x80\x05', b'-1', b'1e999']
            )
    return bytes(content)


def is_same(one, other):
    """Return whether two files were read as the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and is_same(list(one.values()), list(other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, mx.sym.Symbol):
        return one.tojson() == other.tojson()
    one, other = (of.asnumpy() if isinstance(of, mx.nd.NDArray) else of for of in (one, other))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def too_slow(*_):
    raise AssertionError(f'it took more than {SLOW} seconds')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--minutes', type=float, default=1)
    parser.add_argument('--seed', type=int, default=int(time.time()), help='(default: the time)')
    parser.add_argument('--only', help='one kind of file')
    args = parser.parse_args()
    random, counts = np.random.RandomState(args.seed), {}
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as folder:
        readers = write_originals(folder)
        names = sorted(os.listdir(folder))
        originals = {kind: read(folder) for kind, (_, read) in readers.items()}
        until = time.time() + 60 * args.minutes
        while time.time() < until:
            for kind, (name, read) in readers.items():
                if args.only in (None, kind):
                    tried = functools.partial(tell_apart, kind, read, originals[kind])
                    outcome = attempt(folder, name, tried, random)
                    counts[kind, outcome] = counts.get((kind, outcome), 0) + 1
                    assert sorted(os.listdir(folder)) == names, 'a file had another written'
    for kind in readers:
        print(f'{kind}:', ', '.join(f'{counts.get((kind, of), 0)} {of}' for of in ('read', 'as another', 'refused')))
    print(f'seed {args.seed}')


def tell_apart(kind, read, original, folder):
    """Read a damaged file; return 'read' if nothing changed, else 'as another'."""
    found = read(folder)
    if is_same(found, original):
        return 'read'
    is_part = kind not in WITH_CHECKSUMS or is_same(found, those_in(found, original))
    assert is_part, 'a damaged archive is read as something else'
    return 'as another'


def those_in(found, original):
    """Return the entries of `found` with the original's values: an archive's list of members has no checksum.

    The function that takes the parameters reports the missing ones.
    """
    if isinstance(original, tuple):
        return those_in(found[0], original[0]), *original[1:]  # a state, and how far it has come
    return {name: original.get(name) for name in found} if isinstance(original, dict) else original


def attempt(folder, name, read, random):
    """Damage, read and restore a file; return `read`'s result or 'refused'. Other errors store the damaged file."""
    path = os.path.join(folder, name)
    with open(path, 'rb') as file:
        original = file.read()
    content = damaged(original, random)
    with open(path, 'wb') as file:
        file.write(content)
    signal.alarm(SLOW)
    try:
        return read(folder)
    except UserError:
        return 'refused'
    except BaseException:
        kept = os.path.join(ROOT, 'out', f'fuzz-{name}')
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        with open(kept, 'wb') as file:
            file.write(content)
        sys.stderr.write(f'{kept} is what did it\n')
        raise
    finally:
        signal.alarm(0)
        with open(path, 'wb') as file:
            file.write(original)


if __name__ == '__main__':
    main()
