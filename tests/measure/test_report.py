"""The report on GPUs: how figures are gathered from processes, and shown."""

import json
import os
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import measure
from helpers import PATIENCE, assert_gone, markdown
from netkit.errors import UserError
from netkit.measure import page, parts, running
from netkit.measure.figures import Figure
from netkit.measure.running import Outcome

# ---------------------------------------------------------------------------------------------- the processes


OPTIONS = parts.Options(minutes=1)
START = 'import json, os, subprocess, sys, time\ndef tell(**told): print(json.dumps(told), flush=True)\n'


def outcome_of(monkeypatch, script, seconds=PATIENCE):
    """Return the Outcome of a part whose process runs `script`; Python, and the functions of `parts`."""
    monkeypatch.setattr(running, 'command', lambda *_: [sys.executable, '-c', START + script])
    return running.run('speed', 'torch', OPTIONS, seconds)


def test_figures_come_from_a_process_with_the_command_of_their_case(monkeypatch):
    found = outcome_of(
        monkeypatch,
        'print("[12:00:01] a library says something"); print("3"); print("[]"); tell(level=3)\n'
        'assert sys.argv[1:] == ["--json"]\n'
        'tell(where="a GPU", cases=["a", "b"])\n'
        'tell(case="a", figure=["t", "r", "c", 2.5, ""]); tell(case="a", figure=["t", "r", "c", 1.5, ""])\n'
        'tell(case="a", seconds=1, problem=None)\n'
        'tell(case="b", figure=["t", "r", "d", "no", "n"]); tell(case="b", seconds=1, problem=None)\n',
    )
    assert found.where == 'a GPU' and found.problems == []
    assert found.figures == [('a', Figure('t', 'r', 'c', 1.5)), ('b', Figure('t', 'r', 'd', 'no', 'n'))]
    assert found.commands['b'].endswith("--case b'") or found.commands['b'].endswith('--case b')


FIGURE = 'tell(where=None, cases=["a", "b"]); tell(case="a", figure=["t", "r", "c", 1, ""])\n'


@pytest.mark.parametrize(
    'script, problem',
    [
        (
            FIGURE
            + 'tell(case="a", seconds=1, problem="x failed"); tell(case="b", seconds=1, problem=None); sys.exit(1)',
            'a: x failed',
        ),
        (FIGURE + 'raise SystemExit("measure.py: the driver is gone")', 'the driver is gone, before the end of a, b'),
        (
            FIGURE + 'tell(case="a", seconds=1, problem="x failed"); sys.exit("gone")',
            'a: x failed; gone, before the end of b',
        ),
        (FIGURE + 'os.kill(os.getpid(), 11)', 'ended by signal 11, before the end of a, b'),
        (FIGURE + 'sys.exit(7)', 'exit code 7, before the end of a, b'),
    ],
)
def test_a_failure_keeps_what_was_measured(monkeypatch, script, problem):
    found = outcome_of(monkeypatch, script)
    assert '; '.join(found.problems) == problem and len(found.figures) == 1


def meet(monkeypatch, event):
    """Let `event(process, seconds)` stand for the wait for a part's process, when that has told of a figure."""
    started, real = [], subprocess.Popen

    def popen(*arguments, **options):
        process = real(*arguments, **options)
        started.append(process)
        wait = process.wait

        def met(seconds=None):
            while seconds and not running.read(options['stdout'].name).figures:
                time.sleep(0.01)
            return event(wait, seconds) if seconds else wait()

        process.wait = met
        return process

    monkeypatch.setattr(running.subprocess, 'Popen', popen)
    return started


def test_a_part_ends_when_its_time_is_over_with_all_that_it_started(monkeypatch, tmp_path):
    child = tmp_path / 'child'
    meet(monkeypatch, lambda wait, seconds: wait(0.1))
    found = outcome_of(
        monkeypatch,
        f'sleeper = subprocess.Popen(["sleep", "600"]); open({str(child)!r}, "w").write(str(sleeper.pid))\n'
        'tell(where=None, cases=["a", "b"]); tell(case="a", seconds=1, problem=None)\n'
        'tell(case="a", figure=["t", "r", "c", 1, ""]); time.sleep(600)',
        seconds=3,
    )
    assert found.seconds < 600 and len(found.figures) == 1
    assert found.problems == ['stopped after its 3 s, before the end of b']
    assert_gone([int(child.read_text())])


def test_what_a_part_started_ends_even_if_the_part_has_ended_before(monkeypatch, tmp_path):
    """Its children hold the pipe, and would hold up everything."""
    child = tmp_path / 'child'
    found = outcome_of(
        monkeypatch,
        FIGURE + f'sleeper = subprocess.Popen(["sleep", "600"]); open({str(child)!r}, "w").write(str(sleeper.pid))\n'
        'os.kill(os.getpid(), 9)',
    )
    assert found.seconds < 600 and len(found.figures) == 1
    assert_gone([int(child.read_text())])


def test_nothing_is_left_of_the_files_of_a_part(monkeypatch, tmp_path):
    """They lie where the parent removes them, however the part ends."""
    told = tmp_path / 'told'
    meet(monkeypatch, lambda wait, seconds: wait(0.1))
    script = f'import tempfile; open({str(told)!r}, "w").write(tempfile.mkdtemp()); ' + FIGURE + 'time.sleep(600)'
    outcome_of(monkeypatch, script)
    assert told.read_text() and not os.path.exists(told.read_text())


def test_the_commands_of_parts():
    """The variables and libraries that MXNet needs, and the options that a part receives."""

    asked = parts.Options(quick=True, mxnet_python='/elsewhere/python', insightface='/a checkout')

    own, program = sys.executable, os.path.join('tools', 'measure.py')
    with_libraries = ['/elsewhere/python', program, 'libraries', '--', '/elsewhere/python', program, 'gpu']
    options = ['--part', 'correctness', '--engine', 'mxnet', '--quick']
    assert running.command('correctness', 'mxnet', asked, 100) == [
        'env',
        'NVIDIA_TF32_OVERRIDE=0',
        *with_libraries,
        *options,
    ]
    assert running.command('speed', 'mxnet', asked, 100)[0] == '/elsewhere/python'
    start = [own, program, 'gpu', '--part', 'speed', '--engine', 'torch']
    assert running.command('speed', 'torch', asked, 100) == [*start, '--quick', '--insightface', '/a checkout']
    assert running.command('speed', 'torch', OPTIONS, 100) == start
    assert running.command('inference', 'onnxruntime', asked, 100)[-2:] == ['--mxnet-python', '/elsewhere/python']
    assert '--mxnet-python' not in running.command('inference', 'torch', asked, 100)
    for seconds, training in ((20, '10'), (100.7, '55'), (900, '120')):
        assert running.command('faces', 'torch', OPTIONS, seconds)[-2:] == ['--seconds', training]
    inside = os.path.join(running.ROOT, '.venv-gpu', 'bin', 'python')
    assert running.shown([inside, '/a b/c']) == ".venv-gpu/bin/python '/a b/c'"


def test_an_interpreter_that_is_not_there(monkeypatch):
    monkeypatch.setattr(running, 'command', lambda *_: ['/no/such/python'])
    assert running.run('speed', 'mxnet', OPTIONS, 1).problems == [
        'cannot run /no/such/python: No such file or directory'
    ]


def test_what_there_is_of_an_interrupted_part_is_kept(monkeypatch):
    """And the part does not continue."""

    def interrupted(wait, seconds):
        raise KeyboardInterrupt

    kept, started = [], meet(monkeypatch, interrupted)
    words = [sys.executable, '-c', START + FIGURE + 'time.sleep(600)']
    monkeypatch.setattr(running, 'command', lambda *_: words)
    with pytest.raises(KeyboardInterrupt):
        running.run('speed', 'torch', OPTIONS, 50, kept.append)
    (outcome,), (process,) = kept, started
    assert process.returncode == -9
    assert outcome.problems == ['interrupted, before the end of a, b'] and list(outcome.commands) == ['a', 'b']
    assert [figure.row for _, figure in outcome.figures] == ['r']


def card(engine, where=None, problems=()):
    return Outcome('card', engine, where, {'described': 'do it'}, [], 1.0, list(problems))


ALL = {engine: card(engine) for engine in parts.ENGINES}


def test_no_figure_of_a_cpu_among_those_of_a_gpu():
    cards = {'torch': card('torch', 'H100'), 'onnxruntime': card('onnxruntime'), 'mxnet': card('mxnet', 'H100', ['no'])}
    assert running.fit(cards) == ['torch']
    cards['torch'] = card('torch')
    assert running.fit(cards) == ['torch', 'onnxruntime']
    # To plan, MXNet has to start, and that is all.
    assert running.tasks_of(['plan', 'speed'], cards, OPTIONS) == [('plan', 'mxnet'), ('speed', 'torch')]
    cards['mxnet'] = cards['mxnet']._replace(commands={})  # it does not start at all
    assert running.tasks_of(['plan', 'speed'], cards, OPTIONS) == [('speed', 'torch')]
    cards['mxnet'] = card('mxnet', 'H100')
    assert running.fit(cards) == ['mxnet']


def test_the_time_is_shared():
    tasks, left = running.tasks_of(None, ALL, OPTIONS), 900.0
    assert len(tasks) == sum(len(part.shares) for name, part in parts.PARTS.items() if name != 'card')
    first, without_it = running.share_of(tasks, left), running.share_of(tasks[1:], left)
    assert 0 < first < 900 and running.share_of(tasks[1:], left - first) < without_it  # a quick one leaves its time
    while tasks:
        left -= running.share_of(tasks, left)
        tasks.pop(0)
    assert -running.LEAST < left <= 1e-9  # all of it, and hardly more
    assert running.share_of([('plan', 'mxnet')], -5) == running.LEAST


def test_what_quick_leaves_out_can_be_named():
    quick = parts.Options(quick=True)
    tasks = running.tasks_of(None, ALL, quick)
    assert ('speed', 'torch') in tasks and not {'compile'} & {part for part, _ in tasks}
    assert running.tasks_of(['compile'], ALL, quick) == [('compile', 'torch')]
    of_mxnet = running.tasks_of(['plan', 'memory'], {'mxnet': ALL['mxnet']}, OPTIONS)
    assert of_mxnet == [('plan', 'mxnet'), ('memory', 'mxnet')]


# ---------------------------------------------------------------------------------------------- the report


def measured(where, engine='torch', problems=()):
    found = [
        ('cru116', Figure('training, images per second, batch 80', 'float32', 'cru116', 230.0)),
        ('cru116', Figure('training, images per second, batch 80', 'TF32', 'cru116', 542.25, 'batch 40')),
        ('att92', Figure('training, images per second, batch 80', 'float32', 'att92', 'not one image fits')),
    ]
    return Outcome('speed', engine, where, {'cru116': 'do a', 'att92': 'do b'}, found, 12.3, list(problems))


def test_the_page_of_a_gpu(tmp_path):
    outcomes = [
        card('torch', 'NVIDIA H100'),
        card('mxnet', 'NVIDIA H100', ['MXNet does not compute on this GPU: BatchNorm']),
        card('onnxruntime'),
        measured('NVIDIA H100', problems=['att92: something']),
    ]
    text = page.save(outcomes, 'python tools/measure.py gpu', '2026-11-27', str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ['report.json', 'report.md', 'report.png']
    assert (tmp_path / 'report.md').read_text(encoding='utf-8') == text
    assert text.startswith('# Measured on NVIDIA H100\n') and 'on a CPU' not in text.split('## speed')[1]
    assert 'MXNet was left out: MXNet does not compute on this GPU: BatchNorm.' in text
    assert 'onnxruntime was left out: it sees no GPU.' in text and 'PyTorch was left out' not in text
    assert 'Not finished: att92: something' in text and 'do a\ndo b' in text
    (table,) = [rows for rows in markdown(text) if 'cru116' in rows[0]]
    assert [row['cru116'] for row in table] == ['230', '542.25 (batch 40)']
    assert [row['att92'] for row in table] == ['not one image fits', '–']
    report = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))
    assert report['title'] == 'Measured on NVIDIA H100' and report['parts'][3]['device'] == 'NVIDIA H100'
    assert report['parts'][2]['device'] == 'CPU'
    second = report['parts'][3]['figures'][1]
    assert second == dict(
        Figure('training, images per second, batch 80', 'TF32', 'cru116', 542.25, 'batch 40')._asdict(), command='do a'
    )


def test_the_title_is_of_where_networks_were_computed(tmp_path):
    """Not of a GPU on which an engine fails, nor of a plan."""
    planned = Outcome('plan', 'mxnet', 'NVIDIA H100', {'a': 'do it'}, [], 1.0, [])
    outcomes = [card('torch'), card('mxnet', 'NVIDIA H100', ['no code']), planned, measured(None)]
    text = page.save(outcomes, 'python tools/measure.py gpu', '2026-11-27', str(tmp_path))
    assert text.startswith('# Measured on a CPU, not on a GPU\n') and 'No figure here is of a GPU' in text
    assert 'MXNet was left out: no code.' in text and 'PyTorch was left out' not in text
    outcomes = [card('torch', 'NVIDIA H100'), card('mxnet', 'NVIDIA H100'), measured('NVIDIA H100')]
    text = page.save(outcomes, 'python tools/measure.py gpu', '2026-11-27', str(tmp_path))
    assert text.startswith('# Measured on NVIDIA H100\n') and 'left out' not in text


def test_what_is_no_number_is_a_text_in_the_report(tmp_path):
    rows = [
        ('a', Figure('training, images per second', 'r', column, value))
        for column, value in (('c', np.nan), ('d', 1.0))
    ]
    outcome = Outcome('speed', 'torch', 'NVIDIA H100', {'a': 'do it'}, rows, 1.0, [])
    text = page.save([outcome], 'python tools/measure.py gpu', '2026-11-27', str(tmp_path))
    assert '| r | not a number | 1 |' in text
    report = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'), parse_constant=pytest.fail)
    assert [each['value'] for each in report['parts'][0]['figures']] == ['not a number', 1.0]


def test_the_page_of_a_cpu_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page.cuda, 'cards', lambda: [page.cuda.Card('NVIDIA GeForce GTX 1080', (6, 1), 8192)])
    text = page.save([card('torch'), measured(None)], 'python tools/measure.py gpu', '2026-11-27', str(tmp_path))
    assert text.startswith('# Measured on a CPU, not on a GPU\n') and 'No figure here is of a GPU' in text
    assert 'This machine has NVIDIA GeForce GTX 1080, which no engine here computes on.' in text
    assert [line for line in text.splitlines() if line.startswith('## ')] == [
        '## card, PyTorch, on a CPU',
        '## speed, PyTorch, on a CPU',
    ]
    assert json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))['parts'][1]['device'] == 'CPU'


def test_the_picture_has_the_numbers(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(page.drawing, 'save', lambda figure, path: drawn.update({path: figure}))
    outcomes = [measured('NVIDIA H100')]
    page.draw(page.panels(outcomes), page.title_of(outcomes), 'report.png')
    (panel,) = drawn['report.png'].axes
    assert sorted(bar.get_width() for bar in panel.patches) == [230.0, 542.25]
    texts = [text.get_text() for text in panel.texts]
    assert '  230' in texts and '  542.25 (batch 40)' in texts
    assert panel.get_title(loc='left') == 'PyTorch, on NVIDIA H100: training, images per second, batch 80'
    assert drawn['report.png']._suptitle.get_text() == 'Measured on NVIDIA H100'


# ---------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize(
    'options, sentence',
    [
        (['--case', 'cru56'], '--case is of a part; add --part PART'),
        (['--insightface', '/no/such'], '/no/such has no recognition/arcface_torch/backbones/iresnet.py'),
        (['--part', 'plan', '--engine', 'torch'], 'PyTorch has no part plan; choose from card, correctness'),
        (
            ['--part', 'plan', '--engine', 'mxnet', '--case', 'x'],
            "plan has no case 'x' here; choose from cru116, att92",
        ),
        (['--minutes', '0'], "'0' is not a number of at least"),
        (['--mxnet-python', '/no/such/python'], "'/no/such/python' is not a program"),
        (['--json'], '--json is of a part; add --part PART'),
        (['--part', 'plan', '--only', 'plan'], '--only is of a report; --part writes none'),
        (['--part', 'plan', '--output', 'x'], '--output is of a report; --part writes none'),
    ],
)
def test_refusals(run_tool, monkeypatch, options, sentence):
    monkeypatch.setattr(parts, 'engine_of', lambda name: types.SimpleNamespace(where=lambda: None))
    code, out, err = run_tool(measure, 'gpu', *options)
    assert code == 2 and out == '' and sentence in err and err.count('\n') == 1


def test_nothing_is_written_where_no_engine_computes(run_tool, monkeypatch, tmp_path):
    (tmp_path / 'report.md').write_text('of yesterday')
    monkeypatch.setattr(running, 'run', lambda part, engine, *_: card(engine, problems=['No module named torch']))
    code, _, err = run_tool(measure, 'gpu', '--output', str(tmp_path))
    assert code == 2 and 'no engine computes here; "make check-gpu" brings them' in err and 'No module named' in err
    assert (tmp_path / 'report.md').read_text() == 'of yesterday' and os.listdir(tmp_path) == ['report.md']


@pytest.mark.parametrize('problems, code', [((), 0), (('att92: out of memory',), 1)])
def test_the_exit_code_tells_whether_all_parts_were_finished(run_tool, monkeypatch, tmp_path, problems, code):
    """An engine that is left out is not a failure: the page says why."""

    def run(part, engine, *_):
        if part == 'card':
            return card(engine, problems=['not here'] if engine == 'mxnet' else [])
        assert engine != 'mxnet'
        return measured(None, engine, problems if part == 'speed' else ())._replace(part=part)

    monkeypatch.setattr(running, 'run', run)
    options = ['--mxnet-python', sys.executable, '--only', 'speed', '--only', 'memory']
    found, out, _ = run_tool(measure, 'gpu', '--output', str(tmp_path / 'new'), *options)
    assert found == code and 'MXNet was left out: not here.' in out
    assert 'memory, PyTorch: 3 figures' in out and '## inference' not in out


def test_a_part_that_nothing_here_has_is_a_sentence(run_tool, monkeypatch, tmp_path):
    monkeypatch.setattr(running, 'run', lambda part, engine, *_: card(engine))
    code, _, err = run_tool(measure, 'gpu', '--only', 'plan', '--engine', 'torch', '--output', str(tmp_path))
    assert code == 2 and 'plan was not measured: of what is here, PyTorch, nothing has it and computes' in err


def test_an_engine_alone(run_tool, monkeypatch, tmp_path):
    asked = []

    def run(part, engine, *_):
        asked.append((part, engine))
        return card(engine) if part == 'card' else measured(None, engine)

    monkeypatch.setattr(running, 'run', run)
    code, out, _ = run_tool(measure, 'gpu', '--engine', 'mxnet', '--output', str(tmp_path))
    assert code == 0 and {engine for _, engine in asked} == {'mxnet'} and len(asked) > 5
    assert 'PyTorch was not measured: no Python with it was named, or another engine was.' in out


@pytest.mark.parametrize('error, status', [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interruption_leaves_what_was_measured(run_tool, monkeypatch, tmp_path, error, status):
    """Of the parts before, and of the one that was interrupted."""

    def run(part, engine, args, seconds, keep):
        if part == 'card':
            return card(engine)
        if part == 'speed':
            keep(measured(None, engine, ['interrupted']))
            raise error
        return measured(None, engine)._replace(part=part)

    monkeypatch.setattr(running, 'run', run)
    code, _, _ = run_tool(measure, 'gpu', '--engine', 'mxnet', '--output', str(tmp_path))
    text = (tmp_path / 'report.md').read_text(encoding='utf-8')
    assert code == status and '## memory, MXNet' in text
    assert '## speed, MXNet' in text and 'Not finished: interrupted' in text


def test_each_part_is_in_the_report_before_the_next_begins(run_tool, monkeypatch, tmp_path):
    """Whatever ends the program then."""

    def run(part, engine, *_):
        if part == 'memory':
            assert '## correctness, MXNet' in (tmp_path / 'report.md').read_text(encoding='utf-8')
        return card(engine) if part == 'card' else measured(None, engine)._replace(part=part)

    monkeypatch.setattr(running, 'run', run)
    assert run_tool(measure, 'gpu', '--engine', 'mxnet', '--output', str(tmp_path))[0] == 0


def test_a_part_alone_prints_tables(run_tool):
    code, out, _ = run_tool(measure, 'gpu', '--part', 'plan', '--engine', 'mxnet', '--case', 'ires50')
    assert code == 0 and out.startswith('plan, MXNet, on a CPU\n')
    (rows,) = markdown(out)
    kept, again = (float(row['ires50, batch 80'].replace(',', '')) for row in rows)
    assert 10000 < kept < 13000 and again < kept / 2  # docs/memory.md has both
    code, out, _ = run_tool(measure, 'gpu', '--part', 'plan', '--engine', 'mxnet', '--case', 'ires50', '--json')
    told = [parts.from_line(line) for line in out.splitlines()]
    assert told[0] == {'where': None, 'cases': ['ires50']} and told[1]['figure'].value == kept
    assert told[-1]['case'] == 'ires50' and told[-1]['problem'] is None


def test_a_case_that_fails_does_not_stop_the_others(monkeypatch, run_tool):
    def fails():
        yield Figure('t', 'r', 'c', 1)
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(parts, 'engine_of', lambda name: types.SimpleNamespace(where=lambda: None))
    monkeypatch.setattr(parts, 'cases_of', lambda *_: {'a': fails, 'b': lambda: iter([Figure('t', 'r', 'd', 2)])})
    told = []
    assert not parts.measure('speed', 'torch', OPTIONS, told.append)
    assert [each['figure'].value for each in told if 'figure' in each] == [1, 2]
    assert [each['problem'] for each in told if 'seconds' in each] == [
        'CUDA error: an illegal memory access was encountered',
        None,
    ]
    code, out, err = run_tool(measure, 'gpu', '--part', 'speed')
    assert code == 1 and '| r | 1 | 2 |' in out
    assert err == 'measure.py: a: CUDA error: an illegal memory access was encountered\n'


@pytest.mark.parametrize(
    'error',
    [
        OSError('libcuda.so.1: cannot open shared object file'),
        ImportError('libcuda.so.1: cannot open shared object file'),
    ],
)
def test_an_engine_that_does_not_start_is_a_sentence(run_tool, monkeypatch, error):
    def fails(name):
        raise error

    monkeypatch.setattr(parts.importlib, 'import_module', fails)
    code, _, err = run_tool(measure, 'gpu', '--part', 'card', '--engine', 'mxnet')
    assert (code, err) == (2, 'measure.py: MXNet does not start here: libcuda.so.1: cannot open shared object file\n')


def test_the_program_names_the_parts_and_engines_that_there_are():
    """It does without their module until it needs it, which imports much."""
    assert tuple(parts.PARTS) == measure.PARTS and tuple(parts.ENGINES) == measure.GPU_ENGINES
    with pytest.raises(UserError, match='onnxruntime has no part speed; choose from card, inference'):
        parts.cases_of('speed', 'onnxruntime', OPTIONS)
