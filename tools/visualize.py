"""Draw networks, their attention masks and feature maps, what sharing saves, and training curves."""
from project import Parser, keep_inputs, run

import numpy as np
from rich.console import Console

import draw_charts
import draw_maps
import draw_network
import draw_unit
import faces
import pictures
import structure
import training_log
from targets import HELP, add_sizes, of_options, open_target


def units_of(args):
    """Return (target, its units) of the network that is named on the command line."""
    target = open_target(args.network, args.image_size, args.multiplier)
    return target, structure.analyse(target.symbol, target.image_shape)


def network(args):
    """Draw a network, or the inside of its units."""
    target, units = units_of(args)
    if not args.detail:
        return draw_network.draw(target.label, units, target.image_shape)
    drawn = draw_unit.kinds(units) if args.detail == 'unit' else [draw_unit.named(units, args.detail)]
    return draw_unit.draw(target.label, drawn, units)


def attention(args):
    """Draw masks or feature maps for an image."""
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    height, width, _ = target.image_shape
    names = args.layer or draw_maps.masks_of(target)
    image = pictures.read_image(args.image, height, width) if args.image else drawn_face(height, width)
    maps = draw_maps.compute(target, image, names)
    title = target.label
    if target.parameters is None:
        title += ': the weights are random, as before training; name a --model to see trained ones'
        print('%s has no weights, these are random; name a --model to see trained ones' % target.label)
    return (draw_maps.draw_layers if args.layer else draw_maps.draw_masks)(title, image, maps)


def drawn_face(height, width):
    """Return a face drawn for the purpose."""
    from PIL import Image
    random = np.random.RandomState(7)
    face = Image.fromarray(faces.draw_face(faces.draw_identity(random), random))
    return np.asarray(face.resize((width, height), Image.BILINEAR))


def sharing(args):
    """Draw what sharing saves."""
    target, units = units_of(args)
    return draw_charts.draw_sharing(target.label, units)


def training(args):
    """Draw the curves of training runs."""
    return draw_charts.draw_training(dict(zip(draw_charts.labels(args.logs), map(training_log.read, args.logs))))


def parse_args(argv=None):
    parser = Parser(prog='visualize.py', description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='WHAT')

    def command(function, text):
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(draw=function)
        added.add_argument('-o', '--output', required=True, type=pictures.picture_path, metavar='FILE',
                           help='the picture: .svg and .pdf are drawn in vectors, .png in dots')
        return added

    parser_ = command(network, 'a network: stages as columns, units as boxes')
    parser_.add_argument('network', metavar='NETWORK', help=HELP)
    parser_.add_argument('--detail', metavar='UNIT',
                         help='instead, the layers inside this unit, like stage2_unit1; unit: inside one of every kind')
    add_sizes(parser_)
    parser_ = command(attention, 'the soft masks of all attention modules over an image, or any feature map')
    parser_.add_argument('--network', help='network choice; with --model, the one that the checkpoint has to be of')
    parser_.add_argument('--model', metavar='PREFIX,EPOCH', help='checkpoint; without it the weights are random')
    parser_.add_argument('--image', metavar='FILE', help='an aligned face, resized if need be (default: a drawn one)')
    parser_.add_argument('--layer', metavar='NAME', action='append',
                         help='draw the map of this layer instead, like stage2_unit1_plus; may be repeated')
    add_sizes(parser_)
    parser_ = command(sharing, 'how many parameters sharing saves, unit by unit')
    parser_.add_argument('network', metavar='NETWORK', help=HELP)
    add_sizes(parser_)
    parser_ = command(training, 'loss, accuracy, verification and speed of training runs, over each other')
    parser_.add_argument('logs', nargs='+', metavar='LOG',
                         help="train.log of tools/train_synthetic.py, or what insightface's train.py printed")
    args = parser.parse_args(argv)
    if not args.command:
        parser.error('say what to draw: %s' % ', '.join(commands.choices))
    return args


def main(argv=None):
    args = parse_args(argv)
    keep_inputs([args.output], [getattr(args, 'image', None)] + getattr(args, 'logs', []))
    with Console(stderr=True).status('drawing into %s' % args.output):  # on a terminal only
        pictures.save(args.draw(args), args.output)
    print('drawn into %s' % args.output)


if __name__ == '__main__':
    run(main)
