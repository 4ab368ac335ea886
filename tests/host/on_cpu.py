"""Runs a script of arcface_torch on a CPU: python on_cpu.py SCRIPT ARGUMENT …, in its folder.

What the script asks of a GPU is turned into nothing before it starts, and NCCL into gloo; the script is unchanged.
"""

import contextlib
import os
import runpy
import sys

import torch
import torch._dynamo  # while there is the real Stream


class Stream:
    """A stream of work that is done at once."""

    def __init__(self, *_):
        pass

    def wait_stream(self, other):
        """Wait for nothing."""


def stay(tensor_or_module, *_, **__):
    return tensor_or_module


def without_gpu(function):
    """Return a function of torch that ignores a `device` that is a GPU."""

    def call(*given, **options):
        if str(options.get('device')).isdigit() or str(options.get('device')).startswith('cuda'):
            options.pop('device')
        return function(*given, **options)

    return call


def with_gloo(start):
    """Return `init_process_group` with gloo in place of NCCL."""
    return lambda *_, **options: start(**dict(options, backend='gloo'))


class OnCPU(torch.nn.parallel.DistributedDataParallel):
    """The module on no GPU."""

    def __init__(self, module, device_ids=None, **options):
        super().__init__(module, **options)


def prepare():
    """Replace what needs a GPU."""
    torch.cuda.set_device = lambda *_: None
    torch.cuda.Stream, torch.cuda.stream = Stream, lambda *_: contextlib.nullcontext()
    torch.cuda.current_stream = Stream
    torch.nn.Module.cuda = torch.Tensor.cuda = stay
    torch.Tensor.to, torch.tensor = without_gpu(torch.Tensor.to), without_gpu(torch.tensor)
    torch.distributed.init_process_group = with_gloo(torch.distributed.init_process_group)
    torch.nn.parallel.DistributedDataParallel = OnCPU
    torch.set_num_threads(1)


if __name__ == '__main__':
    prepare()
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name='__main__')
