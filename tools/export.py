"""Bring a network out of training: symbol JSON, slim checkpoint, folded BatchNorms, ONNX.

With --network alone: the symbol. With --model: the checkpoint, cut at the embedding, as a plain inference network in
MXNet's own operators, whatever forms it was trained in. All files are read back and compared with the network as it was
trained; above the tolerance none of them is kept.
"""

import collections
import os
import sys

from netkit import checkpoints, report
from netkit.cli import Parser, add_sizes, file_prefix, run, whole_number
from netkit.data.images import read_image
from netkit.deploy.compare import TOLERANCES, Different
from netkit.deploy.exporting import export_model, export_symbol
from netkit.deploy.plain import cut
from netkit.errors import UserError
from netkit.files import keep_inputs, new_files
from netkit.targets import MODEL, of_options

FOLDED = '-folded'  # suffix of the prefix of files without BatchNorms


def parse_args(argv=None):
    parser = Parser(prog='export.py', description=__doc__)
    parser.add_argument('--network', help='network choice; with --model, the network that the checkpoint has to be of')
    parser.add_argument(
        '--model',
        metavar=MODEL,
        help='checkpoint: PREFIX-symbol.json (not read if --network is given) and PREFIX-EPOCH.params, or '
        "arcface_torch's model.pt",
    )
    parser.add_argument(
        '--output',
        required=True,
        type=file_prefix,
        metavar='PREFIX',
        help='prefix of what is written: PREFIX-symbol.json, PREFIX-EPOCH.params, PREFIX.onnx',
    )
    parser.add_argument(
        '--fold-bn',
        action='store_true',
        help='fold every BatchNorm that can be folded exactly into the layer beside it; the files are '
        f'called PREFIX{FOLDED}-… and are for inference, not to be trained further',
    )
    parser.add_argument('--onnx', action='store_true', help='write PREFIX.onnx too')
    parser.add_argument('--precision', choices=TOLERANCES, default='float32', help='of the ONNX file, inside')
    parser.add_argument(
        '--batch',
        type=whole_number(1, 4096),
        metavar='N',
        help='images that the ONNX file takes at a time (default: any number)',
    )
    add_sizes(parser)
    parser.add_argument('--image', metavar='FILE', help='compare on this image too')
    args = parser.parse_args(argv)
    if not args.model and (args.fold_bn or args.onnx or args.image):
        parser.error('--fold-bn, --onnx and --image need weights; name a --model')
    if not args.onnx and (args.batch or args.precision != 'float32'):
        parser.error("--batch and --precision are the ONNX file's; add --onnx")
    return args


def export(args, target, prefix):
    """Write the files of a Target under `prefix`; return ({path: (difference, cosine)}, Folding or None)."""
    symbol = cut(target.symbol)
    if target.parameters is None:
        export_symbol(symbol, prefix)
        return {}, None
    pixels = read_image(args.image, *target.image_shape[:2]) if args.image else None
    return export_model(args, target._replace(symbol=symbol), pixels, prefix)


def file_rows(scratch, folder, results):
    """Return the table's rows of the files in `scratch`, under the names they will have in `folder`."""
    rows = []
    for name in sorted(os.listdir(scratch)):
        path = os.path.join(scratch, name)
        agreement = (f'{results[path][0]:.1e}', f'{results[path][1]:.6f}') if path in results else ('–', '–')
        rows.append((os.path.join(folder, name), f'{os.path.getsize(path):,}', *agreement))
    return rows


def report_folding(folding):
    """Print how many BatchNorms were folded, and why others stayed."""
    print(
        f'{folding.norms - len(folding.left)} of {folding.norms} BatchNorms folded; {folding.before:,} numbers '
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
    print(
        'Not to be trained further: without its BatchNorms a network starts worse than from nothing. For that take '
        'the --model itself, or an export without --fold-bn.'
    )


def main():
    args = parse_args()
    folder, name = os.path.split(os.path.abspath(args.output))
    name += FOLDED * (args.fold_bn and not name.endswith(FOLDED))
    prefix = os.path.join(folder, name)
    is_checkpoint = args.model and not checkpoints.is_state_dict(args.model)
    if is_checkpoint and os.path.realpath(checkpoints.parse_model(args.model)[0]) == os.path.realpath(prefix):
        raise UserError(f'--output {args.output} would overwrite the --model; name another prefix')
    keep_inputs([prefix + '.onnx', prefix + '-symbol.json'], [args.image])
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    try:
        with new_files(folder) as scratch:
            results, folding = export(args, target, os.path.join(scratch, name))
            rows = file_rows(scratch, os.path.dirname(args.output), results)
    except Different as error:
        sys.stderr.write(f'export.py: {error}\n')
        return 1
    report.show('written', ('file', 'bytes', 'largest difference', 'smallest cosine'), rows)
    if results:
        print('Differences are from the network as it was trained, as a share of the range of its values.')
    if folding:
        report_folding(folding)
    return 0


if __name__ == '__main__':
    run(main)
