"""The networks as MXNet's executors, and where they are computed."""

import functools

import numpy as np

from netkit import cuda
from netkit._mxnet import mx
from netkit.bench.mxnet_steps import Step, initial_value
from netkit.errors import UserError
from netkit.gpu import sizes
from netkit.gpu.sizes import SMALL
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.naming import is_variance
from netkit.graph.nodes import Graph
from netkit.networks import build, settings_for, settings_of

IS_GPU = mx.context.num_gpus() > 0
DEVICE = mx.gpu(0) if IS_GPU else mx.cpu()
SHORT = ('out of memory', 'out_of_memory', '_alloc_failed', 'reducing batch/model size')  # in messages on memory
# Of a network's name: images of a training step, and what it is called in a table.
default_batch, label = (functools.partial(of, is_gpu=IS_GPU) for of in (sizes.default_batch, sizes.label))


def where():
    """Return the name of the card, None for a CPU."""
    return (cuda.cards() or [cuda.Card('a GPU that its driver does not name', (0, 0), 0)])[0].name if IS_GPU else None


def symbol(name, rewritten=not IS_GPU, training=True, **changes):
    """Return the symbol of a network for this device, with `changes`; `rewritten` for a CPU (`cpu_forms`) or not."""
    device = 'gpu' if IS_GPU else 'cpu'
    built = build(name, **{**settings_for(device), **({} if IS_GPU else SMALL), **changes})
    return for_cpu(built, shape(name, 1)[2:], training) if rewritten else built


def shape(name, batch):
    """Return the shape of the images of a network choice."""
    height, width, _ = settings_of(name)['image_shape'] if IS_GPU else SMALL['image_shape']
    return batch, 3, height, width


def changed(of, cudnn=None, dropout=None):
    """Return a symbol with cuDNN's BatchNorm or MXNet's own, and with another rate of Dropout, where they are given."""
    graph = Graph.of(of)
    for node in graph.nodes():
        if node.op == 'BatchNorm' and cudnn is not None:
            node.attrs['cudnn_off'] = str(not cudnn)
        if node.op == 'Dropout' and dropout is not None:
            node.attrs['p'] = str(dropout)
    return graph.symbol()


def training(name, of, batch, context=DEVICE):
    """Return the Step that trains a symbol."""
    return Step(of, shape(name, batch), context, training=True)


class Weights:
    """The parameters of a network, their gradients and its moving statistics on the device, for executors to share."""

    def __init__(self, name, of):
        shapes, _, statistics = of.infer_shape(data=shape(name, 1))
        types, _, _ = of.infer_type(data=np.float32)
        random, self.arguments = np.random.RandomState(0), {}
        for key, size, kind in zip(of.list_arguments(), shapes, types):
            if key != 'data':
                self.arguments[key] = mx.nd.empty(size, DEVICE, kind)
                self.arguments[key][:] = initial_value(key, size, random)
        self.gradients = {key: mx.nd.zeros_like(array) for key, array in self.arguments.items()}
        self.statistics = {
            key: mx.nd.full(size, float(is_variance(key)), DEVICE)
            for key, size in zip(of.list_auxiliary_states(), statistics)
        }


class Sharing:
    """A training step or an inference of a symbol with given Weights: what a Step is, at once; a call runs it."""

    def __init__(self, of, image_shape, weights, training=True):
        data = mx.nd.random.uniform(0, 255, image_shape, ctx=DEVICE)
        self.executor = of.bind(
            DEVICE,
            {**weights.arguments, 'data': data},
            weights.gradients if training else None,
            'write' if training else 'null',
            weights.statistics,
        )
        self.training = training
        self.head_gradient = mx.nd.ones(self.executor.outputs[0].shape, DEVICE)

    def __call__(self):
        self.executor.forward(is_train=self.training)
        if self.training:
            self.executor.backward(self.head_gradient)


def wait():
    """Return when everything is computed."""
    mx.nd.waitall()


def fits(function, *arguments):
    """Call a function; tell whether the memory of the card was enough for it."""
    is_enough = True
    try:
        function(*arguments)
        wait()
    except (mx.MXNetError, RuntimeError, UserError) as error:  # a UserError has what MXNet said as its context
        if not any(mark in f'{error} {error.__context__}'.lower() for mark in SHORT):
            raise
        is_enough = False
    release()
    return is_enough


def release():
    """Give back the memory that MXNet keeps for further use."""
    if IS_GPU:
        DEVICE.empty_cache()
