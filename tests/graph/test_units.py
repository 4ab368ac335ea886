"""Networks by their stages and units: the figures of tools/summarize.py, and what it refuses."""

import json

import numpy as np
import pytest

import config as host
import paper
import summarize
from face_blocks import FeatureMap, Layers
from fcrunet import STAGES, resnext_unit
from helpers import DEPTHS, FACEXZOO, OF_2018, analysed, shape_of, size_of
from netkit import checkpoints
from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.graph import memory, naming
from netkit.graph.counts import count_copies
from netkit.graph.memory import plan
from netkit.networks import FACE_NETWORKS, build
from netkit.targets import open_target

SMALL = {'net_multiplier': 0.1, 'emb_size': 16}


@pytest.fixture
def tool(capsys):
    """Return a function that runs the program and returns what it printed."""

    def run(*arguments):
        summarize.main(list(arguments))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize('network', [*DEPTHS, *OF_2018, *FACEXZOO])
def test_units_are_the_papers(network):
    symbol = build(network)
    shape = shape_of(network)
    units = analysed(symbol, shape)
    expected = paper.walk(network, size_of(network), shape[0])
    assert sum(unit.parameters for unit in units) == expected.parameters
    assert sum(unit.unshared for unit in units) == expected.parameters + count_copies(symbol, shape)
    assert sum(unit.macs for unit in units) == expected.macs
    assert units[-1].output == (size_of(network),)
    by_name = {unit.name: unit for unit in units}
    glue = {naming.STEM, naming.HEAD} | {name for name in by_name if name.endswith('_mask')}
    assert set(by_name) - glue == set(expected.branches)
    for name, branch in expected.branches.items():
        (spatial,) = {layer.replace('/2', '/1') for layer in branch if layer.startswith('C3')}  # two in a basic unit
        width, _, groups = spatial.partition('x')[2].partition('/')
        assert (str(by_name[name].width), str(by_name[name].num_group)) == (width, groups.partition('g')[2])
    seen = []
    for unit in units:
        assert all(source.name in seen for source in unit.sources if not source.name.endswith('_mask'))
        seen.append(unit.name)


def test_sharing_groups_are_those_of_the_paper():
    units = analysed(build('cru116'), shape_of('cru116'))
    groups = {}
    for unit in units:
        groups.setdefault(unit.sharing, []).append(unit.name)
    del groups[None]
    assert groups == {
        'stage2_group1': ['stage2_unit%d' % n for n in range(1, 7)],
        'stage3_group1': ['stage3_unit%d' % n for n in range(1, 7)],
        'stage3_group2': ['stage3_unit%d' % n for n in range(7, 13)],
        'stage3_group3': ['stage3_unit%d' % n for n in range(13, 19)],
    }


@pytest.mark.parametrize('memonger', [True, False])
def test_the_plan_of_a_unit_is_that_of_the_unit_alone(memonger):
    symbol = build('cru116', memonger=memonger)
    plans = memory.planned_memories(symbol, shape_of('cru116'), 32)
    layers = Layers(memonger=memonger)
    alone = resnext_unit(layers, FeatureMap(mx.sym.Variable('map'), 256, (56, 56)), STAGES[116][0], 1, 'stage1_unit3')
    if memonger:
        for node in alone.symbol.get_internals():
            if node.get_children() is not None and not node.name.endswith('_plus'):
                node._set_attr(__force_mirroring__='True')
    assert (
        plans['stage1_unit3'] == plans['stage1_unit2'] == plan(alone.symbol, {'map': ((32, 256, 56, 56), np.float32)})
    )


def test_a_network_of_float16(tool, tmp_path):
    """MXNet plans four bytes for its numbers, too; only the ends, where the type changes, are not the same."""
    summaries = []
    for fp16 in (False, True):
        path = str(tmp_path / 'net-symbol.json')
        build('cru56', fp16=fp16).save(path)
        summaries += json.loads(tool(path, '--json'))
    ends = [[summary['units'].pop(place) for place in (0, -1)] for summary in summaries]
    assert summaries[0] == summaries[1]
    for end in (0, 1):
        assert {key for key in ends[0][end] if ends[0][end][key] != ends[1][end][key]} <= {'plan_mb'}


def test_one_network_by_units(tool):
    text = tool('cru56')
    lines = {
        cells[1].strip(): cells
        for cells in (line.replace('│', '|').split('|') for line in text.splitlines())
        if len(cells) > 5
    }
    assert len(lines) == 1 + 4 + 16 + 1 + 1 + 1  # stem, stages, their units, head, all, what was published
    assert lines['all'][7].strip() == '49,307,008'
    assert lines['stage3, 6 units'][2].strip() == '14×14'
    assert [cell.strip() for cell in lines['stage3_unit2'][2:7]] == ['14×14', '1024', '640', '640', 'stage3_group1']
    published = lines['published for cru56_imagenet; the paper: 25.5 M']
    assert [cell.strip() for cell in published[7:9]] == ['25,609,384', '5.634 G']


def test_the_original_form_is_what_was_published(tool):
    lines = [line.split('│') for line in tool('att92_imagenet').splitlines()]
    total, published = lines[-4], lines[-3]
    assert total[1].strip() == 'all' and published[1].strip() == 'published for att92_imagenet'
    assert (
        [cell.strip() for cell in total[7:9]] == [cell.strip() for cell in published[7:9]] == ['52,466,344', '10.534 G']
    )


def test_several_are_sorted_by_any_column(tool):
    networks = ['ires50', 'cru56', 'att56']
    for column in summarize.COLUMNS:
        values = [summary[column] for summary in json.loads(tool(*networks, '--sort', column, '--json'))]
        assert values == sorted(values)
    table = tool(*networks, '--sort', 'parameters', '--descending', '--markdown').splitlines()
    assert [row.split('|')[1].strip() for row in table] == ['network', ':--', 'att56', 'ires50', 'cru56']


def test_without_a_name_all_face_networks_and_patterns(tool, monkeypatch):
    monkeypatch.setattr(summarize, 'NETWORKS', ['cru56', 'cru56_imagenet', 'ires18', 'ires18_imagenet', 'ires34'])
    monkeypatch.setattr(summarize, 'FACE_NETWORKS', FACE_NETWORKS[:2])
    assert FACE_NETWORKS[:3] == ('cru56', 'cru116', 'att56') and len(FACE_NETWORKS) == 26

    def named(*arguments):
        return [row.split('|')[1].strip() for row in tool(*arguments, '--markdown').splitlines()[2:]]

    assert named() == ['cru56', 'cru116']
    assert named('*_imagenet') == ['cru56_imagenet', 'ires18_imagenet']
    assert named('ires34', 'cru*') == ['ires34', 'cru56', 'cru56_imagenet']


def test_json_has_units_and_the_paper(tool):
    (summary,) = json.loads(tool('att56', '--json'))
    assert summary['published'] == {
        'network': 'att56_imagenet',
        'parameters': 31810728,
        'macs': 6270836736,
        'printed': '',
    }
    assert summary['plan_mb'] == pytest.approx(1878 / 32, abs=0.1)  # docs/memory.md
    units = {unit['unit']: unit for unit in summary['units']}
    assert units['stage1_attention1_mask_up3_unit1']['output'] == [256, 7, 7]
    assert sum(unit['macs'] for unit in units.values()) == summary['macs']


def test_a_symbol_and_a_checkpoint_are_as_good_as_a_choice(tool, tmp_path):
    symbol = build('cru56', **SMALL)
    shapes, _, statistics = symbol.infer_shape(data=(1, 3, 112, 112))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    parameters = {name: np.ones(shape) for name, shape in zip(names, shapes + statistics) if name != 'data'}
    prefix = str(tmp_path / 'a model [bold] :smile:')
    checkpoints.save(prefix, 3, mx.sym.SoftmaxOutput(symbol, name='softmax'), parameters)
    (direct,) = json.loads(tool(prefix + '-symbol.json', '--json'))
    (loaded,) = json.loads(tool(prefix + ',3', '--json'))
    assert prefix + ',3' in tool(prefix + ',3')
    assert direct.pop('network') != loaded.pop('network')
    assert direct == loaded
    assert [unit['unit'] for unit in direct['units']][:2] == ['stem', 'stage1_unit1']
    assert direct['parameters'] == sum(array.size for name, array in parameters.items() if 'moving' not in name)


def test_a_network_without_units_is_told_by_its_layers(tool, tmp_path):
    net = mx.sym.Variable('data')
    for number, stride in enumerate((1, 2, 2)):
        net = mx.sym.Convolution(
            net, kernel=(3, 3), pad=(1, 1), stride=(stride,) * 2, num_filter=8, name='conv_%d_conv2d' % number
        )
        net = mx.sym.BatchNorm(net, fix_gamma=False, name='conv_%d_batchnorm' % number)
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=10, name='classes'), name='softmax')
    path = str(tmp_path / 'foreign.json')
    net.save(path)
    (summary,) = json.loads(tool(path, '--image-size', '32,32', '--json'))
    assert [(unit['unit'], unit['stage']) for unit in summary['units']] == [
        ('conv_0', '32×32'),
        ('conv_1', '16×16'),
        ('conv_2', '8×8'),
        ('classes', 'head'),
        ('softmax', 'head'),
    ]
    assert summary['parameters'] == (27 + 72 + 72) * 8 + 3 * (8 + 16) + 512 * 10 + 10


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['cru57'], 'did you mean cru56'),
        (['none-symbol.json'], 'cannot read none-symbol.json'),
        (['none,1'], 'cannot read none-symbol.json'),
        (['{file}'], 'is not a symbol JSON'),
        (['cru56', '--image-size', '20,20'], 'image_shape'),
        (['cru56', '--sort', 'beauty'], "invalid choice: 'beauty'"),
        (['cru56', '--descending'], 'requires --sort COLUMN'),
    ],
)
def test_wrong_input_is_one_sentence(run_tool, tmp_path, arguments, words):
    (tmp_path / 'broken.json').write_text('{"nodes": [')
    code, _, err = run_tool(summarize, *[text.replace('{file}', str(tmp_path / 'broken.json')) for text in arguments])
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_a_network_that_somebody_added_has_no_published_row(run_tool, monkeypatch):
    monkeypatch.setitem(host.network, 'mine', type(host.network.cru56)(host.network.cru56))
    code, out, err = run_tool(summarize, 'mine')
    assert code == 0 and 'stage4' in out and 'published' not in out, err
    code, out, _ = run_tool(summarize, 'cru56', '--multiplier', '0.1', '--json')
    (summary,) = json.loads(out)
    assert code == 0 and summary['network'] == 'cru56, 0.1 of its width' and 'published' not in summary


def flat(features, **reshape):
    """Return a small network that flattens its feature maps in an unusual way."""
    features = mx.sym.Convolution(features, num_filter=8, kernel=(3, 3), name='conv0')
    return mx.sym.BatchNorm(mx.sym.FullyConnected(mx.sym.Reshape(features, **reshape), num_hidden=4), name='fc1')


@pytest.mark.parametrize(
    'network, words',
    [
        (lambda data: flat(data, shape=(8, -1)), 'the network is for a fixed number of images: with two'),
        (lambda data: flat(data, shape=(1, -1)), 'the network is for a fixed number of images: with two'),
        (lambda data: flat(mx.sym.broadcast_like(data, mx.sym.Variable('other')), shape=(0, -1)), 'the shape of other'),
    ],
)
def test_a_foreign_network_without_a_shape_of_its_own(network, words, tmp_path):
    """Its weights are not to blame."""
    network(mx.sym.Variable('data')).save(str(tmp_path / 'net-symbol.json'))
    with pytest.raises(UserError, match=words):
        open_target(str(tmp_path / 'net-symbol.json'))
