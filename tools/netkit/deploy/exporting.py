"""The files of a deployed network, written and compared with the network as it was trained."""

import os
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
from tqdm import tqdm

from netkit import checkpoints
from netkit.deploy.compare import TOLERANCES, compare, comparison_images, compute, compute_onnx
from netkit.deploy.fold import fold
from netkit.deploy.int8 import quantise
from netkit.deploy.plain import in_float32, plain
from netkit.errors import UserError
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol, save_symbol


class Folding(NamedTuple):
    """The result of `fold`."""

    norms: int  # BatchNorms before
    left: List[Tuple[str, str]]  # those that stayed: (name, why)
    before: int  # numbers stored before and after
    after: int


def export_symbol(symbol, prefix):
    """Write a symbol in its plain form."""
    path = prefix + '-symbol.json'
    save_symbol(path, plain(Graph.of(symbol)).symbol())
    load_symbol(path)  # raises UserError if what is on the disk is not a symbol


class Form(NamedTuple):
    """Options of an export."""

    fold_bn: Optional[bool]  # fold the BatchNorms of all files, of none, or (None) of the ONNX file alone
    onnx: bool
    batch: Optional[int]  # images that the ONNX file takes; None: any number
    precision: str  # of the ONNX file
    int8_for: Optional[str]  # the engine that an ONNX file in int8 is for


def export_model(form, target, pixels, prefix, promise=None):
    """Write a checkpoint's files under `prefix` in a Form, and compare them with the network.

    `target` is the checkpoint, cut at its embedding; `pixels`, (height, width, 3) or None, is an image to compare on
    besides noise; `promise` is what an ONNX file in int8 keeps.
    Returns ({path: (largest difference, minimum cosine)}, Folding or None, Quantised or None). Raises Different.
    """
    precision, quantised = 'float32' if promise else form.precision, None
    epoch = checkpoints.epoch_of(target.label)
    parameters, images = target.parameters, comparison_images(target.image_shape, pixels)
    graph, folding, results = plain(Graph.of(target.symbol)), None, {}
    with tqdm(total=3 + form.onnx, unit='step', leave=False, disable=None) as bar:
        bar.set_description('the network itself')
        expected = compute(in_float32(Graph.of(target.symbol)).symbol(), parameters, images)
        if not np.isfinite(expected).all() or not np.ptp(expected):
            problem = 'all the same' if np.isfinite(expected).all() else 'not finite'
            raise UserError(f'the embeddings of {target.label} are {problem}: there is nothing to export')
        bar.update()
        bar.set_description('MXNet')
        if form.fold_bn:
            graph, parameters, folding = folded(graph, parameters)
        checkpoints.save(prefix, epoch, graph.symbol(), parameters)
        bar.update()
        path = checkpoints.files(prefix, epoch)[1]
        symbol, arrays = checkpoints.load(prefix, epoch)
        results[path] = compare(compute(symbol, arrays, images), expected, TOLERANCES['float32'], path)
        bar.update()
        if form.onnx:
            bar.set_description('ONNX')
            if form.fold_bn is None:
                graph, parameters, folding = folded(graph, parameters)
            path = prefix + '.onnx'
            save_onnx(path, graph, parameters, target.image_shape, form.batch, precision)
            results[path] = compare(compute_onnx(path, images, form.batch), expected, TOLERANCES[precision], path)
            bar.update()
    if promise:
        del results[path]  # that of the float32 file
        quantised = quantise(path, os.path.dirname(prefix), promise, form.batch, form.int8_for)
    return results, folding, quantised


def folded(graph, parameters):
    """Fold the BatchNorms of a graph; return (graph, parameters, Folding)."""
    norms = sum(node.op == 'BatchNorm' for node in graph.nodes())
    graph, fewer, left = fold(graph, parameters)
    sizes = [sum(array.size for array in arrays.values()) for arrays in (parameters, fewer)]
    return graph, fewer, Folding(norms, left, *sizes)


def save_onnx(path, graph, parameters, image_shape, batch, precision):
    """Write a graph as an ONNX file; `batch` is the number of images that it takes, None for any."""
    import onnx

    from netkit.deploy import onnx_writer  # takes a second, which an export without ONNX need not wait

    model = onnx_writer.convert(graph, parameters, image_shape, batch)
    onnx.save(onnx_writer.in_half_precision(model) if precision == 'float16' else model, path)
