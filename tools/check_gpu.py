"""Measure what is true on this machine's GPUs, in PyTorch, onnxruntime and MXNet, into a page to send back.

Each part runs in a process of its own, within its share of --minutes; what fails or takes too long does not stop the
others. Without a GPU the parts run small, on the CPU, and the report says so. "make check-gpu" makes the environments.
"""

import importlib.util
import os
import shlex
import sys
import time

from netkit.cli import Parser, folder_name, number, run
from netkit.errors import UserError
from netkit.files import check_writable
from netkit.gpu import page, parts, running, sizes

NEEDED = {'numpy': 'numpy', 'easydict': 'easydict', 'tqdm': 'tqdm', 'matplotlib': 'matplotlib', 'PIL': 'pillow'}
MINUTES, QUICK = 15, 3


def parse_args(argv=None):
    parser = Parser(prog='check_gpu.py', description=__doc__)
    parser.add_argument(
        '--only', action='append', choices=tuple(parts.PARTS), metavar='PART', help=', '.join(parts.PARTS)
    )
    parser.add_argument('--quick', action='store_true', help=f'fewer networks and ways, in {QUICK} minutes')
    parser.add_argument(
        '--minutes',
        type=number(0.1, 10000),
        help=f'how long the parts may take, once the libraries are loaded (default: {MINUTES}; --quick: {QUICK})',
    )
    parser.add_argument(
        '--output', type=folder_name, default='out/gpu', help='folder of report.md, report.json and report.png'
    )
    parser.add_argument(
        '--mxnet-python',
        metavar='PYTHON',
        help='the Python with MXNet, where PyTorch is in another (default: this one, if it has MXNet)',
    )
    parser.add_argument(
        '--insightface', metavar='CHECKOUT', help='time the r100 of this checkout, too, of its arcface_torch'
    )
    alone = parser.add_argument_group('a part alone', 'Measured in this process, and printed; no report is written.')
    alone.add_argument('--part', choices=tuple(parts.PARTS), help='the part')
    alone.add_argument('--engine', choices=tuple(parts.ENGINES), default='torch', help='the engine')
    alone.add_argument('--case', help='one case of the part, as the report names it (default: all)')
    alone.add_argument('--json', action='store_true', help='print a line of JSON for each figure')
    args = parser.parse_args(argv)
    if args.case and not args.part:
        parser.error('--case is of a part; add --part PART')
    args.minutes = args.minutes or (QUICK if args.quick else MINUTES)
    if args.mxnet_python is None and importlib.util.find_spec('mxnet'):
        args.mxnet_python = sys.executable
    for option in ('mxnet_python', 'insightface'):  # the parts run in the project's folder
        if getattr(args, option):
            setattr(args, option, os.path.abspath(os.path.expanduser(getattr(args, option))))
    return args


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

    is_whole = parts.measure(args.part, args.engine, args, tell)
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
        return measure_here(args)
    check_writable(args.output)
    command, date = shlex.join(['python', 'tools/check_gpu.py', *sys.argv[1:]]), time.strftime('%Y-%m-%d')
    engines = [engine for engine in parts.ENGINES if engine != 'mxnet' or args.mxnet_python]
    outcomes, text = [], ''
    for outcome in running.run_all(args.only, engines, args, lambda line: print(line, flush=True)):
        outcomes.append(outcome)
        if outcome.part != parts.CARD:  # so that an interruption leaves what was measured
            text = page.save(outcomes, command, date, args.output)
    running.check_measured(outcomes)
    text = page.save(outcomes, command, date, args.output)
    print(f'\n{text}\nwritten into {args.output}: report.md, report.json')
    measured = [outcome for outcome in outcomes if outcome.part != parts.CARD]
    return 1 if any(outcome.problems for outcome in measured) else 0


if __name__ == '__main__':
    run(main)
