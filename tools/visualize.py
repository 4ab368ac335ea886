"""Draw networks, attention masks, receptive fields, feature maps, what sharing saves, and training curves."""

from netkit.project import NEEDED, start

start(needed=(*NEEDED, 'matplotlib'))

from netkit.cli import Parser, add_sizes, run
from netkit.data import drawn_faces as faces
from netkit.data.images import read_image
from netkit.deploy.plain import plain
from netkit.drawing import canvas as figures, charts, maps, network as networks, unit as inside
from netkit.errors import UserError
from netkit.files import keep_inputs
from netkit.graph.nodes import Graph
from netkit.graph.receptive import branches, fields_of
from netkit.report import waiting
from netkit.summaries import units_of
from netkit.targets import HELP, MODEL, of_options, open_target
from netkit.training import log


def opened(args):
    """Return (target, its units) of the network on the command line."""
    target = open_target(args.network, args.image_size, args.multiplier)
    return target, units_of(target)


def network(args):
    """Draw a network, or the inside of its units."""
    target, units = opened(args)
    if not args.detail:
        return networks.draw(target.label, units, target.image_shape)
    drawn = inside.kinds(units) if args.detail == 'unit' else [inside.named(units, args.detail)]
    return inside.draw(target.label, drawn, units)


def attention(args):
    """Draw masks or feature maps for an image."""
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    height, width, _ = target.image_shape
    names = args.layer or maps.masks_of(target)
    image = read_image(args.image, height, width) if args.image else faces.example(height, width)
    values = maps.compute(target, image, names)
    title = target.label
    if target.parameters is None:
        title += ': the weights are random, as before training; pass --model to see trained ones'
        print(f'{target.label} has no weights, these are random; pass --model to see trained ones')
    return (maps.draw_layers if args.layer else maps.draw_masks)(title, image, values)


def receptive(args):
    """Draw the receptive fields of trunk and mask of all attention modules."""
    target = of_options(args.network, args.model, args.image_size, args.multiplier)
    height, width, _ = target.image_shape
    graph = plain(Graph.of(target.symbol))
    fields = fields_of(graph, target.image_shape)
    if not fields:
        raise UserError(
            f'{target.label} has no attention modules by the names of our networks; pass one (att…), or import the '
            'checkpoint first (tools/import_weights.py)'
        )
    image = read_image(args.image, height, width) if args.image else faces.example(height, width)
    pulls = None
    if target.parameters is not None:
        ends = {module: names[1:] for module, names in branches(graph).items()}
        found = maps.gradients(target, image, [name for names in ends.values() for name in names])
        pulls = {module: tuple(found[name] for name in names) for module, names in ends.items()}
    return maps.draw_receptive(target.label, image, fields, pulls)


def sharing(args):
    """Draw what sharing saves."""
    target, units = opened(args)
    return charts.draw_sharing(target.label, units)


def training(args):
    """Draw the curves of training runs."""
    return charts.draw_training(dict(zip(charts.labels(args.logs), map(log.read, args.logs))))


def parse_args(argv=None):
    parser = Parser(prog='visualize.py', description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='WHAT')

    def command(function, text):
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(draw=function)
        added.add_argument(
            '-o',
            '--output',
            required=True,
            type=figures.picture_path,
            metavar='FILE',
            help='figure to write: .svg, .pdf or .png',
        )
        return added

    parser_ = command(network, 'a network: stages as columns, units as boxes')
    parser_.add_argument('network', metavar='NETWORK', help=HELP)
    parser_.add_argument(
        '--detail',
        metavar='UNIT',
        help='draw the layers inside this unit, such as stage2_unit1; unit: of one unit of each kind',
    )
    add_sizes(parser_)
    parser_ = command(attention, 'the soft masks of all attention modules over an image, or any feature map')
    parser_.add_argument('--network', help='network, or with --model, the network that the checkpoint must match')
    parser_.add_argument('--model', metavar=MODEL, help='checkpoint (default: random weights)')
    parser_.add_argument(
        '--image', metavar='FILE', help='an aligned face, resized if needed (default: a synthetic one)'
    )
    parser_.add_argument(
        '--layer',
        metavar='NAME',
        action='append',
        help='draw the feature map of this layer, such as stage2_unit1_plus; may be repeated',
    )
    add_sizes(parser_)
    parser_ = command(receptive, 'the receptive fields of trunk and mask of all attention modules, over an image')
    parser_.add_argument(
        'network', nargs='?', metavar='NETWORK', help='network, or with --model, the network that it must match'
    )
    parser_.add_argument('--model', metavar=MODEL, help='checkpoint, to draw the gradients as well')
    parser_.add_argument(
        '--image', metavar='FILE', help='an aligned face, resized if needed (default: a synthetic one)'
    )
    add_sizes(parser_)
    parser_ = command(sharing, 'how many parameters sharing saves, unit by unit')
    parser_.add_argument('network', metavar='NETWORK', help=HELP)
    add_sizes(parser_)
    parser_ = command(training, 'loss, accuracy, verification and speed of training runs, over each other')
    parser_.add_argument(
        'logs', nargs='+', metavar='LOG', help="train.log of tools/train.py, or the output of insightface's train.py"
    )
    args = parser.parse_args(argv)
    if not args.command:
        parser.error(f'say what to draw: {", ".join(commands.choices)}')
    return args


def main(argv=None):
    args = parse_args(argv)
    keep_inputs([args.output], [getattr(args, 'image', None)] + getattr(args, 'logs', []))
    with waiting(f'drawing into {args.output}'):
        figures.save(args.draw(args), args.output)
    print(f'drawn into {args.output}')


if __name__ == '__main__':
    run(main)
