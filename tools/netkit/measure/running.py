"""Run each part in its own process, within its share of the time; a failure does not stop the other parts."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

from tqdm import tqdm

from netkit.errors import UserError, last_line
from netkit.measure.figures import Figure
from netkit.measure.parts import CARD, ENGINES, PARTS, from_line
from netkit.project import ROOT

PROGRAM = os.path.join('tools', 'measure.py')
NAME = 'measure.py: '  # prefix of its refusals
START = 180  # seconds for a GPU: libraries of gigabytes are read from the disk for the first time
LEAST = 15  # for a part, where the time is over or its share is small
FACES, BESIDES = 120, 45  # seconds of the training on faces, and of what the part does besides


class Outcome(NamedTuple):
    """Result of a part: the GPU (None: a CPU), {case: command}, [(case, Figure)], seconds, [problems]."""

    part: str
    engine: str
    where: Optional[str]
    commands: Dict[str, str]
    figures: List[Tuple[str, Figure]]
    seconds: float
    problems: List[str]


def command(part, engine, options, seconds):
    """Return the command that measures a part in `seconds`, relative to the project's folder."""
    python = options.mxnet_python if engine == 'mxnet' else sys.executable
    found = [python, PROGRAM, 'gpu', '--part', part, '--engine', engine] + ['--quick'] * options.quick
    if engine == 'mxnet':  # for CUDA it does not start without the libraries that are found first
        found = [python, PROGRAM, 'libraries', '--', *found]
    of_part = PARTS[part]
    if engine in of_part.variables:
        found = ['env', *of_part.variables[engine], *found]
    options = options._replace(seconds=min(max(int(seconds) - BESIDES, 10), FACES))
    name = of_part.options.get(engine)
    if name and getattr(options, name):
        found += ['--' + name.replace('_', '-'), str(getattr(options, name))]
    return found


def shown(words):
    """Return a command as one would type it in the project's folder."""

    def short(word):
        return os.path.relpath(word, ROOT) if word.startswith(ROOT + os.sep) else word

    return shlex.join(map(short, words))


def end(process):
    """End a process and those that it has started, which may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, 'killpg'):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def run(part, engine, options, seconds, keep=lambda outcome: None):
    """Measure a part in a separate process, for at most `seconds`; return its Outcome.

    `keep` gets the partial Outcome if interrupted.
    """
    words, start = command(part, engine, options, seconds), time.time()
    with tempfile.TemporaryDirectory() as scratch:
        lines, errors = (os.path.join(scratch, name) for name in ('figures', 'errors'))

        def outcome(*problems):
            where, cases, figures, found, left = read(lines)
            if problems and (left or not cases):
                problems = [f'{problems[0]}, before the end of {", ".join(left) or "its first case"}']
            commands = {case: shown([*words, '--case', case]) for case in cases}
            return Outcome(part, engine, where, commands, figures, time.time() - start, [*found, *problems])

        with open(lines, 'wb') as out, open(errors, 'wb') as err:
            try:
                process = subprocess.Popen(
                    [*words, '--json'],
                    stdout=out,
                    stderr=err,
                    cwd=ROOT,
                    env=dict(os.environ, TMPDIR=scratch),  # so that nothing is left of a part that is killed
                    start_new_session=True,
                )
            except OSError as error:
                return Outcome(part, engine, None, {}, [], 0.0, [f'cannot run {words[0]}: {error.strerror}'])
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            except BaseException:
                end(process)
                keep(outcome('interrupted'))
                raise
            end(process)
        found = outcome()
        if status is None:
            return outcome(f'stopped after its {seconds:.0f} s')
        if status and (not found.problems or read(lines).left):
            return outcome(why(status, errors))
        return found


class Told(NamedTuple):
    """What a process has told of its part: the GPU, its cases, figures and problems, and the cases that are left."""

    where: Optional[str]
    cases: List[str]
    figures: List[Tuple[str, Figure]]
    problems: List[str]
    left: List[str]


def read(path):
    """Return what a process has Told, in a file; a figure that comes again was measured more often."""
    where, cases, figures, problems, ended = None, [], {}, [], set()
    with open(path, encoding='utf-8', errors='replace') as lines:
        for told in filter(None, map(from_line, lines)):
            if 'cases' in told:
                where, cases = told['where'], told['cases']
            elif 'figure' in told:
                figures[told['figure'][:3]] = told['case'], told['figure']
            else:
                ended.add(told['case'])
                problems += [f'{told["case"]}: {told["problem"]}'] if told['problem'] else []
    return Told(where, cases, list(figures.values()), problems, [case for case in cases if case not in ended])


def why(status, errors):
    """Return why a process failed: the last line that it wrote into the file `errors`, or its exit status."""
    if status < 0:
        return f'ended by signal {-status}'
    with open(errors, encoding='utf-8', errors='replace') as file:
        said = last_line(file.read(), status)
    return said[len(NAME) :] if said.startswith(NAME) else said


def tasks_of(parts, cards, options):
    """Return the tasks, (part, engine), besides the GPUs: of `parts`, or with None of all that --quick leaves.

    `cards` are {engine: Outcome of its card}. What only has to be started needs no engine that computes.
    """
    computing, started = fit(cards), [engine for engine, outcome in cards.items() if outcome.commands]
    return [
        (part, engine)
        for part, found in PARTS.items()
        for engine in found.shares
        if part != CARD
        and engine in (computing if found.is_computed else started)
        and (part in parts if parts else engine in found.quick or not options.quick)
    ]


def share_of(tasks, left):
    """Return the seconds for the first of the tasks, of those that are left: shared by the parts' weights."""
    shares = [PARTS[part].shares[engine] for part, engine in tasks]
    return max(left * shares[0] / sum(shares), LEAST)


def run_all(parts, engines, options, tell, keep):
    """Measure `parts`, all with None, in `engines`; yield the Outcomes.

    `tell` gets a sentence on each, `keep` the partial Outcome of an interrupted part. The part `card` comes first. The
    other parts skip an engine that does not finish it, and one that sees no GPU if another does, so that CPU and GPU
    figures are not mixed.
    """

    def measured(part, engine, seconds):
        outcome = run(part, engine, options, seconds, keep)
        count = len(outcome.figures)
        tell(f'{part}, {ENGINES[engine]}: {count} {"figure" if count == 1 else "figures"} in {outcome.seconds:.0f} s')
        for problem in outcome.problems:
            tell(f'  not finished: {problem}')
        return outcome

    cards = {engine: measured(CARD, engine, START) for engine in engines}
    yield from cards.values()
    tasks, until = tasks_of(parts, cards, options), time.time() + 60 * options.minutes
    with tqdm(total=len(tasks), unit='part', leave=False, disable=None) as bar:
        while tasks:
            seconds, (part, engine) = share_of(tasks, until - time.time()), tasks.pop(0)
            bar.set_description(f'{part}, {ENGINES[engine]}')
            yield measured(part, engine, seconds)
            bar.update()


def fit(cards):
    """Return the engines that compute, and on a GPU if any of them does, from {engine: Outcome of its card}."""
    found = [engine for engine, outcome in cards.items() if not outcome.problems]
    return [engine for engine in found if cards[engine].where] or found


def check_measured(outcomes, parts):
    """Raise UserError if no engine finished the part `card`, or none has one of `parts`, which were asked for."""
    if not any(outcome.part == CARD and not outcome.problems for outcome in outcomes):
        told = '; '.join(f'{ENGINES[outcome.engine]}: {", ".join(outcome.problems)}' for outcome in outcomes)
        raise UserError(f'no engine computes here; "make check-gpu" brings them ({told})')
    if set(parts or ()) - {outcome.part for outcome in outcomes}:
        absent = ', '.join(part for part in parts if part not in {outcome.part for outcome in outcomes})
        there = ', '.join(dict.fromkeys(ENGINES[outcome.engine] for outcome in outcomes))
        raise UserError(f'{absent} was not measured: of what is here, {there}, nothing has it and computes')
