"""Files are written completely or not at all, sets of files all or none, and no input file is overwritten."""

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import time

import numpy as np

from netkit.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a full disk
UNFINISHED = '.unfinished-'  # prefix of the scratch folders
OLD, MOVING, UNDOING = '.old', '.moving', '.undoing'  # in these: what is replaced; the journal
# How a scratch folder is opened: nothing else is, neither a pipe, which would be waited for, nor what a link points to.
DIRECTORY = os.O_RDONLY | getattr(os, 'O_DIRECTORY', 0) | getattr(os, 'O_NOFOLLOW', 0)
NO_LOCK = -1  # of a system without locks
TRIES = 100  # to make a scratch folder while others clean up


@contextlib.contextmanager
def new_files(folder):
    """Yield a scratch folder for files; on success move them into `folder`, on an exception discard them.

    The scratch folder is inside `folder`, so moving is renaming. A process that is killed meanwhile leaves a journal,
    by which the next one that reads or writes there moves the rest (`settle`). Raises UserError if `folder` cannot be
    written (before the block is entered), if the disk is full, or if a file cannot be moved; then the files that it
    would have replaced are restored.
    """
    with made(folder):
        yield from moved_from_scratch(folder)


@contextlib.contextmanager
def made(folder):
    """Make a folder, and in the end remove it and those above it again where nothing is in them."""
    missing = []  # folders that do not exist yet, the innermost first
    above = os.path.abspath(folder)
    while not os.path.exists(above):
        missing.append(above)
        above = os.path.dirname(above)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}')
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # ends at the first folder that is not empty
            for path in missing:
                os.rmdir(path)


def moved_from_scratch(folder):
    """Yield a scratch folder, and move its files into `folder`: `new_files` for an existing folder."""
    try:
        scratch, lock = new_scratch(folder)
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}')
    try:
        try:
            yield scratch
            names = sorted(os.listdir(scratch))
            for parent, _, files in os.walk(scratch):
                for name in sorted(files):
                    sync(os.path.join(parent, name))
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(f'cannot write to {folder}: {error.strerror}')
        with alone(folder):
            settle_alone(folder)
            move_all(names, scratch, folder)
        with contextlib.suppress(OSError):  # not supported everywhere
            sync(folder)
    finally:
        if not os.path.exists(os.path.join(scratch, UNDOING)):  # or it has what could not be restored
            shutil.rmtree(scratch, ignore_errors=True)
        unlock(lock)


def new_scratch(folder):
    """Return (path, lock) of a new scratch folder in `folder`, which is made; both are one step for other processes.

    Between the folder and its lock another process may take it for one of a killed process, and lock and remove it:
    then there is another try. So there is where `folder` is removed, being empty, by the one that made it.
    """
    for left in reversed(range(TRIES)):
        try:
            os.makedirs(folder, exist_ok=True)
            settle(folder)
            scratch = tempfile.mkdtemp(prefix=UNFINISHED, dir=folder)
            lock = lock_of(scratch)
        except FileNotFoundError:
            if not left:
                raise
            continue
        if lock is not None and os.path.exists(scratch):
            return scratch, lock
        unlock(lock)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def move_all(names, scratch, folder):
    """Move the files `names` from `scratch` into `folder`, all or none; raises UserError."""
    old = os.path.join(scratch, OLD)
    os.mkdir(old)
    try:
        replaced = [name for name in names if os.path.lexists(os.path.join(folder, name))]
        for name in replaced:
            target = os.path.join(folder, name)
            try:
                os.link(target, os.path.join(old, name), follow_symlinks=False)
            except (OSError, NotImplementedError):  # not supported by every file system
                shutil.copy2(target, os.path.join(old, name), follow_symlinks=False)
        write_journal(scratch, names, replaced)
        try:
            move_rest(scratch, folder, names)
        except BaseException:
            os.replace(os.path.join(scratch, MOVING), os.path.join(scratch, UNDOING))
            lost = undo(scratch, folder, names, replaced)
            if lost:
                raise UserError(
                    f'{", ".join(lost)} could not be restored in {folder}; the next program that works there tries '
                    f'again, and until then the old files are in {old}'
                )
            raise
    except OSError as error:
        path = error.filename2 or error.filename or folder
        raise UserError(f'cannot write {path}: {error.strerror}; nothing was changed')
    os.remove(os.path.join(scratch, MOVING))


def write_journal(scratch, names, replaced):
    """Write the journal of files to move: from now on this process or the next moves them."""
    about = os.stat(scratch)
    journal = {'names': names, 'replaced': replaced, 'folder': [about.st_dev, about.st_ino]}
    path = os.path.join(scratch, OLD, MOVING)
    with open(path, 'w', encoding='utf-8', errors='surrogateescape') as file:
        json.dump(journal, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, os.path.join(scratch, MOVING))
    with contextlib.suppress(OSError):  # not supported everywhere
        sync(scratch)


def read_journal(scratch, name):
    """Return (names, replaced) of a journal; None if there is none, or it was not written in this very folder."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        with open(os.path.join(scratch, name), encoding='utf-8', errors='surrogateescape') as file:
            journal = json.load(file)
        names, about = journal['names'], os.stat(scratch)
        is_here = journal['folder'] == [about.st_dev, about.st_ino]  # not so in a copy, or what came from elsewhere
        if is_here and all(name == os.path.basename(name) not in ('', os.curdir, os.pardir) for name in names):
            return names, [name for name in journal['replaced'] if name in names]
    return None


def move_rest(scratch, folder, names):
    """Move those of the files that are not yet moved."""
    for name in names:
        if os.path.lexists(os.path.join(scratch, name)):
            os.replace(os.path.join(scratch, name), os.path.join(folder, name))


def undo(scratch, folder, names, replaced):
    """Restore what was replaced, and remove what was new; return the names of which that failed.

    Only without any the journal goes.
    """
    lost = []
    for name in names:
        kept, target = os.path.join(scratch, OLD, name), os.path.join(folder, name)
        try:
            if name in replaced and os.path.lexists(kept):
                os.replace(kept, target)
            elif name not in replaced and not os.path.lexists(os.path.join(scratch, name)):  # it was moved
                os.remove(target)
        except FileNotFoundError:
            continue
        except OSError:
            lost.append(name)
    if not lost:
        with contextlib.suppress(OSError):
            os.remove(os.path.join(scratch, UNDOING))
    return lost


def settle(folder):
    """Finish or undo what killed processes had begun to move into `folder`, and remove their scratch folders.

    Returns whether a running process is writing into it. Raises UserError where files that belong together are in part
    moved, and this process cannot move the rest.
    """
    if not scratches(folder):
        return False
    with alone(folder):
        return settle_alone(folder)


def scratches(folder):
    """Return the paths of the scratch folders in a folder."""
    return glob.glob(os.path.join(glob.escape(folder), UNFINISHED + '*'))


def settle_alone(folder):
    """Do what `settle` does, where this process is `alone` in moving files there."""
    is_written = False
    for scratch in scratches(folder):
        with contextlib.suppress(OSError):  # gone by now, another user's, or no folder at all
            is_young = time.time() - os.stat(scratch).st_mtime < 24 * 3600
            lock = lock_of(scratch)
            if lock is None or lock == NO_LOCK and is_young:
                is_written = True
                continue
            try:
                moving, undoing = (read_journal(scratch, name) for name in (MOVING, UNDOING))
                if moving:
                    move_moved(scratch, folder, moving[0])
                elif undoing and undo(scratch, folder, *undoing):
                    continue  # the next one tries again
                shutil.rmtree(scratch, ignore_errors=True)
            finally:
                unlock(lock)
    return is_written


@contextlib.contextmanager
def alone(folder):
    """Get exclusive access to move files into a folder; wait for another process (moments).

    A scratch folder is its process's own, and locked already.
    """
    handle, is_own = None, os.path.basename(os.path.abspath(folder)).startswith(UNFINISHED)
    with contextlib.suppress(OSError):
        if fcntl and not is_own:
            handle = os.open(folder, os.O_RDONLY)  # which may be a link, as to another disk
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def move_moved(scratch, folder, names):
    """Move the rest of what a killed process had begun to move; raises UserError."""
    try:
        move_rest(scratch, folder, names)
        os.remove(os.path.join(scratch, MOVING))
    except OSError as error:
        raise UserError(
            f'{folder} has files that were written in part by a program that was killed ({", ".join(names)}), and the '
            f'rest cannot be moved there: {error.strerror}; let one who may write there run a program on it'
        )


def sync(path):
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)  # Windows requires a writable file
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_of(folder):
    """Lock a folder for this process; return what `unlock` takes, None if another process has locked it.

    Without locks in the system or file system, assumes no other lock. Raises FileNotFoundError.
    """
    if fcntl is None:
        return NO_LOCK
    handle = os.open(folder, DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        return NO_LOCK
    return handle


def unlock(lock):
    """Unlock what `lock_of` returned."""
    if lock not in (None, NO_LOCK):
        os.close(lock)


@contextlib.contextmanager
def claimed(folder, what):
    """Reserve a folder while the block runs; raises UserError if another process has reserved it.

    `what` names the activity of that process. A locked subfolder marks it; the lock ends with the process.
    """
    claim = os.path.join(folder, UNFINISHED + what)
    with made(folder):
        try:
            os.makedirs(claim, exist_ok=True)
            lock = lock_of(claim)
        except OSError as error:
            raise UserError(f'cannot write to {folder}: {error.strerror}')
        if lock is None:
            raise UserError(f'another {what} is writing into {folder}; wait until it has ended, or name another')
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(claim)
            unlock(lock)


def save_arrays(path, **arrays):
    """Write a NumPy archive; raises OSError where there is no room for it.

    Checks the space first, because an incomplete NumPy archive prints another error when freed.
    """
    if shutil.disk_usage(os.path.dirname(path)).free < sum(array.nbytes for array in arrays.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    np.savez(path, **arrays)


def keep_inputs(outputs, inputs):
    """Raise UserError if writing the files `outputs` would overwrite one of the files `inputs`."""
    for path in filter(os.path.exists, outputs):
        for source in filter(os.path.exists, filter(None, inputs)):
            if os.path.samefile(path, source):
                raise UserError(f'{source} is read, and would be overwritten; name another file to write')


def check_writable(folder):
    """Raise UserError if files cannot be written into `folder`, before long work instead of after it."""
    with new_files(folder):
        pass
