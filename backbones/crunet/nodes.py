"""The nodes of a symbol, without MXNet: recorded while a builder of `symbols/` runs, or read from a symbol's JSON."""

import contextlib
import importlib
import json
import os
import sys
import types
from typing import Dict, List, NamedTuple, Tuple

from . import identifiers as names


class Node(NamedTuple):
    """An operator or, with `op` 'null', a variable of a symbol. Attributes are texts, as in JSON."""

    op: str
    name: str
    attrs: Dict[str, str]
    inputs: List[Tuple[int, int]]  # (place in the list of nodes, output)


def read_json(path):
    """Return the nodes of a symbol's JSON, whose names become identifiers.

    Raises ValueError for another file, and OSError.
    """
    try:
        with open(path, encoding='utf-8') as file:
            graph = json.load(file)
        nodes = [
            Node(
                str(node['op']),
                str(node['name']),
                {key: str(value) for key, value in (node.get('attrs') or node.get('param') or {}).items()},
                [(int(entry[0]), int(entry[1])) for entry in node['inputs']],
            )
            for node in graph['nodes']
        ]
        in_order = all(0 <= place < number for number, node in enumerate(nodes) for place, _ in node.inputs)
        (head,) = [int(entry[0]) for entry in graph['heads']]
    except OSError:
        raise
    except Exception as error:  # JSON of anything else
        raise ValueError(f'{path} is not a symbol of one output that MXNet has written: {error!r}')
    if not in_order or not 0 <= head < len(nodes):
        raise ValueError(f'{path} is not a symbol that MXNet has written: its nodes are not in order')
    if nodes[head].op == 'null':
        raise ValueError(f'{path} is not a network: its output is a variable')
    given = [node.name for node in nodes]
    if len(set(given)) < len(given):
        raise ValueError(f'{path} has two nodes of one name')
    named = names.identifiers(given)  # torch.fx writes them into the code that it makes
    return [node._replace(name=named[node.name]) for node in nodes[: head + 1]]


class Recorded:
    """A symbol of the stand-in: an output of a node."""

    def __init__(self, op, name, attrs, inputs, output=0):
        self.op, self.name, self.attrs, self.inputs, self.output = op, name, attrs, inputs, output

    def __getitem__(self, output):
        """Return another output of the same node."""
        return _Output(self, output)

    def get_children(self):
        """Return the inputs; None for a variable, as in MXNet."""
        return self.inputs or None

    def get_internals(self):
        """Return all nodes up to this one, each behind its inputs."""
        order, stack = {}, [(self, False)]
        while stack:
            node, is_done = stack.pop()
            if is_done:
                order[node] = None
            elif node not in order:
                stack.append((node, True))
                stack += [(entry.node, False) for entry in reversed(node.inputs)]
        return list(order)

    def _set_attr(self, **attrs):
        self.attrs.update(attrs)

    @property
    def node(self):
        """The node itself, of which this is an output."""
        return self


class _Output(NamedTuple):
    node: Recorded
    output: int


IDENTITIES = '_copy', 'identity', 'Cast'  # operators that pass on what they read
# Inputs of operators in MXNet's order; inputs that a call omits become separate variables.
INPUTS = {
    'Convolution': ('data', 'weight', 'bias'),
    'FullyConnected': ('data', 'weight', 'bias'),
    'BatchNorm': ('data', 'gamma', 'beta', 'moving_mean', 'moving_var'),
    'LeakyReLU': ('data', 'gamma'),
}
OPERATORS = {'reshape': 'Reshape', 'identity': '_copy'}  # names of functions that differ from their operators'


def recorder():
    """Return a module that can replace `mxnet` while a builder runs."""

    def operator(name):
        def call(*given, **settings):
            label, op = settings.pop('name'), OPERATORS.get(name, name)
            named = {key: settings.pop(key) for key in list(settings) if isinstance(settings[key], (Recorded, _Output))}
            attrs = {key: str(value) for key, value in settings.items()}
            wanted = INPUTS.get(op, ())
            if attrs.get('no_bias') == 'True' or op == 'LeakyReLU' and attrs['act_type'] != 'prelu':
                wanted = wanted[:-1]
            inputs = dict(zip(wanted, given)) if wanted else dict(enumerate(given))
            inputs.update(named)
            for key in wanted:
                if key not in inputs:
                    inputs[key] = Recorded('null', f'{label}_{key}', {}, [])
            order = wanted or list(inputs)
            return Recorded(op, label, attrs, [inputs[key] for key in order])

        return call

    def variable(name, shape=None, init=None):
        return Recorded('null', name, {'__shape__': str(tuple(shape))} if shape else {}, [])

    class Operators(types.ModuleType):
        prefix = ''

        def __getattr__(self, name):
            return operator(self.prefix + name)

    stand_in, sym = types.ModuleType('mxnet'), Operators('mxnet.sym')
    sym.Variable, sym._internal, sym.Symbol = variable, Operators('mxnet.sym._internal'), Recorded
    sym.contrib = Operators('mxnet.sym.contrib')
    sym.contrib.prefix = '_contrib_'
    stand_in.sym = stand_in.symbol = sym
    stand_in.init = types.SimpleNamespace(Constant=lambda value: value)
    return stand_in


@contextlib.contextmanager
def stood_in(folder):
    """Let imports of modules in `folder` use the stand-in for MXNet; restore everything afterwards."""
    before = dict(sys.modules)
    own = {name[:-3] for name in os.listdir(folder) if name.endswith('.py')}
    try:
        for name in own:
            sys.modules.pop(name, None)
        sys.modules['mxnet'] = recorder()
        sys.path.insert(0, folder)
        yield
    finally:
        sys.path.remove(folder)
        for name in own | {'mxnet'}:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def record(folder, module, **settings):
    """Return the nodes of the network that the builder `module` in `folder` makes of its settings.

    Raises ValueError for settings that it does not accept.
    """
    with stood_in(os.path.abspath(folder)):
        return nodes_of(importlib.import_module(module).build(**settings))


def nodes_of(symbol):
    """Return the nodes of a Recorded symbol."""
    order = symbol.get_internals()
    place = {node: number for number, node in enumerate(order)}
    return [
        Node(node.op, node.name, node.attrs, [(place[entry.node], entry.output) for entry in node.inputs])
        for node in order
    ]


def source(nodes, place):
    """Return the place of the node itself, or of its source if the node is an identity."""
    while nodes[place].op in IDENTITIES:
        place = nodes[place].inputs[0][0]
    return place
