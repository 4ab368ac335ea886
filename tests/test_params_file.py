"""The reader and the writer of .params files against MXNet's own."""

import struct

import numpy as np
import pytest

from netkit import params_file
from netkit._mxnet import mx

TYPES = ['float32', 'float64', 'float16', 'uint8', 'int32', 'int8', 'int64']


@pytest.mark.parametrize('shape', [(1,), (3, 4), (2, 3, 1, 5), (0, 3)])
@pytest.mark.parametrize('of_type', TYPES)
def test_as_mxnet_reads_it(tmp_path, of_type, shape):
    path = str(tmp_path / 'x.params')
    values = np.random.RandomState(0).uniform(-100, 100, shape).astype(of_type)
    with mx.util.np_shape(0 in shape):
        mx.nd.save(path, {'arg:ä b': mx.nd.array(values, dtype=of_type), 'aux:c': mx.nd.zeros(3)})
        expected = mx.nd.load(path)
    found = params_file.read(path)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array.asnumpy())


@pytest.mark.parametrize('shape', [(1,), (3, 4), (2, 3, 1, 5)])
@pytest.mark.parametrize('of_type', TYPES)
def test_mxnet_reads_what_is_written(tmp_path, of_type, shape):
    path = str(tmp_path / 'x.params')
    values = np.random.RandomState(0).uniform(-100, 100, shape).astype(of_type)
    arrays = {'arg:ä b': values, 'aux:c': np.asfortranarray(np.ones((2, 3), np.float32)), 'arg:d': values[..., ::-1]}
    params_file.write(path, arrays)
    found = mx.nd.load(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].asnumpy(), array)


@pytest.mark.parametrize('shape', [(), (0, 3)])
def test_what_mxnet_has_no_arrays_for_is_not_written(tmp_path, shape):
    with pytest.raises(ValueError, match='that of arg:a'):
        params_file.write(str(tmp_path / 'x'), {'arg:a': np.zeros(shape, np.float32)})
    assert not (tmp_path / 'x').exists()


def test_what_is_written_is_what_mxnet_writes(tmp_path):
    arrays = {'arg:a': np.arange(6, dtype=np.float32).reshape(2, 3), 'aux:b': np.ones(4, np.float16)}
    params_file.write(str(tmp_path / 'ours'), arrays)
    given = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
    mx.nd.save(str(tmp_path / 'theirs'), given)
    assert (tmp_path / 'ours').read_bytes() == (tmp_path / 'theirs').read_bytes()


def test_numbers_without_axes_and_arrays_without_names(tmp_path):
    path = str(tmp_path / 'x.params')
    with mx.util.np_shape(True):
        mx.nd.save(path, [mx.np.array(3.5).as_nd_ndarray(), mx.nd.ones(2)])
    number, ones = params_file.read(path)
    assert number.shape == () and number == 3.5 and ones.tolist() == [1, 1]
    mx.nd.save(path, [])
    assert params_file.read(path) == []


@pytest.mark.parametrize(
    'axes', [struct.pack('<IIqq', 0xF993FAC8, 2, 2, 3), struct.pack('<III', 2, 2, 3)], ids=['1', '0']
)
def test_older_versions(tmp_path, axes):
    """Of before MXNet 1.0; plain MXNet still reads them."""
    path = tmp_path / 'x.params'
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(
        struct.pack('<QQQ', 0x112, 0, 1)
        + axes
        + struct.pack('<iii', 1, 0, 0)
        + values.tobytes()
        + struct.pack('<QQ', 1, 5)
        + b'arg:a'
    )
    np.testing.assert_array_equal(mx.nd.load(str(path))['arg:a'].asnumpy(), values)
    np.testing.assert_array_equal(params_file.read(str(path))['arg:a'], values)


def test_what_is_not_dense_is_refused(tmp_path):
    path = str(tmp_path / 'x.params')
    mx.nd.save(path, {'arg:a': mx.nd.ones((2, 2)).tostype('csr')})
    with pytest.raises(params_file.Malformed, match='not dense'):
        params_file.read(path)


def test_every_shorter_file_is_refused(tmp_path):
    path = tmp_path / 'x.params'
    mx.nd.save(str(path), {'arg:a': mx.nd.ones((2, 2)), 'aux:b': mx.nd.ones(1)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(params_file.Malformed):
            params_file.read(str(path))


@pytest.mark.parametrize(
    'content',
    [
        struct.pack('<QQQIii', 0x112, 0, 1, 0xF993FAC9, 0, -1),  # axes
        struct.pack('<QQQIii', 0x112, 0, 1, 0xF993FAC9, 0, 33) + bytes(33 * 8 + 12),
        struct.pack('<QQQIiiqiiif', 0x112, 0, 1, 0xF993FAC9, 0, 1, -1, 1, 0, 0, 0),  # numbers
        struct.pack('<QQQQQ', 0x112, 0, 0, 0, 0)[:24] + struct.pack('<QQ', 1, 1) + b'a',  # a name without an array
    ],
)
def test_numbers_that_cannot_be(tmp_path, content):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(params_file.Malformed):
        params_file.read(str(tmp_path / 'x'))


def test_names_that_cannot_be(tmp_path):
    array = struct.pack('<Iiiqiiif', 0xF993FAC9, 0, 1, 1, 1, 0, 0, 0.5)
    for names in ((b'arg:a', b'arg:a'), (b'arg:a', b'b' * ((1 << 16) + 1))):
        text = b''.join(struct.pack('<Q', len(name)) + name for name in names)
        (tmp_path / 'x').write_bytes(struct.pack('<QQQ', 0x112, 0, 2) + 2 * array + struct.pack('<Q', 2) + text)
        with pytest.raises(params_file.Malformed):
            params_file.read(str(tmp_path / 'x'))
