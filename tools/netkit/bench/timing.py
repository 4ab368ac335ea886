"""Times, in turns (A B A B …), so that the ratios hold on a busy machine."""

import multiprocessing
import os
import re
import statistics
import time
from typing import List, NamedTuple, Optional

from tqdm import tqdm

from netkit._mxnet import mx
from netkit.bench import torch_steps
from netkit.bench.mxnet_steps import Floor, Peer, Step
from netkit.bench.timed_networks import Choice
from netkit.errors import UserError
from netkit.gluoncv2 import peer_name
from netkit.graph.counts import count_macs
from netkit.graph.memory import check_room, planned_memory

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


class Row(NamedTuple):
    """What was measured of one step; all but `rss` is for one image, `choice` is None for a floor or a peer."""

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


def check_device(device):
    """Raise UserError where MXNet does not see the device."""
    if device == 'gpu' and not mx.context.num_gpus():
        raise UserError('MXNet sees no GPU here; leave out --device gpu')


class How(NamedTuple):
    """How choices are timed."""

    per_batch_size: int
    repetitions: int
    device: str = 'cpu'
    engine: str = 'mxnet'  # or 'torch', in addition
    peer: Optional[str] = None  # an independent implementation, in addition
    compiled: bool = False  # in PyTorch, in addition
    only: Optional[str] = None  # 'training' or 'inference'; None: both


def check(choice, how):
    """Raise UserError for a choice that cannot be built, or plainly does not fit in this machine's memory."""
    symbol, image_shape = choice.build(how.device)
    if how.device == 'cpu':
        check_room(
            how.per_batch_size * planned_memory(symbol, 1, image_shape, how.only != 'inference') * 2**20,
            f'take a smaller --per-batch-size: {choice.label} with {how.per_batch_size} images wants',
        )
    if how.engine == 'torch':
        torch_steps.check(choice, how)
    elif how.peer:
        peer_name(choice.network)


def measure(steps, repetitions):
    """Return {label: [seconds, …]} of `repetitions` runs of every step, in turns, after one to warm up."""
    seconds = {label: [] for label in steps}
    with tqdm(total=(repetitions + 1) * len(steps), unit='step', leave=False, disable=None) as bar:
        for repetition in range(repetitions + 1):
            for label, step in steps.items():
                bar.set_description(label)
                mx.nd.waitall()
                start = time.perf_counter()
                step()
                mx.nd.waitall()
                if repetition:
                    seconds[label].append(time.perf_counter() - start)
                bar.update()
    return seconds


def time_choices(choices, how, training):
    """Measure the training steps, or the inferences, of all choices, their floors and peers; return the Rows."""
    context, steps, facts, floors = mx.Context(how.device), {}, {}, {}
    for choice in choices:
        symbol, image_shape = choice.build(how.device, training)
        shape, macs = (how.per_batch_size, 3, *image_shape[:2]), count_macs(symbol, image_shape)
        steps[choice.label] = Step(symbol, shape, context, training)
        of_same = choice.network, macs  # choices that differ only in their forms have one floor and one peer
        if of_same not in floors:
            named = f'{choice.network}, convolutions and FCs alone'
            floors[of_same] = named if named not in steps else f'{choice.label}, convolutions and FCs alone'
            steps[floors[of_same]] = Floor(symbol, shape, context, training)
            facts[floors[of_same]] = None, floors[of_same], macs, None
            if how.peer and how.engine == 'mxnet':
                label = f'{how.peer} {peer_name(choice.network)}'
                steps[label] = Peer(choice.network, shape, context, training)
                facts[label] = None, floors[of_same], macs, None
        plan = planned_memory(symbol, how.per_batch_size, image_shape, training) / how.per_batch_size
        facts[choice.label] = choice, floors[of_same], macs, plan
        if how.engine == 'torch':
            others = torch_steps.steps_of(choice, how, shape, training)
            steps.update(others)
            facts.update(dict.fromkeys(others, (None, floors[of_same], macs, None)))
    seconds = {
        label: [second / how.per_batch_size for second in times]
        for label, times in measure(steps, how.repetitions).items()
    }
    del steps
    median = {label: statistics.median(times) for label, times in seconds.items()}
    rows = []
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        for label, (choice, floor, macs, plan) in sorted(facts.items(), key=lambda item: item[1][0] is None):
            rss = pool.apply(peak_memory, (choice, how.per_batch_size, how.device, training)) if choice else None
            rows.append(
                Row(
                    label,
                    choice,
                    seconds[label],
                    median[floor],
                    median[choices[0].label] / median[label],
                    2 * macs * (3 if training else 1) / median[label] / 1e9,
                    plan,
                    rss,
                )
            )
    return rows


def peak_memory(choice, batch, device, training):
    """Return the peak resident MB of this process after one step, None where the system does not tell it.

    For a process of its own.
    """
    symbol, (height, width, _) = choice.build(device, training)
    Step(symbol, (batch, 3, height, width), mx.Context(device), training)()
    mx.nd.waitall()
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
