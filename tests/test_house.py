"""The house keeps its order: which module may import which, who touches the interpreter, who interprets names."""

import ast
import glob
import os
import re
import subprocess
import sys

import pytest

from helpers import TOOLS

# The packages and top-level modules of netkit, and those that each may import. A line names only earlier lines, so
# imports have no cycle.
LAYERS = {
    'project': (),
    '_mxnet': ('project',),
    'errors': ('project',),
    'files': ('errors',),
    'cli': ('project', 'errors'),
    'report': (),
    'published': (),
    'params_file': (),
    'onnx_session': (),
    'state_dict': (),
    'graph': ('_mxnet', 'errors'),
    'networks': ('_mxnet', 'errors', 'graph'),
    'checkpoints': ('errors', 'files', 'graph', 'params_file', 'state_dict'),
    'deploy': ('onnx_session', '_mxnet', 'errors', 'graph', 'checkpoints'),
    'data': ('_mxnet', 'errors', 'files'),
    'gluoncv2': ('errors', 'networks', 'published'),
    'iresnet': ('graph', 'networks', 'published'),
    'released': ('iresnet',),
    'importing': (
        'errors',
        'graph',
        'networks',
        'published',
        'params_file',
        'state_dict',
        'checkpoints',
        'gluoncv2',
        'iresnet',
        'released',
    ),
    'targets': ('_mxnet', 'errors', 'graph', 'networks', 'checkpoints', 'deploy', 'importing'),
    'summaries': ('graph', 'deploy', 'published'),
    'evaluation': (
        'onnx_session',
        '_mxnet',
        'errors',
        'files',
        'graph',
        'published',
        'networks',
        'checkpoints',
        'data',
        'targets',
    ),
    'training': ('_mxnet', 'errors', 'files', 'graph', 'networks', 'checkpoints', 'deploy', 'data', 'evaluation'),
    'classification': ('errors', 'data', 'evaluation', 'training'),
    'drawing': ('_mxnet', 'errors', 'files', 'cli', 'graph', 'networks', 'deploy'),
    'measure': (
        'onnx_session',
        'project',
        '_mxnet',
        'errors',
        'files',
        'report',
        'graph',
        'networks',
        'deploy',
        'data',
        'gluoncv2',
        'evaluation',
        'training',
        'drawing',
    ),
}
PROGRAMS = sorted(glob.glob(os.path.join(TOOLS, '*.py')))
MODULES = sorted(glob.glob(os.path.join(TOOLS, 'netkit', '**', '*.py'), recursive=True))


def imports(path):
    """Return the names of the modules that a file imports, wherever in it; `from a import b` counts as a.b."""
    with open(path, encoding='utf-8') as file:
        tree = ast.parse(file.read())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: imports are absolute here'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def layer_of(name):
    """Return the layer of a module of netkit, from its dotted name or that of something in it."""
    parts = name.split('.')
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else parts[0]


def text(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def strings(path):
    """Return the texts in a file that are not docstrings."""
    tree = ast.parse(text(path))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def name_of(path):
    return os.path.relpath(path, TOOLS)


def test_each_layer_names_those_above_it():
    above = []
    for layer, uses in LAYERS.items():
        assert set(uses) <= set(above), layer
        above.append(layer)
    found = {os.path.relpath(path, os.path.join(TOOLS, 'netkit')).split(os.sep)[0] for path in MODULES}
    assert {name[:-3] if name.endswith('.py') else name for name in found} == set(LAYERS) | {'__init__'}


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_imports_go_one_way(path):
    if os.path.basename(path) == '__init__.py' and not imports(path):
        return
    layer = layer_of(os.path.relpath(path, TOOLS)[:-3].replace(os.sep, '.').replace('.__init__', ''))
    used = {layer_of(name) for name in imports(path) if name.split('.')[0] == 'netkit'}
    assert used - {layer} <= set(LAYERS[layer])


@pytest.mark.parametrize('path', PROGRAMS, ids=name_of)
def test_a_program_imports_the_standard_library_and_netkit(path):
    """So what two programs need is in netkit, and a missing package is named before anything needs it."""
    standard = getattr(sys, 'stdlib_module_names', None)
    if standard is None:
        pytest.skip('this Python does not tell what its standard library is')
    # extras.py runs before anything is installed; a former name runs the program that has another now.
    known = {'netkit'} | ({'pip', 'tomllib'} if path.endswith('extras.py') else set())
    known |= {'measure'} if 'The former name of ' in text(path) else set()
    assert {name.split('.')[0] for name in imports(path)} - known <= standard


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_netkit_imports_no_program(path):
    programs = {os.path.basename(program)[:-3] for program in PROGRAMS}
    assert not {name.split('.')[0] for name in imports(path)} & programs


def lines_with(word, path):
    """Return the lines of code of a file with a word, without comments."""
    return [line for line in text(path).splitlines() if re.search(word, line) and not line.lstrip().startswith('#')]


def test_one_module_imports_mxnet_and_sets_its_variables():
    """Others may read the environment, and give a changed copy to the programs that they start."""
    reads = re.compile(r'environ\.get\(|in os\.environ\b|dict\(os\.environ|\*\*os\.environ')
    for path in PROGRAMS + MODULES:
        if name_of(path) != os.path.join('netkit', '_mxnet.py'):
            assert 'mxnet' not in {name.split('.')[0] for name in imports(path)}, path
            assert not [line for line in lines_with(r'environ\b|putenv', path) if not reads.search(line)], path


def test_one_module_touches_the_path():
    """tools/worker.py as well: it has to look like the script that it runs."""
    allowed = {os.path.join('netkit', 'project.py'), 'worker.py'}
    for path in PROGRAMS + MODULES:
        if name_of(path) not in allowed:
            assert not [line for line in lines_with(r'sys\.path\b', path) if 'in sys.path' not in line], path
            assert not [name for name in imports(path) if name.startswith('sys.')], path


def test_importing_netkit_has_no_effect():
    code = (
        'import signal, sys; before = list(sys.path), dict(sys.modules), signal.getsignal(2); import netkit; '
        'assert (sys.path, signal.getsignal(2)) == (before[0], before[2]); print(set(sys.modules) - set(before[1]))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=TOOLS, capture_output=True, text=True, check=True)
    assert done.stdout == "{'netkit'}\n"


def test_no_name_is_given_twice():
    names = [os.path.basename(path) for path in MODULES if not path.endswith('__init__.py')]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize('path', [path for path in MODULES if not path.endswith('cli.py')], ids=name_of)
def test_what_argparse_returns_ends_in_the_programs(path):
    assert not lines_with(r'\bargs\.', path)


def test_no_module_imports_itself_by_way_of_others():
    used = {}
    for path in MODULES:
        name = os.path.relpath(path, TOOLS)[:-3].replace(os.sep, '.').replace('.__init__', '')
        used[name] = imports(path)
    known = set(used)
    for name, found in used.items():  # from a.b import c is of a.b.c, if that is a module, else of a.b
        used[name] = {target if target in known else target.rpartition('.')[0] for target in found} & known - {'netkit'}
    done = set()

    def visit(name, chain):
        assert name not in chain, ' → '.join([*chain, name])
        if name not in done:
            for target in used[name]:
                visit(target, [*chain, name])
            done.add(name)

    for name in known:
        visit(name, [])


def test_one_module_interprets_names():
    """Of networks and nodes; those of others have their own, and published.py is a table of choices."""
    others = [(name,) for name in ('gluoncv2.py', 'iresnet.py', 'released.py', 'importing.py', 'published.py')]
    allowed = {os.path.join('netkit', *path) for path in (('graph', 'naming.py'), *others)}
    words = r'_imagenet|stage(\\d|_\?|\d)|_attention|trunk_unit|_mask|mask_|_unit|_plus(?!_scalar)|_attend'
    known = re.compile(rf'^\S*({words})\S*$')
    for path in PROGRAMS + MODULES:
        found = list(filter(known.search, strings(path)))
        assert name_of(path) in allowed or not found, (path, found)
