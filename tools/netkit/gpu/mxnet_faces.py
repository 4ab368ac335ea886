"""Part `faces`: tools/train.py on drawn faces, with loss and verification."""

import functools
import os
import subprocess
import sys
import tempfile
import time

from netkit.errors import UserError, last_line
from netkit.gpu.harness import FACES as TABLE, Figure
from netkit.gpu.mxnet_device import IS_GPU
from netkit.gpu.sizes import FACES
from netkit.project import ROOT
from netkit.training import log

ON_GPU = ['--per-batch-size', '64']
ON_CPU = ['--multiplier', '0.1', '--per-batch-size', '4', '--identities', '4', '--images', '4', '--pairs', '10']


def measure(steps, options):
    """Yield the Figures of a training."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.join(ROOT, 'tools', 'train.py'), '--network', FACES, '--steps', str(steps)]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, '--state-every', '0', '--output', folder, *options], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise UserError(f'tools/train.py: {last_line(done.stderr, done.returncode)}')
        curves = log.read(os.path.join(folder, log.FILE))
    ((measured, verification),) = curves.verification.items()
    for what, value in {
        'network': FACES if IS_GPU else f'{FACES}, a tenth as wide',
        'options': ' '.join(options),
        'steps': steps,
        'seconds, with drawing the faces': round(seconds, 1),
        'loss, first ten steps': curves.loss[min(curves.loss)],
        'loss, last ten steps': curves.loss[max(curves.loss)],
        f'verification on {measured}': '{:.3f} ± {:.3f}'.format(*verification[max(verification)]),
    }.items():
        yield Figure(TABLE, what, 'MXNet', value)


def cases(quick):
    """Return {case: function that yields Figures}."""
    steps, options = (50 if quick else 150, ON_GPU) if IS_GPU else (4, ON_CPU)
    return {FACES: functools.partial(measure, steps, options)}
