"""One-sentence errors that the user can correct."""

import contextlib


class UserError(Exception):
    """An error that the user can correct; show its message."""


def reason(error):
    """Return the line of an exception's message that says what is wrong; MXNet's messages contain whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for mark in ('Error in operator', 'MXNetError:'):
        for line in lines:
            if mark in line:
                return line
    return next((line for line in lines if not line.startswith(('Traceback', 'File '))), lines[0])


def last_line(text, status):
    """Return the reason of a failed program: the last line of its standard error, or its exit status."""
    return (text.strip().splitlines() or [f'exit code {status}'])[-1].strip()


@contextlib.contextmanager
def refusals(sentence):
    """Turn an error of MXNet in the block into a UserError: `sentence`, and MXNet's reason."""
    try:
        with contextlib.redirect_stdout(None):  # MXNet prints the error that it raises
            yield
    except RuntimeError as error:  # an MXNetError, or what simple_bind makes of one
        raise UserError(f'{sentence}: {reason(error)}')
