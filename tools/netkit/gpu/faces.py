"""Part `faces`: a training on drawn faces, with loss and verification."""

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from netkit.data import faces
from netkit.evaluation import protocol
from netkit.gpu.networks import DEVICE, IS_GPU, network, wait

SCALE, MARGIN = 64.0, 0.5  # of ArcFace


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


def measure(quick):
    """Yield (what, figure, unit)."""
    people, each, pairs, batch, steps = (64, 20, 300, 64, 300) if IS_GPU else (8, 4, 20, 8, 4)
    steps = min(steps, 100) if quick else steps
    images, labels, both, same = drawn(people, each, pairs)
    module = network('cru56', fp16=IS_GPU)
    weight = nn.Parameter(torch.randn((people, len(module.fc1_beta)), device=DEVICE) * 0.01)
    parameters = [p for p in module.parameters() if p.requires_grad] + [weight]
    sgd = torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=5e-4)
    falls = torch.optim.lr_scheduler.MultiStepLR(sgd, [int(0.7 * steps), int(0.9 * steps)])
    scaler = torch.amp.GradScaler('cuda', enabled=IS_GPU)
    rng, losses, start = np.random.RandomState(1), [], time.perf_counter()
    module.train()
    for _ in range(steps):
        chosen = rng.randint(len(images), size=batch)
        x = images[chosen][:, :, ::-1] if rng.randint(2) else images[chosen]
        loss = arcface(module(normalised(x.copy())), weight, torch.tensor(labels[chosen]).to(DEVICE))
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        sgd.zero_grad()
        falls.step()
        losses.append(float(loss))
    wait()
    yield f'cru56, {steps} steps of {batch} drawn faces', round(time.perf_counter() - start, 1), 's'
    yield 'loss, first ten steps', round(float(np.mean(losses[:10])), 2), ''
    yield 'loss, last ten steps', round(float(np.mean(losses[-10:])), 2), ''
    mean, deviation = verified(module, both, same)
    yield f'verification on {pairs} pairs of others', f'{mean:.3f} ± {deviation:.3f}', ''
