import os
import sys
import mxnet as mx
sys.path.append(os.path.join(os.path.dirname(__file__), '..'))
from config import config


def get_symbol():
    body = mx.sym.Variable('data')
    for layer in range(config.num_layers):
        body = mx.sym.Convolution(body, num_filter=8, kernel=(3, 3), stride=(2, 2), name='conv%d' % layer)
    body = mx.sym.FullyConnected(body, num_hidden=config.emb_size, name='pre_fc1')
    return mx.sym.BatchNorm(body, fix_gamma=True, name='fc1')
