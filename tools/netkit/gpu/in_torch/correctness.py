"""Part `correctness`: embeddings and gradients against the CPU's, recomputed against kept maps, moving statistics."""

import functools

import torch

from netkit.gpu.figures import STATISTICS, Figure, cosine, distance, moved
from netkit.gpu.in_torch.device import DEVICE, IS_GPU, images, label, network, tensor_float32
from netkit.gpu.sizes import COMPARED, COMPARED_BATCH

EMBEDDINGS = 'inference: largest difference of the embeddings from the CPU, of their range'
GRADIENTS = 'a training step: cosine of all gradients with the CPU'
# {row: (TF32, whether the trunk is in 16 bits, in which, recomputed)}
WAYS = {
    'float32': (False, False, None, False),
    'float32, recomputed': (False, False, None, True),
    'TF32': (True, False, None, False),
    'float16': (True, True, torch.float16, False),
    'bfloat16': (True, True, torch.bfloat16, False),
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
    for way in ways:
        tf32, fp16, trunk_type, again = WAYS[way]
        with tensor_float32(tf32):
            module = network(name, fp16=fp16, using_checkpoint=again)
            module.trunk_type = trunk_type
            module.load_state_dict(trained)
            found = inferred(module, x.to(DEVICE))
            yield Figure(EMBEDDINGS, way, label(name), distance(found, embeddings))
            module.load_state_dict(weights)
            found = step(module, x.to(DEVICE), direction)
            yield Figure(GRADIENTS, way, label(name), cosine(found[0], gradients))
            yield Figure(STATISTICS, way, label(name), moved(found[1], statistics))


def cases(quick):
    """Return {case: function that yields Figures}."""
    # A CPU would be compared with itself in float32, and has neither TF32 nor, in PyTorch 2.3, float16.
    ways = tuple(WAYS) if IS_GPU else ('float32, recomputed', 'bfloat16')
    return {name: functools.partial(compare, name, ways) for name in (COMPARED[:1] if quick else COMPARED)}
