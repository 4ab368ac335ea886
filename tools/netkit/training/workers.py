"""MXNet's kvstore, by which the workers of a training exchange gradients."""

from netkit._mxnet import mx
from netkit.errors import UserError


def create_kvstore(name):
    """Return MXNet's kvstore of that name, which also knows the number of workers and which one this is."""
    try:
        return mx.kv.create(name)
    except mx.MXNetError:
        raise UserError(f'--kvstore {name}: this MXNet was built without it')


def wait_for_workers(kvstore):
    """Return when all workers have called this."""
    kvstore._barrier()  # MXNet has no public name for it


def first_workers(kvstore, number):
    """Return the integer, below 2^24, with which the first worker called this; all workers have to call it."""
    if kvstore.num_workers == 1:
        return number
    array = mx.nd.array([number])
    kvstore.init('a number', array)
    kvstore.pull('a number', array)
    return int(array.asscalar())
