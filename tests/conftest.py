"""Fixtures, and the same examples of hypothesis every time in CI."""

import os
import sys

import pytest
from hypothesis import settings

from netkit import cli

settings.register_profile('ci', derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'default')


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Return a function that runs a program in this process and returns (exit code, stdout, stderr)."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [module.__name__ + '.py'] + list(arguments))
        with pytest.raises(SystemExit) as end:
            cli.run(module.main)
        return (end.value.code,) + tuple(capsys.readouterr())

    return run
