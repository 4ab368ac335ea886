"""What to measure: NETWORK or NETWORK:SETTING=VALUE,…"""

from typing import NamedTuple

from netkit.networks import build, entry, forms_for, parse, settings_of

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
    return Choice(text, *parse(text, {'plain': PLAIN}))
