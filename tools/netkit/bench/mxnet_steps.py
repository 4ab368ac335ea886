"""The steps that are timed: training steps and inferences, by MXNet or gluoncv2."""

import collections
import math

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError, refusals
from netkit.gluoncv2 import peer_name
from netkit.graph.counts import learnt_weight, shapes
from netkit.graph.naming import is_offset, is_scale, is_slope, is_variance
from netkit.graph.nodes import Graph


class Step:
    """A training step (forward and backward) or an inference of a symbol on noise; a call runs it."""

    def __init__(self, symbol, shape, context, training, data_gradient=False):
        request = {
            name: 'write' if training and (name != 'data' or data_gradient) else 'null'
            for name in symbol.list_arguments()
        }
        with refusals(f'MXNet does not compute this on a {context.device_type}'):
            self.executor = symbol.simple_bind(context, grad_req=request, data=shape)
        self.training = training
        random = np.random.RandomState(0)
        for name, array in self.executor.arg_dict.items():
            array[:] = initial_value(name, array.shape, random)
        for name, array in self.executor.aux_dict.items():
            array[:] = 1 if is_variance(name) else 0
        self.head_gradient = mx.nd.ones(self.executor.outputs[0].shape, context) if training else None

    def arrays(self):
        """Return {name: array} of the parameters, and of `data`."""
        return dict(self.executor.arg_dict, **self.executor.aux_dict)

    def load(self, parameters):
        """Take these parameters, {name: array}, in place of the random ones."""
        arrays = self.arrays()
        for name, values in parameters.items():
            arrays[name][:] = values

    def run(self, images):
        """Return the outputs of an inference of images."""
        self.executor.arg_dict['data'][:] = images
        self()
        return self.executor.outputs[0].asnumpy()

    def __call__(self):
        self.executor.forward(is_train=self.training)
        if self.training:
            self.executor.backward(self.head_gradient)
        else:
            self.executor.outputs[0].wait_to_read()


class Floor:
    """The convolutions and fully connected layers of a symbol, one by one, with the same shapes."""

    def __init__(self, symbol, shape, context, training):
        shape_of = shapes(symbol, shape[2:], shape[0])
        layers = collections.Counter()
        for node in Graph.of(symbol).nodes():
            if learnt_weight(node):
                source = node.inputs[0][0]
                source = source.name + ('' if source.op == 'null' else '_output')
                # Without the attribute of memonger, by which a single layer would be computed twice.
                attributes = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
                layers[node.op, shape_of[source], tuple(sorted(attributes.items()))] += 1
        self.steps = [(count, self._alone(layer, context, training)) for layer, count in layers.items()]

    @staticmethod
    def _alone(layer, context, training):
        operator, shape, attributes = layer
        symbol = getattr(mx.sym, operator)(mx.sym.Variable('data'), name='layer', **dict(attributes, no_bias=True))
        reads_the_image = shape[1] == 3
        return Step(symbol, shape, context, training, data_gradient=not reads_the_image)

    def __call__(self):
        for count, step in self.steps:
            for _ in range(count):
                step()


class Peer:
    """A step of the same network in gluoncv2, hybridised."""

    def __init__(self, network, shape, context, training):
        try:
            from gluoncv2.model_provider import get_model
        except ImportError:
            raise UserError('gluoncv2 is not installed; install the extra dev (tools/extras.py)') from None
        self.net = get_model(peer_name(network))
        self.net.initialize(ctx=context)
        self.net.hybridize(static_alloc=True, static_shape=True)
        self.data = mx.nd.array(np.random.RandomState(0).normal(size=shape), context)
        self.training = training

    def __call__(self):
        if not self.training:
            self.net(self.data).wait_to_read()
            return
        with mx.autograd.record():
            output = self.net(self.data)
        output.backward()


def initial_value(name, shape, random):
    """Return typical values for a parameter, and images for `data`."""
    if name == 'data':
        return random.uniform(0, 255, shape)
    if is_scale(name):
        return 0.25 if is_slope(name) else 1
    if is_offset(name):
        return 0
    return random.normal(0, math.sqrt(2 / np.prod(shape[1:])), shape)
