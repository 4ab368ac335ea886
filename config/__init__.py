"""A stand-alone config with the contract of insightface's `config.py`.

insightface's trainers and the builders import `config, network, dataset, loss, default, generate_config` from it.
In a checkout, insightface's own `config.py` replaces it. Losses and data sets are insightface's, plus
`faces` (your own, or the synthetic ones of `tools/train.py`) and `imagenet` for the ImageNet variants. Settings that no
network sets keep the builders' defaults (`face_settings.Settings`).
"""

import copy

from easydict import EasyDict

from .networks import NETWORKS


class UnknownChoice(ValueError):
    """A name that is not in its table; the message names the choices."""


network = EasyDict(copy.deepcopy(NETWORKS))

dataset = EasyDict(
    emore=dict(num_classes=85742, image_shape=(112, 112, 3)),
    retina=dict(num_classes=93431, image_shape=(112, 112, 3)),
    imagenet=dict(num_classes=1000, image_shape=(224, 224, 3)),
    faces=dict(num_classes=64, image_shape=(112, 112, 3)),
)


def _margin(m1, m2, m3):
    """A margin loss, s·(cos(m1·t + m2) - m3) (ArcFace, arXiv 1801.07698, section 2.3)."""
    return dict(loss_name='margin_softmax', loss_s=64.0, loss_m1=m1, loss_m2=m2, loss_m3=m3)


loss = EasyDict(
    softmax=dict(loss_name='softmax'),
    nsoftmax=_margin(1.0, 0.0, 0.0),
    arcface=_margin(1.0, 0.5, 0.0),
    cosface=_margin(1.0, 0.0, 0.35),
    combined=_margin(1.0, 0.3, 0.2),
)

# Command-line defaults of insightface's trainer, where a network does not have its own.
_DEFAULT = dict(
    network='cru116',
    dataset='emore',
    loss='arcface',
    per_batch_size=128,
    lr=0.1,
    wd=0.0005,
    mom=0.9,
    lr_steps='100000,160000,220000',
)
config = EasyDict()
default = EasyDict(_DEFAULT)


def generate_config(_network, _dataset, _loss):
    """Fill `config`, and the existing keys of `default`, with the entries of three choices.

    Removes entries of earlier choices. Raises UnknownChoice, naming the choices, for a name that is not in its table.
    """
    chosen = []
    for kind, name, table in (('loss', _loss, loss), ('network', _network, network), ('dataset', _dataset, dataset)):
        if name not in table:
            raise UnknownChoice('there is no %s %r; choose from %s' % (kind, name, ', '.join(table)))
        chosen.append(table[name])
    for target, first_values in ((config, {}), (default, _DEFAULT)):
        for key in list(target):
            target.pop(key)  # unlike del, it removes the attribute too
        target.update(copy.deepcopy(first_values))
    for entry in chosen:
        for key, value in entry.items():
            config[key] = value
            if key in default:
                default[key] = value
    config.loss, config.network, config.dataset = _loss, _network, _dataset
