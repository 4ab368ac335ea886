"""Part `scaling`: training steps on several cards, by DistributedDataParallel."""

import functools
import json
import os
import tempfile
import time

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from netkit.gpu.figures import Figure
from netkit.gpu.in_torch.device import IS_GPU, default_batch, images, label, measured, network
from netkit.gpu.sizes import counts

SPEED = 'training on several devices, images per second in all'
SHARE = 'training on several devices, share of a step for summing gradients, %'
STEPS, ROUNDS = (10, 3) if IS_GPU else (2, 2)


def seconds_of(step, module, device, is_summed):
    """Return the seconds of a step, with or without the sum of the gradients over the devices."""
    if IS_GPU:
        torch.cuda.synchronize(device)
    distributed.barrier()
    start = time.perf_counter()
    for _ in range(STEPS):
        if is_summed:
            step()
        else:
            with module.no_sync():
                step()
    if IS_GPU:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / STEPS


def work(rank, world, name, batch, folder):
    """Be one of `world` processes; the first writes the seconds of a step, summed and not, into `folder`."""
    device = torch.device('cuda', rank) if IS_GPU else torch.device('cpu')
    if IS_GPU:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    distributed.init_process_group(
        'nccl' if IS_GPU else 'gloo', f'file://{folder}/store-{world}', rank=rank, world_size=world
    )
    module = DistributedDataParallel(
        network(name, device, fp16=IS_GPU, channels_last=True).train(), [rank] if IS_GPU else None
    )
    x = images(batch, device)
    sgd = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-6, 0.9, weight_decay=5e-4)

    def step():
        module(x).square().mean().backward()
        sgd.step()
        sgd.zero_grad()

    for _ in range(3):
        step()
    summed, alone = (
        min(seconds_of(step, module, device, is_summed) for _ in range(ROUNDS)) for is_summed in (True, False)
    )
    if rank == 0:
        with open(os.path.join(folder, f'seconds-{world}.json'), 'w', encoding='utf-8') as file:
            json.dump([summed, alone], file)
    distributed.barrier()
    distributed.destroy_process_group()


def measure(name, devices):
    """Yield the Figures of a network."""
    batch = default_batch(name)
    column = f'{label(name)}, {"float16" if IS_GPU else "float32"}, batch {batch} each'
    with tempfile.TemporaryDirectory() as folder:
        for world in counts(devices):
            multiprocessing.spawn(work, (world, name, batch, folder), world)
            with open(os.path.join(folder, f'seconds-{world}.json'), encoding='utf-8') as file:
                summed, alone = json.load(file)
            yield Figure(
                SPEED,
                f'{world} × {"GPU" if IS_GPU else "process on the CPU"}',
                column,
                round(world * batch / summed, 1),
            )
            if world > 1:
                share = round(100 * (1 - alone / summed), 1)
                yield Figure(SHARE, f'{world} × {"GPU" if IS_GPU else "process on the CPU"}', column, share)


def not_measured():
    """Yield that there is nothing to measure."""
    yield Figure(SPEED, 'all', 'all', 'not measured: there is one GPU')


def cases(quick):
    """Return {case: function that yields Figures}."""
    devices = torch.cuda.device_count() if IS_GPU else 2
    if devices == 1:
        return {'one': not_measured}
    return {name: functools.partial(measure, name, devices) for name in measured(True)}
