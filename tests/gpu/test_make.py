"""`make check-gpu`: the environments that it makes, with stand-ins for the interpreters and their gigabytes."""

import os
import shlex
import shutil
import subprocess

import pytest

import check_gpu
from helpers import ROOT

PYTHON = """#!/bin/sh
# Stands in for an interpreter: makes environments without packages, and keeps what it is called with.
echo "$@" >> '{log}'
case "$1 $2" in
  '-m venv') mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
  '-m pip') case "$*" in *{fails}*) echo 'no such package' >&2; exit 1;; esac;;
esac
"""


def calls(folder, fails, **variables):
    """Run the target in an empty folder; return (exit status, standard error, [arguments of the interpreters])."""
    log, python = folder / 'log', folder / 'python'
    python.write_text(PYTHON.format(log=log, fails=fails))
    python.chmod(0o755)
    shutil.copy(os.path.join(ROOT, 'Makefile'), folder)
    for name in ('requirements-gpu-torch.txt', 'requirements-gpu.txt', 'requirements.txt', 'requirements-common.txt'):
        if not (folder / name).exists():  # a newer one would make its environment anew
            (folder / name).write_text('')
    made = subprocess.run(
        [
            'make',
            'check-gpu',
            f'GPU_PYTHON={python}',
            f'PYTHON={python}',
            *(f'{key}={value}' for key, value in variables.items()),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return made.returncode, made.stderr, [line for line in log.read_text().splitlines() if line] if log.exists() else []


@pytest.mark.parametrize('driver, requirements', [('true', 'requirements-gpu.txt'), ('false', 'requirements.txt')])
def test_it_makes_two_environments_and_runs_the_program(tmp_path, monkeypatch, driver, requirements):
    status, _, lines = calls(tmp_path, 'nothing', HAS_DRIVER=driver, ARGS='--quick')
    assert status == 0
    assert [line for line in lines if ' venv ' in f' {line} '] == ['-m venv .venv-gpu', '-m venv .venv-gpu-mxnet']
    installed = [line.split()[-1] for line in lines if 'pip install' in line]
    assert installed == ['requirements-gpu-torch.txt', requirements]
    words = shlex.split(lines[-1])
    assert words[0] == 'tools/check_gpu.py'
    monkeypatch.chdir(tmp_path)
    args = check_gpu.parse_args(words[1:])
    assert (
        args.quick and args.minutes == 3 and args.mxnet_python == str(tmp_path / '.venv-gpu-mxnet' / 'bin' / 'python')
    )
    _, _, again = calls(tmp_path, 'nothing', HAS_DRIVER=driver)
    assert len(again) == len(lines) + 1  # what is there is not made anew


def test_it_goes_on_without_mxnet(tmp_path):
    status, error, lines = calls(tmp_path, 'requirements-gpu.txt', HAS_DRIVER='true')
    assert status == 0 and 'no such package' in error and 'MXNet cannot be installed here: going on without it' in error
    assert lines[-1].startswith('tools/check_gpu.py')


def test_it_does_not_go_on_without_pytorch(tmp_path):
    status, error, lines = calls(tmp_path, 'requirements-gpu-torch.txt', HAS_DRIVER='true')
    assert status == 2 and 'no such package' in error and not lines[-1].startswith('tools')
    status, error, _ = calls(tmp_path, 'nothing', GPU_PYTHON='')
    assert status == 2 and 'this wants Python 3.10, 3.11 or 3.12' in error
