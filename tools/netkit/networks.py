"""From a network to its symbol: choice → settings → builder → symbol."""

import importlib

import config as host
from face_settings import SettingError, Settings, parse_settings, setting_names
from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.graph.naming import is_original

NETWORKS, LOSSES = tuple(host.network), tuple(host.loss)  # names
FACE_NETWORKS = tuple(name for name in NETWORKS if not is_original(name))
# What may follow a name in arcface_torch (`backbones/symbol_torch.py`) and does not change what is computed.
OF_THE_TRAINER = 'dropout', 'channels_last', 'pretrained'


def entry(kind, name):
    """Return the entry of a table of the config, `kind` 'network' or 'loss'; raises UserError, naming the choices."""
    table = getattr(host, kind)
    if name not in table:
        raise UserError(f'there is no {kind} {name!r}; choose from {", ".join(table)}')
    return table[name]


def builder(network):
    """Return the module in symbols/ that builds a network."""
    return importlib.import_module(entry('network', network).net_name)


def parse(text, words=None):
    """Return (network, {setting: value}) of NETWORK or NETWORK:SETTING=VALUE,…; raises UserError.

    `words` are {word: settings} that may stand for settings. Settings that are for the trainer only are left out.
    """
    network, _, settings = text.partition(':')
    known, found = setting_names(builder(network).build), {}
    for key, value in parse_settings(settings).items():
        if key in (words or {}):
            found.update(words[key])
        elif key in known:
            found[key] = '' if value is None else value
        elif key not in OF_THE_TRAINER:
            ways = ' or '.join(f'NETWORK:{way}' for way in [*(words or {}), 'SETTING=VALUE'])
            raise UserError(f'{key!r} is not a setting; write {ways} with a setting of {", ".join(known)}')
    return network, found


def settings_of(text, **changes):
    """Return all settings of a network, NETWORK or NETWORK:SETTING=VALUE,…, with `changes`, as its builder takes them.

    `image_shape` is by default (224, 224, 3) for an ImageNet variant and (112, 112, 3) for a face network. Raises
    UserError for a network or a setting that does not exist.
    """
    network, named = parse(text)
    names = setting_names(builder(network).build)
    chosen = {key: value for key, value in entry('network', network).items() if key in names}
    dataset = host.dataset.imagenet if is_original(network) else host.dataset.faces
    return {**Settings()._asdict(), **chosen, 'image_shape': tuple(dataset.image_shape), **named, **changes}


def build(text, **changes):
    """Return the embedding symbol of a network, NETWORK or NETWORK:SETTING=VALUE,…, with `changes` to its settings.

    `build('cru116:net_origin=release', image_shape=(64, 64, 3))`. Raises UserError for a network, a setting
    (`face_settings.Settings`) or a value that does not exist.
    """
    network, _ = parse(text)
    known = setting_names(builder(network).build)
    for name in changes:
        if name not in known:
            raise UserError(f'{network} has no setting {name}; choose from {", ".join(known)}')
    try:
        return builder(network).build(**settings_of(text, **changes))
    except SettingError as error:
        raise UserError(error)


def settings_for(device):
    """Return the settings that suit training on `device`, 'cpu' or 'gpu': a CPU has memory enough not to recompute."""
    return {'memonger': False} if device == 'cpu' else {}


def initializer():
    """Return the initialisation of the weights, the same as insightface's."""
    return mx.init.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2)
