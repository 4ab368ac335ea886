"""A tiny ImageNet: ten classes of shapes, light ones of several sizes and places, on dark grounds."""

import os

import numpy as np
from PIL import Image, ImageDraw

KINDS = ('bar', 'cross', 'disc', 'frame', 'ring', 'saw', 'square', 'stripes', 'triangle', 'two_discs')


def draw(kind, rng, size):
    """Return a picture of a shape, as the RandomState `rng` has it."""
    ground, colour = (tuple(map(int, rng.randint(*limits, 3))) for limits in ((0, 100), (150, 256)))
    picture = Image.new('RGB', (size, size), ground)
    pen = ImageDraw.Draw(picture)
    r = size * rng.uniform(0.34, 0.44)
    x, y = rng.uniform(r, size - r, 2)
    box = x - r, y - r, x + r, y + r
    thin = max(2, int(r / 4))
    if kind == 'bar':
        pen.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=colour)
    elif kind == 'cross':
        pen.line((x - r, y, x + r, y), fill=colour, width=thin)
        pen.line((x, y - r, x, y + r), fill=colour, width=thin)
    elif kind == 'disc':
        pen.ellipse(box, fill=colour)
    elif kind == 'frame':
        pen.rectangle(box, outline=colour, width=thin)
    elif kind == 'ring':
        pen.ellipse(box, outline=colour, width=thin)
    elif kind == 'saw':
        steps = np.linspace(-r, r, 7)
        pen.line([(x + step, y + r * (-1) ** i / 2) for i, step in enumerate(steps)], fill=colour, width=thin)
    elif kind == 'square':
        pen.rectangle(box, fill=colour)
    elif kind == 'stripes':
        for step in np.linspace(-r, r, 4):
            pen.line((x - r, y + step, x + r, y + step), fill=colour, width=max(1, thin // 2))
    elif kind == 'triangle':
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    else:
        for side in (-1, 1):
            at = x + side * r / 2
            pen.ellipse((at - r / 2.3, y - r / 2.3, at + r / 2.3, y + r / 2.3), fill=colour)
    return picture


def write(folder, images, seed, size=40):
    """Write a folder per class, with the given number of images each."""
    rng = np.random.RandomState(seed)
    for kind in KINDS:
        os.makedirs(os.path.join(folder, kind))
        for number in range(images):
            draw(kind, rng, size).save(os.path.join(folder, kind, f'{number}.png'))
