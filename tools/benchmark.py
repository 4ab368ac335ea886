"""Time network choices side by side, plan their memory, or time how long they take to build.

A CHOICE is NETWORK or NETWORK:SETTING=VALUE,…; on a CPU its symbol is rewritten to be fast there, as in training.
NETWORK:insightface is the symbol that insightface binds, NETWORK:plain that with MXNet's own PReLU and without
memonger. All run in one process, interleaved (A B A B …), so that the ratios hold on a busy machine.
"""

import os

from netkit.project import start

start()

from netkit import report
from netkit.bench import plans, plot, reading, timing
from netkit.bench.timed_networks import parse_choice
from netkit.cli import Parser, run, whole_number
from netkit.drawing.canvas import picture_path
from netkit.errors import UserError
from netkit.files import check_writable
from netkit.networks import NETWORKS

MODES = ('training', 'inference')
ENGINES = ('mxnet', 'torch')
PEERS = {'gluoncv2': 'mxnet', 'by_hand': 'torch'}  # {peer: engine}


def parse_args(argv=None):
    parser = Parser(prog='benchmark.py', description=__doc__)
    parser.add_argument(
        'choices',
        nargs='*',
        metavar='CHOICE',
        help='what to measure; the first is what the others are compared with (to time: cru116:plain '
        'cru116; otherwise: all networks)',
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--memory', action='store_true', help='instead: what MXNet plans for a training step at 32, 80 and 128 images'
    )
    what.add_argument(
        '--scaling', action='store_true', help='instead: images and gradients of a training step on 1, 8 and 64 GPUs'
    )
    what.add_argument('--reading', action='store_true', help='instead: images read, and trained on, per second')
    what.add_argument('--building', action='store_true', help='instead: how long symbol and JSON take')
    parser.add_argument('--only', choices=MODES, help='time only this')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=4, help='images in a step')
    parser.add_argument('--repetitions', type=whole_number(1), default=5, help='steps of each that are timed')
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu', help='where to compute')
    parser.add_argument(
        '--engine', choices=ENGINES, default='mxnet', help='torch: add the same networks as PyTorch modules, on a CPU'
    )
    parser.add_argument('--compile', action='store_true', help='with --engine torch: add them compiled (minutes)')
    parser.add_argument(
        '--peer',
        choices=tuple(PEERS),
        help="gluoncv2: add that package's network of the same name, hybridised; by_hand: with --engine torch, add "
        'cru116 as PyTorch modules written by hand',
    )
    parser.add_argument(
        '--plot', type=picture_path, metavar='FILE', help='draw the times into this file: .png, .svg or .pdf'
    )
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')
    args = parser.parse_args(argv)
    if args.plot and (args.memory or args.building or args.scaling or args.reading):
        parser.error('--plot draws times; leave it out with --memory, --scaling, --reading and --building')
    if args.peer and PEERS[args.peer] != args.engine:
        parser.error(f'--peer {args.peer} is for --engine {PEERS[args.peer]}')
    if args.engine == 'torch' and args.device == 'gpu':
        parser.error('--engine torch is for a CPU; tools/check_gpu.py measures PyTorch on a GPU')
    if args.compile and args.engine != 'torch':
        parser.error('--compile is for --engine torch')
    return args


def show_plans(args, show):
    """Print a table that is not of times."""
    choices = [parse_choice(text) for text in args.choices or NETWORKS]
    table = plans.building if args.building else plans.scaling if args.scaling else plans.memory
    show(*table(choices))


def show_times(args, show):
    """Print, and with --plot draw, the times of the choices."""
    timing.check_device(args.device)
    texts = args.choices or ['cru116:plain', 'cru116']
    if len(set(texts)) < len(texts):
        raise UserError(f'each choice has to be named once: {" ".join(texts)}')
    choices = [parse_choice(text) for text in texts]
    how = timing.How(
        args.per_batch_size, args.repetitions, args.device, args.engine, args.peer, args.compile, args.only
    )
    for choice in choices:
        timing.check(choice, how)  # refuses wrong values now, not after minutes
    if args.plot:
        check_writable(os.path.dirname(os.path.abspath(args.plot)))
    results = {}
    for mode in (args.only,) if args.only else MODES:
        results[mode] = timing.time_choices(choices, how, mode == 'training')
        show(f'{mode}, batch {args.per_batch_size}', timing.COLUMNS, [timing.texts_of(row) for row in results[mode]])
    if args.plot:
        plot.save(results, args.plot)
        print(f'drawn into {args.plot}')


def main(argv=None):
    args = parse_args(argv)
    show = report.printer(args.markdown)
    if args.reading:
        timing.check_device(args.device)
        choices = [parse_choice(text) for text in args.choices or ['cru116']]
        rows = reading.measure(choices, args.repetitions, args.per_batch_size, args.device)
        show('images per second', reading.COLUMNS, rows)
    elif args.memory or args.building or args.scaling:
        show_plans(args, show)
    else:
        show_times(args, show)


if __name__ == '__main__':
    run(main)
