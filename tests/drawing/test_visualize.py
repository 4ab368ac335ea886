"""The pictures of tools/visualize.py: every one is opened and looked into; what cannot be drawn is one sentence."""

import collections
import glob
import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

import paper
import visualize
from helpers import COMPUTED, NARROW, ROOT, analysed, shape_of, size_of
from netkit import checkpoints, targets
from netkit._mxnet import mx
from netkit.data import drawn_faces as faces, images as images_module
from netkit.drawing import charts, maps, network as network_drawing, unit as unit_drawing, words as words_module
from netkit.errors import UserError
from netkit.graph import units as units_module
from netkit.graph.counts import count_copies, count_parameters
from netkit.networks import build
from netkit.training import log as training_log

SVG = '{http://www.w3.org/2000/svg}'


@pytest.fixture
def draw(tmp_path, capsys):
    """Return a function that runs the program with -o and returns the path of the picture."""

    def run(name, *arguments):
        path = str(tmp_path / 'a folder' / name)
        visualize.main(list(arguments) + ['-o', path])
        assert capsys.readouterr().out.endswith(f'drawn into {path}\n')
        assert not [left for left in os.listdir(os.path.dirname(path)) if left.startswith('.')]
        return path

    return run


class Svg:
    """An SVG file, opened: its size, the ids of its groups with how often they are there, and all of its text."""

    def __init__(self, path):
        root = ElementTree.parse(path).getroot()
        assert root.tag == SVG + 'svg'
        self.size = tuple(float(root.get(side).replace('pt', '')) for side in ('width', 'height'))
        self.ids = collections.Counter(group.get('id') for group in root.iter(SVG + 'g'))
        self.texts = [''.join(text.itertext()) for text in root.iter(SVG + 'text')]


def assert_picture(path, least_colours=30):
    """Assert that a PNG file is a picture, and not a blank one."""
    with Image.open(path) as image:
        image.load()
        assert image.format == 'PNG' and min(image.size) > 200
        colours = image.convert('RGB').getcolors(maxcolors=image.size[0] * image.size[1])
        assert len(colours) >= least_colours
        assert max(colours)[0] < 0.97 * image.size[0] * image.size[1]
        return image.size


def units_of(network):
    return analysed(build(network), shape_of(network))


# ------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize('network', COMPUTED)
def test_a_network_is_drawn_with_a_box_for_each_unit(draw, network):
    svg = Svg(draw('network.svg', 'network', network))
    expected = paper.walk(network, size_of(network), shape_of(network)[0])
    modules = {name.rpartition('_close')[0] for name in expected.branches if name.endswith('_close')}
    for name in list(expected.branches) + [module + '_mask' for module in modules] + ['stem', 'head']:
        assert svg.ids[name] == 1, name
    for module in modules:  # an area, the product, and a sum for each skip; the trunk is added in the dense reading
        dense = not network.endswith('_imagenet')
        skips = sum(name.startswith(module + '_mask_skip') for name in expected.branches)
        signs = [name for name in svg.ids if re.match(module + r'_(plus|attend)', name or '')]
        assert svg.ids[module] == 1 and len(signs) == 1 + skips + dense
    groups = {weight.rpartition('_conv')[0] for weight in expected.uses if '_group' in weight}
    assert {name for name in svg.ids if name and '_group' in name} == groups
    for stage in ('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'head', network):
        assert stage in svg.texts
    assert sum(text in ('unit1', 'unit1, /2') for text in svg.texts) == 4 + len(modules)
    assert svg.size[0] > 500 and svg.size[1] > 300


def test_lines_go_where_the_network_goes():
    """In the paper's reading nothing but the skips joins the mask's upsampling path."""
    sizes = {}
    for network in ('att56', 'att56_imagenet'):
        figure = network_drawing.draw(network, units_of(network), (112, 112, 3))
        sizes[network] = collections.Counter(type(artist).__name__ for artist in figure.axes[0].get_children())
    # The dense reading has, in stages 1 to 3, the trunk's line and its circle, and a line next to each of 2 + 1 skips.
    difference = {kind: sizes['att56'][kind] - sizes['att56_imagenet'][kind] for kind in ('Circle', 'Line2D')}
    assert difference == {'Circle': 3, 'Line2D': 3}


@pytest.mark.parametrize('ending, start', [('png', b'\x89PNG'), ('pdf', b'%PDF-'), ('svg', b'<?xml')])
def test_formats(draw, ending, start):
    with open(draw('network.' + ending, 'network', 'cru56'), 'rb') as file:
        content = file.read()
    assert content.startswith(start)
    if ending == 'png':
        assert_picture(file.name)
    if ending == 'pdf':
        assert content.rstrip().endswith(b'%%EOF') and content.count(b'/Type /Page ') == 1
        width, height = re.search(rb'/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]', content).groups()
        assert float(width) > 500 and float(height) > 300
    with open(draw('network.' + ending, 'network', 'cru56'), 'rb') as file:
        assert file.read() == content


@pytest.mark.parametrize(
    'network, kinds',
    [
        ('cru116', 4),  # ResNeXt and collective, with and without projection
        ('att92', 2),
        ('attnext56_imagenet', 3),  # a unit with a projection at stride 1, with one at stride 2, without
        ('ires50', 4),  # start, middle behind it, end, middle
    ],
)
def test_the_inside_of_every_kind_of_unit(draw, network, kinds):
    units = units_of(network)
    drawn = unit_drawing.kinds(units)
    assert len(drawn) == kinds
    svg = Svg(draw('units.svg', 'network', network, '--detail', 'unit'))
    for unit in drawn:
        assert any(text.startswith(unit.name) for text in svg.texts)
        for node in unit.nodes:
            assert svg.ids[node.name] == 1
    assert sum(svg.ids[node.name] for unit in units for node in unit.nodes) == sum(len(unit.nodes) for unit in drawn)


def test_a_unit_is_the_papers_figure():
    (unit,) = [unit for unit in units_of('cru116_imagenet') if unit.name == 'stage2_unit1']
    rows, chains = unit_drawing.layout(unit)
    texts = [[words_module.node_text(node) for node in chain.nodes] for chain in chains]
    assert texts[0] == [
        'BN',
        'ReLU',
        '1×1, 512',
        'BN',
        'ReLU',
        '1×1, 352',
        '3×3, 352, depthwise, /2',
        'BN',
        'ReLU',
        '1×1, 352',
        'BN',
        'ReLU',
        '1×1, 512',
        '+',
    ]
    assert texts[1] == ['BN', 'ReLU', '1×1, 512, /2']
    assert chains[1].start is unit_drawing.INPUT and words_module.node_text(chains[1].end) == '+'
    offsets = unit_drawing.lanes(rows, chains)
    assert offsets[0] == 0 and offsets[1] >= unit_drawing.WIDTH  # next to it, not on it
    weights = filter(None, map(units_module.weight_of, unit.nodes))
    users = collections.Counter({weight: 6 for weight in weights if weight.name.startswith('stage2_group1_')})
    colours = [unit_drawing.colour_of(node, unit, users) for node in unit.nodes if node.op == 'Convolution']
    assert sorted(colours) == sorted([unit_drawing.TWICE] * 2 + [unit_drawing.SHARED] * 2 + [unit_drawing.OWN] * 2)


@pytest.mark.parametrize('name', ['stage1_unit2', 'stage1_attention1_mask_down2_unit1', 'stem', 'head'])
def test_the_inside_of_one_unit(draw, name):
    network = 'att56' if 'attention' in name else 'cru56'
    svg = Svg(draw('unit.svg', 'network', network, '--detail', name))
    (unit,) = [unit for unit in units_of(network) if unit.name == name]
    assert all(svg.ids[node.name] == 1 for node in unit.nodes)
    assert '×'.join(map(str, unit.input)) in svg.texts and '×'.join(map(str, unit.output)) in svg.texts
    if name.endswith('down2_unit1'):
        assert unit.input == (256, 14, 14)  # behind the pooling


def test_a_symbol_in_a_folder_with_an_odd_name(draw, tmp_path):
    path = str(tmp_path / 'a $b$ $^$ <&> é.json')
    build('cru56').save(path)
    assert path in Svg(draw('network.svg', 'network', path)).texts
    assert path in Svg(draw('unit.svg', 'network', path, '--detail', 'stage1_unit1')).texts
    assert any(path in text for text in Svg(draw('sharing.svg', 'sharing', path)).texts)


def test_squeeze_and_excitation_has_its_own_lane():
    (unit,) = [unit for unit in analysed(build('ires50', net_se=1), shape_of('ires50')) if unit.name == 'stage1_unit3']
    rows, chains = unit_drawing.layout(unit)
    gate, shortcut = (
        number
        for number, chain in sorted(enumerate(chains), key=lambda pair: str(pair[1].end))
        if number and not chain.nodes
    )
    offsets = unit_drawing.lanes(rows, chains)
    spans = {number: (rows[chains[number].start], rows[chains[number].end]) for number in (gate, shortcut)}
    inner, outer = sorted((gate, shortcut), key=lambda number: spans[number][1] - spans[number][0])
    assert spans[outer][0] < spans[inner][0] and spans[inner][1] < spans[outer][1]
    assert 0 < offsets[inner] < offsets[outer]


@pytest.mark.parametrize('name, options', [('cru116.svg', []), ('cru116-unit.svg', ['--detail', 'stage2_unit1'])])
def test_the_readme_shows_what_is_drawn_today(draw, name, options):
    """Else: make pictures."""
    with open(draw(name, 'network', 'cru116', *options)) as drawn, open(os.path.join(ROOT, 'docs', name)) as shown:
        assert shown.read() == drawn.read()


def test_the_pictures_of_the_readme():
    paths = []
    for page in sorted(glob.glob(os.path.join(ROOT, '*.md')) + glob.glob(os.path.join(ROOT, 'docs', '*.md'))):
        with open(page, encoding='utf-8') as file:
            shown = re.findall(r'!\[[^\]]+\]\(([^)]+)\)', file.read())
        paths += [os.path.join(os.path.dirname(page), path) for path in shown if 'benchmarks' not in path]
    assert sorted(os.path.basename(path) for path in paths) == sorted(
        name for name in os.listdir(os.path.join(ROOT, 'docs')) if not name.endswith('.md')
    )
    assert len(paths) == 3 and sum(map(os.path.getsize, paths)) < 300000
    assert_picture(next(path for path in paths if path.endswith('.png')), least_colours=1000)


# ---------------------------------------------------------------------------------------- masks and maps


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Return PREFIX,EPOCH of a narrow att56 whose BatchNorms have seen something."""
    module = mx.mod.Module(build('att56', **dict(NARROW, memonger=True)), label_names=None)
    module.bind([('data', (2, 3, 48, 48))])
    mx.random.seed(1)
    np.random.seed(1)
    module.init_params(mx.init.Xavier())
    noise = mx.nd.random.uniform(0, 255, module.data_shapes[0].shape)
    module.forward(mx.io.DataBatch([noise]), is_train=True)
    module.backward([mx.nd.zeros(module.output_shapes[0][1])])
    mx.nd.waitall()
    arguments, statistics = module.get_params()
    prefix = str(tmp_path_factory.mktemp('trained') / 'att56')
    arrays = {name: array.asnumpy() for name, array in {**arguments, **statistics}.items()}
    checkpoints.save(prefix, 2, module.symbol, arrays)
    return prefix + ',2', '48,48'


@pytest.fixture
def face(tmp_path):
    """Return the path of an image of another size than the network's, in grey."""
    path = str(tmp_path / 'a face.png')
    Image.fromarray(faces.example(160, 120)).convert('L').save(path)
    return path


def test_masks_over_an_image(draw, model, face):
    path = draw('masks.png', 'attention', '--model', model[0], '--image-size', model[1], '--image', face)
    assert_picture(path, least_colours=1000)


def test_what_the_panels_show(model, face):
    args = visualize.parse_args(
        ['attention', '--model', model[0], '--image-size', model[1], '--image', face, '-o', 'x.png']
    )
    figure = args.draw(args)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 1 + 3 and len(figure.axes) == 1 + 2 * 3  # each mask has its scale
    height = int(model[1].split(',')[0])
    image = images_module.read_image(face, height, height)
    assert (panels[0].images[0].get_array() == image).all()
    # The same masks, by an executor of the symbol as it was saved.
    symbol, parameters = checkpoints.load(*checkpoints.parse_model(model[0]))
    for panel, stage in zip(panels[1:], (1, 2, 3)):
        mask = symbol.get_internals()[f'stage{stage}_attention1_mask_sigmoid_output']
        executor = mask.simple_bind(mx.cpu(), grad_req='null', data=(1, 3, height, height))
        arrays = {name: mx.nd.array(values) for name, values in parameters.items()}
        executor.copy_params_from(arrays, arrays, allow_extra_params=True)
        values = executor.forward(data=mx.nd.array(image.transpose(2, 0, 1)[None]))[0].asnumpy()[0]
        np.testing.assert_allclose(panel.images[-1].get_array(), values.mean(axis=0), atol=1e-5)
        size = height // 2**stage
        assert panel.get_title() == 'stage%d_attention1\n%d×%d\nmean %.3g, spread %.2g' % (
            stage,
            size,
            size,
            values.mean(),
            values.std(),
        )
        assert panel.images[-1].get_extent() == [-0.5, height - 0.5, height - 0.5, -0.5]  # over the whole image


def test_without_a_model_it_says_that_weights_are_random(tmp_path, capsys):
    path = str(tmp_path / 'masks.svg')
    visualize.main(['attention', '--network', 'att56', '--image-size', '64,64', '-o', path])
    assert 'att56 has no weights, these are random' in capsys.readouterr().out
    svg = Svg(path)
    assert any('the weights are random' in text for text in svg.texts)
    assert sum(name is not None and bool(re.fullmatch(r'axes_\d+', name)) for name in svg.ids) == 1 + 2 * 3
    assert 'stage3_attention1' in svg.texts


def test_any_feature_map(draw, model, face):
    layers = ['conv0', 'stage2_unit1_plus', 'stage4_unit3_plus']
    options = [option for layer in layers for option in ('--layer', layer)]
    svg = Svg(draw('maps.svg', 'attention', '--model', model[0], '--image-size', model[1], *options))
    assert all(layer in svg.texts for layer in layers)
    symbol = checkpoints.load(*checkpoints.parse_model(model[0]))[0].get_internals()
    shapes = dict(zip(symbol.list_outputs(), symbol.infer_shape(data=(1, 3) + tuple(map(int, model[1].split(','))))[1]))
    channels = [shapes[layer + '_output'][1] for layer in layers]
    drawn = [min(count, maps.CHANNELS) for count in channels]
    assert sum(text.startswith('channel ') for text in svg.texts) == sum(drawn)


# ------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize('network', ['cru56', 'cru116_imagenet'])
def test_what_sharing_saves(draw, network):
    units = units_of(network)
    figure = charts.draw_sharing(network, units)
    unshared, own = figure.axes[0].containers
    shown = [unit for unit in units if unit.name.startswith('stage')]
    assert len(own) == len(unshared) == len(shown)
    symbol, shape = build(network), shape_of(network)
    saved = sum(bar.get_width() for bar in unshared) - sum(bar.get_width() for bar in own)
    assert 1e6 * saved == pytest.approx(count_copies(symbol, shape))
    svg = Svg(draw('sharing.svg', 'sharing', network))
    assert f'{network}: {count_parameters(symbol, shape) / 1000000.0:.2f} M in all' in svg.texts
    assert all(any(text.startswith(unit.name) for text in svg.texts) for unit in shown)


def test_the_log_of_a_run_that_was_interrupted(tmp_path):
    path = str(tmp_path / 'train.log')
    for start, goes_on, loss in ((0, False, 5.0), (10, True, 3.0), (0, False, 1.0)):
        with training_log.Writer(path, last_step=30, goes_on=goes_on) as log:
            for step in range(start + 1, 22):
                log.add(step, 32, loss, 0.5)
        losses = training_log.read(path).loss
        assert losses == ({10: 5.0, 20: 3.0} if goes_on else {10: loss, 20: loss})


@pytest.mark.parametrize('length', [7, 12.5, 0.4])
def test_the_log_counts_epochs(length, tmp_path):
    """As insightface does, and its steps can still be told."""
    path = str(tmp_path / 'train.log')
    with training_log.Writer(path, last_step=45, epoch=length) as log:
        for step in range(1, 46):
            log.add(step, 32, float(step), 0.5)
    lines = (tmp_path / 'train.log').read_text().splitlines()[1:]
    epochs = [int(re.match(r'Epoch\[(\d+)\] Batch \[\d+-\d+\]\tSpeed', line)[1]) for line in lines]
    assert epochs == [int((step - 1) / length) for step in (10, 20, 30, 40, 45)]
    assert list(training_log.read(path).loss) == [10, 20, 30, 40, 45]


def test_training_curves_of_several_runs(draw, tmp_path):
    for folder, accuracy in (('one', 0.5), ('b $^$', 0.75)):
        (tmp_path / folder).mkdir()
        with training_log.Writer(str(tmp_path / folder / 'train.log'), last_step=25) as log:
            for step in range(1, 26):
                log.add(step, 32, 10.0 / step, accuracy)
            log.measured(25, 'lfw', accuracy, 0.1)
    logs = [str(tmp_path / folder / 'train.log') for folder in ('one', 'b $^$')]
    curves = training_log.read(logs[1])
    assert list(curves.loss) == [10, 20, 25] and curves.accuracy[25] == 0.75
    assert curves.loss[10] == pytest.approx(sum(10.0 / step for step in range(1, 11)) / 10, abs=1e-6)
    assert curves.verification == {'lfw': {25: (0.75, 0.1)}} and min(curves.speed.values()) > 0
    svg = Svg(draw('curves.svg', 'training', *logs))
    assert sum(bool(re.fullmatch(r'axes_\d+', name or '')) for name in svg.ids) == 4
    assert svg.texts.count('one/train.log') == svg.texts.count('b $^$/train.log') == 3  # loss, accuracy, speed
    assert 'b $^$/train.log, lfw' in svg.texts
    assert_picture(draw('curves.png', 'training', *logs))


# What insightface's train.py printed, under MXNet 1.9.1, for 40 batches in an epoch; and, by their sources, older
# MXNet's form of the line, train_parall.py's and partial_fc's.
HOST_LOG = """call reset()
INFO:root:Epoch[0] Batch [0-5]\tSpeed: 17.85 samples/sec\tacc=0.000000\tlossvalue=48.601344
INFO:root:Epoch[0] Batch [30-35]\tSpeed: 18.33 samples/sec\tacc=0.025000\tlossvalue=41.680386
testing verification..
[lfw][40]XNorm: 170.059491
[lfw][40]Accuracy-Flip: 0.70000+-0.18708
[cfp_fp][40]Accuracy-Flip: 0.60000+-0.01000
[40]Accuracy-Highest: 0.70000
INFO:root:Epoch[0] Train-acc=0.000000
INFO:root:Epoch[0] Time cost=26.860
2020-01-01 Node[0] Epoch[1] Batch [5]\tSpeed: 6.69 samples/sec\tacc=0.000000\tlossvalue=nan
Iter[1] Batch [10]\tSpeed: 7.00 samples/sec
rank-id:0:2020-01-01 00:00:00,000-Iter:60 Rank:3.50 it/sec Total:28.00 it/sec [0][loss]:12.34 
{fc7_acc} 50 0.125
"""


def test_the_log_of_insightface(tmp_path):
    path = tmp_path / 'host.log'
    path.write_bytes(HOST_LOG.replace('Batch [0-5]', 'Batch [25-30]').encode() + b'\xff\r\n')
    curves = training_log.read(str(path))
    assert sorted(curves.speed) == [30, 35, 45, 50, 60]  # the second epoch starts at 40
    assert curves.speed[60] == 28.0 and curves.loss[60] == 12.34
    assert curves.loss[30] == 48.601344 and np.isnan(curves.loss[45]) and 50 not in curves.loss
    assert curves.accuracy == {30: 0.0, 35: 0.025, 45: 0.0, 50: 0.125}
    assert curves.verification == {'lfw': {40: (0.7, 0.18708)}, 'cfp_fp': {40: (0.6, 0.01)}}
    figure = charts.draw_training({'a': curves, 'b': curves})
    assert len(figure.axes) == 4 and len(figure.axes[0].lines) == 2
    assert len(figure.axes[2].containers) == 4  # two sets of two runs


@pytest.mark.parametrize(
    'line, words',
    [
        ('Epoch[0] Batch [20]\tSpeed: 1.2.3 samples/sec', 'contains malformed numbers'),
        ('Epoch[0] Batch [20]\tSpeed: 12 samples/sec\tacc=1.2.3', 'contains malformed numbers'),
        ('Epoch[0] Batch [%s]\tSpeed: 12 samples/sec' % ('9' * 5000), 'has no line of a training log'),
        ('[lfw][20]Accuracy-Flip: .+-.', 'contains malformed numbers'),
        ('\0' * 100000, 'has no line of a training log'),
    ],
    ids=['speed', 'metric', 'step', 'verification', 'zeros'],
)
def test_a_damaged_log(tmp_path, line, words):
    (tmp_path / 'log').write_text(line)
    with pytest.raises(UserError, match=words):
        training_log.read(str(tmp_path / 'log'))


def test_epochs_of_one_line_each_are_not_placed_short(tmp_path):
    (tmp_path / 'log').write_text(
        ''.join('Epoch[%d] Batch [20]\tSpeed: 12 samples/sec\tacc=0.1\n' % epoch for epoch in range(3))
    )
    assert sorted(training_log.read(str(tmp_path / 'log')).accuracy) == [20, 60, 100]


def test_a_long_curve_is_smoothed_and_an_empty_panel_says_so():
    rng = np.random.RandomState(0)
    loss = {step: 10 + rng.normal() for step in range(1, 2001)}
    figure = charts.draw_training({'run': training_log.Curves(loss, {}, {}, {})})
    raw, smooth = figure.axes[0].lines
    assert np.std(smooth.get_ydata()) < 0.3 * np.std(raw.get_ydata())
    assert [text.get_text() for text in figure.axes[1].texts] == ['not in the logs']


# ------------------------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def refused(run_tool):
    """Return a function that runs the program on what is wrong and returns the one sentence that it says."""

    def run(*arguments):
        code, _, err = run_tool(visualize, *arguments)
        assert code == 2 and len(err.splitlines()) == 1, err
        return err

    return run


@pytest.mark.parametrize(
    'arguments, words',
    [
        ([], 'say what to draw: network, attention, receptive, sharing, training'),
        (['receptive', 'cru56', '-o', '{out}.png'], 'cru56 has no attention modules by the names of our networks'),
        (['receptive', '-o', '{out}.png'], 'pass --network, --model or both'),
        (['network', 'cru57', '-o', '{out}.svg'], 'cru57 is not a network'),
        (['network', 'cru56', '-o', '{out}.jpeg'], 'does not end in .svg, .png, .pdf'),
        (['network', 'cru56', '-o', '{file}/x.svg'], 'cannot write to'),
        (['network', 'cru56', '--detail', 'stage9_unit1', '-o', '{out}.svg'], 'there is no such unit; say unit'),
        (
            ['network', 'att56', '--detail', 'stage1_attention1_mask', '-o', '{out}.svg'],
            'there is no such unit; say unit',
        ),
        (['sharing', 'ires50', '-o', '{out}.svg'], 'ires50 shares no weights'),
        (['attention', '-o', '{out}.png'], 'pass --network, --model or both'),
        (['attention', '--network', 'cru56', '-o', '{out}.png'], 'cru56 has no attention modules; name a feature map'),
        (['attention', '--network', 'att56', '--image', '{file}', '-o', '{out}.png'], 'is not readable as an image'),
        (['attention', '--network', 'att56', '--image', 'none.png', '-o', '{out}.png'], 'No such file'),
        (
            ['attention', '--network', 'cru56', '--layer', 'stage1_unit2_pluss', '-o', '{out}.png'],
            'did you mean stage1_unit2_plus',
        ),
        (
            ['attention', '--network', 'cru56', '--layer', 'fc1', '-o', '{out}.png'],
            'not a feature map: its shape is (1, 256)',
        ),
        (['attention', '--model', '{out},1', '-o', '{out}.png'], 'cannot read'),
        (['training', '{file}', '-o', '{out}.png'], 'has no line of a training log'),
        (['training', 'none.log', '-o', '{out}.png'], 'cannot read none.log: No such file'),
    ],
)
def test_wrong_input_is_one_sentence(refused, tmp_path, arguments, words):
    (tmp_path / 'file').write_text('not a picture\n')
    assert words in refused(*[text.format(out=tmp_path / 'out', file=tmp_path / 'file') for text in arguments])
    assert os.listdir(str(tmp_path)) == ['file']


def test_units_that_do_not_follow_one_another_are_not_drawn(refused, tmp_path):
    net = mx.sym.Convolution(mx.sym.Variable('data'), kernel=(1, 1), num_filter=3, name='unit1_conv')
    other = mx.sym.Convolution(net, kernel=(1, 1), num_filter=3, name='unit2_conv')
    last = mx.sym.Convolution(other, kernel=(1, 1), num_filter=3, name='unit3_conv')
    net = mx.sym.elemwise_add(last, net, name='unit3_plus')
    path = str(tmp_path / 'net.json')
    net.save(path)
    assert 'unit3 reads unit2 and unit1: only networks whose units follow one another' in refused(
        'network', path, '-o', str(tmp_path / 'net.svg')
    )


def test_receptive_fields(draw, model, face):
    """Without weights by kernels and strides, with weights by gradients as well."""
    svg = Svg(draw('fields.svg', 'receptive', 'att56'))
    for size, module in ((56, 'stage1_attention1'), (28, 'stage2_attention1'), (14, 'stage3_attention1')):
        text = ' '.join(svg.texts)
        seen = (17, 17) if size == 56 else (112, 112)
        assert f'{module}, {size}×{size} trunk 7×7, image {seen[0]}×{seen[1]} mask {size}×{size}, image 112×112' in text
    assert not [text for text in svg.texts if 'gradient' in text]
    svg = Svg(draw('pulls.svg', 'receptive', '--model', model[0], '--image-size', model[1], '--image', face))
    assert sum('mask, gradient' in text for text in svg.texts) == 3


def test_gradients_are_mxnets(model, face):
    """Of the sum over the channels in the middle of a map, by the image; a difference quotient says the same."""
    target = targets.of_checkpoint(model[0], tuple(map(int, model[1].split(','))) + (3,))
    image = np.asarray(Image.open(face).convert('RGB').resize(target.image_shape[1::-1]), np.float64)
    name = 'stage3_attention1_mask_conv2'
    found = maps.gradients(target, image, [name, 'stage1_unit1_plus'])[name]
    y, x = np.unravel_index(found.argmax(), found.shape)

    def middle(values):
        output = target.symbol.get_internals()[name + '_output']
        executor = output.simple_bind(mx.cpu(), data=(1, 3, *image.shape[:2]), grad_req='null')
        for key, array in {**executor.arg_dict, **executor.aux_dict}.items():
            if key != 'data':
                array[:] = target.parameters[key]
        (map_,) = executor.forward(is_train=False, data=mx.nd.array(values.transpose(2, 0, 1)[None]))
        map_ = map_.asnumpy()[0].astype(np.float64)
        return map_[:, map_.shape[1] // 2, map_.shape[2] // 2].sum()

    quotient = 0
    for channel in range(3):
        moved = [image.copy(), image.copy()]
        moved[0][y, x, channel] += 0.5
        moved[1][y, x, channel] -= 0.5
        quotient += abs(middle(moved[0]) - middle(moved[1]))
    assert found[y, x] == pytest.approx(quotient, rel=0.1)


def test_an_attention_module_that_is_none(refused, tmp_path):
    net = mx.sym.Convolution(
        mx.sym.Variable('data'), kernel=(1, 1), num_filter=3, name='stage1_attention1_mask_down1_unit1_conv1'
    )
    path = str(tmp_path / 'net.json')
    net.save(path)
    assert 'stage1_attention1 has the name of an attention module, and no unit1' in refused(
        'network', path, '-o', str(tmp_path / 'net.svg')
    )


@pytest.mark.parametrize('command', ['network', 'attention', 'sharing', 'training'])
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as end:
        visualize.parse_args([command, '--help'])
    assert end.value.code == 0 and '--output' in capsys.readouterr().out
