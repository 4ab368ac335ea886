"""What an install or a revert will change, and all that is in its way."""

import collections
import contextlib
import os

from patcher.apply import Change, free_backup
from patcher.blocks import imports_one_of, names_networks, networks_in
from patcher.source import WAS, Refusal, Source, compile_error, replaced_by, sha


def plan_install(checkout, force, adopt=False):
    """Return the changes of an install or update; raise Refusal if they would overwrite anything of the user's.

    The message lists all obstacles. With `adopt`, hand-written lines that are identical to the block's are not
    obstacles: the block replaces them.
    """
    checkout.adopts = adopt
    checkout.bring_along()
    changes, problems = plan_gone(checkout, force)
    for path, content in sorted(checkout.copies().items()):
        state = checkout.copy_state(path, content)
        if state == 'foreign' and not force:
            problems.append(
                '%s is not what this plug-in put there; move it away, or use --force to replace it and keep '
                'a backup' % path
            )
        if state != 'current':
            old = None if state == 'missing' else checkout.read(path)
            if state == 'foreign':
                changes.append(Change(free_backup(path), None, old))
            changes.append(Change(path, old, content))
    for trainer in checkout.trainers:
        for path in trainer.files:
            try:
                changes += plan_block(checkout, trainer, checkout.sources[path], force, adopt)
            except InTheWay as problem:
                problems.append(str(problem))
    if problems:
        raise Refusal('; '.join(problems))
    return unique(changes)


class InTheWay(Exception):
    """Something to remove from a file before installing: a sentence."""


def plan_block(checkout, trainer, there, force, adopt):
    """Return the changes that give one script or config of a trainer its block; raises InTheWay."""
    lines, place = trainer.block_of(there)
    source, span = trainer.without_own(there) if adopt and there.block is None else (there, None)
    if span:
        place = span[1]  # what uses these lines stands behind them
        used = trainer.uses_ours(source, *span)
        if used is not None:
            raise InTheWay(
                '%s:%d sets or uses one of the networks between the lines that were added by hand; take the line '
                'out, and write it below the block afterwards' % (source.path, there.bare.index(source.bare[used]) + 1)
            )
    line = trainer.collision(source)
    if line and not force:
        raise InTheWay(
            '%s:%d already has something of that name; remove the line%s, or use --force to add the plug-in all '
            'the same'
            % (source.path, trainer.collision(there), '' if adopt else ', use --adopt if it was added by hand')
        )
    is_edited = source.block is not None and not source.block.intact
    if is_edited and not force:
        raise InTheWay(
            '%s:%d: the block of the plug-in was edited; move the edits below the block, or use --force to '
            'replace it and keep a backup' % (source.path, source.block.start + 1)
        )
    new = source.with_block(lines, place) if lines else unmended(source)
    if replaced_by(lines) and unmended(Source(source.path, new)) != unmended(source):
        raise InTheWay(
            '%s has line ends of two kinds, or a line that begins with "%s"; mend the file by hand' % (source.path, WAS)
        )
    check_compiles(there, new)
    if new == there.content:
        return []
    keeps_backup = line or span or is_edited
    return [Change(free_backup(source.path), None, there.content)] * bool(keeps_backup) + [
        Change(source.path, there.content, new)
    ]


def unmended(source):
    """Return the bytes of a file without its block."""
    return ''.join(source.without_block()).encode('utf-8')


def plan_gone(checkout, force):
    """Return the changes that remove copied files which are no longer shipped, and what is in the way, in sentences."""
    changes, problems = [], []
    for path, recorded in sorted(checkout.gone().items()):
        there = checkout.read(path)
        name = os.path.basename(path)[: -len('.py')]
        for source in checkout.sources.values():
            line = source.outside_block(imports_one_of([name]))
            if line:
                problems.append(
                    '%s:%d imports %s, which is no longer shipped; remove the line first' % (source.path, line, name)
                )
        if sha(there) not in recorded:
            if not force:
                problems.append(
                    '%s is no longer shipped, and was edited after it was copied; move it away, or use --force '
                    'to take it out and keep a backup' % path
                )
            changes.append(Change(free_backup(path), None, there))
        changes.append(Change(path, there, None))
    for source in checkout.sources.values():
        for name in sorted(networks_in(source.block) - set(checkout.networks)):
            line = source.outside_block(names_networks([name]))
            if line:
                problems.append(
                    '%s:%d names the network %s, which is no longer shipped; remove the line first'
                    % (source.path, line, name)
                )
    return changes, problems


def plan_revert(checkout, force):
    """Return the changes that remove the plug-in. Copied files go only if they are unchanged."""
    changes, problems = plan_gone(checkout, force)
    kept = checkout.imported_by_hand() | checkout.needed_by_others()
    for path, content in sorted(checkout.copies().items()):
        state = checkout.copy_state(path, content)
        if state == 'missing' or path in kept or os.path.islink(path):
            continue
        if not checkout.recorded(path):
            continue  # it was there before, or the user put it there by hand
        if state == 'foreign':
            if not force:
                problems.append(
                    '%s was edited after it was copied; move it away, or use --force to take it out and '
                    'keep a backup' % path
                )
            changes.append(Change(free_backup(path), None, checkout.read(path)))
        changes.append(Change(path, checkout.read(path), None))
    for trainer in checkout.trainers:
        for source in map(checkout.sources.get, trainer.files):
            if source.block is None:
                continue
            if not source.block.intact:
                if not force:
                    problems.append(
                        '%s:%d: the block of the plug-in was edited; move the edits out of it, or use --force '
                        'to take it out and keep a backup' % (source.path, source.block.start + 1)
                    )
                changes.append(Change(free_backup(source.path), None, source.content))
            changes.append(Change(source.path, source.content, unmended(source)))
    if problems:
        raise Refusal('; '.join(problems))
    return unique(changes)


def unique(changes):
    """Drop duplicates: every trainer plans for a shared symbol folder."""
    return list(collections.OrderedDict((change.path, change) for change in changes).values())


def check_compiles(source, new):
    """Refuse a result that this Python cannot compile although it could compile what was there before."""
    problem = compile_error(new, source.path)
    if problem is not None and compile_error(source.content, source.path) is None:
        raise Refusal(
            '%s would not compile with the block in it (line %s: %s); please report this'
            % (source.path, getattr(problem, 'lineno', '?'), problem)
        )


def remove_empty_folders(checkout):
    """Remove a folder of copied files that is left empty: git keeps no empty folders, so it came with the plug-in.

    One with nothing but what Python has compiled of the copied files is empty, too.
    """
    for trainer in checkout.trainers:
        own = {os.path.basename(path)[: -len('py')] for path in trainer.copies()}
        folders = {os.path.dirname(path) for path in trainer.copies()} | {trainer.symbol}
        for folder in sorted(folders, key=len, reverse=True):  # those within others first
            compiled = os.path.join(folder, '__pycache__')
            with contextlib.suppress(OSError):
                if os.listdir(folder) == ['__pycache__']:
                    for name in os.listdir(compiled):
                        if name.endswith('.pyc') and name.split('.')[0] + '.' in own:
                            os.remove(os.path.join(compiled, name))
                    os.rmdir(compiled)
                os.rmdir(folder)
