"""The cards, and the CUDA libraries that mxnet-cu112 needs: in NVIDIA's wheels, or on the system."""

import collections
import ctypes
import glob
import importlib.util
import mmap
import os
import re
import struct
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
# What nvcc puts into a library (fatbinary.h of CUDA): a container of the code for each kind of card.
CONTAINER = struct.pack('<I', 0xBA55ED50)
CONTAINER_HEADER, ENTRY_HEADER = struct.Struct('<4sHHQ'), struct.Struct('<HHIQ12xI')
PTX, MACHINE_CODE = 1, 2  # kinds of entries


class Card(NamedTuple):
    """A GPU: its name, its compute capability, and its memory in MB (2^20 bytes)."""

    name: str
    capability: Tuple[int, int]
    memory: int


def pinned():
    """Return {package: version} of requirements-gpu.txt."""
    with open(os.path.join(ROOT, 'requirements-gpu.txt')) as file:
        return dict(re.findall(r'^(nvidia-[\w-]+)==(\S+)', file.read(), re.MULTILINE))


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
    """Return the Cards that the driver's library knows; none without a driver, or where it does not answer."""
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


def kernels(path):
    """Return {(kind, compute capability)} of the code for cards in a library; kind PTX or MACHINE_CODE.

    Of what is there for half of its kernels at least: a few may be for one kind of card. Nothing in it is run. Raises
    OSError; a library without such code has none.
    """
    found, containers = collections.Counter(), 0
    if not os.path.getsize(path):  # which cannot be mapped
        return set()
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(CONTAINER)
        while 0 <= at <= len(content) - CONTAINER_HEADER.size:
            _, version, header, size = CONTAINER_HEADER.unpack_from(content, at)
            end = min(at + header + size, len(content))
            if (version, header) != (1, CONTAINER_HEADER.size):  # the same bytes by chance
                end = at + len(CONTAINER)
            else:
                found.update(set(_entries(content, at + header, end)))
                containers += 1
            at = content.find(CONTAINER, end)
    return {code for code, count in found.items() if 2 * count >= containers}


def _entries(content, at, end):
    """Yield (kind, compute capability) of the entries of a container."""
    while at + ENTRY_HEADER.size <= end:
        kind, _, header, size, capability = ENTRY_HEADER.unpack_from(content, at)
        yield kind, divmod(capability, 10)
        at += max(header + size, ENTRY_HEADER.size)


def runs_on(found, capability):
    """Tell whether a card of a compute capability runs code, {(kind, compute capability)}.

    Machine code runs on cards of the same major version and the same or a later minor one; from PTX the driver makes
    the code of all later cards (CUDA C++ Programming Guide, "Application Compatibility").
    """
    return any(
        of <= capability if kind == PTX else kind == MACHINE_CODE and of[0] == capability[0] and of <= capability
        for kind, of in found
    )


def library_of_mxnet():
    """Return the path of the libmxnet.so of this Python, without importing it; None where there is none."""
    spec = importlib.util.find_spec('mxnet')
    path = os.path.join(os.path.dirname(spec.origin), 'libmxnet.so') if spec and spec.origin else ''
    return path if os.path.exists(path) else None


def listed(found):
    """Return the compute capabilities of machine code as a text, like '5.0, 8.6', with a + where there is PTX."""
    return ', '.join(
        f'{major}.{minor}' + '+' * (kind == PTX)
        for (major, minor), kind in sorted((capability, kind) for kind, capability in found)
    )


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
