"""Export a trained network: symbol JSON, slim checkpoint, folded BatchNorms, ONNX.

With --network alone, it writes the symbol. With --model, it writes the checkpoint, cut at the embedding, as a plain
network for inference in MXNet's own operators. The ONNX file has BatchNorms folded into the layers next to them; the
checkpoint keeps them. The program reads all files back and compares them with the trained network. If they differ by
more than the tolerance, it writes nothing.
"""

import collections
import contextlib
import os
import sys

from netkit.project import start

start()

from netkit import checkpoints, report
from netkit.cli import Parser, add_sizes, file_prefix, folder_name, number, run, whole_number
from netkit.data.images import read_image
from netkit.data.samples import samples
from netkit.deploy import triton
from netkit.deploy.compare import TOLERANCES, Different
from netkit.deploy.exporting import Form, export_model, export_symbol
from netkit.deploy.int8 import CALIBRATION, HELD_OUT, MIN_CENTRED, MIN_COSINE, SCHEMES, Promise, quantise
from netkit.deploy.plain import cut
from netkit.errors import UserError
from netkit.evaluation import verification
from netkit.evaluation.engines import OnnxEngine
from netkit.files import keep_inputs, new_files
from netkit.targets import MODEL, of_options

INT8 = 'int8'  # a value of --precision
BATCH = 8  # images in the verification
FOLDED = '-folded'  # suffix of the prefix of files without BatchNorms


def parse_args(argv=None):
    parser = Parser(prog='export.py', description=__doc__)
    parser.add_argument(
        '--network', help='network to export, or with --model, the network that the checkpoint must match'
    )
    parser.add_argument(
        '--model',
        metavar=MODEL,
        help='checkpoint: PREFIX-symbol.json (not read with --network) and PREFIX-EPOCH.params, or '
        "arcface_torch's model.pt",
    )
    parser.add_argument(
        '-o',
        '--output',
        required=True,
        type=file_prefix,
        metavar='PREFIX',
        help='write PREFIX-symbol.json, PREFIX-EPOCH.params and PREFIX.onnx',
    )
    parser.add_argument(
        '--onnx-in',
        metavar='FILE.onnx',
        help='with --precision int8: quantise the ONNX file of any face recogniser instead of a checkpoint; its '
        'normalisation stays',
    )
    folding = parser.add_mutually_exclusive_group()
    folding.add_argument(
        '--fold-bn',
        action='store_true',
        default=None,
        help=f'fold BatchNorms in the checkpoint, too; the files are named PREFIX{FOLDED}-… and are for inference only',
    )
    folding.add_argument(
        '--no-fold-bn', dest='fold_bn', action='store_false', default=None, help='keep the BatchNorms in the ONNX file'
    )
    parser.add_argument('--onnx', action='store_true', help='write PREFIX.onnx, too')
    parser.add_argument(
        '--precision',
        choices=[*TOLERANCES, INT8],
        default='float32',
        help='precision of weights and feature maps in the ONNX file; input and output stay float32; int8 requires '
        '--calibration',
    )
    parser.add_argument(
        '--batch-size', type=whole_number(1, 4096), metavar='N', help='fixed batch size of the ONNX file (default: any)'
    )
    parser.add_argument(
        '--triton',
        type=folder_name,
        metavar='FOLDER',
        help='add the ONNX file, with a config.pbtxt, to this model repository of a Triton server',
    )
    add_sizes(parser)
    add_int8(parser)
    parser.add_argument('--image', metavar='FILE', help='compare on this image, too')
    args = parser.parse_args(argv)
    if not args.model and not args.onnx_in and (args.fold_bn or args.onnx or args.image):
        parser.error('--fold-bn, --onnx and --image need weights; pass --model')
    if args.onnx_in:
        others = args.model, args.network, args.image, args.triton, args.batch_size, args.fold_bn is not None
        if args.precision != INT8 or any(others):
            parser.error('--onnx-in is for --precision int8 of the file as it is, without other options of networks')
        args.onnx = True
    if not args.onnx and (args.batch_size or args.triton or args.precision != 'float32'):
        parser.error("--batch-size, --precision and --triton are the ONNX file's; add --onnx")
    if args.triton and args.batch_size:
        parser.error('--triton is for a file that takes any number of images; leave out --batch-size')
    if args.fold_bn is False and not args.onnx:
        parser.error('--no-fold-bn is for the ONNX file; add --onnx')
    if args.precision == INT8 and args.fold_bn is False:
        parser.error('--precision int8 is for folded BatchNorms; leave out --no-fold-bn')
    if args.precision == INT8 and not args.calibration:
        parser.error('--precision int8 needs faces; add --calibration DATA')
    if args.precision != INT8 and (args.calibration or args.verify or args.int8_for != 'cpu'):
        parser.error('--calibration, --verify and --int8-for are for --precision int8')
    if args.calibration and args.verify and os.path.realpath(args.calibration) == os.path.realpath(args.verify):
        parser.error('--verify and --calibration must be different data; pass another --calibration')
    return args


def add_int8(parser):
    """Add the options of an ONNX file in int8."""
    group = parser.add_argument_group('int8', 'The fewest possible layers stay in float so that all limits hold.')
    group.add_argument(
        '--int8-for',
        choices=SCHEMES,
        default='cpu',
        help='cpu: for onnxruntime and OpenVINO; tensorrt: for TensorRT (onnxruntime runs it in float on a CPU)',
    )
    group.add_argument(
        '--calibration',
        metavar='DATA',
        help="calibration faces: a data set in insightface's format, a .bin file, or a folder of aligned faces",
    )
    group.add_argument(
        '--calibration-images',
        type=whole_number(1, 100000),
        default=CALIBRATION,
        metavar='N',
        help='number of calibration faces',
    )
    group.add_argument('--seed', type=whole_number(0, 2**32 - 1), default=0, help='of the choice of calibration faces')
    group.add_argument(
        '--min-cosine',
        type=number(0, 1),
        default=MIN_COSINE,
        help=f'minimum cosine with the embedding in float, on up to {HELD_OUT} other faces of DATA, a quarter of it '
        'where it has fewer than all those',
    )
    group.add_argument(
        '--min-centred-cosine',
        type=number(-1, 1),
        default=MIN_CENTRED,
        help='the same for embeddings minus the mean embedding in float',
    )
    group.add_argument('--verify', metavar='FILE.bin', help='compare the accuracy on this verification set, too')
    group.add_argument('--max-drop', type=number(0, 100), default=0.3, help='largest drop of the accuracy, in points')


def promise_of(args, image_shape, normalised=lambda images: images):
    """Return the Promise of an ONNX file in int8, which takes `normalised` images; None for another precision."""
    if args.precision != INT8:
        return None
    faces = samples(args.calibration, image_shape, args.calibration_images, HELD_OUT, args.seed)

    def accuracy(path):
        engine = OnnxEngine(path, args.batch_size or BATCH, image_shape)
        return 100 * verification.evaluate(engine, os.path.basename(args.verify), args.verify).accuracy.mean

    return Promise(
        *map(normalised, faces),
        min_cosine=args.min_cosine,
        min_centred=args.min_centred_cosine,
        max_drop=args.max_drop,
        accuracy=accuracy if args.verify else None,
    )


def export(args, target, prefix):
    """Write the files of a Target under `prefix`.

    Returns ({path: (difference, cosine)}, Folding or None, Quantised or None).
    """
    symbol = cut(target.symbol)
    if target.parameters is None:
        export_symbol(symbol, prefix)
        return {}, None, None
    pixels = read_image(args.image, *target.image_shape[:2]) if args.image else None
    form = Form(args.fold_bn, args.onnx, args.batch_size, args.precision, args.int8_for)
    promise = promise_of(args, target.image_shape)
    return export_model(form, target._replace(symbol=symbol), pixels, prefix, promise)


def quantise_file(args):
    """Quantise the ONNX file of --onnx-in; return the exit status."""
    from netkit.deploy import foreign  # which imports onnx, for a second

    folder, name = os.path.split(os.path.abspath(args.output))
    keep_inputs([args.output + '.onnx'], [args.onnx_in, args.calibration, args.verify])
    given = OnnxEngine(args.onnx_in, args.batch_size or BATCH, args.image_size)
    promise = promise_of(args, given.image_shape, given.normalised)
    with new_files(folder) as scratch:
        path = os.path.join(scratch, name + '.onnx')
        foreign.ready(args.onnx_in, path)
        quantised = quantise(path, scratch, promise, given.fixed, args.int8_for)
        if OnnxEngine(path, BATCH).is_raw != given.is_raw:
            raise UserError(f'{args.onnx_in}: the nodes by which insightface knows its normalisation would be lost')
        size = os.path.getsize(path)
    report.show('written', ('file', 'bytes'), [(args.output + '.onnx', f'{size:,}')])
    print('It takes ' + ('raw images.' if given.is_raw else 'images in (x - 127.5) / 127.5, as --onnx-in does.'))
    report_int8(quantised)
    return 0


def file_rows(scratch, folder, results):
    """Return the table's rows of the files in `scratch`, under the names they will have in `folder`."""
    rows = []
    for name in sorted(os.listdir(scratch)):
        path = os.path.join(scratch, name)
        agreement = (f'{results[path][0]:.1e}', f'{results[path][1]:.6f}') if path in results else ('–', '–')
        rows.append((os.path.join(folder, name), f'{os.path.getsize(path):,}', *agreement))
    return rows


def report_folding(folding, name, is_trainable):
    """Print how many BatchNorms were folded in the file(s) `name`, and why others stayed."""
    print(
        f'{name}: {folding.norms - len(folding.left)} of {folding.norms} BatchNorms folded; {folding.before:,} numbers '
        f'before, {folding.after:,} after.'
    )
    first, counts = {}, collections.Counter(why for _, why in folding.left)
    for name, why in folding.left:
        first.setdefault(why, name)
    if first:
        report.show(
            'BatchNorms that stay',
            ('count', 'where', 'the first of them'),
            [(str(counts[why]), why, name) for why, name in first.items()],
        )
    if not is_trainable:
        print(
            'Not to be trained further: without its BatchNorms a network starts worse than from scratch. For that take '
            'the --model itself, or an export without --fold-bn.'
        )


def report_int8(quantised):
    """Print the int8 file's Outcome and the layers left in float."""
    outcome = quantised.outcome
    drop = '' if outcome.drop is None else f'; accuracy {0 - outcome.drop:+.2f} points'  # not -0.00
    print(
        f'{quantised.layers - len(quantised.left)} of {quantised.layers} layers in int8; against float32, on other '
        f'faces: minimum cosine {outcome.smallest:.4f}, mean {outcome.mean:.4f}, smallest from the mean embedding '
        f'{outcome.centred:.4f}{drop}'
    )
    if quantised.left:
        report.show(
            'layers that stay in float',
            ('layer', 'alone, it takes from the mean cosine'),
            [(layer, f'{cost:.5f}') for layer, cost in quantised.left.items()],
        )


def export_network(args):
    """Write and list the files of --network or --model; return the exit status."""
    folder, name = os.path.split(os.path.abspath(args.output))
    name += FOLDED * bool(args.fold_bn and not name.endswith(FOLDED))
    prefix = os.path.join(folder, name)
    is_checkpoint = args.model and not checkpoints.is_state_dict(args.model)
    if is_checkpoint and os.path.realpath(checkpoints.parse_model(args.model)[0]) == os.path.realpath(prefix):
        raise UserError(f'--output {args.output} would overwrite the --model; name another prefix')
    keep_inputs([prefix + '.onnx', prefix + '-symbol.json'], [args.image, args.calibration, args.verify])
    if args.triton:
        triton.check_new(args.triton, name)
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    with contextlib.ExitStack() as stack:
        repository = stack.enter_context(new_files(args.triton)) if args.triton else None
        scratch = stack.enter_context(new_files(folder))
        results, folding, quantised = export(args, target, os.path.join(scratch, name))
        rows = file_rows(scratch, os.path.dirname(args.output), results)
        if repository:
            triton.write(repository, name, os.path.join(scratch, name + '.onnx'))
    report.show('written', ('file', 'bytes', 'largest difference', 'minimum cosine'), rows)
    if results:
        print('Differences are from the network as it was trained, as a share of the range of its values.')
    if args.triton:
        print(f'{name} is a model of the repository {args.triton} now: tritonserver --model-repository {args.triton}')
    if quantised:
        report_int8(quantised)
    if folding:
        report_folding(folding, f'{name}-…' if args.fold_bn else f'{name}.onnx', not args.fold_bn)
    if args.fold_bn is False:
        print(
            f'{name}.onnx keeps its BatchNorms. It is not for OpenCV, which is wrong where the number of images '
            'changes, nor for ncnn, whose converter may crash.'
        )
    return 0


def main():
    args = parse_args()
    try:
        return quantise_file(args) if args.onnx_in else export_network(args)
    except Different as error:
        sys.stderr.write(f'export.py: {error}; nothing was written\n')
        return 1


if __name__ == '__main__':
    run(main)
