"""Break the code in hundreds of small ways and see whether the tests notice: mutation testing by cosmic-ray.

Reads mutants.toml beside it: the modules with the tests that guard each, mutants written by hand, and those known to
survive, with the reason. Of every module a sample is taken, always the same for a seed. Works on copies of the tree in
out/mutants. The exit code is 1 where less than 95 % of the mutants that are not equivalent are killed, where one
written by hand survives, or where one survives that has no reason.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import queue
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import toml
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, 'out', 'mutants')
WANTED = 0.95
PYTEST = [
    os.path.join(ROOT, '.venv', 'bin', 'python'),
    '-m',
    'pytest',
    '-x',
    '-q',
    '-p',
    'no:cacheprovider',
    '--durations=0',
]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS='1', CI='true', PYTHONDONTWRITEBYTECODE='1')
CONFIG = (
    '[cosmic-ray]\nmodule-path = %s\ntimeout = %.1f\nexcluded-modules = []\ntest-command = %s\n'
    '[cosmic-ray.distributor]\nname = "local"\n'
)

Mutant = collections.namedtuple('Mutant', 'module line before after survived')  # of the changed line; line from 1


def parse_args():
    parser = argparse.ArgumentParser(
        prog='mutants.py', description=__doc__.split('\n\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('modules', nargs='*', help='modules of mutants.toml to break (default: all)')
    parser.add_argument(
        '--again',
        action='store_true',
        help='keep what was killed last time, and try those that survived, or were not tried, anew; a module '
        'that has changed since is begun anew',
    )
    parser.add_argument('--all', action='store_true', help='try all mutants in place of a sample, which takes days')
    parser.add_argument('--seed', type=int, default=0, help='of the sample')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='mutants that are tried at a time')
    return parser.parse_args()


# -------------------------------------------------------------------------------------------------- one tree


def copy_tree(folder):
    """Copy what git knows, and what it does not ignore, as it is now, into a new `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    names = subprocess.check_output(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT)
    for name in set(os.fsdecode(names).split('\0')):
        if os.path.isfile(os.path.join(ROOT, name)):  # not what was deleted, nor a link to a folder
            os.makedirs(os.path.join(folder, os.path.dirname(name)), exist_ok=True)
            shutil.copy2(os.path.join(ROOT, name), os.path.join(folder, name))


def run_tests(tree, tests, timeout=None):
    """Run pytest in a tree; return (exit code, the end of its output), the code None where it took too long."""
    process = subprocess.Popen(
        PYTEST + shlex.split(tests),
        cwd=tree,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output.decode('utf-8', 'replace')[-3000:]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return None, 'timeout'


def by_hand(tree, module, entry, tests, timeout):
    """Try a mutant written by hand; return it."""
    path = os.path.join(tree, module)
    with open(path, encoding='utf-8') as file:
        text = file.read()
    if text.count(entry['before']) != 1:
        raise ValueError('mutants.toml: this should be in {} once: {}'.format(module, entry['before']))
    try:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text.replace(entry['before'], entry['after']))
        code, output = run_tests(tree, entry.get('tests', tests), timeout)
        if code in (4, 5):  # pytest was called wrongly, or found no test
            raise ValueError(f'mutants.toml: these tests do not run: {entry.get("tests", tests)}\n{output}')
    finally:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
    line = text[: text.index(entry['before'])].count('\n') + 1
    return Mutant(module, line, entry['before'].strip(), entry['after'].strip(), code == 0)


def prepare(tree, module, tests, sample, timeout, args):
    """Let cosmic-ray find the mutants of a module, and skip all but a sample; return config, session, count."""
    session = os.path.join(
        FOLDER, '{}-{}.sqlite'.format(module.replace('/', '-'), checksum(os.path.join(tree, module)))
    )
    config = session[: -len('sqlite')] + 'toml'
    command = ' '.join(map(shlex.quote, PYTEST + shlex.split(tests)))
    with open(config, 'w', encoding='utf-8') as file:
        file.write(CONFIG % (toml_text(module), timeout, toml_text(command)))
    if args.again and os.path.exists(session):
        return config, session, forget_survivors(session)
    if os.path.exists(session):
        os.remove(session)
    subprocess.run([cosmic_ray(), 'init', config, session], cwd=tree, check=True, stdout=subprocess.DEVNULL)
    places, skipped = collections.defaultdict(list), WorkResult(WorkerOutcome.SKIPPED)
    with use_db(session, WorkDB.Mode.open) as work:
        items = sorted(work.work_items, key=lambda item: describe_spec(item.mutations[0]))
        for item in items:
            places[item.mutations[0].start_pos].append(item.job_id)
        rng = random.Random('%d %s' % (args.seed, module))
        # One of each place: a comparison alone has a dozen.
        chosen = [rng.choice(places[place]) for place in sorted(places)]
        chosen = {item.job_id for item in items} if args.all else set(rng.sample(chosen, min(sample, len(chosen))))
        work.set_multiple_results([item.job_id for item in items if item.job_id not in chosen], skipped)
    return config, session, len(chosen)


def checksum(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def forget_survivors(session):
    """Forget the results of mutants that survived, so that they are tried anew; return the number of a session."""
    with contextlib.closing(sqlite3.connect(session)) as connection, connection:
        connection.execute("delete from work_results where test_outcome = 'SURVIVED'")
        (skipped,) = connection.execute("select count(*) from work_results where worker_outcome = 'SKIPPED'").fetchone()
        (items,) = connection.execute('select count(*) from work_items').fetchone()
    return items - skipped


def toml_text(text):
    return '"{}"'.format(text.replace('\\', '\\\\').replace('"', '\\"'))


def cosmic_ray():
    return os.path.join(os.path.dirname(sys.executable), 'cosmic-ray')


def describe_spec(spec):
    return spec.start_pos, spec.operator_name, str(spec.operator_args), spec.occurrence


def count_results(session):
    """Return how many mutants of a session were tried so far."""
    try:
        with sqlite3.connect(f'file:{session}?mode=ro', uri=True) as connection:
            return connection.execute("select count(*) from work_results where worker_outcome != 'SKIPPED'").fetchone()[
                0
            ]
    except sqlite3.OperationalError:  # it is being written
        return 0


def read_results(session, module):
    """Return the mutants that a session tried."""
    found = []
    with use_db(session, WorkDB.Mode.open) as work:
        lines = {item.job_id: item.mutations[0].start_pos[0] for item in work.work_items}
        for job, result in work.results:
            if result.worker_outcome in (WorkerOutcome.SKIPPED, WorkerOutcome.NO_TEST):
                continue
            if result.test_outcome == TestOutcome.INCOMPETENT:
                continue  # cosmic-ray cannot make it: an exception with a dot in its name, say
            diff = [line for line in result.diff.splitlines() if not line.startswith(('---', '+++'))]
            before, after = (' '.join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in '-+')
            found.append(Mutant(module, lines[job], before, after, not result.is_killed))
    return found


def work_off(tree, modules, table, args, progress, results):
    """Try the mutants of one module after another, taken from the queue `modules`, in a tree of its own."""
    copy_tree(tree)
    with contextlib.suppress(queue.Empty):
        while True:
            module = modules.get_nowait()
            try:
                try_module(tree, module, table, args, progress, results)
            except (subprocess.CalledProcessError, OSError, ValueError) as error:
                results.append(f'{module} could not be tried: {error}')


def try_module(tree, module, table, args, progress, results):
    """Try the mutants of a module; add each to `results`, and a sentence where something is wrong."""
    bar = progress.add_task(module, total=None)
    start, tests = time.time(), table['modules'][module]['tests']
    code, output = run_tests(tree, tests)
    if code != 0:
        results.append(f'the tests of {module} fail as it is:\n{output}')
        return
    timeout = 3 * (time.time() - start) + 20
    entries = [entry for entry in table['by_hand'] if entry['module'] == module]
    config, session, count = prepare(tree, module, tests, table['modules'][module]['sample'], timeout, args)
    progress.update(bar, total=len(entries) + count)
    for entry in entries:
        mutant = by_hand(tree, module, entry, tests, timeout)
        results.append(mutant)
        if mutant.survived:
            results.append('one written by hand survives: {}'.format(entry['what']))
        progress.advance(bar)
    process = subprocess.Popen([cosmic_ray(), 'exec', config, session], cwd=tree, env=ENVIRONMENT)
    while process.poll() is None:
        time.sleep(1)
        progress.update(bar, completed=len(entries) + count_results(session))
    results += read_results(session, module)


# ----------------------------------------------------------------------------------------------- the whole


def reason_of(mutant, table):
    """Return the entry of mutants.toml that knows a survivor, or None."""
    for entry in table.get('survivors', []):
        if all(entry[key] == getattr(mutant, key) for key in ('module', 'before', 'after')):
            return entry
    return None


def report(mutants, table):
    """Print what came of it; return (share killed of those not equivalent, survivors without a reason)."""
    console, rows = Console(), collections.defaultdict(collections.Counter)
    if not console.is_terminal:
        console.width = 160
    unknown, known = [], []
    for mutant in mutants:
        entry = reason_of(mutant, table) if mutant.survived else None
        kind = (
            'killed' if not mutant.survived else 'equivalent' if entry and entry['kind'] == 'equivalent' else 'survived'
        )
        rows[mutant.module][kind] += 1
        if mutant.survived:
            (known if entry else unknown).append((mutant, entry))
    for title, found in (('survivors with a reason', known), ('survivors without', unknown)):
        if found:
            grid = Table(title=title, title_justify='left')
            for column in ('where', 'before', 'after', 'why'):
                grid.add_column(column, overflow='fold')
            for mutant, entry in found:
                grid.add_row(
                    '%s:%d' % (mutant.module, mutant.line),
                    mutant.before,
                    mutant.after,
                    '{}: {}'.format(entry['kind'], entry['why']) if entry else '',
                )
            console.print(grid, markup=False)
    grid = Table(title='mutants', title_justify='left')
    kinds = ('killed', 'survived', 'equivalent')
    for column in ('module', 'mutants') + kinds:
        grid.add_column(column, justify='left' if column == 'module' else 'right')
    total = sum(rows.values(), collections.Counter())
    for module, counts in list(rows.items()) + [('all', total)]:
        grid.add_row(module, str(sum(counts.values())), *(str(counts[kind]) for kind in kinds))
    console.print(grid)
    return total['killed'] / max(1, total['killed'] + total['survived']), unknown


def main():
    args = parse_args()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mutants.toml'), encoding='utf-8') as file:
        table = toml.load(file)
    wrong = [module for module in args.modules if module not in table['modules']]
    if wrong:
        sys.stderr.write(
            'mutants.py: {} is not in mutants.toml; choose from {}\n'.format(wrong[0], ', '.join(table['modules']))
        )
        return 2
    modules, results = queue.Queue(), []
    for module in args.modules or table['modules']:
        modules.put(module)
    with Progress(transient=True) as progress, ThreadPoolExecutor(args.workers) as pool:
        workers = [
            pool.submit(work_off, os.path.join(FOLDER, 'tree-%d' % number), modules, table, args, progress, results)
            for number in range(args.workers)
        ]
    share, unknown = report([result for result in results if isinstance(result, Mutant)], table)
    failures = [result for result in results if isinstance(result, str)]
    for failure in failures:
        print(failure)
    print('%.1f %% killed of those that are not equivalent.' % (100 * share))
    for worker in workers:
        worker.result()  # raises what ended it
    return 1 if failures or unknown or share < WANTED else 0


if __name__ == '__main__':
    sys.exit(main())
