"""What to measure: NETWORK or NETWORK:SETTING=VALUE,…"""

import ast
import re
from typing import NamedTuple

from face_blocks import setting_names
from netkit.errors import UserError
from netkit.networks import build, builder, entry, forms_for, settings_of

# The forms that are closest to the papers' figures, by MXNet's own operators.
PLAIN = {'net_prelu': 'op', 'net_resize': 'op', 'net_groups': 'op', 'memonger': False}


class Choice(NamedTuple):
    """A network choice, and the settings that differ from those that suit the device."""

    label: str
    network: str
    overrides: dict

    def settings(self, device='gpu'):
        """Return the settings in the forms for `device`; those for a 'gpu' are what insightface's trainers build."""
        return settings_of(self.network, **{**forms_for(device), **self.overrides})

    def build(self, device='gpu', **changes):
        """Return (symbol, image_shape) in the forms for `device`, with `changes`."""
        settings = {**self.settings(device), **changes}
        return build(self.network, **settings), settings['image_shape']

    @property
    def per_batch_size(self):
        """The default batch of the network choice."""
        return entry('network', self.network).per_batch_size


def parse_choice(text):
    """Return the Choice that `text` describes; raises UserError for a network or setting that does not exist."""
    network, _, settings = text.partition(':')
    known = setting_names(builder(network).build)
    overrides = {}
    for setting in filter(None, re.split(r',(?![^(]*\))', settings)):  # not at the commas of (64,64,3)
        if setting == 'plain':
            overrides.update(PLAIN)
            continue
        key, _, value = setting.partition('=')
        if key not in known:
            raise UserError(
                f'{key!r} is not a setting; write NETWORK:plain or NETWORK:SETTING=VALUE with a setting of '
                f'{", ".join(known)}'
            )
        try:
            overrides[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[key] = value  # a word: net_prelu=op
    return Choice(text, network, overrides)
