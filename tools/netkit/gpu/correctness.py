"""Part `correctness`: embeddings and gradients against the CPU's, recomputed against kept maps, moving statistics."""

import torch

from netkit.gpu.networks import DEVICE, IS_GPU, images, network, tensor_float32

NETWORKS = ('cru56', 'att56', 'ires50')
BATCH = 8


def step(module, x, direction):
    """Return (embeddings, {name: gradient}, {name: moving statistic}) of a training step, in float64 on the CPU."""
    module.train()
    module.zero_grad()
    embeddings = module(x)
    (embeddings * direction.to(x.device)).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return tuple(
        {name: value.detach().double().cpu() for name, value in values.items()}
        for values in ({'': embeddings}, gradients, dict(module.named_buffers()))
    )


def distance(found, expected):
    """Return the largest difference relative to the range of what is expected, over all names."""
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-30))
        for name in expected
    )


def cosine(found, expected):
    """Return the cosine between two sets of gradients."""
    first, second = (torch.cat([values[name].ravel() for name in expected]) for values in (found, expected))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def inferred(module, x):
    """Return the embeddings of an inference, in float64 on the CPU."""
    module.eval()
    with torch.no_grad():
        return {'': module(x).double().cpu()}


def measure(quick):
    """Yield (what, figure, unit)."""
    for name in NETWORKS[:1] if quick else NETWORKS:
        on_cpu, x = network(name, 'cpu'), images(BATCH, 'cpu')
        direction = torch.randn((BATCH, len(on_cpu.fc1_beta)), generator=torch.Generator().manual_seed(1))
        weights = {key: value.clone() for key, value in on_cpu.state_dict().items()}
        expected = step(on_cpu, x, direction)
        moved = {key: value.clone() for key, value in on_cpu.state_dict().items()}
        wanted = inferred(on_cpu, x)  # with the statistics that the step moved
        for label, tf32, fp16, trunk_type in (
            ('float32', False, False, None),
            ('TF32', True, False, None),
            ('16 bits', True, True, None),
            ('bfloat16', True, True, torch.bfloat16),
        ):
            with tensor_float32(tf32):
                module = network(name, fp16=fp16)
                module.trunk_type = trunk_type
                module.load_state_dict(moved)
                found = inferred(module, x.to(DEVICE))
                yield f'{name}, {label}: inference against the CPU', distance(found, wanted), 'of the range'
                module.load_state_dict(weights)
                found = step(module, x.to(DEVICE), direction)
                yield f'{name}, {label}: cosine of the gradients with the CPU', cosine(found[1], expected[1]), ''
        with tensor_float32(False):
            kept, again = network(name), network(name, using_checkpoint=True)
            for module in (kept, again):
                module.load_state_dict(weights)
            x = images(BATCH)
            first, second = step(kept, x, direction), step(again, x, direction)
        yield f'{name}: cosine of the gradients, recomputed against kept maps', cosine(second[1], first[1]), ''
        yield f'{name}: moving statistics, recomputed against kept maps', distance(second[2], first[2]), 'of the range'
        if not IS_GPU and not quick:
            break  # on a CPU the others would compare it with itself
