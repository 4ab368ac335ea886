"""Measure trained networks: verification of faces, error on ImageNet, embeddings.

MODEL is a checkpoint as PREFIX,EPOCH, of any MXNet trainer of insightface, a model.pt of its arcface_torch, or an .onnx
file, as in insightface's model packs.
"""

import argparse
import json
import os

from netkit.project import start

start()

from netkit import published, report
from netkit.cli import Parser, add_sizes, number, run, whole_number
from netkit.data.folders import pictures_in
from netkit.drawing import canvas as figures, charts
from netkit.errors import UserError
from netkit.evaluation import embeddings, imagenet as classification, protocol, verification
from netkit.evaluation.engines import open_engine
from netkit.files import check_writable, keep_inputs

HOST = (
    "insightface's own config names three of the six published sets in val_targets (lfw, cfp_fp, agedb_30), and its "
    'verification program needs a GPU; this one takes every .bin file, and a CPU.'
)
SIMILAR = 20  # pictures whose cosines are printed at most


def engines_of(args, otherwise=None):
    """Yield the Engine of each model on the command line; `otherwise` is the image shape of those that take any."""
    for model in args.models:
        yield open_engine(model, args.batch_size, args.network, args.image_size, args.multiplier, otherwise)


def faces(args):
    """Verify pairs of faces."""
    sets = verification.sets_in(args.data, args.sets)
    if args.plot:
        check_writable(os.path.dirname(os.path.abspath(args.plot)))
        keep_inputs([args.plot], sets.values())
    results, show = {}, report.printer(args.markdown)
    for engine in engines_of(args):
        found = [verification.evaluate(engine, name, path, args.far) for name, path in sets.items()]
        results[engine.label] = found
        if not args.json:
            name_table(engine.label, args)
            show(engine.label, verification.columns(args.far), [verification.texts_of(result) for result in found])
            show_thresholds({result.set: result.thresholds for result in found}, args.far, show)
    if args.json:
        print(json.dumps(verification.as_json(results), indent=1, ensure_ascii=False))
    elif len(results) > 1:
        rows = [
            (name, *(f'{found[place].accuracy.mean:.5f}' for found in results.values()))
            for place, name in enumerate(sets)
        ]
        name_table('accuracy', args)
        show('accuracy', ('set', *results), rows)
    short = [result.roc.different for found in results.values() for result in found if None in result.thresholds]
    if short and not args.json and not args.markdown:
        print(verification.too_few(min(short)))
    if args.published:
        names = list(dict.fromkeys(name for row in published.FACES for name in row.sets))
        rows = [(row.network, row.training, *(row.sets.get(name, '–') for name in names)) for row in published.FACES]
        print()
        show('published accuracies', ('network', 'training', *names), rows)
    if args.plot:
        curves = {f'{label}, {result.set}': result.roc for label, found in results.items() for result in found}
        figures.save(charts.draw_roc(curves), args.plot)
        if not args.json:
            print(f'drawn into {args.plot}')


def show_thresholds(found, fars, show):
    """Print {set: Thresholds}."""
    title = 'thresholds (no mirror images)'
    if show is report.show_as_markdown:  # which prints no titles
        print(f'\n{title}:\n')
    rows = [row for name, of in found.items() for row in verification.texts_of_thresholds(name, fars, of)]
    show(title, verification.COLUMNS_OF_THRESHOLDS, rows)


def name_table(title, args):
    """Print the title of a table where there are several in Markdown, which has none."""
    if args.markdown and len(args.models) > 1:
        print(f'\n{title}:\n')


def imagenet(args):
    """Measure top-1 and top-5 error on a folder with one subfolder per class, or on a RecordIO file."""
    rows = []
    if args.crop and not args.image_size:
        args.image_size = args.crop, args.crop, 3
    for engine in engines_of(args, (classification.SIDE, classification.SIDE, 3)):
        side = args.crop or engine.image_shape[0]
        if (side, side) != engine.image_shape[:2]:
            raise UserError(
                f'--crop {side}: {engine.label} takes images of {engine.image_shape[0]}×{engine.image_shape[1]}; '
                'leave --crop out, or name that side'
            )
        resize = args.resize or classification.resize_for(side)
        images = classification.Images(args.data, max(resize, side), side)
        result = classification.evaluate(engine, images)
        errors = [f'{100 * result.errors[k]:.2f} %' if k in result.errors else '–' for k in classification.TOPS]
        rows.append((engine.label, str(result.images), *errors))
        if images.skipped:
            path, why = next(iter(images.skipped.items()))
            print(f'{len(images.skipped)} files were skipped; the first: {path} {why}')
    show = report.printer(args.markdown)
    show(args.data, ('model', 'images', 'top-1 error', 'top-5 error'), rows)
    if args.published:
        print()
        show('published errors on ImageNet, in %', ('network', 'top-1 error', 'top-5 error'), published.IMAGENET)


def embed(args):
    """Compute the embeddings of aligned faces."""
    paths = pictures_in(args.pictures)
    if args.far:
        if len(args.pictures) > 1 or not os.path.isdir(args.pictures[0]):
            raise UserError('--far needs one folder, with a subfolder for each person')
        people = embeddings.people_of(paths, args.pictures[0])
    elif args.similar and len(paths) > SIMILAR:
        raise UserError(
            f'--similar prints the cosines of {SIMILAR} pictures at most, and these are {len(paths)}; with --far it '
            'prints thresholds for any number'
        )
    if args.output:
        keep_inputs([args.output], paths)
    (engine,) = engines_of(args)
    found = embeddings.embed(engine, paths)
    if args.output:
        embeddings.save(args.output, paths, found)
        print(f'{len(paths)} embeddings of {found.shape[1]} numbers written into {args.output}')
    if args.far:
        pairs = protocol.cosines_of_people(found, people, max(args.far))
        thresholds = protocol.thresholds(pairs, args.far)
        print(f'{len(pairs.same):,} pairs of the same person, {pairs.different:,} of different people')
        show_thresholds({engine.label: thresholds}, args.far, report.show)
        if None in thresholds:
            print(verification.too_few(pairs.different))
    if args.similar and len(paths) <= SIMILAR:
        names = shortened(paths)
        rows = [(name, *(f'{value:.3f}' for value in row)) for name, row in zip(names, embeddings.cosines(found))]
        report.show('cosines', ('file', *names), rows)


def shortened(paths):
    """Return the paths without the folders that all of them share."""
    folder = os.path.commonpath([os.path.dirname(path) for path in map(os.path.abspath, paths)])
    return [os.path.relpath(path, folder) for path in paths]


def embeddings_path(text):
    """Argparse type: the path of a file of embeddings."""
    if not text.endswith(('.npz', '.csv')):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .npz or .csv')
    return text


def parse_args(argv=None):
    parser = Parser(prog='evaluate.py', description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='WHAT')

    def command(function, text, models='+'):
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(evaluate=function)
        added.add_argument('models', nargs=models, metavar='MODEL', help='PREFIX,EPOCH, FILE.pt or FILE.onnx')
        added.add_argument('--network', help='network that a checkpoint must match')
        if models == '+':
            added.add_argument(
                '--published',
                action='store_true',
                help='also print the published figures of all networks that have some',
            )
        if function is not imagenet:
            added.add_argument(
                '--far',
                type=number(1e-9, 0.5),
                nargs='+',
                metavar='RATE',
                default=list(verification.FARS) if function is faces else None,
                help='print the threshold of the cosine and the true accept rate at these false accept rates, as '
                '1e-3 1e-4 1e-5' + (' (default: 1e-2 1e-3 1e-4)' if function is faces else ', with --similar'),
            )
        added.add_argument('--batch-size', type=whole_number(1, 4096), default=32, metavar='N', help='batch size')
        add_sizes(added)
        return added

    parser_ = command(faces, f'verify pairs of faces, as insightface does, on every .bin file of a folder. {HOST}')
    parser_.add_argument('--data', required=True, metavar='FOLDER', help='folder of the verification sets (.bin)')
    parser_.add_argument(
        '--sets', type=lambda text: text.split(','), metavar='NAME,…', help='evaluate only these sets (default: all)'
    )
    parser_.add_argument('--plot', type=figures.picture_path, metavar='FILE', help='draw the ROC curves into this file')
    form = parser_.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='print JSON')
    form.add_argument('--markdown', action='store_true', help='print Markdown tables')
    parser_ = command(imagenet, 'measure top-1 and top-5 error of an ImageNet variant')
    parser_.add_argument(
        '--data', required=True, metavar='PATH', help='folder with one subfolder per class, or a .rec file'
    )
    parser_.add_argument(
        '--resize',
        type=whole_number(1, 4096),
        help='pixels of the shorter side (default: 256, for smaller images in proportion)',
    )
    parser_.add_argument(
        '--crop', type=whole_number(1, 4096), help="pixels of the centre (default: the network's size)"
    )
    parser_.add_argument('--markdown', action='store_true', help='print a Markdown table')
    parser_ = command(embed, 'compute embeddings of aligned faces', models=1)
    parser_.add_argument('pictures', nargs='+', metavar='IMAGE|FOLDER', help='aligned faces')
    parser_.add_argument(
        '-o', '--output', type=embeddings_path, metavar='FILE', help='write the embeddings: .npz or .csv'
    )
    parser_.add_argument(
        '--similar',
        action='store_true',
        help='print the cosines of all pairs, or with --far the thresholds (needs one subfolder per person)',
    )
    args = parser.parse_args(argv)
    if not args.command:
        parser.error(f'say what to do: {", ".join(commands.choices)}')
    if args.command == 'embed' and not args.output and not args.similar:
        parser.error('name a file with --output, or ask for --similar')
    if getattr(args, 'far', None):
        args.far = list(dict.fromkeys(args.far))
    if args.command == 'embed' and args.far and not args.similar:
        parser.error('--far is for --similar')
    if args.command == 'faces' and args.published and args.json:
        parser.error('--published prints a table; leave --json out')
    return args


def main(argv=None):
    args = parse_args(argv)
    args.evaluate(args)


if __name__ == '__main__':
    run(main)
