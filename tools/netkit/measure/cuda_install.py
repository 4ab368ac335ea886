"""Check that the extra mxnet-gpu installs and that MXNet for CUDA computes on the CPU, with a stub driver."""

import glob
import os
import re
import subprocess
import tempfile

from netkit.errors import UserError
from netkit.project import ROOT

# What a driver without devices returns.
ANSWERS = {
    'cuDriverGetVersion': '(int *version) { *version = 11020; return 0; }',
    'cuDeviceGetCount': '(int *count) { *count = 0; return 100; }',
    'cuGetErrorString': '(int error, const char **text) { *text = "no device"; return 0; }',
}
COMPUTE = """
from netkit.project import find_builders
find_builders()
from netkit._mxnet import mx
from netkit.networks import build
symbol = build('cru56', net_multiplier=0.25, emb_size=32)
executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=(1, 3, 112, 112))
print('MXNet', mx.__version__, 'with' if mx.runtime.Features().is_enabled('CUDA') else 'without', 'CUDA computed',
      executor.forward(is_train=False)[0].shape, 'on the CPU')
"""


def stand_in(library):
    """Return the C source of a driver without devices, with all functions of the driver that `library` needs."""
    wanted = subprocess.check_output(['nm', '-D', '--undefined-only', library], universal_newlines=True)
    names = sorted(set(re.findall(r'\b(cu[A-Z]\w*)', wanted)) | set(ANSWERS))
    return ''.join('int {}{}\n'.format(name, ANSWERS.get(name, '() { return 100; }')) for name in names)


def call(*command, **kwargs):
    """Run a command; raises UserError where it fails."""
    try:
        failed = subprocess.call(command, **kwargs)
    except OSError as error:
        raise UserError(f'cannot run {command[0]}: {error.strerror}')
    if failed:
        raise UserError('this failed: {}'.format(' '.join(command[:5])))


def prove(interpreter):
    """Install the extra in a scratch environment of an interpreter and compute a network there, or raise UserError."""
    tools = os.path.join(ROOT, 'tools')
    with tempfile.TemporaryDirectory(prefix='gpu install ') as folder:
        call(interpreter, '-m', 'venv', os.path.join(folder, 'venv'))
        python = os.path.join(folder, 'venv', 'bin', 'python')
        listed = os.path.join(folder, 'requirements.txt')
        with open(listed, 'w', encoding='utf-8') as file:
            call(python, os.path.join(tools, 'extras.py'), 'mxnet-gpu', 'tools', stdout=file)
        pip = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
        call(*pip, '-c', os.path.join(ROOT, 'constraints.txt'), '-r', listed)
        (library,) = glob.glob(os.path.join(folder, 'venv', 'lib', '*', '*', 'mxnet', 'libmxnet.so'))
        source = os.path.join(folder, 'cuda.c')
        with open(source, 'w') as file:
            file.write(stand_in(library))
        call('gcc', '-shared', '-fPIC', '-Wl,-soname,libcuda.so.1', '-o', os.path.join(folder, 'libcuda.so.1'), source)
        environment = dict(os.environ, LD_LIBRARY_PATH=folder, PYTHONPATH=tools)
        program = [python, os.path.join(tools, 'measure.py'), 'libraries']
        call(*program, env=environment)
        call(*program, '--', python, '-c', COMPUTE, env=environment)
