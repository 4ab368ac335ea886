"""The GPUs, and the CUDA libraries that mxnet-cu112 needs: in NVIDIA's wheels, or on the system."""

import collections
import ctypes
import glob
import os
import re
import subprocess
import sys
from typing import NamedTuple, Tuple

from netkit.errors import last_line
from netkit.project import ROOT

# {library that libmxnet.so of the wheel needs: package that contains it}.
LIBRARIES = {
    'libcudart.so.11.0': 'nvidia-cuda-runtime-cu11',
    'libcublas.so.11': 'nvidia-cublas-cu11',
    'libcudnn.so.8': 'nvidia-cudnn-cu11',
    'libcufft.so.10': 'nvidia-cufft-cu11',
    'libcurand.so.10': 'nvidia-curand-cu11',
    'libcusolver.so.11': 'nvidia-cusolver-cu11',
    'libnvrtc.so.11.2': 'nvidia-cuda-nvrtc-cu11',
    'libnvToolsExt.so.1': 'nvidia-nvtx-cu11',
    'libnccl.so.2': 'nvidia-nccl-cu11',
    'libcuda.so.1': None,
}
DRIVER = 'libcuda.so.1'
# Libraries that these need, and MXNet does not name.
NEEDED_BY_OTHERS = {'libcusparse.so.11': 'nvidia-cusparse-cu11'}
ALL = dict(LIBRARIES, **NEEDED_BY_OTHERS)
SEES_GPUS = 'import mxnet; print(mxnet.__version__, flush=True); print(mxnet.context.num_gpus())'
Found = collections.namedtuple('Found', 'folder version')  # version of the wheel or driver, or ''
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
# The GPUs for which the wheel mxnet-cu112 1.9.1, the last, has machine code, by compute capability; it has no PTX.
CODE = (5, 0), (6, 0), (7, 0), (8, 0), (8, 6)


class Card(NamedTuple):
    """A GPU: its name, its compute capability, and its memory in MB (2^20 bytes)."""

    name: str
    capability: Tuple[int, int]
    memory: int


def pinned():
    """Return {package: version} of NVIDIA's packages in the extra mxnet-gpu."""
    with open(os.path.join(ROOT, 'pyproject.toml'), encoding='utf-8') as file:
        return dict(re.findall(r'^ *"(nvidia-[\w-]+)==([\d.]+)"', file.read(), re.MULTILINE))


def wheel_version(package):
    """Return the version of an installed package, '' if it is not installed."""
    pattern = package.replace('-', '_') + '-*.dist-info'
    names = [
        os.path.basename(path) for folder in sys.path for path in glob.glob(os.path.join(glob.escape(folder), pattern))
    ]
    return names[0][len(package) + 1 : -len('.dist-info')] if names else ''


def find(library, package):
    """Return where a library is: in NVIDIA's wheel, on LD_LIBRARY_PATH, or known to the system's linker; or None."""
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
        match = re.search(rf'^\s*{re.escape(library)} .*=> (\S+)$', listed.decode('utf-8', 'replace'), re.MULTILINE)
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
    return '' if failed else f'{version.value // 1000}.{version.value % 1000 // 10}'


def cards(driver=DRIVER):
    """Return the GPUs that the driver's library knows; none without a driver, or where it does not answer."""
    number, text, size, found = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t(), []

    def asked(function, *arguments):
        if getattr(library, function)(*arguments):
            raise OSError(function)
        return number.value

    try:
        library = ctypes.CDLL(driver)
        asked('cuInit', 0)
        for device in range(asked('cuDeviceGetCount', ctypes.byref(number))):
            asked('cuDeviceGetName', text, len(text), device)
            asked('cuDeviceTotalMem_v2', ctypes.byref(size), device)
            capability = tuple(
                asked('cuDeviceGetAttribute', ctypes.byref(number), attribute, device)
                for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
            )
            found.append(Card(text.value.decode('utf-8', 'replace'), capability, size.value >> 20))
    except (OSError, AttributeError):  # no driver, no answer, no such function
        return []
    return found


def runs_on(capability):
    """Return whether MXNet runs on a GPU: one of the same major version as the code, with the same or a later minor.

    (CUDA C++ Programming Guide, "Application Compatibility".)
    """
    return any(of[0] == capability[0] and of <= capability for of in CODE)


def listed():
    """Return the compute capabilities of CODE as a text."""
    return ', '.join('{}.{}'.format(*capability) for capability in CODE)


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
    done = subprocess.run(
        [sys.executable, '-c', SEES_GPUS], capture_output=True, text=True, env=dict(os.environ, LD_LIBRARY_PATH=path)
    )
    version, gpus = (done.stdout.split() + ['', ''])[:2]
    if done.returncode:
        reason = last_line(done.stderr, done.returncode)
        return (f'MXNet {version} sees no GPU: {reason}') if version else f'MXNet does not start: {reason}'
    return 'MXNet {} sees {}'.format(version, 'no GPU' if gpus == '0' else '1 GPU' if gpus == '1' else gpus + ' GPUs')


def remedy(library, package, versions):
    """Return what to do about a missing library."""
    if library == DRIVER:
        return "missing: NVIDIA's driver (450.80 or newer), from the system"
    return f'missing: pip install {package}=={versions[package]}'


def show(found):
    """Print to standard error library locations, and whether MXNet has code for the GPUs."""
    from netkit import report

    versions, rows = pinned(), []
    for library, package in ALL.items():
        place = found[library]
        version = place.version or '–' if place else '–'
        if library == DRIVER and place and place.version:
            version = 'up to CUDA ' + place.version
        rows.append((library, version, place.folder if place else remedy(library, package, versions)))
    report.show('what mxnet-cu112 needs', ('library', 'version', 'where'), rows, file=sys.stderr)
    words = {True: 'yes', False: f"no: it has code for {listed()} only, so PyTorch's trainers are left"}
    rows = [
        (card.name, '{}.{}'.format(*card.capability), f'{card.memory:,}', words[runs_on(card.capability)])
        for card in cards()
    ]
    if rows:
        report.show('cards', ('card', 'compute capability', 'MB', 'does mxnet-cu112 run on it'), rows, file=sys.stderr)
