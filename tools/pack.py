"""Pack your own pictures into the formats that insightface and this project train from.

`faces`: a folder with one subfolder per person becomes train.rec, train.idx, property and train.lst, and with --pairs a
verification set, pairs.bin, of held-out people. `classes`: a folder with one subfolder per class becomes a RecordIO
file of labelled images, like ImageNet's; a label is the index of the class in sorted order.
"""

import argparse
import os
import re

from netkit.project import start

start()

from netkit import report
from netkit.cli import Parser, check_name, folder_name, number, run, whole_number
from netkit.data import packing
from netkit.data.detect import Detector, Remembering
from netkit.data.landmarks import read_landmarks
from netkit.evaluation import protocol
from netkit.files import check_writable


def tell_skipped(skipped, listed=None):
    """Print the number of skipped files by reason; `listed` is the file in which all of them are."""
    if skipped:
        rows = [(why, f'{count:,}', first) for why, count, first in packing.counted(skipped)]
        where = f', listed in {listed}' if listed else ''
        report.show(f'skipped: {len(skipped)}{where}', ('why', 'files', 'the first'), rows)


def faces(args):
    """Pack the faces of people."""
    check_writable(args.output)
    find = None
    if args.landmarks:
        find = packing.listed(read_landmarks(args.landmarks, args.folder))
    elif args.detect:
        model = os.path.splitext(os.path.basename(args.detect))[0]
        found = f'{os.path.abspath(args.output)}.{model}.landmarks.csv'
        find = Remembering(Detector(args.detect), found, args.folder)
        print(f'landmarks are kept in {found}: a packing that begins again continues from there')
    options = packing.Options(args.size, args.min_images, args.pairs, args.set, args.share, args.seed)
    packed = packing.pack_faces(args.folder, args.output, options, find)
    tell_skipped(packed.skipped, os.path.join(args.output, packing.SKIPPED))
    print(f'{packed.images} images of {packed.people} people written into {args.output}')
    if packed.pairs:
        print(
            f'{packed.pairs} pairs of {packed.kept_out} people who are kept out of the training: '
            f'{os.path.join(args.output, args.set)}.bin'
        )


def classes(args):
    """Pack the labelled images."""
    check_writable(os.path.dirname(os.path.abspath(args.output)))
    count, images, skipped = packing.pack_classes(args.folder, args.output, args.resize, args.quality, args.seed)
    tell_skipped(skipped)
    print(f'{images} images of {count} classes written into {args.output}')


def pairs_number(text):
    """Argparse type: a number of verification pairs."""
    number_ = whole_number(0, 10**6)(text)
    if 0 < number_ < protocol.FOLDS:
        raise argparse.ArgumentTypeError(f'{text} pairs are too few for {protocol.FOLDS} folds')
    return number_


def set_name(text):
    """Argparse type: the name of a verification set, which is that of a file without .bin."""
    if not re.fullmatch(r'\w[\w.-]*', text) or text.endswith('.bin'):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a name of a set (letters, digits, "_", "-" and "."); omit the folder and .bin'
        )
    check_name(text, '.bin')
    return text


def record_path(text):
    """Argparse type: the path of a RecordIO file."""
    if not text.endswith('.rec'):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .rec')
    check_name(os.path.basename(text))
    return text


def parse_args(argv=None):
    parser = Parser(prog='pack.py', description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='WHAT')
    parser_ = commands.add_parser('faces', help='pack faces', description=faces.__doc__)
    parser_.set_defaults(pack=faces)
    parser_.add_argument('folder', metavar='FOLDER', help='folder with one subfolder per person')
    parser_.add_argument('-o', '--output', required=True, type=folder_name, help='folder of the data set')
    parser_.add_argument('--size', type=whole_number(16, 1024), default=112, help='height and width in pixels')
    aligning = parser_.add_mutually_exclusive_group()
    aligning.add_argument(
        '--landmarks',
        metavar='FILE.csv',
        help='align the faces by five landmarks per line: path of the image, then x and y of left eye, right eye, '
        'nose, left and right corner of the mouth, as seen in the picture (default: the pictures '
        'are aligned)',
    )
    aligning.add_argument(
        '--detect',
        metavar='MODEL.onnx',
        help='find and align the largest face of each image by this detection model; needs the package insightface',
    )
    parser_.add_argument('--min-images', type=whole_number(1), default=2, help='skip people with fewer images')
    parser_.add_argument(
        '--pairs', type=pairs_number, default=0, help='number of verification pairs: 0, or at least 10'
    )
    parser_.add_argument(
        '--set',
        type=set_name,
        default='pairs',
        metavar='NAME',
        help="name of the verification set (insightface's config knows lfw, cfp_fp, agedb_30)",
    )
    parser_.add_argument(
        '--share',
        type=number(0.001, 0.9),
        default=0.1,
        help='share of held-out people for the pairs (at least two people)',
    )
    parser_.add_argument('--seed', type=whole_number(0, 2**32 - 1), default=0, help='of the choice of pairs')
    parser_ = commands.add_parser('classes', help='pack labelled images', description=classes.__doc__)
    parser_.set_defaults(pack=classes)
    parser_.add_argument('folder', metavar='FOLDER', help='folder with one subfolder per class')
    parser_.add_argument('-o', '--output', required=True, type=record_path, metavar='FILE.rec', help='file to write')
    parser_.add_argument('--resize', type=whole_number(16, 4096), default=256, help='pixels of the shorter side')
    parser_.add_argument('--quality', type=whole_number(1, 100), default=95, help='of the JPEG images')
    parser_.add_argument('--seed', type=whole_number(0, 2**32 - 1), default=0, help='of the order')
    args = parser.parse_args(argv)
    if not args.command:
        parser.error(f'say what to pack: {", ".join(commands.choices)}')
    return args


def main(argv=None):
    args = parse_args(argv)
    args.pack(args)


if __name__ == '__main__':
    run(main)
