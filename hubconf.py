"""torch.hub: `torch.hub.load(FOLDER, 'cru116', source='local', pretrained='model.pt')`, without an installation."""

import functools
import os
import sys

dependencies = ['torch']

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'backbones'))
try:
    import crunet
finally:
    sys.path.pop(0)


def _entry(name):
    create = functools.partial(crunet.create_model, name)
    create.__doc__ = crunet.create_model.__doc__
    return create


globals().update({name: _entry(name) for name in crunet.list_models()})
