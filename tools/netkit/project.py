"""Where the project's folders are, and how a program starts."""

import importlib.util
import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def find_builders():
    """Put the folders of the modules that are imported by bare name (builders, config, PyTorch) on the path."""
    for folder in (os.path.join(ROOT, 'symbols'), os.path.join(ROOT, 'backbones'), ROOT):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def start(needed=('mxnet', 'numpy', 'tqdm')):
    """Prepare a program, before it imports anything large: find the builders, and name a package that is missing.

    Until `cli.run`, Ctrl-C ends the process at once: all it does is import, which takes seconds.
    """
    find_builders()
    main = os.path.abspath(getattr(sys.modules['__main__'], '__file__', None) or '')
    if os.path.dirname(main) != os.path.join(ROOT, 'tools'):
        return  # the program is imported by another, as by a test
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell has background jobs ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    need(*needed)


def need(*packages):
    """End the process with a sentence where this Python has not all of some packages."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f'{os.path.basename(sys.argv[0])}: this Python has no {missing[0]}; run "make demo" once, then '
            '". .venv/bin/activate", or run .venv/bin/python instead of python\n'
        )
        sys.exit(2)
