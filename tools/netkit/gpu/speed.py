"""Parts `speed` and `inference`: images per second, of several ways to compute, in turns (A B A B …)."""

import statistics
import time

import torch

from netkit.gpu.networks import BATCH, IS_GPU, MEASURED, images, network, tensor_float32, wait

ROUNDS, STEPS = 3, 4
# {label: (TF32, compute the trunk in 16 bits, channels last, compiled, recomputed)}
WAYS = {
    'float32': (False, None, False, False, False),
    'TF32': (True, None, False, False, False),
    'TF32, channels last': (True, None, True, False, False),
    'float16': (True, torch.float16, False, False, False),
    'float16, channels last': (True, torch.float16, True, False, False),
    'bfloat16, channels last': (True, torch.bfloat16, True, False, False),
    'float16, channels last, recomputed': (True, torch.float16, True, False, True),
    'float16, channels last, compiled': (True, torch.float16, True, True, False),
}
BATCHES = 1, 8, 64  # of inference


def way(name, options, train):
    """Return (module, TF32, memory format) of one of the WAYS."""
    tf32, trunk_type, last, compiled, again = options
    module = network(name, fp16=trunk_type is not None, using_checkpoint=again, channels_last=last).train(train)
    module.trunk_type = trunk_type if IS_GPU else None
    layout = torch.channels_last if last else torch.contiguous_format
    # One graph or an error: else PyTorch goes on uncompiled without a word.
    return torch.compile(module, fullgraph=True) if compiled else module, tf32, layout


def training_step(name, options, batch):
    """Return a function that does a training step: forward, backward, SGD."""
    module, tf32, layout = way(name, options, True)
    x = images(batch).contiguous(memory_format=layout)
    sgd = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-6, 0.9, weight_decay=5e-4)

    def run():
        with tensor_float32(tf32):
            module(x).square().mean().backward()
            sgd.step()
            sgd.zero_grad()

    return run


def inference(name, options, batch):
    """Return a function that computes embeddings."""
    module, tf32, layout = way(name, options, False)
    x = images(batch).contiguous(memory_format=layout)

    def run():
        with tensor_float32(tf32), torch.no_grad():
            module(x)

    return run


def in_turns(functions, steps):
    """Return {label: [seconds of a step, …]} of {label: function}, warmed up, in turns."""
    seconds = {label: [] for label in functions}
    for function in functions.values():
        for _ in range(2 if IS_GPU else 1):
            function()
    for _ in range(ROUNDS):
        for label, function in functions.items():
            wait()
            start = time.perf_counter()
            for _ in range(steps):
                function()
            wait()
            seconds[label].append((time.perf_counter() - start) / steps)
    return seconds


def is_compiled(name, quick):
    """Tell whether a network is compiled, too: it takes minutes, so one is."""
    return IS_GPU and not quick and name == MEASURED[0]


def measure(quick):
    """Yield (what, figure, unit) of training steps."""
    for name in MEASURED[:1] if quick else MEASURED:
        ways = {label: options for label, options in WAYS.items() if not options[3] or is_compiled(name, quick)}
        found = in_turns({label: training_step(name, options, BATCH) for label, options in ways.items()}, STEPS)
        for label, seconds in found.items():
            yield f'{name}, training, batch {BATCH}, {label}', round(BATCH / statistics.median(seconds), 1), 'images/s'


def measure_inference(quick):
    """Yield (what, figure, unit) of inferences."""
    ways = ('float32', 'TF32, channels last', 'float16', 'float16, channels last', 'float16, channels last, compiled')
    for name in MEASURED[:1] if quick else MEASURED:
        for batch in BATCHES:
            chosen = {label: WAYS[label] for label in ways if not WAYS[label][3] or is_compiled(name, quick)}
            functions = {label: inference(name, options, batch) for label, options in chosen.items()}
            for label, seconds in in_turns(functions, 10 if IS_GPU else 1).items():
                yield f'{name}, inference, batch {batch}, {label}', round(1e3 * statistics.median(seconds), 2), 'ms'
