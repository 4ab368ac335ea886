"""What the programs in tools/ are made of.

    errors, files, cli, report      refusals; safe writing; arguments and the way a program ends; tables
    networks, published             from a network choice to its symbol; the published figures
    graph/                          symbols as nodes: names, units, counts, planned memory
    params_file, checkpoints        files of weights
    targets, summaries              what a program is asked to look at, and what there is to tell about it
    deploy/                         plain and folded graphs, ONNX, comparison
    data/                           faces, drawn and read; pictures; records
    evaluation/                     verification of faces, error on ImageNet, embeddings
    training/                       tasks, trainer, loop, losses, state, log, checkpoints that are kept
    drawing/, bench/                pictures; times and plans
    gpu/                            what is true on a GPU, in PyTorch, onnxruntime and MXNet

Imports go one way, `tests/test_house.py` says which. This file puts the project's folders on `sys.path`; `_mxnet` sets
the environment variables that MXNet reads and imports it; nothing else does either.
"""

import importlib.util
import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WITHOUT_MXNET = (
    'check_gpu.py',
    'check_gpu_install.py',
    'gpu_env.py',
    'launch_local.py',
)  # programs that need nothing but Python

for _folder in (os.path.join(ROOT, 'symbols'), os.path.join(ROOT, 'backbones'), ROOT):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)


def _prepare(folder, program):
    """Before a program in tools/ imports anything large: let Ctrl-C end it, and name a package that is missing."""
    if folder != os.path.join(ROOT, 'tools'):
        return
    # Until `cli.run` handles it, Ctrl-C ends the process at once: all it has done is import, which takes seconds.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell has background jobs ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    missing = [name for name in ('mxnet', 'numpy', 'tqdm') if importlib.util.find_spec(name) is None]
    if missing and program not in WITHOUT_MXNET:
        sys.stderr.write(
            f'{program}: this Python has no {missing[0]}; run "make demo" once, then '
            '". .venv/bin/activate", or run .venv/bin/python instead of python\n'
        )
        sys.exit(2)


_prepare(*os.path.split(os.path.abspath(getattr(sys.modules['__main__'], '__file__', ''))))
