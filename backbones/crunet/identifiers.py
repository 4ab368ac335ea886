"""Names of nodes and layers in state dicts, trainers' keys for a network, and a network's own folder.

`symbol_torch.py` and the programs in tools/ use them to read and write state dicts. Needs only Python.
"""

import json
import keyword
import os
import re

# Trainers' keys for a state dict: arcface_torch's, then averaged weights and others, in timm's order.
WRAPPERS = (
    'state_dict_backbone',
    'state_dict_ema',
    'model_ema',
    'ema_state_dict',
    'state_dict',
    'model_state_dict',
    'model',
    'module',
)
CONFIG, WEIGHTS = 'config.json', 'model.safetensors'  # in the folder of a trained network
STEM_WEIGHTS = 'conv0_weight', 'conv0.weight'  # of our networks' first convolution, in MXNet and in PyTorch
# The prefix of a layer's name that gives its place.
PLACES = re.compile(r'((?:^|(?<=_))(?:stage|attention|unit|group|down|up|skip)\d+|(?<=_)(?:trunk|mask|close))_')
SUFFIXES = {  # {of MXNet's parameters: of PyTorch's}
    'weight': 'weight',
    'bias': 'bias',
    'gamma': 'weight',
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_var': 'running_var',
}


def layer_path(node):
    """Return the path of a node's layer: `stage1.unit1.conv1` for `stage1_unit1_conv1`.

    Undivided if a part of it is not a valid identifier.
    """
    path = PLACES.sub(r'\1.', node)
    return path if all(map(is_identifier, path.split('.'))) else node


def torch_name(parameter):
    """Return PyTorch's name of a parameter or moving statistic: `stage1.unit1.bn1.weight` of `stage1_unit1_bn1_gamma`.

    A name without one of MXNet's suffixes is unchanged.
    """
    for suffix, own in SUFFIXES.items():
        if parameter.endswith('_' + suffix):
            return f'{layer_path(parameter[: -len(suffix) - 1])}.{own}'
    return parameter


def mxnet_names(axes):
    """Return {PyTorch's name: MXNet's} of {PyTorch's name: number of axes}; what MXNet has not is left out.

    A layer with a running mean is a BatchNorm; a weight with one axis is a gamma too, of PReLU.
    """
    found = {}
    for name in axes:
        layer, _, own = name.rpartition('.')
        is_norm = f'{layer}.running_mean' in axes
        kind = {
            'weight': 'gamma' if is_norm or axes[name] == 1 else 'weight',
            'bias': 'beta' if is_norm else 'bias',
            'running_mean': 'moving_mean',
            'running_var': 'moving_var',
            'num_batches_tracked': None,
        }.get(own, own)
        if kind is not None:
            found[name] = f'{layer.replace(".", "_")}_{kind}' if layer else name
    return found


def state_in(found, is_tensor):
    """Return the state dict in what a trainer saved, wrapped once or more; empty ones are passed over."""
    for _ in WRAPPERS:
        inside = [found[key] for key in WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)]
        inside = [state for state in inside if any(is_tensor(of) or isinstance(of, dict) for of in state.values())]
        found = inside[0] if inside else found
    return found


def owners_of(names):
    """Return the prefix of the names of each of our networks: '' if the names have no prefix."""
    found = (
        str(name)[: -len(stem)]
        for name in names
        for stem in STEM_WEIGHTS
        if name == stem or str(name).endswith('.' + stem)
    )
    return list(dict.fromkeys(found))


def read_config(folder):
    """Return (network, {setting: value}) of the folder of a trained network; raises ValueError."""
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, encoding='utf-8') as file:
            config = json.load(file)
        network, settings = config['network'], config['settings']
        if not isinstance(network, str) or not isinstance(settings, dict):
            raise ValueError('network or settings')
    except OSError as error:
        raise ValueError(f'cannot read {path}: {error.strerror}')
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path} is not a config of crunet.save_pretrained: {error}')
    return network, {key: tuple(of) if isinstance(of, list) else of for key, of in settings.items()}


def is_identifier(name):
    """Return whether a name can stand in code as it is: ASCII, no keyword, not `self`."""
    return bool(re.fullmatch(r'[A-Za-z_][A-Za-z0-9_]*', name)) and not keyword.iskeyword(name) and name != 'self'


def identifiers(names):
    """Return {name: identifier}, all different, for names that are all different.

    Identifiers are unchanged. In other names each invalid character becomes `_`, and a number follows if the result
    is taken: `conv3_x_1_c1x1-w(s/1)_conv2d_weight` becomes `conv3_x_1_c1x1_w_s_1__conv2d_weight`.
    """
    found = {name: name for name in names if is_identifier(name)}
    taken, last = set(found), {}
    for name in names:
        if name in found:
            continue
        base = re.sub(r'[^A-Za-z0-9_]', '_', name)
        if not is_identifier(base):
            base = '_' + base
        candidate = base
        while candidate in taken:
            last[base] = last.get(base, 1) + 1
            candidate = f'{base}_{last[base]}'
        found[name] = candidate
        taken.add(candidate)
    return found
