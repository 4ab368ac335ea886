"""The command line: parser, argument types, and how a program runs and ends."""
import argparse
import contextlib
import os
import signal
import sys
import threading
import time

from netkit.errors import UserError

LONGEST_NAME = 255  # bytes of a file's name
LARGEST_SIDE = 4096  # of an image, in pixels
IMPATIENT = 5  # seconds after which a second signal is one of somebody who does not want to wait


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
        self.exit(2, f'{self.prog}: {message} (see --help)\n')

    def _print_message(self, message, file=None):
        """Print, and let it be known where that cannot be: argparse keeps that to itself."""
        if message:
            (file or sys.stderr).write(message)

    def parse_known_args(self, args=None, namespace=None):
        """Refuse what no file can be called: MXNet takes names in UTF-8 only."""
        for text in list(sys.argv[1:] if args is None else args) + [os.getcwd()]:
            if any('\udc80' <= letter <= '\udcff' for letter in text):
                self.error(f'{os.fsencode(text)!r} is not in the letters of this system\'s setting ({sys.getfilesystemencoding()}); set LC_ALL=C.UTF-8, or rename it in UTF-8')
        return super().parse_known_args(args, namespace)


def command_of(arguments):
    """Return the command of `-- COMMAND`, as argparse.REMAINDER leaves it."""
    return arguments[1:] if arguments[:1] == ['--'] else arguments


def whole_number(least, most=None):
    """Return an argparse type: a whole number not below `least`, nor above `most` if that is given."""
    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or most is not None and number > most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least "
                                             f"{least}{'' if most is None else f' and at most {most}'}")
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
            raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least {least:g} and at most {most:g}')
        return value
    return parse


def check_name(name, behind=''):
    """Raise ArgumentTypeError where a file cannot be called `name`, with `behind` behind it."""
    longest = LONGEST_NAME - len(behind)
    if len(os.fsencode(name)) > longest:
        raise argparse.ArgumentTypeError(f'{name!r} is longer than the {longest} bytes that the name of a file has '
                                         'room for')


def file_prefix(text):
    """Argparse type: where files are to be written, folder and first part of their names."""
    if os.path.basename(text) in ('', os.curdir, os.pardir):
        raise argparse.ArgumentTypeError('{!r} is a folder; add how the names of the files begin, like {}'.format(text, os.path.join(text or os.curdir, 'cru116')))
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
        raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHT,WIDTH, like 112,112, of at most {LARGEST_SIDE}')
    return int(sides[0]), int(sides[1]), 3


multiplier = number(1e-6, 1e6)  # argparse type: of the width of a network


def add_sizes(parser):
    """Add the options for the size of the images and the width of the network."""
    parser.add_argument('--image-size', type=image_size, metavar='HEIGHT,WIDTH',
                        help="images' size (default: the network choice's, a checkpoint's where it tells, else 112,112)")
    parser.add_argument('--multiplier', type=multiplier, default=1.0,
                        help='width of the network choice against the paper (net_multiplier)')


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
        sys.stderr.write(f'{os.path.basename(sys.argv[0])}: {sentence}\n')
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
    return '{}: {}'.format(error.filename or 'what this program prints cannot be written', error.strerror or error)


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
