"""Puts the project on the path and gives the tests the registry of networks."""
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('tests', 'tools', 'symbols', ''):
    sys.path.insert(0, os.path.join(ROOT, folder))

import project  # noqa: E402  before mxnet: it sets MXNet's variables
import pytest  # noqa: E402

import config as host  # noqa: E402

NETWORKS = list(host.network)


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
