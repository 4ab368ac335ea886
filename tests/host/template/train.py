# A miniature of insightface's MXNet trainer, written for these tests: the same way to find config and
# networks, the same demands on a symbol, a few steps of training on the same kind of data.
from __future__ import print_function

import argparse
import json
import os
import sys

import mxnet as mx
import numpy as np

from config import config, default, generate_config
sys.path.append(os.path.join(os.path.dirname(__file__), 'SYMBOL_FOLDER'))
import fmini


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument('--network', default=default.network)
    parser.add_argument('--dataset', default=default.dataset)
    parser.add_argument('--loss', default=default.loss)
    args, rest = parser.parse_known_args()
    generate_config(args.network, args.dataset, args.loss)
    parser.add_argument('--models-root', default=default.models_root)
    parser.add_argument('--per-batch-size', type=int, default=default.per_batch_size)
    parser.add_argument('--lr', type=float, default=default.lr)
    parser.add_argument('--lr-steps', default=default.lr_steps)
    parser.add_argument('--verbose', type=int, default=default.verbose)
    parser.add_argument('--ckpt', type=int, default=default.ckpt)
    return parser.parse_args()


def count_flops(symbol, data):
    """Of convolutions and FCs; an FC's input has to be 4-D, as in insightface."""
    internals = symbol.get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=data)[1]))
    graph = json.loads(symbol.tojson())['nodes']
    total = 0
    for node in graph:
        if node['op'] not in ('Convolution', 'FullyConnected'):
            continue
        source = graph[node['inputs'][0][0]]
        read = shapes[source['name'] + '_output' if source['op'] != 'null' else source['name']]
        written = shapes[node['name'] + '_output']
        if node['op'] == 'FullyConnected':
            total += 2 * read[1] * read[2] * read[3] * written[1]
        else:
            kernel = [int(side) for side in node['attrs']['kernel'].strip('()').split(',')]
            groups = int(node['attrs'].get('num_group', 1))
            total += 2 * read[1] // groups * kernel[0] * kernel[1] * written[1] * written[2] * written[3]
    return total


def get_symbol():
    embedding = eval(config.net_name).get_symbol()
    weight = mx.sym.Variable('fc7_weight', shape=(config.num_classes, config.emb_size), init=mx.init.Normal(0.01))
    fc7 = mx.sym.FullyConnected(embedding, weight=weight, no_bias=True, num_hidden=config.num_classes, name='fc7')
    return mx.sym.Group([mx.sym.BlockGrad(embedding), mx.sym.SoftmaxOutput(fc7, name='softmax')])


def images(folder):
    record = mx.recordio.MXIndexedRecordIO(os.path.join(folder, 'train.idx'), os.path.join(folder, 'train.rec'), 'r')
    header, _ = mx.recordio.unpack(record.read_idx(0))
    for identity in range(int(header.label[0]), int(header.label[1])):
        ends = mx.recordio.unpack(record.read_idx(identity))[0].label
        for number in range(int(ends[0]), int(ends[1])):
            header, content = mx.recordio.unpack(record.read_idx(number))
            yield header.label, mx.image.imdecode(content).asnumpy().transpose(2, 0, 1)


def train(args):
    assert os.environ['CUDA_VISIBLE_DEVICES'].strip() == ''
    height, width, channels = config.image_shape
    symbol = get_symbol()
    if config.count_flops:
        flops = count_flops(symbol.get_internals()['fc1_output'], (1, channels, height, width))
        print('Network FLOPs: %.3fG' % (flops / 1e9))
    batch = args.per_batch_size
    module = mx.mod.Module(symbol, context=[mx.cpu()])
    module.bind([('data', (batch, channels, height, width))], [('softmax_label', (batch,))])
    module.init_params(mx.init.Xavier(rnd_type='uniform', factor_type='in', magnitude=2))
    module.init_optimizer(optimizer_params={'learning_rate': args.lr, 'momentum': 0.9, 'wd': 0.0005})
    source = images(config.dataset_path)
    for step in range(1, config.max_steps + 2):
        labels, pictures = zip(*[next(source) for _ in range(batch)])
        module.forward_backward(mx.io.DataBatch([mx.nd.array(np.stack(pictures))], [mx.nd.array(labels)]))
        module.update()
        if step % args.verbose == 0 and args.ckpt:
            folder = os.path.join(args.models_root, '%s-%s-%s' % (args.network, args.loss, args.dataset))
            if not os.path.exists(folder):
                os.makedirs(folder)
            arg, aux = module.get_params()
            arg = {name: value for name, value in arg.items() if not name.startswith('fc7')}
            mx.model.save_checkpoint(os.path.join(folder, 'model'), 1,
                                     module.symbol.get_internals()['fc1_output'], arg, aux)


if __name__ == '__main__':
    train(parse_args())
