"""A symbol as nodes (operator, name, attributes, inputs) that can be read and rewritten."""

import ast
import json

from netkit._mxnet import mx

VERSION = 10901  # MXNet 1.9.1, of the symbol JSON that is written


class Node:
    """An operator, or a variable (`op` 'null'). `inputs` are pairs (node, index of its output)."""

    def __init__(self, op, name, attrs=(), inputs=()):
        self.op, self.name, self.attrs, self.inputs = op, name, dict(attrs), list(inputs)

    def attr(self, key, default=None):
        """Return the value of an attribute: a number, tuple, truth value, or else its text."""
        if key not in self.attrs:
            return default
        try:
            return ast.literal_eval(self.attrs[key])
        except (ValueError, SyntaxError):
            return self.attrs[key]

    def source(self, *path):
        """Return the node at the end of `path`, pairs (index of an input, its operator); None if one differs."""
        node = self
        for place, op in path:
            if place >= len(node.inputs) or node.inputs[place][0].op != op:
                return None
            node = node.inputs[place][0]
        return node


class Graph:
    """The nodes from which `outputs`, a list of pairs (node, index of its output), are computed."""

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
        """Return all nodes in topological order."""
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
        """Return {node: nodes that read it}; None in such a list stands for an output of the graph."""
        found = {node: [] for node in self.nodes()}
        for node in found:
            for source, _ in node.inputs:
                found[source].append(node)
        for node, _ in self.outputs:
            found[node].append(None)
        return found

    def rewritten(self, rule):
        """Return a new graph, with every operator replaced as `rule` says.

        `rule(node)` gets a copy of the operator, whose inputs are replaced already and which it may change. It returns
        the pair (node, index of its output) to replace it by, or None to keep it.
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
        return mx.sym.load_json(
            json.dumps(
                {
                    'nodes': described,
                    'arg_nodes': variables,
                    'heads': pointers(self.outputs),
                    'attrs': {'mxnet_version': ['int', VERSION]},
                }
            )
        )
