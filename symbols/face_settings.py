"""Settings of all networks: names, defaults, legal values, their source, and the note in a symbol.

`face_blocks` builds layers with them. No module in this folder reads a file or an environment variable. Only
`read_config` reads insightface's config.
"""

import ast
import functools
import inspect
import json
import os
import re
import sys
from typing import NamedTuple, Optional, Tuple

# Forms of a residual unit: the values of `net_unit`.
POST_ACTIVATION = 1  # Conv-BN-A-…-Conv-BN, A after the addition (ResNet, ResNeXt)
PRE_ACTIVATION = 2  # BN-A-Conv-…-BN-A-Conv (He et al. 2016, arXiv 1603.05027, figure 4e)
IMPROVED = 3  # BN-Conv-BN-A-…-Conv-BN (ArcFace, arXiv 1801.07698)

LEAKY_RELUS = ('prelu', 'elu', 'gelu', 'leaky', 'selu')  # act_type of MXNet's operator LeakyReLU
ACTIVATIONS = LEAKY_RELUS + ('relu', 'sigmoid', 'softrelu', 'softsign', 'tanh')
ORIGINS = {
    'paper': 'the description',
    'release': 'the released code of the authors, or of the first face networks (2018), where it differs',
    'facexzoo': 'the face networks of FaceX-Zoo (2020)',
}
BN_EPS = 2e-5
DROPOUT = 0.4
SMALLEST_IMAGE = 32  # pixels; smaller images leave the attention modules nothing to pool


NOTE = '__crunet__'  # attribute of `fc1`; because of the two underscores MXNet stores but ignores it
# Removed settings, for implementations faster on a CPU; the function is the same without them.
WITHDRAWN = ('net_resize', 'net_groups')


class SettingError(ValueError):
    """An illegal value of a setting; the message names the setting, the value and the choices."""


class Head(NamedTuple):
    """An embedding head: the layers before the FC (keys of HEAD_LAYERS), the FC, and the BN after it."""

    before: Tuple[str, ...] = ()
    has_fc: bool = True
    has_bn: bool = False
    has_bias: bool = True  # of the FC
    fix_gamma: bool = True  # of the BN: to 1
    bn_eps: float = BN_EPS


# The values of `net_output`, as in insightface, and FaceX-Zoo's.
HEADS = {
    'E': Head(('bn', 'dropout'), has_bn=True),  # option E of ArcFace, arXiv 1801.07698
    'FC': Head(('bn',), has_bn=True),
    'I': Head(('bn',), has_bn=True),
    'J': Head(has_bn=True),
    'K': Head(has_bn=True, has_bias=False, fix_gamma=False, bn_eps=1e-5),  # FaceX-Zoo's attention networks
    'F': Head(('bn', 'dropout')),
    'G': Head(('bn',)),
    'H': Head(),
    'GAP': Head(('bn', 'act', 'pool'), has_bn=True),
    'GDC': Head(('depthwise',), has_bn=True),  # MobileFaceNet, arXiv 1804.07573
    'Z': Head(('bn', 'dropout'), has_fc=False),  # the map itself: emb_size has to be channels x height x width
    'C': Head(('pool',)),  # the papers' ImageNet classifier: emb_size is the number of classes
}


class Settings(NamedTuple):
    """The settings that all networks have, under the names of insightface's config keys.

    The defaults are the face variant: 112x112 input, 3x3/1 stem, improved unit, PReLU, option E.
    """

    emb_size: int = 512
    image_shape: Tuple[int, int, int] = (112, 112, 3)  # height, width, channels
    bn_mom: float = 0.9
    workspace: int = 256  # limit of cuDNN's workspace for one convolution, MiB
    net_act: str = 'prelu'
    net_prelu: str = 'mul'  # PReLU by products, whose gradient is true, or MXNet's operator ('op', see `act`)
    net_unit: int = IMPROVED
    net_origin: str = 'paper'  # whose network: a key of ORIGINS
    net_bn_eps: Optional[float] = None  # of all BatchNorms except the head's; None: the origin's, usually BN_EPS
    net_input: int = 1  # 0: 7x7/2 stem, 1: face stem, 2: face stem after a BN of the data
    net_output: str = 'E'  # a key of HEADS
    net_mean: object = 127.5  # subtracted from raw RGB: one number, or one per channel
    net_std: object = 128.0  # raw RGB minus mean is divided by it, likewise
    net_se: int = 0  # 1: squeeze-and-excitation in every unit
    net_se_bias: bool = True  # its convolutions have biases, as in insightface
    net_multiplier: float = 1.0  # scales every width but the embedding's
    fp16: bool = False  # trunk in float16
    memonger: bool = False  # recompute feature maps in the backward pass: a quarter of the memory, more time


def parse_settings(text):
    """Return {name: value} of `NAME=VALUE,…`: a value is a Python literal or a word, None for a bare name."""
    found = {}
    for part in filter(None, re.split(r',(?![^(]*\))', text)):  # not at the commas of (64,64,3)
        name, equals, value = part.partition('=')
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip() if equals else None
    return found


def setting_names(build):
    """Return the names of the settings that a builder takes: its own parameters, and the fields of Settings."""
    return list(build.defaults)


def read_config(build):
    """Return, as a dict, the settings of the builder `build` that insightface's config defines.

    insightface's `config` module is in the trainer's folder or above. It is imported when a symbol is requested,
    not with this module, because `generate_config` fills `config` in between. A key that an old insightface lacks
    keeps its default.
    """
    try:
        from config import config
    except ImportError:
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
        from config import config
    if 'num_layers' not in config:
        raise SettingError('the config has no num_layers; call its generate_config(network, dataset, loss) first')
    for key in WITHDRAWN:
        if key in config:
            raise SettingError('%s is no longer a setting; remove it from the config (docs/cpu-speed.md)' % key)
    return {key: config[key] for key in setting_names(build) if key in config}


def plain_value(value):
    """Return a number or an array of numpy as a JSON value, anything else as a string."""
    return value.tolist() if hasattr(value, 'tolist') else str(value)


def noted(build):
    """Decorate a builder: the attribute NOTE of its symbol's `fc1` describes the network.

    The note is JSON: `builder`, the name of the module, and the settings that are not at their `defaults`, an attribute
    of the decorated function.
    """
    signature = inspect.signature(build)
    defaults = {key: own.default for key, own in signature.parameters.items() if own.kind != own.VAR_KEYWORD}
    defaults.update(Settings()._asdict())

    @functools.wraps(build)
    def build_and_note(*args, **kwargs):
        symbol, given = build(*args, **kwargs), dict(signature.bind(*args, **kwargs).arguments)
        given.update(given.pop('settings', {}))
        # By their texts, since a value may be an array.
        note = {key: value for key, value in given.items() if repr(value) != repr(defaults[key])}
        note['builder'] = build.__module__.rpartition('.')[2]
        symbol._set_attr(**{NOTE: json.dumps(note, sort_keys=True, default=plain_value)})
        return symbol

    build_and_note.defaults = defaults  # type: ignore[attr-defined]
    return build_and_note


def choose(key, value, choices):
    """Return `choices[value]` if `choices` is a dict, `value` itself if it is a sequence.

    Raises SettingError, naming key, value and choices, if `value` is not one of them.
    """
    # 1.0 and True equal 1; the type has to match as well.
    if not any(value == choice and isinstance(value, type(choice)) for choice in choices):
        raise SettingError('%s=%r is not known; choose from %s' % (key, value, ', '.join(map(repr, choices))))
    return choices[value] if isinstance(choices, dict) else value


def checked(settings):
    """Return `settings` if all values are legal; else raise SettingError, naming key, value and choices."""

    def require(key, legal, wanted):
        value = getattr(settings, key)
        try:
            is_legal = legal(value)
        except (TypeError, ValueError):
            is_legal = False
        if not is_legal:
            raise SettingError('%s=%r is not legal; it must be %s' % (key, value, wanted))

    choose('net_act', settings.net_act, ACTIVATIONS)
    choose('net_prelu', settings.net_prelu, ('mul', 'op'))
    choose('net_unit', settings.net_unit, (POST_ACTIVATION, PRE_ACTIVATION, IMPROVED))
    choose('net_origin', settings.net_origin, tuple(ORIGINS))
    choose('net_input', settings.net_input, (0, 1, 2))
    choose('net_output', settings.net_output, tuple(HEADS))
    # Configs write switches as 0/1 or as False/True.
    for switch in ('net_se', 'net_se_bias', 'fp16', 'memonger'):
        choose(switch, getattr(settings, switch), (0, 1, False, True))
    require('emb_size', lambda n: n == int(n) and n > 0, 'an integer above 0')
    require('workspace', lambda n: n == int(n) and n > 0, 'an integer of MiB above 0')
    require('bn_mom', lambda m: 0 <= m < 1, 'at least 0 and below 1')
    require('net_bn_eps', lambda eps: eps is None or 0 < eps < 1, 'above 0 and below 1, or None')
    require('net_multiplier', lambda m: 0 < m < 100, 'above 0 (and below 100)')
    require('net_mean', lambda mean: all(abs(part) < 1e6 for part in per_channel(mean)), 'a number or three')
    require('net_std', lambda std: all(0 < part < 1e6 for part in per_channel(std)), 'a number above 0 or three')
    require(
        'image_shape',
        lambda s: len(s) == 3 and all(n == int(n) for n in s) and min(s[:2]) >= SMALLEST_IMAGE and s[2] == 3,
        '(height, width, 3) with height and width of at least %d' % SMALLEST_IMAGE,
    )
    return settings


def per_channel(value):
    """Return (r, g, b) for one number or three; raises TypeError or ValueError otherwise."""
    red, green, blue = (value,) * 3 if isinstance(value, (int, float)) else value
    return float(red), float(green), float(blue)
