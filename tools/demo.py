"""`make demo`: a narrow network learns to tell faces apart, then the full one takes two steps."""

import contextlib
import os
import shlex
import subprocess
import sys

from netkit.project import start

start()

from netkit.cli import Parser, run
from netkit.project import ROOT
from netkit.training import log

OUTPUT = os.path.join('out', 'demo')
OWN = ('data', 'cru56-quarter', 'cru116')  # the folders in it that the demo makes
DRAWN = ('property', 'train.rec', 'train.idx', 'drawn.bin')  # the files of the first, which are drawn again
LEARNS = [
    '--network',
    'cru56',
    '--multiplier',
    '0.25',
    '--steps',
    '135',
    '--devices',
    '2',
    '--per-batch-size',
    '16',
    '--images',
    '40',
    '--pairs',
    '200',
]
FULL = [
    '--network',
    'cru116',
    '--steps',
    '2',
    '--devices',
    '2',
    '--per-batch-size',
    '2',
    '--no-verification',
    '--state-every',
    '0',
]
LEAST = 0.85  # of the verification; guessing gives 0.5


def train(options):
    """Run tools/train.py; return its exit status."""
    command = [sys.executable, os.path.join('tools', 'train.py'), *options]
    print('$', shlex.join(['python', *command[1:]]), flush=True)
    # Two contexts that share the cores are a quarter faster here than one with all cores.
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    with subprocess.Popen(command, cwd=ROOT, env={'OMP_NUM_THREADS': threads, **os.environ}) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def accuracy(folder):
    """Return a run's last verification."""
    curve = log.read(os.path.join(ROOT, folder, log.FILE)).verification['drawn']
    return curve[max(curve)][0]


def main():
    Parser(prog='demo.py', description=__doc__).parse_args()
    data, narrow, full = (os.path.join(OUTPUT, folder) for folder in OWN)
    for name in DRAWN:  # and nothing else that may be there by now
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(ROOT, data, name))
    print('1. cru56 at a quarter of its width learns faces (two to three minutes)')
    status = train([*LEARNS, '--draw', '--data', data, '--output', narrow])
    if status:
        return status
    learnt = accuracy(narrow)
    print('\n2. cru116 at full width takes two steps')
    status = train([*FULL, '--data', data, '--output', full])
    if not status and learnt < LEAST:
        sys.stderr.write(
            f'demo.py: the narrow cru56 tells faces apart with {learnt:.3f}, which should be {LEAST:.2f} at least\n'
        )
        return 1
    return status


if __name__ == '__main__':
    run(main)
