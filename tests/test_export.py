"""Export: the deployed networks against the trained ones, in the programs that people deploy them with."""
import json
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

import checkpoint
import config as host
import export
import inference
import onnx_graph
from conftest import NETWORKS, ROOT
from graph import Graph
from network import build, choose
from project import UserError
from test_networks import NARROW, PLAIN, bind

TOOL = os.path.join(ROOT, 'tools', 'export.py')
# Every form that training has and deployment has not.
TRAINED = dict(NARROW, memonger=True)


def settled(symbol, shape, seed=0):
    """Return random parameters of a symbol, with moving statistics that its own feature maps have a part in.

    Else the feature maps of a deep network would grow until rounding decides its output.
    """
    graph = Graph.of(symbol)
    for node in graph.nodes():
        if node.op == 'BatchNorm':
            # Half of it stays random: of two images and one pixel the variance may be next to nothing.
            node.attrs['momentum'] = '0.5'
    executor = bind(graph.symbol(), shape[0], shape[2], seed=seed)
    executor.forward(is_train=True)
    executor.backward([mx.nd.zeros(output.shape) for output in executor.outputs])  # it updates the statistics,
    mx.nd.waitall()  # and MXNet does not know that reading them has to wait for it
    arrays = dict(executor.arg_dict, **executor.aux_dict)
    return {name: array.asnumpy() for name, array in arrays.items() if name != 'data'}


def images(count, side, seed=1):
    return np.random.RandomState(seed).randint(0, 256, (count, 3, side, side)).astype(np.float32)


def run_onnx(model, data):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    assert [given.name for given in session.get_inputs()] == ['data']
    return session.run(None, {'data': data})[0]


def assert_same(actual, expected, tolerance=1e-4):
    """Assert that embeddings differ by no more than `tolerance` of the range of what is expected."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.ptp(expected))


def symbol_of(network, **changes):
    config = choose(network)
    config.update(changes)
    return build(config)


# ------------------------------------------------------------------------------------- all networks

@pytest.mark.parametrize('network', NETWORKS)
def test_a_trained_network_is_exported_as_the_plain_one(network):
    trained = inference.plain(Graph.of(symbol_of(network, **TRAINED)))
    plain = Graph.of(symbol_of(network, **dict(NARROW, **PLAIN)))
    for node in plain.nodes():  # the builder marks PReLU's slopes with where they start
        node.attrs = {} if node.op == 'null' else node.attrs
    assert trained.symbol().tojson() == plain.symbol().tojson()
    assert '__' not in trained.symbol().tojson()


@pytest.mark.parametrize('network', NETWORKS)
def test_every_form_computes_the_same(network):
    symbol = symbol_of(network, **dict(NARROW, emb_size=16))
    shape = host.config.image_shape
    parameters, data = settled(symbol, (2, 3) + shape[:2]), images(3, shape[0])
    expected = export.compute(symbol, parameters, data)
    plain = inference.plain(Graph.of(symbol))
    folded, fewer, left = inference.fold(plain, parameters)
    assert_same(run_onnx(onnx_graph.convert(plain, parameters, shape), data), expected)
    assert_same(export.compute(folded.symbol(), fewer, data), expected)
    assert_same(run_onnx(onnx_graph.convert(folded, fewer, shape, batch=3), data), expected)
    # What stays has no layer on one side, nor one that does not pad on the other.
    assert all(why.startswith('behind ') and 'Convolution' not in why for _, why in left)
    assert sum(node.op == 'BatchNorm' for node in folded.nodes()) == len(left)
    assert not any(node.op == 'Dropout' for node in folded.nodes())


@pytest.mark.parametrize('network, left', [('cru116', 0), ('att92', 6), ('attnext92_imagenet', 0), ('ires50', 12)])
def test_how_many_batchnorms_stay(network, left):
    symbol = symbol_of(network, **NARROW)
    parameters = {name: np.ones(shape, np.float32)
                  for name, shape in checkpoint.wanted_shapes(symbol, host.config.image_shape).items()}
    assert len(inference.fold(inference.plain(Graph.of(symbol)), parameters)[2]) == left
