"""PyTorch's state dicts, as arcface_torch's model.pt or as safetensors, read and written without PyTorch.

Nothing in a file is executed. The format, that of `torch.save` since PyTorch 1.6: a zip archive, not compressed, of
`NAME/data.pkl` and `NAME/data/KEY` for each storage. The pickle holds a dict of calls of
`torch._utils._rebuild_tensor_v2` with (storage, offset, size, stride, …); a storage is the persistent id ('storage',
torch.FloatStorage, KEY, device, count). Numbers are little-endian, unless `NAME/byteorder` says otherwise.

Before, since 2017: five consecutive pickles, a magic number, the number of the protocol, a dict about the
machine, the same dict of tensors, and the list of the storages' keys; then, in the order of the keys, each storage as
its count (int64) and its values. A storage may be a part of another, and its persistent id then has (KEY, offset,
count) of that part in the end.

Trainers put more into a file, such as their settings; only tensors are read.
"""

import functools
import io
import math
import os
import pickle
import struct
import zipfile
from typing import NamedTuple, Tuple

import numpy as np

from crunet.identifiers import WRAPPERS, state_in

SAFE = '.safetensors'
SUFFIXES = '.pt', '.pth', '.ckpt', SAFE
# {class of a storage: dtype}; bfloat16 is the upper half of a float32.
STORAGES = {
    'FloatStorage': '<f4',
    'DoubleStorage': '<f8',
    'HalfStorage': '<f2',
    'BFloat16Storage': '<u2',
    'LongStorage': '<i8',
    'IntStorage': '<i4',
    'ShortStorage': '<i2',
    'CharStorage': '<i1',
    'ByteStorage': '<u1',
    'BoolStorage': '<b1',
}
# {type in safetensors: dtype}
SAFE_TYPES = {
    'F32': '<f4',
    'F64': '<f8',
    'F16': '<f2',
    'BF16': '<u2',
    'I64': '<i8',
    'I32': '<i4',
    'I16': '<i2',
    'I8': '<i1',
    'U8': '<u1',
    'BOOL': '<b1',
}
MOST_VIEWS = 4  # limit for tensors with shared numbers, in file sizes
MOST_KEYS, MOST_AXES = 2**40, 32  # numbers whose hashes collide, and products without end, would take for ever
OLD_START = b'\x80\x02\x8a\x0a'  # protocol 2, a long number of ten bytes
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before zip archives
AROUND = 'module.', '_orig_mod.'  # in front of every name: of DataParallel, of a compiled module


class Malformed(ValueError):
    """The file is not a state dict, or damaged; the message says where."""


# ------------------------------------------------------------------------------------------------- reading


class _Storage:
    """The name of a class of storages, where the pickle has the class."""

    def __init__(self, name):
        self.name = name


class _Named(dict):
    """A dict in a pickle: its keys are texts, or the numbers of an optimizer; none takes long to compare.

    Skips other keys, as in a trainer's settings.
    """

    def __init__(self):
        super().__init__()

    def __setitem__(self, key, value):
        if isinstance(key, str) or isinstance(key, int) and abs(key) < MOST_KEYS:
            super().__setitem__(key, value)


class _Foreign:
    """What stands for anything that is not a part of a state dict: whatever a pickle does with it, nothing happens."""

    def __init__(self, name):
        self.name = name

    def __call__(self, *_):
        return self

    def __setitem__(self, _key, _value):
        pass

    def append(self, _):
        """Do nothing."""

    extend = append


class _Unpickler(pickle._Unpickler):  # in Python: the C version fills its own dicts
    """Reads a pickle; knows four of the names that a pickle can call, all without side effects.

    `storage` makes a storage of a persistent id.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream, storage=None):
        super().__init__(stream)
        if storage:
            self.persistent_load = storage

    def find_class(self, module, name):
        """Return what a name stands for; nothing in Python is looked up by it."""
        known = {
            ('collections', 'OrderedDict'): _Named,
            ('torch._utils', '_rebuild_tensor_v2'): _Tensor.rebuilt,
            ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
            ('torch._utils', '_rebuild_parameter_with_state'): lambda tensor, *_: tensor,
        }
        if module == 'torch' and name in STORAGES:
            return _Storage(name)
        return known.get((module, name)) or _Foreign(f'{module}.{name}')

    def load_empty_dictionary(self):
        """Put an empty dict on the stack."""
        self.stack.append(_Named())  # type: ignore[attr-defined]

    def load_foreign(self):
        """Put what a pickle makes of a class and arguments on the stack: the class, which is foreign."""
        self.stack.pop()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], _Foreign):  # type: ignore[attr-defined]
            raise Malformed('it makes an object of what is not a class')

    def load_nothing(self):
        """Take the state of an object off the stack: none has one here."""
        self.stack.pop()  # type: ignore[attr-defined]

    def load_put(self):
        """Store the top of the stack under a number whose hash collides with no other."""
        number = int(self.readline()[:-1])  # type: ignore[attr-defined]
        if not 0 <= number < MOST_KEYS:
            raise Malformed('it remembers more than a file can hold')
        self.memo[number] = self.stack[-1]  # type: ignore[attr-defined]

    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    dispatch[pickle.NEWOBJ[0]] = load_foreign
    dispatch[pickle.BUILD[0]] = load_nothing
    for _other in (pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):  # made by hashing what is on it
        del dispatch[_other[0]]
    for _other in (pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ):
        del dispatch[_other[0]]


class _Part(NamedTuple):
    """A storage, or a part of one, by its persistent id."""

    key: str
    of_class: str  # a key of STORAGES
    count: int  # of the numbers of the whole storage
    first: int  # of the part
    length: int  # of the part


class _Tensor(NamedTuple):
    """A tensor, whose numbers may come later in the file."""

    storage: _Part
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]

    @classmethod
    def rebuilt(cls, storage, offset, size, stride, *_):
        """Return the tensor that a pickle describes."""
        if not isinstance(storage, _Part):
            raise Malformed('it holds a tensor without a storage')
        return cls(storage, offset, size, stride)


def _count(tensor):
    """Return how many numbers a tensor has."""
    _, offset, size, stride = tensor
    numbers = offset, *size, *stride
    if len(size) > MOST_AXES or min(numbers) < 0 or max(numbers) >= 2**62:
        raise _beyond(tensor)
    return math.prod(size)


def _beyond(tensor):
    return Malformed(f'it holds a tensor of {tuple(tensor.size)} numbers beyond its storage')


def _array(tensor, storage):
    """Return the array of a tensor: a part of its storage, an array of one axis."""
    _, offset, size, stride = tensor
    count, last = _count(tensor), offset + sum((count - 1) * step for count, step in zip(size, stride))
    if count == 0:
        return np.zeros(size, storage.dtype)
    if count > len(storage) or last >= len(storage):
        raise _beyond(tensor)
    steps = [step * storage.itemsize for step in stride]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[offset:], size, steps)).reshape(size)


def _part(identity):
    """Return the _Part of a persistent id."""
    kind, of_class, key, _, count, *view = identity
    _, first, length = (view and view[0]) or (None, 0, count)
    numbers = (isinstance(number, int) for number in (count, first, length))
    if kind != 'storage' or not isinstance(of_class, _Storage) or not isinstance(key, str) or not all(numbers):
        raise Malformed('it holds something that is not a tensor')
    return _Part(key, of_class.name, count, first, length)


def _values(part, content, is_big=False):
    """Return the numbers of a storage, or a part of one, from the bytes of the storage."""
    dtype = np.dtype(STORAGES[part.of_class])
    if not 0 <= part.count * dtype.itemsize <= len(content):
        raise Malformed(f'the numbers of storage {part.key[:20]} end too early')
    if min(part.first, part.length) < 0 or part.first + part.length > part.count:
        raise Malformed(f'storage {part.key[:20]} has a part beyond its end')
    values = np.frombuffer(content, dtype.newbyteorder('>') if is_big else dtype, part.count).astype(dtype, copy=False)
    values = values[part.first : part.first + part.length]
    if part.of_class == 'BFloat16Storage':
        values = (values.astype('<u4') << 16).view('<f4')
    return values


def _read_archive(file):
    """Return (what an archive holds, function that returns the numbers of a _Part)."""
    archive, size = zipfile.ZipFile(file), os.fstat(file.fileno()).st_size
    members = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in members) or (
        sum(entry.file_size for entry in members) > size  # members that lie within each other
    ):
        raise Malformed('it is a compressed archive, which PyTorch does not write')
    (pickled,) = [name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1]
    prefix = pickled[: -len('data.pkl')]
    is_big = f'{prefix}byteorder' in archive.namelist() and archive.read(f'{prefix}byteorder') == b'big'
    found = _Unpickler(io.BytesIO(archive.read(pickled)), _part).load()
    return found, lambda part: _values(part, archive.read(f'{prefix}data/{part.key}'), is_big)


def _read_old(file):
    """Return (what a file of the format before zip archives holds, function that returns the numbers of a _Part)."""
    stream = io.BytesIO(file.read())  # so that no length in it makes room for more than there is
    head = [_Unpickler(stream).load() for _ in range(3)]
    if head[:2] != [OLD_MAGIC, OLD_PROTOCOL] or not isinstance(head[2], dict):
        raise Malformed('it does not begin as one')
    classes = {}  # {key: class of the storage}

    def storage(identity):
        part = _part(identity)
        classes[part.key] = part.of_class
        return part

    found, keys = _Unpickler(stream, storage).load(), _Unpickler(stream).load()
    content, place, contents = stream.getbuffer(), stream.tell(), {}
    for key in keys:
        if not isinstance(key, str):
            raise Malformed('it holds a storage that has no name')
        (count,) = struct.unpack_from('<q', content, place)
        start, place = place + 8, place + 8 + count * np.dtype(STORAGES[classes[key]]).itemsize
        if not start <= place <= len(content):
            raise Malformed('it ends too early')
        contents[key] = content[start:place]
    return found, lambda part: _values(part, contents[part.key])


def begins(start):
    """Return whether a file with these first bytes is an archive, or of the format before."""
    return start.startswith((b'PK\x03\x04', OLD_START))


def read(path):
    """Return {name: array} of a state dict, or of the one that a trainer's checkpoint has.

    bfloat16 becomes float32. Raises Malformed and OSError.
    """
    if path.endswith(SAFE):
        return _read_safe(path)
    with open(path, 'rb') as file:
        is_old = file.read(len(OLD_START)) == OLD_START
        file.seek(0)
        try:
            found, values_of = (_read_old if is_old else _read_archive)(file)
            tensors, values_of = _tensors(found), functools.lru_cache(maxsize=None)(values_of)
            _check_views(set(tensors.values()), os.path.getsize(path))
            array_of = functools.lru_cache(maxsize=None)(lambda tensor: _array(tensor, values_of(tensor.storage)))
            return {name: array_of(tensor) for name, tensor in tensors.items()}  # tensors may share a storage
        except Malformed:
            raise
        except (zipfile.BadZipFile, EOFError, OSError):  # the last of a place in the archive that no file has
            raise Malformed('it is not an archive, or ends too early')
        except Exception as error:  # a pickle of anything else raises anything
            raise Malformed(f'{type(error).__name__}: {error}')


def _check_views(tensors, size):
    """Raise Malformed where views of a few numbers would fill the memory, by the size of their file in bytes."""
    numbers = sum(_count(tensor) * np.dtype(STORAGES[tensor.storage.of_class]).itemsize for tensor in tensors)
    if numbers > MOST_VIEWS * size:
        raise Malformed(f'its tensors would have {numbers:,} bytes, and the file has {size:,}')


def _tensors(found):
    """Return {name: _Tensor} of the state dict in what a file holds."""
    found = state_in(found, lambda value: isinstance(value, _Tensor))
    if isinstance(found, _Foreign):
        raise Malformed(f'it holds a {found.name[:60]}, and no state dict; save model.state_dict()')
    if not isinstance(found, dict) or not found:
        raise Malformed('it holds no state dict')
    for name, tensor in found.items():
        if not isinstance(name, str):
            raise Malformed('it holds something that has no name')
        if not isinstance(tensor, _Tensor):
            raise Malformed(f'it holds {name[:60]!r}, which is not a tensor, and none of {", ".join(WRAPPERS)}')
    return _without_prefixes(found)


def _without_prefixes(named):
    """Return {name: …} without what is AROUND every name."""
    while True:
        around = [prefix for prefix in AROUND if all(name.startswith(prefix) for name in named)]
        if not around or not named:
            return named
        named = {name[len(around[0]) :]: value for name, value in named.items()}


def _read_safe(path):
    """Return {name: array} of a file of safetensors; raises Malformed and OSError."""
    import safetensors

    with open(path, 'rb') as file:
        content = file.read()
    try:
        arrays = {}
        for name, tensor in safetensors.deserialize(content):
            values = np.frombuffer(bytes(tensor['data']), SAFE_TYPES[tensor['dtype']])
            values = (values.astype('<u4') << 16).view('<f4') if tensor['dtype'] == 'BF16' else values
            arrays[name] = values.reshape(tensor['shape'])
    except KeyError as error:
        raise Malformed(f'it holds numbers of type {error}')
    except (safetensors.SafetensorError, ValueError) as error:
        raise Malformed(str(error))
    if not arrays:
        raise Malformed('it holds no tensors')
    return _without_prefixes(arrays)


# ------------------------------------------------------------------------------------------------- writing


def _text(value):
    content = value.encode('utf-8')
    return b'X' + struct.pack('<I', len(content)) + content


def _tuple(*values):
    return b'(' + b''.join(values) + b't'


def _numbers(values):
    return _tuple(*(b'J' + struct.pack('<i', value) for value in values))


def _pickled(key, array):
    """Return the opcodes of a tensor of float32 whose numbers are those of the storage `key`."""
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    count = b'J' + struct.pack('<i', array.size)
    storage = _tuple(_text('storage'), b'ctorch\nFloatStorage\n', _text(key), _text('cpu'), count) + b'Q'
    no_hooks = b'ccollections\nOrderedDict\n)R'
    arguments = _tuple(storage, b'K\x00', _numbers(array.shape), _numbers(strides), b'\x89', no_hooks)
    return b'ctorch._utils\n_rebuild_tensor_v2\n' + arguments + b'R'


def write(path, arrays):
    """Write {name: array} as a state dict of float32 tensors, which `torch.load` reads, or as safetensors."""
    arrays = {name: np.ascontiguousarray(array, '<f4').reshape(np.shape(array)) for name, array in arrays.items()}
    if path.endswith(SAFE):
        import safetensors.numpy

        safetensors.numpy.save_file(arrays, path)
        return
    items = b''.join(_text(name) + _pickled(str(key), array) for key, (name, array) in enumerate(arrays.items()))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:

        def add(name, content):
            archive.writestr(zipfile.ZipInfo(f'model/{name}'), content)  # with the same date every time

        add('data.pkl', b'\x80\x02ccollections\nOrderedDict\n)R(' + items + b'u.')
        add('byteorder', b'little')
        for key, array in enumerate(arrays.values()):
            add(f'data/{key}', array.tobytes())
        add('version', b'3\n')
