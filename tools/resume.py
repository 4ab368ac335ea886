"""The state of an interrupted training run, in one file that is there whole or not at all.

A NumPy archive: weights, moving statistics, the optimiser's states, and as JSON the step and the settings of the run.
The data order, the learning rate and the Dropout masks follow from the seed and the number of the step.
"""
import glob
import json
import os
import shutil
import zipfile

import mxnet as mx
import numpy as np

from project import UserError, new_files

FILE = 'resume.npz'


def save(folder, module, step, settings):
    """Write the state of `module` behind `step` into `folder`, in place of the last one.

    `settings` are what the run was started with, {option: value}.
    """
    mx.nd.waitall()  # for moving statistics, too: MXNet does not know that reading them has to wait
    arg_params, aux_params = module.get_params()
    arrays = {'arg:' + name: array.asnumpy() for name, array in arg_params.items()}
    arrays.update(('aux:' + name, array.asnumpy()) for name, array in aux_params.items())
    devices = len(module._context)
    for index, state in module._updater.states.items():
        if index % devices == 0:  # the devices' states are equal
            # A momentum, or for float16 weights a pair: momentum and float32 weights.
            for part, array in enumerate(state if isinstance(state, (tuple, list)) else [state]):
                arrays['state:%d:%d' % (index // devices, part)] = array.asnumpy()
    arrays['run'] = np.array(json.dumps(dict(step=step, settings=settings)))
    with new_files(folder) as scratch:
        np.savez(os.path.join(scratch, FILE), **arrays)


def load(folder, settings):
    """Return (step, arrays) of the state in `folder`, or None if there is none.

    Removes what a killed run has left unfinished. Raises UserError for a file that is damaged, or was made by a run
    with other settings.
    """
    for scratch in glob.glob(os.path.join(glob.escape(folder), '.unfinished-*')):
        shutil.rmtree(scratch, ignore_errors=True)
    path = os.path.join(folder, FILE)
    if not os.path.exists(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        run = json.loads(str(arrays.pop('run')))
        step, made_with = int(run['step']), dict(run['settings'])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError('%s is not the state of a training run: %s; remove it to start anew' % (path, error))
    for option, value in settings.items():
        if made_with.get(option) != value:
            raise UserError('%s was made with %s %s, not %s; repeat the options of that run, or remove it to start anew'
                            % (path, option, made_with.get(option), value))
    return step, arrays


def restore(module, arrays, path):
    """Give a bound module, with its optimiser, the arrays that `load` returned; raises UserError if they do not fit."""
    kinds = {'arg': {}, 'aux': {}, 'state': {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(':')
        kinds.get(kind, {})[name] = array
    try:
        module.set_params(*({name: mx.nd.array(array, dtype=array.dtype) for name, array in kinds[kind].items()}
                            for kind in ('arg', 'aux')))
        devices, states = len(module._context), {}
        for name in sorted(kinds['state']):
            index, array = int(name.split(':')[0]), kinds['state'][name]
            for device in range(devices):
                states.setdefault(index * devices + device, []).append(mx.nd.array(array, dtype=array.dtype))
    except (RuntimeError, ValueError, AssertionError, mx.MXNetError) as error:
        raise UserError('%s does not fit the network: %s' % (path, str(error).strip().splitlines()[0]))
    updater = module._updater
    updater.states = {index: parts[0] if len(parts) == 1 else tuple(parts) for index, parts in states.items()}
    updater.states_synced = dict.fromkeys(updater.states, False)  # they move to their device when they are used
