"""Part `correctness`: embeddings, gradients and moving statistics against the CPU's, kept and recomputed."""

import functools

import numpy as np

from netkit._mxnet import mx
from netkit.bench.mxnet_steps import Step
from netkit.gpu.harness import FLOAT32, HALF, NONE, Problems, cosine, distance, judged, moved
from netkit.gpu.mxnet_device import DEVICE, IS_GPU, changed, label, shape, symbol, training, wait
from netkit.gpu.sizes import COMPARED, COMPARED_BATCH

REFERENCE = {'rewritten': True, 'memonger': False}  # whose gradients are right everywhere
# {row: (changes to the settings, whether BatchNorm is cuDNN's; None: as the symbol has it, Bounds)}
WAYS = {
    "kept, cuDNN's BatchNorm": ({'memonger': False}, True, FLOAT32),
    "kept, MXNet's BatchNorm": ({'memonger': False}, False, FLOAT32),
    "recomputed, MXNet's BatchNorm": ({'memonger': True}, False, FLOAT32),  # as the trainers build it
    'recomputed, rewritten for a CPU': ({'memonger': True, 'rewritten': True}, None, FLOAT32),
    'float16, recomputed': ({'memonger': True, 'fp16': True}, None, HALF),
}
# Never built, since it is said to move the statistics twice: here one sees whether it does.
TWICE = {"recomputed, cuDNN's BatchNorm": ({'memonger': True}, True, NONE)}
ON_CPU = {'not rewritten': ({'rewritten': False}, None, FLOAT32), 'recomputed': ({'memonger': True}, None, FLOAT32)}


def built(name, way, ways):
    """Return the symbol of a network in one of the `ways`."""
    changes, cudnn, _ = ways[way]
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
    problems = Problems()
    for way in ways:
        with problems.caught(way):
            found = built(name, way, ways)
            differences = (
                distance(inferred(name, found, parameters, pixels, DEVICE), embeddings),
                *against(gradients, statistics, after_a_step(training(name, found, COMPARED_BATCH), direction)),
            )
            yield from judged(way, label(name), ways[way][2], differences, problems)
    problems.check()


def against(gradients, statistics, found):
    """Return (cosine, difference) of the gradients and moving statistics that were found."""
    return cosine(found[0], gradients), moved(found[1], statistics)


def inferred(name, of, parameters, pixels, context):
    """Return the embeddings of an inference, {'': array}."""
    step = Step(of, shape(name, len(pixels)), context, training=False)
    step.load(parameters)
    return {'': step.run(pixels).astype(np.float64)}


def cases(quick):
    """Return {case: function that yields Figures}."""
    ways = {**WAYS, **TWICE} if IS_GPU else ON_CPU
    return {name: functools.partial(compare, name, ways) for name in (COMPARED[:1] if quick else COMPARED)}
