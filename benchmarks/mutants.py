"""Apply the mutants of mutants.toml to the code; exit with 1 if the tests miss one.

Works on a copy of the tracked files; needs Python 3.11. For random mutants of a module, see CONTRIBUTING.md.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTEST = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider']


def is_noticed(entry, copy):
    """Return whether the tests of an entry fail while the code in the folder `copy` is broken."""
    path = os.path.join(copy, entry['module'])
    with open(path, encoding='utf-8') as file:
        whole = file.read()
    broken = whole.replace(entry['before'], entry['after'], 1)
    assert broken != whole, entry['what']
    try:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(broken)
        environment = dict(os.environ, OMP_NUM_THREADS='1', CI='true', PYTHONDONTWRITEBYTECODE='1')
        done = subprocess.run(
            PYTEST + shlex.split(entry['tests']), cwd=copy, env=environment, stdout=subprocess.DEVNULL, timeout=1200
        )
        return done.returncode == 1
    finally:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(whole)


def main():
    with open(os.path.join(ROOT, 'benchmarks', 'mutants.toml'), 'rb') as file:
        entries = tomllib.load(file)['by_hand']
    missed = 0
    with tempfile.TemporaryDirectory() as copy:
        names = subprocess.run(
            ['git', 'ls-files', '-z'], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        for name in names.split('\0')[:-1]:
            os.makedirs(os.path.dirname(os.path.join(copy, name)), exist_ok=True)
            shutil.copy(os.path.join(ROOT, name), os.path.join(copy, name))
        for entry in entries:
            noticed = is_noticed(entry, copy)
            missed += not noticed
            print('noticed' if noticed else 'MISSED ', entry['module'] + ':', entry['what'], flush=True)
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
