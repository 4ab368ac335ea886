"""Part `scaling`: training steps on several cards, by DistributedDataParallel."""

import functools
import json
import os
import statistics
import tempfile
import time

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from netkit.gpu.harness import SHARE, Figure, not_measured, note_of
from netkit.gpu.sizes import counts, measured
from netkit.gpu.torch_device import IS_GPU, default_batch, images, is_of_memory, label, network

SPEED = 'training on several devices, images per second in all'
STEPS, ROUNDS = (10, 3) if IS_GPU else (2, 2)
RESULT = 'seconds-{}.json'


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
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(1)
    store = f'file://{folder}/store-{world}-{batch}'
    distributed.init_process_group('nccl' if IS_GPU else 'gloo', store, rank=rank, world_size=world)
    module = DistributedDataParallel(  # without buffers, as arcface_torch has it
        network(name, device, fp16=IS_GPU, channels_last=True).train(),
        [rank] if IS_GPU else None,
        broadcast_buffers=False,
    )
    x = images(batch, device)
    sgd = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-6, 0.9, weight_decay=5e-4)

    def step():
        module(x).square().mean().backward()
        sgd.step()
        sgd.zero_grad()

    for _ in range(3):
        step()
    seconds = [[seconds_of(step, module, device, is_summed) for is_summed in (True, False)] for _ in range(ROUNDS)]
    if rank == 0:
        with open(os.path.join(folder, RESULT.format(world)), 'w', encoding='utf-8') as file:
            json.dump([statistics.median(times) for times in zip(*seconds)], file)
    distributed.barrier()
    distributed.destroy_process_group()


def spawned(world, name, batch, folder):
    """Return (seconds of a step summed, and alone) in `world` processes, None where the memory was not enough."""
    try:
        multiprocessing.spawn(work, (world, name, batch, folder), world)
    except multiprocessing.ProcessRaisedException as error:
        if is_of_memory(error):
            return None
        raise RuntimeError(str(error).strip().splitlines()[-1])
    with open(os.path.join(folder, RESULT.format(world)), encoding='utf-8') as file:
        return json.load(file)


def measure(name, devices):
    """Yield the Figures of a network, each device with the default batch, or with what fits on one."""
    wanted = batch = default_batch(name)
    column = f'{label(name)}, {"float16" if IS_GPU else "float32"}, batch {wanted} each'
    with tempfile.TemporaryDirectory() as folder:
        for world in counts(devices):
            row, found = f'{world} × {"GPU" if IS_GPU else "process on the CPU"}', None
            while batch and found is None:
                found = spawned(world, name, batch, folder)
                batch = batch if found else batch // 2
            if found is None:
                yield Figure(SPEED, row, column, 'not one image fits')
                return
            summed, alone = found
            yield Figure(SPEED, row, column, round(world * batch / summed, 1), note_of(batch, wanted))
            if world > 1:
                yield Figure(SHARE, row, column, round(100 * (1 - alone / summed), 1), note_of(batch, wanted))


def cases(quick):
    """Return {case: function that yields Figures}."""
    devices = torch.cuda.device_count() if IS_GPU else 2
    if devices == 1:
        return not_measured('one', SPEED, 'there is one GPU')
    return {name: functools.partial(measure, name, devices) for name in measured(True)}
