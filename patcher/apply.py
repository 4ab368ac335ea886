"""Change all files or none, even if the process is killed in between.

Before the first change, the patch writes the changes and the old contents to one journal in the checkout. If a
change fails, the patch undoes the journal at once; if the process was killed, the next run undoes it.
"""

import base64
import collections
import contextlib
import json
import os
import re
import stat

from patcher.source import Refusal, read

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CHANGED = '.py', os.sep + 'requirement.txt'  # endings of the files that this program changes
# In the checkout. It has another name than our scratch files, which one may remove by hand.
JOURNAL = os.path.join('recognition', '.patch-insightface-journal')
BACKUP, NEW = '.before-crunet', '.crunet-new'
OLD = '.crunet-old'  # the old content during an undo; versions before the journal wrote it for every file

Change = collections.namedtuple('Change', 'path old new')  # bytes; None where there is no file
Journal = collections.namedtuple('Journal', 'changes folders status')  # new folders; {path: (mode, owner, group)}


@contextlib.contextmanager
def alone_in(root):
    """Lock the checkout against other runs of the patch; raise Refusal if another run has locked it."""
    try:
        handle = os.open(root, os.O_RDONLY)
    except OSError:  # not every system opens folders, and not every user may list this one
        handle = None
    if fcntl is None or handle is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal('another patch_insightface.py is at work in %s; wait until it has ended' % root)
        except OSError:
            pass  # a file system that has no locks
        yield
    finally:
        os.close(handle)


def apply(changes, root):
    """Make all `changes` to the checkout in the folder `root`, or none; raises Refusal or KeyboardInterrupt."""
    if not changes:
        return
    folders = new_folders(changes)
    before = {change.path: status_of(change.path) for change in changes if change.old is not None}
    try:
        write_journal(root, Journal(changes, folders, before))
        for folder in folders:
            os.mkdir(folder)
        for change in changes:
            if change.new is not None:
                write(change.path + NEW, change.new, before.get(change.path) or status_for(change.path))
        for change in changes:
            if not is_there(change.path, change.old):
                raise Refusal('%s was changed by another program in the meantime; try again' % change.path)
            if change.new is None:
                os.remove(change.path)
            else:
                os.replace(change.path + NEW, change.path)
        for folder in sorted({os.path.dirname(change.path) for change in changes}):
            sync_folder(folder)
        os.remove(os.path.join(root, JOURNAL))
    except BaseException as error:
        left = undo(root)
        if isinstance(error, (OSError, Refusal)) or left:
            raise Refusal('; '.join([why(error)] + (left or ['nothing was changed'])))
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt('nothing was changed')
        raise


def undo(root):
    """Restore every file of the journal; return a sentence for each one that could not be undone.

    A file that another program has changed since keeps its content; a backup gets the old content. If a file
    cannot be written, the journal stays for the next run. Raises Refusal for a damaged journal.
    """
    journal, left, is_done = read_journal(root), [], True
    for change in reversed(journal.changes):
        try:
            is_untouched = os.path.lexists(change.path + NEW)  # it becomes the file
            remove(change.path + NEW)
            remove(change.path + OLD)
            if is_untouched or is_there(change.path, change.old):
                continue
            if not is_there(change.path, change.new):
                left.append(keep_for_later(change, journal))
            elif change.old is None:
                os.remove(change.path)
            else:
                # Under another name than NEW: if that file exists, this one was never changed.
                write(change.path + OLD, change.old, journal.status[change.path])
                os.replace(change.path + OLD, change.path)
        except OSError as error:
            is_done = False
            left.append('%s; run the patch again when it can be written' % why(error))
    for folder in reversed(journal.folders):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    if is_done:
        remove(os.path.join(root, JOURNAL + NEW))
        remove(os.path.join(root, JOURNAL))
    return left


def keep_for_later(change, journal):
    """Write the old content of a file that another program has changed into a backup; return a sentence on it."""
    if change.old is None:
        return '%s was changed by another program in the meantime and stays' % change.path
    backup = free_backup(change.path)
    write(backup, change.old, journal.status[change.path])
    return '%s was changed by another program in the meantime; what it was before is in %s' % (change.path, backup)


def is_unfinished(root):
    """Return whether an earlier run was killed midway."""
    return os.path.lexists(os.path.join(root, JOURNAL))


def write_journal(root, journal):
    """Write the planned changes; from then on, a later run can undo them."""

    def text(content):
        return None if content is None else base64.b64encode(content).decode()

    def relative(path):
        return os.path.relpath(path, root)

    content = {
        'changes': [[relative(change.path), text(change.old), text(change.new)] for change in journal.changes],
        'folders': list(map(relative, journal.folders)),
        'status': {relative(path): status for path, status in journal.status.items()},
    }
    path = os.path.join(root, JOURNAL)
    write(path + NEW, json.dumps(content).encode(), status_for(path))
    os.replace(path + NEW, path)
    sync_folder(os.path.dirname(path))


def read_journal(root):
    """Return a checkout's Journal, empty without a file; raise Refusal if the file is not one of ours."""
    path = os.path.join(root, JOURNAL)
    if not os.path.lexists(path):
        return Journal([], [], {})

    def content(text):
        return None if text is None else base64.b64decode(text.encode(), validate=True)

    def absolute(name, ending=''):
        """Return the path of a file, backup or folder that this program changes, below recognition."""
        path = os.path.normpath(os.path.join(root, name))
        is_inside = path.startswith(os.path.join(root, 'recognition') + os.sep)
        is_link = os.path.realpath(os.path.dirname(path)) != os.path.dirname(path)
        if not is_inside or is_link or not backed_up(path).endswith(ending):
            raise ValueError('%s is nothing that this program changes' % name)
        return path

    try:
        found = json.loads(read(path).decode())
        changes = [Change(absolute(name, CHANGED), content(old), content(new)) for name, old, new in found['changes']]
        folders = list(map(absolute, found['folders']))
        status = {absolute(name): tuple(map(int, numbers)) for name, numbers in found['status'].items()}
        for mode, *owners in [status[change.path] for change in changes if change.old is not None]:
            if not 0 <= mode < 0o1000 or len(owners) != 2 or not all(-1 <= number < 2**31 for number in owners):
                raise ValueError('invalid mode or owner')
        return Journal(changes, folders, status)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise Refusal('%s is not a journal of this program (%s); remove it, and compare with git diff' % (path, error))


def new_folders(changes):
    """Return the folders to create for `changes`, parents first."""
    found = []
    for change in changes:
        folder, missing = os.path.dirname(change.path), []
        while not os.path.isdir(folder) and folder not in found:
            missing.append(folder)
            folder = os.path.dirname(folder)
        found += reversed(missing)
    return found


def is_there(path, content):
    """Return whether a file has this content, or does not exist if `content` is None."""
    if content is None:
        return not os.path.lexists(path)
    return os.path.isfile(path) and read(path) == content


def why(error):
    """Return why the changes stopped."""
    if isinstance(error, OSError):
        path = getattr(error, 'filename2', None) or error.filename or 'a file'  # of a rename, what it was to become
        return '%s: %s' % (re.sub('(%s|%s)$' % (re.escape(NEW), re.escape(OLD)), '', str(path)), error.strerror)
    return 'interrupted' if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)


def backed_up(path):
    """Return the path of the original of the backup `path`, or `path` itself if it is not a backup."""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.split(BACKUP)[0])


def free_backup(path):
    """Return a name for a backup of `path` that is not taken."""
    name, number = path + BACKUP, 1
    while os.path.lexists(name):
        number += 1
        name = '%s%s%d' % (path, BACKUP, number)
    return name


def status_of(path):
    """Return (mode, owner, group) of a file."""
    status = os.stat(path)
    return stat.S_IMODE(status.st_mode) & 0o777, status.st_uid, status.st_gid


def status_for(path):
    """Return (mode, owner, group) for a new file: those of the file of which it is a backup, or else of its folder."""
    if os.path.exists(backed_up(path)):
        return status_of(backed_up(path))
    mode, owner, group = status_of(os.path.dirname(path))
    return mode & 0o666, owner, group


def write(path, content, status):
    """Write and sync a file with (mode, owner, group); only root changes the owner."""
    mode, owner, group = status
    try:
        remove(path)  # and with it a link, which would lead elsewhere
        with open(path, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if hasattr(os, 'chown') and os.geteuid() == 0:
            with contextlib.suppress(OSError):  # an owner that a container does not know
                os.chown(path, owner, group)
        os.chmod(path, mode)
    except OSError as error:
        error.filename = error.filename or path
        raise


def remove(path):
    if os.path.lexists(path):  # a read-only file system refuses even to remove a missing file
        os.remove(path)


def sync_folder(path):
    """Have the renames in a folder on disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_scratch(folders):
    """Remove the scratch files in folders that a killed process left, mostly one of an earlier version."""
    for folder in folders:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name.endswith((NEW, OLD)):
                os.remove(os.path.join(folder, name))
