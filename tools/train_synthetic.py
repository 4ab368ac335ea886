"""Train a network choice on faces drawn for the purpose, through insightface's own data formats.

Draws a data set (or reads one that is there already), trains with mx.mod.Module and the chosen loss,
verifies on pairs of people that were not trained on, and saves PREFIX-symbol.json and PREFIX-0001.params,
cut at the embedding.
"""
import math
import os
import random
import time

from project import Parser, UserError, new_files, positive, run, whole_number

import mxnet as mx
import numpy as np
from tqdm import tqdm

import config as host
import datasets
import face_losses
import tables
import verification
from network import build, count_macs, count_parameters, suit

LR_STEPS = (0.7, 0.9)  # shares of the run after which the learning rate is divided by 10


def parse_args(argv=None):
    parser = Parser(prog='train_synthetic.py', description=__doc__.split('\n\n')[0])
    parser.add_argument('--network', default='cru56', help='network choice: %s' % ', '.join(host.network))
    parser.add_argument('--loss', default='arcface', help='loss: %s' % ', '.join(host.loss))
    parser.add_argument('--steps', type=whole_number(1), default=100, help='training steps')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=32, help='images per device and step')
    parser.add_argument('--devices', type=whole_number(1), default=1,
                        help='devices to train on: GPUs where there are any, else CPU contexts')
    parser.add_argument('--lr', type=positive, default=0.1,
                        help='learning rate; divided by 10 after 70%% and 90%% of the steps')
    parser.add_argument('--multiplier', type=positive, default=1.0,
                        help='width of the network against the paper (net_multiplier)')
    parser.add_argument('--memonger', choices=('on', 'off'),
                        help='compute feature maps again in the backward pass instead of keeping them, for a quarter '
                             "of the memory (default: the network's choice on a GPU, off on a CPU)")
    parser.add_argument('--identities', type=whole_number(2), default=64, help='people to draw')
    parser.add_argument('--images', type=whole_number(1), default=20, help='images of each')
    parser.add_argument('--pairs', type=whole_number(10), default=300, help='verification pairs to draw')
    parser.add_argument('--data', help='folder of the data set, drawn if it is not there (default: OUTPUT/data)')
    parser.add_argument('--output', default='out/synthetic', help='folder for the checkpoint')
    parser.add_argument('--no-verification', action='store_true', help='do not verify after training')
    parser.add_argument('--seed', type=whole_number(0), default=0, help='same seed, same result')
    return parser.parse_args(argv)


def devices(count):
    """Return `count` contexts: GPUs where there are any, else CPU contexts, which compute one after the other."""
    gpus = mx.context.num_gpus()
    if gpus and gpus < count:
        raise UserError('--devices %d: there are only %d GPUs' % (count, gpus))
    return [mx.gpu(i) if gpus else mx.cpu(i) for i in range(count)]


def open_data(args):
    """Return the training records and the verification pairs, drawing them first where there are none."""
    folder = args.data or os.path.join(args.output, 'data')
    if not os.path.exists(os.path.join(folder, 'property')):
        if os.path.isdir(folder) and os.listdir(folder):
            raise UserError('%s is neither empty nor a data set (it has no "property"); name another --data' % folder)
        datasets.write_synthetic(folder, args.identities, args.images, args.pairs, args.seed)
    else:
        print('using the data set that is in %s' % folder)
    return datasets.FaceRecords(folder), datasets.read_pairs(os.path.join(folder, 'lfw.bin'))


def make_module(symbol, contexts, batch_size, image_shape, args):
    """Return a Module that is ready to train: bound, initialised as in the host, with its SGD."""
    module = mx.mod.Module(symbol, context=contexts)
    module.bind([('data', (batch_size, 3) + tuple(image_shape[:2]))], [('softmax_label', (batch_size,))])
    module.init_params(mx.init.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2))
    schedule = mx.lr_scheduler.MultiFactorScheduler(
        sorted({max(1, math.ceil(args.steps * share)) for share in LR_STEPS}), 0.1, base_lr=args.lr)
    # SoftmaxOutput averages over the images of a device; the gradients of the devices are summed.
    module.init_optimizer(kvstore='local', optimizer='sgd', optimizer_params=dict(
        learning_rate=args.lr, momentum=host.default.mom, wd=host.default.wd,
        rescale_grad=1.0 / len(contexts), lr_scheduler=schedule))
    return module


def loss_and_accuracy(probabilities, label):
    """Return the mean cross-entropy and the share of labels that have the largest probability."""
    of_label = probabilities[np.arange(len(label)), label]
    return float(-np.log(np.maximum(of_label, 1e-30)).mean()), float((probabilities.argmax(axis=1) == label).mean())


def train(module, batches, steps, batch_size):
    """Train for `steps` steps, showing loss, accuracy and images per second; return the smoothed loss and the speed."""
    smoothed, start = None, time.time()
    batch = batches.next()
    with tqdm(total=steps, unit='step', desc='training') as bar:
        for step in range(1, steps + 1):
            module.forward_backward(batch)
            module.update()
            label = batch.label[0].asnumpy().astype(int)
            if step < steps:
                batch = batches.next()  # read while MXNet, which does not wait for us, computes
            now = loss_and_accuracy(module.get_outputs()[1].asnumpy(), label)
            if not math.isfinite(now[0]):
                raise UserError('the loss is not finite any more; try a smaller --lr')
            smoothed = now if smoothed is None else [0.9 * old + 0.1 * new for old, new in zip(smoothed, now)]
            speed = step * batch_size / (time.time() - start)
            bar.set_postfix_str('loss %.2f, accuracy %.2f, %.1f images/s' % (smoothed[0], smoothed[1], speed))
            bar.update()
    mx.nd.waitall()
    return smoothed[0], speed


def embed(module, images, batch_size):
    """Return the embeddings of image + mirror, (images, emb_size), as the host measures them."""
    data = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    data = np.concatenate([data, data[..., ::-1]])
    rows = []
    for start in tqdm(range(0, len(data), batch_size), unit='batch', desc='verifying'):
        part = data[start:start + batch_size]
        padded = np.concatenate([part, np.zeros((batch_size - len(part),) + part.shape[1:], np.float32)])
        module.forward(mx.io.DataBatch([mx.nd.array(padded)], [mx.nd.zeros(batch_size)]), is_train=False)
        rows.append(module.get_outputs()[0].asnumpy()[:len(part)])
    rows = np.concatenate(rows)
    return rows[:len(images)] + rows[len(images):]


def save(module, folder, name):
    """Save the checkpoint as the host does, cut at `fc1_output`, without the classes; return its paths."""
    arg_params, aux_params = module.get_params()
    embedding = module.symbol.get_internals()['fc1_output']
    kept = {key: value for key, value in arg_params.items() if not key.startswith('fc7')}
    with new_files(folder) as scratch:
        mx.model.save_checkpoint(os.path.join(scratch, name), 1, embedding, kept, aux_params)
    return [os.path.join(folder, name + suffix) for suffix in ('-symbol.json', '-0001.params')]


def report(results):
    """Print what came of training, network by network, and what was written where."""
    tables.show('trained', ('network', 'width', 'loss', 'steps', 'parameters', 'MACs/image', 'last loss',
                            'verification', 'images/s'),
                [(r['network'], '%g' % r['multiplier'], r['loss_name'], str(r['steps']),
                  '{:,}'.format(r['parameters']), '%.3f G' % (r['macs'] / 1e9), '%.2f' % r['loss'],
                  '%.3f ± %.3f' % r['verification'] if r['verification'] else '–', '%.1f' % r['speed'])
                 for r in results])
    tables.show('written', ('file', 'bytes'),
                [(path, '{:,}'.format(os.path.getsize(path))) for r in results for path in r['files']])


def main(argv=None):
    """Train as `argv` says; return the row that `report` prints."""
    args = parse_args(argv)
    host.generate_config(args.network, 'synthetic', args.loss)
    host.config.net_multiplier = args.multiplier
    contexts = devices(args.devices)
    suit(host.config, contexts[0].device_type)
    if args.memonger:
        host.config.memonger = args.memonger == 'on'
    embedding = build(host.config)
    with new_files(args.output):  # writable? better to know before training than after
        pass
    records, (pair_images, same) = open_data(args)

    for seed in (mx.random.seed, np.random.seed, random.seed):
        seed(args.seed)
    image_shape = host.config.image_shape
    batch_size = args.per_batch_size * args.devices
    symbol = face_losses.classifier(embedding, records.classes, host.config)
    module = make_module(symbol, contexts, batch_size, image_shape, args)
    batches = datasets.FaceBatches(records, batch_size, image_shape, args.seed)
    loss, speed = train(module, batches, args.steps, batch_size)
    accuracy = None
    if not args.no_verification:
        accuracy = verification.accuracy(embed(module, pair_images, batch_size), same)
    return dict(
        network=args.network, multiplier=args.multiplier, loss_name=args.loss, steps=args.steps, loss=loss,
        speed=speed, verification=accuracy, parameters=count_parameters(embedding, image_shape),
        macs=count_macs(embedding, image_shape), files=save(module, args.output, args.network))


if __name__ == '__main__':
    run(lambda: report([main()]))
