"""Turn the ImageNet weights of another implementation into PREFIX-symbol.json and PREFIX-0000.params.

FILE is a .params file of gluoncv2 (cru56, cru116, att56 to att452), or a PyTorch state dict of iResNet's authors
(ires18 to ires1001, iresgroup, iresgroupfix) in either of PyTorch's formats, which is read without PyTorch. With --face
the face form of the network starts from every weight whose name and shape fit; the trainer initialises the rest
(insightface: --pretrained PREFIX --pretrained-epoch 0).
"""

import os

from netkit import checkpoints, importing, report
from netkit.cli import Parser, file_prefix, run
from netkit.errors import UserError
from netkit.evaluation import imagenet as classification
from netkit.evaluation.engines import open_engine
from netkit.files import keep_inputs, new_files
from netkit.graph.naming import face_form, original_form

EPOCH = 0
LIKELIEST = 5


def parse_args(argv=None):
    parser = Parser(prog='import_weights.py', description=__doc__)
    parser.add_argument('file', metavar='FILE', help='the weights, as gluoncv2 or torch.save wrote them')
    parser.add_argument('--network', help='network choice that they have to be of (default: the one that fits)')
    parser.add_argument(
        '--output', required=True, type=file_prefix, metavar='PREFIX', help='prefix of the two files to write'
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument('--face', action='store_true', help='start the face form from every weight that fits')
    either.add_argument(
        '--image',
        metavar='PICTURE',
        help=f'print the numbers of the {LIKELIEST} likeliest classes of this picture, in the order of the labels that '
        'the network was trained with (ImageNet: sorted by WordNet ID, from 0), to see whether all went well',
    )
    return parser.parse_args(argv)


def main():
    args = parse_args()
    keep_inputs(checkpoints.files(args.output, EPOCH), [args.file, *filter(None, [args.image])])
    picture = classification.read_picture(args.image) if args.image else None
    source = importing.source_of(args.file)
    network = original_form(args.network) if args.network and args.face else args.network
    if network and network not in source.networks and original_form(network) in source.networks:
        raise UserError(f'--network {network} is a face network: add --face, or name {original_form(network)}')
    if network and network not in source.networks:
        raise UserError(
            f'--network {args.network}: {args.file} is a file of {source.title}, who have no such network; choose from '
            f'{", ".join(source.networks)}'
        )
    loaded = importing.load(source, args.file)
    network = network or importing.recognised(source, loaded)
    parameters, misfits = importing.convert(source, network, loaded, args.file), {}
    if args.face:
        symbol, parameters, misfits = importing.start_face(source, network, parameters)
    else:
        symbol = importing.build_like(source, network)

    folder, name = os.path.split(os.path.abspath(args.output))
    with new_files(folder) as scratch:
        checkpoints.save(os.path.join(scratch, name), EPOCH, symbol, parameters)
    if misfits:
        report.show('not taken over', ('parameter', 'why'), sorted(misfits.items()))
        report.show('taken over', ('parameter',), [(key,) for key in sorted(parameters)])
    symbol_path, path = checkpoints.files(args.output, EPOCH)
    named = face_form(network) if args.face else network
    print(f'{len(parameters)} parameters of {named} taken over, {len(misfits)} not; written: {symbol_path}, {path}')
    settings = importing.face_settings(source, network) if args.face else {}
    for key, value in settings.items():
        print(f'to train it, name --network {named}:{key}={value}; in insightface, say {key} = {value!r} in its config')
    if args.image:
        engine = open_engine(f'{args.output},{EPOCH}', 1, image_shape=(classification.SIDE, classification.SIDE, 3))
        found = classification.likeliest(engine, picture, LIKELIEST)
        rows = [(str(rank), str(number), f'{100 * share:.2f} %') for rank, (number, share) in enumerate(found, 1)]
        report.show(args.image, ('', 'class', 'probability'), rows)


if __name__ == '__main__':
    run(main)
