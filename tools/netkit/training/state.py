"""Save and load the state of a training run, in one file, written completely or not.

A NumPy archive: what `Trainer.state` returns, and as JSON the settings of the run and its Progress. The order of
the data, the learning rate and Dropout's masks follow from the seed and the number of the step.
"""

import contextlib
import json
import os
import zipfile
from typing import List, NamedTuple, Optional

import numpy as np

from netkit.errors import UserError
from netkit.files import new_files, save_arrays, settle

FILE = 'resume.npz'


class Progress(NamedTuple):
    """How far a run has come, next to the state of its Trainer."""

    loss: List[float]  # smoothed loss and accuracy
    best: Optional[float]  # largest accuracy of its checkpoints so far
    saved: Optional[int] = None  # how many they were; None in states of earlier versions
    kept: Optional[int] = None  # the step of the last of these


def save(folder, state, settings, progress):
    """Write the `state` of a Trainer into `folder`, replacing the last one.

    `settings` are the options of the run, {option: value}.
    """
    with new_files(folder) as scratch:
        run = np.array(json.dumps({'settings': settings, **progress._asdict()}))
        save_arrays(os.path.join(scratch, FILE), run=run, **state)


def forget(folder):
    """Remove the state in `folder`, so that no later run continues one that has been replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, FILE))


def load(folder, settings):
    """Return (state, Progress) of the file in `folder`, None if there is none.

    Finishes or removes what killed runs left. Raises UserError for a damaged file, and for a run with other settings.
    """
    settle(folder)
    path = os.path.join(folder, FILE)
    if not os.path.exists(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
                raise ValueError('it is compressed, or has members within members')
        with np.load(path, allow_pickle=False) as archive:
            state = {name: np.asarray(archive[name]) for name in archive.files}
        if any(array.dtype.kind not in 'fiubU' for array in state.values()):
            raise ValueError('it holds something that is not an array of numbers')
        run = json.loads(str(state.pop('run')))
        made_with, best = dict(run['settings']), run['best']
        best, saved = None if best is None else float(best), run.get('saved')
        saved, kept = (None if number is None else int(number) for number in (saved, run.get('kept')))
        progress = Progress([float(value) for value in run['loss']], best, saved, kept)
    except Exception as error:  # a damaged archive may cause any exception in zipfile and NumPy
        raise UserError(f'{path} is not the state of a training run: {error}; remove it to start again')
    for option, value in settings.items():
        if made_with.get(option) != value:
            raise UserError(
                f'{path} was made with {option} {made_with.get(option)}, not {value}; repeat the options '
                'of that run, or remove it to start again'
            )
    return state, progress
