"""Refusals: errors that the user can correct, each one sentence."""
import contextlib


class UserError(Exception):
    """Something the user can put right; the text is the sentence to show."""


@contextlib.contextmanager
def refusals(sentence):
    """Turn what MXNet refuses in the block into a UserError: `sentence`, and MXNet's reason."""
    try:
        with contextlib.redirect_stdout(None):  # MXNet prints what it also raises
            yield
    except RuntimeError as error:  # an MXNetError, or what simple_bind makes of one
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError('{}: {}'.format(sentence, next((line for line in lines if 'Error in operator' in line), lines[0])))
