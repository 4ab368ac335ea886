"""Find the CUDA libraries that mxnet-cu112 wants, in NVIDIA's wheels or on the system, and put them to use.

    python tools/gpu_env.py                      a table of what is found where, and the line to export
    eval "$(python tools/gpu_env.py)"            sets LD_LIBRARY_PATH in this shell
    python tools/gpu_env.py -- python train.py   runs a command with it

No CUDA has to be installed: all but the driver comes from PyPI (requirements-gpu.txt). The exit code is 1 where a
library is missing.
"""
import argparse
import collections
import ctypes
import glob
import os
import re
import shlex
import subprocess
import sys

from project import ROOT, Parser, UserError, command_of, run

import tables

# What libmxnet.so of the wheel names as needed, and who brings it.
LIBRARIES = {
    'libcudart.so.11.0': 'nvidia-cuda-runtime-cu11', 'libcublas.so.11': 'nvidia-cublas-cu11',
    'libcudnn.so.8': 'nvidia-cudnn-cu11', 'libcufft.so.10': 'nvidia-cufft-cu11', 'libcurand.so.10': 'nvidia-curand-cu11',
    'libcusolver.so.11': 'nvidia-cusolver-cu11', 'libnvrtc.so.11.2': 'nvidia-cuda-nvrtc-cu11',
    'libnvToolsExt.so.1': 'nvidia-nvtx-cu11', 'libnccl.so.2': 'nvidia-nccl-cu11', 'libcuda.so.1': None}
DRIVER = 'libcuda.so.1'
# What one of them needs without MXNet naming it.
NEEDED_BY_OTHERS = {'libcusparse.so.11': 'nvidia-cusparse-cu11'}
ALL = dict(LIBRARIES, **NEEDED_BY_OTHERS)
SEES_GPUS = 'import mxnet; print(mxnet.__version__, flush=True); print(mxnet.context.num_gpus())'

Found = collections.namedtuple('Found', 'folder version')  # version: of the wheel, or of the driver; may be ''


# ------------------------------------------------------------------------------------------------ finding

def pinned():
    """Return {package: version} of requirements-gpu.txt."""
    with open(os.path.join(ROOT, 'requirements-gpu.txt')) as file:
        return dict(re.findall(r'^(nvidia-[\w-]+)==(\S+)', file.read(), re.MULTILINE))


def wheel_version(package):
    """Return the version of an installed package, '' if it is not installed."""
    pattern = package.replace('-', '_') + '-*.dist-info'
    names = [os.path.basename(path) for folder in sys.path for path in glob.glob(os.path.join(glob.escape(folder), pattern))]
    return names[0][len(package) + 1:-len('.dist-info')] if names else ''


def find(library, package):
    """Return where a library is: in NVIDIA's wheel, on LD_LIBRARY_PATH, or where the system's linker knows it; or None."""
    for folder in sys.path:
        for path in glob.glob(os.path.join(glob.escape(folder), 'nvidia', '*', 'lib', library)):
            return Found(os.path.dirname(path), wheel_version(package) if package else '')
    for folder in filter(None, os.environ.get('LD_LIBRARY_PATH', '').split(':')):
        if os.path.exists(os.path.join(folder, library)):
            return Found(folder, '')
    for command in ('ldconfig', '/sbin/ldconfig'):
        try:
            listed = subprocess.run([command, '-p'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        except OSError:
            continue
        match = re.search(r'^\s*%s .*=> (\S+)$' % re.escape(library), listed.decode('utf-8', 'replace'), re.MULTILINE)
        if match:
            return Found(os.path.dirname(match.group(1)), '')
    return None


def driver_version(folder):
    """Return the newest CUDA that the driver in `folder` supports, like '12.4', or '' if it does not say."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL(os.path.join(folder, DRIVER)).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return ''
    return '' if failed else '%d.%d' % (version.value // 1000, version.value % 1000 // 10)


def find_all():
    """Return {library: Found or None}."""
    found = {library: find(library, package) for library, package in ALL.items()}
    if found[DRIVER]:
        found[DRIVER] = found[DRIVER]._replace(version=driver_version(found[DRIVER].folder))
    return found


def library_path(found):
    """Return the value of LD_LIBRARY_PATH with the folders of NVIDIA's wheels in front."""
    wheels = [place.folder for place in found.values() if place and '/nvidia/' in place.folder + '/']
    folders = list(dict.fromkeys(wheels + os.environ.get('LD_LIBRARY_PATH', '').split(':')))
    return ':'.join(filter(None, folders))


def what_mxnet_sees(path):
    """Return a sentence on the MXNet of this Python, with LD_LIBRARY_PATH set to `path`."""
    done = subprocess.run([sys.executable, '-c', SEES_GPUS], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, env=dict(os.environ, LD_LIBRARY_PATH=path))
    version, gpus = (done.stdout.split() + ['', ''])[:2]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ['exit code %d' % done.returncode])[-1]
        return ('MXNet %s sees no GPU: %s' % (version, reason)) if version else 'MXNet does not start: %s' % reason
    return 'MXNet %s sees %s' % (version, 'no GPU' if gpus == '0' else '1 GPU' if gpus == '1' else gpus + ' GPUs')


# ------------------------------------------------------------------------------------------------ program

def remedy(library, package, versions):
    """Say what brings a missing library."""
    if library == DRIVER:
        return "missing: NVIDIA's driver (450.80 or newer), from the system"
    return 'missing: pip install %s==%s' % (package, versions[package])


def show(found):
    """Print the table to standard error; return how many libraries are missing."""
    versions, rows = pinned(), []
    for library, package in ALL.items():
        place = found[library]
        version = place.version or '–' if place else '–'
        if library == DRIVER and place and place.version:
            version = 'up to CUDA ' + place.version
        rows.append((library, version, place.folder if place else remedy(library, package, versions)))
    tables.show('what mxnet-cu112 wants', ('library', 'version', 'where'), rows, file=sys.stderr)
    return list(found.values()).count(None)


def main():
    parser = Parser(prog='gpu_env.py', description=__doc__.split('\n\n')[0], usage='%(prog)s [-- COMMAND]')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND', help='what to run')
    args = parser.parse_args()
    command = command_of(args.command)
    found = find_all()
    path = library_path(found)
    if command:
        missing = [library for library, place in found.items() if place is None]
        if missing:
            sys.stderr.write('gpu_env.py: %s not found; python tools/gpu_env.py tells what brings them\n' % ', '.join(missing))
        try:
            os.execvpe(command[0], command, dict(os.environ, LD_LIBRARY_PATH=path))
        except (OSError, ValueError) as error:  # a name that is empty is no OSError
            raise UserError('cannot run %s: %s' % (command[0] or 'what has no name', getattr(error, 'strerror', error)))
    missing = show(found)
    sys.stderr.write(what_mxnet_sees(path) + '\n')
    print('export LD_LIBRARY_PATH=%s' % shlex.quote(path))
    return 1 if missing else 0


if __name__ == '__main__':
    run(main)
