"""Files are written whole or not at all, sets of files all or none, and no input file is overwritten."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import time

from netkit.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a full disk
UNFINISHED = '.unfinished-'  # prefix of the scratch folders


@contextlib.contextmanager
def new_files(folder):
    """Yield a scratch folder for files; on success move them into `folder`, on an exception discard them.

    The scratch folder is inside `folder`, so moving is renaming. Raises UserError if `folder` cannot be written (before
    the block is entered), if the disk is full, or if a file cannot be moved; then the files that it would have replaced
    are restored.
    """
    made = []  # folders that do not exist yet, the innermost first
    above = os.path.abspath(folder)
    while not os.path.exists(above):
        made.append(above)
        above = os.path.dirname(above)
    try:
        os.makedirs(folder, exist_ok=True)
        remove_unfinished(folder)
        scratch = tempfile.mkdtemp(prefix=UNFINISHED, dir=folder)
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}')
    try:
        with held(scratch):
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
            move_all(names, scratch, folder)
            with contextlib.suppress(OSError):  # not supported everywhere
                sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # ends at the first folder that is not empty
            for path in made:
                os.rmdir(path)


def move_all(names, scratch, folder):
    """Move the files `names` from `scratch` into `folder`, all or none; raises UserError."""
    old = os.path.join(scratch, 'old')
    os.mkdir(old)
    moved = []
    try:
        for name in names:
            target = os.path.join(folder, name)
            if os.path.lexists(target):
                try:
                    os.link(target, os.path.join(old, name), follow_symlinks=False)
                except (OSError, NotImplementedError):  # not supported by every file system
                    shutil.copy2(target, os.path.join(old, name), follow_symlinks=False)
        for name in names:
            moved.append(name)
            os.replace(os.path.join(scratch, name), os.path.join(folder, name))
    except BaseException as error:
        for name in reversed(moved):
            with contextlib.suppress(OSError):
                if os.path.lexists(os.path.join(old, name)):
                    os.replace(os.path.join(old, name), os.path.join(folder, name))
                elif not os.path.lexists(os.path.join(scratch, name)):  # it was moved
                    os.remove(os.path.join(folder, name))
        if isinstance(error, OSError):
            path = error.filename2 or error.filename or folder
            raise UserError(f'cannot write {path}: {error.strerror}; nothing was changed')
        raise


def sync(path):
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)  # Windows requires a writable file
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder):
    """Lock a folder, so that other processes know that it is in use; without effect on systems without such locks."""
    handle = None
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def is_held(folder):
    """Tell whether a running process has locked a folder; without locks, whether the folder is younger than a day."""
    if fcntl is None:
        return time.time() - os.path.getmtime(folder) < 24 * 3600
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def remove_unfinished(folder):
    """Remove the scratch folders of killed processes; return whether a running process is writing into `folder`."""
    is_written = False
    for scratch in glob.glob(os.path.join(glob.escape(folder), UNFINISHED + '*')):
        with contextlib.suppress(OSError):  # gone by now, or another user's
            if is_held(scratch):
                is_written = True
            else:
                shutil.rmtree(scratch, ignore_errors=True)
    return is_written


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
