"""Receptive fields against the pixels for which MXNet finds a gradient."""

import numpy as np
import pytest

from netkit._mxnet import mx
from netkit.deploy.plain import plain
from netkit.errors import UserError
from netkit.graph import receptive
from netkit.graph.nodes import Graph, Node
from netkit.networks import build

SHAPE = (96, 80, 3)  # maps whose sides are not powers of two


def supported(graph, name, source, side):
    """Return the ((first, last) row, (first, last) column) of `source` that have a gradient, by MXNet.

    All weights are positive and pooling takes means, so that no path's gradient vanishes.
    """

    def without_zeros(node):
        if node.name == source:
            return Node('null', 'data'), 0
        if node.op == 'BatchNorm':
            node.attrs['use_global_stats'] = 'True'
        if node.op == 'Pooling':
            node.attrs['pool_type'] = 'avg'
        is_saturated = node.op == 'Activation' and node.attr('act_type') == 'sigmoid'
        return node.inputs[0] if is_saturated and node.name != name else None

    nodes = [node for node in graph.nodes() if node.name == name]
    symbol = Graph([(nodes[0], 0)]).rewritten(without_zeros).symbol()
    executor = symbol.simple_bind(mx.cpu(), data=side, grad_req='write')
    for key, array in executor.arg_dict.items():
        array[:] = (
            255
            if key == 'data'
            else 1
            if key.endswith('gamma')
            else 0
            if key.endswith('beta')
            else 1 / np.prod(array.shape[1:])
        )
    for key, array in executor.aux_dict.items():
        array[:] = float(key.endswith('var'))
    output = executor.forward(is_train=True)[0]
    head = mx.nd.zeros(output.shape)
    head[0, :, output.shape[2] // 2, output.shape[3] // 2] = 1
    executor.backward(head)
    found = np.abs(executor.grad_dict['data'].asnumpy()[0]).sum(axis=0) > 0
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(found.any(axis=axis))
        spans.append((places[0], places[-1]))
    return tuple(spans)


@pytest.mark.parametrize('network', ['att56', 'att92', 'att56:net_origin=release', 'att56_imagenet'])
def test_fields_are_where_mxnet_has_gradients(network):
    symbol = build(network, net_multiplier=0.1, emb_size=8, image_shape=SHAPE, net_prelu='op')
    graph = plain(Graph.of(symbol))
    shape = dict(zip(*(lambda i: (i.list_outputs(), i.infer_shape(data=(1, 3, 96, 80))[1]))(symbol.get_internals())))
    fields = receptive.fields_of(graph, SHAPE)
    assert len(fields) == (6 if '92' in network else 3)
    for module, (source, trunk, mask) in receptive.branches(graph).items():
        assert mask == module + '_mask_sigmoid' and trunk == module + '_trunk_unit2_plus'
        side = shape[source + '_output']
        assert fields[module].size == side[2:]
        if module in list(fields)[:2]:  # later the products of masks and trunks overflow
            in_image = supported(graph, trunk, 'data', (1, 3, *SHAPE[:2]))
            assert tuple(fields[module].trunk_in_image) == in_image, module
        assert tuple(fields[module].trunk) == supported(graph, trunk, source, side), module
        assert tuple(fields[module].mask) == supported(graph, module + '_mask_conv2', source, side), module


def test_the_field_in_the_image():
    """By hand: 3x3, then 3x3 of stride 2, then three 3x3 on every second pixel: 3 + 2 + 3 · 4 = 17."""
    graph = plain(Graph.of(build('att56')))
    field = receptive.receptive_field(graph, 'stage1_attention1_trunk_unit2_plus', (112, 112, 3))
    assert field.size() == (17, 17)
    assert tuple(field) == supported(graph, 'stage1_attention1_trunk_unit2_plus', 'data', (1, 3, 112, 112))


def test_a_dilated_convolution():
    data = mx.sym.Variable('data')
    symbol = mx.sym.Convolution(data, kernel=(3, 3), dilate=(2, 3), pad=(2, 3), num_filter=2, name='conv')
    field = receptive.receptive_field(Graph.of(symbol), 'conv', (20, 20, 3))
    assert field.size() == (5, 7) and tuple(field) == supported(Graph.of(symbol), 'conv', 'data', (1, 3, 20, 20))


def test_squeeze_excitation_reads_the_whole_map():
    graph = plain(Graph.of(build('att56', net_se=1)))
    assert receptive.receptive_field(graph, 'stage1_unit1_plus', (112, 112, 3)).size() == (112, 112)


def test_an_operator_that_is_not_known():
    graph = plain(Graph.of(build('att56')))
    with pytest.raises(UserError, match='the receptive field of pre_fc1 is not known: it is a FullyConnected'):
        receptive.receptive_field(graph, 'fc1', (112, 112, 3))
