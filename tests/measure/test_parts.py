"""What the parts and the harness make of an engine's figures; a made-up engine stands in for those that are slow."""

import functools
import time
import types
import weakref

import numpy as np
import pytest

from netkit.errors import UserError
from netkit.measure import agreement, figures, parts, timing
from netkit.measure.choices import Choice, counts

# --------------------------------------------------------------------------------------------- what is compared


def test_differences():
    expected = {'a': np.array([1.0, -4.0]), 'b': np.array([0.5])}
    found = {'a': np.array([1.0, -3.0]), 'b': np.array([0.5]), 'not asked for': np.array([9.0])}
    assert agreement.distance(found, expected) == 0.25
    assert agreement.cosine({'a': np.array([0.0, 3.0])}, {'a': np.array([0.0, 2.0])}) == pytest.approx(1)
    assert agreement.cosine(
        {'a': np.array([1.0]), 'b': np.array([0.0])}, {'a': np.array([1.0]), 'b': np.array([1.0])}
    ) == (pytest.approx(np.sqrt(0.5)))


def test_moving_statistics_are_compared_by_the_deviation_of_their_layer():
    """A mean of next to nothing does not make a difference large."""
    expected = {'x_moving_mean': np.array([1e-9, 2.0]), 'x_moving_var': np.array([4.0, 1.0])}
    found = {'x_moving_mean': np.array([0.2, 2.0]), 'x_moving_var': np.array([4.0, 1.0])}
    assert agreement.moved(found, expected) == pytest.approx(0.1)
    found['x_moving_var'] = np.array([4.0, 1.5])
    assert agreement.moved(found, expected) == pytest.approx(0.5)


@pytest.mark.parametrize('of', [np.nan, np.inf])
def test_what_is_no_number_is_not_taken_for_agreement(of):
    """Wherever among the arrays it stands."""
    for place in range(2):
        found = [np.array([1.0]), np.array([1.0])]
        found[place] = np.array([of])
        arrays = {'x_moving_var': found[0], 'x_moving_mean': found[1]}
        ones = {'x_moving_var': np.array([1.0]), 'x_moving_mean': np.array([1.0])}
        assert not np.isfinite(agreement.distance(arrays, ones)) and not np.isfinite(agreement.moved(arrays, ones))
        assert not agreement.cosine(arrays, ones) > 0
    assert figures.text_of(float(of)) == ('not a number' if np.isnan(of) else 'infinite')


@pytest.mark.parametrize(
    'measured, marks, problems',
    [
        ((1e-4, 0.9999, 1e-3), ['≤ 0.001', '≥ 0.999', '≤ 0.02'], 0),
        ((2e-3, 0.9999, 0.1), ['NOT ≤ 0.001', '≥ 0.999', 'NOT ≤ 0.02'], 2),
        ((np.nan, 0.5, np.nan), ['NOT ≤ 0.001', 'NOT ≥ 0.999', 'NOT ≤ 0.02'], 3),
    ],
)
def test_what_is_beyond_its_bound_is_a_problem(measured, marks, problems):
    found = figures.Problems()
    rows = list(agreement.judged('float32', 'cru56', agreement.FLOAT32, measured, found))
    assert [row.note for row in rows] == marks and [row.table for row in rows] == [of for of, _ in agreement.TABLES]
    assert len(found.found) == problems and all(text.startswith('float32: ') for text in found.found)
    assert [row.note for row in agreement.judged('any', 'cru56', agreement.NONE, measured, found)] == ['', '', '']
    if problems:
        with pytest.raises(UserError, match='float32: .*, which should be'):
            found.check()
    else:
        found.check()


# -------------------------------------------------------------------------------------------------- what is timed


@pytest.mark.parametrize('lasting', [None, 0])
@pytest.mark.parametrize('again', [False, True])
def test_turns(again, lasting, monkeypatch):
    """A B A B, and a step's time, on a clock that the steps move; what a maker and a first run take is not counted."""
    now, order, made, queued = [0.0], [], [], []
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])

    def maker(label, seconds):
        made.append(label)
        now[0] += 100
        is_first = [True]

        def run():
            order.append(label)
            queued[:] = [sum(queued) + seconds + (50 * is_first.pop() if is_first else 0)]

        return run

    makers = {'slow': functools.partial(maker, 'slow', 0.25), 'quick': functools.partial(maker, 'quick', 0.1)}

    def wait():
        """A run is queued, and computed by the time that one waits."""
        now[0] += queued.pop() if queued else 0

    *_, found = timing.in_turns(makers, wait, None, None, lasting, again)
    assert found == {'slow': [pytest.approx(0.25)] * timing.ROUNDS, 'quick': [pytest.approx(0.1)] * timing.ROUNDS}
    changes = [label for place, label in enumerate(order) if place == 0 or order[place - 1] != label]
    assert changes == ['slow', 'quick'] * (timing.ROUNDS + 1)
    assert made == ['slow', 'quick'] * (timing.ROUNDS + 1 if again else 1)


def test_only_one_of_those_that_are_made_anew_is_there_at_a_time():
    there = []

    class Step:
        def __init__(self):
            there.append(self)
            assert len(there) == 1

        def __call__(self):
            pass

    def maker():
        there.clear()
        return Step()

    step = timing.in_turns({'a': maker, 'b': maker}, lambda: None, lasting=0, again=True)
    assert [sorted(found) for found in step] == [['a', 'b']] * timing.ROUNDS


def test_a_round_that_fails_leaves_the_others():
    """And what the rounds before had measured; without a list of problems it is raised."""
    problems, ran = figures.Problems(), []

    def fails():
        ran.append('fails')
        if len(ran) > 3:
            raise RuntimeError('CUDA error')

    def never():
        raise ValueError('no such operator')

    makers = {'fails': lambda: fails, 'never': lambda: never, 'holds': lambda: lambda: None}
    found = list(timing.in_turns(makers, lambda: None, problems, lasting=0))
    assert [sorted(each) for each in found] == [['fails', 'holds']] * 3 and ran == ['fails'] * 4
    assert problems.found == ['never: no such operator', 'fails: CUDA error']
    with pytest.raises(ValueError, match='no such operator'):
        list(timing.in_turns({'never': lambda: never}, lambda: None))


@pytest.mark.parametrize(
    'per_image, room', [(10.0, 5000.0), (1.0, 5000.0), (300.0, 5000.0), (900.0, 5000.0), (6000.0, 5000.0)]
)
def test_the_largest_batch(per_image, room):
    """On a GPU that takes somewhat more for large batches than two small ones promise."""
    tried = []

    def needs(batch):
        return 200 + per_image * batch * (1 + batch / 20000)

    def fits(batch):
        tried.append(batch)
        return needs(batch) <= room

    allowed = [batch for batch in range(timing.LARGEST + 1) if batch % timing.MULTIPLE == 0 or batch < timing.MULTIPLE]
    largest = max((batch for batch in allowed if batch and needs(batch) <= room), default=0)
    found = timing.largest_batch({4: needs(4), 8: needs(8)}, room, fits)
    assert found in allowed and 0.95 * largest <= found <= largest
    assert len(tried) < 12
    assert timing.largest_batch({4: 10.0, 8: 10.0}, 1e9, lambda batch: batch <= 10**6) == timing.LARGEST
    assert timing.largest_that_fits(80, lambda batch: batch <= 30) == 20
    assert timing.largest_that_fits(80, lambda batch: False) == 0


# ------------------------------------------------------------------------------------------------------ the parts


class Network:
    """cru116 on a GPU with 1,000 MB: a step takes 10 for each image; in the way `wide`, 30."""

    choice = Choice('cru116', 'cru116', {})

    def __init__(self, clock):
        self.clock, self.taken = clock, []

    def _of(self, way, batch):
        def run():
            self.clock[0] += batch / 100

        if way == 'fails':
            raise ValueError('no such way')
        if self.peak(way, batch) is None:
            raise MemoryError
        return run

    step = infer = _of

    def peak(self, way, batch):
        needed = (30 if way == 'wide' else 10) * batch
        return needed if needed <= 1000 else None

    def room(self):
        return 1000


def engine(**options):
    """Return a made-up engine."""

    def fits(function):
        try:
            function()
        except MemoryError:
            return False
        return True

    known = dict(IS_GPU=True, MAKES_ANEW=False, SPEED='', INFERENCE='', SCALING='', PEAK='weights', DEVICE_NAME='GPU')
    known.update(LARGEST='', fits=fits, wait=lambda: None, release=lambda: None)
    return types.SimpleNamespace(**{**known, **options})


@pytest.fixture
def network(monkeypatch):
    """A made-up network on a clock that its steps move."""
    clock = [0.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])
    return Network(clock)


def shown(cases):
    """Return {(first word of the table, row, last word of the column): (value, note)} of Figures; and the refusal."""
    found, problem = {}, ''
    try:
        for figure in cases:
            key = figure.table.split()[0], figure.row, figure.column.split()[-1]
            found[key] = figure.value, figure.note
    except UserError as error:
        problem = str(error)
    return found, problem


WAYS = {'narrow': 'narrow', 'wide': 'wide', 'fails': 'fails'}


def test_speeds_are_of_the_batches_that_fit(network):
    """And a way that fails stops no other."""
    found, problem = shown(parts.speed(engine(), network, WAYS))
    assert found == {
        ('training,', 'narrow', 'cru116'): (100.0, ''),
        ('training,', 'wide', 'cru116'): (100.0, 'batch 20'),
    }
    assert problem == 'fails: no such way'
    network.peak = lambda way, batch: None
    assert shown(parts.speed(engine(), network, {'wide': 'wide'}))[0] == {
        ('training,', 'wide', 'cru116'): (figures.NO_ROOM, '')
    }


def test_compiling_is_for_one_batch(network):
    """The one that fits uncompiled, since each size is compiled again, which takes minutes."""
    sizes = []
    network.step = lambda way, batch: (sizes.append((way, batch)), Network.step(network, way, batch))[1]
    found, _ = shown(parts.compiled(engine(), network, {'wide': 'wide', 'compiled': 'narrow'}))
    assert {batch for way, batch in sizes if way == 'narrow'} == {20}
    assert list(found) == [('training,', 'wide', 'cru116'), ('training,', 'compiled', 'cru116')]


def test_a_network_is_gone_before_the_next_is_made():
    """Whatever circles it is in; else it would take the memory that is measured."""
    alive = []

    class Circle:
        def __init__(self):
            assert not any(ref() for ref in alive)
            self.itself, self.choice = self, Network.choice
            alive.append(weakref.ref(self))

        def ways(self, *_):
            return {}

    of = engine(networks=lambda part, names, options: dict.fromkeys(names, Circle))
    for case in parts.PARTS['speed'].cases(of, parts.Options()).values():
        assert list(case()) == []
    assert len(alive) == 3


@pytest.mark.parametrize('where', ['networks', 'where'])
def test_an_engine_that_does_not_start(monkeypatch, where):
    def fails(*_):
        raise OSError('libnvinfer.so.10: cannot open shared object file')

    of = engine(networks=lambda *_: {}, where=lambda: None)
    setattr(of, where, fails)
    monkeypatch.setattr(parts, 'engine_of', lambda name: of)
    with pytest.raises(UserError, match='^onnxruntime does not start here: libnvinfer.so.10: cannot open'):
        parts.measure('inference', 'onnxruntime', parts.Options(), None)


def test_inferences_are_milliseconds(network):
    found, problem = shown(parts.inference(engine(), network, WAYS))
    assert found['inference,', 'narrow', '64'] == (640.0, '') and found['inference,', 'wide', '8'] == (80.0, '')
    assert found['inference,', 'wide', '64'] == ('does not fit', '') and 'fails: no such way' in problem


def test_memory_is_of_what_fits_and_then_of_the_largest(network):
    network.peak = lambda way, batch: Network.peak(network, way, batch) if way != 'fails' else 1 / 0
    found, problem = shown(parts.memory(engine(), network, WAYS))
    assert found['MB', 'narrow', '80'] == (800, '') and found['MB', 'wide', '80'] == (600, 'batch 20')
    assert found['largest', 'narrow', 'cru116'] == (96, '960 MB') and found['largest', 'wide', 'cru116'] == (
        32,
        '960 MB',
    )
    assert len(found) == 4 and problem.startswith('fails: ')
    network.planned = lambda way, batch: batch if way == 'narrow' else None
    network.seen = set()

    def cold(way, batch):
        """At first cuDNN takes more; and what fitted does not always fit again."""
        is_first = (way, batch) not in network.seen
        network.seen.add((way, batch))
        return Network.peak(network, way, batch) and (1 + is_first) * 10 * batch if is_first or batch < 80 else None

    found, problem = shown(parts.memory(engine(), network, {'wide': 'wide'}))
    assert not problem
    network.peak = cold
    found, problem = shown(parts.memory(engine(), network, {'wide': 'wide', 'narrow': 'narrow'}))
    assert found['MB', 'wide', '80'] == (200, 'batch 20') and found['MB', 'narrow', '80'] == (figures.NO_ROOM, '')
    assert found['MB', 'narrow', 'planned'] == (80, '') and not problem
    network.peak = lambda way, batch: None
    assert shown(parts.memory(engine(), network, {'a': 'a'}))[0] == {('MB', 'a', '80'): (figures.NO_ROOM, '')}
    assert 'GPUs only' in str(shown(parts.memory(engine(IS_GPU=False), network, WAYS)))


@pytest.mark.parametrize('fitting', [80, 20])
def test_the_share_of_the_gradients(fitting):
    """Of a step of two seconds that takes one and a half without their sum, with what fits on one device."""
    asked = []  # the share has the same row as the speed, and comes after it

    def scaled(name, devices, batch, kind):
        asked.append((devices, batch))
        return (2.0, 1.5) if batch <= fitting else None

    known = dict(scaled=scaled, kinds_of_scaling=lambda: ('device',), DEVICES=3)
    found, _ = shown(parts.scaling(engine(**known), None)['cru116, device']())
    note = '' if fitting == 80 else 'batch 20'
    speeds = {
        ('training', f'{count} × GPU', 'device'): (25.0, note) for count in (2, 3)
    }  # of the last table, the share
    assert {**found, **speeds} == found and found['training', '1 × GPU', 'device'] == (fitting / 2, note)
    assert asked[-1] == (2, fitting)  # after one and all
    known['scaled'] = lambda *_: None
    assert list(shown(parts.scaling(engine(**known), None)['cru116, device']())[0].values()) == [(figures.NO_ROOM, '')]
    known['DEVICES'] = 1
    assert 'there is one GPU' in str(shown(parts.scaling(engine(**known), None)['one']()))
    assert counts(8) == [1, 8, 2, 4] and counts(1) == [1] and counts(6) == [1, 6, 2, 4]


def test_a_card_on_which_nothing_computes():
    of = engine(LABEL='MXNet', facts=lambda: {'MXNet': '1.9.1'}, computing=lambda: {'PReLU': 'no kernel', 'sums': None})
    cases = parts.card(of, None)
    assert shown(cases['described']())[0] == {('the', 'MXNet', 'MXNet'): ('1.9.1', '')}
    found, problem = shown(cases['computing']())
    assert found['the', 'PReLU', 'MXNet'] == ('no: no kernel', '') and found['the', 'sums', 'MXNet'] == ('computes', '')
    assert problem == 'MXNet does not compute on this GPU: PReLU: no kernel'
