"""What every tool needs: the project on `sys.path`, errors in the user's words, safe output files."""
import argparse
import contextlib
import errno
import glob
import importlib.util
import os
import shutil
import signal
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for _folder in (os.path.join(ROOT, 'symbols'), ROOT):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

# MXNet takes one thread for two CPUs, on the guess that they share a core; on two real cores that made
# training 1.7 times slower (benchmarks/NOTES.md). Both variables are read when mxnet is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                                             else os.cpu_count()))
# Silences one line per executor about a graph backend that is always on.
os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')


WITHOUT_MXNET = ('check_gpu_install.py', 'gpu_env.py', 'launch_local.py')  # programs that need nothing but Python


def _prepare(folder, program):
    """See to what comes before a program's `main`, where the process is one of the programs in tools/."""
    if folder != os.path.join(ROOT, 'tools'):
        return
    # Until `run` takes it, Ctrl-C ends a program at once: it has done nothing yet but import, which takes seconds.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as a shell has it for what runs behind it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    missing = [name for name in ('mxnet', 'numpy', 'tqdm') if importlib.util.find_spec(name) is None]
    if missing and program not in WITHOUT_MXNET:
        sys.stderr.write('%s: this Python has no %s; run "make demo" once, then ". .venv/bin/activate", or take '
                         '.venv/bin/python in the place of python\n' % (program, missing[0]))
        sys.exit(2)


_prepare(*os.path.split(os.path.abspath(getattr(sys.modules['__main__'], '__file__', ''))))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a disk that takes no more
UNFINISHED = '.unfinished-'  # how the folders of files that are being written are called


class UserError(Exception):
    """Something the user can put right; the text is the sentence to show."""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells the defaults, but for "None", "False" and those that the text tells itself."""

    def _get_help_string(self, action):
        is_told = action.default is None or action.default is False or '(default' in action.help
        return action.help if is_told else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_Help, **kwargs)

    def error(self, message):
        self.exit(2, '%s: %s (see --help)\n' % (self.prog, message))


def whole_number(least, most=None):
    """Return an argparse type: a whole number not below `least`, nor above `most` if that is given."""
    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or most is not None and number > most:
            raise argparse.ArgumentTypeError('%r is not a whole number of at least %d%s' % (
                text, least, '' if most is None else ' and at most %d' % most))
        return number
    return parse


LARGEST = 3.4e38  # of float32


def positive(text):
    """Argparse type: a number above 0 that float32 can hold."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < LARGEST:
        raise argparse.ArgumentTypeError('%r is not a number above 0 and below %g' % (text, LARGEST))
    return number


def file_prefix(text):
    """Argparse type: where files are to be written, folder and first part of their names."""
    if os.path.basename(text) in ('', os.curdir, os.pardir):
        raise argparse.ArgumentTypeError('%r is a folder; add how the names of the files begin, like %s'
                                         % (text, os.path.join(text or os.curdir, 'cru116')))
    longest = 255 - len('-symbol.json')
    if len(os.fsencode(os.path.basename(text))) > longest:
        raise argparse.ArgumentTypeError('%r is longer than the %d bytes that the name of a file has room for'
                                         % (os.path.basename(text), longest))
    return text


def folder_name(text):
    """Argparse type: the path of a folder."""
    if not text:
        raise argparse.ArgumentTypeError('the name of the folder is empty; for this one write .')
    return text


def image_size(text):
    """Argparse type: HEIGHT,WIDTH; returns (height, width, 3)."""
    sides = text.split(',')
    if len(sides) != 2 or not all(side.strip().isdecimal() and 0 < int(side) < 1e5 for side in sides):
        raise argparse.ArgumentTypeError('%r is not HEIGHT,WIDTH, like 112,112' % text)
    return int(sides[0]), int(sides[1]), 3


def run(main):
    """Run a tool's `main` and end the process: 0, or 2 with one sentence for what the user can put right.

    Anything else that goes wrong is an error of the program, and shown as such, with its traceback.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is open or half written is cleaned up then, too
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # a terminal that has no × or ± shows ? in its place
            stream.reconfigure(errors='replace')
    name = os.path.basename(sys.argv[0])
    # To end within the handlers keeps alive what `main` had: to give up a kvstore is to wait for the other workers.
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, like head, has had enough
        close_output()
        sys.exit(141)
    except UserError as error:
        sys.stderr.write('%s: %s\n' % (name, error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        close_output()
        sys.stderr.write('%s: cannot write %s: %s\n' % (name, error.filename or 'what is to be written', error.strerror))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write('%s: interrupted\n' % name)
        sys.exit(130)
    sys.exit(status or 0)


def close_output():
    """Let nothing more be written to standard output, where it cannot be."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sync(path):
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)  # Windows wants to be able to write it
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_files(folder):
    """Give a folder to write files into; when the block ends well they move into `folder`, else none does.

    The scratch folder lies inside `folder`, so a move is a rename. Raises UserError, before the block is
    entered, where `folder` cannot be written.
    """
    made = []  # folders that are not there yet, the innermost first
    above = os.path.abspath(folder)
    while not os.path.exists(above):
        made.append(above)
        above = os.path.dirname(above)
    try:
        os.makedirs(folder, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=UNFINISHED, dir=folder)
    except OSError as error:
        raise UserError('cannot write to %s: %s' % (folder, error.strerror))
    try:
        yield scratch
        for name in sorted(os.listdir(scratch)):
            sync(os.path.join(scratch, name))
        for name in sorted(os.listdir(scratch)):
            os.replace(os.path.join(scratch, name), os.path.join(folder, name))
        with contextlib.suppress(OSError):  # not every system can
            sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # it ends at the first that is not empty
            for path in made:
                os.rmdir(path)


def remove_unfinished(folder):
    """Remove what a killed process was writing into `folder`."""
    for scratch in glob.glob(os.path.join(glob.escape(folder), UNFINISHED + '*')):
        shutil.rmtree(scratch, ignore_errors=True)


def memory():
    """Return the bytes of memory that this machine has, None where the system does not tell."""
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return None


def check_writable(folder):
    """Raise UserError where files cannot be written into `folder`: better known before long work than after it."""
    with new_files(folder):
        pass


def command_of(arguments):
    """Return the command of `-- COMMAND`, as argparse.REMAINDER leaves it."""
    return arguments[1:] if arguments[:1] == ['--'] else arguments
