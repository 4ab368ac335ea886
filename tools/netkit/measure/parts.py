"""The parts of the report, each written once over the engines; and how a process measures one.

An engine is a module with `where()`, `facts()`, `computing()`, `networks(part, names, options)`, `wait()`, `release()`
and `fits(function)`. A network of it has `choice` and `ways(part, quick)`, {row: how to compute}, and for a way
`step(way, batch)` and `infer(way, batch)`, which return the function to time, `peak(way, batch)` and `room()` in MB,
and `computed(way, reference)`.
"""

import functools
import gc
import importlib
import json
import time
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from netkit.errors import UserError, reason
from netkit.measure import agreement, choices
from netkit.measure.figures import NO_ROOM, Figure, Problems, facts_in, note_of
from netkit.measure.timing import LARGEST, in_turns, largest_batch, largest_that_fits, medians

ENGINES = {'torch': 'PyTorch', 'onnxruntime': 'onnxruntime', 'mxnet': 'MXNet'}
MODULES = {'torch': 'torch_engine', 'onnxruntime': 'onnx_engine', 'mxnet': 'mxnet_engine'}
CARD = 'card'  # the part that comes first, and without which an engine is left out
FLOAT32 = ('NVIDIA_TF32_OVERRIDE=0',)  # has NVIDIA's libraries compute float32 with all its digits
# Titles of tables.
MACHINE = 'the machine'
PLAN = 'MB that MXNet plans for the feature maps of a training step and their gradients'
DEVICES = 'training on several devices, images per second in all'
SHARE = 'training on several devices, share of a step for summing gradients, %'
FACES = 'a training on synthetic faces, verified on drawn pairs of other people'


class Options(NamedTuple):
    """The report's options."""

    quick: bool = False
    minutes: float = 15  # of all parts together
    seconds: int = 120  # of the training on faces
    insightface: Optional[str] = None  # a checkout, for its r100
    mxnet_python: Optional[str] = None
    case: Optional[str] = None  # one case of a part; None: all


def card(engine, _options):
    """The GPUs and the libraries, and whether the engine computes here at all."""

    def described():
        yield from facts_in(MACHINE, engine.LABEL, engine.facts())

    def computing():
        found = engine.computing()
        said = {what: f'no: {why}' if why else 'computes' for what, why in found.items()}
        yield from facts_in(MACHINE, engine.LABEL, said)
        failed = [f'{what}: {why}' for what, why in found.items() if why]
        if failed:
            raise UserError(f'{engine.LABEL} does not compute on this GPU: {"; ".join(failed)}')

    return {'described': described, 'computing': computing}


def plan(_engine, options):
    """MXNet's planned memory of a training step, the same on every device; nothing is computed."""
    from netkit.graph.memory import planned_memory
    from netkit.networks import build

    def measure(name):
        batch = choices.batch_of(name, True)
        for row, memonger in {'all maps stored': False, 'checkpointing': True}.items():
            planned = planned_memory(build(name, memonger=memonger), batch, (112, 112, 3))
            yield Figure(PLAN, row, f'{name}, batch {batch}', round(planned))

    return {name: functools.partial(measure, name) for name in measured(options.quick)}


def measured(quick):
    """Return the networks of which speed and memory are measured: one of each family."""
    return choices.SPEED[:1] if quick else choices.SPEED


def over_networks(part, measure):
    """Return a part that does `measure(engine, network, {row: way})` for each network of an engine."""

    def cases(engine, options):
        if part == 'correctness':
            names = choices.CORRECTNESS[:1] if options.quick else choices.CORRECTNESS
        else:
            names = measured(options.quick or part == 'compile')

        def case(make):
            gc.collect()  # frees the previous network's GPU memory
            engine.release()
            network = make()
            yield from measure(engine, network, network.ways(part, options.quick))

        return {name: functools.partial(case, make) for name, make in engine.networks(part, names, options).items()}

    cases.__doc__ = measure.__doc__
    return cases


def batch_and_label(engine, network):
    """Return the images of a training step of a network, and what it is called in a table."""
    return choices.batch_of(network.choice.network, engine.IS_GPU), network.choice.label


def speed(engine, network, ways, batch=None):
    """Images per second of training steps at a batch size, by default the network's, or what fits."""
    (wanted, column), batches, problems = batch_and_label(engine, network), {}, Problems()
    wanted = wanted if batch is None else batch
    table = f'training{engine.SPEED}, images per second, batch {wanted}'
    for row, way in ways.items():
        with problems.caught(row):
            batches[row] = largest_that_fits(
                wanted, lambda batch, way=way: engine.fits(lambda: network.step(way, batch)())
            )
            if not batches[row]:
                yield Figure(table, row, column, NO_ROOM)
    makers = {row: functools.partial(network.step, ways[row], batch) for row, batch in batches.items() if batch}
    for seconds in in_turns(makers, engine.wait, problems, again=engine.MAKES_ANEW):
        for row, median in medians(seconds).items():
            yield Figure(table, row, column, round(batches[row] / median, 1), note_of(batches[row], wanted))
    problems.check()


def compiled(engine, network, ways):
    """Images per second of training steps, compiled and not; first uncompiled, if compiling takes too long."""
    if not engine.IS_GPU:
        why = 'not measured on a CPU: measure.py networks --engine torch --compile does'
        yield Figure('compiled', 'all', network.choice.label, why)
        return
    (wanted, _), (row, way) = batch_and_label(engine, network), next(iter(ways.items()))
    # With what fits uncompiled, so that nothing is compiled twice.
    batch = largest_that_fits(wanted, lambda batch: engine.fits(lambda: network.step(way, batch)()))
    yield from speed(engine, network, {row: way}, batch)
    yield from speed(engine, network, ways, batch)


def inference(engine, network, ways):
    """Milliseconds of forward passes, with batches on the device unless the title says otherwise."""
    label, problems, left = network.choice.label, Problems(), {}
    table = f'inference, milliseconds for a batch{engine.INFERENCE}'
    for row, way in ways.items():
        with problems.caught(row):
            why = network.why_not(way) if hasattr(network, 'why_not') else None
            if why:
                yield Figure(table, row, label, f'not measured: {why}')
                continue
            if hasattr(network, 'difference'):
                of_embeddings, value = network.difference(way)
                yield Figure(of_embeddings, row, label, value)
            left[row] = way
    for batch in choices.BATCHES if engine.IS_GPU else choices.BATCHES[:2]:
        makers, column = {}, f'{label}, batch {batch}'
        for row, way in left.items():
            with problems.caught(row):
                if engine.fits(lambda way=way, batch=batch: network.infer(way, batch)()):
                    makers[row] = functools.partial(network.infer, way, batch)
                else:
                    yield Figure(table, row, column, 'does not fit')
        for seconds in in_turns(makers, engine.wait, problems):
            for row, median in medians(seconds).items():
                yield Figure(table, row, column, round(1e3 * median, 2))
    problems.check()


def memory(engine, network, ways):
    """MB of a training step with the default batch, or what fits; then the largest batch of each way."""
    (wanted, label), peaks, problems = batch_and_label(engine, network), {}, Problems()
    table = f'MB of a training step, besides {engine.PEAK}'
    if not engine.IS_GPU:
        yield Figure(table, 'all', label, 'not measured: it is counted on GPUs only')
        return

    def fits(way, batch):
        peak = network.peak(way, batch)
        if peak is not None:
            peaks[way, batch] = peak
        return peak is not None

    known = {}
    for row, way in ways.items():
        with problems.caught(row):
            planned = network.planned(way, wanted) if hasattr(network, 'planned') else None
            if planned is not None:
                yield Figure(table, row, f'{label}, batch {wanted}, as planned', round(planned))
            batch = known[row] = largest_that_fits(wanted, functools.partial(fits, way))
            if batch and fits(way, batch):  # again, since the first time cuDNN has chosen and loaded
                taken = round(peaks[way, batch])
                yield Figure(table, row, f'{label}, batch {wanted}', taken, note_of(batch, wanted))
            else:
                yield Figure(table, row, f'{label}, batch {wanted}', NO_ROOM)
    for row, way in ways.items():
        with problems.caught(row):
            half = known.get(row, 0) // 2
            if not half or not fits(way, half):
                continue
            two = {batch: peaks[way, batch] for batch in (half, known[row])}
            batch = largest_batch(two, network.room(), functools.partial(fits, way))
            if batch:
                more = '; more was untested' if batch >= LARGEST else ''
                title = f'largest batch that was found to fit{engine.LARGEST}, and its MB, likewise'
                yield Figure(title, row, label, batch, f'{peaks[way, batch]:,.0f} MB{more}')
    problems.check()


def correctness(engine, network, ways):
    """Embeddings, gradients and moving statistics of each way against the CPU's in float32."""
    reference, problems = network.computed(engine.REFERENCE), Problems()
    for row, way in ways.items():
        with problems.caught(row):
            found = agreement.differences(network.computed(way, reference), reference)
            yield from agreement.judged(row, network.choice.label, way.bounds, found, problems)
    problems.check()


def scaling(engine, _options):
    """Training steps on one device, on all, then on 2, 4, …, each with the default batch or what fits on one."""

    def measure(name, kind):
        wanted, problems = choices.batch_of(name, engine.IS_GPU), Problems()
        batch, table = wanted, DEVICES + engine.SCALING
        column = f'{choices.choice_of(name, engine.IS_GPU).label}, batch {wanted} each, {kind}'
        for devices in choices.counts(engine.DEVICES):
            found, row = None, f'{devices} × {engine.DEVICE_NAME}'
            with problems.caught(row):
                while batch and found is None:
                    found = engine.scaled(name, devices, batch, kind)
                    batch = batch if found else batch // 2
                if found is None:
                    yield Figure(table, row, column, NO_ROOM)
                    break
            if found is None:
                continue
            summed, alone = found
            yield Figure(table, row, column, round(devices * batch / summed, 1), note_of(batch, wanted))
            if devices > 1:
                yield Figure(SHARE, row, column, round(100 * (1 - alone / summed), 1), note_of(batch, wanted))
        problems.check()

    if engine.DEVICES == 1:
        return {'one': lambda: iter([Figure(DEVICES, 'all', 'all', 'not measured: there is one GPU')])}
    return {
        f'{name}, {kind}': functools.partial(measure, name, kind)
        for name in measured(True)
        for kind in engine.kinds_of_scaling()
    }


def faces(engine, options):
    """A training on synthetic faces, with loss and verification."""
    return {choices.FACES: lambda: facts_in(FACES, engine.LABEL, engine.faces(options))}


class Part(NamedTuple):
    """A part: the function that returns its cases, its share of the time in each engine that has it."""

    cases: Callable
    shares: Dict[str, int]
    quick: Tuple[str, ...]  # engines in which --quick measures it
    options: Dict[str, str] = {}  # {engine: field of Options that its process receives in addition}
    variables: Dict[str, Tuple[str, ...]] = {}  # {engine: NAME=VALUE, for the libraries}
    is_computed: bool = True  # or nothing is: then it does not matter whether the engine computes here


PARTS = {
    CARD: Part(card, {'torch': 0, 'onnxruntime': 0, 'mxnet': 0}, ()),  # outside the time that is shared
    'plan': Part(plan, {'mxnet': 20}, ('mxnet',), is_computed=False),
    'correctness': Part(
        over_networks('correctness', correctness),
        {'torch': 70, 'mxnet': 80},
        ('torch', 'mxnet'),
        variables={'mxnet': FLOAT32},
    ),
    'memory': Part(over_networks('memory', memory), {'torch': 110, 'mxnet': 70}, ('torch', 'mxnet')),
    'speed': Part(
        over_networks('speed', speed), {'torch': 110, 'mxnet': 130}, ('torch', 'mxnet'), {'torch': 'insightface'}
    ),
    'inference': Part(
        over_networks('inference', inference),
        {'torch': 40, 'onnxruntime': 120, 'mxnet': 30},
        ('torch', 'mxnet'),
        {'onnxruntime': 'mxnet_python'},
    ),
    'scaling': Part(scaling, {'torch': 100, 'mxnet': 80}, ('torch',)),
    'faces': Part(faces, {'torch': 180, 'mxnet': 120}, ('torch',), {'torch': 'seconds'}),
    'compile': Part(over_networks('compile', compiled), {'torch': 90}, ()),
}


def engine_of(name):
    """Return the module of an engine."""
    return importlib.import_module(f'netkit.measure.{MODULES[name]}')


def cases_of(part, engine, options):
    """Return {case: function that yields Figures}, as Options ask for them."""
    if engine not in PARTS[part].shares:
        of_engine = ', '.join(name for name, found in PARTS.items() if engine in found.shares)
        raise UserError(f'{ENGINES[engine]} has no part {part}; choose from {of_engine}')
    return PARTS[part].cases(engine_of(engine), options)


def measure(part, engine, options, tell):
    """Measure the cases of a part; return whether all finished.

    Calls `tell` with a dict for each event: the device and the cases; each Figure; each case's end.
    """
    try:
        where, cases = engine_of(engine).where(), cases_of(part, engine, options)
    except (ImportError, OSError, RuntimeError) as error:  # of its libraries, and an MXNetError
        raise UserError(f'{ENGINES[engine]} does not start here: {reason(error)}')
    if options.case:
        if options.case not in cases:
            raise UserError(f'{part} has no case {options.case!r} here; choose from {", ".join(cases)}')
        cases = {options.case: cases[options.case]}
    tell({'where': where, 'cases': list(cases)})
    is_whole = True
    for case, function in cases.items():
        start, problem = time.perf_counter(), None
        try:
            for figure in function():
                tell({'case': case, 'figure': figure})
        except Exception as error:  # of one case; the next may do
            problem, is_whole = reason(error), False
        tell({'case': case, 'seconds': round(time.perf_counter() - start, 1), 'problem': problem})
    return is_whole


def as_line(told):
    """Return an event as a line."""
    return json.dumps(told, ensure_ascii=True)


def from_line(line):
    """Return the event in a line; None for a line that a library printed."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    if not isinstance(told, dict) or not ({'cases', 'case'} & set(told)):
        return None
    if 'figure' in told:
        told['figure'] = Figure(*told['figure'])
    return told
