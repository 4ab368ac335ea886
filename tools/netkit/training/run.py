"""A whole training, from options to a measured checkpoint."""

import argparse
import contextlib
import os
from typing import List, NamedTuple, Optional, Tuple

from netkit.files import check_writable
from netkit.graph.counts import count_macs, count_parameters
from netkit.graph.cpu_forms import for_cpu
from netkit.networks import build
from netkit.training import log, loop
from netkit.training.keeping import Keeper
from netkit.training.schedule import Length
from netkit.training.starting import check_memory, devices, make_trainer, resume, settings_with, sgd_of, start_from
from netkit.training.tasks import Measured, open_task
from netkit.training.workers import create_kvstore

# The options that have to be the same to resume a run; of --steps and --epochs there may be more.
SAME = (
    'network',
    'dataset',
    'loss',
    'per_batch_size',
    'devices',
    'lr',
    'lr_steps',
    'warmup',
    'mom',
    'wd',
    'multiplier',
    'fp16',
    'loss_scale',
    'pretrained',
    'crop',
    'data_color',
    'cutoff',
    'image_size',
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
    measured: List[Measured]  # of the last checkpoint
    problem: Optional[str]  # why nothing was measured, if something was to be
    files: Tuple[str, str]


def run_training(args):
    """Train as the options of `tools/train.py` say; return the Result, None for all workers but the first."""
    contexts = devices(args.devices)
    task = open_task(args)
    settings = settings_with(args, contexts, task.settings)
    embedding, image_shape = build(args.network, **settings), settings['image_shape']
    kvstore = create_kvstore(args.kvstore or ('device' if contexts[0].device_type == 'gpu' else 'local'))
    is_first = kvstore.rank == 0
    if is_first:
        check_writable(args.output)
    task.prepare(kvstore)
    batch_size = args.per_batch_size * args.devices
    same = same_options(args, task, kvstore)
    args = in_steps(args, task.steps_per_epoch(batch_size * kvstore.num_workers))

    bound = for_cpu(embedding, image_shape, training=True) if contexts[0].device_type == 'cpu' else embedding
    of_head = task.head_parameters(settings)
    check_memory(bound, of_head, task.classes, image_shape, args, contexts)
    trainer = make_trainer(task.head(bound, settings), contexts, image_shape, args, kvstore)
    if args.pretrained:
        start_from(trainer, args.pretrained, is_first)
    progress = resume(trainer, args, same)
    batches = task.batches(batch_size, kvstore, trainer.steps)
    with contextlib.ExitStack() as stack:
        stack.callback(batches.close)
        keeper = None
        if is_first:
            path = os.path.join(args.output, log.FILE)
            writer = stack.enter_context(log.Writer(path, args.steps, goes_on=trainer.steps > 0))
            keeper = Keeper(args, task, embedding, contexts[0], writer, progress.best if progress else None)
        smoothed, speed = loop.train(trainer, batches, args, same, keeper, progress)
        task.tell_bad(kvstore.rank)
        if not is_first:
            return None
        kept = keeper.keep(trainer, args.steps)
    return Result(
        args.choice,
        args.multiplier,
        args.loss,
        args.steps,
        count_parameters(embedding, image_shape),
        count_macs(embedding, image_shape),
        smoothed[0],
        speed,
        kept.measured,
        kept.problem,
        kept.files,
    )


def same_options(args, task, kvstore):
    """Return what has to be the same to resume a run, {option: value}."""
    plain = {
        name: value if isinstance(value, (int, float, type(None))) else str(value) for name, value in vars(args).items()
    }
    plain['network'] = args.choice
    if args.lr_steps:
        plain['lr_steps'] = ','.join(map(str, args.lr_steps))
    return dict({name: plain[name] for name in SAME}, workers=kvstore.num_workers, data=task.checksum())


def in_steps(args, steps_per_epoch):
    """Return the options with every length in steps, and the defaults that depend on the network and the data."""
    mom, wd = sgd_of(args)
    every = args.verbose
    if every is None and args.dataset == 'imagenet':
        verbose = round(steps_per_epoch)  # an epoch
    else:
        verbose = every.steps(steps_per_epoch) if every else 0
    return argparse.Namespace(
        **{
            **vars(args),
            'steps': Length(args.epochs, True).steps(steps_per_epoch) if args.epochs else args.steps,
            'verbose': verbose,
            'lr_steps': args.lr_steps and sorted({drop.steps(steps_per_epoch) for drop in args.lr_steps}),
            'warmup': args.warmup.steps(steps_per_epoch),
            'mom': mom,
            'wd': wd,
        }
    )
