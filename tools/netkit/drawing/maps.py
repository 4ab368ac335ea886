"""Draw heat maps for an image: the soft masks of the attention modules, or any feature map."""

import difflib
import math

import numpy as np

from netkit._mxnet import mx
from netkit.deploy.plain import in_float32
from netkit.drawing.canvas import new_figure
from netkit.errors import UserError
from netkit.graph.memory import check_room, planned_memory
from netkit.graph.naming import SOFT_MASK
from netkit.graph.nodes import Graph
from netkit.networks import initializer

CHANNELS = 11  # of a feature map that are drawn, besides their mean
COLUMNS = 6  # of panels of feature maps
CAPTION = (
    "a panel with a layer's name: mean over the channels; mean and spread (standard deviation) in its title: "
    'over all channels and positions'
)

FIELDS_CAPTION = (
    'by kernels and strides, what trunk (blue) and mask (orange) read for the middle of their maps:\n'
    "solid, of the module's input, scaled to the image; dotted, of the image itself"
)
PULLS_CAPTION = '\nheat maps: gradients by the pixels of the image (square root, relative to the largest)'
BRANCHES = ('trunk', 'tab:blue'), ('mask', 'tab:orange')


def compute(target, image, names):
    """Return {name: (channels, height, width)}, the outputs of the operators `names` for an image.

    `image` is (height, width, 3) RGB of 0…255. The weights are those of the target; if it has none they are drawn at
    random as in training, and BatchNorm takes the statistics of the image itself, since there are no others.
    Raises UserError for an operator that the network does not have, or has no map.
    """
    symbol = in_float32(Graph.of(target.symbol)).symbol()
    internals = symbol.get_internals()
    known = {node.name: node for node in internals if node.get_children() is not None}
    for name in names:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            advice = f'; did you mean {", ".join(alike)}?' if alike else ''
            raise UserError(f'--layer {name}: {target.label} has no such layer{advice}')
    check_room(
        planned_memory(symbol, 1, image.shape) * 2**20,  # it is bound as for training
        f'take a smaller --image-size: {target.label} needs for one image',
    )
    data = np.float32(image).transpose(2, 0, 1)[None]
    module = mx.mod.Module(mx.sym.Group([known[name] for name in names]), label_names=None)
    # For inference MXNet would fuse layers, and with some choices of outputs it then confuses the parameters.
    module.bind([('data', data.shape)], for_training=True)
    for name, (_, shape) in zip(names, module.output_shapes):
        if len(shape) != 4:
            raise UserError(f'--layer {name} is not a feature map: its shape is {shape}')
    has_weights = target.parameters is not None
    if has_weights:
        arrays = {name: mx.nd.array(values) for name, values in target.parameters.items()}
        module.set_params(arrays, arrays, allow_extra=True)
    else:
        mx.random.seed(0)
        np.random.seed(0)
        module.init_params(initializer())
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=not has_weights)
    return {name: output.asnumpy()[0] for name, output in zip(names, module.get_outputs())}


def gradients(target, image, names):
    """Return {name: (height, width)}: how much the middle of each map changes with each pixel of an image.

    That is the sum over the map's channels, derived by the pixel's red, green and blue, the absolute values added.
    `image` is (height, width, 3) RGB of 0…255. BatchNorm has its moving statistics.
    """

    def with_moving_statistics(node):
        if node.op == 'BatchNorm':
            node.attrs['use_global_stats'] = 'True'

    graph = in_float32(Graph.of(target.symbol)).rewritten(with_moving_statistics)
    internals = graph.symbol().get_internals()
    symbol = mx.sym.Group([internals[name + '_output'] for name in names])
    check_room(
        planned_memory(symbol, 1, image.shape) * 2**20,
        f'take a smaller --image-size: {target.label} requires for one image',
    )
    data = np.float32(image).transpose(2, 0, 1)[None]
    wanted = {name: 'write' if name == 'data' else 'null' for name in symbol.list_arguments()}
    executor = symbol.simple_bind(mx.cpu(), data=data.shape, grad_req=wanted)
    arrays = {
        name: mx.nd.array(target.parameters[name])
        for name in {**executor.arg_dict, **executor.aux_dict}
        if name != 'data'
    }
    executor.copy_params_from(arrays, arrays, allow_extra_params=True)
    found = {}
    for name in names:  # MXNet corrupts its memory in a second backward pass without a forward pass
        outputs = executor.forward(is_train=True, data=mx.nd.array(data))
        heads = [mx.nd.zeros(output.shape) for output in outputs]
        head = heads[names.index(name)]
        head[0, :, head.shape[2] // 2, head.shape[3] // 2] = 1
        executor.backward(heads)
        found[name] = np.abs(executor.grad_dict['data'].asnumpy()[0]).sum(axis=0)
    return found


def masks_of(target):
    """Return the names of the soft masks; raises UserError if there are none."""
    names = [
        name[: -len('_output')]
        for name in target.symbol.get_internals().list_outputs()
        if name.endswith(SOFT_MASK + '_output')
    ]
    if not names:
        raise UserError(
            f'{target.label} has no attention modules; name a feature map by --layer, or an attention network (att…)'
        )
    return names


def entitle(panel, text, size=8):
    """Write a title of several lines, far enough apart for underscores."""
    panel.set_title(text, fontsize=size, linespacing=1.4)


def draw_masks(title, image, masks):
    """Return a figure of the image and, laid over it, the mean over the channels of each mask."""
    count = 1 + len(masks)
    figure, panels = grid(title, count, min(count, max(4, math.ceil(math.sqrt(1.5 * count)))))
    panels[0].imshow(image)
    entitle(panels[0], f'the image\n{image.shape[0]}×{image.shape[1]}\n')
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255
    for panel, (name, mask) in zip(panels[1:], masks.items()):
        panel.imshow(grey)
        heat(figure, panel, mask.mean(axis=0), image.shape[:2], alpha=0.65)
        entitle(panel, f'{name[: -len(SOFT_MASK)]}\n{described(mask)}')
    return figure


def draw_receptive(title, image, fields, pulls=None):
    """Return a figure of what trunk and mask of each attention module read for the middle of its map.

    `fields` are {module: ModuleFields}, `pulls` {module: (gradients of the trunk, of the mask)}, each (height, width),
    or None.
    """
    each = 3 if pulls else 1
    caption = FIELDS_CAPTION + (PULLS_CAPTION if pulls else '')
    figure, panels = grid(title, each * len(fields), each if pulls else min(4, len(fields)), caption)
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255
    panels = iter(panels)
    for module, found in fields.items():
        panel = next(panels)
        panel.imshow(grey)
        scale, texts = [side / of for side, of in zip(image.shape, found.size)], []
        in_image = found.trunk_in_image, found.mask_in_image
        for field, whole, (label, colour) in zip((found.trunk, found.mask), in_image, BRANCHES):
            outline(panel, field, scale, colour, 'solid')
            outline(panel, whole, (1, 1), colour, 'dotted')
            texts.append('{} {}×{}, image {}×{}'.format(label, *field.size(), *whole.size()))
        entitle(panel, '\n'.join([f'{module}, {found.size[0]}×{found.size[1]}', *texts]), 7)
        for values, (label, _) in zip(pulls[module] if pulls else (), BRANCHES):
            panel, largest = next(panels), values.max()
            heat(figure, panel, np.sqrt(values / (largest or 1)), image.shape[:2], limits=(0, 1))
            entitle(panel, f'{module}\n{label}, gradient' + ('' if largest else ' 0: it is saturated'))
    return figure


def outline(panel, field, scale, colour, style):
    """Draw the border of a receptive field whose positions are `scale` pixels high and wide."""
    from matplotlib.patches import Rectangle

    (height, width), (high, wide) = field.size(), scale
    corner = field.columns[0] * wide - 0.5, field.rows[0] * high - 0.5
    panel.add_patch(
        Rectangle(corner, width * wide, height * high, fill=False, edgecolor=colour, linestyle=style, linewidth=2)
    )


def draw_layers(title, image, layers):
    """Return a figure of feature maps: of each the mean over its channels, and the channels that vary most."""
    shown = [min(CHANNELS, len(values)) for values in layers.values()]
    figure, panels = grid(title, sum(1 + count for count in shown), COLUMNS)
    panels = iter(panels)
    for (name, values), count in zip(layers.items(), shown):
        panel = next(panels)
        heat(figure, panel, values.mean(axis=0), image.shape[:2])
        entitle(panel, f'{name}\n{described(values)}')
        for channel in np.argsort(-values.std(axis=(1, 2)), kind='stable')[:count]:
            panel = next(panels)
            heat(figure, panel, values[channel], image.shape[:2])
            panel.set_title(f'channel {channel}', fontsize=8)
    return figure


def described(values):
    """Return a map's size, mean and standard deviation as text."""
    _, height, width = values.shape
    return f'{height}×{width}\nmean {values.mean():.3g}, spread {values.std():.2g}'


def grid(title, count, columns, caption=CAPTION):
    """Return a figure and its `count` panels, without axes."""
    rows = math.ceil(count / columns)
    figure = new_figure(2.1 * columns, 0.5 + 2.2 * rows)
    figure.set_layout_engine('constrained')
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(caption, fontsize=8)
    panels = [figure.add_subplot(rows, columns, number + 1, xticks=[], yticks=[]) for number in range(count)]
    return figure, panels


def heat(figure, panel, values, size, alpha=1.0, limits=(None, None)):
    """Draw a map over an area of `size`, (height, width), with its scale; `limits` are those of the scale."""
    shown = panel.imshow(
        values,
        extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
        interpolation='nearest',
        cmap='inferno',
        alpha=alpha,
        vmin=limits[0],
        vmax=limits[1],
    )
    scale = figure.colorbar(shown, ax=panel, fraction=0.046, pad=0.03)
    scale.ax.tick_params(labelsize=6)
