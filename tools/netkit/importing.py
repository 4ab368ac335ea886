"""Convert other implementations' weights to our names."""

import os
import re
from typing import Callable, Dict, List, NamedTuple, Optional

import numpy as np

from crunet.identifiers import STEM_WEIGHTS
from netkit import checkpoints, gluoncv2, iresnet, params_file, released, state_dict
from netkit.errors import UserError
from netkit.graph.naming import STEM_WEIGHT, face_form, is_original, is_variance
from netkit.graph.nodes import Graph
from netkit.networks import NETWORKS, build, settings_of
from netkit.published import IMAGENET_MEAN, IMAGENET_STD

COUNTERS = '.num_batches_tracked'  # of PyTorch's BatchNorm, unused here
# In front of the names in MXNet's checkpoints; in FaceX-Zoo's, next to `head.weight`; in a module with the network.
IN_FRONT = re.compile(r'(arg:|aux:|backbone\.|model\.|net\.|network\.)')


class Source(NamedTuple):
    """An implementation whose files are read."""

    title: str
    example: str  # of a name that only its files have
    networks: List[str]  # networks that it has the counterparts of
    names_for: Callable  # function of {our name: shape} that returns {our name: [its names]}
    settings_for: Callable  # function of (network, {its name: array}): settings that compute what theirs does
    bn_eps: Optional[float] = None  # of all its BatchNorms; None: that of the network with these settings
    is_unused: Callable = lambda name, known: False  # function of (name, names in use): whether it is left out
    foreign: str = ''  # a name that shows that a file is of another implementation after all
    face_settings: Dict[str, object] = {}  # of a face network that starts from its weights
    adapt: Callable = lambda name, array: array  # function of (our name, its array) that returns ours


def size_in(name):
    """Return a function of {name: array}: settings with `emb_size`, the row count of the array `name`."""

    def settings(loaded):
        array = loaded.get(name)
        return {} if array is None or not array.ndim else {'emb_size': len(array)}

    return settings


def _face_of_2018(network, loaded):
    has_se = any('_se_1_' in name for name in loaded)
    return {'net_origin': 'release', **({'net_se': 1} if has_se else {}), **size_in('fc1_beta')(loaded)}


def _facexzoo(_, loaded):
    return {'net_origin': 'facexzoo', **size_in('output_layer.2.bias')(loaded)}


def _swapped(name, array):
    """Return the first convolution for RGB, where theirs takes BGR."""
    return array[:, ::-1] if name == STEM_WEIGHT and array.ndim == 4 else array


def _is_of_loss(name, _):
    """Return whether a parameter is the classes of insightface's or FaceX-Zoo's loss."""
    return name == 'fc7_weight' or name.startswith('head.')


def _is_unused_projection(name, known):
    """Return whether a parameter is a block's projection that nothing uses: neither width nor stride changes there."""
    block, _, layer = name.rpartition('.conv4.')
    return layer == 'weight' and f'{block}.conv3.weight' in known


CRU_ORIGINALS = [name for name in NETWORKS if re.fullmatch(r'cru\d+_imagenet', name)]
SOURCES = {
    'gluoncv2': Source(
        'gluoncv2',
        'features.0.conv.conv.weight',
        gluoncv2.NETWORKS,
        gluoncv2.names_for,
        lambda network, _: gluoncv2.settings_for(network),
        gluoncv2.BN_EPS,
    ),
    'iresnet': Source(
        "iResNet's authors",
        'layer1.0.conv1.weight',
        iresnet.NETWORKS,
        iresnet.names_for,
        lambda network, _: iresnet.settings_for(network),
        iresnet.BN_EPS,
        foreign='prelu.weight',  # insightface's own iresnets have it
        face_settings={'net_origin': 'release'},
    ),
    'fcrunet': Source(
        'the CRU-Net faces of 2018',
        'conv1_conv2d_weight',
        ['cru56', 'cru116'],
        released.cru_face_names,
        _face_of_2018,
        is_unused=_is_of_loss,
    ),
    'fresattnet': Source(
        'the attention faces of 2018',
        'RA_conv1_conv2d_weight',
        ['att56', 'att92'],
        released.att_face_names,
        _face_of_2018,
        is_unused=_is_of_loss,
    ),
    'cypw': Source(
        "CRU-Net's authors",
        'conv1_x_1__conv_weight',
        CRU_ORIGINALS,
        released.cru_original_names,
        lambda _, loaded: {
            'net_origin': 'release',
            'net_mean': (124.0, 117.0, 104.0),
            'net_std': 1 / 0.0167,
            **size_in('fc6_weight')(loaded),
        },
    ),
    'tengshaofeng': Source(
        "tengshaofeng's attention networks",
        'residual_block1.conv1.weight',
        ['att56_imagenet', 'att92_imagenet'],
        released.tengshaofeng_names,
        lambda _, loaded: {
            'net_mask_up': 'dense',
            'net_mean': IMAGENET_MEAN,
            'net_std': IMAGENET_STD,
            **size_in('fc.weight')(loaded),
        },
        bn_eps=1e-5,
        is_unused=_is_unused_projection,
    ),
    'facexzoo': Source(
        "FaceX-Zoo's attention networks",
        'attention_body.0.conv1.weight',
        ['att56', 'att92'],
        released.facexzoo_names,
        _facexzoo,
        is_unused=lambda name, known: _is_of_loss(name, known) or _is_unused_projection(name, known),
        adapt=_swapped,
    ),
}


def load(path):
    """Return (Source, {its name: float32 array}) of a file, .params, PREFIX,EPOCH or a state dict of PyTorch.

    Raises UserError for another file, naming what is most like it, and for NaN and infinity.
    """
    if path.endswith('.onnx'):
        raise UserError(f'{path} is not a file of weights{checkpoints.meant(path)}')
    loaded = read(path)
    source = source_of(loaded)
    if source is None:
        raise UserError(f'{path} has the names of no known source ({titles()}){nearest(loaded)}')
    for name, array in loaded.items():
        if not np.isfinite(array).all():
            raise UserError(f'{path} has NaN or infinity in {name}')
    return source, loaded


def source_of(names):
    """Return the Source whose files have these names of parameters, or None."""
    names = {bare(name) for name in names}
    return next(
        (source for source in SOURCES.values() if source.example in names and source.foreign not in names), None
    )


def path_of(file):
    """Return the path of a file of weights, also if it is named as PREFIX,EPOCH; raises UserError."""
    return checkpoints.parameters_path(file) if ',' in file and not os.path.exists(file) else file


def read(file):
    """Return {name: float32 array} of a file, without the prefixes of all names; raises UserError."""
    path = path_of(file)
    try:
        with open(path, 'rb') as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    if params_file.begins(start):
        arrays = checkpoints.load_arrays(path)
    elif state_dict.begins(start) or path.endswith(state_dict.SAFE):
        arrays = checkpoints.load_state_dict(path)
    else:
        raise UserError(f'{path} is neither a .params file of MXNet nor a state dict of PyTorch; is it whole?')
    found = {}
    for name, array in arrays.items():
        name = bare(name)
        if name.endswith(COUNTERS):
            continue
        if array.dtype.kind != 'f':
            raise UserError(f'{path}: {name} has dtype {array.dtype}; expected a floating-point dtype')
        found[name] = array.astype(np.float32, copy=False)
    return found


def bare(name):
    """Return the name of a parameter without what is IN_FRONT of it."""
    match = IN_FRONT.match(name)
    return name[match.end() :] if match else name


def titles():
    """Return the titles of all sources as text."""
    return ', '.join(source.title for source in SOURCES.values())


def nearest(loaded):
    """Return the source nearest to a file's names, as the end of a sentence."""
    if any(name in loaded for name in STEM_WEIGHTS):
        return '; it looks like a checkpoint of one of our own networks, which all programs take as it is'

    def share(source):
        names = source.names_for(expected_of(source, source.networks[0], {}))
        return sum(theirs[0] in loaded for theirs in names.values() if theirs), len(names)

    shares = {source.title: share(source) for source in SOURCES.values()}
    title = max(shares, key=lambda title: shares[title][0] / shares[title][1])
    found, whole = shares[title]
    if not found:
        return '; none of them has any of its names'
    return f'; the nearest is {title}: the file has {found} of the {whole} names of one of its networks'


def build_like(source, network, loaded):
    """Return the symbol that computes what the counterpart of a network at a Source does, for the sizes of a file."""
    return build(network, **source.settings_for(network, loaded))


def recognised(source, loaded):
    """Return the network whose parameters are most like those of a file of a Source; `convert` checks them."""
    shapes = {name: array.shape for name, array in loaded.items()}

    def likeness(network):
        """Return the shares of parameters that have the name and the shape, and that have the name."""
        expected = expected_of(source, network, loaded)
        names = {names[0]: expected[name] for name, names in source.names_for(expected).items() if names}
        whole = max(len(expected), len(loaded))
        fitting = sum(shapes.get(name) == shape for name, shape in names.items())
        return fitting / whole, len(names.keys() & shapes.keys()) / whole

    return max(source.networks, key=likeness)


def expected_of(source, network, loaded):
    """Return {our name: shape} of the parameters of the counterpart of a Source's network."""
    return checkpoints.wanted_shapes(build_like(source, network, loaded), settings_of(network)['image_shape'])


class Converted(NamedTuple):
    """A file under our names."""

    symbol: object  # mx.sym.Symbol that computes what its source does
    parameters: Dict[str, np.ndarray]  # {our name: array}
    left_out: List[str]  # names in the file that its source does not use, or only its loss


def convert(source, network, loaded, path, is_detected=False):
    """Return the Converted of a file's {name: array} for a network; raises UserError if it does not fit.

    The moving variances make up for the difference between the two BatchNorm eps. `is_detected` says that the network
    is the nearest of all, and not one that was asked for.
    """

    def refuse(why):
        nearest = f'; it is the nearest network, of {source.title}; the sources are {titles()}'
        raise UserError(f'{path} does not fit {network}: {why}{nearest if is_detected else ""}')

    symbol = build_like(source, network, loaded)
    expected = checkpoints.wanted_shapes(symbol, settings_of(network)['image_shape'])
    eps, converted, known = eps_of(symbol), {}, set()
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
        if is_variance(name) and source.bn_eps:
            array = array + (source.bn_eps - eps[name])
        converted[name] = source.adapt(name, array)
    left_out = [name for name in loaded if name not in known]
    for name in left_out:
        if not source.is_unused(name, known):
            refuse(f'{name} has no place in this network')
    return Converted(symbol, converted, left_out)


def eps_of(symbol):
    """Return {name of a moving variance: eps of its BatchNorm}."""
    return {
        node.inputs[4][0].name: float(node.attr('eps', 1e-3))
        for node in Graph.of(symbol).nodes()
        if node.op == 'BatchNorm'
    }


def start_face(source, network, converted):
    """Return (symbol, parameters, {name: why not}) of the face network that starts from an ImageNet network's weights.

    Raises UserError if the network has no face variant.
    """
    face = face_form(network)
    if not is_original(network):
        raise UserError(f'{network} of {source.title} is a face network already; leave --face out')
    if face not in NETWORKS:
        raise UserError(f'{network} has no face variant; leave --face out')
    symbol = build(face, **source.face_settings)
    wanted = checkpoints.wanted_shapes(symbol, settings_of(face)['image_shape'])
    before, after = eps_of(converted.symbol), eps_of(symbol)
    taken, misfits = {}, {}
    for name in {**wanted, **converted.parameters}:
        array = converted.parameters.get(name)
        if array is None:
            misfits[name] = 'not in the ImageNet network'
        elif name not in wanted:
            misfits[name] = 'not in the face network'
        elif array.shape != wanted[name]:
            misfits[name] = f'shape {wanted[name]}, in the ImageNet network {array.shape}'
        else:
            taken[name] = array + (before[name] - after[name]) if is_variance(name) else array
    return symbol, taken, misfits
