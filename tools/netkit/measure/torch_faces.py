"""A short training on synthetic faces in PyTorch, verified on drawn pairs of other people: whether a network learns."""

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from netkit.data import drawn_faces
from netkit.evaluation import protocol

SCALE, MARGIN = 64.0, 0.5  # of ArcFace
MOST = 3000  # steps
FIRST = 10  # steps that are timed, to choose how many there is time for
# People, images of each, pairs, images in a step.
ON_GPU, ON_CPU = (64, 20, 300, 64), (8, 4, 20, 8)


def drawn(people, each, pairs):
    """Return (images, labels) of people, and (images, same) of pairs of others, images (n, 112, 112, 3) uint8."""
    rng = np.random.RandomState(0)
    shown = [drawn_faces.draw_identity(rng) for _ in range(people)]
    training = [drawn_faces.draw_face(identity, rng) for identity in shown for _ in range(each)]
    firsts, seconds, same = zip(*drawn_faces.draw_pairs(rng, pairs))
    both = [image for pair in zip(firsts, seconds) for image in pair]
    return np.stack(training), np.repeat(np.arange(people), each), np.stack(both), np.array(same)


def normalised(images, device):
    """Return (n, height, width, 3) uint8 images as arcface_torch hands them over."""
    return torch.tensor(images).permute(0, 3, 1, 2).to(device).float().sub(127.5).div(127.5)


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
    views, device = [], next(module.parameters()).device
    with torch.no_grad():
        for at in range(0, len(images), 64):
            x = normalised(images[at : at + 64], device)
            views.append((module(x) + module(x.flip(3))).double().cpu().numpy())
    found = protocol.accuracy(protocol.distances(np.concatenate(views)), same)
    return found.mean, found.deviation


def train(module, images, labels, batch, steps):
    """Train a network for `steps` steps with ArcFace and SGD; return (losses, seconds)."""
    device = next(module.parameters()).device
    weight = nn.Parameter(torch.randn((labels.max() + 1, module.train().size), device=device) * 0.01)
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad] + [weight]
    sgd = torch.optim.SGD(learnt, 0.1, 0.9, weight_decay=5e-4)
    falls = torch.optim.lr_scheduler.MultiStepLR(sgd, [int(0.7 * steps), int(0.9 * steps)])
    scaler = torch.amp.GradScaler('cuda', enabled=device.type == 'cuda')
    rng, losses, start = np.random.RandomState(1), [], time.perf_counter()
    for _ in range(steps):
        chosen = rng.randint(len(images), size=batch)
        mirrored = images[chosen][:, :, ::-1] if rng.randint(2) else images[chosen]
        embeddings = module(normalised(mirrored.copy(), device))
        loss = arcface(embeddings, weight, torch.tensor(labels[chosen]).to(device))
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        sgd.zero_grad()
        falls.step()
        losses.append(float(loss))
    return losses, time.perf_counter() - start


def trained(make, options, is_gpu):
    """Return {what: value} of a training of the network that `make` returns, about `options.seconds` seconds long.

    Ten seconds if quick; on a CPU four steps.
    """
    people, each, pairs, batch = ON_GPU if is_gpu else ON_CPU
    images, labels, both, same = drawn(people, each, pairs)
    steps = 4
    if is_gpu:
        for _ in range(2):  # the first chooses and loads everything
            _, first = train(make(), images, labels, batch, FIRST)
        seconds = min(options.seconds, 10) if options.quick else options.seconds
        steps = int(min(max(seconds / (first / FIRST), 50), MOST))
    module = make()
    losses, took = train(module, images, labels, batch, steps)
    mean, deviation = verified(module, both, same)
    return {
        'steps': steps,
        'images in a step': batch,
        'seconds': round(took, 1),
        'loss, first ten steps': round(float(np.mean(losses[:10])), 2),
        'loss, last ten steps': round(float(np.mean(losses[-10:])), 2),
        f'verification on {pairs} pairs': f'{mean:.3f} ± {deviation:.3f}',
    }
