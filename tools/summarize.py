"""Summarise networks: one by its stages and units, several in a line each."""
import json

from project import Parser, run

from tqdm import tqdm

import config as host
import structure
import tables
from network import planned_memory
from published import PUBLISHED, original_form
from targets import HELP, add_sizes, open_target

BATCH = 32  # images of the training step whose memory is planned
UNIT_COLUMNS = ('unit', 'output', 'channels', 'K', 'groups', 'shares', 'parameters', 'MACs/image', 'plan MB/image')
# Columns of several networks, by their keys in a summary: heading, and how a value is written.
COLUMNS = {
    'network': ('network', str),
    'input': ('input', lambda size: '%d×%d' % tuple(size)),
    'output': ('output', lambda shape: '×'.join(map(str, shape))),
    'parameters': ('parameters', '{:,}'.format),
    'saved_by_sharing': ('saved by sharing', '{:,}'.format),
    'macs': ('MACs/image', lambda macs: '%.3f G' % (macs / 1e9)),
    'plan_mb': ('plan MB/image', '{:.1f}'.format),
}


# ---------------------------------------------------------------------------------------------- summaries

def summarise(target, with_units=True):
    """Return what there is to tell about a Target, as a dict that can be written as JSON.

    `macs` and `plan_mb` are for one image; `plan_mb` is what MXNet plans for feature maps and their gradients in a
    training step of BATCH images, in MB of 2^20 bytes, a unit's is for that unit by itself.
    """
    units = structure.analyse(target.symbol, target.image_shape)
    summary = dict(
        network=target.label, input=list(target.image_shape[:2]), output=list(units[-1].output),
        parameters=sum(unit.parameters for unit in units),
        saved_by_sharing=sum(unit.unshared - unit.parameters for unit in units),
        macs=sum(unit.macs for unit in units),
        plan_mb=planned_memory(target.symbol, BATCH, target.image_shape) / BATCH)
    if with_units:
        plans = structure.planned_memories(target.symbol, target.image_shape, BATCH)
        summary['units'] = [dict(
            unit=unit.name, stage=unit.stage, output=list(unit.output), width=unit.width, num_group=unit.num_group,
            sharing=unit.sharing, parameters=unit.parameters, macs=unit.macs, plan_mb=plans[unit.name] / BATCH)
            for unit in units]
        original = target.network and original_form(target.network)
        if original in PUBLISHED:  # not one of a network that somebody added
            summary['published'] = dict(PUBLISHED[original]._asdict(), network=original)
    return summary


# ------------------------------------------------------------------------------------------------- tables

def unit_rows(summary):
    """Return the table of one network: every stage with its units, the totals, and the paper's row."""
    def written(value, form):
        return '' if value is None else form(value)

    def row(name, output=None, parameters=None, macs=None, plan=None, details=(None, None, None)):
        size, channels = ('×'.join(map(str, output[1:])), str(output[0])) if output else ('', '')
        details = tuple(written(value, str) for value in details)
        return (name, size, channels) + details + (
            written(parameters, COLUMNS['parameters'][1]), written(macs, COLUMNS['macs'][1]),
            written(plan, COLUMNS['plan_mb'][1]))

    rows, stages = [], {}
    for unit in summary['units']:
        stages.setdefault(unit['stage'], []).append(unit)
    for stage, units in stages.items():
        if len(units) > 1:
            rows.append(row('%s, %d units' % (stage, len(units)), units[-1]['output'],
                            sum(unit['parameters'] for unit in units), sum(unit['macs'] for unit in units)))
        for unit in units:
            rows.append(row('  ' * (len(units) > 1) + unit['unit'], unit['output'], unit['parameters'], unit['macs'],
                            unit['plan_mb'], (unit['width'], unit['num_group'], unit['sharing'])))
    rows.append(row('all', summary['output'], summary['parameters'], summary['macs'], summary['plan_mb']))
    if 'published' in summary:
        published = summary['published']
        printed = '; the paper: %s' % published['printed'] if published['printed'] else ''
        rows.append(row('published for %s%s' % (published['network'], printed), parameters=published['parameters'],
                        macs=published['macs']))
    return rows


def parse_args(argv=None):
    parser = Parser(prog='summarize.py', description=__doc__)
    parser.add_argument('networks', nargs='*', metavar='NETWORK', help=HELP + ' (default: all network choices)')
    add_sizes(parser)
    parser.add_argument('--sort', choices=COLUMNS, metavar='COLUMN',
                        help='sort several networks by this column: %s' % ', '.join(COLUMNS))
    parser.add_argument('--descending', action='store_true', help='the largest first')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='print JSON: a list of networks, each with its units')
    form.add_argument('--markdown', action='store_true', help='print a Markdown table')
    args = parser.parse_args(argv)
    if args.descending and not args.sort:
        parser.error('--descending wants to know by which column; name a --sort')
    return args


def main(argv=None):
    args = parse_args(argv)
    targets = [open_target(text, args.image_size, args.multiplier) for text in args.networks or host.network]
    one = len(targets) == 1
    summaries = [summarise(target, with_units=one or args.json)
                 for target in tqdm(targets, unit='network', leave=False, disable=True if one else None)]
    if args.sort:
        summaries.sort(key=lambda summary: summary[args.sort], reverse=args.descending)
    show = tables.show_as_markdown if args.markdown else tables.show
    if args.json:
        print(json.dumps(summaries, indent=1, ensure_ascii=False))
    elif one:
        show(targets[0].label, UNIT_COLUMNS, unit_rows(summaries[0]))
        if not args.markdown:
            print('plan: what MXNet plans for a training step of %d images; of a unit, by itself, so that units use '
                  'again what others are done with and the whole is less than their sum' % BATCH)
    else:
        show('networks', tuple(heading for heading, _ in COLUMNS.values()),
             [tuple(write(summary[key]) for key, (_, write) in COLUMNS.items()) for summary in summaries])


if __name__ == '__main__':
    run(main)
