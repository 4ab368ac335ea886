"""The deployed forms of a network, to be timed side by side."""

import statistics

from netkit._mxnet import mx
from netkit.bench.steps import Floor, Session, Step
from netkit.deploy.fold import fold
from netkit.deploy.plain import plain
from netkit.graph.nodes import Graph

COLUMNS = ('form', 'ms/image', 'spread', 'images/s', 'ratio')


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
    return {
        'MXNet, as the host trains it': trained,
        'MXNet, folded': Step(folded.symbol(), shape, context, training=False),
        'onnxruntime': Session(graph, parameters, image_shape, data),
        'onnxruntime, folded': Session(folded, fewer, image_shape, data),
        'MXNet, convolutions and FCs alone': Floor(symbol, shape, context, training=False),
    }


def rows_of(seconds, batch):
    """Return the table's rows for {form: seconds of each run}; ratios are to the first form."""
    rows, first = [], None
    for form, times in seconds.items():
        least, median, most = (1e3 / batch * pick(times) for pick in (min, statistics.median, max))
        first = first or median
        rows.append(
            (form, f'{median:.1f}', f'{least:.0f}…{most:.0f}', f'{1000.0 / median:.2f}', f'{first / median:.2f}×')
        )
    return rows
