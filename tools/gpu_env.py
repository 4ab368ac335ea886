"""Find the CUDA libraries that mxnet-cu112 needs, in NVIDIA's wheels or on the system, and put them to use.

    python tools/gpu_env.py                      a table of what is found where, and the line to export
    eval "$(python tools/gpu_env.py)"            sets LD_LIBRARY_PATH in this shell
    python tools/gpu_env.py -- python train.py   runs a command with it

No CUDA has to be installed: all but the driver comes from PyPI (the extra mxnet-gpu). The exit code is 1 where a
library is missing.
"""

import argparse
import os
import shlex
import sys

from netkit.project import start

start(needed=())

from netkit import cuda, report
from netkit.cli import Parser, command_of, run
from netkit.errors import UserError


def remedy(library, package, versions):
    """Return what to do about a missing library."""
    if library == cuda.DRIVER:
        return "missing: NVIDIA's driver (450.80 or newer), from the system"
    return f'missing: pip install {package}=={versions[package]}'


def show(found):
    """Print the table to standard error; return how many libraries are missing."""
    versions, rows = cuda.pinned(), []
    for library, package in cuda.ALL.items():
        place = found[library]
        version = place.version or '–' if place else '–'
        if library == cuda.DRIVER and place and place.version:
            version = 'up to CUDA ' + place.version
        rows.append((library, version, place.folder if place else remedy(library, package, versions)))
    report.show('what mxnet-cu112 needs', ('library', 'version', 'where'), rows, file=sys.stderr)
    return list(found.values()).count(None)


def show_cards():
    """Print the cards to standard error, and whether MXNet has code for them."""
    words = {True: 'yes', False: f"no: it has code for {cuda.listed()} only, so PyTorch's trainers are left"}
    rows = [
        (card.name, '{}.{}'.format(*card.capability), f'{card.memory:,}', words[cuda.runs_on(card.capability)])
        for card in cuda.cards()
    ]
    if rows:
        report.show('cards', ('card', 'compute capability', 'MB', 'does mxnet-cu112 run on it'), rows, file=sys.stderr)


def replace_by(command, path):
    """Become the process of `command`, with LD_LIBRARY_PATH set to `path`."""
    try:
        os.execvpe(command[0], command, dict(os.environ, LD_LIBRARY_PATH=path))
    except (OSError, ValueError) as error:  # an empty name is no OSError
        raise UserError(f'cannot run {command[0] or "what has no name"}: {getattr(error, "strerror", error)}')


def main():
    parser = Parser(prog='gpu_env.py', description=__doc__.split('\n\n')[0], usage='%(prog)s [-- COMMAND]')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND', help='what to run')
    args = parser.parse_args()
    found = cuda.find_all()
    path = cuda.library_path(found)
    command = command_of(args.command)
    if command:
        missing = ', '.join(library for library, place in found.items() if place is None)
        if missing:
            sys.stderr.write(f'gpu_env.py: {missing} not found; python tools/gpu_env.py tells what brings them\n')
        replace_by(command, path)
    missing = show(found)
    show_cards()
    sys.stderr.write(cuda.what_mxnet_sees(path) + '\n')
    print(f'export LD_LIBRARY_PATH={shlex.quote(path)}')
    return 1 if missing else 0


if __name__ == '__main__':
    run(main)
