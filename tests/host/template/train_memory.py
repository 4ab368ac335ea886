# The way insightface's partial_fc finds config and networks, in miniature.
import argparse
import os
import sys

import default
from default import config
from symbol import mini

sys.path.append(os.path.join(os.path.dirname(__file__), 'symbol'))
os.environ['MXNET_BACKWARD_DO_MIRROR'] = '0'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dataset', default='emore')
    parser.add_argument('--network', default='mini')
    parser.add_argument('--loss', default='arcface')
    args = parser.parse_args()
    default.generate_config(args.loss, args.dataset, args.network)
    embedding = eval(config.net_name).get_symbol()
    shape = embedding.infer_shape(data=(config.batch_size, 3, config.image_size, config.image_size))[1][0]
    assert shape == (config.batch_size, config.embedding_size), shape
    print(embedding.name, shape)


if __name__ == '__main__':
    main()
