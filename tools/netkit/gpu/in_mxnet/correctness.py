"""Part `correctness`: embeddings, gradients and moving statistics against the CPU's, kept and recomputed."""

import functools

import numpy as np

from netkit._mxnet import mx
from netkit.bench.steps import Step
from netkit.gpu.figures import STATISTICS, Figure, cosine, distance, moved
from netkit.gpu.in_mxnet.device import DEVICE, IS_GPU, changed, label, shape, symbol, training, wait
from netkit.gpu.sizes import COMPARED, COMPARED_BATCH
from netkit.networks import forms_for

EMBEDDINGS = 'inference: largest difference of the embeddings from the CPU, of their range'
GRADIENTS = 'a training step: cosine of all gradients with the CPU'
REFERENCE = {**forms_for('cpu'), 'memonger': False}  # whose gradients are right everywhere
# {row: (changes to the settings, whether BatchNorm is cuDNN's; None: as the symbol has it)}
WAYS = {
    "kept, cuDNN's BatchNorm": ({'memonger': False}, True),
    "kept, MXNet's BatchNorm": ({'memonger': False}, False),
    'recomputed': ({'memonger': True}, None),
    "recomputed, cuDNN's BatchNorm (never built: it would move the statistics twice)": ({'memonger': True}, True),
    'recomputed, net_prelu=conv': ({'memonger': True, 'net_prelu': 'conv'}, None),
    'float16, recomputed': ({'memonger': True, 'fp16': True}, None),
}
ON_CPU = {
    'net_prelu=mul, net_resize=op': ({'net_prelu': 'mul', 'net_resize': 'op'}, None),
    'recomputed': WAYS['recomputed'],
}


def built(name, way, ways):
    """Return the symbol of a network in one of the `ways`."""
    changes, cudnn = ways[way]
    return changed(symbol(name, **changes), cudnn, dropout=0.0)


def arrays(values):
    """Return {name: NDArray} as {name: float64 array}."""
    return {name: value.asnumpy().astype(np.float64) for name, value in values.items() if value is not None}


def after_a_step(step, direction):
    """Return (gradients, moving statistics), each {name: array}, of a training step."""
    step.head_gradient = mx.nd.array(direction, step.head_gradient.context)
    step()
    wait()  # MXNet does not know that reading the moving statistics has to wait
    gradients = {name: array for name, array in step.executor.grad_dict.items() if name != 'data'}
    return arrays(gradients), arrays(step.executor.aux_dict)


def compare(name, ways):
    """Yield the Figures of a network: each of the `ways` to compute against float32 on the CPU."""
    reference = changed(symbol(name, **REFERENCE), dropout=0.0)
    step = training(name, reference, COMPARED_BATCH, mx.cpu())
    direction = np.random.RandomState(1).normal(size=step.head_gradient.shape)
    gradients, statistics = after_a_step(step, direction)
    parameters = {key: array.asnumpy() for key, array in step.arrays().items() if key != 'data'}
    pixels = step.executor.arg_dict['data'].asnumpy()
    embeddings = inferred(name, reference, parameters, pixels, mx.cpu())  # with the statistics that the step moved
    for way in ways:
        found = built(name, way, ways)
        yield Figure(
            EMBEDDINGS, way, label(name), distance(inferred(name, found, parameters, pixels, DEVICE), embeddings)
        )
        got = after_a_step(training(name, found, COMPARED_BATCH), direction)
        yield Figure(GRADIENTS, way, label(name), cosine(got[0], gradients))
        yield Figure(STATISTICS, way, label(name), moved(got[1], statistics))


def inferred(name, of, parameters, pixels, context):
    """Return the embeddings of an inference, {'': array}."""
    step = Step(of, shape(name, len(pixels)), context, training=False)
    step.load(parameters)
    return {'': step.run(pixels).astype(np.float64)}


def cases(quick):
    """Return {case: function that yields Figures}."""
    ways = WAYS if IS_GPU else ON_CPU
    return {name: functools.partial(compare, name, ways) for name in (COMPARED[:1] if quick else COMPARED)}
