"""Train a network choice on faces drawn for the purpose, through insightface's own data formats.

Draws a data set (or reads one that is there already), trains with the chosen loss, saves OUTPUT/NETWORK-symbol.json and
OUTPUT/NETWORK-0001.params, cut at the embedding, and verifies these files on pairs of people that were not trained on.
On several devices, and with --kvstore dist_sync in several processes (tools/launch_local.py), each takes its share of the
images of a step.
"""
import contextlib
import math
import os
import sys
import time

from project import Parser, UserError, check_writable, folder_name, new_files, number, remove_unfinished, run, whole_number

import mxnet as mx
import numpy as np
from tqdm import tqdm

import checkpoint
import config as host
import datasets
import face_losses
import resume
import tables
import training_log
import verification
from inference import cut
from network import build, check_room, choose, count_macs, count_parameters, initializer, planned_memory, suit
from targets import MULTIPLIER
from trainer import Trainer, create_kvstore, embed, first_workers, wait_for_workers

LR_STEPS = (0.7, 0.9)  # shares of the run after which the learning rate is divided by 10
KVSTORES = ('local', 'device', 'nccl', 'dist_sync', 'dist_sync_device')
JOB = ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER')
EPOCH = 1  # of the checkpoint
SETTLED = 50  # steps after which what moving statistics began with has less than a hundredth of a say, at a momentum of 0.9
CONTEXT = 256 << 20  # bytes that MXNet takes for a CPU context beside what it computes with: 200 MB, measured
OVERFLOWS = 20  # steps in a row whose gradients are not finite, after which the run ends
# The options that have to be the same for a run to go on; of --steps there may be more.
RUN = ('network', 'loss', 'per_batch_size', 'devices', 'lr', 'multiplier', 'fp16', 'loss_scale', 'seed',
       'on_bad_record')


def parse_args(argv=None):
    parser = Parser(prog='train_synthetic.py', description=__doc__.split('\n\n')[0])
    parser.add_argument('--network', default='cru56', help='network choice: %s' % ', '.join(host.network))
    parser.add_argument('--loss', default='arcface', help='loss: %s' % ', '.join(host.loss))
    parser.add_argument('--steps', type=whole_number(1), default=100, help='training steps')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=32, help='images per device and step')
    parser.add_argument('--devices', type=whole_number(1, 1024), default=1,
                        help='devices to train on: GPUs where there are any, else CPU contexts')
    parser.add_argument('--kvstore', choices=KVSTORES,
                        help='how gradients are summed: on the CPU, on the GPUs, by NCCL, or over several processes or '
                             'machines (default: device on GPUs, else local)')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the last state in OUTPUT, if there is one; the options that change what is computed '
                             'have to be the same, but for --steps, of which there may be more (the learning rate then '
                             'falls later). Without it, a state of before is removed')
    parser.add_argument('--state-every', type=whole_number(0), default=1000, metavar='STEPS',
                        help='write the state of the run, for --resume, after every so many steps; 0: never')
    parser.add_argument('--fp16', action='store_true', help='compute the trunk in float16 (on GPUs)')
    parser.add_argument('--loss-scale', type=number(1e-6, 1e38),
                        help='factor on the gradients until they are applied (default: 128 with --fp16, else 1)')
    parser.add_argument('--on-bad-record', choices=('stop', 'skip'), default='stop',
                        help='what to do about a record of the data set that cannot be read')
    parser.add_argument('--lr', type=number(1e-30, 1000), default=0.1,
                        help='learning rate; divided by 10 after 70%% and 90%% of the steps')
    parser.add_argument('--multiplier', type=MULTIPLIER, default=1.0,
                        help='width of the network against the paper (net_multiplier)')
    parser.add_argument('--memonger', choices=('on', 'off'),
                        help='compute feature maps again in the backward pass instead of keeping them, for a quarter '
                             "of the memory (default: the network's choice on a GPU, off on a CPU)")
    parser.add_argument('--identities', type=whole_number(2), default=64, help='people to draw')
    parser.add_argument('--images', type=whole_number(1), default=20, help='images of each')
    parser.add_argument('--pairs', type=whole_number(10), default=300, help='verification pairs to draw')
    parser.add_argument('--data', type=folder_name, help='folder of the data set (default: OUTPUT/data, drawn if it is not there)')
    parser.add_argument('--draw', action='store_true', help='draw the data set into --data if it is not there')
    parser.add_argument('--output', type=folder_name, default='out/synthetic', help='folder for the checkpoint')
    parser.add_argument('--no-verification', action='store_true', help='do not verify after training')
    parser.add_argument('--seed', type=whole_number(0, 2 ** 32 - 1), default=0, help='same seed, same result')
    args = parser.parse_args(argv)
    args.loss_scale = args.loss_scale or (128.0 if args.fp16 else 1.0)
    if args.kvstore and args.kvstore.startswith('dist') and not all(name in os.environ for name in JOB):
        parser.error('--kvstore %s wants %s; start it with tools/launch_local.py, or see docs/several-machines.md'
                     % (args.kvstore, ', '.join(JOB)))
    return args


def devices(count):
    """Return `count` contexts: GPUs where there are any, else CPU contexts, which compute one after the other."""
    gpus = mx.context.num_gpus()
    if gpus and gpus < count:
        raise UserError('--devices %d: there are only %d GPUs' % (count, gpus))
    return [mx.gpu(i) if gpus else mx.cpu(i) for i in range(count)]


def data_folder(args, kvstore):
    """Return the folder of the data set; the first worker draws it where there is none."""
    folder = args.data or os.path.join(args.output, 'data')
    if kvstore.rank == 0 and remove_unfinished(folder):
        raise UserError('another run is writing into %s; wait until it has ended, or name another --data' % folder)
    if kvstore.rank == 0 and not os.path.exists(os.path.join(folder, 'property')):
        if os.path.isdir(folder) and os.listdir(folder):
            raise UserError('%s is neither empty nor a data set (it has no "property"); name another --data' % folder)
        if args.data and not args.draw:
            raise UserError('there is no data set in %s; name another --data, or add --draw to have one drawn there' % folder)
        datasets.write_synthetic(folder, args.identities, args.images, args.pairs, args.seed)
    elif kvstore.rank == 0:
        print('using the data set that is in %s' % folder)
    wait_for_workers(kvstore)
    return folder


def read_pairs(folder, image_shape):
    """Return the verification pairs of a data set; raises UserError where nothing can be verified by them.

    They are read once to know that, and again behind the training: in between their memory is free.
    """
    path = os.path.join(folder, 'lfw.bin')
    images, same = datasets.read_pairs(path, image_shape)
    if len(same) < verification.FOLDS:
        raise UserError('%s: %d pairs are not enough for %d folds' % (path, len(same), verification.FOLDS))
    return images, same


def check_memory(embedding, classes, image_shape, args, contexts):
    """Refuse a step that plainly has no room in this machine's memory, before the system ends what it likes.

    For every CPU context: what it takes by itself; what MXNet plans for an image, times the images; weights, also of the
    classes, with gradient and momentum. A GPU says by itself what does not fit.
    """
    if contexts[0].device_type == 'gpu':
        return
    size = host.config.emb_size
    weights = CONTEXT + 12 * (count_parameters(embedding, image_shape) + classes * size)
    maps = planned_memory(embedding, 1, image_shape) * 2 ** 20 + 12 * classes
    check_room(len(contexts) * (weights + args.per_batch_size * maps),
               'take fewer --devices or a smaller --per-batch-size: %d devices with %d images each and %d classes want'
               % (len(contexts), args.per_batch_size, classes))


def make_trainer(symbol, contexts, image_shape, args, kvstore):
    """Return the Trainer of a run, with the host's momentum and weight decay and the first values of its weights."""
    schedule = mx.lr_scheduler.MultiFactorScheduler(
        sorted({math.ceil(args.steps * share) for share in LR_STEPS}), 0.1, base_lr=args.lr)
    trainer = Trainer(symbol, contexts, args.per_batch_size * len(contexts), image_shape, kvstore, args.seed,
                      args.loss_scale, learning_rate=args.lr, momentum=host.default.mom, wd=host.default.wd,
                      multi_precision=args.fp16, lr_scheduler=schedule)
    mx.random.seed(args.seed)
    trainer.initialize(initializer())
    return trainer


def loss_and_accuracy(probabilities, label):
    """Return the mean cross-entropy and the share of labels that have the largest probability."""
    of_label = probabilities[np.arange(len(label)), label]
    return float(-np.log(np.maximum(of_label, 1e-30)).mean()), float((probabilities.argmax(axis=1) == label).mean())


def train(trainer, batches, args, settings, log, smoothed=None):
    """Train to the last step, showing loss, accuracy and images per second.

    `batches` goes on where `trainer` is, and `smoothed` is what this has returned there; `log` is the first worker's
    training_log.Writer, None for the others. Returns the smoothed [loss, accuracy], and the images per second, None where
    no step was left.
    """
    start, first_step, overflows, left_out, speed = time.time(), trainer.steps, 0, 0, None
    batch_size = batches.batch_size * batches.num_parts
    batch = batches.next() if first_step < args.steps else None
    with tqdm(total=args.steps, initial=first_step, unit='step', desc='training', disable=True if log is None else None) as bar:
        for step in range(first_step + 1, args.steps + 1):
            overflows = 0 if trainer.step(batch) else overflows + 1
            left_out += overflows > 0
            label = batch.label[0].asnumpy().astype(int)
            if step < args.steps:
                batch = batches.next()  # read while MXNet, which does not wait for us, computes
            now = loss_and_accuracy(trainer.probabilities(), label)
            if not math.isfinite(now[0]) or overflows == OVERFLOWS or step == args.steps and left_out == step:
                raise UserError('the loss or its gradients are not finite any more; try a smaller --lr%s'
                                % (' or --loss-scale' if args.loss_scale > 1 else ''))
            smoothed = [0.9 * old + 0.1 * new for old, new in zip(smoothed or now, now)]
            speed = (step - first_step) * batch_size / (time.time() - start)
            bar.set_postfix_str('loss %.2f, accuracy %.2f, %.1f images/s' % (smoothed[0], smoothed[1], speed))
            bar.update()
            if log:
                log.add(step, batch_size, *now)
                # The last one is there for a run that is interrupted while it saves or verifies.
                if args.state_every and (step % args.state_every == 0 or step == args.steps):
                    resume.save(args.output, trainer.state(), settings, smoothed)
    if log and left_out:
        print('%d of %d steps were left out: their gradients were not finite' % (left_out, args.steps - first_step))
    return smoothed, speed


def save(trainer, folder, name):
    """Save the checkpoint as the host does, cut at `fc1_output`, without the classes; return its paths."""
    embedding = cut(trainer.symbol)
    parameters = trainer.parameters()
    for parameter, values in parameters.items():
        if not np.isfinite(values).all():
            raise UserError('%s is not finite after the last step; try a smaller --lr' % parameter)
    names = embedding.list_arguments() + embedding.list_auxiliary_states()
    with new_files(folder) as scratch:
        checkpoint.save(os.path.join(scratch, name), EPOCH, embedding,
                        {name: parameters[name] for name in names if name != 'data'})
    return checkpoint.files(os.path.join(folder, name), EPOCH)


def verify(args, folder, image_shape, contexts):
    """Return (accuracy, deviation) of the checkpoint as it is on the disk."""
    images, same = read_pairs(folder, image_shape)
    symbol, parameters = checkpoint.load(os.path.join(args.output, args.network), EPOCH)
    embeddings = embed(symbol, parameters, images, args.per_batch_size * len(contexts), contexts)
    if not np.isfinite(embeddings).all():
        raise UserError('its embeddings are not finite; try a smaller --lr')
    return verification.accuracy(embeddings, same)


def try_to_verify(args, folder, image_shape, contexts, path):
    """Return (accuracy, deviation) of the checkpoint with the parameters `path`, and None; or None, and why there is none.

    Whatever comes between, the checkpoint stays, and it is said.
    """
    try:
        return verify(args, folder, image_shape, contexts), None
    except UserError as error:
        return None, '%s is written, but not verified: %s' % (path, error)
    except BaseException:
        sys.stderr.write('%s is written, but not verified%s\n' % (path, '; --resume does that' if args.state_every else ''))
        raise


def report(results):
    """Print what came of training, network by network, and what was written where; return the exit status.

    `results` are rows of `run_training`; None, of a worker that is not the first, is passed over.
    """
    results = [result for result in results if result]
    if not results:  # the first worker tells
        return 0
    tables.show('trained', ('network', 'width', 'loss', 'steps', 'parameters', 'MACs/image', 'last loss',
                            'verification', 'images/s'),
                [(r['network'], '%g' % r['multiplier'], r['loss_name'], str(r['steps']),
                  '{:,}'.format(r['parameters']), '%.3f G' % (r['macs'] / 1e9), '%.2f' % r['loss'],
                  '%.3f ± %.3f' % r['verification'] if r['verification'] else '–',
                  '%.1f' % r['speed'] if r['speed'] else '–')
                 for r in results])
    tables.show('written', ('file', 'bytes'),
                [(path, '{:,}'.format(os.path.getsize(path))) for r in results for path in r['files']])
    for r in results:
        if r['verification'] and r['steps'] < SETTLED:
            print('%s: after %d steps the moving statistics, by which a network is verified, are not settled; the verification '
                  'says little before %d' % (r['network'], r['steps'], SETTLED))
    problems = [r['problem'] for r in results if r['problem']]
    for problem in problems:
        sys.stderr.write('%s: %s\n' % (os.path.basename(sys.argv[0]), problem))
    return 2 if problems else 0


def configure(args, contexts):
    """Fill in the config as the options say, in the form that suits the devices, and return it."""
    config = choose(args.network, 'synthetic', args.loss)
    config.net_multiplier = args.multiplier
    suit(config, contexts[0].device_type)
    if args.memonger:
        config.memonger = args.memonger == 'on'
    if args.fp16 and contexts[0].device_type == 'cpu':
        raise UserError('--fp16 wants a GPU: MXNet has no matrix product of float16 on a CPU')
    config.fp16 = args.fp16
    return config


def go_on(trainer, args, settings):
    """Load the state of an interrupted run into `trainer`, if there is one and --resume asks for it; return its loss.

    Without --resume the first worker removes it. Raises UserError where the workers do not see the same.
    """
    first, loss = trainer.kvstore.rank == 0, None
    found = resume.load(args.output, settings) if args.resume else None
    if found:
        state, loss = found
        trainer.load_state(state, os.path.join(args.output, resume.FILE))
    elif first:
        resume.forget(args.output)
    steps = first_workers(trainer.kvstore, trainer.steps)
    if steps != trainer.steps:
        raise UserError('--resume: the first worker goes on behind step %d, this one behind step %d; all have to see the '
                        'same --output' % (steps, trainer.steps))
    if steps > args.steps:
        raise UserError('--resume: %s is of step %d, behind the last of --steps %d; ask for more'
                        % (os.path.join(args.output, resume.FILE), steps, args.steps))
    if found and first:
        print('going on behind step %d of %d' % (steps, args.steps))
    return loss


def run_training(argv=None):
    """Train as `argv` says; return the row that `report` prints, None for a worker that is not the first."""
    args = parse_args(argv)
    contexts = devices(args.devices)
    config = configure(args, contexts)
    embedding, image_shape = build(config), config.image_shape
    kvstore = create_kvstore(args.kvstore or ('device' if contexts[0].device_type == 'gpu' else 'local'))
    is_first, workers = kvstore.rank == 0, kvstore.num_workers
    if is_first:
        check_writable(args.output)
    folder = data_folder(args, kvstore)
    records = datasets.FaceRecords(folder, image_shape, args.on_bad_record)
    if is_first and not args.no_verification:
        try:
            read_pairs(folder, image_shape)
        except UserError as error:  # better known before training than after it
            sys.stderr.write('%s; there will be no verification, as with --no-verification\n' % error)

    check_memory(embedding, records.classes, image_shape, args, contexts)
    symbol = face_losses.classifier(embedding, records.classes, config, args.loss_scale)
    trainer = make_trainer(symbol, contexts, image_shape, args, kvstore)
    settings = dict({name: getattr(args, name) for name in RUN}, workers=workers, data=records.checksum())
    smoothed = go_on(trainer, args, settings)
    batches = datasets.FaceBatches(records, args.per_batch_size * args.devices, args.seed, kvstore.rank, workers,
                                   trainer.steps)
    with contextlib.ExitStack() as stack:
        log = None
        if is_first:
            log_path = os.path.join(args.output, training_log.FILE)
            log = stack.enter_context(training_log.Writer(log_path, args.steps, goes_on=trainer.steps > 0))
        smoothed, speed = train(trainer, batches, args, settings, log, smoothed)
        if records.bad:
            print('worker %d left out %d records; the first: %s'
                  % (kvstore.rank, records.count_bad(), next(iter(records.bad.values()))))
        if not is_first:
            return None
        files = save(trainer, args.output, args.network)
        verified, problem = None, None
        if not args.no_verification:
            verified, problem = try_to_verify(args, folder, image_shape, contexts, files[1])
        if verified:
            log.verified('verification', args.steps, *verified)
    return dict(
        network=args.network, multiplier=args.multiplier, loss_name=args.loss, steps=args.steps, loss=smoothed[0],
        speed=speed, verification=verified, problem=problem, parameters=count_parameters(embedding, image_shape),
        macs=count_macs(embedding, image_shape), files=files)


def main():
    return report([run_training()])


if __name__ == '__main__':
    run(main)
