"""What to measure: NETWORK or NETWORK:SETTING=VALUE,…"""

from typing import NamedTuple

from netkit.graph.cpu_forms import for_cpu
from netkit.networks import build, entry, parse, settings_for, settings_of

REWRITTEN = 'rewritten'  # whether the symbol is rewritten for the CPU on which it is timed
# Words in place of settings: the network as insightface builds it, and by MXNet's own operators as in the papers.
WORDS = {'insightface': {REWRITTEN: False}, 'plain': {REWRITTEN: False, 'net_prelu': 'op', 'memonger': False}}


class Choice(NamedTuple):
    """A network, and the settings that differ from those that suit the device."""

    label: str
    network: str
    overrides: dict
    rewritten: bool = True

    def settings(self, device='gpu'):
        """Return the settings for `device`; those for a 'gpu', and of what is not rewritten, are insightface's."""
        suited = settings_for(device) if self.rewritten else {}
        return settings_of(self.network, **{**suited, **self.overrides})

    def build(self, device='gpu', training=True, **changes):
        """Return (symbol, image_shape) as it is bound on `device`, with `changes` to the settings."""
        settings = {**self.settings(device), **changes}
        symbol, image_shape = build(self.network, **settings), settings['image_shape']
        if device == 'cpu' and self.rewritten:
            symbol = for_cpu(symbol, image_shape, training)
        return symbol, image_shape

    @property
    def per_batch_size(self):
        """The default batch of the network choice."""
        return entry('network', self.network).per_batch_size


def parse_choice(text):
    """Return the Choice that `text` describes; raises UserError for a network or setting that does not exist."""
    network, overrides = parse(text, WORDS)
    return Choice(text, network, overrides, overrides.pop(REWRITTEN, True))
