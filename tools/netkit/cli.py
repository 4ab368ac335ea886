"""The command line: parser, argument types, and how a program runs and ends."""

import argparse
import contextlib
import os
import signal
import sys
import time

from netkit.errors import UserError
from netkit.project import no_package

LONGEST_NAME = 255  # bytes
LONGEST_SENTENCE = 1200  # letters, of which paths take most
LARGEST_SIDE = 4096  # of an image, in pixels
IMPATIENT = 5  # seconds


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the defaults, except None, False and those that the text itself names."""

    def _get_help_string(self, action):
        has_default = action.default is None or action.default is False or '(default' in action.help
        return action.help if has_default else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_Help, **kwargs)

    def error(self, message):
        self.exit(2, f'{self.prog}: {message} (see --help)\n')

    def _print_message(self, message, file=None):
        """Print; raise OSError on failure, which argparse ignores."""
        if message:
            (file or sys.stderr).write(message)

    def parse_known_args(self, args=None, namespace=None):
        """Parse; refuse names that are not UTF-8, the only ones that MXNet takes."""
        for text in [*(sys.argv[1:] if args is None else args), os.getcwd()]:
            if any('\udc80' <= letter <= '\udcff' for letter in text):
                self.error(
                    f"{os.fsencode(text)!r} is not in the letters of this system's setting "
                    f'({sys.getfilesystemencoding()}); set LC_ALL=C.UTF-8, or rename it in UTF-8'
                )
        return super().parse_known_args(args, namespace)


def command_of(arguments):
    """Return the COMMAND of `-- COMMAND`, from what argparse.REMAINDER returns."""
    return arguments[1:] if arguments[:1] == ['--'] else arguments


def whole_number(least, most=None):
    """Return an argparse type: an integer from `least` to `most`."""

    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or most is not None and number > most:
            limit = '' if most is None else f' and at most {most}'
            raise argparse.ArgumentTypeError(f'{text!r} is not an integer of at least {least}{limit}')
        return number

    return parse


def number(least, most):
    """Return an argparse type: a number from `least` to `most`."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least {least:g} and at most {most:g}')
        return value

    return parse


def check_name(name, suffix=''):
    """Raise ArgumentTypeError if `name`, followed by `suffix`, is too long for the name of a file."""
    longest = LONGEST_NAME - len(suffix)
    if len(os.fsencode(name)) > longest:
        raise argparse.ArgumentTypeError(
            f'{name!r} is longer than the {longest} bytes that the name of a file has room for'
        )


def file_prefix(text):
    """Argparse type: the common prefix of the paths of the files to write."""
    if os.path.basename(text) in ('', os.curdir, os.pardir):
        example = os.path.join(text or os.curdir, 'cru116')
        raise argparse.ArgumentTypeError(f'{text!r} is a folder; add how the names of the files begin, like {example}')
    check_name(os.path.basename(text), suffix='-folded-symbol.json')
    return text


def folder_name(text):
    """Argparse type: the path of a folder."""
    if not text:
        raise argparse.ArgumentTypeError('the name of the folder is empty; for this one write .')
    return text


def image_size(text):
    """Argparse type: HEIGHT,WIDTH; returns (height, width, 3)."""
    sides = text.split(',')
    if len(sides) != 2 or not all(
        side.strip().isdecimal() and len(side) < 9 and 0 < int(side) <= LARGEST_SIDE for side in sides
    ):
        raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHT,WIDTH, like 112,112, of at most {LARGEST_SIDE}')
    return int(sides[0]), int(sides[1]), 3


multiplier = number(1e-6, 1e6)  # argparse type: of the width of a network


def add_sizes(parser):
    """Add the options for the size of the images and the width of the network."""
    parser.add_argument(
        '--image-size',
        type=image_size,
        metavar='HEIGHT,WIDTH',
        help="image size (default: the network's or the checkpoint's, else 112,112)",
    )
    parser.add_argument(
        '--multiplier', type=multiplier, default=1.0, help="width relative to the paper's network (net_multiplier)"
    )


def run(main):
    """Run a program's `main` and end the process with the status that it returns, 0 for None.

    A UserError and an OSError of the system end it with one sentence and status 2, MemoryError too. Any other
    exception is an error of the program and shown with its traceback.
    """
    take_signals()
    open_streams()
    # The process ends inside the handlers, while the exception keeps the variables of `main` alive: freeing a kvstore
    # would wait for the other workers.
    try:
        status = main()
        sys.stdout.flush()
    except SystemExit:  # --help, a wrong option, SIGTERM
        try:
            sys.stdout.flush()
        except OSError as error:
            refuse(described(error))
        raise
    except BrokenPipeError:  # the reader, like head, has ended
        discard(sys.stdout)
        sys.exit(141)
    except UserError as error:
        refuse(error)
    except ModuleNotFoundError as error:
        if (error.name or 'netkit').partition('.')[0] == 'netkit':  # an error of the program
            raise
        refuse(no_package(error.name))
    except MemoryError:
        refuse('there is not memory enough; take smaller numbers')
    except OSError as error:
        if error.errno is None:  # not an error of the system
            raise
        refuse(described(error))
    except KeyboardInterrupt:
        tell('interrupted')
        sys.exit(130)
    sys.exit(status or 0)


def tell(sentence):
    """Print a sentence to standard error, if that can be written.

    The sentence may quote a file, with any bytes and any length.
    """
    text = ''.join(letter if letter.isprintable() else '?' for letter in str(sentence))
    if len(text) > LONGEST_SENTENCE:
        text = f'{text[: LONGEST_SENTENCE // 2]} … {text[-LONGEST_SENTENCE // 2 :]}'
    try:
        sys.stderr.write(f'{os.path.basename(sys.argv[0])}: {text}\n')
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)  # else Python would try again at its end, and change the exit status


def refuse(sentence):
    """End the process with a sentence and exit code 2."""
    try:
        sys.stdout.flush()
    except OSError:  # perhaps the error in the sentence
        discard(sys.stdout)
    tell(sentence)
    sys.exit(2)


def described(error):
    """Return a sentence for an OSError; one without a file name comes from standard output."""
    return f'{error.filename or "what this program prints cannot be written"}: {error.strerror or error}'


def take_signals():
    """Let SIGTERM, SIGHUP and Ctrl-C end `main` by an exception: open and half-written files are cleaned up.

    A second signal right after the first changes nothing; one that comes later ends the process at once.
    """
    began = []

    def end(number, _):
        if not began:
            began.append(time.time())
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if time.time() - began[0] > IMPATIENT:
            os._exit(128 + number)

    # SIGHUP, of a terminal that is closed, does not exist on Windows.
    for number in filter(None, (signal.SIGTERM, signal.SIGINT, getattr(signal, 'SIGHUP', None))):
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell has background jobs ignore Ctrl-C, nohup SIGHUP
            signal.signal(number, end)


def open_streams():
    """Print ? for letters that the terminal does not have, like ×, and nothing to closed streams."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, 'w'))
        elif hasattr(getattr(sys, name), 'reconfigure'):
            getattr(sys, name).reconfigure(errors='replace')


def discard(stream):
    """Discard what is printed to a stream, once it cannot be written."""
    with contextlib.suppress(OSError, ValueError):  # in a test it has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
