"""A whole training, from options to a measured checkpoint."""

import contextlib
import os
from typing import List, NamedTuple, Optional, Tuple

from netkit.files import check_writable, claimed
from netkit.graph.counts import count_macs, count_parameters
from netkit.graph.cpu_forms import for_cpu
from netkit.networks import build
from netkit.training import log, loop
from netkit.training.keeping import Keeper
from netkit.training.starting import check_memory, decay_of, devices, make_trainer, resume, settings_with, start_from
from netkit.training.tasks import FaceTask, Measured
from netkit.training.workers import create_kvstore


class Result(NamedTuple):
    """The result of a training run."""

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


def run_training(run):
    """Train an `options.Run`; return the Result, None for all workers but the first."""
    contexts = devices(run.devices)
    task = FaceTask(run)
    settings = settings_with(run.network, contexts, task.settings)
    embedding = build(run.network.name, **settings)
    kvstore = create_kvstore(run.kvstore or ('device' if contexts[0].device_type == 'gpu' else 'local'))
    with contextlib.ExitStack() as stack:
        if kvstore.rank == 0:
            check_writable(run.checkpoints.output)
            stack.enter_context(claimed(run.checkpoints.output, 'training'))
        task.prepare(kvstore)
        return train(run, task, embedding, settings, contexts, kvstore)


def train(run, task, embedding, settings, contexts, kvstore):
    """Train the symbol `embedding`, of `settings`, on a task that is prepared; return what `run_training` does."""
    image_shape, is_first, output = settings['image_shape'], kvstore.rank == 0, run.checkpoints.output
    batch_size = run.per_batch_size * run.devices
    same = dict(run.same(), workers=kvstore.num_workers, data=task.checksum())
    steps_per_epoch = task.steps_per_epoch(batch_size * kvstore.num_workers)
    run = run.in_steps(steps_per_epoch, *decay_of(run.descent, run.network.name))

    bound = for_cpu(embedding, image_shape, training=True) if contexts[0].device_type == 'cpu' else embedding
    check_memory(bound, task.head_parameters(settings), task.classes, image_shape, run.per_batch_size, contexts)
    trainer = make_trainer(task.head(bound, settings), contexts, image_shape, run, kvstore)
    if run.pretrained:
        start_from(trainer, run.pretrained, is_first)
    progress = resume(trainer, run, same)
    batches = task.batches(batch_size, kvstore, trainer.steps)
    with contextlib.ExitStack() as stack:
        stack.callback(batches.close)
        keeper = None
        if is_first:
            path = os.path.join(output, log.FILE)
            writer = stack.enter_context(log.Writer(path, run.steps, steps_per_epoch, trainer.steps > 0))
            keeper = Keeper(run, task, embedding, contexts[0], writer, progress)
        smoothed, speed = loop.train(trainer, batches, run, same, keeper, progress)
        task.tell_bad(kvstore.rank)
        if not is_first:
            return None
        kept = keeper.keep(trainer, run.steps)
    return Result(
        run.network.text,
        run.network.multiplier,
        run.loss,
        run.steps,
        count_parameters(embedding, image_shape),
        count_macs(embedding, image_shape),
        smoothed[0],
        speed,
        kept.measured,
        kept.problem,
        kept.files,
    )
