"""Parts `speed` and `inference`: images per second of a training step, milliseconds of an inference, in turns."""

import functools

from netkit.gpu.harness import Figure, Problems, in_turns, in_turns_anew, largest_that_fits, note_of
from netkit.gpu.mxnet_device import (
    IS_GPU,
    Sharing,
    Weights,
    changed,
    default_batch,
    fits,
    label,
    release,
    shape,
    symbol,
    wait,
)
from netkit.gpu.sizes import BATCHES, measured

TF32 = ', float32 with TF32 where the card has it' if IS_GPU else ''
# {row: (changes to the settings, whether BatchNorm is cuDNN's; None: as the symbol has it)}, for all networks.
WAYS = {
    "recomputed, MXNet's BatchNorm": ({'memonger': True}, False),  # as the trainers build it
    "recomputed, cuDNN's BatchNorm (it would move the statistics twice)": ({'memonger': True}, True),
    "kept, MXNet's BatchNorm": ({'memonger': False}, False),
    "kept, cuDNN's BatchNorm": ({'memonger': False}, True),
    'kept, rewritten for a CPU': ({'memonger': False, 'rewritten': True}, None),
    'kept, net_prelu=op (its gradient is wrong)': ({'memonger': False, 'net_prelu': 'op'}, None),
}
ON_CPU = {  # where there is no cuDNN
    'recomputed': ({'memonger': True}, None),
    'kept': ({'memonger': False}, None),
    'kept, not rewritten': ({'memonger': False, 'rewritten': False}, None),
    'kept, net_prelu=op (its gradient is wrong)': ({'memonger': False, 'net_prelu': 'op'}, None),
}
HALF = {
    'float16, kept': ({'memonger': False, 'fp16': True}, None),
    'float16, recomputed': ({'memonger': True, 'fp16': True}, None),
}
QUICK = "recomputed, MXNet's BatchNorm", "kept, cuDNN's BatchNorm", 'kept, rewritten for a CPU', 'float16, kept', 'kept'


def ways(quick):
    """Return {row: (changes, BatchNorm)}."""
    found = {**WAYS, **HALF} if IS_GPU else ON_CPU
    return {row: way for row, way in found.items() if not quick or row in QUICK}


def measure(name, quick):
    """Yield the Figures of a network's training steps: forward and backward pass, without the update of the weights.

    The ways share their weights, and are bound anew for each turn: the maps of all would not fit.
    """
    wanted, batches, makers, weights, problems = default_batch(name), {}, {}, {}, Problems()
    table = f'training (forward and backward pass{TF32}), images per second, batch {wanted}'
    for row, (changes, cudnn) in ways(quick).items():
        with problems.caught(row):
            of, half = changed(symbol(name, **changes), cudnn), changes.get('fp16', False)
            if half not in weights:
                weights[half] = Weights(name, of)

            def make(batch, of=of, shared=weights[half]):
                release()  # of the way before
                return Sharing(of, shape(name, batch), shared)

            batches[row] = largest_that_fits(wanted, lambda batch, make=make: fits(lambda: make(batch)()))
            if batches[row]:
                makers[row] = functools.partial(make, batches[row])
            else:
                yield Figure(table, row, label(name), 'not one image fits')
    for found in in_turns_anew(makers, wait, problems):
        for row, seconds in found.items():
            yield Figure(table, row, label(name), round(batches[row] / seconds, 1), note_of(batches[row], wanted))
    problems.check()


def measure_inference(name):
    """Yield the Figures of a network's inferences."""
    table, problems = f'inference, milliseconds for a batch that is on the device{TF32}', Problems()
    symbols = {'float32': symbol(name, training=False, memonger=False)}
    if IS_GPU:
        symbols['float16'] = symbol(name, training=False, memonger=False, fp16=True)
    weights = {row: Weights(name, of) for row, of in symbols.items()}
    for batch in BATCHES if IS_GPU else BATCHES[:2]:
        steps = {}
        for row, of in symbols.items():
            with problems.caught(row):
                step = Sharing(of, shape(name, batch), weights[row], training=False)
                step()
                wait()
                steps[row] = step
        for found in in_turns(steps, wait, problems):
            for row, seconds in found.items():
                yield Figure(table, row, f'{label(name)}, batch {batch}', round(1e3 * seconds, 2))
    problems.check()


def cases(quick):
    """Return {case: function that yields Figures} of the part `speed`."""
    return {name: functools.partial(measure, name, quick) for name in measured(quick)}


def inference_cases(quick):
    """Return {case: function that yields Figures} of the part `inference`."""
    return {name: functools.partial(measure_inference, name) for name in measured(quick)}
