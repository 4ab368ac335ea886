"""Summarise one network by stages and units, or several in one line each."""

import fnmatch
import json

from netkit.project import start

start()

from netkit import report
from netkit.cli import Parser, add_sizes, run
from netkit.networks import FACE_NETWORKS, NETWORKS
from netkit.summaries import BATCH, summarise
from netkit.targets import HELP, open_target, with_noted_network

UNIT_COLUMNS = ('unit', 'output', 'channels', 'K', 'groups', 'shares', 'parameters', 'MACs/image', 'plan MB/image')
# Columns of several networks, by their keys in a summary: heading, and how a value is written.
COLUMNS = {
    'network': ('network', str),
    'input': ('input', lambda size: '×'.join(map(str, size))),
    'output': ('output', lambda shape: '×'.join(map(str, shape))),
    'parameters': ('parameters', '{:,}'.format),
    'saved_by_sharing': ('saved by sharing', '{:,}'.format),
    'macs': ('MACs/image', lambda macs: f'{macs / 1e9:.3f} G'),
    'plan_mb': ('plan MB/image', '{:.1f}'.format),
}


def unit_rows(summary):
    """Return the table of one network: every stage with its units, the totals, and the paper's row."""

    def written(value, form):
        return '' if value is None else form(value)

    def row(name, output=None, parameters=None, macs=None, plan=None, details=(None, None, None)):
        size, channels = ('×'.join(map(str, output[1:])), str(output[0])) if output else ('', '')
        details = tuple(written(value, str) for value in details)
        return (
            (name, size, channels)
            + details
            + (
                written(parameters, COLUMNS['parameters'][1]),
                written(macs, COLUMNS['macs'][1]),
                written(plan, COLUMNS['plan_mb'][1]),
            )
        )

    rows, stages = [], {}
    for unit in summary['units']:
        stages.setdefault(unit['stage'], []).append(unit)
    for stage, units in stages.items():
        if len(units) > 1:
            rows.append(
                row(
                    f'{stage}, {len(units)} units',
                    units[-1]['output'],
                    sum(unit['parameters'] for unit in units),
                    sum(unit['macs'] for unit in units),
                )
            )
        for unit in units:
            rows.append(
                row(
                    '  ' * (len(units) > 1) + unit['unit'],
                    unit['output'],
                    unit['parameters'],
                    unit['macs'],
                    unit['plan_mb'],
                    (unit['width'], unit['num_group'], unit['sharing']),
                )
            )
    rows.append(row('all', summary['output'], summary['parameters'], summary['macs'], summary['plan_mb']))
    if 'published' in summary:
        published = summary['published']
        printed = f'; the paper: {published["printed"]}' if published['printed'] else ''
        rows.append(
            row(
                f'published for {published["network"]}{printed}',
                parameters=published['parameters'],
                macs=published['macs'],
            )
        )
    return rows


def parse_args(argv=None):
    parser = Parser(prog='summarize.py', description=__doc__)
    parser.add_argument(
        'networks',
        nargs='*',
        metavar='NETWORK',
        help=HELP + ", or a pattern such as '*_imagenet' (default: the face networks)",
    )
    add_sizes(parser)
    parser.add_argument(
        '--sort', choices=COLUMNS, metavar='COLUMN', help=f'sort several networks by this column: {", ".join(COLUMNS)}'
    )
    parser.add_argument('--descending', action='store_true', help='the largest first')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='print JSON: a list of networks, each with its units')
    form.add_argument('--markdown', action='store_true', help='print a Markdown table')
    args = parser.parse_args(argv)
    if args.descending and not args.sort:
        parser.error('--descending requires --sort COLUMN')
    return args


def named(texts):
    """Return the networks on the command line; a pattern stands for all matching networks."""
    if not texts:
        return FACE_NETWORKS
    return [name for text in texts for name in fnmatch.filter(NETWORKS, text) or [text]]


def main(argv=None):
    args = parse_args(argv)
    targets = [with_noted_network(open_target(name, args.image_size, args.multiplier)) for name in named(args.networks)]
    one = len(targets) == 1
    summaries = [
        summarise(target, with_units=one or args.json) for target in report.progress(targets, 'network', hidden=one)
    ]
    if args.sort:
        summaries.sort(key=lambda summary: summary[args.sort], reverse=args.descending)
    show = report.printer(args.markdown)
    if args.json:
        print(json.dumps(summaries, indent=1, ensure_ascii=False))
    elif one:
        show(targets[0].label, UNIT_COLUMNS, unit_rows(summaries[0]))
        if not args.markdown:
            print(
                f'plan: planned memory in MXNet of a training step of {BATCH} images. A unit is planned alone; units '
                'share memory, so the network needs less than their sum'
            )
    else:
        show(
            'networks',
            tuple(heading for heading, _ in COLUMNS.values()),
            [tuple(write(summary[key]) for key, (_, write) in COLUMNS.items()) for summary in summaries],
        )


if __name__ == '__main__':
    run(main)
