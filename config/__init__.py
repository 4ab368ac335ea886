"""A stand-alone config with the contract of insightface's `config.py`.

`from config import config, network, dataset, loss, default, generate_config` is all that a trainer, a
builder or a tool needs; inside insightface the host's own `config.py` takes this one's place. Losses and
data sets are the host's choices plus `synthetic`, the faces that `tools/train_synthetic.py` draws, and `imagenet`
for the networks' original forms.
"""
import copy

from easydict import EasyDict

from .networks import NETWORKS


class UnknownChoice(ValueError):
    """A name that is in none of the tables; the text names the choices."""


network = EasyDict(copy.deepcopy(NETWORKS))

dataset = EasyDict(
    emore=dict(dataset='emore', dataset_path='../datasets/faces_emore', num_classes=85742,
               image_shape=(112, 112, 3), val_targets=['lfw', 'cfp_fp', 'agedb_30']),
    retina=dict(dataset='retina', dataset_path='../datasets/ms1m-retinaface-t1', num_classes=93431,
                image_shape=(112, 112, 3), val_targets=['lfw', 'cfp_fp', 'agedb_30']),
    imagenet=dict(dataset='imagenet', dataset_path='../datasets/imagenet', num_classes=1000,
                  image_shape=(224, 224, 3), val_targets=[]),
    synthetic=dict(dataset='synthetic', dataset_path='data/synthetic', num_classes=64,
                   image_shape=(112, 112, 3), val_targets=['lfw']),
)


def _margin(m1, m2, m3):
    """The margin family of ArcFace (arXiv 1801.07698, section 2.3): s·(cos(m1·t + m2) - m3)."""
    return dict(loss_name='margin_softmax', loss_s=64.0, loss_m1=m1, loss_m2=m2, loss_m3=m3)


loss = EasyDict(
    softmax=dict(loss_name='softmax'),
    nsoftmax=_margin(1.0, 0.0, 0.0),
    arcface=_margin(1.0, 0.5, 0.0),
    cosface=_margin(1.0, 0.0, 0.35),
    combined=_margin(1.0, 0.3, 0.2),
)

_CONFIG = dict(
    bn_mom=0.9, workspace=256, emb_size=512, ckpt_embedding=True, image_shape=(112, 112, 3),
    net_se=0, net_act='prelu', net_unit=3, net_input=1, net_output='E', net_multiplier=1.0,
    net_prelu='mul', net_resize='op', net_groups='merged', fp16=False, memonger=False,
    count_flops=True, ce_loss=True, max_steps=0,
    fc7_lr_mult=1.0, fc7_wd_mult=1.0, fc7_no_bias=False, data_rand_mirror=True,
)
_DEFAULT = dict(
    network='cru116', dataset='emore', loss='arcface', pretrained='', pretrained_epoch=1,
    frequent=20, verbose=2000, kvstore='device', end_epoch=10000, ckpt=3, models_root='./models',
    lr=0.1, wd=0.0005, mom=0.9, per_batch_size=128, lr_steps='100000,160000,220000',
)
config = EasyDict(_CONFIG)
default = EasyDict(_DEFAULT)


def generate_config(_network, _dataset, _loss):
    """Fill `config`, and `default` where it has the key, with the chosen entries.

    Both start from their first values every time, so that no choice leaves anything behind for the next.
    Raises UnknownChoice, naming the choices, for a name that none of the tables has.
    """
    chosen = []
    for kind, name, table in (('loss', _loss, loss), ('network', _network, network), ('dataset', _dataset, dataset)):
        if name not in table:
            raise UnknownChoice('there is no %s %r; choose from %s' % (kind, name, ', '.join(table)))
        chosen.append(table[name])
    for target, first_values in ((config, _CONFIG), (default, _DEFAULT)):
        for key in list(target):
            target.pop(key)  # unlike del, it takes the attribute too
        target.update(copy.deepcopy(first_values))
    for entry in chosen:
        for key, value in entry.items():
            config[key] = value
            if key in default:
                default[key] = value
    config.loss, config.network, config.dataset = _loss, _network, _dataset
