"""Fixtures, and the same examples of hypothesis every time in CI."""

import importlib.util
import os
import sys

import pytest
from hypothesis import settings

from netkit import cli

settings.register_profile('ci', derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'default')


def pytest_terminal_summary(terminalreporter):
    """Say what was left out for need of PyTorch."""
    left_out = [report for report in terminalreporter.stats.get('skipped', ()) if 'torch' in str(report.longrepr)]
    if left_out and importlib.util.find_spec('torch') is None:
        terminalreporter.write_line(
            f'{len(left_out)} files of tests were skipped, as PyTorch is not installed here; '
            'make test-torch runs them (it installs 4.5 GB)'
        )


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Return a function that runs a program in this process and returns (exit code, stdout, stderr)."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [module.__name__ + '.py'] + list(arguments))
        with pytest.raises(SystemExit) as end:
            cli.run(module.main)
        return (end.value.code,) + tuple(capsys.readouterr())

    return run
