"""Tables of planned memory, images and gradients on several GPUs, and building time.

Each function returns (title, columns, rows of texts) for a list of Choices.
"""

import time

from tqdm import tqdm

from netkit.graph.counts import count_copies, count_parameters
from netkit.graph.memory import planned_memory

BATCHES = (32, 80, 128)  # images of the training steps that `memory` plans by default
GPUS = (1, 8, 64)


def megabytes(numbers):
    """Return the size of `numbers` float32 numbers in MB (2^20 bytes)."""
    return 4 * numbers / 2**20


def memory(choices, batches):
    """MXNet's planned memory of a training step of each of `batches` images, without and with `memonger`."""
    rows = []
    for choice in tqdm(choices, unit='choice', leave=False, disable=None):
        symbol, image_shape = choice.build()
        row = [
            choice.label,
            str(choice.per_batch_size),
            'on' if choice.settings()['memonger'] else 'off',
            f'{megabytes(count_parameters(symbol, image_shape)):,.0f}',
        ]
        for memonger in (False, True):
            symbol, image_shape = choice.build(memonger=memonger)
            row += [f'{planned_memory(symbol, batch, image_shape):,.0f}' for batch in batches]
        rows.append(tuple(row))
    columns = [f'{word} {batch}' for word in ('off', 'on') for batch in batches]
    return (
        'planned MB for the feature maps of a training step and their gradients, memonger off and on; add three '
        'times the weights (weights, gradients, momentum)',
        ('choice', 'default batch', 'default', 'weights', *columns),
        rows,
    )


def scaling(choices):
    """What a training step with the default batch takes on several GPUs."""
    rows = []
    for choice in tqdm(choices, unit='choice', leave=False, disable=None):
        (symbol, image_shape), batch = choice.build(), choice.per_batch_size
        parameters, copies = (megabytes(count(symbol, image_shape)) for count in (count_parameters, count_copies))
        rows.append(
            (
                choice.label,
                str(batch),
                f'{planned_memory(symbol, batch, image_shape):,.0f}',
                *(f'{gpus * batch:,}' for gpus in GPUS),
                f'{parameters:,.0f}',
                f'{parameters + copies:,.0f}',
                f'{100 * copies / (parameters + copies):.0f} %',
            )
        )
    images = [f'images, {gpus} GPU{"s" * (gpus > 1)}' for gpus in GPUS]
    return (
        'a training step with the default batch: planned MB on each GPU, images, MB of gradients',
        ('choice', 'batch', 'plan MB', *images, 'gradients MB', 'unshared MB', 'saved'),
        rows,
    )


def building(choices):
    """How long the symbol of a network and its JSON take, and how long the JSON is."""
    rows = []
    for choice in choices:
        start = time.perf_counter()
        symbol, _ = choice.build()
        built = time.perf_counter()
        text = symbol.tojson()
        done = time.perf_counter()
        rows.append(
            (choice.label, f'{1e3 * (built - start):.0f}', f'{1e3 * (done - built):.0f}', f'{len(text) / 1024:,.0f}')
        )
    return 'building, milliseconds', ('choice', 'symbol', 'JSON', 'JSON KB'), rows
