"""A symbol as nodes that can be read and rewritten: operator, name, attributes, inputs."""
import ast
import contextlib
import json
import re

from project import UserError

import mxnet as mx

DIVISORS = ('num_group', 'stride', 'dilate', 'num_outputs')  # attributes that MXNet divides by
VERSION = 10901  # of the symbol JSON that is written: MXNet 1.9.1


@contextlib.contextmanager
def refusals(sentence):
    """Turn what MXNet refuses in the block into a UserError: `sentence`, and MXNet's reason."""
    try:
        with contextlib.redirect_stdout(None):  # MXNet prints what it also raises
            yield
    except RuntimeError as error:  # an MXNetError, or what simple_bind makes of one
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError('%s: %s' % (sentence, next((line for line in lines if 'Error in operator' in line), lines[0])))


class Node:
    """An operator, or a variable (`op` is 'null'); `inputs` are pairs (node, number of its output)."""

    def __init__(self, op, name, attrs=(), inputs=()):
        self.op, self.name, self.attrs, self.inputs = op, name, dict(attrs), list(inputs)

    def attr(self, key, default=None):
        """Return the value of an attribute as a number, tuple or truth value; a word stays a word."""
        if key not in self.attrs:
            return default
        try:
            return ast.literal_eval(self.attrs[key])
        except (ValueError, SyntaxError):
            return self.attrs[key]

    def source(self, *path):
        """Return the node behind the inputs that `path` names, pairs (input, operator); None for other operators."""
        node = self
        for place, op in path:
            if place >= len(node.inputs) or node.inputs[place][0].op != op:
                return None
            node = node.inputs[place][0]
        return node


class Graph:
    """What `outputs`, a list of pairs (node, number of its output), are computed from."""

    def __init__(self, outputs):
        self.outputs = outputs

    @classmethod
    def of(cls, symbol):
        """Return the graph of an `mx.sym.Symbol`."""
        content = json.loads(symbol.tojson())
        nodes = []
        for node in content['nodes']:
            inputs = [(nodes[source], output) for source, output, *_ in node['inputs']]
            nodes.append(Node(node['op'], node['name'], node.get('attrs', {}), inputs))
        return cls([(nodes[source], output) for source, output, *_ in content['heads']])

    def nodes(self):
        """Return all nodes, each behind those that it reads."""
        ordered, seen = [], set()
        stack = [(node, False) for node, _ in reversed(self.outputs)]
        while stack:
            node, inputs_are_in = stack.pop()
            if inputs_are_in:
                ordered.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((source, False) for source, _ in reversed(node.inputs))
        return ordered

    def readers(self):
        """Return {node: the nodes that read it}; None stands for the reader of an output."""
        found = {node: [] for node in self.nodes()}
        for node in found:
            for source, _ in node.inputs:
                found[source].append(node)
        for node, _ in self.outputs:
            found[node].append(None)
        return found

    def rewritten(self, rule):
        """Return a new graph where what `rule` says stands in place of each operator.

        `rule(node)` sees a copy whose inputs are rewritten already, which it may change; it returns a pair (node,
        number of its output) to put in its place, or None to leave it.
        """
        new = {}

        def follow(source, output):
            return new[source] if isinstance(new[source], tuple) else (new[source], output)

        for node in self.nodes():
            copy = Node(node.op, node.name, node.attrs, [follow(*entry) for entry in node.inputs])
            new[node] = (None if node.op == 'null' else rule(copy)) or copy
        return Graph([follow(*entry) for entry in self.outputs])

    def symbol(self):
        """Return the graph as an `mx.sym.Symbol`."""
        nodes = self.nodes()
        place = {node: number for number, node in enumerate(nodes)}

        def pointers(entries):
            return [[place[node], output, 0] for node, output in entries]

        described = []
        for node in nodes:
            described.append(dict(op=node.op, name=node.name, inputs=pointers(node.inputs)))
            if node.attrs:
                described[-1]['attrs'] = node.attrs
        variables = [place[node] for node in nodes if node.op == 'null']
        return mx.sym.load_json(json.dumps(dict(nodes=described, arg_nodes=variables, heads=pointers(self.outputs),
                                                attrs={'mxnet_version': ['int', VERSION]})))


def load_symbol(path):
    """Return the `mx.sym.Symbol` of a symbol JSON file; raises UserError if it is none."""
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read()
        _check_pointers(json.loads(text))
        return mx.sym.load_json(text)
    except OSError as error:
        raise UserError('cannot read %s: %s' % (path, error.strerror))
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError('%s is not a symbol that this MXNet knows: %s' % (path, reason))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UserError('%s is not a symbol JSON of MXNet; is it there whole?' % path)


def _check_pointers(content):
    """Raise ValueError where a node of a symbol JSON points at no output of a node before it, or is to divide by 0.

    MXNet does not look, and crashes.
    """
    nodes = content['nodes']

    def check(entries, before):
        for source, output, *_ in entries:
            # Every operator has a first output; to ask for more takes a while.
            if not 0 <= source < before or output and not 0 < output < count_outputs(nodes[source], content.get('attrs', {})):
                raise ValueError('a node points nowhere')

    for number, node in enumerate(nodes):
        check(node['inputs'], number)
        for key in DIVISORS:
            if re.search(r'(?<![\d.])0(?![\d.])', str(node.get('attrs', {}).get(key, ''))):
                raise ValueError('%s of a node is 0' % key)
    check(content['heads'], len(nodes))


def count_outputs(node, attrs):
    """Return how many outputs a node of a symbol JSON, which has these `attrs`, has, by loading it alone.

    Raises MXNetError for one that MXNet does not know.
    """
    if node['op'] == 'BatchNorm':
        return 3  # two of them, mean and variance, are hidden
    inputs = [dict(op='null', name='input%d' % place, inputs=[]) for place in range(len(node['inputs']))]
    alone = dict(node, inputs=[[place, 0, 0] for place in range(len(inputs))])
    symbol = mx.sym.load_json(json.dumps(dict(nodes=inputs + [alone], arg_nodes=list(range(len(inputs))),
                                              heads=[[len(inputs), 0, 0]], attrs=attrs)))
    return len(symbol.get_internals().list_outputs()) - len(inputs)
