"""arcface_torch on today's Python: a stand-in for MXNet, and blocks for the lines that current packages refuse.

MXNet ends at Python 3.11 and numpy 1.23. arcface_torch reads `.rec` and `.bin` files with it, and nothing else.
"""

import ast
import importlib.util
import os
import re

from patcher.source import WAS, Refusal, parse, read

HERE = os.path.dirname(os.path.abspath(__file__))
RECORDS = os.path.join(os.path.dirname(HERE), 'tools', 'netkit', 'data', 'rec_format.py')
# {path in arcface_torch: path here}
STAND_IN = {
    'mxnet/' + name: os.path.join(HERE, 'mxnet', *name.split('/'))
    for name in (
        '__init__.py',
        'gluon.py',
        'image.py',
        'io.py',
        'ndarray.py',
        'recordio.py',
        'tools/__init__.py',
        'tools/im2rec.py',
    )
}
STAND_IN.update({'mxnet/rec_format.py': RECORDS, 'scripts/mxnet.py': os.path.join(HERE, 'mxnet_of_scripts.py')})
# MXNet's names in the stand-in, and MXNet's names in upstream functions that are never called.
HAS = (
    'recordio.MXIndexedRecordIO',
    'recordio.IRHeader',
    'recordio.pack',
    'recordio.unpack',
    'image.imdecode',
    'image.resize_short',
    'ndarray.transpose',
    'ndarray.flip',
    'gluon.data.Dataset',
)
NEVER_CALLED = 'io.DataBatch', 'ndarray.slice_axis'
# Files of upstream with lines that current packages refuse, and those that use MXNet, of all versions.
MENDED = (
    'lr_scheduler.py',
    'eval/verification.py',
    'eval_ijbc.py',
    'onnx_ijbc.py',
    'torch2onnx.py',
    'utils/plot.py',
    'requirement.txt',
)
USERS = (
    'dataset.py',
    'eval/verification.py',
    'onnx_helper.py',
    'onnx_helper_sample.py',
    'onnx_ijbc.py',
    'scripts/shuffle_rec.py',
)
# Types of Python's under the names that numpy 1.24 has removed.
NUMPY_NAMES = 'int', 'float', 'object', 'complex'
EXPORTER = """\
if 'dynamo' in inspect.signature(torch.onnx.export).parameters:  # the newer exporter fixes the number of images
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)""".splitlines()
INTERPOLATION = """\
class interpolate:  # scipy 1.8 and newer refuse equal numbers in x, as equal false accept rates are
    @staticmethod
    def interp1d(x, y, kind):
        def line_through_neighbours(target):
            right = np.searchsorted(x, target, side='right')
            if right == 0:
                raise ValueError('%s is below all of x' % target)
            if right == len(x):
                return y[-1]
            part = (target - x[right - 1]) / (x[right] - x[right - 1])
            return y[right - 1] + part * (y[right] - y[right - 1])

        return line_through_neighbours""".splitlines()


def stand_in():
    """Return {path in arcface_torch, with slashes: bytes} of the stand-in."""
    return {name: read(path) for name, path in STAND_IN.items()}


def files_of(folder, names):
    """Return the paths of those of some files that arcface_torch has, without links."""
    paths = [os.path.join(folder, *name.split('/')) for name in names]
    return [path for path in paths if os.path.isfile(path) and os.path.realpath(path) == path]


def mend(source):
    """Return (lines of a block, place) for a file of arcface_torch without its block; None where all is well."""
    lines = [line.rstrip('\r\n') for line in source.without_block()]
    name = os.path.basename(source.path)
    for find in (_requirements,) if name == 'requirement.txt' else (_scheduler, _interpolation, _exporter, _numpy):
        found = find(lines)
        if found:
            return found
    return None


def _requirements(lines):
    changed = [number for number, line in enumerate(lines) if re.match(r'(mxnet|sklearn)\b', line)]
    if not changed:
        return None
    old = lines[changed[0] : changed[-1] + 1]
    new = [re.sub(r'^sklearn\b.*', 'scikit-learn', line) for line in old if not re.match(r'mxnet\b', line)]
    return [WAS + line for line in old] + new, changed[0]


def _scheduler(lines):
    """PyTorch's schedulers have no `verbose` any more."""
    for number, line in enumerate(lines):
        found = re.match(r'(\s+super\(.*\)\.__init__\(.*), verbose(=verbose)?\)\s*$', line)
        if found:
            return [WAS + line, found.group(1) + ')'], number
    return None


def _interpolation(lines):
    if not any('interpolate.interp1d(' in line for line in lines):
        return None
    return _behind_import(lines, r'from scipy import interpolate\b', INTERPOLATION)


def _exporter(lines):
    if not any('torch.onnx.export(' in line for line in lines) or any('dynamo' in line for line in lines):
        return None
    block = ['import functools', 'import inspect', *EXPORTER, *_types(lines)]
    return _behind_import(lines, r'import (torch|numpy as np)\b', block)


def _numpy(lines):
    types = _types(lines)
    return _behind_import(lines, r'import numpy as np\b', types) if types else None


def _types(lines):
    used = [name for name in NUMPY_NAMES if any(re.search(r'\bnp\.%s\b(?!\s*=[^=])' % name, line) for line in lines)]
    return ['np.%s = %s' % (name, name) for name in used]


def _behind_import(lines, pattern, block):
    """Return (block, the place behind the last such import), or None where there is none, or the block is there."""
    if '\n'.join(block) in '\n'.join(lines):
        return None
    places = [number for number, line in enumerate(lines) if re.match(pattern, line)]
    return (list(block), places[-1] + 1) if places else None


def real_mxnet(folder):
    """Return the path of this Python's MXNet; None without one, or for the stand-in in `folder`."""
    spec = importlib.util.find_spec('mxnet')
    place = spec and os.path.realpath(spec.origin or list(spec.submodule_search_locations)[0])
    return None if not place or place.startswith(folder + os.sep) else place


def check(folder):
    """Refuse an arcface_torch that uses more of MXNet than the stand-in has."""
    for path in files_of(folder, USERS):
        tree = parse(read(path).decode('utf-8', 'replace'))
        for line, name in sorted(uses(tree) if tree else (), key=lambda use: (use[0], -len(use[1]))):
            if not any((known + '.').startswith(name + '.') for known in HAS + NEVER_CALLED):
                raise Refusal(
                    '%s:%d uses mxnet.%s, which the stand-in for MXNet has not; train this version with MXNet, on '
                    'Python 3.8 to 3.11' % (path, line, name)
                )


def uses(tree):
    """Return {(line, name within mxnet)} of what a file takes from MXNet."""
    names, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] == 'mxnet':
                    names[alias.asname or 'mxnet'] = alias.name.split('.')[1:] if alias.asname else []
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'mxnet':
            for alias in node.names:
                within = node.module.split('.')[1:] + [alias.name]
                names[alias.asname or alias.name] = within
                found.add((node.lineno, '.'.join(_full(within))))
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            found.add((node.lineno, '.'.join(_full(names[inner.id] + parts))))
    return found


def _full(parts):
    """Return the parts of a name with `nd` as what it stands for."""
    return ['ndarray' if part == 'nd' and not place else part for place, part in enumerate(parts)]
