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
import threading
import time

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for _folder in (os.path.join(ROOT, 'symbols'), ROOT):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

# MXNet takes one thread for two CPUs, on the guess that they share a core; on two real cores that made
# training 1.7 times slower (benchmarks/NOTES.md). Both variables are read when mxnet is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                                             else os.cpu_count()))
# MXNet brings OpenBLAS 0.3.13, which takes its code for processors of 2004 where it does not know a newer one: half as
# fast, on a Xeon of 2023, as what it has for any with AVX2.
with contextlib.suppress(OSError), open('/proc/cpuinfo') as _cpuinfo:
    if ' avx2 ' in _cpuinfo.read(1 << 16):
        os.environ.setdefault('OPENBLAS_CORETYPE', 'Haswell')
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

    def _print_message(self, message, file=None):
        """Print, and let it be known where that cannot be: argparse keeps that to itself."""
        if message:
            (file or sys.stderr).write(message)

    def parse_known_args(self, args=None, namespace=None):
        """Refuse what no file can be called: MXNet takes names in UTF-8 only."""
        for text in list(sys.argv[1:] if args is None else args) + [os.getcwd()]:
            if any('\udc80' <= letter <= '\udcff' for letter in text):
                self.error('%r is not in the letters of this system\'s setting (%s); set LC_ALL=C.UTF-8, or rename it in UTF-8'
                           % (os.fsencode(text), sys.getfilesystemencoding()))
        return super().parse_known_args(args, namespace)


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


def number(least, most):
    """Return an argparse type: a number of at least `least` and at most `most`."""
    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if not least <= value <= most:
            raise argparse.ArgumentTypeError('%r is not a number of at least %g and at most %g' % (text, least, most))
        return value
    return parse


LONGEST_NAME = 255  # bytes of a file's name
LARGEST_SIDE = 4096  # of an image, in pixels


def check_name(name, behind=''):
    """Raise ArgumentTypeError where a file cannot be called `name`, with `behind` behind it."""
    longest = LONGEST_NAME - len(behind)
    if len(os.fsencode(name)) > longest:
        raise argparse.ArgumentTypeError('%r is longer than the %d bytes that the name of a file has room for' % (name, longest))


def file_prefix(text):
    """Argparse type: where files are to be written, folder and first part of their names."""
    if os.path.basename(text) in ('', os.curdir, os.pardir):
        raise argparse.ArgumentTypeError('%r is a folder; add how the names of the files begin, like %s'
                                         % (text, os.path.join(text or os.curdir, 'cru116')))
    check_name(os.path.basename(text), behind='-folded-symbol.json')
    return text


def folder_name(text):
    """Argparse type: the path of a folder."""
    if not text:
        raise argparse.ArgumentTypeError('the name of the folder is empty; for this one write .')
    return text


def image_size(text):
    """Argparse type: HEIGHT,WIDTH; returns (height, width, 3)."""
    sides = text.split(',')
    if len(sides) != 2 or not all(side.strip().isdecimal() and len(side) < 9 and 0 < int(side) <= LARGEST_SIDE
                                  for side in sides):
        raise argparse.ArgumentTypeError('%r is not HEIGHT,WIDTH, like 112,112, of at most %d' % (text, LARGEST_SIDE))
    return int(sides[0]), int(sides[1]), 3


def run(main):
    """Run a tool's `main` and end the process: 0, or 2 with one sentence for what the user can put right.

    That is what `main` raises as UserError, and what the system says of a file. Anything else that goes wrong is an error
    of the program, and shown as such, with its traceback.
    """
    take_signals()
    open_streams()
    # To end within the handlers keeps alive what `main` had: to give up a kvstore is to wait for the other workers.
    try:
        status = main()
        sys.stdout.flush()
    except SystemExit:  # --help, a wrong option, SIGTERM
        try:
            sys.stdout.flush()
        except OSError as error:
            refuse(described(error))
        raise
    except BrokenPipeError:  # the reader, like head, has had enough
        close_output()
        sys.exit(141)
    except UserError as error:
        refuse(error)
    except MemoryError:
        refuse('there is not memory enough; take smaller numbers')
    except OSError as error:
        if error.errno is None:  # it is not the system's
            raise
        refuse(described(error))
    except KeyboardInterrupt:
        tell('interrupted')
        sys.exit(130)
    sys.exit(status or 0)


def tell(sentence):
    """Print a sentence to standard error, if that takes it."""
    with contextlib.suppress(OSError):
        sys.stderr.write('%s: %s\n' % (os.path.basename(sys.argv[0]), sentence))
        sys.stderr.flush()


def refuse(sentence):
    """End the process with a sentence and exit code 2."""
    try:
        sys.stdout.flush()
    except OSError:  # perhaps what it is about
        close_output()
    tell(sentence)
    sys.exit(2)


def described(error):
    """Return an OSError as a sentence; where it names no file, it is of what is printed."""
    return '%s: %s' % (error.filename or 'what this program prints cannot be written', error.strerror or error)


IMPATIENT = 5  # seconds after which a second signal is one of somebody who does not want to wait


def take_signals():
    """Let SIGTERM and Ctrl-C end `main` by an exception, so that what is open or half written is cleaned up."""
    began = []

    def end(signal_number, _):
        if not began:
            began.append(time.time())
            raise KeyboardInterrupt if signal_number == signal.SIGINT else SystemExit(143)
        if time.time() - began[0] > IMPATIENT:  # one right behind the other changes nothing
            os._exit(128 + signal_number)

    def again(swallowed):
        """Send a signal anew whose exception came while Python was removing an object, where it ends nothing."""
        if not isinstance(swallowed.exc_value, (KeyboardInterrupt, SystemExit)):
            sys.__unraisablehook__(swallowed)
            return
        began.clear()
        number = signal.SIGINT if isinstance(swallowed.exc_value, KeyboardInterrupt) else signal.SIGTERM
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(signal_number) != signal.SIG_IGN:  # as a shell has it for what runs behind it
            signal.signal(signal_number, end)
    sys.unraisablehook = again


def open_streams():
    """Let what a terminal has no letters for, like × or ±, be shown as ?, and what nobody is there to read go nowhere."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, 'w'))
        elif hasattr(getattr(sys, name), 'reconfigure'):
            getattr(sys, name).reconfigure(errors='replace')


def close_output():
    """Let nothing more be written to standard output, where it cannot be."""
    with contextlib.suppress(OSError, ValueError):  # it has no file, in a test
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
        raise UserError('cannot write to %s: %s' % (folder, error.strerror))
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
                raise UserError('cannot write to %s: %s' % (folder, error.strerror))
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
            raise UserError('cannot write %s: %s; nothing was changed'
                            % (error.filename2 or error.filename or folder, error.strerror))
        raise


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
                raise UserError('%s is read, and would be overwritten; name another file to write' % source)


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
