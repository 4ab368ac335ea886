"""Part `correctness`: embeddings and gradients against the CPU's, recomputed against kept maps, moving statistics."""

import functools

import torch

from netkit.gpu.harness import BFLOAT16, FLOAT32, HALF, Problems, cosine, distance, judged, moved
from netkit.gpu.sizes import COMPARED, COMPARED_BATCH
from netkit.gpu.torch_device import DEVICE, IS_GPU, has_bfloat16, images, is_ampere, label, network, tensor_float32
from netkit.gpu.torch_speed import Way, made, take_way

WAYS = {  # {row: (Way, Bounds)}
    'float32': (Way(tf32=False), FLOAT32),
    'float32, recomputed': (Way(tf32=False, again=True), FLOAT32),
    'TF32': (Way(), HALF),
    'float16': (Way(half=torch.float16), HALF),
    'float16, recomputed': (Way(half=torch.float16, again=True), HALF),
    'bfloat16': (Way(half=torch.bfloat16), BFLOAT16),
}


def arrays(values):
    """Return {name: tensor} as {name: float64 array}."""
    return {name: value.detach().double().cpu().numpy() for name, value in values.items()}


def step(module, x, direction):
    """Return (gradients, moving statistics), each {name: array}, of a training step."""
    module.train()
    module.zero_grad()
    (module(x) * direction.to(x.device)).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return arrays(gradients), arrays(dict(module.named_buffers()))


def inferred(module, x):
    """Return the embeddings of an inference, {'': array}."""
    module.eval()
    with torch.no_grad():
        return arrays({'': module(x)})


def compare(name, ways):
    """Yield the Figures of a network: each of the `ways` to compute against float32 on the CPU."""
    on_cpu, x = network(name, 'cpu'), images(COMPARED_BATCH, 'cpu')
    direction = torch.randn((COMPARED_BATCH, len(on_cpu.fc1_beta)), generator=torch.Generator().manual_seed(1))
    weights = {key: value.clone() for key, value in on_cpu.state_dict().items()}
    gradients, statistics = step(on_cpu, x, direction)
    trained = {key: value.clone() for key, value in on_cpu.state_dict().items()}
    embeddings = inferred(on_cpu, x)  # with the statistics that the step moved
    problems, module = Problems(), made(name, False)
    for row in ways:
        with problems.caught(row):
            way, bounds = WAYS[row]
            take_way(module, way)
            with tensor_float32(way.tf32):
                module.load_state_dict(trained)
                found = inferred(module, x.to(DEVICE))
                module.load_state_dict(weights)
                got = step(module, x.to(DEVICE), direction)
            differences = distance(found, embeddings), cosine(got[0], gradients), moved(got[1], statistics)
            yield from judged(row, label(name), bounds, differences, problems)
    problems.check()


def cases(quick):
    """Return {case: function that yields Figures}."""
    # A CPU would be compared with itself in float32, and has neither TF32 nor, in PyTorch 2.3, float16.
    ways = tuple(WAYS) if IS_GPU else ('float32, recomputed', 'bfloat16')
    absent = {'TF32': IS_GPU and not is_ampere(), 'bfloat16': not has_bfloat16()}
    ways = tuple(way for way in ways if not absent.get(way))
    return {name: functools.partial(compare, name, ways) for name in (COMPARED[:1] if quick else COMPARED)}
