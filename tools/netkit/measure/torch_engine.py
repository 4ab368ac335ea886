"""PyTorch: the networks as modules, and their cost."""

import contextlib
import functools
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from typing import NamedTuple, Optional, Union

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import config as host
from crunet import symbol_torch
from crunet.identifiers import mxnet_names
from netkit.measure import agreement, choices, cuda, torch_faces
from netkit.measure.agreement import BFLOAT16, FLOAT32, HALF, Bounds
from netkit.measure.cru116_by_hand import Cru116
from netkit.project import ROOT

LABEL = 'PyTorch'
IS_GPU = torch.cuda.is_available()
DEVICE = torch.device('cuda' if IS_GPU else 'cpu')
DEVICES, DEVICE_NAME = (torch.cuda.device_count(), 'GPU') if IS_GPU else (2, 'process on the CPU')
SHORT = ('out of memory', '_alloc_failed', 'unable to find an engine')  # in messages on memory
# What the titles of tables say besides.
SPEED, INFERENCE, SCALING = '', '', f', {"float16" if IS_GPU else "float32"}'
PEAK, LARGEST = 'weights, gradients and momentum, as PyTorch counts', ''
MAKES_ANEW = False
SCALED_STEPS, SCALED_ROUNDS = (10, 3) if IS_GPU else (2, 2)


class Way(NamedTuple):
    """How to compute: TF32 for float32 products, the type of the trunk if not float32, layout, recomputed maps.

    `again` is the module's `using_checkpoint`: False, True or 'torch'.
    """

    tf32: bool = True
    half: Optional[torch.dtype] = None
    last: bool = False
    again: Union[bool, str] = False
    compiled: bool = False
    bounds: Bounds = agreement.NONE  # in the part `correctness`


FLOAT16_LAST = Way(half=torch.float16, last=True)
WAYS = {
    'float32': Way(tf32=False),
    'TF32': Way(),
    'TF32, channels last': Way(last=True),
    'float16': Way(half=torch.float16),
    'float16, channels last': FLOAT16_LAST,
    'bfloat16, channels last': Way(half=torch.bfloat16, last=True),
    'TF32, channels last, checkpointing': Way(last=True, again=True),
    'float16, channels last, checkpointing': Way(half=torch.float16, last=True, again=True),
    'float16, channels last, torch.utils.checkpoint': Way(half=torch.float16, last=True, again='torch'),
}
# On GPUs before Ampere there is neither TF32 nor bfloat16.
BEFORE_AMPERE = {
    'float32': Way(tf32=False),
    'float32, channels last': Way(tf32=False, last=True),
    'float32, channels last, checkpointing': Way(tf32=False, last=True, again=True),
    **{row: way for row, way in WAYS.items() if way.half is torch.float16},
}
# On a CPU there is no TF32, and half precision is bfloat16.
ON_CPU = {
    'float32': Way(tf32=False),
    'float32, channels last': Way(tf32=False, last=True),
    'float32, channels last, checkpointing': Way(tf32=False, last=True, again=True),
    'float32, channels last, torch.utils.checkpoint': Way(tf32=False, last=True, again='torch'),
    'bfloat16, channels last': Way(half=torch.bfloat16, last=True),
}
QUICK = 'float32', 'TF32', 'TF32, channels last', 'float16, channels last', 'float32, channels last'
MEMORY = {
    'float32': Way(tf32=False, last=True),
    'float32, checkpointing': Way(tf32=False, last=True, again=True),
    'float16': FLOAT16_LAST,
    'float16, checkpointing': Way(half=torch.float16, last=True, again=True),
    'float16, torch.utils.checkpoint': Way(half=torch.float16, last=True, again='torch'),
}
COMPILE = {
    'float16, channels last': FLOAT16_LAST,
    'float16, channels last, compiled': FLOAT16_LAST._replace(compiled=True),
}
REFERENCE = Way(tf32=False)  # on the CPU
COMPARED = {
    'float32': Way(tf32=False, bounds=FLOAT32),
    'float32, checkpointing': Way(tf32=False, again=True, bounds=FLOAT32),
    'float32, torch.utils.checkpoint': Way(tf32=False, again='torch', bounds=FLOAT32),
    'TF32': Way(bounds=HALF),
    'float16': Way(half=torch.float16, bounds=HALF),
    'float16, checkpointing': Way(half=torch.float16, again=True, bounds=HALF),
    'bfloat16': Way(half=torch.bfloat16, bounds=BFLOAT16),
}


def ways(part, quick):
    """Return {row: Way} of a part on this device."""
    if part == 'compile':
        return COMPILE
    if part == 'memory':
        return dict(list(MEMORY.items())[:2]) if quick else MEMORY
    if part == 'correctness':
        if not IS_GPU:  # compared with itself in float32; it has neither TF32 nor, in PyTorch 2.3, float16
            return {row: COMPARED[row] for row in ('float32, checkpointing', 'bfloat16')}
        return {row: way for row, way in COMPARED.items() if is_ampere() or row not in ('TF32', 'bfloat16')}
    found = WAYS if is_ampere() else BEFORE_AMPERE if IS_GPU else ON_CPU
    found = {row: way for row, way in found.items() if not quick or row in QUICK}
    return {row: way for row, way in found.items() if not way.again} if part == 'inference' else found


def networks(part, names, options):
    """Return {case: function that returns the Network} of some choices, and of insightface's r100 for its speed."""
    torch.backends.cudnn.benchmark = part in ('speed', 'inference', 'compile')  # as in arcface_torch
    found = {name: functools.partial(Network, choices.choice_of(name, IS_GPU)) for name in names}
    if part == 'speed' and options.insightface:
        found['r100'] = functools.partial(HostNetwork, choices.path_of_r100(options.insightface))
    return found


def where():
    """Return the name of the GPU, None for a CPU."""
    return torch.cuda.get_device_name(0) if IS_GPU else None


def wait():
    """Wait for all computations."""
    if IS_GPU:
        torch.cuda.synchronize()


def release():
    """Free the memory that PyTorch caches."""
    if IS_GPU:
        torch.cuda.empty_cache()


def is_ampere():
    """Return whether there is a GPU that has TF32 and bfloat16: Ampere or later."""
    return IS_GPU and torch.cuda.get_device_capability()[0] >= 8


def is_of_memory(error):
    """Return whether an error says that memory is short, in one of the ways of PyTorch, CUDA, cuDNN and cuBLAS."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(mark in str(error).lower() for mark in SHORT)


def fits(function):
    """Call a function; return whether the memory of the GPU was enough for it."""
    is_enough = True
    try:
        function()
        wait()
    except RuntimeError as error:
        if not is_of_memory(error):
            raise
        is_enough = False
    release()  # once nothing holds the maps any more
    return is_enough


@contextlib.contextmanager
def tensor_float32(is_on):
    """Compute float32 products with TF32's 10 bits, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def module_of(choice, device=DEVICE, **options):
    """Return a network as a module; `options` are those of `symbol_torch.choice`.

    Omits MXNet-specific implementations.
    """
    settings = {key: value for key, value in choice.overrides.items() if key not in symbol_torch.FORMS}
    options = {'using_checkpoint': bool(settings.pop('memonger', False)), 'channels_last': False, **options}
    torch.manual_seed(0)
    row = host.network[choice.network]
    return symbol_torch.choice(os.path.join(ROOT, 'symbols'), row, **options, **settings).to(device)


def images_of(count, shape, device=DEVICE):
    """Return random images as arcface_torch hands them over, in -1…1."""
    size = (count, 3, *shape[:2])
    return torch.rand(size, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)


class Network:
    """A network on the device: a module for each layout, with SGD and its momentum, and steps of it."""

    def __init__(self, choice, dropout=0.0):
        self.choice, self.dropout, once = choice, dropout, functools.lru_cache(maxsize=None)
        self.module = once(self.make)
        # One graph for one size or an error: else PyTorch continues uncompiled, or for any size, silently.
        self.compiled = once(lambda last: torch.compile(self.module(last), fullgraph=True, dynamic=False))
        self.sgd = once(lambda last: sgd_of(self.module(last)))
        self.initial = once(lambda: module_of(choice, 'cpu', dropout=0.0).state_dict())

    def make(self, last):
        """Return the module in a layout."""
        return module_of(self.choice, dropout=self.dropout, using_checkpoint=True, channels_last=last)

    def ways(self, part, quick):
        """Return {row: Way} of a part."""
        return ways(part, quick)

    def step(self, way, batch):
        """Return the training step of `batch` images in a Way, with SGD."""
        return Training(self, way, batch)

    def infer(self, way, batch):
        """Return the forward pass of `batch` images in a Way."""
        return Inference(self, way, batch)

    def peak(self, way, batch):
        """Return the MB that a step's forward and backward pass take at their peak, None where they do not fit.

        Besides the gradients, which are there before.
        """
        module, taken = self.module(way.last), []
        self.sgd(way.last)

        def measure():
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            release()
            wait()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            Backward(self, way, batch).backward()
            wait()
            module.zero_grad()
            taken.append((torch.cuda.max_memory_allocated() - before) / 2**20)

        return taken[0] if fits(measure) else None

    def room(self):
        """Return the MB that are free on the GPU, or kept by PyTorch for further use, less the gradients'."""
        release()
        gradients = sum(parameter.nbytes for parameter in self.module(True).parameters() if parameter.requires_grad)
        return (torch.cuda.mem_get_info()[0] - gradients) / 2**20

    def computed(self, way, reference=None):
        """Return the Computed of a step in a Way: on the CPU, or on the device for comparison."""
        device = DEVICE if reference else torch.device('cpu')
        module = self.module(False) if reference else module_of(self.choice, device, dropout=0.0)
        module.load_state_dict(self.initial())
        images = images_of(choices.COMPARED_BATCH, self.choice.image_shape, device)
        generator = torch.Generator().manual_seed(1)
        direction = torch.randn((len(images), module.size), generator=generator).to(device)
        take_way(module, way)
        with tensor_float32(way.tf32):
            module.train().zero_grad()
            (module(images) * direction).sum().backward()
            names = mxnet_names({name: tensor.ndim for name, tensor in module.state_dict().items()})
            gradients = as_float64({names[of]: p.grad for of, p in module.named_parameters() if p.grad is not None})
            statistics_after = as_float64({names[of]: tensor for of, tensor in module.named_buffers() if of in names})
            state = reference.state if reference else {key: value.clone() for key, value in module.state_dict().items()}
            module.load_state_dict(state)
            with torch.no_grad():
                embeddings = as_float64({'': module.eval()(images)})
        return agreement.Computed(embeddings, gradients, statistics_after, state)


class HostNetwork(Network):
    """insightface's r100, from a file of a checkout, which is run."""

    def __init__(self, path):
        super().__init__(choices.Choice(f'r100 of insightface{", whole, 112×112" * (not IS_GPU)}', 'ires50', {}))
        self.path = path

    def ways(self, part, quick):
        """Return {row: Way} of a part: it has no maps to recompute, and float16 alone."""
        return {
            row: way for row, way in ways(part, quick).items() if not way.again and way.half in (None, torch.float16)
        }

    def make(self, last):
        """Return the module in a layout."""
        spec = importlib.util.spec_from_file_location('insightface_iresnet', self.path)
        code = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(code)
        torch.manual_seed(0)
        module = code.iresnet100(False, dropout=0.0, fp16=False, num_features=512).to(DEVICE)
        return module.to(memory_format=torch.channels_last) if last else module


class ByHand(Network):
    """cru116 as it is written by hand."""

    def make(self, _last):
        """Return the module."""
        settings = self.choice.settings()
        return Cru116(settings['emb_size'], settings['net_multiplier'], dropout=0.0)


def take_way(module, way):
    """Have a module compute in a Way from now on."""
    module.fp16, module.trunk_type, module.using_checkpoint = way.half is not None, way.half, way.again


def as_float64(tensors):
    """Return {name: tensor} as {name: float64 array}."""
    return {name: value.detach().double().cpu().numpy() for name, value in tensors.items()}


class Backward:
    """The forward and the backward pass of a network's module in a Way, on noise; a call does both."""

    def __init__(self, network, way, batch):
        self.way, self.module = way, network.module(way.last)
        self.run = network.compiled(way.last) if way.compiled else self.module
        self.images = laid_out(images_of(batch, network.choice.image_shape), way.last)

    def backward(self):
        """Do both, and add to the gradients; the loss stands in for a classifier."""
        take_way(self.module, self.way)
        self.module.train()
        with tensor_float32(self.way.tf32):
            self.run(self.images).square().mean().backward()

    def __call__(self):
        self.module.zero_grad()
        self.backward()


class Training(Backward):
    """A training step with SGD and momentum; a call does one."""

    def __init__(self, network, way, batch):
        super().__init__(network, way, batch)
        self.sgd = network.sgd(way.last)
        self.sgd.zero_grad()  # of a step that did not fit

    def __call__(self):
        self.backward()
        self.sgd.step()
        self.sgd.zero_grad()


class Inference(Backward):
    """A forward pass; a call does one, and returns the embeddings."""

    def __call__(self):
        take_way(self.module, self.way)
        with tensor_float32(self.way.tf32), torch.no_grad():
            return self.run.eval()(self.images)


def laid_out(images, last):
    """Return images in a layout."""
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def sgd_of(module):
    """Return SGD for a module, with its momentum in memory from the first."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(learnt, 1e-6, 0.9, weight_decay=5e-4)
    for parameter in learnt:
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    sgd.zero_grad()
    return sgd


# ------------------------------------------------------------------------------------ several devices, faces, the GPU


def kinds_of_scaling():
    """Return the kinds of sums over devices."""
    return ('DistributedDataParallel',)


def scaled(name, devices, batch, _kind):
    """Return (seconds of a step with the sum of the gradients, and without), None where it does not fit."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            multiprocessing.spawn(work, (devices, name, batch, folder), devices)
        except multiprocessing.ProcessRaisedException as error:
            if is_of_memory(error):
                return None
            raise RuntimeError(str(error).strip().splitlines()[-1])
        with open(os.path.join(folder, 'seconds.json'), encoding='utf-8') as file:
            return json.load(file)


def work(rank, world, name, batch, folder):
    """Be one of `world` processes; the first writes the seconds of a step, summed and not, into `folder`."""
    device = torch.device('cuda', rank) if IS_GPU else torch.device('cpu')
    if IS_GPU:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(1)
    backend = 'nccl' if IS_GPU else 'gloo'
    distributed.init_process_group(backend, f'file://{folder}/store', rank=rank, world_size=world)
    choice = choices.choice_of(name, IS_GPU)
    module = DistributedDataParallel(  # without buffers, as in arcface_torch
        module_of(choice, device, dropout=0.0, fp16=IS_GPU, channels_last=True).train(),
        [rank] if IS_GPU else None,
        broadcast_buffers=False,
    )
    images = images_of(batch, choice.image_shape, device)
    sgd = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-6, 0.9, weight_decay=5e-4)

    def step():
        module(images).square().mean().backward()
        sgd.step()
        sgd.zero_grad()

    for _ in range(3):
        step()
    rounds = [[shared_seconds(step, module, is_summed) for is_summed in (True, False)] for _ in range(SCALED_ROUNDS)]
    if rank == 0:
        with open(os.path.join(folder, 'seconds.json'), 'w', encoding='utf-8') as file:
            json.dump([statistics.median(times) for times in zip(*rounds)], file)
    distributed.barrier()
    distributed.destroy_process_group()


def shared_seconds(step, module, is_summed):
    """Return the seconds of a step of all processes, with or without the sum of the gradients over the devices."""
    wait()
    distributed.barrier()
    start = time.perf_counter()
    for _ in range(SCALED_STEPS):
        with contextlib.nullcontext() if is_summed else module.no_sync():
            step()
    wait()
    return (time.perf_counter() - start) / SCALED_STEPS


def faces(options):
    """Return {what: value} of a training on synthetic faces, with loss and verification."""
    width = {} if IS_GPU else {'net_multiplier': choices.SMALL['net_multiplier']}
    choice = choices.Choice(choices.FACES, choices.FACES, width)
    make = functools.partial(module_of, choice, dropout=0.0, fp16=IS_GPU, channels_last=IS_GPU)
    network = choices.FACES if IS_GPU else f'{choices.FACES}, a quarter as wide'
    return {'network': network, **torch_faces.trained(make, options, IS_GPU)}


def facts():
    """Return {what: value} of the GPUs and the libraries."""
    found = {
        'Python': platform.python_version(),
        'PyTorch': torch.__version__,
        'CUDA, of PyTorch': torch.version.cuda or 'none',
        'CPU cores': os.cpu_count(),
    }
    if IS_GPU:
        found['cuDNN'] = torch.backends.cudnn.version()
        found['NCCL'] = '.'.join(map(str, torch.cuda.nccl.version()))
        found['newest CUDA of the driver'] = cuda.driver_version('') or 'it does not say'
        found['code for'] = ', '.join(torch.cuda.get_arch_list())
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            found[f'GPU {number}'] = card.name
            found[f'GPU {number}, compute capability'] = f'{card.major}.{card.minor}'
            found[f'GPU {number}, memory MB'] = round(card.total_memory / 2**20)
    return found


def computing():
    """Return {what: None where it computes, or why it does not}."""
    try:
        choice = choices.Choice('cru56', 'cru56', dict(choices.SMALL))
        module_of(choice)(images_of(2, choice.image_shape)).sum().backward()
        wait()
    except RuntimeError as error:  # no kernel image is available for execution on the device, …
        return {'a network': str(error).splitlines()[0]}
    return {'a network': None}
