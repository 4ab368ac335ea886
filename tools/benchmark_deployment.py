"""Time a network's deployed forms side by side: MXNet as the host trains it, and folded; onnxruntime, and folded.

All forms run in one process, in turns, with the same random weights. MXNet takes OMP_NUM_THREADS threads (here: one
for each CPU; by itself MXNet takes half of them), onnxruntime one for each CPU.
"""

from netkit import report
from netkit.bench.choices import parse_choice
from netkit.bench.deployed import COLUMNS, forms, rows_of
from netkit.bench.timing import measure
from netkit.cli import Parser, run, whole_number


def main():
    parser = Parser(prog='benchmark_deployment.py', description=__doc__)
    parser.add_argument(
        'choices',
        nargs='*',
        metavar='CHOICE',
        default=['cru116', 'att92'],
        help='NETWORK or NETWORK:SETTING=VALUE,…, as in benchmark.py',
    )
    parser.add_argument('--per-batch-size', type=whole_number(1), default=1, help='images at a time')
    parser.add_argument('--repetitions', type=whole_number(1), default=9, help='runs of each that are timed')
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')
    args = parser.parse_args()
    choices = [parse_choice(text) for text in args.choices]
    for choice in choices:
        choice.build()  # refuses wrong values now, not after minutes
    for choice in choices:
        rows = rows_of(measure(forms(choice, args.per_batch_size), args.repetitions), args.per_batch_size)
        show = report.printer(args.markdown)
        show(f'{choice.label} in inference, batch {args.per_batch_size}', COLUMNS, rows)


if __name__ == '__main__':
    run(main)
