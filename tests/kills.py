"""A kill at a change of a file's name: in a fork of this process, which has the imports behind it."""

import contextlib
import io
import itertools
import os
import signal
import sys
import traceback

from helpers import PATIENCE

CHANGES = ['replace', 'rename', 'link', 'symlink', 'remove', 'unlink', 'mkdir', 'rmdir']  # of os


def killed(at, function, *arguments):
    """Call a function in a fork that is killed at its change number `at` of a name; return whether it came so far.

    A function that raises fails the test; SystemExit(0) ends it well, and what it prints is lost.
    """
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(PATIENCE)
            numbers = itertools.count()
            for name in CHANGES:
                setattr(os, name, dying(getattr(os, name), at, numbers))
            with contextlib.redirect_stdout(io.StringIO()):
                function(*arguments)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status if isinstance(status, int) else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), f'{function} with {arguments}, killed at {at}, ended with {code}'
    return code != 0


def dying(function, at, numbers):
    """Return a function of os that kills its process if it is the call number `at`."""

    def run(*arguments, **options):
        if next(numbers) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return run
