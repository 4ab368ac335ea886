"""The steps that are timed in PyTorch, on a CPU: the modules of network choices, in each layout and precision."""

import os

import config as host
from netkit.errors import UserError
from netkit.graph.naming import is_original
from netkit.project import ROOT

# {label: (whether the trunk is in bfloat16, whether the layout is channels_last)}
WAYS = {
    'PyTorch': (False, False),
    'PyTorch, channels last': (False, True),
    'PyTorch, bfloat16': (True, False),
    'PyTorch, bfloat16, channels last': (True, True),
}
COMPILED = 'PyTorch, compiled'
BY_HAND = 'cru116'  # of which there is one written by hand


class TorchStep:
    """A training step (forward and backward) or an inference of a module on noise; a call runs it."""

    def __init__(self, module, shape, training, channels_last=False):
        import torch

        self.torch, self.module, self.training = torch, module.train(training), training
        self.images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        if channels_last:
            self.images = self.images.contiguous(memory_format=torch.channels_last)

    def __call__(self):
        if not self.training:
            with self.torch.no_grad():
                self.module(self.images)
            return
        for parameter in self.module.parameters():
            parameter.grad = None
        self.module(self.images).sum().backward()


def check(choice, how):
    """Raise UserError where a choice cannot be timed in PyTorch."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError('PyTorch is not installed here; make .venv-torch/installed, and run .venv-torch/bin/python')
    if how.peer == 'by_hand' and choice.network != BY_HAND:
        raise UserError(f'--peer by_hand: only {BY_HAND} is written by hand, not {choice.network}')
    if is_original(choice.network):
        raise UserError(f'--engine torch is for face networks, and {choice.label} is none')


def module_of(choice, **options):
    """Return the module of a choice; the forms that are for MXNet's sake are left out."""
    import symbol_torch

    settings = {key: value for key, value in choice.overrides.items() if key not in symbol_torch.FORMS}
    options['using_checkpoint'] = bool(settings.pop('memonger', False))
    return symbol_torch.choice(os.path.join(ROOT, 'symbols'), host.network[choice.network], **options, **settings)


def steps_of(choice, how, shape, training):
    """Return {label: step} of a choice in PyTorch: every one of the WAYS, and what a `timing.How` asks for besides."""
    import symbol_torch
    import torch

    found = {}
    for label, (half, last) in WAYS.items():
        module = module_of(choice, fp16=half, channels_last=last)
        if not last or not symbol_torch.is_narrow(module):
            found[f'{choice.label}, {label}'] = TorchStep(module, shape, training, last)
    if how.compiled:
        module = torch.compile(module_of(choice), fullgraph=True)
        found[f'{choice.label}, {COMPILED}'] = TorchStep(module, shape, training)
    if how.peer == 'by_hand':
        from netkit.bench.by_hand import Cru116

        settings = choice.settings()
        module = Cru116(settings['emb_size'], settings['net_multiplier'])
        found[f'{choice.label}, PyTorch, by hand'] = TorchStep(module, shape, training)
    return found
