"""The parts, the engines that have them, and how a process measures one."""

import importlib
import json
import time
from typing import NamedTuple, Optional, Tuple

from netkit.errors import UserError, reason
from netkit.gpu.harness import Figure

ENGINES = {'torch': 'PyTorch', 'onnxruntime': 'onnxruntime', 'mxnet': 'MXNet'}
# {engine: module with `where()`, the name of the card or None for a CPU}
DEVICES = {'torch': 'torch_device', 'onnxruntime': 'onnx_providers', 'mxnet': 'mxnet_device'}
CARD = 'card'  # the part that comes first, and without which an engine is left out
FLOAT32 = ('NVIDIA_TF32_OVERRIDE=0',)  # has NVIDIA's libraries compute float32 with all its digits


class Options(NamedTuple):
    """What `tools/check_gpu.py` is asked for."""

    quick: bool = False
    minutes: float = 15  # of all parts together
    seconds: int = 120  # of the training on faces
    insightface: Optional[str] = None  # a checkout, for its r100
    mxnet_python: Optional[str] = None
    case: Optional[str] = None  # one case of a part; None: all


class Part(NamedTuple):
    """A part in an engine: its module, the function there that returns its cases, its share of the time."""

    module: str
    share: int
    function: str = 'cases'
    variables: Tuple[str, ...] = ()  # NAME=VALUE, for the libraries
    is_quick: bool = True  # whether --quick measures it
    options: Tuple[str, ...] = ()  # fields of Options that `function` takes, in addition to `quick`
    is_computed: bool = True  # or nothing is: then it does not matter whether the engine computes here


PARTS = {
    CARD: {  # outside the time that is shared
        'torch': Part('torch_card', 0),
        'onnxruntime': Part('onnx_card', 0),
        'mxnet': Part('mxnet_card', 0),
    },
    'plan': {'mxnet': Part('mxnet_plan', 20, is_computed=False)},
    'correctness': {'torch': Part('torch_correctness', 70), 'mxnet': Part('mxnet_correctness', 80, variables=FLOAT32)},
    'memory': {'torch': Part('torch_memory', 110), 'mxnet': Part('mxnet_memory', 70)},
    'speed': {'torch': Part('torch_speed', 110, options=('insightface',)), 'mxnet': Part('mxnet_speed', 130)},
    'inference': {
        'torch': Part('torch_inference', 40),
        'onnxruntime': Part('onnx_inference', 120, is_quick=False, options=('mxnet_python',)),
        'mxnet': Part('mxnet_speed', 30, 'inference_cases'),
    },
    'scaling': {'torch': Part('torch_scaling', 100), 'mxnet': Part('mxnet_scaling', 80, is_quick=False)},
    'faces': {
        'torch': Part('torch_faces', 180, options=('seconds',)),
        'mxnet': Part('mxnet_faces', 120, is_quick=False),
    },
    'compile': {'torch': Part('torch_speed', 90, 'compiled_cases', is_quick=False)},
}


def cases_of(part, engine, options):
    """Return {case: function that yields Figures}, as Options ask for them."""
    if engine not in PARTS[part]:
        raise UserError(f'{ENGINES[engine]} has no part {part}; choose from {", ".join(of_engine(engine))}')
    found = PARTS[part][engine]
    function = getattr(importlib.import_module(f'netkit.gpu.{found.module}'), found.function)
    return function(options.quick, **{name: getattr(options, name) for name in found.options})


def of_engine(engine):
    """Return the parts that an engine has."""
    return [part for part, engines in PARTS.items() if engine in engines]


def where(engine):
    """Return the name of the card on which an engine computes, None for a CPU; imports the engine."""
    return importlib.import_module(f'netkit.gpu.{DEVICES[engine]}').where()


def measure(part, engine, options, tell):
    """Measure the cases of a part; return whether all came to their end.

    `tell` is called with a dict for what becomes known: the device and the cases; each Figure; each case's end.
    """
    try:
        device, cases = where(engine), cases_of(part, engine, options)
    except (ImportError, OSError, RuntimeError) as error:  # of its libraries, and an MXNetError
        raise UserError(f'{ENGINES[engine]} does not start here: {reason(error)}')
    if options.case:
        if options.case not in cases:
            raise UserError(f'{part} has no case {options.case!r} here; choose from {", ".join(cases)}')
        cases = {options.case: cases[options.case]}
    tell({'where': device, 'cases': list(cases)})
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
    """Return what was told as a line."""
    return json.dumps(told, ensure_ascii=True)


def from_line(line):
    """Return what a line tells; None for a line that a library has printed."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    if not isinstance(told, dict) or not ({'cases', 'case'} & set(told)):
        return None
    if 'figure' in told:
        told['figure'] = Figure(*told['figure'])
    return told
