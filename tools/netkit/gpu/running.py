"""Parts in processes of their own, each within its share of the time; a failure of one does not stop the others."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

from tqdm import tqdm

from netkit.errors import UserError, last_line
from netkit.gpu.harness import Figure
from netkit.gpu.parts import CARD, ENGINES, PARTS, from_line
from netkit.project import ROOT

PROGRAM = os.path.join('tools', 'check_gpu.py')
NAME = 'check_gpu.py: '  # with which its refusals begin
ENVIRONMENT = os.path.join('tools', 'gpu_env.py')  # which finds the libraries that MXNet for CUDA needs
START = 180  # seconds for a card: libraries of gigabytes are read from the disk for the first time
LEAST = 15  # for a part, where the time is over or its share is small
FACES, BESIDES = 120, 45  # seconds of the training on faces, and of what the part does besides


class Outcome(NamedTuple):
    """What came of a part: the card (None: a CPU), {case: command}, [(case, Figure)], seconds, [problems]."""

    part: str
    engine: str
    where: Optional[str]
    commands: Dict[str, str]
    figures: List[Tuple[str, Figure]]
    seconds: float
    problems: List[str]


def command(part, engine, options, seconds):
    """Return the command that measures a part in so many seconds, relative to the project's folder."""
    python = options.mxnet_python if engine == 'mxnet' else sys.executable
    found = [python, ENVIRONMENT, '--', python] if engine == 'mxnet' else [python]
    variables = PARTS[part][engine].variables
    found = ['env', *variables, *found] if variables else found
    found += [PROGRAM, '--part', part, '--engine', engine] + ['--quick'] * options.quick
    options = options._replace(seconds=min(max(int(seconds) - BESIDES, 10), FACES))
    for name in PARTS[part][engine].options:
        if getattr(options, name):
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


def run(part, engine, options, seconds, keep=lambda outcome: None):
    """Measure a part in a process of its own, for at most so many seconds; return its Outcome.

    `keep` is given what there is of it by an interruption.
    """
    words, start, late, told_of = command(part, engine, options, seconds), time.time(), threading.Event(), Told()

    def outcome(problems):
        figures = list(told_of.figures.values())
        return Outcome(part, engine, told_of.where, commands(), figures, time.time() - start, problems)

    def commands():
        return {case: shown([*words, '--case', case]) for case in told_of.cases}

    with tempfile.TemporaryDirectory() as scratch, open(os.path.join(scratch, 'errors'), 'w+b') as errors:
        try:
            process = subprocess.Popen(
                [*words, '--json'],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=dict(os.environ, TMPDIR=scratch),  # so that nothing is left of a part that is killed
                start_new_session=True,
            )
        except OSError as error:
            return outcome([f'cannot run {words[0]}: {error.strerror}'])

        def stop():
            late.set()
            end(process)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            told_of.read(process.stdout, f'{part}, {ENGINES[engine]}')
            process.wait()
        except BaseException:
            end(process)
            process.wait()
            keep(outcome([*told_of.problems, 'interrupted']))
            raise
        finally:
            timer.cancel()
        left = ', '.join(told_of.left())
        if late.is_set():
            return outcome(
                [*told_of.problems, f'stopped after its {seconds:.0f} s, before the end of {left or "its first case"}']
            )
        if process.returncode and (left or not told_of.problems):
            return outcome(
                [*told_of.problems, why(process.returncode, errors) + (f', before the end of {left}' if left else '')]
            )
    return outcome(told_of.problems)


class Told:
    """What a process has told of its part."""

    def __init__(self):
        self.where, self.cases, self.problems, self.ended = None, [], [], []
        self.figures = {}  # {place: (case, Figure)}; a figure may come again, measured more often

    def read(self, lines, title):
        """Read all lines, with a progress bar."""
        with tqdm(unit='case', desc=title, leave=False, disable=None) as bar:
            for told in filter(None, map(from_line, lines)):
                if 'cases' in told:
                    self.where, self.cases = told['where'], told['cases']
                    bar.reset(len(self.cases))
                elif 'figure' in told:
                    self.figures[told['figure'][:3]] = told['case'], told['figure']
                else:
                    self.ended.append(told['case'])
                    self.problems += [f'{told["case"]}: {told["problem"]}'] if told['problem'] else []
                    bar.update()

    def left(self):
        """Return the cases that have not come to an end."""
        return [case for case in self.cases if case not in self.ended]


def why(status, errors):
    """Return why a process failed: the last line that it wrote into the file `errors`, or its exit status."""
    errors.seek(0)
    if status < 0:
        return f'ended by signal {-status}'
    said = last_line(errors.read().decode('utf-8', 'replace'), status)
    return said[len(NAME) :] if said.startswith(NAME) else said


class Schedule:
    """The tasks that are still to come, (part, engine), and the time for them, shared by the parts' weights."""

    def __init__(self, seconds, tasks):
        self.until, self.tasks = time.time() + seconds, list(tasks)

    def next(self):
        """Take off the next task; return (part, engine, seconds at most)."""
        shares = [PARTS[part][engine].share for part, engine in self.tasks]
        part, engine = self.tasks.pop(0)
        return part, engine, max((self.until - time.time()) * shares[0] / sum(shares), LEAST)


def tasks_of(parts, cards, options):
    """Return the tasks, (part, engine), besides the cards: of `parts`, or with None of all that --quick leaves.

    `cards` are {engine: Outcome of its card}. What only has to be started needs no engine that computes.
    """
    computing, started = fit(cards), [engine for engine, outcome in cards.items() if outcome.commands]
    return [
        (part, engine)
        for part in PARTS
        for engine, found in PARTS[part].items()
        if part != CARD
        and engine in (computing if found.is_computed else started)
        and (part in parts if parts else found.is_quick or not options.quick)
    ]


def run_all(parts, engines, options, tell, keep):
    """Measure `parts`, all with None, in `engines`; yield the Outcomes.

    `tell` is given a sentence on each, `keep` what there is of one that is interrupted. The part `card` comes first: an
    engine that does not come to its end is left out of the others, and one that sees no GPU where another does, so that
    no figure of a CPU stands among those of a GPU.
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
    schedule = Schedule(60 * options.minutes, tasks_of(parts, cards, options))
    while schedule.tasks:
        yield measured(*schedule.next())


def fit(cards):
    """Return the engines that compute, and on a GPU if any of them does, from {engine: Outcome of its card}."""
    found = [engine for engine, outcome in cards.items() if not outcome.problems]
    return [engine for engine in found if cards[engine].where] or found


def check_measured(outcomes, parts):
    """Raise UserError if no engine came to the end of its card, or none has one of `parts`, which were asked for."""
    if not any(outcome.part == CARD and not outcome.problems for outcome in outcomes):
        told = '; '.join(f'{ENGINES[outcome.engine]}: {", ".join(outcome.problems)}' for outcome in outcomes)
        raise UserError(f'no engine computes here; "make check-gpu" brings them ({told})')
    if set(parts or ()) - {outcome.part for outcome in outcomes}:
        absent = ', '.join(part for part in parts if part not in {outcome.part for outcome in outcomes})
        there = ', '.join(dict.fromkeys(ENGINES[outcome.engine] for outcome in outcomes))
        raise UserError(f'{absent} was not measured: of what is here, {there}, nothing has it and computes')
