"""What a tool is asked to look at: a network choice, a symbol JSON, or a checkpoint."""
import difflib
from typing import Dict, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np

import checkpoint
import config as host
from graph import load_symbol
from inference import EMBEDDING, cut
from network import build, choose
from project import UserError

DEFAULT_SHAPE = (112, 112, 3)
HELP = 'a network choice, a symbol JSON, or a checkpoint as PREFIX,EPOCH'


class Target(NamedTuple):
    """A symbol, without the classes behind its embedding, and what is known about it."""
    label: str
    symbol: mx.sym.Symbol
    image_shape: Tuple[int, int, int]  # height, width, channels
    network: Optional[str] = None  # the choice, if it is one
    parameters: Optional[Dict[str, np.ndarray]] = None  # if it is a checkpoint


def open_target(text, image_shape=None):
    """Return the Target that `text` names, for images of `image_shape`, by default those that it was made for.

    Raises UserError for what is none, or does not take such images.
    """
    if text in host.network:
        return of_network(text, image_shape)
    if text.endswith('.json'):
        image_shape, symbol = image_shape or DEFAULT_SHAPE, at_embedding(load_symbol(text))
        checkpoint.wanted_shapes(symbol, image_shape)
        return Target(text, symbol, image_shape)
    if ',' in text:
        return of_checkpoint(text, image_shape)
    alike = difflib.get_close_matches(text, host.network, n=3)
    advice = 'did you mean %s?' % ', '.join(alike) if alike else 'the choices are %s' % ', '.join(host.network)
    raise UserError('%s is not %s; %s' % (text, HELP, advice))


def of_network(network, image_shape=None):
    """Return a network choice as a Target; raises UserError if there is none of that name."""
    config = choose(network)
    if image_shape:
        config.image_shape = image_shape
    return Target(network, build(config), tuple(config.image_shape), network)


def of_options(network, model, image_shape):
    """Return the Target of --network, --model, or both; raises UserError if there is neither."""
    if model:
        return of_checkpoint(model, image_shape, network)
    if network:
        return of_network(network, image_shape)
    raise UserError('name a --network, a --model, or both')


def of_checkpoint(model, image_shape=None, network=None):
    """Return the Target of a checkpoint, PREFIX,EPOCH.

    `network` is the choice that it has to be of; without it, the symbol is read too. Raises UserError.
    """
    symbol_path, parameters_path = checkpoint.files(*checkpoint.parse_model(model))
    if network:
        _, symbol, image_shape, *_ = of_network(network, image_shape)
    else:
        symbol, image_shape = at_embedding(load_symbol(symbol_path)), image_shape or DEFAULT_SHAPE
    parameters = checkpoint.load_parameters(parameters_path)
    parameters = checkpoint.fitting(parameters, symbol, image_shape, parameters_path)
    return Target(model, symbol, image_shape, network, parameters)


def at_embedding(symbol):
    """Return the part of a symbol that computes the embedding, or the symbol if it has none."""
    has_embedding = EMBEDDING + '_output' in symbol.get_internals().list_outputs()
    return cut(symbol) if has_embedding else symbol
