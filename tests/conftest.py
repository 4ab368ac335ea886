"""Puts the project on the path and gives the tests the registry of networks."""
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('tests', 'tools', 'symbols', ''):
    sys.path.insert(0, os.path.join(ROOT, folder))

import project  # noqa: E402  before mxnet: it sets MXNet's variables
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

import config as host  # noqa: E402

NETWORKS = list(host.network)
FIXED_GAMMAS = ('fc1_gamma', 'bn_data_gamma')  # their layers do not read them

settings.register_profile('ci', derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'default')


@pytest.fixture
def chosen():
    """Return a function that fills in the config for a network choice and returns its symbol."""
    from network import build, choose

    def build_changed(network, **changes):
        config = choose(network)
        config.update(changes)
        return build(config)
    return build_changed


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Return a function that runs a tool in this process; it returns (exit code, standard output, standard error)."""
    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [module.__name__ + '.py'] + list(arguments))
        with pytest.raises(SystemExit) as end:
            project.run(module.main)
        return (end.value.code,) + tuple(capsys.readouterr())
    return run


def nodes(symbol):
    """Return the nodes of a symbol's JSON, each with `parents`: the names of the nodes it reads."""
    found = json.loads(symbol.tojson())['nodes']
    for node in found:
        node['parents'] = [found[entry[0]]['name'] for entry in node['inputs']]
        node.setdefault('attrs', {})
    return found


def assert_trained_alike(actual, expected, initial):
    """Assert that two trainings, {name: array}, came to the same, and did train.

    Every parameter and statistic of `expected` has moved away from `initial`, by more than rounding could move it, and by
    a hundred times what the two may be apart.
    """
    assert set(actual) == set(expected) <= set(initial)
    for name in set(expected) - set(FIXED_GAMMAS):
        change = np.abs(expected[name] - initial[name]).max()
        assert change > max(1e-6 * np.abs(initial[name]).max(), 1e-12), '%s is as it was before training' % name
        difference = np.abs(actual[name] - expected[name]).max()
        assert difference <= change / 100, '%s differs by %g, where training changed it by %g' % (name, difference, change)
