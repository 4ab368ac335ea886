"""Measure what is true on this machine's GPUs, in PyTorch, onnxruntime and MXNet, into a page to send back.

Each part runs in a process of its own, within its share of --minutes; what fails or takes too long does not stop the
others. Without a GPU the parts run small, on the CPU, and the report says so. "make check-gpu" makes the environments.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import time

from netkit.project import start

start(needed=())

from netkit.cli import Parser, folder_name, number, run, whole_number
from netkit.errors import UserError
from netkit.files import check_writable
from netkit.gpu import page, parts, running, sizes

NEEDED = {'numpy': 'numpy', 'easydict': 'easydict', 'tqdm': 'tqdm', 'matplotlib': 'matplotlib', 'PIL': 'pillow'}
MINUTES, QUICK = 15, 3
OUTPUT = 'out/gpu'


def parse_args(argv=None):
    parser = Parser(prog='check_gpu.py', description=__doc__)
    parser.add_argument(
        '--only', action='append', choices=tuple(parts.PARTS), metavar='PART', help=', '.join(parts.PARTS)
    )
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
        '--output', type=folder_name, help=f'folder of report.md, report.json and report.png (default: {OUTPUT})'
    )
    parser.add_argument('--engine', choices=tuple(parts.ENGINES), help='this engine only (default: all that are there)')
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
    alone.add_argument('--part', choices=tuple(parts.PARTS), help='the part, in --engine (default: torch)')
    alone.add_argument('--case', help='one case of the part, as the report names it (default: all)')
    alone.add_argument('--seconds', type=whole_number(1), default=running.FACES, help='of the training on faces')
    alone.add_argument('--json', action='store_true', help='print a line of JSON for each figure')
    args = parser.parse_args(argv)
    for option, is_given in (('--case', args.case), ('--json', args.json)):
        if is_given and not args.part:
            parser.error(f'{option} is of a part; add --part PART')
    for option, is_given in (('--only', args.only), ('--output', args.output), ('--minutes', args.minutes)):
        if is_given and args.part:
            parser.error(f'{option} is of a report; --part writes none')
    args.minutes = args.minutes or (QUICK if args.quick else MINUTES)
    args.output = args.output or OUTPUT
    if args.mxnet_python is None and importlib.util.find_spec('mxnet'):
        args.mxnet_python = sys.executable
    if args.insightface:  # the parts run in the project's folder
        args.insightface = os.path.abspath(os.path.expanduser(args.insightface))
    return args


def interpreter(text):
    """Argparse type: the path of an interpreter, or its name."""
    found = shutil.which(os.path.expanduser(text))
    if found is None:
        raise argparse.ArgumentTypeError(f'{text!r} is no program')
    return os.path.abspath(found)


def options_of(args):
    """Return the parts.Options of the command line."""
    return parts.Options(**{name: getattr(args, name) for name in parts.Options._fields})


def measure_here(args):
    """Measure a part in this process; return the exit status."""
    figures, problems = [], []

    def tell(told):
        if args.json:
            print(parts.as_line(told), flush=True)
        elif 'figure' in told:
            figures.append(told['figure'])
        elif 'cases' in told:
            print(f'{args.part}, {parts.ENGINES[args.engine]}, {page.place(told["where"])}\n')
        elif told['problem']:
            problems.append(f'{told["case"]}: {told["problem"]}')

    is_whole = parts.measure(args.part, args.engine, options_of(args), tell)
    for title, rows in page.tables(figures).items():
        print('\n'.join(page.table_lines(title, rows)))
    for problem in problems:
        sys.stderr.write(f'check_gpu.py: {problem}\n')
    return 0 if is_whole else 1


def main(argv=None):
    args = parse_args(argv)
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(f'this Python has no {package}; "make check-gpu" makes one that has all')
    if args.insightface:
        sizes.path_of_r100(args.insightface)
    if args.part:
        args.engine = args.engine or 'torch'
        return measure_here(args)
    check_writable(args.output)
    return report(args)


def report(args):
    """Measure the parts and write the report, after each part; return the exit status."""
    command, date = running.shown([sys.executable, running.PROGRAM, *sys.argv[1:]]), time.strftime('%Y-%m-%d')
    engines = [
        engine for engine in parts.ENGINES if args.engine in (None, engine) and (engine != 'mxnet' or args.mxnet_python)
    ]
    outcomes, text = [], None

    def tell(sentence):
        print(sentence, flush=True)

    try:
        for outcome in running.run_all(args.only, engines, options_of(args), tell, outcomes.append):
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
    measured = [outcome for outcome in outcomes if outcome.part != parts.CARD]
    return 1 if any(outcome.problems for outcome in measured) else 0


if __name__ == '__main__':
    run(main)
