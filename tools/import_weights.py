"""Turn the weights of another implementation into PREFIX-symbol.json and PREFIX-0000.params.

The source is detected from the parameter names in FILE. MXNet files: the face networks of 2018 (.params or
PREFIX,EPOCH), CRU-Net's authors, gluoncv2. PyTorch files: FaceX-Zoo's and tengshaofeng's attention networks, iResNet's
authors, torchvision's ResNets; they are read without PyTorch, and nothing in a file is executed. docs/networks.md lists
the networks of each source. With --face a face network starts from every weight of an ImageNet network whose name and
shape fit; the trainer initialises the rest (insightface: --pretrained PREFIX --pretrained-epoch 0).
"""

import os
import shlex

from netkit.project import start

start()

from netkit import checkpoints, importing, report
from netkit.cli import Parser, file_prefix, run
from netkit.errors import UserError
from netkit.evaluation import imagenet as classification
from netkit.evaluation.engines import open_engine
from netkit.files import keep_inputs, new_files
from netkit.graph.naming import face_form, is_original, original_form
from netkit.networks import parse, settings_of

EPOCH = 0
LIKELIEST = 5


def parse_args(argv=None):
    parser = Parser(prog='import_weights.py', description=__doc__)
    parser.add_argument('file', metavar='FILE', help='weights, as MXNet, gluoncv2 or torch.save wrote them')
    parser.add_argument('--network', help='network that the weights must match (default: detected)')
    parser.add_argument(
        '-o', '--output', required=True, type=file_prefix, metavar='PREFIX', help='prefix of the two files to write'
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument('--face', action='store_true', help='start the face network from every weight that fits')
    either.add_argument(
        '--image',
        metavar='PICTURE',
        help=f'print the numbers of the {LIKELIEST} most probable classes of this picture, in the order of the labels '
        'that the network was trained with (ImageNet: sorted by WordNet ID, from 0), to check the import',
    )
    return parser.parse_args(argv)


def network_of(args, source, loaded):
    """Return the network that the file is imported as, --network or the one that fits; raises UserError."""
    if args.network is None:
        return importing.recognised(source, loaded)
    named, settings = parse(args.network)
    network = original_form(named) if args.face else named
    if network in source.networks:
        theirs = {} if args.face else source.settings_for(network, loaded)
        for key, value in settings.items():
            if theirs.get(key, value) != value:
                raise UserError(f'--network {args.network}: {args.file} has {key}={theirs[key]}')
        return network
    if original_form(network) in source.networks:
        raise UserError(f'--network {network} is a face network: add --face, or pass {original_form(network)}')
    raise UserError(
        f'--network {args.network}: {args.file} is a file of {source.title}, who have no such network; choose from '
        f'{", ".join(source.networks)}'
    )


def show_settings(network, settings):
    """Print how to name the network that these weights belong to."""
    settings = {key: value for key, value in settings.items() if value != settings_of(network)[key]}
    if not settings:
        return
    words = ','.join(f'{key}={value}'.replace(' ', '') for key, value in settings.items())
    print(f'to train it, pass --network {shlex.quote(network + ":" + words)}')
    for key, value in settings.items() if not is_original(network) else ():
        print(f"in insightface's MXNet trainers, write network.{network}.{key} = {value!r} in config.py")


def main():
    args = parse_args()
    keep_inputs(checkpoints.files(args.output, EPOCH), [importing.path_of(args.file), args.image])
    picture = classification.read_picture(args.image) if args.image else None
    source, loaded = importing.load(args.file)
    network = network_of(args, source, loaded)
    if args.image and not is_original(network):
        raise UserError(f'--image needs an image classifier, and {network} computes embeddings')
    converted = importing.convert(source, network, loaded, args.file, is_detected=args.network is None)
    symbol, parameters, misfits, named = converted.symbol, converted.parameters, {}, network
    if args.face:
        symbol, parameters, misfits = importing.start_face(source, network, converted)
        named = face_form(network)

    folder, name = os.path.split(os.path.abspath(args.output))
    with new_files(folder) as scratch:
        checkpoints.save(os.path.join(scratch, name), EPOCH, symbol, parameters)
    if misfits:
        report.show('not taken over', ('parameter', 'why'), sorted(misfits.items()))
    symbol_path, path = checkpoints.files(args.output, EPOCH)
    if converted.left_out:
        first = ', '.join(converted.left_out[:2])
        print(f'{len(converted.left_out)} arrays that the network does not use were left out: {first}, …')
    print(f'{source.title}: {len(parameters)} parameters of {named} taken over, {len(misfits)} not')
    print(f'written: {symbol_path}, {path}')
    show_settings(named, source.face_settings if args.face else source.settings_for(network, loaded))
    if args.image:
        engine = open_engine(f'{args.output},{EPOCH}', 1, image_shape=(classification.SIDE, classification.SIDE, 3))
        found = classification.likeliest(engine, picture, LIKELIEST)
        rows = [(str(rank), str(number), f'{100 * share:.2f} %') for rank, (number, share) in enumerate(found, 1)]
        report.show(args.image, ('', 'class', 'probability'), rows)


if __name__ == '__main__':
    run(main)
