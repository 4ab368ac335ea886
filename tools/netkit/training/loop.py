"""The training loop: step after step, with progress, log and state."""

import math
import time

import numpy as np
from tqdm import tqdm

from netkit.errors import UserError
from netkit.training import state

OVERFLOWS = 20  # consecutive steps with gradients that are not finite, after which the run ends


def train(trainer, batches, run, same, keeper=None, progress=None):
    """Train to the last step, showing loss, accuracy and images per second.

    `batches` begins at the step of `trainer`, and `progress` is the `state.Progress` of that step. The first worker has
    a `keeping.Keeper`, the others None; with it go the log and the state, for an `options.Run` with the options `same`.
    Returns the smoothed [loss, accuracy], and the images per second, None where no step was left.
    """
    first_step, overflows, skipped, seconds, speed = trainer.steps, 0, 0, 0.0, None
    smoothed = progress.loss if progress else None
    batch_size = batches.batch_size * batches.num_parts
    batch = batches.next() if first_step < run.steps else None
    with tqdm(
        total=run.steps, initial=first_step, unit='step', desc='training', disable=None if keeper else True
    ) as bar:
        for step in range(first_step + 1, run.steps + 1):
            start = time.time()
            overflows = 0 if trainer.step(batch) else overflows + 1
            skipped += overflows > 0
            label = batch.label[0].asnumpy().astype(int)
            if step < run.steps:
                batch = batches.next()  # read while MXNet, which runs asynchronously, computes
            now = loss_and_accuracy(trainer.probabilities(), label)
            if not math.isfinite(now[0]) or overflows == OVERFLOWS or step == run.steps and skipped == step:
                raise UserError(
                    'the loss or its gradients are not finite any more; try a smaller --lr'
                    + (' or --loss-scale' if run.descent.loss_scale > 1 else '')
                )
            smoothed = [0.9 * old + 0.1 * new for old, new in zip(smoothed or now, now)]
            seconds += time.time() - start
            speed = (step - first_step) * batch_size / seconds
            bar.set_postfix_str(f'loss {smoothed[0]:.2f}, accuracy {smoothed[1]:.2f}, {speed:.1f} images/s')
            bar.update()
            if keeper:
                keeper.log.add(step, batch_size, *now)
                if keeper.is_due(step):
                    told = keeper.keep(trainer, step)
                    bar.write(told.problem or f'step {step}: {", ".join(map(str, told.measured)) or told.files[1]}')
                # Also after the last step, for a run that is interrupted while it saves or verifies.
                every = run.checkpoints.state_every
                if every and (step % every == 0 or step == run.steps):
                    counts = keeper.counted(step) if step == run.steps else (keeper.saved, keeper.kept)
                    so_far = state.Progress(smoothed, keeper.best, *counts)
                    state.save(run.checkpoints.output, trainer.state(), same, so_far)
    if keeper and skipped:
        print(f'{skipped} of {run.steps - first_step} steps were left out: their gradients were not finite')
    return smoothed, speed


def loss_and_accuracy(probabilities, label):
    """Return the mean cross-entropy, and the share of images whose label has the largest probability."""
    of_label = probabilities[np.arange(len(label)), label]
    return float(-np.log(np.maximum(of_label, 1e-30)).mean()), float((probabilities.argmax(axis=1) == label).mean())
