"""Measure what is true on this machine's GPU: the networks in PyTorch, part by part, into a page to send back.

Each part runs in a process of its own, within its own time; what fails or takes too long does not stop the others.
Without a GPU the parts run small, on the CPU, and the report says so. Needs PyTorch and easydict, not MXNet.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time

from netkit import ROOT
from netkit.cli import Parser, folder_name, run
from netkit.errors import UserError
from netkit.files import check_writable, new_files

# {part: (module, function, seconds that it may take)}
PARTS = {
    'card': ('netkit.gpu.card', 'measure', 60),
    'correctness': ('netkit.gpu.correctness', 'measure', 240),
    'memory': ('netkit.gpu.memory', 'measure', 120),
    'speed': ('netkit.gpu.speed', 'measure', 600),
    'inference': ('netkit.gpu.speed', 'measure_inference', 300),
    'faces': ('netkit.gpu.faces', 'measure', 240),
}


def parse_args(argv=None):
    parser = Parser(prog='check_gpu.py', description=__doc__)
    parser.add_argument('--only', action='append', choices=tuple(PARTS), metavar='PART', help=f'{", ".join(PARTS)}')
    parser.add_argument('--quick', action='store_true', help='one network, nothing compiled: three minutes on a GPU')
    parser.add_argument('--output', type=folder_name, default='out/gpu', help='folder of report.md and report.json')
    parser.add_argument('--part', choices=tuple(PARTS), help='measure this part here, and print its figures as JSON')
    return parser.parse_args(argv)


def measure_here(part, quick):
    """Print the figures of a part, each as a line of JSON."""
    module, function, _ = PARTS[part]
    for what, figure, unit in getattr(importlib.import_module(module), function)(quick):
        print(json.dumps([what, figure, unit]), flush=True)


def measure_apart(part, quick):
    """Return (rows, seconds, problem) of a part, measured in a process of its own."""
    command = [sys.executable, os.path.join(ROOT, 'tools', 'check_gpu.py'), '--part', part]
    start, problem = time.time(), None
    process = subprocess.Popen(
        command + ['--quick'] * quick, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        out, err = process.communicate(timeout=PARTS[part][2])
        if process.returncode:
            problem = (err.strip().splitlines() or [f'exit code {process.returncode}'])[-1]
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        problem = f'stopped after its {PARTS[part][2]} s'
    except BaseException:
        process.kill()
        raise
    return [json.loads(line) for line in out.splitlines() if line.startswith('[')], time.time() - start, problem


def text_of(figure):
    """Return a figure as text: small and large numbers with an exponent."""
    if isinstance(figure, float) and figure and not 1e-3 <= abs(figure) < 1e6:
        return f'{figure:.1e}'
    return f'{figure:,.6g}' if isinstance(figure, float) else str(figure)


def as_markdown(report):
    """Return the report as a page."""
    lines = [f'# Measured {report["where"]}', '', f'`{report["command"]}`, {report["date"]}.', '']
    for part in report['parts']:
        lines += [f'## {part["name"]}, {part["seconds"]:.0f} s', '', f'`{part["command"]}`', '']
        if part['problem']:
            lines += [f'Not finished: {part["problem"]}', '']
        lines += ['| what | figure | |', '| :-- | --: | :-- |']
        lines += [f'| {what} | {text_of(figure)} | {unit} |' for what, figure, unit in part['rows']] + ['']
    return '\n'.join(lines)


def main(argv=None):
    args = parse_args(argv)
    for package in ('torch', 'easydict'):
        if importlib.util.find_spec(package) is None:
            raise UserError(f'this Python has no {package}; pip install {package}')
    if args.part:
        return measure_here(args.part, args.quick)
    check_writable(args.output)
    networks = importlib.import_module('netkit.gpu.networks')  # imports PyTorch
    report: dict = {
        'where': networks.where(),
        'command': ' '.join(['python tools/check_gpu.py', *sys.argv[1:]]),
        'date': time.strftime('%Y-%m-%d'),
        'parts': [],
    }
    for part in args.only or PARTS:
        print(f'{part}: at most {PARTS[part][2]} s', flush=True)
        rows, seconds, problem = measure_apart(part, args.quick)
        if problem:
            print(f'{part} was not finished: {problem}')
        command = f'python tools/check_gpu.py --part {part}' + (' --quick' if args.quick else '')
        report['parts'].append({'name': part, 'seconds': seconds, 'problem': problem, 'command': command, 'rows': rows})
        with new_files(args.output) as scratch:
            with open(os.path.join(scratch, 'report.json'), 'w', encoding='utf-8') as file:
                json.dump(report, file, indent=1, ensure_ascii=False)
            with open(os.path.join(scratch, 'report.md'), 'w', encoding='utf-8') as file:
                file.write(as_markdown(report))
    print(as_markdown(report))
    return 1 if any(part['problem'] for part in report['parts']) else 0


if __name__ == '__main__':
    run(main)
