"""Part `card`: the cards, the libraries, and which kinds of MXNet's kernels run."""

import os
import platform

from netkit import cuda
from netkit._mxnet import mx
from netkit.errors import UserError, reason
from netkit.gpu.harness import MACHINE as TABLE, Figure
from netkit.gpu.mxnet_device import DEVICE, IS_GPU, wait

MAPS, FILTERS = (2, 8, 8, 8), {'num_filter': 8, 'kernel': (3, 3), 'pad': (1, 1)}


def described():
    """Yield the Figures of the machine; raises UserError where MXNet has no code for the first card."""
    features, cards = mx.runtime.Features(), cuda.cards()
    facts = {
        'Python': platform.python_version(),
        'MXNet': mx.__version__,
        'built with': ', '.join(
            name for name in ('CUDA', 'CUDNN', 'NCCL', 'ONEDNN', 'MKLDNN') if is_on(features, name)
        ),
        'GPUs that it sees': mx.context.num_gpus(),
        'code for compute capability': cuda.listed() if is_on(features, 'CUDA') else 'none',
        'CPU cores': os.cpu_count(),
    }
    for number, card in enumerate(cards):
        facts[f'card {number}'] = card.name
        facts[f'card {number}, compute capability'] = '{}.{}'.format(*card.capability)
        facts[f'card {number}, code for it'] = 'yes' if cuda.runs_on(card.capability) else 'no'
        facts[f'card {number}, memory MB'] = card.memory
    for library, place in cuda.find_all().items() if IS_GPU else ():
        facts[library] = (place.version or place.folder) if place else 'not found'
    for what, value in facts.items():
        yield Figure(TABLE, what, 'MXNet', value)
    if IS_GPU and cards and not cuda.runs_on(cards[0].capability):
        its = '{}.{}'.format(*cards[0].capability)
        raise UserError(f'MXNet has code for compute capability {cuda.listed()}, and this card has {its}')


def is_on(features, name):
    """Tell whether MXNet was built with a feature."""
    return name in features and features.is_enabled(name)


def layer(operator, data, dtype='float32', **options):
    """Compute a layer and its gradients."""
    symbol = operator(mx.sym.Variable('data'), name='layer', **options)
    executor = symbol.simple_bind(DEVICE, data=data, type_dict={'data': dtype})
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones(executor.outputs[0].shape, DEVICE, dtype))


def fused():
    """Compute neighbouring pointwise operators, of which MXNet makes one kernel on a GPU."""
    data = mx.sym.Variable('data')
    executor = (mx.sym.tanh(data) * mx.sym.relu(data) + data).simple_bind(DEVICE, data=(2, 8))
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((2, 8), DEVICE))


# {kind of kernel: (library on a GPU, function that uses it)}
KERNELS = {
    'plain operators': ("MXNet's own", lambda: mx.nd.sum(mx.nd.ones((4, 4), DEVICE)).asscalar()),
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


def computing():
    """Yield which kernels run; raises UserError if one of them does not."""
    failed = []
    for kind, (library, use) in {**KERNELS, **(ON_GPU if IS_GPU else {})}.items():
        row = f'{kind} ({library})' if IS_GPU else kind
        try:
            use()
            wait()
        except (mx.MXNetError, RuntimeError) as error:
            failed.append(row)
            yield Figure(TABLE, row, 'MXNet', f'no: {reason(error)}')
        else:
            yield Figure(TABLE, row, 'MXNet', 'run')
    if failed:
        raise UserError(f'MXNet does not compute on this card: {", ".join(failed)}')


def cases(_quick):
    """Return {case: function that yields Figures}."""
    return {'described': described, 'computing': computing}
