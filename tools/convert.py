"""Turn arcface_torch's model.pt into a checkpoint of MXNet, or a checkpoint of MXNet into a model.pt.

The numbers of the parameters stay as they are, and the names where Python allows them. The network of a model.pt is
detected from its names, or given by --network, as in the config. With a model.pt from a checkpoint, the program prints
the line of arcface_torch's config that starts from it. For a network that is not ours, the program writes its
symbol, FILE-symbol.json, next to FILE.pt.
"""

import os

from netkit.project import start

start()

from netkit import checkpoints, report
from netkit.cli import Parser, add_sizes, file_prefix, run
from netkit.deploy.plain import plain
from netkit.errors import UserError
from netkit.files import keep_inputs, new_files
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol, save_symbol
from netkit.importing import source_of
from netkit.targets import MODEL, name_of, of_checkpoint, with_settings

EPOCH = 0  # of the checkpoint that is written


def parse_args(argv=None):
    parser = Parser(prog='convert.py', description=__doc__)
    parser.add_argument('model', metavar=MODEL, help='what to read')
    parser.add_argument('--network', help='network of the model, with settings if it has any (default: detected)')
    parser.add_argument(
        '-o',
        '--output',
        required=True,
        type=file_prefix,
        metavar='PREFIX|FILE.pt',
        help=f'what to write: PREFIX-symbol.json and PREFIX-{EPOCH:04d}.params, or FILE.pt',
    )
    add_sizes(parser)
    args = parser.parse_args(argv)
    if args.model.endswith('.onnx'):
        parser.error(f'{args.model} cannot be converted{checkpoints.meant(args.model)}')
    if checkpoints.is_state_dict(args.model) == checkpoints.is_state_dict(args.output):
        parser.error(
            f'{args.model}, {args.output}: one has to be FILE.pt or FILE.safetensors, the other PREFIX,EPOCH or PREFIX'
        )
    return args


def write_state_dict(path, target, network, scratch):
    """Write FILE.pt and, for a network that is not ours, FILE-symbol.json into `scratch`.

    Return (paths, network for arcface_torch's config). Raises UserError instead of replacing
    a different FILE-symbol.json, which may be the checkpoint's own.
    """
    symbol, outputs = plain(Graph.of(target.symbol)).symbol(), [path]
    if network is None:
        described = path[: path.rindex('.')] + '-symbol.json'
        if os.path.exists(described) and load_symbol(described).tojson() != symbol.tojson():
            raise UserError(f'{described} is there already, and describes another network; name another FILE.pt')
        outputs.append(described)
        network = os.path.abspath(described)
        save_symbol(os.path.join(scratch, os.path.basename(described)), symbol)
    checkpoints.save_state_dict(os.path.join(scratch, os.path.basename(path)), symbol, target.parameters)
    return outputs, network


def main():
    args = parse_args()
    to_torch = checkpoints.is_state_dict(args.output)
    outputs = [args.output] if to_torch else checkpoints.files(args.output, EPOCH)
    keep_inputs(outputs, [checkpoints.parameters_path(args.model)])
    target = of_checkpoint(args.model, args.image_size, args.network, args.multiplier)
    network = name_of(target)
    title = f'{target.label} ({network or "another network"})'
    folder, name = os.path.split(os.path.abspath(args.output))
    with new_files(folder) as scratch:
        if to_torch:
            outputs, network = write_state_dict(args.output, target, network, scratch)
        else:
            checkpoints.save(os.path.join(scratch, name), EPOCH, target.symbol, target.parameters)
    count = sum(array.size for array in target.parameters.values())
    rows = [(path, f'{os.path.getsize(path):,}') for path in outputs]
    report.show(f'{title}: {len(target.parameters)} arrays, {count:,} numbers', ('file', 'bytes'), rows)
    if to_torch:
        network = with_settings(network, f'pretrained={os.path.abspath(args.output)}')
        print(f"in arcface_torch's config: config.network = '{network}'")
        source = source_of(target.parameters)
        if source:
            print(f'the parameters are from {source.title}; tools/import_weights.py makes one of our networks of them')


if __name__ == '__main__':
    run(main)
