"""What a program is asked to look at: a network choice, a symbol JSON, or a checkpoints."""
import contextlib
import difflib
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

import config as host
from netkit import checkpoints
from netkit._mxnet import mx
from netkit.deploy.plain import cut
from netkit.errors import UserError
from netkit.graph.naming import EMBEDDING, STEM_WEIGHT
from netkit.graph.symbol_json import load_symbol
from netkit.networks import build, settings_of

DEFAULT_SHAPE = (112, 112, 3)
COMMON_SHAPES = DEFAULT_SHAPE, (224, 224, 3)  # of faces, of ImageNet
HELP = 'a network choice, a symbol JSON, or a checkpoint as PREFIX,EPOCH'


class Target(NamedTuple):
    """A symbol, without the classes behind its embedding, and what is known about it."""
    label: str
    symbol: mx.sym.Symbol
    image_shape: Tuple[int, int, int]  # height, width, channels
    network: Optional[str] = None  # the choice, if it is one, as wide as it was made
    parameters: Optional[Dict[str, np.ndarray]] = None  # if it is a checkpoint


def open_target(text, image_shape=None, multiplier=1.0):
    """Return the Target that `text` names, for images of `image_shape`, by default those that it was made for.

    `multiplier` is the width of a network choice. Raises UserError for what is none, or does not take such images.
    """
    if text in host.network:
        return of_network(text, image_shape, multiplier)
    if text.endswith('.json'):
        image_shape, symbol = image_shape or DEFAULT_SHAPE, at_embedding(load_symbol(text))
        checkpoints.wanted_shapes(symbol, image_shape)
        return Target(text, symbol, image_shape)
    if ',' in text:
        return of_checkpoint(text, image_shape)
    alike = difflib.get_close_matches(text, host.network, n=3)
    advice = 'did you mean {}?'.format(', '.join(alike)) if alike else 'the choices are {}'.format(', '.join(host.network))
    raise UserError(f'{text} is not {HELP}; {advice}')


def of_network(network, image_shape=None, multiplier=1.0):
    """Return a network choice, `multiplier` times as wide, as a Target; raises UserError if there is none of that name."""
    changes = {'image_shape': image_shape} if image_shape else {}
    if multiplier != 1:
        changes['net_multiplier'] = multiplier * settings_of(network).get('net_multiplier', 1)
    symbol, image_shape = build(network, **changes), settings_of(network, **changes)['image_shape']
    if multiplier != 1:
        return Target(f'{network}, {multiplier:g} of its width', symbol, image_shape)
    return Target(network, symbol, image_shape, network)


def of_options(network, model, image_shape, multiplier=1.0):
    """Return the Target of --network, --model, or both; raises UserError if there is neither."""
    if model:
        return of_checkpoint(model, image_shape, network, multiplier)
    if network:
        return of_network(network, image_shape, multiplier)
    raise UserError('name a --network, a --model, or both')


def of_checkpoint(model, image_shape=None, network=None, multiplier=1.0):
    """Return the Target of a checkpoint, PREFIX,EPOCH.

    `network` is the choice that it has to be of, `multiplier` times as wide; without it, the symbol is read too, and the
    images' size is that of COMMON_SHAPES which the parameters fit. Raises UserError.
    """
    symbol_path, parameters_path = checkpoints.files(*checkpoints.parse_model(model))
    if network:
        _, symbol, image_shape, *_ = of_network(network, image_shape, multiplier)
        parameters = checkpoints.load_parameters(parameters_path)
        check_width(parameters, checkpoints.wanted_shapes(symbol, image_shape), multiplier, network, parameters_path)
    else:
        symbol = at_embedding(load_symbol(symbol_path))
        parameters = checkpoints.load_parameters(parameters_path)
        image_shape = image_shape or found_shape(symbol, parameters, symbol_path)
    parameters = checkpoints.fitting(parameters, symbol, image_shape, parameters_path)
    return Target(model, symbol, image_shape, network, parameters)


def check_width(parameters, wanted, multiplier, network, path):
    """Raise UserError, naming the width, where a checkpoint is of that network but of another width."""
    stem = STEM_WEIGHT
    if stem in parameters and stem in wanted and parameters[stem].ndim == 4 and set(wanted) <= set(parameters):
        filters, asked_for = parameters[stem].shape[0], wanted[stem][0]
        if filters != asked_for:
            raise UserError(f'{path} is of another width: its first layer has {filters} filters, {network} has '
                            f'{asked_for}; add --multiplier {multiplier * filters / asked_for:g}')


def found_shape(symbol, parameters, path):
    """Return the one of COMMON_SHAPES that the shapes of a checkpoint's parameters fit; raises UserError for both."""
    fitting = []
    for shape in COMMON_SHAPES:
        with contextlib.suppress(UserError):
            wanted = checkpoints.wanted_shapes(symbol, shape)
            if all(name in parameters and parameters[name].shape == wanted[name] for name in wanted):
                fitting.append(shape)
    if len(fitting) > 1:
        raise UserError(f'{path} takes images of any size: name theirs with --image-size HEIGHT,WIDTH, 112,112 for faces as a '
                        'rule')
    return fitting[0] if fitting else DEFAULT_SHAPE  # where nothing fits, what does not will be named


def at_embedding(symbol):
    """Return the part of a symbol that computes the embedding, or the symbol if it has none."""
    has_embedding = EMBEDDING + '_output' in symbol.get_internals().list_outputs()
    return cut(symbol) if has_embedding else symbol
