"""PyTorch's state dicts, as arcface_torch's model.pt, read and written without PyTorch.

Nothing in a file is executed. The format, that of `torch.save` since PyTorch 1.6: a zip archive, not compressed, of
`NAME/data.pkl` and `NAME/data/KEY` for each storage. The pickle holds a dict of calls of
`torch._utils._rebuild_tensor_v2` with (storage, offset, size, stride, …); a storage is the persistent id ('storage',
torch.FloatStorage, KEY, device, count). Numbers are little-endian, unless `NAME/byteorder` says otherwise.
"""

import io
import pickle
import struct
import zipfile

import numpy as np

SUFFIXES = '.pt', '.pth'
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
WRAPPERS = 'state_dict_backbone', 'state_dict'  # keys under which checkpoints hold a state dict
PARALLEL = 'module.'  # in front of every name, where the module that holds the network was saved


class Malformed(ValueError):
    """The file is not a state dict, or damaged; the message says where."""


# ------------------------------------------------------------------------------------------------- reading


class _Storage:
    """The name of a class of storages, where the pickle has the class."""

    def __init__(self, name):
        self.name = name


class _Named(dict):
    """A dict of a state dict: its keys are texts, of which none takes long to compare."""

    def __init__(self):
        super().__init__()

    def __setitem__(self, key, value):
        if not isinstance(key, str):
            raise Malformed('it holds something that has no name')
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C fills dicts of its own
    """Reads `data.pkl`: of all the names that a pickle can call, it knows three, and none of them does anything."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, content, storage):
        super().__init__(io.BytesIO(content))
        self.persistent_load = storage

    def find_class(self, module, name):
        """Return what a name stands for; raises Malformed for any other than those of a state dict."""
        known = {
            ('collections', 'OrderedDict'): _Named,
            ('torch._utils', '_rebuild_tensor_v2'): _tensor,
            ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
        }
        if module == 'torch' and name in STORAGES:
            return _Storage(name)
        if (module, name) not in known:
            raise Malformed(f'it wants {module}.{name}, which no state dict needs')
        return known[module, name]

    def load_empty_dictionary(self):
        """Put an empty dict on the stack."""
        self.stack.append(_Named())  # type: ignore[attr-defined]

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    for _other in (pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):  # made by hashing what is on it
        del dispatch[_other[0]]
    for _other in (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ):
        del dispatch[_other[0]]


def _tensor(storage, offset, size, stride, *_):
    """Return the array of a tensor: a part of its storage, an array of one axis."""
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    is_inside = min((offset, *size, *stride), default=0) >= 0
    count = int(np.prod(size, dtype=object)) if is_inside else -1
    if count == 0:
        return np.zeros(size, storage.dtype)
    if not 0 < count <= len(storage) or last >= len(storage):
        raise Malformed(f'it holds a tensor of {tuple(size)} numbers beyond its storage')
    steps = [step * storage.itemsize for step in stride]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[offset:], size, steps)).reshape(size)


def _storages(archive, prefix):
    """Return the function that reads a storage from its persistent id."""
    is_big = f'{prefix}byteorder' in archive.namelist() and archive.read(f'{prefix}byteorder') == b'big'

    def read_storage(identity):
        kind, of_class, key, _, count = identity[:5]
        if kind != 'storage' or not isinstance(of_class, _Storage):
            raise Malformed('it holds something that is no tensor')
        dtype = np.dtype(STORAGES[of_class.name])
        content = archive.read(f'{prefix}data/{key}')
        if not 0 <= count * dtype.itemsize <= len(content):
            raise Malformed(f'the numbers of data/{key} end too early')
        values = np.frombuffer(content, dtype.newbyteorder('>') if is_big else dtype, count).astype(dtype, copy=False)
        if of_class.name == 'BFloat16Storage':
            values = (values.astype('<u4') << 16).view('<f4')
        return values

    return read_storage


def read(path):
    """Return {name: array} of a state dict, or of the backbone in arcface_torch's checkpoint_gpu_0.pt.

    bfloat16 becomes float32. Raises Malformed and OSError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Malformed('it is a compressed archive, which PyTorch does not write')
            (pickled,) = [name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1]
            found = _Unpickler(archive.read(pickled), _storages(archive, pickled[: -len('data.pkl')])).load()
    except (OSError, Malformed):
        raise
    except zipfile.BadZipFile:
        raise Malformed('it is no archive, or ends too early')
    except Exception as error:  # a pickle of anything else raises anything
        raise Malformed(f'{type(error).__name__}: {error}')
    return _arrays(found)


def _arrays(found):
    """Return the state dict in what a file holds."""
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise Malformed('it holds no state dict')
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise Malformed(f'it holds {name[:60]!r}, which is no tensor')
    is_parallel = all(name.startswith(PARALLEL) for name in found)
    return {name[len(PARALLEL) * is_parallel :]: array for name, array in found.items()}


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
    """Write {name: array} as a state dict of float32 tensors, which `torch.load` reads."""
    arrays = {name: np.ascontiguousarray(array, '<f4').reshape(np.shape(array)) for name, array in arrays.items()}
    items = b''.join(_text(name) + _pickled(str(key), array) for key, (name, array) in enumerate(arrays.items()))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:

        def add(name, content):
            archive.writestr(zipfile.ZipInfo(f'model/{name}'), content)  # with the same date every time

        add('data.pkl', b'\x80\x02ccollections\nOrderedDict\n)R(' + items + b'u.')
        add('byteorder', b'little')
        for key, array in enumerate(arrays.values()):
            add(f'data/{key}', array.tobytes())
        add('version', b'3\n')
