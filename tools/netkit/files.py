"""Files written whole or not at all; input files kept."""
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

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a disk that takes no more
UNFINISHED = '.unfinished-'  # how the folders of files that are being written are called


@contextlib.contextmanager
def new_files(folder):
    """Give a folder to write files into; when the block ends well they move into `folder`, else none does.

    The scratch folder lies inside `folder`, so a move is a rename. Raises UserError where `folder` cannot be written,
    before the block is entered, where the disk is full, or where one of the files cannot take its place: then all that
    were there before are there again.
    """
    made = []  # folders that are not there yet, the innermost first
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
                for name in names:
                    sync(os.path.join(scratch, name))
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise UserError(f'cannot write to {folder}: {error.strerror}')
            move_all(names, scratch, folder)
            with contextlib.suppress(OSError):  # not every system can
                sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # it ends at the first that is not empty
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
                except (OSError, NotImplementedError):  # not every file system can
                    shutil.copy2(target, os.path.join(old, name), follow_symlinks=False)
        for name in names:
            moved.append(name)
            os.replace(os.path.join(scratch, name), os.path.join(folder, name))
    except BaseException as error:
        for name in reversed(moved):
            with contextlib.suppress(OSError):
                if os.path.lexists(os.path.join(old, name)):
                    os.replace(os.path.join(old, name), os.path.join(folder, name))
                elif not os.path.lexists(os.path.join(scratch, name)):  # it did move
                    os.remove(os.path.join(folder, name))
        if isinstance(error, OSError):
            raise UserError(f'cannot write {error.filename2 or error.filename or folder}: {error.strerror}; nothing was changed')
        raise


def sync(path):
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)  # Windows wants to be able to write it
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder):
    """Hold a folder, so that other processes see that somebody is at work in it; where the system cannot, do nothing."""
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
    """Tell whether a process that lives holds a folder; where the system cannot tell, whether it is younger than a day."""
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
    """Remove what killed processes were writing into `folder`; return whether one that lives is writing into it."""
    is_written = False
    for scratch in glob.glob(os.path.join(glob.escape(folder), UNFINISHED + '*')):
        with contextlib.suppress(OSError):  # gone by now, or somebody else's
            if is_held(scratch):
                is_written = True
            else:
                shutil.rmtree(scratch, ignore_errors=True)
    return is_written


def keep_inputs(outputs, inputs):
    """Raise UserError where one of the files `outputs`, to be written, is one of the files `inputs` that were named."""
    for path in filter(os.path.exists, outputs):
        for source in filter(os.path.exists, filter(None, inputs)):
            if os.path.samefile(path, source):
                raise UserError(f'{source} is read, and would be overwritten; name another file to write')


def check_writable(folder):
    """Raise UserError where files cannot be written into `folder`: better known before long work than after it."""
    with new_files(folder):
        pass
