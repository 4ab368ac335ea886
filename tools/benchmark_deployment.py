"""Time a network's deployed forms side by side, in MXNet, onnxruntime and OpenVINO.

MXNet computes it as it is trained, and folded; onnxruntime the ONNX file in float32 and int8, OpenVINO in bfloat16 as
well. All forms run in one process, in turns, on the same number of threads: OMP_NUM_THREADS, by default one for each
CPU. Weights are random, with which int8 is as fast as with others, but keeps nothing; with --model they are a
checkpoint's, and each form's embeddings are compared with MXNet's.
"""

import os
import sys
import tempfile

from netkit.project import start

start()

from netkit import report
from netkit.bench import deployed, plot, runtimes as engines
from netkit.bench.timed_networks import parse_choice
from netkit.cli import Parser, run, whole_number
from netkit.data.samples import samples
from netkit.deploy.compare import Different
from netkit.deploy.int8 import CALIBRATION, HELD_OUT
from netkit.drawing.canvas import picture_path
from netkit.files import check_writable
from netkit.targets import MODEL, of_checkpoint


def parse_args(argv=None):
    parser = Parser(prog='benchmark_deployment.py', description=__doc__)
    parser.add_argument(
        'choices',
        nargs='*',
        metavar='CHOICE',
        help='NETWORK or NETWORK:SETTING=VALUE,…, as in benchmark.py (default: cru116 att92)',
    )
    parser.add_argument('--model', metavar=MODEL, help='instead: a checkpoint')
    parser.add_argument(
        '--calibration',
        metavar='DATA',
        help="with --model: faces that give int8 its ranges, and others to compare on: a data set in insightface's "
        'format, a .bin file, or a folder of aligned faces',
    )
    parser.add_argument(
        '--per-batch-size', type=batches, default=(1, 8), metavar='N,N…', help='images at a time (default: 1,8)'
    )
    parser.add_argument('--repetitions', type=whole_number(1), default=9, help='runs of each that are timed')
    parser.add_argument(
        '--plot', type=picture_path, metavar='FILE', help='draw the times into this file: .png, .svg or .pdf'
    )
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')
    args = parser.parse_args(argv)
    if bool(args.model) != bool(args.calibration):
        parser.error('--model and --calibration belong together: weights, and faces that they know')
    if args.model and args.choices:
        parser.error('name CHOICEs or a --model')
    args.choices = args.choices or ['cru116', 'att92']
    return args


def batches(text):
    """Argparse type: numbers of images."""
    return tuple(whole_number(1)(part) for part in text.split(','))


def subjects(args):
    """Return the Subjects to time; raises UserError now, not after minutes."""
    if not args.model:
        choices = [parse_choice(text) for text in args.choices]
        return [deployed.Subject(choice.label, *choice.build('gpu')) for choice in choices]  # as the host trains it
    target = of_checkpoint(args.model)
    faces = samples(args.calibration, target.image_shape, CALIBRATION, HELD_OUT)
    return [deployed.Subject(target.label, target.symbol, target.image_shape, target.parameters, faces)]


def show_times(subject, args):
    """Print the times of a Subject; return {title: Rows}."""
    results, show = {}, report.printer(args.markdown)
    with tempfile.TemporaryDirectory() as scratch:
        files = deployed.Deployed(subject, scratch)
        for batch in args.per_batch_size:
            title = f'{subject.label}, batch {batch}'
            results[title] = files.measure(batch, args.repetitions)
            show(title, deployed.COLUMNS, [deployed.texts_of(row) for row in results[title]])
    quantised = files.quantised
    print(f'{quantised.layers - len(quantised.left)} of {quantised.layers} layers in int8.')
    return results


def main():
    args = parse_args()
    engines.openvino_core()  # or refuses
    to_time, results = subjects(args), {}
    if args.plot:
        check_writable(os.path.dirname(os.path.abspath(args.plot)))
    try:
        for subject in to_time:
            results.update(show_times(subject, args))
    except Different as error:
        sys.stderr.write(f'benchmark_deployment.py: {error}\n')
        return 1
    print(engines.note(), f'{engines.threads()} threads.')
    if args.plot:
        plot.save(results, args.plot)
        print(f'drawn into {args.plot}')
    return 0


if __name__ == '__main__':
    run(main)
