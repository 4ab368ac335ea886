"""Time networks in MXNet and, on a CPU, in PyTorch, next to their lower bounds."""

import multiprocessing
import os
import re
import statistics
from typing import List, NamedTuple, Optional

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.gluoncv2 import peer_name
from netkit.graph.counts import count_macs
from netkit.graph.memory import check_room, planned_memory
from netkit.graph.naming import is_original
from netkit.measure.choices import Choice
from netkit.measure.mxnet_engine import Floor, Step, wait
from netkit.measure.timing import in_turns

COLUMNS = (
    'choice',
    'ms/image',
    'spread',
    'images/s',
    'GFLOP/s',
    'over the floor',
    'plan MB/image',
    'peak RSS MB',
    'ratio',
)
# Of PyTorch: {label: (whether the trunk is in bfloat16, whether the layout is channels_last)}
TORCH_WAYS = {
    'PyTorch': (False, False),
    'PyTorch, channels last': (False, True),
    'PyTorch, bfloat16': (True, False),
    'PyTorch, bfloat16, channels last': (True, True),
}
BY_HAND = 'cru116'  # the hand-written network


class Row(NamedTuple):
    """The results of one step, per image except `rss`; `choice` is None for a floor or a peer."""

    label: str
    choice: Optional[Choice]
    seconds: List[float]
    floor: float  # median seconds of the network's convolutions and fully connected layers alone
    ratio: float  # how many times as fast as the first row
    gflops: float  # per second
    plan: float  # MB
    rss: Optional[float]  # peak of a process that does it once, in MB; None where it is not known

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def is_network(self):
        return self.choice is not None


class How(NamedTuple):
    """How choices are timed."""

    per_batch_size: int
    repetitions: int
    device: str = 'cpu'
    engine: str = 'mxnet'  # or 'torch', in addition
    peer: Optional[str] = None  # an independent implementation, in addition
    compiled: bool = False  # in PyTorch, in addition
    only: Optional[str] = None  # 'training' or 'inference'; None: both


def check_device(device):
    """Raise UserError where MXNet does not see the device."""
    if device == 'gpu' and not mx.context.num_gpus():
        raise UserError('MXNet sees no GPU here; leave out --device gpu')


def check(choice, how):
    """Raise UserError for a choice that cannot be built, or plainly does not fit in this machine's memory."""
    symbol, image_shape = choice.build(how.device)
    if how.device == 'cpu':
        check_room(
            how.per_batch_size * planned_memory(symbol, 1, image_shape, how.only != 'inference') * 2**20,
            f'take a smaller --per-batch-size: {choice.label} with {how.per_batch_size} images needs',
        )
    if how.peer == 'gluoncv2':
        peer_name(choice.network)
    if how.peer == 'by_hand' and choice.network != BY_HAND:
        raise UserError(f'--peer by_hand: only {BY_HAND} is written by hand, not {choice.network}')
    if how.peer == 'by_hand' and 4 * choice.overrides.get('net_multiplier', 1) % 1:
        raise UserError('--peer by_hand: its groups need a net_multiplier of quarters, as 0.25')
    if how.engine == 'torch':
        try:
            import torch  # noqa: F401
        except ImportError:
            raise UserError('PyTorch is not installed here; make .venv-torch/installed, and run .venv-torch/bin/python')
        if is_original(choice.network):
            raise UserError(f'--engine torch is for face networks, and {choice.label} is none')


class Peer:
    """A step of the same network in gluoncv2, hybridised."""

    def __init__(self, network, shape, context, training):
        try:
            from gluoncv2.model_provider import get_model
        except ImportError:
            raise UserError('gluoncv2 is not installed; install the extra dev (tools/extras.py)') from None
        self.net = get_model(peer_name(network))
        self.net.initialize(ctx=context)
        self.net.hybridize(static_alloc=True, static_shape=True)
        self.data = mx.nd.array(np.random.RandomState(0).normal(size=shape), context)
        self.training = training

    def __call__(self):
        if not self.training:
            self.net(self.data).wait_to_read()
            return
        with mx.autograd.record():
            output = self.net(self.data)
        output.backward()


def torch_steps(choice, how, training):
    """Return {label: step} of a choice in PyTorch: every one of the TORCH_WAYS, and what `how` asks for besides."""
    import torch

    from crunet.symbol_module import is_narrow
    from netkit.measure import torch_engine

    network, again = torch_engine.Network(choice, dropout=None), bool(choice.overrides.get('memonger'))
    batch = how.per_batch_size

    def step(of, way):
        return torch_engine.Backward(of, way, batch) if training else of.infer(way, batch)

    found = {}
    for label, (is_half, last) in TORCH_WAYS.items():
        if not last or not is_narrow(network.module(last)):
            way = torch_engine.Way(tf32=False, half=torch.bfloat16 if is_half else None, last=last, again=again)
            found[f'{choice.label}, {label}'] = step(network, way)
    plain = torch_engine.Way(tf32=False, again=again)
    if how.compiled:
        found[f'{choice.label}, PyTorch, compiled'] = step(network, plain._replace(compiled=True))
    if how.peer == 'by_hand':
        found[f'{choice.label}, PyTorch, by hand'] = step(torch_engine.ByHand(choice), plain)
    return found


class Timed(NamedTuple):
    """A step to time: what runs it, the choice if it is one of MXNet's, its floor's label, and its multiply-adds."""

    run: object
    choice: Optional[Choice]
    floor: str
    macs: int
    plan: Optional[float] = None  # MB for an image


def steps_of(choices, how, training):
    """Return {label: Timed} of all choices, their floors and peers."""
    context, found, floors = mx.Context(how.device), {}, {}
    for choice in choices:
        symbol, image_shape = choice.build(how.device, training)
        shape, macs = (how.per_batch_size, 3, *image_shape[:2]), count_macs(symbol, image_shape)
        plan = planned_memory(symbol, how.per_batch_size, image_shape, training) / how.per_batch_size
        of_same = choice.network, macs  # choices that differ only in their forms have one floor and one peer
        is_new = of_same not in floors
        name = choice.label if f'{choice.network}, convolutions and FCs alone' in found else choice.network
        floor = floors.setdefault(of_same, f'{name}, convolutions and FCs alone')
        found[choice.label] = Timed(Step(symbol, shape, context, training), choice, floor, macs, plan)
        if is_new:
            found[floor] = Timed(Floor(symbol, shape, context, training), None, floor, macs)
            if how.peer == 'gluoncv2':
                peer = Peer(choice.network, shape, context, training)
                found[f'gluoncv2 {peer_name(choice.network)}'] = Timed(peer, None, floor, macs)
        if how.engine == 'torch':
            for label, step in torch_steps(choice, how, training).items():
                found[label] = Timed(step, None, floor, macs)
    return found


def time_choices(choices, how, training):
    """Measure the training steps, or the inferences, of all choices, their floors and peers; return the Rows."""
    steps = steps_of(choices, how, training)
    *_, seconds = in_turns({label: lambda of=of: of.run for label, of in steps.items()}, wait, None, how.repetitions, 0)
    steps = {label: of._replace(run=None) for label, of in steps.items()}  # their memory
    seconds = {label: [second / how.per_batch_size for second in seconds[label]] for label in steps}
    median = {label: statistics.median(times) for label, times in seconds.items()}
    rows = []
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        for label, of in sorted(steps.items(), key=lambda item: item[1].choice is None):
            arguments = of.choice, how.per_batch_size, how.device, training
            rows.append(
                Row(
                    label,
                    of.choice,
                    seconds[label],
                    median[of.floor],
                    median[choices[0].label] / median[label],
                    2 * of.macs * (3 if training else 1) / median[label] / 1e9,
                    of.plan,
                    pool.apply(peak_memory, arguments) if of.choice else None,
                )
            )
    return rows


def peak_memory(choice, batch, device, training):
    """Return the peak resident MB of this process after one step, None where the system does not tell it.

    To be run in a separate process.
    """
    symbol, (height, width, _) = choice.build(device, training)
    Step(symbol, (batch, 3, height, width), mx.Context(device), training)()
    wait()
    if not os.path.exists('/proc/self/status'):
        try:
            import resource
        except ImportError:  # on Windows
            return None
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
    with open('/proc/self/status') as status:  # getrusage would return the parent's peak where that is higher
        return int(re.search(r'VmHWM:\s+(\d+) kB', status.read()).group(1)) / 1024


def texts_of_times(row):
    """Return the texts of what the Rows of all tables have in common: label, ms/image, spread, images/s."""
    return (
        row.label,
        f'{1e3 * row.median:.1f}',
        f'{1e3 * min(row.seconds):.0f}…{1e3 * max(row.seconds):.0f}',
        f'{1 / row.median:.2f}',
    )


def texts_of(row):
    """Return the texts of a Row, for the table with COLUMNS."""
    return (
        *texts_of_times(row),
        f'{row.gflops:.0f}',
        f'{row.median / row.floor:.2f}×',
        f'{row.plan:.1f}' if row.choice else '–',
        f'{row.rss:.0f}' if row.rss else '–',
        f'{row.ratio:.2f}×',
    )
