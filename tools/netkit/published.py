"""Published figures of the networks, each in its original form.

From the papers, or counted from the authors' own definitions (CRU-Net: from the networks of gluoncv2), at 224x224.
"""

from typing import NamedTuple, Optional


class Published(NamedTuple):
    """Learnt parameters; multiply-adds of convolutions and FCs for one image; what the paper itself prints."""

    parameters: int
    macs: Optional[float] = None
    printed: str = ''


PUBLISHED = {
    'cru56_imagenet': Published(25609384, 5634153472, '25.5 M'),
    'cru116_imagenet': Published(43656136, 12645923328, '43.7 M, 13.3 G'),
    'att56_imagenet': Published(31810728, 6270836736),
    'att92_imagenet': Published(52466344, 10533789696),
    'att128_imagenet': Published(65294504),
    'att164_imagenet': Published(78122664),
    'att200_imagenet': Published(90950824),
    'att236_imagenet': Published(103778984),
    'att452_imagenet': Published(182285224),
    'attnext56_imagenet': Published(31318824, 6419106816),
    'attnext92_imagenet': Published(52102952, 10704337920),
    'ires50_imagenet': Published(25557032, 4.1277e9),
    'ires101_imagenet': Published(44549160, 7.8399e9),
    'ires152_imagenet': Published(60192808, 11.5522e9),
    'ires200_imagenet': Published(64673832, 15.0460e9),
    'ires18_imagenet': Published(11689512, 1814073344),
    'ires34_imagenet': Published(21797672, 3663761408),
    'ires302_imagenet': Published(96585512, 22470459392),
    'ires404_imagenet': Published(124524328, 29894901760),
    'ires1001_imagenet': Published(255597864, 73349726208),
    'iresgroup50_imagenet': Published(24887080, 5510750208),
    'iresgroup101_imagenet': Published(47813416, 9987252224),
    'iresgroup152_imagenet': Published(66993960, 14694965248),
    'iresgroupfix50_imagenet': Published(23366440, 4383596544),
    'iresgroupfix101_imagenet': Published(43786024, 8368775168),
    'iresgroupfix152_imagenet': Published(60607272, 12353953792),
    # Counted from torchvision, the last from its classes.
    'resnet50_imagenet': Published(25557032, 4089184256),
    'resnet101_imagenet': Published(44549160, 7801405440),
    'resnet152_imagenet': Published(60192808, 11513626624),
    'resnet200_imagenet': Published(64673832, 15007481856),
}

# The normalisation with which weights for ImageNet are trained as a rule, in units of raw 0…255 RGB.
IMAGENET_MEAN = tuple(255 * part for part in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * part for part in (0.229, 0.224, 0.225))

# Accuracies on verification sets: cru116 on MS1M-ArcFace, as published in 2018 (README.md has the recipe).
FACES = {
    'cru116': {
        'lfw': 0.99867,
        'cfp_fp': 0.98386,
        'cfp_ff': 0.99729,
        'calfw': 0.95933,
        'cplfw': 0.92833,
        'agedb_30': 0.97983,
    }
}

# Top-1 error on ImageNet at 224x224 where nothing else is said, in percent (docs/networks.md has the sources), and the
# `net_origin` with which it was measured.
TOP1_ERRORS = {
    'cru56_imagenet': ('21.9', 'paper'),
    'cru116_imagenet': ('20.6', 'paper'),
    'att56_imagenet': ('21.76', 'release'),
    'att92_imagenet': ('19.5 at 320x320', 'release'),
    'attnext56_imagenet': ('21.2', 'release'),
    'ires50_imagenet': ('22.69', 'release'),
    'ires101_imagenet': ('21.36', 'release'),
    'ires152_imagenet': ('20.66', 'release'),
    'ires200_imagenet': ('20.52', 'release'),
}


def top1_error(network, origin):
    """Return the published error of a network choice with `net_origin`, as it is told; a dash if there is none."""
    error, measured_with = TOP1_ERRORS.get(network, ('–', origin))
    return error if origin == measured_with else f'{error} with net_origin={measured_with}'
