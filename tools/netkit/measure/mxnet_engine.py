"""MXNet: the networks as executors, and their cost."""

import collections
import functools
import gc
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple, Optional

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError, last_line, refusals
from netkit.graph.counts import learnt_weight, shapes
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.memory import planned_memory
from netkit.graph.naming import is_offset, is_scale, is_slope, is_variance
from netkit.graph.nodes import Graph
from netkit.measure import agreement, choices, cuda, mxnet_kernels, timing
from netkit.measure.agreement import FLOAT32, HALF, Bounds
from netkit.networks import build, initializer, settings_for
from netkit.project import ROOT
from netkit.training import log
from netkit.training.losses import classification
from netkit.training.trainer import Trainer

LABEL = 'MXNet'
IS_GPU = mx.context.num_gpus() > 0
DEVICE = mx.gpu(0) if IS_GPU else mx.cpu()
DEVICES, DEVICE_NAME = (mx.context.num_gpus(), 'GPU') if IS_GPU else (2, 'CPU context')
SHORT = ('out of memory', 'out_of_memory', '_alloc_failed', 'reducing batch/model size')  # in messages on memory
TF32 = ', float32 with TF32 where the GPU has it' if IS_GPU else ''
# What the titles of tables say besides.
SPEED, INFERENCE, SCALING = f' (forward and backward pass{TF32})', TF32, f', with the copies to the devices{TF32}'
PEAK, LARGEST = 'weights and gradients, as the GPU has less', ', without momentum'
MAKES_ANEW = True  # the executors of all ways have no room next to each other
FACES_ON_GPU = ['--per-batch-size', '64']
FACES_ON_CPU = ['--multiplier', '0.1', '--per-batch-size', '4', '--identities', '4', '--images', '4', '--pairs', '10']


class Way(NamedTuple):
    """How to compute: settings of the builder, whose BatchNorm (None: the symbol's), forms for a CPU."""

    memonger: bool = False
    cudnn: Optional[bool] = None
    fp16: bool = False
    net_prelu: str = 'mul'
    rewritten: bool = not IS_GPU
    bounds: Bounds = agreement.NONE  # in the part `correctness`


INACCURATE = 'all maps stored, net_prelu=op (its gradient is wrong)'
WAYS = {
    "checkpointing, MXNet's BatchNorm": Way(memonger=True, cudnn=False),  # as the trainers build it
    "checkpointing, cuDNN's BatchNorm (it would move the statistics twice)": Way(memonger=True, cudnn=True),
    "all maps stored, MXNet's BatchNorm": Way(cudnn=False),
    "all maps stored, cuDNN's BatchNorm": Way(cudnn=True),
    'all maps stored, rewritten for a CPU': Way(rewritten=True),
    INACCURATE: Way(net_prelu='op'),
    'float16, all maps stored': Way(fp16=True),
    'float16, checkpointing': Way(memonger=True, fp16=True),
}
ON_CPU = {  # where there is no cuDNN
    'checkpointing': Way(memonger=True),
    'all maps stored': Way(),
    'all maps stored, not rewritten': Way(rewritten=False),
    INACCURATE: Way(net_prelu='op'),
}
QUICK = (
    "checkpointing, MXNet's BatchNorm",
    "all maps stored, cuDNN's BatchNorm",
    'all maps stored, rewritten for a CPU',
    'float16, all maps stored',
    'all maps stored',
)
MEMORY = {
    'float32': Way(),
    'float32, checkpointing': Way(memonger=True),
    'float16': Way(fp16=True),
    'float16, checkpointing': Way(memonger=True, fp16=True),
}
REFERENCE = Way(rewritten=True)  # on the CPU; its gradients are right everywhere
COMPARED = {
    "all maps stored, cuDNN's BatchNorm": Way(cudnn=True, bounds=FLOAT32),
    "all maps stored, MXNet's BatchNorm": Way(cudnn=False, bounds=FLOAT32),
    "checkpointing, MXNet's BatchNorm": Way(memonger=True, cudnn=False, bounds=FLOAT32),  # as the trainers build it
    'checkpointing, rewritten for a CPU': Way(memonger=True, rewritten=True, bounds=FLOAT32),
    'float16, checkpointing': Way(memonger=True, fp16=True, bounds=HALF),
    # Never built: reportedly moves the statistics twice, which this way checks.
    "checkpointing, cuDNN's BatchNorm": Way(memonger=True, cudnn=True),
}
COMPARED_ON_CPU = {
    'not rewritten': Way(rewritten=False, bounds=FLOAT32),
    'checkpointing': Way(memonger=True, bounds=FLOAT32),
}


def ways(part, quick):
    """Return {row: Way} of a part on this device."""
    if part == 'inference':
        return {'float32': Way(), 'float16': Way(fp16=True)} if IS_GPU else {'float32': Way()}
    if part == 'memory':
        return dict(list(MEMORY.items())[:2]) if quick else MEMORY
    if part == 'correctness':
        return COMPARED if IS_GPU else COMPARED_ON_CPU
    return {row: way for row, way in (WAYS if IS_GPU else ON_CPU).items() if not quick or row in QUICK}


def networks(_part, names, _options):
    """Return {case: function that returns the Network} of some choices."""
    return {name: functools.partial(Network, choices.choice_of(name, IS_GPU)) for name in names}


def where():
    """Return the name of the GPU, None for a CPU."""
    return (cuda.cards() or [cuda.Card('a GPU that its driver does not name', (0, 0), 0)])[0].name if IS_GPU else None


def wait():
    """Wait for all computations."""
    mx.nd.waitall()


def release():
    """Free the memory that MXNet caches."""
    if IS_GPU:
        DEVICE.empty_cache()


def fits(function):
    """Call a function; return whether the memory of the GPU was enough for it."""
    is_enough = True
    try:
        function()
        wait()
    except (mx.MXNetError, RuntimeError, UserError) as error:  # a UserError has what MXNet said as its context
        if not any(mark in f'{error} {error.__context__}'.lower() for mark in SHORT):
            raise
        is_enough = False
    release()
    return is_enough


def free():
    """Return the MB (2^20 bytes) that are free on the GPU, with nothing kept for further use."""
    gc.collect()
    wait()
    release()
    return mx.context.gpu_memory_info(DEVICE.device_id)[0] / 2**20


def changed(symbol, cudnn=None, dropout=None):
    """Return a symbol with cuDNN's BatchNorm or MXNet's own, and with another rate of Dropout, where they are given."""
    graph = Graph.of(symbol)
    for node in graph.nodes():
        if node.op == 'BatchNorm' and cudnn is not None:
            node.attrs['cudnn_off'] = str(not cudnn)
        if node.op == 'Dropout' and dropout is not None:
            node.attrs['p'] = str(dropout)
    return graph.symbol()


class Weights:
    """Typical parameters of a symbol, their gradients if any, and its moving statistics, for executors to share."""

    def __init__(self, symbol, shape, context, training=True):
        sizes, _, statistics = symbol.infer_shape(data=shape)
        types, _, _ = symbol.infer_type(data=np.float32)
        if context.device_type == 'cpu' and np.float16 in types:
            raise UserError('MXNet does not compute float16 on a CPU')
        random, self.arguments = np.random.RandomState(0), {}
        for name, size, kind in zip(symbol.list_arguments(), sizes, types):
            if name != 'data':
                self.arguments[name] = mx.nd.empty(size, context, kind)
                self.arguments[name][:] = initial_value(name, size, random)
        learnt = self.arguments if training else {}
        self.gradients = {name: mx.nd.zeros_like(array) for name, array in learnt.items()}
        self.statistics = {
            name: mx.nd.full(size, float(is_variance(name)), context)
            for name, size in zip(symbol.list_auxiliary_states(), statistics)
        }


class Step:
    """A training step (forward and backward pass) or a forward pass of a symbol on noise; a call runs it."""

    def __init__(self, symbol, shape, context, training, weights=None, data_gradient=False):
        self.training = training
        with refusals(f'MXNet does not compute this on a {context.device_type}'):
            self.weights = weights or Weights(symbol, shape, context, training)
            self.data = mx.nd.array(np.random.RandomState(1).uniform(0, 255, shape), context)
            gradients = dict(self.weights.gradients, **({'data': self.data.copy()} if data_gradient else {}))
            self.executor = symbol.bind(
                context,
                {**self.weights.arguments, 'data': self.data},
                gradients if training else None,
                {name: 'write' if training and name in gradients else 'null' for name in symbol.list_arguments()},
                self.weights.statistics,
            )
        self.head_gradient = mx.nd.ones(self.executor.outputs[0].shape, context) if training else None

    def state(self):
        """Return {name: array} of the parameters, the moving statistics and the images."""
        return {**self.weights.arguments, **self.weights.statistics, 'data': self.data}

    def load(self, state):
        """Take these parameters, {name: array}, in place of the typical ones."""
        arrays = self.state()
        for name, values in state.items():
            arrays[name][:] = values

    def run(self, images):
        """Return the outputs of a forward pass of images."""
        self.data[:] = images
        self()
        return self.executor.outputs[0].asnumpy()

    def __call__(self):
        self.executor.forward(is_train=self.training)
        if self.training:
            self.executor.backward(self.head_gradient)


class Network:
    """A network on the device, with weights that its ways of computing share."""

    def __init__(self, choice):
        self.choice, self.weights = choice, {}
        self.symbol = functools.lru_cache(maxsize=None)(self._symbol)

    def _symbol(self, way, training=True):
        """Return the symbol that computes in a Way."""
        settings = {name: getattr(way, name) for name in ('memonger', 'fp16', 'net_prelu')}
        device = 'gpu' if IS_GPU else 'cpu'
        built = build(self.choice.network, **{**settings_for(device), **self.choice.overrides, **settings})
        if way.rewritten:
            built = for_cpu(built, self.choice.image_shape, training)
        return changed(built, way.cudnn)

    def ways(self, part, quick):
        """Return {row: Way} of a part."""
        return ways(part, quick)

    def shape(self, batch):
        """Return the shape of `batch` images."""
        return batch, 3, *self.choice.image_shape[:2]

    def step(self, way, batch, training=True):
        """Return the training step, or the forward pass, of `batch` images in a Way."""
        release()  # of the way before
        symbol, key = self.symbol(way, training), (way.fp16, training)
        if key not in self.weights:
            self.weights[key] = Weights(symbol, self.shape(1), DEVICE, training)
        return Step(symbol, self.shape(batch), DEVICE, training, self.weights[key])

    def infer(self, way, batch):
        """Return the forward pass of `batch` images in a Way."""
        return self.step(way, batch, training=False)

    def peak(self, way, batch):
        """Return the MB that binding and a training step take, None where they do not fit."""
        key, taken = (way.fp16, True), []
        self.weights = {key: self.weights[key]} if key in self.weights else {}  # of this way alone

        def measure():
            if not self.weights:
                self.weights[key] = Weights(self.symbol(way), self.shape(1), DEVICE)
            before = free()
            step = self.step(way, batch)
            step()
            wait()
            taken.append(before - mx.context.gpu_memory_info(DEVICE.device_id)[0] / 2**20)

        return taken[0] if fits(measure) else None

    def planned(self, way, batch):
        """Return the MB that MXNet plans for a training step; None in float16, of which it plans four bytes each."""
        return None if way.fp16 else planned_memory(self.symbol(way), batch, self.choice.image_shape)

    def room(self):
        """Return the MB that there are for a training step."""
        return free()

    def computed(self, way, reference=None):
        """Return the Computed of a step in a Way: on the CPU, or on the device for comparison."""
        context = DEVICE if reference else mx.cpu()
        symbol = changed(self.symbol(way), dropout=0.0)
        step = Step(symbol, self.shape(choices.COMPARED_BATCH), context, training=True)
        direction = np.random.RandomState(2).normal(size=step.executor.outputs[0].shape)
        step.head_gradient = mx.nd.array(direction, context)
        step()
        wait()  # MXNet does not know that reading the moving statistics has to wait
        state = reference.state if reference else {name: array.asnumpy() for name, array in step.state().items()}
        inference = Step(symbol, self.shape(choices.COMPARED_BATCH), context, training=False)
        inference.load(state)
        return agreement.Computed(
            {'': inference.run(state['data']).astype(np.float64)},
            as_float64(step.weights.gradients),
            as_float64(step.weights.statistics),
            state,
        )


def as_float64(arrays):
    """Return {name: NDArray} as {name: float64 array}."""
    return {name: array.asnumpy().astype(np.float64) for name, array in arrays.items()}


class Floor:
    """The convolutions and fully connected layers of a symbol, one by one, with the same shapes."""

    def __init__(self, symbol, shape, context, training):
        shape_of = shapes(symbol, shape[2:], shape[0])
        layers = collections.Counter()
        for node in Graph.of(symbol).nodes():
            if learnt_weight(node):
                source = node.inputs[0][0]
                source = source.name + ('' if source.op == 'null' else '_output')
                # Without the attribute of memonger, by which a single layer would be computed twice.
                attributes = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
                layers[node.op, shape_of[source], tuple(sorted(attributes.items()))] += 1
        self.steps = [(count, self._alone(layer, context, training)) for layer, count in layers.items()]

    @staticmethod
    def _alone(layer, context, training):
        operator, shape, attributes = layer
        symbol = getattr(mx.sym, operator)(mx.sym.Variable('data'), name='layer', **dict(attributes, no_bias=True))
        reads_the_image = shape[1] == 3
        return Step(symbol, shape, context, training, data_gradient=training and not reads_the_image)

    def __call__(self):
        for count, step in self.steps:
            for _ in range(count):
                step()


def initial_value(name, shape, random):
    """Return typical values for a parameter."""
    if is_scale(name):
        return 0.25 if is_slope(name) else 1
    if is_offset(name):
        return 0
    return random.normal(0, math.sqrt(2 / np.prod(shape[1:])), shape)


# ------------------------------------------------------------------------------------ several devices, faces, the GPU


def kinds_of_scaling():
    """Return the kinds of sums over devices: MXNet's kvstores."""
    return ('device', 'nccl') if IS_GPU else ('device',)


def scaled(name, devices, batch, kvstore):
    """Return (seconds of a step with the sum of the gradients, and without), None where it does not fit."""
    made = []
    if not fits(lambda: made.append(trainer(name, devices, batch, kvstore))):
        return None
    ((taught, images),) = made

    def alone():
        """Do a step in which each device applies its own gradients."""
        taught.sums, before = False, taught.sums
        taught.step(images)
        taught.sums = before

    *_, seconds = timing.in_turns({'summed': lambda: lambda: taught.step(images), 'alone': lambda: alone}, wait)
    release()
    found = timing.medians(seconds)
    return found['summed'], found['alone']


def trainer(name, devices, batch, kvstore):
    """Return (Trainer that has done a step, its images and labels), each of the devices with `batch` images."""
    choice = choices.choice_of(name, IS_GPU)
    shape = Network(choice).shape(batch * devices)
    made = Trainer(
        classification(choice.build('gpu' if IS_GPU else 'cpu')[0]),
        [mx.gpu(number) if IS_GPU else mx.cpu(number) for number in range(devices)],
        shape,
        mx.kv.create(kvstore),
        learning_rate=1e-6,
        momentum=0.9,
        wd=5e-4,
    )
    made.initialize(initializer())
    images = mx.nd.array(np.random.RandomState(0).randint(0, 256, shape))
    batch_of_all = mx.io.DataBatch([images], [mx.nd.zeros((batch * devices,))])
    made.step(batch_of_all)
    return made, batch_of_all


def faces(options):
    """Return {what: value} of a training by tools/train.py on synthetic faces, with loss and verification."""
    steps, more = (50 if options.quick else 150, FACES_ON_GPU) if IS_GPU else (4, FACES_ON_CPU)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.join(ROOT, 'tools', 'train.py'), '--network', choices.FACES]
        command += ['--steps', str(steps), '--state-every', '0', '--output', folder, *more]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise UserError(f'tools/train.py: {last_line(done.stderr, done.returncode)}')
        curves = log.read(os.path.join(folder, log.FILE))
    ((measured, verification),) = curves.verification.items()
    return {
        'network': choices.FACES if IS_GPU else f'{choices.FACES}, a tenth as wide',
        'options': ' '.join(more),
        'steps': steps,
        'seconds, with drawing the faces': round(seconds, 1),
        'loss, first ten steps': curves.loss[min(curves.loss)],
        'loss, last ten steps': curves.loss[max(curves.loss)],
        f'verification on {measured}': '{:.3f} ± {:.3f}'.format(*verification[max(verification)]),
    }


def facts():
    """Return {what: value} of the GPUs and the libraries."""
    features, cards = mx.runtime.Features(), cuda.cards()
    known = [name for name in ('CUDA', 'CUDNN', 'NCCL', 'ONEDNN', 'MKLDNN') if name in features]
    built_with = [name for name in known if features.is_enabled(name)]
    found = {
        'Python': platform.python_version(),
        'MXNet': mx.__version__,
        'built with': ', '.join(built_with),
        'GPUs that it sees': mx.context.num_gpus(),
        'code for compute capability': cuda.listed() if 'CUDA' in built_with else 'none',
        'CPU cores': os.cpu_count(),
    }
    for number, card in enumerate(cards):
        found[f'GPU {number}'] = card.name
        found[f'GPU {number}, compute capability'] = '{}.{}'.format(*card.capability)
        found[f'GPU {number}, code for it'] = 'yes' if cuda.runs_on(card.capability) else 'no'
        found[f'GPU {number}, memory MB'] = card.memory
    for library, place in cuda.find_all().items() if IS_GPU else ():
        found[library] = (place.version or place.folder) if place else 'not found'
    return found


def computing():
    """Return {what: None where it computes, or why it does not}."""
    cards = cuda.cards()
    if IS_GPU and cards and not cuda.runs_on(cards[0].capability):
        its = '{}.{}'.format(*cards[0].capability)
        return {'its code': f'it is for compute capability {cuda.listed()}, and this GPU has {its}'}
    return mxnet_kernels.run_all(DEVICE)
