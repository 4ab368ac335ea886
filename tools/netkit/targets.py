"""Resolve a command-line argument to a network, a symbol JSON or a checkpoint."""

import contextlib
import difflib
import json
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

import config as host
from face_settings import NOTE
from netkit import checkpoints, importing
from netkit._mxnet import mx
from netkit.deploy.plain import cut, plain
from netkit.errors import UserError
from netkit.graph.naming import EMBEDDING, STEM_WEIGHT, is_original, stage_of
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol
from netkit.networks import NETWORKS, build, builder, parse, settings_of

DEFAULT_SHAPE = (112, 112, 3)
COMMON_SHAPES = DEFAULT_SHAPE, (224, 224, 3)  # of faces, of ImageNet
HELP = "a network, a symbol JSON, or a checkpoint as PREFIX,EPOCH or arcface_torch's model.pt"
MODEL = 'PREFIX,EPOCH|FILE.pt'  # of options
# Face networks whose parameters tell their origin: they have other names or shapes than the default's.
RELEASED = (
    'cru56:net_origin=release',
    'cru116:net_origin=release',
    'att56:net_origin=facexzoo',
    'att92:net_origin=facexzoo',
    'att56:net_origin=release,net_se=1',
    'att92:net_origin=release,net_se=1',
)


# Settings that are no part of the plain graph, and what is not a setting of a note.
NOT_COMPUTED = 'memonger', 'fp16', 'net_prelu', 'builder'


class Target(NamedTuple):
    """A symbol, without the classification layer, and its known properties."""

    label: str  # for titles
    symbol: mx.sym.Symbol
    image_shape: Tuple[int, int, int]  # height, width, channels
    network: Optional[str] = None  # the network, if it is one at its own width
    parameters: Optional[Dict[str, np.ndarray]] = None  # of a checkpoint


def open_target(text, image_shape=None, multiplier=1.0):
    """Return the Target that `text` names, for images of `image_shape`, by default those that it was made for.

    `multiplier` is the width of a network. Raises UserError if there is none, or it does not take such images.
    """
    if text.partition(':')[0] in host.network:
        return of_network(text, image_shape, multiplier)
    if text.endswith('.json'):
        image_shape, symbol = image_shape or DEFAULT_SHAPE, at_embedding(load_symbol(text))
        checkpoints.wanted_shapes(symbol, image_shape)
        return Target(text, symbol, image_shape)
    if ',' in text or checkpoints.is_state_dict(text):
        return of_checkpoint(text, image_shape)
    alike = difflib.get_close_matches(text, host.network, n=3)
    advice = f'; did you mean {", ".join(alike)}?' if alike else f'; the choices are {", ".join(host.network)}'
    raise UserError(f'{text} is not {HELP}{checkpoints.meant(text) or advice}')


def of_network(text, image_shape=None, multiplier=1.0, **changes):
    """Return the Target of a network, with settings if needed, `multiplier` times as wide; raises UserError.

    `changes` are settings besides those in `text`.
    """
    network, settings = parse(text)
    is_as_chosen = not settings and not changes and multiplier == 1
    settings.update(changes)
    if image_shape:
        settings['image_shape'] = image_shape
    if multiplier != 1:
        settings['net_multiplier'] = multiplier * settings_of(network, **settings)['net_multiplier']
    symbol, image_shape = build(network, **settings), tuple(settings_of(network, **settings)['image_shape'])
    label = text if multiplier == 1 else f'{text}, {multiplier:g} of its width'
    return Target(label, symbol, image_shape, network if is_as_chosen else None)


def of_options(network, model, image_shape, multiplier=1.0):
    """Return the Target of --network, --model, or both; raises UserError if there is neither."""
    if model:
        return of_checkpoint(model, image_shape, network, multiplier)
    if network:
        return of_network(network, image_shape, multiplier)
    raise UserError('pass --network, --model or both')


def of_checkpoint(model, image_shape=None, network=None, multiplier=1.0, otherwise=None):
    """Return the Target of a checkpoint, PREFIX,EPOCH, or a state dict (`of_state_dict`).

    With `network`, it has to be a checkpoint of that choice, `multiplier` times as wide. Without, its symbol file is
    read too, and the image shape is the one of COMMON_SHAPES that fits the parameters, or `otherwise` if all do. Raises
    UserError.
    """
    if checkpoints.is_state_dict(model):
        return of_state_dict(model, image_shape, network, multiplier)
    symbol_path, parameters_path = checkpoints.files(*checkpoints.parse_model(model))
    if network:
        _, symbol, image_shape, *_ = of_network(network, image_shape, multiplier)
        parameters = checkpoints.load_parameters(parameters_path)
        wanted = checkpoints.wanted_shapes(symbol, image_shape)
        check_width(parameters, wanted, network, multiplier, image_shape, parameters_path)
    else:
        symbol, parameters = checkpoints.load(*checkpoints.parse_model(model))
        symbol = at_embedding(symbol)
        image_shape = image_shape or found_shape(symbol, parameters, symbol_path, otherwise)
    parameters = checkpoints.fitting(parameters, symbol, image_shape, parameters_path)
    return Target(model, symbol, image_shape, network, parameters)


def of_state_dict(path, image_shape=None, network=None, multiplier=1.0):
    """Return the Target of a state dict of a face network; raises UserError.

    It has no symbol. Without `network`, that is the one in the config next to it, or the choice whose parameters have
    these names. The size of the embedding is that of the parameters, and so is the width, unless `multiplier` says
    otherwise.
    """
    parameters = checkpoints.load_parameters(path)
    source = importing.source_of(parameters)
    if source:
        raise UserError(
            f'{path} is a file of {source.title}; run tools/import_weights.py {path} --output PREFIX, and pass PREFIX,0'
        )
    network = network or checkpoints.shared_network(path)
    bias = parameters.get(EMBEDDING + '_beta', np.zeros(0))
    size = {'emb_size': len(bias)} if bias.ndim == 1 and len(bias) else {}
    if network is None:
        network, multiplier = recognised(parameters, path, image_shape)
    elif multiplier == 1:
        multiplier = width_of(parameters, network, image_shape) or 1.0
    _, symbol, image_shape, *_ = of_network(network, image_shape, multiplier, **size)
    wanted = checkpoints.wanted_shapes(symbol, image_shape)
    check_width(parameters, wanted, network, multiplier, image_shape, path)
    return Target(path, symbol, image_shape, network, checkpoints.fitting(parameters, symbol, image_shape, path))


def recognised(parameters, path, image_shape):
    """Return (network, width) of the face network whose parameters these are, by names and shapes; raises UserError."""
    for network in [*NETWORKS, *RELEASED]:
        if not is_original(network):
            symbol = build(network)
            has_names = set(parameters) == {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {'data'}
            width = width_of(parameters, network, image_shape) if has_names else None
            if width:
                return network, width
    raise UserError(
        f'{path} matches no network; pass --network, with settings if it has any, as in cru116:net_act=relu'
    )


def read_note(symbol, apart=()):
    """Return NETWORK or NETWORK:SETTING=VALUE,… of the note in a symbol (`face_settings.noted`); None if it has none.

    A note is believed if building from it gives the same plain graph. The settings `apart` are left out.
    """
    text = symbol.attr_dict().get(EMBEDDING, {}).get(NOTE, '{}')
    unbelievable = UserError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError, mx.MXNetError
    with contextlib.suppress(*unbelievable):
        note = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()}
        alike = [name for name, row in host.network.items() if row.net_name == note.get('builder')]
        if alike and is_same(builder(alike[0]).build(**{key: note[key] for key in note if key != 'builder'}), symbol):
            return min((spelt(name, note, apart) for name in alike), key=lambda text: (text.count('='), len(text)))
    return None


def with_noted_network(target):
    """Return a checkpoint's Target with the network that its symbol notes, if it is one at its own width."""
    if target.parameters is None or target.network:
        return target
    network = read_note(target.symbol)
    return target._replace(network=network if network in host.network else None)


def spelt(network, note, apart):
    """Return a network with the settings by which the one that a note describes differs: NETWORK:SETTING=VALUE,…"""
    text, defaults = network, builder(network).build.defaults
    chosen = {**defaults, **settings_of(network)}
    for key, value in {**defaults, **note}.items():
        if key not in (*NOT_COMPUTED, *apart) and value != chosen[key]:
            text = with_settings(text, f'{key}={value}'.replace(' ', ''))
    return text


def name_of(target):
    """Return the network, with settings but the size of its embedding, that computes what a Target does, or None.

    The symbol's note says so, or the parameters do. Its symbol is compared, since other settings have the same
    parameters.
    """
    network = read_note(target.symbol, apart=['emb_size'])
    if network:
        return network
    with contextlib.suppress(UserError):
        network, width = recognised(target.parameters, target.label, target.image_shape)
        size = len(target.parameters[EMBEDDING + '_beta'])
        for named in (network, with_settings(network, 'net_origin=release')):
            ours = of_network(named, target.image_shape, width, emb_size=size)
            if is_same(ours.symbol, target.symbol):
                return named if width == 1 else with_settings(named, f'net_multiplier={width:g}')
    return None


def with_settings(network, settings):
    """Return a network or the path of a JSON, which may have settings, with more: NETWORK:SETTING=VALUE,…"""
    return f'{network}{"," if ":" in network.rpartition(".json")[2] else ":"}{settings}'


def is_same(symbol, other):
    """Return whether two symbols have the same plain graph, whatever they note."""

    def text(symbol):
        graph = plain(Graph.of(symbol))
        for node, _ in graph.outputs:
            node.attrs.pop(NOTE, None)
        return graph.symbol().tojson()

    return text(symbol) == text(other)


def check_width(parameters, wanted, network, multiplier, image_shape, path):
    """Raise UserError if a checkpoint is of the network, but of another width than `wanted`; name the width."""
    stem = STEM_WEIGHT
    if stem in parameters and stem in wanted and parameters[stem].ndim == 4 and set(wanted) <= set(parameters):
        filters, asked_for = parameters[stem].shape[0], wanted[stem][0]
        if filters != asked_for:
            width = width_of(parameters, network, image_shape)
            advice = f'add --multiplier {width:g}' if width else 'no --multiplier was found that fits its stages'
            named = network if multiplier == 1 else f'{network} with --multiplier {multiplier:g}'
            raise UserError(
                f'{path} is of another width: its first layer has {filters} filters, {named} has {asked_for}; {advice}'
            )


def width_of(parameters, network, image_shape):
    """Return the width, with as few decimals as possible, at which a network has these stages, or None."""

    def stages(width):
        target = of_network(network, image_shape, width)
        wanted = checkpoints.wanted_shapes(target.symbol, target.image_shape)
        return {name: shape for name, shape in wanted.items() if stage_of(name)}

    whole = stages(1.0)
    known = [name for name in whole if name in parameters and parameters[name].ndim]
    if not known:
        return None
    widest = max(known, key=lambda name: whole[name][0])
    share = parameters[widest].shape[0] / whole[widest][0]
    for width in dict.fromkeys(round(share, decimals) for decimals in range(1, 7)):
        with contextlib.suppress(UserError):
            if all(name in parameters and parameters[name].shape == shape for name, shape in stages(width).items()):
                return width
    return None


def found_shape(symbol, parameters, path, otherwise=None):
    """Return the one of COMMON_SHAPES that fits a checkpoint's parameters; if both do, `otherwise`, or UserError."""
    fitting = []
    for shape in COMMON_SHAPES:
        with contextlib.suppress(UserError):
            wanted = checkpoints.wanted_shapes(symbol, shape)
            if all(name in parameters and parameters[name].shape == wanted[name] for name in wanted):
                fitting.append(shape)
    if len(fitting) > 1 and otherwise:
        return otherwise
    if len(fitting) > 1:
        raise UserError(f'{path} accepts any image size; pass --image-size HEIGHT,WIDTH (usually 112,112 for faces)')
    return fitting[0] if fitting else DEFAULT_SHAPE  # if none fits, `fitting` will name the parameter


def at_embedding(symbol):
    """Return the part of a symbol that computes the embedding, or all of a symbol that has none."""
    has_embedding = EMBEDDING + '_output' in symbol.get_internals().list_outputs()
    return cut(symbol) if has_embedding else symbol
