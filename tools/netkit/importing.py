"""Weights of other implementations, under the names of ours."""

from typing import Callable, List, NamedTuple

import numpy as np

from face_blocks import Settings
from netkit import checkpoints, gluoncv2, iresnet, params_file, state_dict
from netkit.errors import UserError
from netkit.graph.naming import face_form, is_variance
from netkit.networks import build, settings_of

OF_FACE = ('net_origin',)  # settings of an original form that its face form wants, too, to start from its weights
COUNTERS = '.num_batches_tracked'  # of PyTorch's BatchNorm, which we have no use for


class Source(NamedTuple):
    """An implementation whose files are read."""

    title: str
    load: Callable  # function of a path that returns {name: array}
    example: str  # of a name
    networks: List[str]  # choices that it has the counterparts of
    names_for: Callable  # function of {our name: shape} that returns {our name: [its names]}
    settings_for: Callable  # function of a network choice: the settings with which it computes what theirs does
    bn_eps: float


GLUONCV2 = Source(
    'gluoncv2',
    checkpoints.load_arrays,
    'features.0.conv.conv.weight',
    gluoncv2.NETWORKS,
    gluoncv2.names_for,
    gluoncv2.settings_for,
    gluoncv2.BN_EPS,
)
IRESNET = Source(
    "iResNet's authors",
    checkpoints.load_state_dict,
    'layer1.0.conv1.weight',
    iresnet.NETWORKS,
    iresnet.names_for,
    iresnet.settings_for,
    iresnet.BN_EPS,
)


def source_of(path):
    """Return the Source that wrote a file, by how it begins; raises UserError if it is none of them."""
    try:
        with open(path, 'rb') as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    if params_file.begins(start):
        return GLUONCV2
    if state_dict.begins(start):
        return IRESNET
    raise UserError(f'{path} is neither a .params file of MXNet nor a state dict of PyTorch; is it whole?')


def load(source, path):
    """Return {name: array} of a file of a Source; raises UserError, also for NaN and infinity."""
    loaded = {
        name: array.astype(np.float32, copy=False)
        for name, array in source.load(path).items()
        if not name.endswith(COUNTERS)
    }
    if source.example not in loaded:
        raise UserError(f'{path} is no file of {source.title}: it has no {source.example}')
    for name, array in loaded.items():
        if not np.isfinite(array).all():
            raise UserError(f'{path} has NaN or infinity in {name}')
    return loaded


def build_like(source, network):
    """Return the symbol of a network choice that computes what its counterpart at a Source does."""
    return build(network, **source.settings_for(network))


def recognised(source, loaded):
    """Return the network choice whose parameters are most like those of a file of a Source; `convert` checks them."""
    shapes = {name: array.shape for name, array in loaded.items()}

    def likeness(network):
        expected = expected_of(source, network)
        fitting = [shapes.get(names[0]) == expected[name] for name, names in source.names_for(expected).items()]
        return sum(fitting) / max(len(expected), len(loaded))

    return max(source.networks, key=likeness)


def expected_of(source, network):
    """Return {our name: shape} of the parameters of the counterpart of a Source's network."""
    return checkpoints.wanted_shapes(build_like(source, network), settings_of(network)['image_shape'])


def convert(source, network, loaded, path):
    """Return {our name: array} of a file's {name: array} for a network choice; raises UserError if it does not fit.

    The moving variances make up for the difference between the two BatchNorm eps.
    """

    def refuse(why):
        raise UserError(f'{path} does not fit {network}: {why}')

    expected = expected_of(source, network)
    shift, converted, known = source.bn_eps - Settings().net_bn_eps, {}, set()
    for name, names in source.names_for(expected).items():
        present = [theirs for theirs in names if theirs in loaded]
        if names[0] not in present:
            refuse(f'{names[0]} is missing')
        array = loaded[names[0]]
        if array.shape != expected[name]:
            refuse(f'{names[0]} has shape {array.shape} instead of {expected[name]}')
        for other in present[1:]:
            if not np.array_equal(loaded[other], array):
                refuse(f'{names[0]} and {other} should be one shared weight, but differ')
        known.update(names)
        converted[name] = array + shift if is_variance(name) else array
    for name in loaded:
        if name not in known:
            refuse(f'{name} has no place in this network')
    return converted


def face_settings(source, network):
    """Return the settings of a face network that starts from the weights of a Source."""
    return {key: value for key, value in source.settings_for(network).items() if key in OF_FACE}


def start_face(source, network, converted):
    """Return (symbol, parameters, {name: why not}) of the face network that starts from an original form's weights."""
    face = face_form(network)
    symbol = build(face, **face_settings(source, network))
    wanted = checkpoints.wanted_shapes(symbol, settings_of(face)['image_shape'])
    taken, misfits = {}, {}
    for name in {**wanted, **converted}:
        if name not in converted:
            misfits[name] = 'the original form has nothing like it'
        elif name not in wanted:
            misfits[name] = 'the face form has nothing like it'
        elif converted[name].shape != wanted[name]:
            misfits[name] = f'of shape {wanted[name]}, {converted[name].shape} in the original form'
        else:
            taken[name] = converted[name]
    return symbol, taken, misfits
