"""MXNet as it is measured, on a CPU: what is wrong is found. What only a GPU has is stood in for."""

from typing import NamedTuple

import pytest

from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.graph.nodes import Graph
from netkit.measure import agreement, choices, cuda, mxnet_engine as engine, mxnet_kernels as kernels, parts, timing
from netkit.measure.mxnet_engine import Network, Step, Way

SMALLER = {'net_multiplier': 0.1, 'emb_size': 16, 'image_shape': (48, 48, 3)}
CHOICE = choices.Choice('cru56', 'cru56', SMALLER)
MEMORY_ERROR = 'cudaMalloc retry failed: out of memory'


def figures_of(cases):
    """Return {(table, row): value} of Figures."""
    return {(figure.table, figure.row): figure.value for figure in cases}


def test_a_step_is_the_same_in_every_form():
    found = figures_of(parts.correctness(engine, Network(CHOICE), engine.COMPARED_ON_CPU))
    assert len(found) == 3 * len(engine.COMPARED_ON_CPU)
    for row in engine.COMPARED_ON_CPU:
        assert found[agreement.EMBEDDINGS, row] < 1e-4
        assert found[agreement.GRADIENTS, row] > 0.9999
        assert found[agreement.STATISTICS, row] < 1e-4


class Edit(NamedTuple):
    """A Way that is wrong: the attribute of BatchNorm, and its value."""

    attribute: str
    value: str
    bounds: agreement.Bounds = agreement.FLOAT32


class Edited(Network):
    """A network with the Edits."""

    def _symbol(self, way, training=True):
        if not isinstance(way, Edit):
            return super()._symbol(way, training)
        graph = Graph.of(super()._symbol(Way(memonger=True), training))
        for node in graph.nodes():
            if node.op == 'BatchNorm':
                node.attrs[way.attribute] = way.value
        return graph.symbol()


def test_what_is_wrong_is_seen():
    """Statistics that move twice, embeddings and gradients with another eps, gradients of MXNet's own PReLU."""
    ways = {
        'checkpointing': Way(memonger=True, bounds=agreement.FLOAT32),
        'twice': Edit('momentum', '0.81'),  # what two moves by a tenth come to
        'eps': Edit('eps', '0.1'),
        'slopes': Way(net_prelu='op', rewritten=False, bounds=agreement.FLOAT32),
    }
    rows = []
    with pytest.raises(UserError) as refusal:
        for row in parts.correctness(engine, Edited(CHOICE), ways):
            rows.append(row)
    found = {(row.table, row.row): row for row in rows}
    assert len(found) == 12
    beyond = {key for key, row in found.items() if row.note.startswith('NOT')}
    assert {table for table, row in beyond if row == 'twice'} == {agreement.STATISTICS}
    assert {table for table, row in beyond if row == 'slopes'} == {agreement.GRADIENTS}
    assert (agreement.EMBEDDINGS, 'eps') in beyond and not {row for _, row in beyond} & {'checkpointing'}
    assert found[agreement.STATISTICS, 'twice'].value > 0.05  # and so would be seen in float16
    assert all(f'{way}: ' in str(refusal.value) for way in ('twice', 'eps', 'slopes'))


@pytest.mark.parametrize('name', ['cru56', 'att56'])
def test_the_ways_differ_in_what_their_names_say(name):
    """For a GPU, too: the symbols of all ways, and whose BatchNorm they take."""
    network = Network(CHOICE._replace(network=name))
    known = {**engine.WAYS, **engine.ON_CPU, **engine.COMPARED, **engine.COMPARED_ON_CPU}
    known.update({f'memory, {row}': way for row, way in engine.MEMORY.items()})
    for row, way in known.items():
        symbol = network.symbol(way)
        norms = [node for node in Graph.of(symbol).nodes() if node.op == 'BatchNorm']
        forced = any('force_mirroring' in key for node in norms for key in node.attrs)
        if 'BatchNorm' in row:
            assert {node.attrs.get('cudnn_off') == 'True' for node in norms} == {"MXNet's" in row}, row
        if 'all maps stored' in row or 'checkpointing' in row or 'memory' in row:
            assert forced == ('checkpointing' in row), row
        assert ('float16' in symbol.tojson()) == ('float16' in row), row
    assert len(engine.ways('speed', True)) < len(engine.ways('speed', False))


def test_the_kernels_that_fail_are_named(monkeypatch):
    assert engine.computing() == dict.fromkeys(kernels.KERNELS)

    def fails():
        raise mx.MXNetError('Check failed: e == cudaSuccess: no kernel image is available for execution on the device')

    monkeypatch.setitem(kernels.KERNELS, 'PReLU', ("MXNet's own", fails))
    assert {kind: why for kind, why in engine.computing().items() if why} == {
        'PReLU': 'Check failed: e == cudaSuccess: no kernel image is available for execution on the device'
    }


def test_the_machine_is_described():
    found = engine.facts()
    assert found['MXNet'] == mx.__version__ and found['GPUs that it sees'] == 0
    assert found['code for compute capability'] == 'none'


@pytest.mark.parametrize('capability, is_there', [((8, 9), True), ((9, 0), False)])
def test_a_card_that_mxnet_has_no_code_for(monkeypatch, capability, is_there):
    monkeypatch.setattr(engine, 'IS_GPU', True)
    monkeypatch.setattr(cuda, 'cards', lambda: [cuda.Card('NVIDIA Sham', capability, 8000)])
    found = engine.facts()
    assert found['GPU 0'] == 'NVIDIA Sham' and found['GPU 0, code for it'] == ('yes' if is_there else 'no')
    assert found['libcudnn.so.8'] == 'not found'
    why = engine.computing().get('its code')
    assert why is None if is_there else '8.6, and this GPU has 9.0' in why


def test_plans_do_not_depend_on_the_device():
    found = figures_of(parts.plan(engine, parts.Options(quick=True))['cru116']())
    assert found[parts.PLAN, 'all maps stored'] > 20000 > 8000 > found[parts.PLAN, 'checkpointing']  # docs/memory.md


def test_memory_is_what_the_card_has_less(monkeypatch):
    """On a GPU with 1,000 MB: 100 for every executor, 10 for each image; nothing is left behind."""
    used = [0]
    monkeypatch.setattr(mx.context, 'gpu_memory_info', lambda number: ((1000 - used[0]) * 2**20, 1000 * 2**20))
    monkeypatch.setattr(engine, 'Weights', lambda *_: None)

    class Executor:
        def __init__(self, symbol, shape, *_):
            self.needs = 100 + 10 * shape[0]
            if self.needs > 1000:
                self.needs = 0
                raise mx.MXNetError(MEMORY_ERROR)
            used[0] += self.needs

        def __call__(self):
            pass

        def __del__(self):
            used[0] -= self.needs

    monkeypatch.setattr(engine, 'Step', Executor)
    network = Network(CHOICE)
    assert [network.peak(Way(), batch) for batch in (40, 90, 91)] == [500, 1000, None]
    assert used == [0] and network.room() == 1000
    made = []
    monkeypatch.setattr(engine, 'Weights', lambda *_: made.append(1) or 'weights')
    network = Network(CHOICE)
    for way in (Way(), Way(), Way(memonger=True), Way(fp16=True)):
        network.peak(way, 4)
    assert len(made) == 2 and list(network.weights) == [(True, True)]  # those of the other type are gone


def test_another_error_than_that_of_memory_is_one():
    def fails():
        raise mx.MXNetError('an illegal memory access was encountered')

    with pytest.raises(mx.MXNetError):
        engine.fits(fails)

    def is_short():
        raise mx.MXNetError('Failed to find any convolution algorithm … please consider reducing batch/model size')

    assert not engine.fits(is_short)
    assert engine.fits(lambda: None)


@pytest.mark.parametrize('way', [Way(), Way(rewritten=False), Way(memonger=True)])
def test_executors_that_share_weights_compute_what_a_step_computes(way):
    """Another Step, with the same weights and images, in another form."""
    network = Network(CHOICE)
    weights = network.step(Way(memonger=True), 2).weights
    assert network.step(way, 4).weights is weights
    sharing, alone = (
        Step(engine.changed(network.symbol(of), dropout=0.0), network.shape(4), engine.DEVICE, True, shared)
        for of, shared in ((way, weights), (Way(), None))
    )
    alone.load(sharing.state())
    direction = mx.nd.random.normal(shape=sharing.head_gradient.shape)
    for step in (sharing, alone):
        step.head_gradient = direction
        step()
    engine.wait()
    gradients, expected = (engine.as_float64(step.weights.gradients) for step in (sharing, alone))
    assert agreement.cosine(gradients, expected) > 0.9999
    moved = (engine.as_float64(step.weights.statistics) for step in (sharing, alone))
    assert agreement.moved(*moved) < 1e-4


def test_an_inference_is_one():
    """It moves no statistics, and has the embeddings of a separate Step."""
    network = Network(CHOICE)
    sharing = network.infer(Way(), 2)
    assert not sharing.weights.gradients  # which a forward pass does not need
    before = engine.as_float64(sharing.weights.statistics)
    sharing()
    alone = Step(network.symbol(Way(rewritten=False)), network.shape(2), engine.DEVICE, training=False)
    alone.load(sharing.state())
    found, expected = ({'': output} for output in (sharing.executor.outputs[0].asnumpy(), alone.run(sharing.data)))
    assert agreement.distance(found, expected) < 1e-5
    assert agreement.distance(engine.as_float64(sharing.weights.statistics), before) == 0


def test_a_step_without_sums_leaves_the_trainer_as_it_was(monkeypatch):
    monkeypatch.setattr(timing, 'SECONDS', 0)
    monkeypatch.setattr(engine.choices, 'choice_of', lambda name, is_gpu: CHOICE)
    seen, real = [], engine.trainer

    def trainer(*options):
        made, images = real(*options)
        step = made.step
        made.step = lambda images: (seen.append(made.sums), step(images))
        return made, images

    monkeypatch.setattr(engine, 'trainer', trainer)
    summed, alone = engine.scaled('cru56', 2, 4, 'device')
    assert summed > 0 < alone and seen.count(True) == seen.count(False) == timing.ROUNDS + 1

    monkeypatch.setattr(timing, 'in_turns', lambda makers, wait: [{'alone': [2.0], 'summed': [3.0]}])
    released = []
    monkeypatch.setattr(engine, 'release', lambda: released.append(1))
    assert engine.scaled('cru56', 2, 4, 'device') == (3, 2) and released  # summed, and alone

    def too_large(*_):
        raise mx.MXNetError(MEMORY_ERROR)

    monkeypatch.setattr(engine, 'trainer', too_large)
    assert engine.scaled('cru56', 2, 4, 'device') is None


def test_faces_are_what_train_py_says(monkeypatch):
    """And its refusal is the refusal of the case."""
    found = engine.faces(parts.Options())
    assert found['steps'] == 4 and found['loss, last ten steps'] > 1 and '±' in found['verification on drawn']
    monkeypatch.setattr(engine, 'FACES_ON_CPU', ['--steps', '0'])
    with pytest.raises(UserError, match="tools/train.py: .*--steps.*'0' is not an integer"):
        engine.faces(parts.Options())
