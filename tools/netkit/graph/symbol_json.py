"""Symbol JSON files, checked before MXNet, which crashes on damaged ones, loads them."""
import json
import re

from netkit._mxnet import mx
from netkit.errors import UserError

DIVISORS = ('num_group', 'stride', 'dilate', 'num_outputs')  # attributes that MXNet divides by


def load_symbol(path):
    """Return the `mx.sym.Symbol` of a symbol JSON file; raises UserError if it is none."""
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read()
        _check_pointers(json.loads(text))
        return mx.sym.load_json(text)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'{path} is not a symbol that this MXNet knows: {reason}')
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UserError(f'{path} is not a symbol JSON of MXNet; is it there whole?')


def save_symbol(path, symbol):
    """Write the JSON of a symbol; raises OSError where the disk does not take it, which MXNet passes over."""
    with open(path, 'w', encoding='utf-8') as file:
        file.write(symbol.tojson())


def _check_pointers(content):
    """Raise ValueError where a node of a symbol JSON points at no output of a node before it, or is to divide by 0.

    MXNet does not look, and crashes.
    """
    nodes = content['nodes']

    def check(entries, before):
        for source, output, *_ in entries:
            # Every operator has a first output; to ask for more takes a while.
            if not 0 <= source < before or output and not 0 < output < count_outputs(nodes[source], content.get('attrs', {})):
                raise ValueError('a node points nowhere')

    for number, node in enumerate(nodes):
        check(node['inputs'], number)
        for key in DIVISORS:
            if re.search(r'(?<![\d.])0(?![\d.])', str(node.get('attrs', {}).get(key, ''))):
                raise ValueError(f'{key} of a node is 0')
    check(content['heads'], len(nodes))


def count_outputs(node, attrs):
    """Return how many outputs a node of a symbol JSON, which has these `attrs`, has, by loading it alone.

    Raises MXNetError for one that MXNet does not know.
    """
    if node['op'] == 'BatchNorm':
        return 3  # two of them, mean and variance, are hidden
    inputs = [{'op': 'null', 'name': f'input{place}', 'inputs': []} for place in range(len(node['inputs']))]
    alone = dict(node, inputs=[[place, 0, 0] for place in range(len(inputs))])
    symbol = mx.sym.load_json(json.dumps({'nodes': inputs + [alone], 'arg_nodes': list(range(len(inputs))),
                                              'heads': [[len(inputs), 0, 0]], 'attrs': attrs}))
    return len(symbol.get_internals().list_outputs()) - len(inputs)
