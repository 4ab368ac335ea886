"""torch.hub: `torch.hub.load(FOLDER, 'cru116', source='local', pretrained='model.pt')`, without an installation."""

import functools
import importlib.util
import os
import sys

dependencies = ['torch']


def _package():
    """Return the package `crunet`, which lies in this folder under another name."""
    if 'crunet' not in sys.modules:
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'backbones')
        path = os.path.join(folder, '__init__.py')
        spec = importlib.util.spec_from_file_location('crunet', path, submodule_search_locations=[folder])
        sys.modules['crunet'] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules['crunet'])
    return sys.modules['crunet']


def _entry(name):
    create = functools.partial(_package().create_model, name)
    create.__doc__ = _package().create_model.__doc__
    return create


globals().update({name: _entry(name) for name in _package().list_models()})
