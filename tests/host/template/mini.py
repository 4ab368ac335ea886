import mxnet as mx
from default import config


def get_symbol():
    return mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=config.embedding_size, name='fc1')
