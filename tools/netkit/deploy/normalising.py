"""Find a network's input normalisation: a multiplication and an addition for each channel."""

from typing import NamedTuple, Set

import numpy as np

from netkit.deploy.fold import affine
from netkit.graph.nodes import Node


class Normalisation(NamedTuple):
    """The output of `node` is scale · image + shift, of (3,) float64 each; the nodes `within` compute it."""

    node: Node
    scale: np.ndarray
    shift: np.ndarray
    within: Set[Node]


class Part(NamedTuple):
    """Channels of the image, normalised."""

    channels: np.ndarray  # their numbers
    scale: np.ndarray
    shift: np.ndarray

    def then(self, scale, shift):
        return Part(self.channels, self.scale * scale, self.shift * scale + shift)

    def only(self, places):
        return Part(*(of[places] for of in self))


NUMBERS = {  # {operator with a number: (scale, shift)}
    '_minus_scalar': lambda number: (1, -number),
    '_plus_scalar': lambda number: (1, number),
    '_mul_scalar': lambda number: (number, 0),
    '_div_scalar': lambda number: (1 / number, 0),
}


def normalisation(graph, parameters):
    """Return the Normalisation of a graph, with all that comes before the first other operator.

    Where other operators read the images at several places, it is that of nothing: the images themselves.
    """
    (images,) = (node for node in graph.nodes() if node.name == 'data')
    whole = Part(np.arange(3), np.ones(3), np.zeros(3))
    parts, ends = {(images, 0): whole}, set()  # {(node, its output): Part}, and those that other operators read
    for node in graph.nodes():
        found = outputs_of(node, [parts.get(entry) for entry in node.inputs], parameters)
        parts.update({(node, number): part for number, part in enumerate(found)})
        if not found:
            ends.update(entry for entry in node.inputs if entry in parts)
    end = next(iter(ends)) if len(ends) == 1 else (images, 0)
    if list(parts[end].channels) != list(whole.channels):
        end = images, 0
    within = set() if end[0] is images else {node for node, _ in parts}
    return Normalisation(end[0], parts[end].scale, parts[end].shift, within)


def outputs_of(node, inputs, parameters):
    """Return the Part of each output of a node, [] where it is another operator; `inputs` are Parts, or None."""
    if not inputs or inputs[0] is None:
        return []
    if node.op in NUMBERS:
        return [inputs[0].then(*NUMBERS[node.op](node.attr('scalar')))]
    if node.op == 'BatchNorm' and node.attr('axis', 1) == 1:
        return [inputs[0].then(*affine(node, parameters))]
    if node.op == 'SliceChannel' and node.attr('axis', 1) == 1 and not node.attr('squeeze_axis', False):
        places = np.split(np.arange(len(inputs[0].channels)), node.attr('num_outputs'))
        return [inputs[0].only(place) for place in places]
    if node.op == 'Concat' and node.attr('dim', 1) == 1 and None not in inputs:
        return [Part(*map(np.concatenate, zip(*inputs)))]
    return []
