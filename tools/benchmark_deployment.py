"""Time a network's deployed forms side by side: MXNet as the host trains it, and folded; onnxruntime, and folded.

All forms run in one process, in turns, with the same random weights. MXNet takes OMP_NUM_THREADS threads (here: one
for each CPU; by itself MXNet takes half of them), onnxruntime one for each CPU.
"""
import statistics

from project import Parser, run, whole_number

import mxnet as mx

import onnx_graph
import tables
from benchmark import Floor, Step, measure, parse_choice
from graph import Graph
from inference import EMBEDDING, fold, plain

COLUMNS = ('form', 'ms/image', 'spread', 'images/s', 'ratio')


class Session:
    """One inference in onnxruntime."""

    def __init__(self, graph, parameters, image_shape, data):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        # Its threads would otherwise wait busily while the others take their turns.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        model = onnx_graph.convert(graph, parameters, image_shape)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                                    providers=['CPUExecutionProvider'])
        self.data = data

    def __call__(self):
        self.session.run([EMBEDDING], {'data': self.data})


def forms(choice, batch):
    """Return {form: step} of a choice: what can be timed of it."""
    symbol, image_shape = choice.build('gpu')  # the form that the host trains
    context, shape = mx.cpu(), (batch, 3) + tuple(image_shape[:2])
    trained = Step(symbol, shape, context, training=False)
    arrays = dict(trained.executor.arg_dict, **trained.executor.aux_dict)
    parameters = {name: array.asnumpy() for name, array in arrays.items()}
    data = parameters.pop('data')
    graph = plain(Graph.of(symbol))
    folded, fewer, _ = fold(graph, parameters)
    return {'MXNet, as the host trains it': trained,
            'MXNet, folded': Step(folded.symbol(), shape, context, training=False),
            'onnxruntime': Session(graph, parameters, image_shape, data),
            'onnxruntime, folded': Session(folded, fewer, image_shape, data),
            'MXNet, convolutions and FCs alone': Floor(symbol, shape, context, training=False)}


def rows_of(seconds, batch):
    """Return the table's rows for {form: seconds of each run}; ratios are to the first form."""
    rows, first = [], None
    for form, times in seconds.items():
        least, median, most = (1e3 / batch * pick(times) for pick in (min, statistics.median, max))
        first = first or median
        rows.append((form, '%.1f' % median, '%.0f…%.0f' % (least, most), '%.2f' % (1e3 / median),
                     '%.2f×' % (first / median)))
    return rows


def main():
    parser = Parser(prog='benchmark_deployment.py', description=__doc__)
    parser.add_argument('choices', nargs='*', metavar='CHOICE', default=['cru116', 'att92'],
                        help='NETWORK or NETWORK:SETTING=VALUE,…, as in benchmark.py')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=1, help='images at a time')
    parser.add_argument('--repetitions', type=whole_number(1), default=9, help='runs of each that are timed')
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')
    args = parser.parse_args()
    choices = [parse_choice(text) for text in args.choices]
    for choice in choices:
        choice.build('gpu')  # wrong values show now, not after minutes
    for choice in choices:
        rows = rows_of(measure(forms(choice, args.per_batch_size), args.repetitions), args.per_batch_size)
        show = tables.show_as_markdown if args.markdown else tables.show
        show('%s in inference, batch %d' % (choice.label, args.per_batch_size), COLUMNS, rows)


if __name__ == '__main__':
    run(main)
