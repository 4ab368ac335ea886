"""Turn arcface_torch's model.pt into a checkpoint of MXNet, or a checkpoint of MXNet into a model.pt.

The names and numbers of the parameters stay as they are. The network of a model.pt is told from its names, or by
--network, as it stood in the config. A model.pt from a checkpoint is one that arcface_torch starts from
(config.network = 'cru116:pretrained=FILE.pt').
"""

import os

from netkit import checkpoints, report
from netkit.cli import Parser, add_sizes, file_prefix, run
from netkit.files import keep_inputs, new_files
from netkit.targets import MODEL, of_checkpoint

EPOCH = 0  # of the checkpoint that is written


def parse_args(argv=None):
    parser = Parser(prog='convert.py', description=__doc__)
    parser.add_argument('model', metavar=MODEL, help='what to read')
    parser.add_argument('--network', help='network choice that it is of, with settings if it has any')
    parser.add_argument(
        '--output',
        required=True,
        type=file_prefix,
        metavar='PREFIX|FILE.pt',
        help=f'what to write: PREFIX-symbol.json and PREFIX-{EPOCH:04d}.params, or FILE.pt',
    )
    add_sizes(parser)
    args = parser.parse_args(argv)
    if checkpoints.is_state_dict(args.model) == checkpoints.is_state_dict(args.output):
        parser.error(f'{args.model}, {args.output}: one has to be a FILE.pt, the other PREFIX,EPOCH or PREFIX')
    return args


def main():
    args = parse_args()
    to_torch = checkpoints.is_state_dict(args.output)
    outputs = [args.output] if to_torch else checkpoints.files(args.output, EPOCH)
    keep_inputs(outputs, [checkpoints.parameters_path(args.model)])
    target = of_checkpoint(args.model, args.image_size, args.network, args.multiplier)
    folder, name = os.path.split(os.path.abspath(args.output))
    with new_files(folder) as scratch:
        if to_torch:
            checkpoints.save_state_dict(os.path.join(scratch, name), target.symbol, target.parameters)
        else:
            checkpoints.save(os.path.join(scratch, name), EPOCH, target.symbol, target.parameters)
    count = sum(array.size for array in target.parameters.values())
    rows = [(path, f'{os.path.getsize(path):,}') for path in outputs]
    report.show(f'{target.label}: {len(target.parameters)} arrays, {count:,} numbers', ('file', 'bytes'), rows)


if __name__ == '__main__':
    run(main)
