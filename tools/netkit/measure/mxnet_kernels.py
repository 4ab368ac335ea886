"""Which kinds of MXNet's kernels run on a device."""

from netkit._mxnet import mx
from netkit.errors import reason

MAPS, FILTERS = (2, 8, 8, 8), {'num_filter': 8, 'kernel': (3, 3), 'pad': (1, 1)}


def layer(operator, data, dtype='float32', **options):
    """Compute a layer and its gradients."""
    compute(operator(mx.sym.Variable('data'), name='layer', **options), data, dtype)


def compute(symbol, data, dtype='float32'):
    """Compute a symbol and its gradients, for data of a shape."""
    executor = symbol.simple_bind(mx.current_context(), data=data, type_dict={'data': dtype})
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones(executor.outputs[0].shape, dtype=dtype))


def fused():
    """Compute neighbouring pointwise operators, of which MXNet makes one kernel on a GPU."""
    data = mx.sym.Variable('data')
    compute(mx.sym.tanh(data) * mx.sym.relu(data) + data, (2, 8))


# {kind of kernel: (library on a GPU, function that uses it)}
KERNELS = {
    'plain operators': ("MXNet's own", lambda: mx.nd.sum(mx.nd.ones((4, 4))).asscalar()),
    'matrix products': ('cuBLAS', lambda: layer(mx.sym.FullyConnected, (4, 8), num_hidden=8)),
    'convolutions': ('cuDNN', lambda: layer(mx.sym.Convolution, MAPS, **FILTERS)),
    'depthwise convolutions': ("MXNet's own", lambda: layer(mx.sym.Convolution, MAPS, **FILTERS, num_group=8)),
    'BatchNorm': ('cuDNN', lambda: layer(mx.sym.BatchNorm, MAPS, fix_gamma=False)),
    'BatchNorm with cudnn_off': ("MXNet's own", lambda: layer(mx.sym.BatchNorm, MAPS, fix_gamma=False, cudnn_off=True)),
    'PReLU': ("MXNet's own", lambda: layer(mx.sym.LeakyReLU, MAPS, act_type='prelu')),
    'bilinear resizing': ("MXNet's own", lambda: layer(mx.sym.contrib.BilinearResize2D, MAPS, height=16, width=16)),
    'neighbouring pointwise operators': ('made by NVRTC', fused),
}
ON_GPU = {
    'convolutions in float16': ('cuDNN', lambda: layer(mx.sym.Convolution, MAPS, 'float16', **FILTERS)),
    'matrix products in float16': ('cuBLAS', lambda: layer(mx.sym.FullyConnected, (4, 8), 'float16', num_hidden=8)),
}


def run_all(context):
    """Return {kind of kernel: None where it runs on a device, or why it does not}."""
    is_gpu, found = context.device_type == 'gpu', {}
    for kind, (library, use) in {**KERNELS, **(ON_GPU if is_gpu else {})}.items():
        try:
            with context:
                use()
            mx.nd.waitall()
            why = None
        except (mx.MXNetError, RuntimeError) as error:
            why = reason(error)
        found[f'{kind} ({library})' if is_gpu else kind] = why
    return found
