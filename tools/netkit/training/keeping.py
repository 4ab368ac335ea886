"""The checkpoints of a run: written, read back, measured, counted and kept as insightface's trainer does."""

import os
import sys
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from netkit import checkpoints
from netkit.errors import UserError
from netkit.files import new_files
from netkit.training.tasks import Measured

BEST, ALL, ONE = 1, 2, 3  # values of --ckpt, as insightface's: the best so far, all, one that is replaced


class Kept(NamedTuple):
    """A checkpoint, and what was measured on its files."""

    files: Tuple[str, str]
    measured: List[Measured]
    problem: Optional[str] = None  # why nothing was measured, if something was to be


class Keeper:
    """Keeps checkpoints of `embedding`, the symbol without its loss.

    `best` is the largest accuracy so far, None before the first. `saved` is how many checkpoints there were, by which
    insightface numbers them; None if the state of an earlier version does not tell. `kept` is the step of the last of
    these. The accuracy of a checkpoint is the mean over the verification sets, or top-1.
    """

    def __init__(self, run, task, embedding, context, log, progress=None):
        self.steps, self.checkpoints, self.name = run.steps, run.checkpoints, run.network.name
        self.task, self.embedding, self.context, self.log = task, embedding, context, log
        self.best, self.saved, self.kept = (
            (progress.best, progress.saved, progress.kept) if progress else (None, 0, None)
        )

    def is_due(self, step):
        """Return whether a checkpoint is due after a step other than the last."""
        return self.checkpoints.every and step % self.checkpoints.every == 0 and step < self.steps

    def keep(self, trainer, step):
        """Write, evaluate and log a checkpoint; return a Kept.

        With BEST, delete files that are worse than earlier ones, except those of the last step.
        """
        files, number = self._save(trainer, step)
        kept = Kept(files, [])
        if self.checkpoints.is_verified:
            kept = self._measured(files, number)
        for measured in kept.measured:
            self.log.measured(step, *measured)
        if kept.measured:
            accuracy = self._score(kept.measured)
            is_best = self.best is None or accuracy >= self.best
            self.best = max(accuracy, self.best or 0.0)
            if self.checkpoints.keep == BEST and not is_best and step < self.steps:
                os.remove(files[1])
        return kept

    @staticmethod
    def _score(measured):
        scores = [found.accuracy for found in measured if found.name != 'top-5']
        return sum(scores) / len(scores)

    def _save(self, trainer, step):
        """Write a checkpoint as insightface does, without the loss and its classes; return (files, number)."""
        parameters = trainer.parameters()
        for parameter, values in parameters.items():
            if not np.isfinite(values).all():
                raise UserError(f'{parameter} is not finite after step {step}; try a smaller --lr')
        output = self.checkpoints.output
        number = 1 if self.checkpoints.keep == ONE else self._before(step) + (step != self.kept)
        names = self.embedding.list_arguments() + self.embedding.list_auxiliary_states()
        with new_files(output) as scratch:
            checkpoints.save(
                os.path.join(scratch, self.name),
                number,
                self.embedding,
                {name: parameters[name] for name in names if name != 'data'},
            )
        self.saved, self.kept = self.counted(step)
        return checkpoints.files(os.path.join(output, self.name), number), number

    def _before(self, step):
        every = self.checkpoints.every
        return self.saved if self.saved is not None else (step - 1) // every if every else 0

    def counted(self, step):
        """Return (saved, kept) after the checkpoint of a step.

        The last one counts if `every` says so too; if not, a run that continues from there writes another in its place.
        """
        every = self.checkpoints.every
        counts = step != self.kept and (step < self.steps or bool(every) and step % every == 0)
        return (self._before(step) + 1, step) if counts else (self._before(step), self.kept)

    def _measured(self, files, number):
        """Measure a checkpoint; whatever interrupts that, the files stay, and a message says so."""
        try:
            model = f'{os.path.join(self.checkpoints.output, self.name)},{number}'
            measured, problem = self.task.measure(model, self.context)
        except UserError as error:
            measured, problem = [], str(error)
        except BaseException:
            advice = '; --resume does that' if self.checkpoints.state_every else ''
            sys.stderr.write(f'{files[1]} is written, but not verified{advice}\n')
            raise
        return Kept(files, measured, problem and f'{files[1]} is written, but not verified: {problem}')
