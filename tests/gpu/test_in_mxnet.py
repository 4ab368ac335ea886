"""The parts in MXNet, on a CPU: what they compare is found when it is wrong. What only a GPU has is stood in for."""

import contextlib
import functools

import pytest

from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.gpu import (
    harness as figures,
    mxnet_card as card,
    mxnet_correctness as correctness,
    mxnet_device as device,
    mxnet_faces as faces,
    mxnet_memory as memory,
    mxnet_plan as plan,
    mxnet_scaling as scaling,
    mxnet_speed as speed,
    sizes,
)
from netkit.graph.nodes import Graph

NETWORK = 'cru56'


def figures_of(cases, *of):
    """Return {(table, row): value} of the Figures of a case."""
    return {(figure.table, figure.row): figure.value for figure in cases(*of)}


@pytest.fixture
def small(monkeypatch):
    """Networks that are narrower still."""
    monkeypatch.setitem(device.SMALL, 'net_multiplier', 0.1)
    monkeypatch.setitem(device.SMALL, 'emb_size', 16)


def test_a_step_is_the_same_in_every_form(small):
    found = figures_of(correctness.compare, NETWORK, correctness.ON_CPU)
    assert len(found) == 3 * len(correctness.ON_CPU)
    for way in correctness.ON_CPU:
        assert found[figures.EMBEDDINGS, way] < 1e-4
        assert found[figures.GRADIENTS, way] > 0.9999
        assert found[figures.STATISTICS, way] < 1e-4


def test_what_is_wrong_is_seen(small, monkeypatch):
    """Statistics that move twice, gradients of another network, embeddings with another eps."""
    right = correctness.built

    def edited(name, way, ways):
        graph = Graph.of(right(name, 'recomputed', ways))
        for node in graph.nodes():
            if node.op == 'BatchNorm' and way == 'twice':
                node.attrs['momentum'] = '0.81'  # what two moves by a tenth come to
            if node.op == 'BatchNorm' and way == 'eps':
                node.attrs['eps'] = '0.1'
            if node.op == 'Dropout' and way == 'dropout':
                node.attrs['p'] = '0.4'
        return graph.symbol()

    monkeypatch.setattr(correctness, 'built', edited)
    ways = {way: ({}, None, figures.FLOAT32) for way in ('recomputed', 'twice', 'eps', 'dropout')}
    rows = []
    with pytest.raises(UserError) as refusal:
        for row in correctness.compare(NETWORK, ways):
            rows.append(row)
    found = {(row.table, row.row): row for row in rows}
    assert len(found) == 12
    beyond = {key for key, row in found.items() if row.note.startswith('NOT')}
    assert (figures.STATISTICS, 'twice') in beyond and (figures.GRADIENTS, 'twice') not in beyond
    assert (figures.GRADIENTS, 'dropout') in beyond and (figures.EMBEDDINGS, 'eps') in beyond
    assert not {way for _, way in beyond} & {'recomputed'}
    assert found[figures.STATISTICS, 'twice'].value > 0.05  # and so would be seen in float16
    assert all(f'{way}: ' in str(refusal.value) for way in ('twice', 'eps', 'dropout'))


def test_the_ways_differ_in_what_their_names_say():
    """For a GPU, too: the symbols of all ways, and whose BatchNorm they take."""
    for name in ('cru56', 'att56'):
        known = {**speed.WAYS, **speed.ON_CPU, **speed.HALF, **correctness.WAYS, **correctness.TWICE}
        known.update({f'memory, {way}': (changes, None) for way, changes in memory.WAYS.items()})
        for way, (changes, cudnn, *_) in known.items():
            symbol = device.changed(device.symbol(name, **changes), cudnn)
            norms = [node for node in Graph.of(symbol).nodes() if node.op == 'BatchNorm']
            off = {node.attrs.get('cudnn_off') == 'True' for node in norms}
            forced = any('force_mirroring' in key for node in norms for key in node.attrs)
            if 'BatchNorm' in way:
                assert off == {"MXNet's" in way}, way
            if 'kept' in way or 'recomputed' in way or 'memory' in way:
                assert forced == ('recomputed' in way), way
            assert ('float16' in symbol.tojson()) == ('float16' in way), way
    assert len(speed.ways(True)) < len(speed.ways(False))


def test_the_kernels_that_fail_are_named(monkeypatch):
    rows = list(card.computing())
    assert [row.value for row in rows] == ['run'] * len(card.KERNELS) and 'cuDNN' not in str(rows)

    def fails():
        raise mx.MXNetError('Check failed: e == cudaSuccess: no kernel image is available for execution on the device')

    monkeypatch.setitem(card.KERNELS, 'PReLU', ("MXNet's own", fails))
    rows = []
    with pytest.raises(UserError, match='does not compute on this card: PReLU$'):
        for row in card.computing():
            rows.append(row)
    assert [row.value for row in rows if row.value != 'run'] == [
        'no: Check failed: e == cudaSuccess: no kernel image is available for execution on the device'
    ]


def test_the_machine_is_described():
    found = figures_of(card.described)
    assert found[card.TABLE, 'MXNet'] == mx.__version__ and found[card.TABLE, 'GPUs that it sees'] == 0
    assert found[card.TABLE, 'code for compute capability'] == 'none'


@pytest.mark.parametrize('capability, is_there', [((8, 9), True), ((9, 0), False)])
def test_a_card_that_mxnet_has_no_code_for(monkeypatch, capability, is_there):
    monkeypatch.setattr(card, 'IS_GPU', True)
    monkeypatch.setattr(card.cuda, 'cards', lambda: [card.cuda.Card('NVIDIA Sham', capability, 8000)])
    rows = []
    with (
        pytest.raises(UserError, match='has code for compute capability .*8.6, and this card has 9.0')
        if not is_there
        else contextlib.nullcontext()
    ):
        for row in card.described():
            rows.append(row)
    values = {row.row: row.value for row in rows}
    assert values['card 0'] == 'NVIDIA Sham' and values['card 0, code for it'] == ('yes' if is_there else 'no')
    assert values['libcudnn.so.8'] == 'not found'


def test_plans_do_not_depend_on_the_device():
    found = figures_of(plan.cases(True)['cru116'])
    kept, again = (found[plan.TABLE, way] for way in ('kept', 'recomputed'))
    assert kept > 20000 > 8000 > again  # docs/memory.md


class Memory:
    """A card of 1,000 MB: 100 for every executor, 10 for each image."""

    def __init__(self, monkeypatch):
        self.used = 0.0
        monkeypatch.setattr(memory, 'IS_GPU', True)
        monkeypatch.setattr(memory, 'default_batch', lambda name: self.batch)
        monkeypatch.setattr(memory, 'Weights', lambda name, of: None)
        monkeypatch.setattr(memory, 'Sharing', self.sharing)
        monkeypatch.setattr(mx.context, 'gpu_memory_info', lambda number: ((1000 - self.used) * 2**20, 1000 * 2**20))

    def sharing(self, of, shape, weights):
        needs = 100 + 10 * shape[0]
        if self.used + needs > 1000:
            raise mx.MXNetError('cudaMalloc retry failed: out of memory')
        card_of = self

        class Executor:
            def __init__(self):
                card_of.used += needs

            def __call__(self):
                pass

            def __del__(self):
                card_of.used -= needs

        return Executor()


@pytest.mark.parametrize('batch, taken, note', [(40, 500, ''), (160, 900, 'batch 80')])
def test_memory_is_what_the_card_has_less(monkeypatch, batch, taken, note):
    card_of = Memory(monkeypatch)
    card_of.batch = batch
    rows = list(memory.cases(True)['cru116']())
    of_table = {table: [row for row in rows if row.table == table] for table in (memory.TAKEN, memory.LARGEST)}
    found = [(row.value, row.note) for row in of_table[memory.TAKEN] if 'planned' not in row.column]
    assert found == [(taken, note)] * 2
    kept, again = (row.value for row in of_table[memory.TAKEN] if 'planned' in row.column)
    assert again < kept / 2
    # 100 + 880 of 1,000
    assert [(row.value, row.note) for row in of_table[memory.LARGEST]] == [(88, '980 MB')] * 2
    assert card_of.used == 0


def test_another_error_than_that_of_memory_is_one():
    def fails():
        raise mx.MXNetError('an illegal memory access was encountered')

    with pytest.raises(mx.MXNetError):
        device.fits(fails)

    def is_short():
        raise mx.MXNetError('Failed to find any convolution algorithm … please consider reducing batch/model size')

    assert not device.fits(is_short)
    assert device.fits(lambda: None)


def test_speeds_are_of_the_batches_that_fit(small, monkeypatch):
    """On a card with room for two images where the statistics are kept, and for four where not."""
    real = device.Sharing

    def sharing(of, shape, weights):
        if shape[0] > 2 and 'net_prelu=op' in asked[0]:
            raise mx.MXNetError('cudaMalloc retry failed: out of memory')
        return real(of, shape, weights)

    asked = ['']
    monkeypatch.setattr(speed, 'Sharing', sharing)
    original = speed.ways

    def ways(quick):
        for row, way in original(quick).items():
            asked[0] = row
            yield row, way
        asked[0] = ''

    monkeypatch.setattr(speed, 'ways', lambda quick: Items(ways(quick)))
    ran = []

    def in_turns(makers, wait, problems):
        ran.extend(make().executor.arg_dict['data'].shape[0] for make in makers.values())
        return [dict.fromkeys(makers, 0.5)]

    monkeypatch.setattr(speed, 'in_turns_anew', in_turns)
    rows = {row.row: row for row in speed.measure(NETWORK, False)}
    smaller = rows.pop('kept, net_prelu=op (its gradient is wrong)')
    assert (smaller.value, smaller.note) == (2 / 0.5, 'batch 2') and sorted(ran) == [2] + [4] * len(rows)
    assert {(row.value, row.note) for row in rows.values()} == {(4 / 0.5, '')}


def test_a_way_that_fails_stops_no_other(small, monkeypatch):
    monkeypatch.setattr(speed, 'in_turns_anew', lambda makers, *_: [dict.fromkeys(makers, 1.0)])
    monkeypatch.setitem(speed.ON_CPU, 'kept', ({'net_prelu': 'no such form'}, None))
    rows = []
    with pytest.raises(UserError, match='^kept: net_prelu='):
        for row in speed.measure(NETWORK, False):
            rows.append(row.row)
    assert 'recomputed' in rows and 'kept' not in rows and len(rows) == len(speed.ways(False)) - 1


def test_executors_that_share_weights_compute_what_a_step_computes(small):
    """A Step of its own, with the same weights and images, in another form."""
    of = device.changed(device.symbol(NETWORK, net_prelu='mul', memonger=True), dropout=0.0)
    weights = device.Weights(NETWORK, of)
    sharing = device.Sharing(of, device.shape(NETWORK, 4), weights)
    alone = device.training(NETWORK, device.changed(device.symbol(NETWORK), dropout=0.0), 4)
    alone.load({**weights.arguments, **weights.statistics, 'data': sharing.executor.arg_dict['data']})
    direction = mx.nd.random.normal(shape=sharing.head_gradient.shape)
    for step in (sharing, alone):
        step.head_gradient = direction
        step()
    device.wait()
    expected = {key: array for key, array in alone.executor.grad_dict.items() if key != 'data'}
    assert figures.cosine(correctness.arrays(weights.gradients), correctness.arrays(expected)) > 0.9999
    assert figures.moved(correctness.arrays(weights.statistics), correctness.arrays(alone.executor.aux_dict)) < 1e-4


def test_an_inference_is_one(small, monkeypatch):
    """It moves no statistics, and has the embeddings of a Step of its own."""
    of = device.symbol(NETWORK)
    weights = device.Weights(NETWORK, of)
    before = correctness.arrays(weights.statistics)
    sharing = device.Sharing(of, device.shape(NETWORK, 2), weights, training=False)
    sharing()
    pixels = sharing.executor.arg_dict['data'].asnumpy()
    alone = correctness.inferred(NETWORK, of, {**weights.arguments, **weights.statistics}, pixels, device.DEVICE)
    assert figures.distance({'': sharing.executor.outputs[0].asnumpy()}, alone) < 1e-5
    assert figures.distance(correctness.arrays(weights.statistics), before) == 0

    def in_turns(steps, wait, problems):
        assert not any(step.training for step in steps.values())
        return [dict.fromkeys(steps, 0.25)]

    monkeypatch.setattr(speed, 'in_turns', in_turns)
    rows = list(speed.measure_inference(NETWORK))
    assert [(row.column.rpartition(', ')[2], row.value) for row in rows] == [('batch 1', 250), ('batch 8', 250)]


class Items:
    """A dict of which only the items are wanted."""

    def __init__(self, items):
        self.items = lambda: items


def test_a_step_without_sums_leaves_the_trainer_as_it_was(small, monkeypatch):
    monkeypatch.setattr('netkit.gpu.harness.SECONDS', 0.0)
    monkeypatch.setattr('netkit.gpu.harness.ROUNDS', 1)
    seen, real = [], scaling.trainer

    def trainer(name, batch, devices, kvstore):
        made, images = real(name, batch, devices, kvstore)
        step = made.step
        made.step = lambda images: (seen.append((devices, made.sums)), step(images))
        return made, images

    monkeypatch.setattr(scaling, 'trainer', trainer)
    found = figures_of(scaling.measure, NETWORK, 2, 'device')
    assert {sums for devices, sums in seen if devices == 1} == {False}
    of_two = [sums for devices, sums in seen if devices == 2]
    assert of_two.count(True) == of_two.count(False) > 0
    assert found[scaling.SPEED, '1 × CPU context'] > 0 and found[scaling.SPEED, '2 × CPU context'] > 0
    assert (scaling.SHARE, '2 × CPU context') in found and (scaling.SHARE, '1 × CPU context') not in found


def test_the_share_of_the_gradients(small, monkeypatch):
    """Of a step of two seconds that takes one and a half without their sum."""
    monkeypatch.setattr(scaling, 'in_turns', lambda *_: [{'summed': 4.0}, {'summed': 2.0, 'alone': 1.5}])
    found = figures_of(scaling.measure, NETWORK, 2, 'device')
    assert found[scaling.SHARE, '2 × CPU context'] == 25
    assert (found[scaling.SPEED, '1 × CPU context'], found[scaling.SPEED, '2 × CPU context']) == (2, 4)


def test_several_devices_take_what_fits_on_one(small, monkeypatch):
    def first_step(name, batch, devices, kvstore):
        if batch > 2:
            raise mx.MXNetError('CUDNN_STATUS_ALLOC_FAILED')

    monkeypatch.setattr(scaling, 'first_step', first_step)
    monkeypatch.setattr(scaling, 'in_turns', lambda *_: [{'summed': 1.0, 'alone': 0.5}])
    rows = list(scaling.measure(NETWORK, 2, 'device'))
    assert [(row.value, row.note) for row in rows] == [(2, 'batch 2'), (4, 'batch 2'), (50, 'batch 2')]
    assert sizes.counts(8) == [1, 8, 2, 4] and sizes.counts(1) == [1] and sizes.counts(6) == [1, 6, 2, 4]


def test_faces_are_what_train_py_says():
    """And its refusal is the refusal of the case."""
    with pytest.raises(UserError, match="tools/train.py: .*--steps.*'0' is not a whole number"):
        list(faces.measure(0, faces.ON_CPU))
    found = figures_of(functools.partial(faces.measure, 2, faces.ON_CPU))
    assert found[faces.TABLE, 'steps'] == 2 and found[faces.TABLE, 'loss, last ten steps'] > 1
    assert '±' in found[faces.TABLE, 'verification on lfw']
