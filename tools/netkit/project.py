"""Find the project's folders and prepare a program."""

import importlib.metadata
import importlib.util
import os
import re
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def find_builders():
    """Put the folders of the modules that are imported by bare name (builders, config, PyTorch) on the path."""
    for folder in (os.path.join(ROOT, 'symbols'), os.path.join(ROOT, 'backbones'), ROOT):
        if folder not in sys.path:
            sys.path.insert(0, folder)


# What every program that computes imports, {module: package}.
NEEDED = {name: name for name in ('mxnet', 'numpy', 'easydict', 'tqdm', 'rich')}
NEEDED['PIL'] = 'pillow'
BREAKS_MXNET, WORKS = (1, 24), '1.23.5'  # versions of numpy: the first without the names that MXNet 1.9.1 uses


def start(needed=tuple(NEEDED)):
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
    """End the process with a sentence if a package is missing; for --help, print the program's description first."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        if {'-h', '--help'} & set(sys.argv[1:]):
            print(sys.modules['__main__'].__doc__)
        end(no_package(missing[0]))
    if 'mxnet' in packages:
        check_numpy()


def no_package(module):
    """Return the sentence on a module that this Python does not have."""
    if module in ('torch', 'timm', 'torchvision'):
        return f"this Python has no {module}; run python -m pip install '.[timm]' torchvision tqdm in {ROOT}"
    return (
        f'this Python has no {NEEDED.get(module, module)}; run "make demo" once, then ". .venv/bin/activate", or run '
        '.venv/bin/python instead of python'
    )


def check_numpy():
    """End the process with a sentence where MXNet does not start with this Python's numpy, MXNet's best known error."""
    version = importlib.metadata.version('numpy')
    if tuple(map(int, re.findall(r'\d+', version)[:2])) >= BREAKS_MXNET:
        try:
            importlib.import_module('netkit._mxnet')  # some have mended their MXNet
        except AttributeError:
            end(
                f'MXNet 1.9.1 does not start with numpy {version}; run {sys.executable} -m pip install numpy=={WORKS} '
                '(Python 3.8 to 3.11)'
            )


def end(sentence):
    """End the process with a sentence and exit code 2."""
    sys.stderr.write(f'{os.path.basename(sys.argv[0])}: {sentence}\n')
    sys.exit(2)
