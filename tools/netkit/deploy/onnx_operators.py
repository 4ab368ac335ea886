"""MXNet's operators in ONNX: one function per operator, registered in CONVERTERS."""

import math

import numpy as np
from onnx import helper

from netkit.errors import UserError

CONVERTERS = {}  # {operator of MXNet: function(writer, node) that writes it and returns the name of its output}


def converts(*operators):
    """Register a function as the converter of these operators of MXNet."""

    def register(function):
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return register


def only(node, key, *known):
    """Return an attribute of a node, by default the first of `known`; raise UserError if it is another."""
    value = node.attr(key, known[0])
    if value not in known:
        raise UserError(f'{node.name}, a {node.op}, has {key}={value}, which is not known here; --onnx cannot write it')
    return value


@converts('Convolution')
def convolution(writer, node):
    only(node, 'layout', None, 'None', 'NCHW')
    kernel = node.attr('kernel')
    ones, zeros = ((number,) * len(kernel) for number in (1, 0))
    inputs = [writer.read(node, place) for place in range(len(node.inputs))]
    return writer.emit(
        'Conv',
        inputs,
        node.name,
        kernel_shape=kernel,
        strides=node.attr('stride') or ones,
        pads=(node.attr('pad') or zeros) * 2,
        dilations=node.attr('dilate') or ones,
        group=node.attr('num_group', 1),
    )


@converts('FullyConnected')
def fully_connected(writer, node):
    data, bias = writer.read(node), [writer.read(node, 2)] if len(node.inputs) > 2 else []
    if not node.attr('flatten', True):
        weight = writer.emit('Transpose', [writer.read(node, 1)], node.name + '_transposed', perm=(1, 0))
        product = writer.emit('MatMul', [data, weight], node.name + ('_product' if bias else ''))
        return writer.emit('Add', [product] + bias, node.name) if bias else product
    if len(writer.shape(node.inputs[0])) > 2:
        data = writer.emit('Flatten', [data], node.name + '_flatten', axis=1)
    return writer.emit('Gemm', [data, writer.read(node, 1)] + bias, node.name, transB=1)


@converts('BatchNorm')
def batch_norm(writer, node):
    only(node, 'axis', 1)
    inputs = [writer.read(node, place) for place in range(5)]
    if node.attr('fix_gamma', True):  # then MXNet does not look at the gamma it has
        name, gamma = writer.array(node, 1)
        inputs[1] = writer.constant(name, np.ones_like(gamma))
    return writer.emit('BatchNormalization', inputs, node.name, epsilon=node.attr('eps', 1e-3))


@converts('LeakyReLU')
def leaky_relu(writer, node):
    kind = only(node, 'act_type', 'leaky', 'prelu', 'elu', 'selu', 'gelu')
    data, slope = writer.read(node), node.attr('slope', 0.25)
    if kind == 'prelu':
        name, gamma = writer.array(node, 1)
        # One for each channel, with as many axes as the map: for a slope with fewer OpenVINO changes the map's layout.
        extent = (1, -1) + (1,) * (len(writer.shape(node.inputs[0])) - 2)
        return writer.emit('PRelu', [data, writer.constant(name, gamma.reshape(extent))], node.name)
    if kind == 'gelu':
        inner = writer.emit('Div', [data, writer.constant(node.name + '_root', math.sqrt(2))], node.name + '_inner')
        inner = writer.emit('Erf', [inner], node.name + '_erf')
        inner = writer.emit('Add', [inner, writer.constant(node.name + '_one', 1)], node.name + '_share')
        inner = writer.emit('Mul', [data, inner], node.name + '_twice')
        return writer.emit('Mul', [inner, writer.constant(node.name + '_half', 0.5)], node.name)
    if kind == 'selu':
        return writer.emit('Selu', [data], node.name)
    return writer.emit({'leaky': 'LeakyRelu', 'elu': 'Elu'}[kind], [data], node.name, alpha=slope)


@converts('Activation')
def activation(writer, node):
    names = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'softrelu': 'Softplus', 'softsign': 'Softsign'}
    return writer.emit(names[only(node, 'act_type', *names)], [writer.read(node)], node.name)


@converts('Pooling')
def pooling(writer, node):
    kind = {'max': 'Max', 'avg': 'Average'}[only(node, 'pool_type', 'max', 'avg')]
    if node.attr('global_pool', False):
        return writer.emit(f'Global{kind}Pool', [writer.read(node)], node.name)
    kernel = node.attr('kernel')
    ones, zeros = ((number,) * len(kernel) for number in (1, 0))
    attributes = {'count_include_pad': int(node.attr('count_include_pad', True))} if kind == 'Average' else {}
    return writer.emit(
        f'{kind}Pool',
        [writer.read(node)],
        node.name,
        kernel_shape=kernel,
        strides=node.attr('stride') or ones,
        pads=(node.attr('pad') or zeros) * 2,
        ceil_mode=int(only(node, 'pooling_convention', 'valid', 'full') == 'full'),
        **attributes,
    )


@converts('_contrib_BilinearResize2D')
def bilinear_resize(writer, node):
    only(node, 'mode', 'size')
    only(node, 'align_corners', True)
    return resize(writer, node, mode='linear', coordinate_transformation_mode='align_corners')


@converts('UpSampling')
def up_sampling(writer, node):
    only(node, 'sample_type', 'nearest')
    return resize(writer, node, mode='nearest', coordinate_transformation_mode='asymmetric', nearest_mode='floor')


def resize(writer, node, **attributes):
    """Write a Resize by scales: sizes would fix the number of images."""
    scales = []
    for before, after in zip(writer.shape(node.inputs[0]), writer.shape((node, 0))):
        scale = np.float32(after / before)
        # The length is the scale times what was there, rounded down.
        scales.append(scale if int(scale * np.float32(before)) == after else np.nextafter(scale, np.float32(np.inf)))
    return writer.emit(
        'Resize', [writer.read(node), '', writer.constant(node.name + '_scales', scales)], node.name, **attributes
    )


@converts('_copy', 'BlockGrad', 'Dropout')
def pass_on(writer, node):
    only(node, 'mode', 'training')
    return writer.emit('Identity', [writer.read(node)], node.name)


@converts('Reshape', 'Flatten', 'expand_dims', 'squeeze')
def reshape(writer, node):
    shape = writer.open_shape((node, 0))
    if shape.count(-1) > 1:
        raise UserError(f'{node.name}, a {node.op}, puts the number of images into two lengths; --onnx cannot write it')
    shape = writer.constant(node.name + '_shape', shape, np.int64)
    return writer.emit('Reshape', [writer.read(node), shape], node.name)


@converts('transpose')
def transpose(writer, node):
    order = node.attr('axes') or tuple(reversed(range(len(writer.shape(node.inputs[0])))))
    return writer.emit('Transpose', [writer.read(node)], node.name, perm=order)


@converts('Concat')
def concat(writer, node):
    inputs = [writer.read(node, place) for place in range(len(node.inputs))]
    return writer.emit('Concat', inputs, node.name, axis=node.attr('dim', 1))


@converts('SliceChannel')
def slice_channel(writer, node):
    only(node, 'squeeze_axis', False, 0)
    names = [f'{node.name}_{number}' for number in range(node.attr('num_outputs'))]
    writer.nodes.append(helper.make_node('Split', [writer.read(node)], names, node.name, axis=node.attr('axis', 1)))
    return names


@converts('slice_axis')
def slice_axis(writer, node):
    axis, end = node.attr('axis'), node.attr('end')
    bounds = node.attr('begin'), np.iinfo(np.int64).max if end in (None, 'None') else end, axis
    inputs = [
        writer.constant(f'{node.name}_{word}', [number], np.int64)
        for word, number in zip(('begin', 'end', 'axis'), bounds)
    ]
    return writer.emit('Slice', [writer.read(node)] + inputs, node.name)


@converts('softmax', 'SoftmaxActivation')
def softmax(writer, node):
    only(node, 'mode', 'instance')
    return writer.emit('Softmax', [writer.read(node)], node.name, axis=node.attr('axis', -1))


@converts('L2Normalization')
def l2_normalization(writer, node):
    only(node, 'mode', 'instance')
    axes = list(range(1, len(writer.shape(node.inputs[0]))))
    length = writer.emit('ReduceL2', [writer.read(node)], node.name + '_length', axes=axes, keepdims=1)
    return writer.emit('Div', [writer.read(node), length], node.name)


@converts('mean')
def mean(writer, node):
    only(node, 'exclude', False, 0)
    axes = node.attr('axis')
    axes = {} if axes in (None, 'None', ()) else {'axes': [axes] if isinstance(axes, int) else axes}
    return writer.emit('ReduceMean', [writer.read(node)], node.name, keepdims=int(node.attr('keepdims', False)), **axes)


@converts('clip')
def clip(writer, node):
    bounds = [writer.constant(f'{node.name}_{key}', node.attr(key)) for key in ('a_min', 'a_max')]
    return writer.emit('Clip', [writer.read(node)] + bounds, node.name)


def _by_mxnets_name(names):
    """Return {operator of MXNet: operator of ONNX} for {operator of ONNX: its names in MXNet, in one text}."""
    return {name: op for op, text in names.items() for name in text.split()}


BINARY = _by_mxnets_name(
    {
        'Add': 'elemwise_add _plus _Plus broadcast_add broadcast_plus',
        'Sub': 'elemwise_sub _minus _Minus broadcast_sub broadcast_minus',
        'Mul': 'elemwise_mul _mul _Mul broadcast_mul',
        'Div': 'elemwise_div _div _Div broadcast_div',
    }
)
SCALAR = _by_mxnets_name(
    {
        'Add': '_plus_scalar _PlusScalar',
        'Sub': '_minus_scalar _MinusScalar',
        'Mul': '_mul_scalar _MulScalar',
        'Div': '_div_scalar _DivScalar',
        'Pow': '_power_scalar _PowerScalar',
    }
)
REVERSED = _by_mxnets_name({'Sub': '_rminus_scalar _RMinusScalar', 'Div': '_rdiv_scalar _RDivScalar'})
UNARY = {
    'relu': 'Relu',
    'sigmoid': 'Sigmoid',
    'tanh': 'Tanh',
    'abs': 'Abs',
    'sqrt': 'Sqrt',
    'exp': 'Exp',
    'log': 'Log',
    'negative': 'Neg',
}


@converts(*BINARY)
def binary(writer, node):
    return writer.emit(BINARY[node.op], [writer.read(node, 0), writer.read(node, 1)], node.name)


@converts('add_n', 'ElementWiseSum')
def add_n(writer, node):
    return writer.emit('Sum', [writer.read(node, place) for place in range(len(node.inputs))], node.name)


@converts(*SCALAR, *REVERSED)
def scalar(writer, node):
    inputs = [writer.read(node), writer.constant(node.name + '_scalar', node.attr('scalar'))]
    if node.op in SCALAR:
        return writer.emit(SCALAR[node.op], inputs, node.name)
    return writer.emit(REVERSED[node.op], inputs[::-1], node.name)


@converts(*UNARY)
def unary(writer, node):
    return writer.emit(UNARY[node.op], [writer.read(node)], node.name)
