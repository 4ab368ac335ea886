"""MXNet symbols as PyTorch modules: the face networks in insightface's `arcface_torch`, without MXNet.

Only a builder in `symbols/` describes a network. This module converts the network to nodes (`nodes.py`), and the
nodes to a module (`symbol_module.py`). Needs only PyTorch 2.3 or newer.
"""

import importlib
import importlib.util
import os
import re
import sys
import warnings

import torch

from . import identifiers as names
from .nodes import nodes_of, read_json, stood_in
from .symbol_module import SymbolModule

# MXNet's operators with counterparts in PyTorch; the other implementations are for MXNet.
FORMS = {'net_prelu': 'op', 'fp16': False}
OPTIONS = 'dropout', 'fp16', 'using_checkpoint', 'channels_last'  # of SymbolModule


def choice(folder, row, **changes):
    """Return the SymbolModule of a row of the table of networks.

    `folder` is that of the builders, `changes` are the options of `SymbolModule` and settings of the builder. Raises
    ValueError for settings that it does not accept.
    """
    options = {key: changes.pop(key) for key in OPTIONS if key in changes}
    nodes, shape = nodes_of_row(folder, row, memonger=bool(options.get('using_checkpoint')), **changes)
    return SymbolModule(nodes, shape, **options)


def nodes_of_row(folder, row, **changes):
    """Return (nodes, image shape) of a row of the table with some settings changed; raises ValueError, as `choice`."""
    with stood_in(os.path.abspath(folder)):
        module = importlib.import_module(row['net_name'])
        known = sys.modules['face_settings'].setting_names(module.build)
        settings = {key: value for key, value in row.items() if key in known}
        settings.update(FORMS, **changes)
        return nodes_of(module.build(**settings)), settings.get('image_shape', (112, 112, 3))


def builders():
    """Return the folder of the builders."""
    return os.path.dirname(
        _beside(('face_blocks.py',), ('symbols', 'face_blocks.py'), (*[os.pardir] * 2, 'symbols', 'face_blocks.py'))
    )


def _beside(*names):
    """Return the first of some paths, relative to this file, that exists."""
    here = os.path.dirname(os.path.abspath(__file__))
    return next(path for path in (os.path.join(here, *name) for name in names) if os.path.exists(path))


def _loaded(name, folder):
    """Return the module `name` from this folder, `folder` in it, or `folder` in the project root."""
    path = _beside((name + '.py',), (folder, name + '.py'), (os.pardir, os.pardir, folder, name + '.py'))
    spec = importlib.util.spec_from_file_location('crunet_' + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks():
    """Return the table of networks, {name: row}."""
    return _loaded('networks', 'config').NETWORKS


def parsed(text):
    """Return (name, {setting: value}) of `NAME` or `NAME:SETTING=VALUE,…`; raises ValueError."""
    name, settings = split(text)
    found = _loaded('face_settings', 'symbols').parse_settings(settings)
    for key, value in found.items():
        if value is None:
            raise ValueError(f'{key!r} is not SETTING=VALUE, in {text!r}')
    return name, found


def split(text):
    """Return (name, settings) of `NAME:SETTINGS`; a name that is a path may have colons."""
    start = text.find('.json:') + len('.json') if '.json:' in text else 0
    name, _, settings = text[start:].partition(':') if not text.endswith('.json') else (text[start:], '', '')
    return text[:start] + name, settings


def is_known(name):
    """Return whether `get_model` accepts a name: a network or a symbol's JSON, with or without settings."""
    name, _ = split(name)
    return name.endswith('.json') or name in networks()


def get_model(name, num_features=512, fp16=False, **_):
    """Return a face network by the convention of arcface_torch's `backbones`.

    `name` is a network, `cru116`, or the path of a symbol's JSON, either with settings if needed, as in
    `cru116:net_multiplier=0.25,dropout=0.0,memonger=True`. A network takes its builder's settings, and both take

    - `dropout`: of the embedding (default: 0.4); the `dropout=0.0` that insightface always passes is ignored;
    - `memonger`: whether the backward pass recomputes feature maps (default: False); 'torch' uses
      torch.utils.checkpoint;
    - `channels_last`: the layout of the feature maps, by default True unless the network is narrower than a quarter;
    - `pretrained`: the path of a state dict to start from, as insightface's model.pt.

    A JSON, and `emb_size` in the name, override `num_features`. Raises ValueError, listing the choices.
    """
    network, settings = parsed(name)
    weights = settings.pop('pretrained', None)
    if 'fp16' in settings:
        raise ValueError('fp16 is not a setting of a name; config.fp16 says it')
    if not network.endswith('.json'):
        settings = {'emb_size': num_features, **settings}
    module = made(network, {'fp16': fp16, **settings}, [key for key in networks() if not key.endswith('_imagenet')])
    if module.size != num_features:
        warnings.warn(f'{name} has embeddings of {module.size} numbers, not {num_features}', stacklevel=2)
    if weights is not None:
        load_weights(module, weights)
    return module


def made(network, settings, known=None):
    """Return the SymbolModule of a network, one of `known` if not None, or of a symbol's JSON.

    `settings` are those of the builder, and `dropout`, `memonger`, `channels_last` and `fp16`. Raises ValueError.
    """
    settings = dict(settings)
    options = {
        'dropout': rate(settings.pop('dropout', None)),
        'fp16': switch('fp16', settings.pop('fp16', False)),
        'using_checkpoint': switch('memonger', settings.pop('memonger', False), 'torch'),
        'channels_last': switch('channels_last', settings.pop('channels_last', None)),
    }
    for key in ('using_checkpoint', 'folder', 'row', 'self'):
        if key in settings:
            raise ValueError(f'{key} is not a setting of a name')
    if network.endswith('.json'):
        if settings:
            raise ValueError(f'{", ".join(settings)}: what {network} says cannot be changed')
        try:
            return SymbolModule(read_json(network), **options)
        except OSError as error:
            raise ValueError(f'cannot read {network}: {error.strerror}')
    known = networks() if known is None else known
    if network not in known:
        raise ValueError(f'there is no network {network!r}; choose from {", ".join(known)}')
    if network.endswith('_imagenet'):
        settings.setdefault('image_shape', (224, 224, 3))
    return choice(builders(), networks()[network], **options, **settings)


def switch(key, value, *others):
    """Return `value` if it is True, False, None or one of `others`; raise ValueError otherwise."""
    if value is None or value in others:
        return value
    if value not in (True, False):
        raise ValueError(f'{key}={value} is neither True nor False' + ''.join(f' nor {other}' for other in others))
    return bool(value)


def rate(value):
    """Return a rate of Dropout or None; raises ValueError for anything else."""
    if value is not None and (isinstance(value, (str, bool, tuple)) or not 0 <= value < 1):
        raise ValueError(f'dropout={value} is not a number of at least 0 and below 1')
    return value


def load_weights(module, path):
    """Load a state dict, or the one in a trainer's checkpoint, into a module; raise ValueError if it does not fit."""
    try:
        state = {module.own_name(name): value for name, value in unwrapped(read_state(path)).items()}
        shapes = {name: tuple(value.shape) for name, value in state.items() if not is_count(name)}
    except OSError as error:
        raise ValueError(f'cannot read {path}: {error.strerror or error}')
    except ImportError as error:
        raise ValueError(f'cannot read {path}: {error}; run pip install safetensors')
    except Exception as error:  # torch.load has many, for invalid files
        why = re.split(r'\. |\n', str(error) or repr(error))[0]  # the others advise to run what is in the file
        raise ValueError(f'{path} is not a state dict, or has other things next to; tools/convert.py reads more: {why}')
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items() if not is_count(name)}
    if not set(wanted) & set(shapes):
        raise ValueError(
            f'{path} has other names than this network, such as {next(iter(shapes), "none")}; tools/import_weights.py '
            'imports the weights of other implementations'
        )
    for name in [*wanted, *shapes]:
        if shapes.get(name) != wanted.get(name):
            raise ValueError(
                f'{path} has not the weights of this network: {name} has the shape {shapes.get(name)} there and '
                f'{wanted.get(name)} here; num_features and settings such as net_origin must be those of the training'
            )
    module.load_state_dict(state, strict=True)


def is_count(name):
    """Return whether a tensor is a batch count, which older state dicts lack and BatchNorm does not need."""
    return name.endswith('num_batches_tracked')


def read_state(path):
    """Return the content of a weights file, without executing any of it."""
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location='cpu', weights_only=True)


def unwrapped(state):
    """Return the state dict in a trainer's saved object, without the prefix of all names."""
    state = names.state_in(state, torch.is_tensor)
    owners = names.owners_of(state)
    if len(owners) != 1:
        return state
    return {name[len(owners[0]) :]: value for name, value in state.items() if name.startswith(owners[0])}


def functions():
    """Return {name: function} of the face networks, by the convention of arcface_torch before May 2021.

    A function takes `pretrained`, which must be False, and the arguments of `get_model`.
    """

    def named(name):
        return lambda pretrained=False, **options: get_model(name, **options)

    return {name: named(name) for name in networks() if not name.endswith('_imagenet')}
