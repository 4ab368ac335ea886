"""A symbol as nodes that can be read and rewritten: operator, name, attributes, inputs."""
import ast
import json

from netkit._mxnet import mx

VERSION = 10901  # of the symbol JSON that is written: MXNet 1.9.1


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
            described.append({'op': node.op, 'name': node.name, 'inputs': pointers(node.inputs)})
            if node.attrs:
                described[-1]['attrs'] = node.attrs
        variables = [place[node] for node in nodes if node.op == 'null']
        return mx.sym.load_json(json.dumps({'nodes': described, 'arg_nodes': variables, 'heads': pointers(self.outputs),
                                                'attrs': {'mxnet_version': ['int', VERSION]}}))
