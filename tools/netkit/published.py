"""Published figures of the networks: counts of the ImageNet variants, accuracies, errors.

Counts are the papers', or counted from the authors' own definitions (CRU-Net: from gluoncv2's networks), at 224x224.
"""

from typing import Dict, NamedTuple, Optional


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

# The normalisation with which weights for ImageNet are trained usually, in units of raw 0…255 RGB.
IMAGENET_MEAN = tuple(255 * part for part in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * part for part in (0.229, 0.224, 0.225))


class FaceRow(NamedTuple):
    """Published accuracies of one trained face network."""

    network: str  # with the `net_origin` that gives the network
    training: str  # data, loss, who measured it
    sets: Dict[str, str]  # {verification set: accuracy, with its deviation where that is printed}


FACES = (
    FaceRow(
        'cru116:net_origin=release',
        'MS1M-ArcFace, ArcFace, epoch 36; 2018 (README.md)',
        {
            'lfw': '0.99867 ± 0.00180',
            'cfp_fp': '0.98386 ± 0.00542',
            'cfp_ff': '0.99729 ± 0.00216',
            'calfw': '0.95933 ± 0.01119',
            'cplfw': '0.92833 ± 0.01624',
            'agedb_30': '0.97983 ± 0.00765',
        },
    ),
    FaceRow(
        'att56:net_origin=facexzoo',
        'MS-Celeb-1M-v1c, MV-Softmax, best epoch of each set; FaceX-Zoo, 2020',
        {'lfw': '0.9988', 'cplfw': '0.8918', 'calfw': '0.9565', 'agedb_30': '0.9812'},
    ),
    FaceRow(
        'att92:net_origin=facexzoo',
        'MS-Celeb-1M-v1c, MV-Softmax, best epoch of each set; FaceX-Zoo, 2020',
        {'lfw': '0.9982', 'cplfw': '0.9033', 'calfw': '0.9588', 'agedb_30': '0.9808'},
    ),
)


class ImageNetRow(NamedTuple):
    """Published errors of one network on ImageNet, in percent; at 224x224 where nothing else is said."""

    network: str  # with the `net_origin` that gives the network
    top1: str
    top5: str = '–'


# docs/networks.md has the sources.
IMAGENET = (
    ImageNetRow('cru56_imagenet:net_origin=release', '21.9'),
    ImageNetRow('cru116_imagenet:net_origin=release', '20.6'),
    ImageNetRow('att56_imagenet:net_origin=release', '21.76', '5.9'),
    ImageNetRow('att92_imagenet:net_origin=release', '19.5 at 320x320', '4.8 at 320x320'),
    ImageNetRow('attnext56_imagenet:net_origin=release', '21.2', '5.6'),
    ImageNetRow('ires50_imagenet:net_origin=release', '22.69'),
    ImageNetRow('ires101_imagenet:net_origin=release', '21.36'),
    ImageNetRow('ires152_imagenet:net_origin=release', '20.66'),
    ImageNetRow('ires200_imagenet:net_origin=release', '20.52'),
    ImageNetRow('resnet50_imagenet', '23.88'),
    ImageNetRow('resnet101_imagenet', '22.00'),
    ImageNetRow('resnet152_imagenet', '21.55'),
    ImageNetRow('resnet200_imagenet', '22.45'),
)
