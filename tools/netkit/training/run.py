"""A whole training, from options to a verified checkpoint."""

import contextlib
import os
import sys
from typing import NamedTuple, Optional, Tuple

import numpy as np

import config as host
from netkit import checkpoints
from netkit._mxnet import mx
from netkit.data import pairs
from netkit.data.batches import FaceBatches
from netkit.data.records import FaceRecords
from netkit.data.synthetic import write_synthetic
from netkit.deploy.plain import cut
from netkit.errors import UserError
from netkit.evaluation import protocol
from netkit.files import check_writable, new_files, remove_unfinished
from netkit.graph.counts import count_macs, count_parameters
from netkit.graph.memory import check_room, planned_memory
from netkit.networks import build, entry, forms_for, initializer, settings_of
from netkit.training import log, loop, losses, state, verification
from netkit.training.schedule import schedule
from netkit.training.trainer import Trainer
from netkit.training.workers import create_kvstore, first_workers, wait_for_workers

EPOCH = 1  # of the checkpoint
CONTEXT = 256 << 20  # bytes that a CPU context takes in addition to parameters and maps: 200 MB, measured
# The options that have to be the same to resume a run; of --steps there may be more.
SAME = (
    'network',
    'loss',
    'per_batch_size',
    'devices',
    'lr',
    'multiplier',
    'fp16',
    'loss_scale',
    'seed',
    'on_bad_record',
)


class Result(NamedTuple):
    """What a training came to."""

    network: str
    multiplier: float
    loss: str
    steps: int
    parameters: int
    macs: int  # for one image
    last_loss: float  # smoothed
    speed: Optional[float]  # images per second; None where no step was left to do
    verification: Optional[Tuple[float, float]]  # accuracy and its deviation
    problem: Optional[str]  # why there is no verification, if there was to be one
    files: Tuple[str, str]


def run_training(args):
    """Train as the options of `tools/train_synthetic.py` say; return the Result, None for all workers but the first."""
    contexts = devices(args.devices)
    settings = settings_for(args, contexts)
    embedding, image_shape = build(args.network, **settings), settings['image_shape']
    kvstore = create_kvstore(args.kvstore or ('device' if contexts[0].device_type == 'gpu' else 'local'))
    is_first = kvstore.rank == 0
    if is_first:
        check_writable(args.output)
    folder = data_folder(args, kvstore)
    records = FaceRecords(folder, image_shape, args.on_bad_record)
    if is_first and not args.no_verification:
        warn_of_pairs(folder, image_shape)

    check_memory(embedding, records.classes, settings, args, contexts)
    symbol = losses.classifier(
        embedding, settings['emb_size'], records.classes, entry('loss', args.loss), args.loss_scale
    )
    trainer = make_trainer(symbol, contexts, image_shape, args, kvstore)
    same = dict({name: getattr(args, name) for name in SAME}, workers=kvstore.num_workers, data=records.checksum())
    smoothed = resume(trainer, args, same)
    batches = FaceBatches(
        records, args.per_batch_size * args.devices, args.seed, kvstore.rank, kvstore.num_workers, trainer.steps
    )
    with contextlib.ExitStack() as stack:
        writer = None
        if is_first:
            path = os.path.join(args.output, log.FILE)
            writer = stack.enter_context(log.Writer(path, args.steps, goes_on=trainer.steps > 0))
        smoothed, speed = loop.train(trainer, batches, args, same, writer, smoothed)
        if records.bad:
            print(
                f'worker {kvstore.rank} left out {records.count_bad()} records; the first: '
                f'{next(iter(records.bad.values()))}'
            )
        if not is_first:
            return None
        files = save(trainer, args.output, args.network)
        verified, problem = None, None
        if not args.no_verification:
            verified, problem = try_to_verify(args, folder, image_shape, contexts, files[1])
        if verified:
            writer.verified('verification', args.steps, *verified)
    return Result(
        args.network,
        args.multiplier,
        args.loss,
        args.steps,
        count_parameters(embedding, image_shape),
        count_macs(embedding, image_shape),
        smoothed[0],
        speed,
        verified,
        problem,
        files,
    )


def devices(count):
    """Return `count` contexts: GPUs if there are any, else CPU contexts, which compute one after the other."""
    gpus = mx.context.num_gpus()
    if gpus and gpus < count:
        raise UserError(f'--devices {count}: there are only {gpus} GPUs')
    return [mx.gpu(i) if gpus else mx.cpu(i) for i in range(count)]


def settings_for(args, contexts):
    """Return the settings of the network, in the forms that suit the devices."""
    device = contexts[0].device_type
    changes = dict(forms_for(device), net_multiplier=args.multiplier, fp16=args.fp16)
    if args.memonger:
        changes['memonger'] = args.memonger == 'on'
    settings = settings_of(args.network, **changes)
    entry('loss', args.loss)  # raises UserError if there is none
    if args.fp16 and device == 'cpu':
        raise UserError('--fp16 wants a GPU: MXNet has no float16 matrix product on a CPU')
    return dict(settings, image_shape=tuple(host.dataset.synthetic.image_shape))


def data_folder(args, kvstore):
    """Return the folder of the data set; where there is none, the first worker draws it."""
    folder = args.data or os.path.join(args.output, 'data')
    if kvstore.rank == 0 and remove_unfinished(folder):
        raise UserError(f'another run is writing into {folder}; wait until it has ended, or name another --data')
    if kvstore.rank == 0 and not os.path.exists(os.path.join(folder, 'property')):
        if os.path.isdir(folder) and os.listdir(folder):
            raise UserError(f'{folder} is neither empty nor a data set (it has no "property"); name another --data')
        if args.data and not args.draw:
            raise UserError(
                f'there is no data set in {folder}; name another --data, or add --draw to have one drawn there'
            )
        write_synthetic(folder, args.identities, args.images, args.pairs, args.seed)
    elif kvstore.rank == 0:
        print(f'using the data set that is in {folder}')
    wait_for_workers(kvstore)
    return folder


def read_pairs(folder, image_shape):
    """Return the verification pairs of a data set; raises UserError if they are too few to verify with."""
    path = os.path.join(folder, 'lfw.bin')
    images, same = pairs.read_pairs(path, image_shape)
    if len(same) < protocol.FOLDS:
        raise UserError(f'{path}: {len(same)} pairs are not enough for {protocol.FOLDS} folds')
    return images, same


def warn_of_pairs(folder, image_shape):
    """Say before the training, not after it, that there will be no verification. During it their memory is free."""
    try:
        read_pairs(folder, image_shape)
    except UserError as error:
        sys.stderr.write(f'{error}; there will be no verification, as with --no-verification\n')


def check_memory(embedding, classes, settings, args, contexts):
    """Raise UserError for a step that cannot fit in this machine's memory, before the system kills processes.

    A CPU context takes CONTEXT, the planned memory of an image times the images, and weights (also of the classes),
    their gradients and momentum. A GPU reports by itself what does not fit.
    """
    if contexts[0].device_type == 'gpu':
        return
    image_shape = settings['image_shape']
    weights = CONTEXT + 12 * (count_parameters(embedding, image_shape) + classes * settings['emb_size'])
    maps = planned_memory(embedding, 1, image_shape) * 2**20 + 12 * classes
    check_room(
        len(contexts) * (weights + args.per_batch_size * maps),
        f'take fewer --devices or a smaller --per-batch-size: {len(contexts)} devices with '
        f'{args.per_batch_size} images each and {classes} classes want',
    )


def make_trainer(symbol, contexts, image_shape, args, kvstore):
    """Return the Trainer of a run, with initialised weights, and the host's momentum and weight decay."""
    default = {**host.default, **entry('network', args.network)}
    data_shape = (args.per_batch_size * len(contexts), 3, *image_shape[:2])
    trainer = Trainer(
        symbol,
        contexts,
        data_shape,
        kvstore,
        args.seed,
        args.loss_scale,
        learning_rate=args.lr,
        momentum=default['mom'],
        wd=default['wd'],
        multi_precision=args.fp16,
        lr_scheduler=schedule(args.lr, args.steps),
    )
    mx.random.seed(args.seed)
    trainer.initialize(initializer())
    return trainer


def resume(trainer, args, same):
    """With --resume, load the state of an interrupted run into `trainer`, if there is one; return its smoothed loss.

    Without --resume the first worker removes the state. `same` are the options that have to be the same. Raises
    UserError where the workers do not see the same state.
    """
    is_first, smoothed = trainer.kvstore.rank == 0, None
    found = state.load(args.output, same) if args.resume else None
    path = os.path.join(args.output, state.FILE)
    if found:
        arrays, smoothed = found
        trainer.load_state(arrays, path)
    elif is_first:
        state.forget(args.output)
    steps = first_workers(trainer.kvstore, trainer.steps)
    if steps != trainer.steps:
        raise UserError(
            f'--resume: the first worker goes on behind step {steps}, this one behind step '
            f'{trainer.steps}; all have to see the same --output'
        )
    if steps > args.steps:
        raise UserError(f'--resume: {path} is of step {steps}, behind the last of --steps {args.steps}; ask for more')
    if found and is_first:
        print(f'going on behind step {steps} of {args.steps}')
    return smoothed


def save(trainer, folder, name):
    """Save the checkpoint as the host does, cut at `fc1_output`, without the classes; return the paths of its files."""
    embedding = cut(trainer.symbol)
    parameters = trainer.parameters()
    for parameter, values in parameters.items():
        if not np.isfinite(values).all():
            raise UserError(f'{parameter} is not finite after the last step; try a smaller --lr')
    names = embedding.list_arguments() + embedding.list_auxiliary_states()
    with new_files(folder) as scratch:
        checkpoints.save(
            os.path.join(scratch, name), EPOCH, embedding, {name: parameters[name] for name in names if name != 'data'}
        )
    return checkpoints.files(os.path.join(folder, name), EPOCH)


def verify(args, folder, image_shape, contexts):
    """Return (accuracy, deviation) of the checkpoint as it is on the disk."""
    images, same = read_pairs(folder, image_shape)
    symbol, parameters = checkpoints.load(os.path.join(args.output, args.network), EPOCH)
    embeddings = verification.embed(symbol, parameters, images, args.per_batch_size * len(contexts), contexts)
    if not np.isfinite(embeddings).all():
        raise UserError('its embeddings are not finite; try a smaller --lr')
    return verification.accuracy(embeddings, same)


def try_to_verify(args, folder, image_shape, contexts, path):
    """Verify the checkpoint with the parameters `path`; return ((accuracy, deviation), None), or (None, the problem).

    Whatever interrupts it, the checkpoint stays, and a message says so.
    """
    try:
        return verify(args, folder, image_shape, contexts), None
    except UserError as error:
        return None, f'{path} is written, but not verified: {error}'
    except BaseException:
        sys.stderr.write(f'{path} is written, but not verified{"; --resume does that" if args.state_every else ""}\n')
        raise
