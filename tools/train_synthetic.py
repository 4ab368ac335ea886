"""Train a network choice on faces drawn for the purpose, through insightface's own data formats.

Draws a data set (or reads one that is there already), trains with mx.mod.Module and the chosen loss,
verifies on pairs of people that were not trained on, and saves PREFIX-symbol.json and PREFIX-0001.params,
cut at the embedding. On several devices, and with --kvstore dist_sync in several processes (tools/launch_local.py),
each takes its share of the images of a step.
"""
import math
import os
import random
import time

from project import Parser, UserError, check_writable, new_files, positive, run, whole_number

import mxnet as mx
import numpy as np
from tqdm import tqdm

import config as host
import datasets
import face_losses
import resume
import tables
import training_log
import verification
from network import build, count_macs, count_parameters, initializer, suit

LR_STEPS = (0.7, 0.9)  # shares of the run after which the learning rate is divided by 10
KVSTORES = ('local', 'device', 'nccl', 'dist_sync', 'dist_sync_device')
JOB = ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER')
OVERFLOWS = 20  # steps in a row whose gradients are not finite, after which the run ends
# The options that have to be the same for a run to go on.
RUN = ('network', 'loss', 'steps', 'per_batch_size', 'devices', 'lr', 'multiplier', 'fp16', 'loss_scale', 'seed')


def parse_args(argv=None):
    parser = Parser(prog='train_synthetic.py', description=__doc__.split('\n\n')[0])
    parser.add_argument('--network', default='cru56', help='network choice: %s' % ', '.join(host.network))
    parser.add_argument('--loss', default='arcface', help='loss: %s' % ', '.join(host.loss))
    parser.add_argument('--steps', type=whole_number(1), default=100, help='training steps')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=32, help='images per device and step')
    parser.add_argument('--devices', type=whole_number(1), default=1,
                        help='devices to train on: GPUs where there are any, else CPU contexts')
    parser.add_argument('--kvstore', choices=KVSTORES,
                        help='how gradients are summed: on the CPU, on the GPUs, by NCCL, or over several processes or '
                             'machines (default: device on GPUs, else local)')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the last state in OUTPUT, if there is one; the other options have to be the same')
    parser.add_argument('--state-every', type=whole_number(0), default=1000, metavar='STEPS',
                        help='write the state of the run, for --resume, after every so many steps; 0: never')
    parser.add_argument('--fp16', action='store_true', help='compute the trunk in float16 (on GPUs)')
    parser.add_argument('--loss-scale', type=positive,
                        help='factor on the gradients until they are applied (default: 128 with --fp16, else 1)')
    parser.add_argument('--on-bad-record', choices=('stop', 'skip'), default='stop',
                        help='what to do about a record of the data set that cannot be read')
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
    args = parser.parse_args(argv)
    args.loss_scale = args.loss_scale or (128.0 if args.fp16 else 1.0)
    if args.kvstore and args.kvstore.startswith('dist') and not all(name in os.environ for name in JOB):
        parser.error('--kvstore %s wants %s; start it with tools/launch_local.py, or see the README for several machines'
                     % (args.kvstore, ', '.join(JOB)))
    return args


def devices(count):
    """Return `count` contexts: GPUs where there are any, else CPU contexts, which compute one after the other."""
    gpus = mx.context.num_gpus()
    if gpus and gpus < count:
        raise UserError('--devices %d: there are only %d GPUs' % (count, gpus))
    return [mx.gpu(i) if gpus else mx.cpu(i) for i in range(count)]


def open_data(args, image_shape, kvstore):
    """Return the training records and the verification pairs; the first worker draws them where there are none."""
    folder = args.data or os.path.join(args.output, 'data')
    if kvstore.rank == 0 and not os.path.exists(os.path.join(folder, 'property')):
        if os.path.isdir(folder) and os.listdir(folder):
            raise UserError('%s is neither empty nor a data set (it has no "property"); name another --data' % folder)
        datasets.write_synthetic(folder, args.identities, args.images, args.pairs, args.seed)
    elif kvstore.rank == 0:
        print('using the data set that is in %s' % folder)
    kvstore._barrier()  # MXNet has no other name for it
    return (datasets.FaceRecords(folder, image_shape, args.on_bad_record),
            datasets.read_pairs(os.path.join(folder, 'lfw.bin')))


def create_kvstore(name):
    """Return MXNet's store of that name, which also knows this worker's number and how many there are."""
    try:
        return mx.kv.create(name)
    except mx.MXNetError:
        raise UserError('--kvstore %s: this MXNet was built without it' % name)


def make_module(symbol, contexts, batch_size, image_shape, args, kvstore, step=0):
    """Return a Module that is ready to train behind `step`: bound, initialised as in the host, with its SGD.

    `batch_size` is that of this worker, all devices together.
    """
    # The workers apply the summed gradients themselves: only so can the optimiser's state be saved.
    os.environ['MXNET_UPDATE_ON_KVSTORE'] = '0'
    module = mx.mod.Module(symbol, context=contexts)
    module.bind([('data', (batch_size, 3) + tuple(image_shape[:2]))], [('softmax_label', (batch_size,))])
    module.init_params(initializer())
    schedule = mx.lr_scheduler.MultiFactorScheduler(
        sorted({max(1, math.ceil(args.steps * share)) for share in LR_STEPS}), 0.1, base_lr=args.lr)
    # SoftmaxOutput averages over the images of a device; the gradients of devices and workers are summed.
    summed = len(contexts) * kvstore.num_workers * args.loss_scale
    # By its name, Module leaves a store out where there is but one device.
    by_name = kvstore if kvstore.type.startswith('dist') else kvstore.type
    module.init_optimizer(kvstore=by_name, optimizer='sgd', optimizer_params=dict(
        learning_rate=args.lr, momentum=host.default.mom, wd=host.default.wd, multi_precision=args.fp16,
        rescale_grad=1.0 / summed, lr_scheduler=schedule, begin_num_update=step))
    return module


def update(module, may_overflow):
    """Sum the gradients over devices and workers and apply them; return whether that was done.

    It is what Module's own update does, but where they `may_overflow`, gradients that are not finite are dropped.
    """
    group, kvstore, count = module._exec_group, module._kvstore, len(module._context)
    for place, (name, gradients) in enumerate(zip(group.param_names, group.grad_arrays)):
        if kvstore:
            kvstore.push(name, gradients, priority=-place)
            kvstore.pull(name, gradients, priority=-place)
    if may_overflow and not all_finite([gradients[0] for gradients in group.grad_arrays]):
        return False
    for device in range(count):
        module._updater([place * count + device for place in range(len(group.grad_arrays))],
                        [gradients[device] for gradients in group.grad_arrays],
                        [weights[device] for weights in group.param_arrays])
    return True


def all_finite(arrays):
    """Tell whether no number is infinite or NaN; MXNet's operator crashes with more than 200 arrays."""
    return all(mx.nd.multi_all_finite(*arrays[start:start + 200], num_arrays=len(arrays[start:start + 200])).asscalar()
               for start in range(0, len(arrays), 200))


def loss_and_accuracy(probabilities, label):
    """Return the mean cross-entropy and the share of labels that have the largest probability."""
    of_label = probabilities[np.arange(len(label)), label]
    return float(-np.log(np.maximum(of_label, 1e-30)).mean()), float((probabilities.argmax(axis=1) == label).mean())


def train(module, batches, args, batch_size, settings, log):
    """Train to the last step, showing loss, accuracy and images per second; return the smoothed loss and the speed.

    `batches` knows at which step it starts; `batch_size` counts the images of all workers. `log` is the first worker's
    training_log.Writer, None for the others.
    """
    is_first = log is not None
    smoothed, start, first_step, overflows = None, time.time(), batches.step, 0
    batch = batches.next()
    with tqdm(total=args.steps, initial=first_step, unit='step', desc='training', disable=not is_first) as bar:
        for step in range(first_step + 1, args.steps + 1):
            mx.random.seed(args.seed * args.steps + step)  # Dropout's masks follow from the step, too
            module.forward_backward(batch)
            overflows = 0 if update(module, args.loss_scale != 1) else overflows + 1
            label = batch.label[0].asnumpy().astype(int)
            if step < args.steps:
                batch = batches.next()  # read while MXNet, which does not wait for us, computes
            now = loss_and_accuracy(module.get_outputs()[1].asnumpy(), label)
            if not math.isfinite(now[0]) or overflows == OVERFLOWS:
                raise UserError('the loss or its gradients are not finite any more; try a smaller --lr%s'
                                % (' or --loss-scale' if args.loss_scale > 1 else ''))
            smoothed = now if smoothed is None else [0.9 * old + 0.1 * new for old, new in zip(smoothed, now)]
            speed = (step - first_step) * batch_size / (time.time() - start)
            bar.set_postfix_str('loss %.2f, accuracy %.2f, %.1f images/s' % (smoothed[0], smoothed[1], speed))
            bar.update()
            if is_first:
                log.add(step, batch_size, *now)
                if args.state_every and step % args.state_every == 0:
                    resume.save(args.output, module, step, settings)
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
    if not results:  # the first worker tells
        return
    tables.show('trained', ('network', 'width', 'loss', 'steps', 'parameters', 'MACs/image', 'last loss',
                            'verification', 'images/s'),
                [(r['network'], '%g' % r['multiplier'], r['loss_name'], str(r['steps']),
                  '{:,}'.format(r['parameters']), '%.3f G' % (r['macs'] / 1e9), '%.2f' % r['loss'],
                  '%.3f ± %.3f' % r['verification'] if r['verification'] else '–', '%.1f' % r['speed'])
                 for r in results])
    tables.show('written', ('file', 'bytes'),
                [(path, '{:,}'.format(os.path.getsize(path))) for r in results for path in r['files']])


def main(argv=None):
    """Train as `argv` says; return the row that `report` prints, None for a worker that is not the first."""
    args = parse_args(argv)
    host.generate_config(args.network, 'synthetic', args.loss)
    host.config.net_multiplier = args.multiplier
    contexts = devices(args.devices)
    suit(host.config, contexts[0].device_type)
    if args.memonger:
        host.config.memonger = args.memonger == 'on'
    if args.fp16 and contexts[0].device_type == 'cpu':
        raise UserError('--fp16 wants a GPU: MXNet has no matrix product of float16 on a CPU')
    host.config.fp16 = args.fp16
    embedding = build(host.config)
    kvstore = create_kvstore(args.kvstore or ('device' if contexts[0].device_type == 'gpu' else 'local'))
    is_first, workers = kvstore.rank == 0, kvstore.num_workers
    if is_first:
        check_writable(args.output)
    records, (pair_images, same) = open_data(args, host.config.image_shape, kvstore)

    settings = dict({name: getattr(args, name) for name in RUN}, workers=workers, images=len(records))
    state = resume.load(args.output, settings) if args.resume else None
    step, arrays = state or (0, None)
    if step >= args.steps:
        raise UserError('the run in %s is at its last step, %d; there is nothing to resume' % (args.output, step))
    for seed in (mx.random.seed, np.random.seed, random.seed):
        seed(args.seed)
    image_shape = host.config.image_shape
    batch_size = args.per_batch_size * args.devices
    symbol = face_losses.classifier(embedding, records.classes, host.config, args.loss_scale)
    module = make_module(symbol, contexts, batch_size, image_shape, args, kvstore, step)
    if arrays:
        resume.restore(module, arrays, os.path.join(args.output, resume.FILE))
        if is_first:
            print('going on behind step %d' % step)
    batches = datasets.FaceBatches(records, batch_size, args.seed, kvstore.rank, workers, step)
    log_path = os.path.join(args.output, training_log.FILE)
    log = training_log.Writer(log_path, args.steps, goes_on=step > 0) if is_first else None
    loss, speed = train(module, batches, args, batch_size * workers, settings, log)
    if records.bad:
        print('worker %d left out %d records; the first: %s'
              % (kvstore.rank, len(records.bad), next(iter(records.bad.values()))))
    if not is_first:
        return None
    accuracy = None
    if not args.no_verification:
        accuracy = verification.accuracy(embed(module, pair_images, batch_size), same)
        log.verified('verification', args.steps, *accuracy)
    log.close()
    return dict(
        network=args.network, multiplier=args.multiplier, loss_name=args.loss, steps=args.steps, loss=loss,
        speed=speed, verification=accuracy, parameters=count_parameters(embedding, image_shape),
        macs=count_macs(embedding, image_shape), files=save(module, args.output, args.network))


if __name__ == '__main__':
    run(lambda: report(list(filter(None, [main()]))))
