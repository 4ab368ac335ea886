"""Turn a gluoncv2 .params file of an ImageNet network into PREFIX-symbol.json and PREFIX-0000.params.

For cru56, cru116 and the attention networks, whose ImageNet weights the package gluoncv2 publishes. With --face the
face form of the network starts from every weight whose name and shape fit; the trainer initialises the rest
(insightface: --pretrained PREFIX --pretrained-epoch 0).
"""

import os

from netkit import checkpoints, report
from netkit.cli import Parser, file_prefix, run
from netkit.errors import UserError
from netkit.files import keep_inputs, new_files
from netkit.gluoncv2 import NETWORKS, convert, load, settings_for
from netkit.graph.naming import face_form
from netkit.networks import build, settings_of


def main():
    parser = Parser(prog='import_gluoncv2.py', description=__doc__.split('\n\n')[0])
    parser.add_argument('params', help='.params file, as gluoncv2 saves or publishes it')
    parser.add_argument('--network', required=True, help=f'network choice: {", ".join(NETWORKS)}')
    parser.add_argument(
        '--output', required=True, type=file_prefix, metavar='PREFIX', help='prefix of the two files to write'
    )
    parser.add_argument('--face', action='store_true', help='start the face form from every weight that fits')
    args = parser.parse_args()
    if args.network not in NETWORKS:
        raise UserError(f'--network {args.network} has no counterpart in gluoncv2; choose from {", ".join(NETWORKS)}')

    keep_inputs(checkpoints.files(args.output, 0), [args.params])
    network, changes = (face_form(args.network), {}) if args.face else (args.network, settings_for(args.network))
    symbol = build(network, **changes)
    converted, misfits = convert(symbol, load(args.params), settings_of(network)['image_shape'])
    if misfits and not args.face:
        raise UserError(f'{args.params} does not fit {args.network}: {next(iter(misfits.values()))}')
    if not converted:
        raise UserError(f'{args.params} has not one weight that fits {args.network}')

    folder, name = os.path.split(os.path.abspath(args.output))
    with new_files(folder) as scratch:
        checkpoints.save(os.path.join(scratch, name), 0, symbol, converted)
    if misfits:
        report.show('not taken over', ('parameter', 'why'), sorted(misfits.items()))
        report.show('taken over', ('parameter',), [(key,) for key in sorted(converted)])
    print(
        f'{len(converted)} parameters of {network} taken over, {len(misfits)} not; written: '
        f'{args.output}-symbol.json, {args.output}-0000.params'
    )


if __name__ == '__main__':
    run(main)
