"""Finds `../mxnet`, the stand-in for MXNet, for the scripts in this folder."""

import importlib.util
import os
import sys

_folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'mxnet')
_spec = importlib.util.spec_from_file_location(
    'mxnet', os.path.join(_folder, '__init__.py'), submodule_search_locations=[_folder]
)
sys.modules['mxnet'] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules['mxnet'])
