"""Part `faces`: a training on drawn faces, with loss and verification."""

import functools
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from netkit.data import drawn_faces as faces
from netkit.evaluation import protocol
from netkit.gpu.harness import FACES as TABLE, Figure
from netkit.gpu.sizes import FACES
from netkit.gpu.torch_device import DEVICE, IS_GPU, network, wait

SCALE, MARGIN = 64.0, 0.5  # of ArcFace
MOST = 3000  # steps
FIRST = 10  # steps that are timed, to choose how many there is time for


def drawn(people, each, pairs):
    """Return (images, labels) of people, and (images, same) of pairs of others, images (n, 112, 112, 3) uint8."""
    rng = np.random.RandomState(0)
    shown = [faces.draw_identity(rng) for _ in range(people)]
    training = [faces.draw_face(identity, rng) for identity in shown for _ in range(each)]
    firsts, seconds, same = zip(*faces.draw_pairs(rng, pairs))
    both = [image for pair in zip(firsts, seconds) for image in pair]
    return np.stack(training), np.repeat(np.arange(people), each), np.stack(both), np.array(same)


def normalised(images):
    """Return (n, height, width, 3) uint8 images as arcface_torch hands them over."""
    return torch.tensor(images).permute(0, 3, 1, 2).to(DEVICE).float().sub(127.5).div(127.5)


def arcface(embeddings, weight, labels):
    """Return ArcFace's loss (arXiv 1801.07698, equation 4)."""
    cosine = functional.linear(functional.normalize(embeddings), functional.normalize(weight)).clamp(
        -1 + 1e-6, 1 - 1e-6
    )
    of_label = functional.one_hot(labels, weight.shape[0]).bool()
    logits = torch.where(of_label, torch.cos(torch.acos(cosine) + MARGIN), cosine)
    return functional.cross_entropy(SCALE * logits, labels)


def verified(module, images, same):
    """Return (accuracy, deviation) on pairs, by insightface's protocol."""
    module.eval()
    views = []
    with torch.no_grad():
        for at in range(0, len(images), 64):
            x = normalised(images[at : at + 64])
            views.append((module(x) + module(x.flip(3))).double().cpu().numpy())
    found = protocol.accuracy(protocol.distances(np.concatenate(views)), same)
    return found.mean, found.deviation


class Learning:
    """A network in training on drawn faces, with ArcFace and SGD."""

    def __init__(self, people, steps):
        on_gpu = {'fp16': IS_GPU, 'channels_last': IS_GPU}
        self.module = network(FACES, image_shape=(112, 112, 3), **on_gpu).train()
        self.weight = nn.Parameter(torch.randn((people, len(self.module.fc1_beta)), device=DEVICE) * 0.01)
        learnt = [parameter for parameter in self.module.parameters() if parameter.requires_grad] + [self.weight]
        self.sgd = torch.optim.SGD(learnt, 0.1, 0.9, weight_decay=5e-4)
        self.falls = torch.optim.lr_scheduler.MultiStepLR(self.sgd, [int(0.7 * steps), int(0.9 * steps)])
        self.scaler = torch.amp.GradScaler('cuda', enabled=IS_GPU)

    def step(self, images, labels):
        """Train on a batch; return the loss."""
        loss = arcface(self.module(normalised(images)), self.weight, torch.tensor(labels).to(DEVICE))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.sgd)
        self.scaler.update()
        self.sgd.zero_grad()
        self.falls.step()
        return float(loss)


def train(learning, images, labels, batch, steps):
    """Train for so many steps; return (losses, seconds)."""
    rng, losses, start = np.random.RandomState(1), [], time.perf_counter()
    for _ in range(steps):
        chosen = rng.randint(len(images), size=batch)
        mirrored = images[chosen][:, :, ::-1] if rng.randint(2) else images[chosen]
        losses.append(learning.step(mirrored.copy(), labels[chosen]))
    wait()
    return losses, time.perf_counter() - start


def measure(people, each, pairs, batch, seconds):
    """Yield the Figures of a training of about so many seconds."""
    images, labels, both, same = drawn(people, each, pairs)
    steps = 4
    if IS_GPU:
        _, first = train(Learning(people, FIRST), images, labels, batch, FIRST)
        _, first = train(Learning(people, FIRST), images, labels, batch, FIRST)  # everything is chosen and loaded
        steps = int(min(max(seconds / (first / FIRST), 50), MOST))
    learning = Learning(people, steps)
    losses, took = train(learning, images, labels, batch, steps)
    mean, deviation = verified(learning.module, both, same)
    for what, value in {
        'network': FACES if IS_GPU else f'{FACES}, a quarter as wide',
        'steps': steps,
        'images in a step': batch,
        'seconds': round(took, 1),
        'loss, first ten steps': round(float(np.mean(losses[:10])), 2),
        'loss, last ten steps': round(float(np.mean(losses[-10:])), 2),
        f'verification on {pairs} pairs': f'{mean:.3f} ± {deviation:.3f}',
    }.items():
        yield Figure(TABLE, what, 'PyTorch', value)


def cases(quick, seconds):
    """Return {case: function that yields Figures}, of a training of so many seconds; on a CPU of four steps."""
    sizes = (64, 20, 300, 64, min(seconds, 10) if quick else seconds) if IS_GPU else (8, 4, 20, 8, 0)
    return {FACES: functools.partial(measure, *sizes)}
