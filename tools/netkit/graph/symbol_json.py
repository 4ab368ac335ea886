"""Symbol JSON files. MXNet crashes on damaged and hostile ones, so they are checked before it loads them."""

import json
import re

from netkit._mxnet import mx
from netkit.errors import UserError, reason

DIVISORS = ('num_group', 'num_groups', 'stride', 'dilate', 'num_outputs')  # attributes that MXNet divides by
ATTRIBUTES = ('attrs', 'attr', 'param')  # the keys of a node's attributes, from new to old versions
MOST_OUTPUTS = 4096  # of an operator; with millions MXNet never returns


def load_symbol(path):
    """Return the `mx.sym.Symbol` of a symbol JSON file; raises UserError."""
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read()
        _check(json.loads(text))
        return mx.sym.load_json(text)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except mx.MXNetError as error:
        raise UserError(f'{path} is not a symbol that this MXNet knows: {reason(error)}')
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UserError(f'{path} is not a symbol JSON of MXNet; is it there whole?')


def save_symbol(path, symbol):
    """Write the JSON of a symbol; raises OSError on a full disk, which MXNet's own function ignores."""
    with open(path, 'w', encoding='utf-8') as file:
        file.write(symbol.tojson())


def _check(content):
    """Raise ValueError for references to outputs that do not exist, and for attributes that crash MXNet."""
    nodes = content['nodes']

    def check_entries(entries, before):
        for source, output, *_ in entries:
            if not 0 <= source < before:
                raise ValueError('a node refers to none before it')
            # Every operator has a first output; counting them takes a while.
            if output and not 0 < output < count_outputs(nodes[source], content.get('attrs', {})):
                raise ValueError('a node refers to an output that does not exist')

    for number, node in enumerate(nodes):
        check_entries(node['inputs'], number)
        for key in ATTRIBUTES:
            _check_attributes(node.get(key, {}))
    check_entries(content['heads'], len(nodes))


def _check_attributes(attributes):
    """Raise ValueError for attributes of a node by which MXNet divides by zero, or runs without end."""
    for key in DIVISORS:
        numbers = [int(number) for number in re.findall(r'(?<![\d.])\d+(?![\d.])', str(attributes.get(key, '')))]
        if 0 in numbers or key == 'num_outputs' and max(numbers, default=1) > MOST_OUTPUTS:
            raise ValueError(f'{key} of a node is {attributes[key]}')
    # In a Reshape, -4 is followed by the two factors of an axis, by which it is divided.
    if re.search(r'-4\D+((-?\d+\D+)?0+)(?!\d)', str(attributes.get('shape', ''))):
        raise ValueError('a Reshape splits an axis into parts of 0')


def count_outputs(node, attrs):
    """Return the number of outputs of a node of a symbol JSON with these `attrs`, by loading the node alone.

    Raises MXNetError for an operator that MXNet does not know.
    """
    if node['op'] == 'BatchNorm':
        return 3  # two of them, mean and variance, are hidden
    inputs = [{'op': 'null', 'name': f'input{place}', 'inputs': []} for place in range(len(node['inputs']))]
    alone = dict(node, inputs=[[place, 0, 0] for place in range(len(inputs))])
    symbol = mx.sym.load_json(
        json.dumps(
            {
                'nodes': [*inputs, alone],
                'arg_nodes': list(range(len(inputs))),
                'heads': [[len(inputs), 0, 0]],
                'attrs': attrs,
            }
        )
    )
    return len(symbol.get_internals().list_outputs()) - len(inputs)
