"""Bring a network out of training: symbol JSON, slim checkpoint, folded BatchNorms, ONNX.

With --network alone: the symbol. With --model: the checkpoint, cut at the embedding, as a plain inference network in
MXNet's own operators, whatever it was trained as. All files are read back and compared with the network as it was
trained; above the tolerance none of them is kept.
"""
import collections
import os
import sys

from project import Parser, UserError, file_prefix, keep_inputs, new_files, run, whole_number

import mxnet as mx
import numpy as np
from tqdm import tqdm

import checkpoint
import tables
from graph import Graph, load_symbol
from inference import EMBEDDING, cut, fold, in_float32, plain
from pictures import read_image
from targets import add_sizes, of_options

# How far an embedding may be off, as a share of the range of the embeddings' values.
TOLERANCES = {'float32': 1e-4, 'float16': 1e-2}
RANDOM_IMAGES = 3
FOLDED = '-folded'  # behind the prefix of files without BatchNorms

# What `fold` did: BatchNorms that there were, those left with the reason, numbers stored before and after.
Folding = collections.namedtuple('Folding', 'norms left before after')


class Different(Exception):
    """A written file does not compute what the network does; the text says by how much."""


def parse_args(argv=None):
    parser = Parser(prog='export.py', description=__doc__)
    parser.add_argument('--network', help='network choice; with --model, the network that the checkpoint has to be of')
    parser.add_argument('--model', metavar='PREFIX,EPOCH',
                        help='checkpoint: PREFIX-symbol.json (not read if --network is given) and PREFIX-EPOCH.params')
    parser.add_argument('--output', required=True, type=file_prefix, metavar='PREFIX',
                        help='prefix of what is written: PREFIX-symbol.json, PREFIX-EPOCH.params, PREFIX.onnx')
    parser.add_argument('--fold-bn', action='store_true',
                        help='take every BatchNorm that can go exactly into the layer beside it; the files are called '
                             'PREFIX%s-… and are for inference, not to be trained further' % FOLDED)
    parser.add_argument('--onnx', action='store_true', help='write PREFIX.onnx too')
    parser.add_argument('--precision', choices=TOLERANCES, default='float32', help='of the ONNX file, inside')
    parser.add_argument('--batch', type=whole_number(1, 4096), metavar='N',
                        help='images that the ONNX file takes at a time (default: any number)')
    add_sizes(parser)
    parser.add_argument('--image', metavar='FILE', help='compare on this image too')
    args = parser.parse_args(argv)
    if not args.model and (args.fold_bn or args.onnx or args.image):
        parser.error('--fold-bn, --onnx and --image want weights; name a --model')
    if not args.onnx and (args.batch or args.precision != 'float32'):
        parser.error('--batch and --precision are the ONNX file\'s; add --onnx')
    return args


def comparison_images(image_shape, path=None):
    """Return images to compare on, (n, 3, height, width) float32 of 0…255: noise, and the image at `path` resized."""
    height, width, _ = image_shape
    images = np.random.RandomState(0).randint(0, 256, (RANDOM_IMAGES, 3, height, width)).astype(np.float32)
    if not path:
        return images
    pixels = read_image(path, height, width)
    return np.concatenate([images, pixels.transpose(2, 0, 1)[None].astype(np.float32)])


# ----------------------------------------------------------------------------------------------- computing

def compute(symbol, parameters, images):
    """Return what a symbol makes of images in inference."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            array[:] = images if name == 'data' else parameters[name]
    return executor.forward(is_train=False)[0].asnumpy()


def compute_onnx(path, images, batch):
    """Return what onnxruntime makes of images with an ONNX file, `batch` at a time (None: all)."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    batch = batch or len(images)
    padded = np.concatenate([images, np.zeros((-len(images) % batch,) + images.shape[1:], np.float32)])
    parts = padded.reshape((-1, batch) + images.shape[1:])
    return np.concatenate([session.run([EMBEDDING], {'data': part})[0] for part in parts])[:len(images)]


def compare(actual, expected, tolerance, path):
    """Return (largest difference as a share of the range, smallest cosine); raises Different above `tolerance`."""
    difference = np.abs(actual - expected).max() / np.ptp(expected)
    rows = [array.reshape(len(array), -1).astype(np.float64) for array in (actual, expected)]
    lengths = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    cosine = (np.sum(rows[0] * rows[1], axis=1) / lengths).min()
    if not difference <= tolerance:  # NaN is not
        raise Different('%s differs from the network by %.1e of the range of its values, more than %.0e; nothing was '
                        'written' % (os.path.basename(path), difference, tolerance))
    return difference, cosine


# ----------------------------------------------------------------------------------------------- exporting

def export_symbol(symbol, prefix):
    """Write the symbol of a network choice."""
    path = prefix + '-symbol.json'
    checkpoint.save_symbol(path, plain(Graph.of(symbol)).symbol())
    load_symbol(path)  # what is on the disk is a symbol


def export_model(args, symbol, parameters, image_shape, prefix):
    """Write a checkpoint's files under `prefix` and compare them with the network of `symbol` and `parameters`.

    Returns ({path: (largest difference, smallest cosine)}, what was done to the BatchNorms). Raises Different.
    """
    epoch = checkpoint.parse_model(args.model)[1]
    images = comparison_images(image_shape, args.image)
    graph, folding, results = plain(Graph.of(symbol)), None, {}
    with tqdm(total=3 + args.onnx, unit='step', leave=False, disable=None) as bar:
        bar.set_description('the network itself')
        expected = compute(in_float32(Graph.of(symbol)).symbol(), parameters, images)
        if not np.isfinite(expected).all() or not np.ptp(expected):
            raise UserError('the embeddings of %s are %s: there is nothing to export'
                            % (args.model, 'all the same' if np.isfinite(expected).all() else 'not finite'))
        bar.update()
        bar.set_description('MXNet')
        if args.fold_bn:
            before = sum(array.size for array in parameters.values())
            norms = sum(node.op == 'BatchNorm' for node in graph.nodes())
            graph, parameters, left = fold(graph, parameters)
            folding = Folding(norms, left, before, sum(array.size for array in parameters.values()))
        checkpoint.save(prefix, epoch, graph.symbol(), parameters)
        bar.update()
        path = checkpoint.files(prefix, epoch)[1]
        results[path] = compare(compute(*checkpoint.load(prefix, epoch), images), expected, TOLERANCES['float32'], path)
        bar.update()
        if args.onnx:
            bar.set_description('ONNX')
            path = prefix + '.onnx'
            save_onnx(path, graph, parameters, image_shape, args.batch, args.precision)
            results[path] = compare(compute_onnx(path, images, args.batch), expected, TOLERANCES[args.precision], path)
            bar.update()
    return results, folding


def save_onnx(path, graph, parameters, image_shape, batch, precision):
    """Write a graph as an ONNX file."""
    import onnx

    import onnx_graph
    model = onnx_graph.convert(graph, parameters, image_shape, batch)
    onnx.save(onnx_graph.in_half_precision(model) if precision == 'float16' else model, path)


def file_rows(scratch, folder, results):
    """Return the table's rows of the files in `scratch`, under the names they will have in `folder`."""
    rows = []
    for name in sorted(os.listdir(scratch)):
        path = os.path.join(scratch, name)
        agreement = ('%.1e' % results[path][0], '%.6f' % results[path][1]) if path in results else ('–', '–')
        rows.append((os.path.join(folder, name), '{:,}'.format(os.path.getsize(path))) + agreement)
    return rows


def report_folding(folding):
    """Print what `fold` did, and why BatchNorms stayed."""
    print('{} of {} BatchNorms folded; {:,} numbers before, {:,} after.'.format(
        folding.norms - len(folding.left), folding.norms, folding.before, folding.after))
    first, counts = {}, collections.Counter(why for _, why in folding.left)
    for name, why in folding.left:
        first.setdefault(why, name)
    if first:
        tables.show('BatchNorms that stay', ('count', 'where', 'the first of them'),
                    [(str(counts[why]), why, name) for why, name in first.items()])


def main():
    args = parse_args()
    folder, name = os.path.split(os.path.abspath(args.output))
    name += FOLDED * (args.fold_bn and not name.endswith(FOLDED))
    if args.model:
        prefix, _ = checkpoint.parse_model(args.model)
        if os.path.realpath(prefix) == os.path.realpath(os.path.join(folder, name)):
            raise UserError('--output %s would overwrite the --model; name another prefix' % args.output)
    prefix = os.path.join(folder, name)
    keep_inputs([prefix + '.onnx', prefix + '-symbol.json'], [args.image])
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    symbol, results, folding = cut(target.symbol), {}, None
    try:
        with new_files(folder) as scratch:
            prefix = os.path.join(scratch, name)
            if target.parameters is None:
                export_symbol(symbol, prefix)
            else:
                results, folding = export_model(args, symbol, target.parameters, target.image_shape, prefix)
            rows = file_rows(scratch, os.path.dirname(args.output), results)
    except Different as error:
        sys.stderr.write('export.py: %s\n' % error)
        return 1
    tables.show('written', ('file', 'bytes', 'largest difference', 'smallest cosine'), rows)
    if results:
        print('Differences are from the network as it was trained, as a share of the range of its values.')
    if folding:
        report_folding(folding)
        print('Not to be trained further: without its BatchNorms a network starts worse than from nothing. For that take the '
              '--model itself, or an export without --fold-bn.')
    return 0


if __name__ == '__main__':
    run(main)
