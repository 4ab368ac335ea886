"""Measure time and memory of networks, and check this machine's GPUs.

python tools/measure.py networks cru116 att92    times, plans and readers of networks, on this machine
python tools/measure.py deployment cru116        a network in MXNet, onnxruntime and OpenVINO
python tools/measure.py gpu                      a report on this machine's GPUs ("make check-gpu" installs for it)
python tools/measure.py libraries                the CUDA libraries that MXNet needs, and where they are
python tools/measure.py install                  whether the extra mxnet-gpu installs and starts
"""

import argparse
import os
import shlex
import shutil
import sys
import time

from netkit.project import NEEDED, need, start

start(needed=('numpy',))

from netkit.cli import Parser, command_of, folder_name, number, run, whole_number
from netkit.drawing.canvas import picture_path

MODES = ('training', 'inference')
ENGINES = ('mxnet', 'torch')
PER_BATCH_SIZE = 4
PEERS = {'gluoncv2': 'mxnet', 'by_hand': 'torch'}  # {peer: engine}
PARTS = 'card', 'plan', 'correctness', 'memory', 'speed', 'inference', 'scaling', 'faces', 'compile'
GPU_ENGINES = 'torch', 'onnxruntime', 'mxnet'
MINUTES, QUICK, SECONDS = 15, 3, 120
OUTPUT = 'out/gpu'
ON_GPU = {'numpy': 'numpy', 'easydict': 'easydict', 'tqdm': 'tqdm', 'matplotlib': 'matplotlib', 'PIL': 'pillow'}


# ------------------------------------------------------------------------------------------------ networks


def add_networks(parser):
    """Add the options of `networks`."""
    parser.add_argument(
        'choices',
        nargs='*',
        metavar='CHOICE',
        help='what to measure; the first is what the others are compared with (to time: cru116:plain '
        'cru116; otherwise: all networks)',
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--memory', action='store_true', help="instead: MXNet's planned memory of a training step")
    what.add_argument(
        '--scaling', action='store_true', help='instead: images and gradients of a training step on 1, 8 and 64 GPUs'
    )
    what.add_argument('--reading', action='store_true', help='instead: images read, and trained on, per second')
    what.add_argument('--building', action='store_true', help='instead: how long symbol and JSON take')
    parser.add_argument('--only', choices=MODES, help='time only this')
    parser.add_argument(
        '--per-batch-size',
        type=whole_number(1),
        help=f'images in a step (default: {PER_BATCH_SIZE}; --memory: 32, 80 and 128)',
    )
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
    add_output(parser)


def add_output(parser):
    """Add how times are shown."""
    parser.add_argument(
        '--plot', type=picture_path, metavar='FILE', help='draw the times into this file: .png, .svg or .pdf'
    )
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')


def check_networks(parser, args):
    """Refuse options of `networks` that do not go together, and fill in its defaults."""
    is_timed = not (args.memory or args.building or args.scaling or args.reading)
    for option, value, what in (('--plot', args.plot, 'draws'), ('--only', args.only, 'selects')):
        if value and not is_timed:
            parser.error(f'{option} {what} times; leave it out with --memory, --scaling, --reading and --building')
    if args.per_batch_size and (args.building or args.scaling):
        parser.error('--per-batch-size does not apply to --building and --scaling; leave it out')
    if not args.memory:
        args.per_batch_size = args.per_batch_size or PER_BATCH_SIZE
    if args.peer and PEERS[args.peer] != args.engine:
        parser.error(f'--peer {args.peer} is for --engine {PEERS[args.peer]}')
    if args.engine == 'torch' and args.device == 'gpu':
        parser.error('--engine torch is for a CPU; measure.py gpu measures PyTorch on a GPU')
    if args.compile and args.engine != 'torch':
        parser.error('--compile is for --engine torch')


def networks(args):
    """Time networks side by side, plan their memory, or time how long they take to build.

    A CHOICE is NETWORK or NETWORK:SETTING=VALUE,…; on a CPU its symbol is rewritten to be fast there, as in training.
    NETWORK:insightface is the symbol that insightface binds, NETWORK:plain that with MXNet's own PReLU and without
    memonger. All run in one process, interleaved (A B A B …), so that the ratios hold on a busy machine.
    """
    need(*NEEDED)
    from netkit import report
    from netkit.measure import plans, reading, side_by_side
    from netkit.measure.choices import parse_choice
    from netkit.networks import NETWORKS

    show = report.printer(args.markdown)
    if args.reading:
        side_by_side.check_device(args.device)
        choices = [parse_choice(text) for text in args.choices or ['cru116']]
        rows = reading.measure(choices, args.repetitions, args.per_batch_size, args.device)
        show('images per second', reading.COLUMNS, rows)
    elif args.memory:
        batches = [args.per_batch_size] if args.per_batch_size else plans.BATCHES
        show(*plans.memory([parse_choice(text) for text in args.choices or NETWORKS], batches))
    elif args.building or args.scaling:
        table = plans.building if args.building else plans.scaling
        show(*table([parse_choice(text) for text in args.choices or NETWORKS]))
    else:
        show_times(args, show)


def show_times(args, show):
    """Print, and with --plot draw, the times of the choices."""
    from netkit.errors import UserError
    from netkit.measure import side_by_side
    from netkit.measure.choices import parse_choice

    side_by_side.check_device(args.device)
    texts = args.choices or ['cru116:plain', 'cru116']
    if len(set(texts)) < len(texts):
        raise UserError(f'each choice has to be named once: {" ".join(texts)}')
    choices = [parse_choice(text) for text in texts]
    how = side_by_side.How(
        args.per_batch_size, args.repetitions, args.device, args.engine, args.peer, args.compile, args.only
    )
    for choice in choices:
        side_by_side.check(choice, how)  # refuses wrong values now, not after minutes
    check_plot(args.plot)
    results = {}
    for mode in (args.only,) if args.only else MODES:
        rows = results[mode] = side_by_side.time_choices(choices, how, mode == 'training')
        title = f'{mode}, batch {how.per_batch_size}'
        show(title, side_by_side.COLUMNS, [side_by_side.texts_of(row) for row in rows])
    draw(results, args.plot)


def check_plot(path):
    """Refuse a figure that cannot be written."""
    from netkit.files import check_writable

    if path:
        check_writable(os.path.dirname(os.path.abspath(path)))


def draw(results, path):
    """Draw {title: Rows} into a file, if one is named."""
    from netkit.measure import plot

    if path:
        plot.save(results, path)
        print(f'drawn into {path}')


# ---------------------------------------------------------------------------------------------- deployment


def add_deployment(parser):
    """Add the options of `deployment`."""
    parser.add_argument(
        'choices',
        nargs='*',
        metavar='CHOICE',
        help='NETWORK or NETWORK:SETTING=VALUE,…, as of "networks" (default: cru116 att92)',
    )
    parser.add_argument('--model', metavar='PREFIX,EPOCH', help='instead: a checkpoint')
    parser.add_argument(
        '--calibration',
        metavar='DATA',
        help="with --model: calibration faces for int8 and others to compare on: a data set in insightface's "
        'format, a .bin file, or a folder of aligned faces',
    )
    parser.add_argument(
        '--per-batch-size', type=batches, default=(1, 8), metavar='N,N…', help='batch sizes (default: 1,8)'
    )
    parser.add_argument('--repetitions', type=whole_number(1), default=9, help='runs of each that are timed')
    add_output(parser)


def batches(text):
    """Argparse type: numbers of images."""
    return tuple(whole_number(1)(part) for part in text.split(','))


def check_deployment(parser, args):
    """Refuse options of `deployment` that do not go together."""
    if bool(args.model) != bool(args.calibration):
        parser.error('--model and --calibration belong together: weights, and faces that they know')
    if args.model and args.choices:
        parser.error('name CHOICEs or a --model')


def deployment(args):
    """Time a network's deployed forms side by side, in MXNet, onnxruntime and OpenVINO.

    MXNet runs the trained network and the folded one; onnxruntime the ONNX file in float32 and int8; OpenVINO also in
    bfloat16. All run in one process, interleaved (A B A B …), on the same number of threads (OMP_NUM_THREADS, default:
    one per CPU). Weights are random: they do not change the speed of int8, but its accuracy. With --model, the weights
    are a checkpoint's, and all embeddings are compared with MXNet's.
    """
    need(*NEEDED)
    from netkit import report
    from netkit.deploy.compare import Different
    from netkit.measure import deployed, runtimes

    runtimes.openvino_core()  # or refuses
    to_time, results = subjects(args), {}
    check_plot(args.plot)
    try:
        for subject in to_time:
            for title, rows in deployed.measure(subject, args.per_batch_size, args.repetitions):
                results[title] = rows
                report.printer(args.markdown)(title, deployed.COLUMNS, [deployed.texts_of(row) for row in rows])
    except Different as error:
        sys.stderr.write(f'measure.py: {error}\n')
        return 1
    print(runtimes.note(), f'{runtimes.threads()} threads.')
    draw(results, args.plot)
    return 0


def subjects(args):
    """Return the Subjects to time; raises UserError now, not after minutes."""
    from netkit.data.samples import samples
    from netkit.deploy.int8 import CALIBRATION, HELD_OUT
    from netkit.measure.choices import parse_choice
    from netkit.measure.deployed import Subject
    from netkit.targets import of_checkpoint

    if not args.model:
        choices = [parse_choice(text) for text in args.choices or ['cru116', 'att92']]
        return [Subject(choice.label, *choice.build('gpu')) for choice in choices]  # as insightface trains it
    target = of_checkpoint(args.model)
    faces = samples(args.calibration, target.image_shape, CALIBRATION, HELD_OUT)
    return [Subject(target.label, target.symbol, target.image_shape, target.parameters, faces)]


# ----------------------------------------------------------------------------------------------------- gpu


def add_gpu(parser):
    """Add the options of `gpu`."""
    parser.add_argument('--only', action='append', choices=PARTS, metavar='PART', help=', '.join(PARTS))
    parser.add_argument(
        '--quick', action='store_true', help=f'in {QUICK} minutes: one network, fewer ways to compute it, fewer parts'
    )
    parser.add_argument(
        '--minutes',
        type=number(0.1, 10000),
        help=f'how long the parts may take together, after the first start of the libraries (default: {MINUTES}; '
        f'--quick: {QUICK})',
    )
    parser.add_argument(
        '-o', '--output', type=folder_name, help=f'folder of report.md, report.json and report.png (default: {OUTPUT})'
    )
    parser.add_argument('--engine', choices=GPU_ENGINES, help='this engine only (default: all that are there)')
    parser.add_argument(
        '--mxnet-python',
        type=interpreter,
        metavar='PYTHON',
        help='the Python with MXNet, where PyTorch is in another (default: this one, if it has MXNet)',
    )
    parser.add_argument(
        '--insightface', metavar='CHECKOUT', help='time the r100 of this checkout, too, of its arcface_torch'
    )
    alone = parser.add_argument_group('a part alone', 'Measured in this process, and printed; no report is written.')
    alone.add_argument('--part', choices=PARTS, help='the part, in --engine (default: torch)')
    alone.add_argument('--case', help='one case of the part, as the report names it (default: all)')
    alone.add_argument('--seconds', type=whole_number(1), default=SECONDS, help='of the training on faces')
    alone.add_argument('--json', action='store_true', help='print a line of JSON for each figure')


def interpreter(text):
    """Argparse type: the path of an interpreter, or its name."""
    found = shutil.which(os.path.expanduser(text))
    if found is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not a program')
    return os.path.abspath(found)


def check_gpu(parser, args):
    """Refuse options of `gpu` that do not go together, and fill in its defaults."""
    for option, is_given in (('--case', args.case), ('--json', args.json)):
        if is_given and not args.part:
            parser.error(f'{option} is of a part; add --part PART')
    for option, is_given in (('--only', args.only), ('--output', args.output), ('--minutes', args.minutes)):
        if is_given and args.part:
            parser.error(f'{option} is of a report; --part writes none')
    args.minutes = args.minutes or (QUICK if args.quick else MINUTES)
    args.output = args.output or OUTPUT
    if args.mxnet_python is None and has('mxnet'):
        args.mxnet_python = sys.executable
    if args.insightface:  # the parts run in the project's folder
        args.insightface = os.path.abspath(os.path.expanduser(args.insightface))


def gpu(args):
    """Check and benchmark this machine's GPUs in PyTorch, onnxruntime and MXNet; write a report to send us.

    Each part runs in a separate process, within its share of --minutes. A part that fails or takes too long does not
    stop the others. Without a GPU the parts run small, on the CPU, and the report says so. "make check-gpu" makes the
    environments.
    """
    from netkit.errors import UserError

    for module, package in ON_GPU.items():
        if not has(module):
            raise UserError(f'this Python has no {package}; "make check-gpu" makes one that has all')
    from netkit.files import check_writable
    from netkit.measure import choices, parts

    if args.insightface:
        choices.path_of_r100(args.insightface)
    options = parts.Options(**{name: getattr(args, name) for name in parts.Options._fields})
    if args.part:
        return measure_here(args, options)
    check_writable(args.output)
    return write_report(args, options)


def measure_here(args, options):
    """Measure a part in this process; return the exit status."""
    from netkit.measure import page, parts
    from netkit.measure.figures import table_lines, tables

    figures, problems, engine = [], [], args.engine or 'torch'

    def tell(told):
        if args.json:
            print(parts.as_line(told), flush=True)
        elif 'figure' in told:
            figures.append(told['figure'])
        elif 'cases' in told:
            print(f'{args.part}, {parts.ENGINES[engine]}, {page.place(told["where"])}\n')
        elif told['problem']:
            problems.append(f'{told["case"]}: {told["problem"]}')

    is_whole = parts.measure(args.part, engine, options, tell)
    for title, rows in tables(figures).items():
        print('\n'.join(table_lines(title, rows)))
    for problem in problems:
        sys.stderr.write(f'measure.py: {problem}\n')
    return 0 if is_whole else 1


def write_report(args, options):
    """Measure the parts and write the report, after each part; return the exit status."""
    from netkit.measure import page, parts, running

    command, date = running.shown([sys.executable, running.PROGRAM, *sys.argv[1:]]), time.strftime('%Y-%m-%d')
    engines = [
        engine for engine in parts.ENGINES if args.engine in (None, engine) and (engine != 'mxnet' or args.mxnet_python)
    ]
    outcomes, text = [], None

    def tell(sentence):
        print(sentence, flush=True)

    try:
        for outcome in running.run_all(args.only, engines, options, tell, outcomes.append):
            outcomes.append(outcome)
            if outcome.part != parts.CARD:
                text = page.save(outcomes, command, date, args.output)
    except (KeyboardInterrupt, SystemExit):
        if any(outcome.part != parts.CARD for outcome in outcomes):
            page.save(outcomes, command, date, args.output)
        raise
    running.check_measured(outcomes, args.only)
    text = text or page.save(outcomes, command, date, args.output)
    print(f'\n{text}\nwritten into {args.output}')
    return 1 if any(outcome.problems for outcome in outcomes if outcome.part != parts.CARD) else 0


def has(module):
    """Return whether this Python has a module."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


# ----------------------------------------------------------------------------------- libraries and install


def add_libraries(parser):
    """Add the options of `libraries`."""
    parser.usage = '%(prog)s [-- COMMAND]'
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND', help='what to run')


def libraries(args):
    """Find the CUDA libraries that mxnet-cu112 needs, in NVIDIA's wheels or on the system, and put them to use.

    Prints a table of what is found where, and the line to export: eval "$(python tools/measure.py libraries)" sets
    LD_LIBRARY_PATH in this shell. With -- COMMAND it runs a command with it. No CUDA has to be installed: all but the
    driver comes from PyPI (the extra mxnet-gpu). The exit code is 1 where a library is missing.
    """
    from netkit.errors import UserError
    from netkit.measure import cuda

    found = cuda.find_all()
    path, missing = cuda.library_path(found), [library for library, place in found.items() if place is None]
    command = command_of(args.command)
    if not command:
        need('rich', 'tqdm')
        cuda.show(found)
        sys.stderr.write(cuda.what_mxnet_sees(path) + '\n')
        print(f'export LD_LIBRARY_PATH={shlex.quote(path)}')
        return 1 if missing else 0
    if missing:
        sys.stderr.write(
            f'measure.py: {", ".join(missing)} not found; python tools/measure.py libraries tells what brings them\n'
        )
    try:
        os.execvpe(command[0], command, dict(os.environ, LD_LIBRARY_PATH=path))
    except (OSError, ValueError) as error:  # an empty name is no OSError
        raise UserError(f'cannot run {command[0] or "what has no name"}: {getattr(error, "strerror", error)}')


def add_install(parser):
    """Add the options of `install`."""
    parser.add_argument('--python', default=sys.executable, help='interpreter for the scratch environment')


def install(args):
    """Prove the extra mxnet-gpu on a machine without a GPU: install it, and let MXNet for CUDA compute on the CPU.

    In a scratch environment, with a stand-in for the driver's library that has no device. Downloads about 2.5 GB.
    """
    from netkit.measure import cuda_install

    cuda_install.prove(args.python)


# ------------------------------------------------------------------------------------------------ commands

# {command: (function, adds its options, refuses what does not go together)}
COMMANDS = {
    'networks': (networks, add_networks, check_networks),
    'deployment': (deployment, add_deployment, check_deployment),
    'gpu': (gpu, add_gpu, check_gpu),
    'libraries': (libraries, add_libraries, None),
    'install': (install, add_install, None),
}


def main():
    summary, _, commands = __doc__.partition('\n\n')
    parser = Parser(prog='measure.py', description=summary)
    chosen = parser.add_subparsers(dest='measured', metavar='COMMAND', required=True)
    parsers = {}
    for name, (function, add_options, _) in COMMANDS.items():
        parsers[name] = chosen.add_parser(name, help=first_line(function), description=function.__doc__)
        add_options(parsers[name])
    args = parser.parse_args()
    function, _, check = COMMANDS[args.measured]
    if check:
        check(parsers[args.measured], args)
    return function(args)


def first_line(function):
    """Return the first line of a function's description, for a list."""
    line = function.__doc__.splitlines()[0].rstrip('.')
    return line[0].lower() + line[1:]


def alias(command):
    """Run a command under its former program name."""
    sys.argv.insert(1, command)
    run(main)


if __name__ == '__main__':
    run(main)
