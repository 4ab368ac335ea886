"""Lays out a miniature insightface, from `template/`, in the folders that it has had over the years."""

import os
import shutil

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'template')

# Trainer folder: (its trainers, its symbol folder), relative to the checkout; contract: "The layouts".
LAYOUTS = {
    'A': {'recognition': (['train.py', 'train_parall.py'], 'recognition/symbol')},
    "A'": {
        'recognition/ArcFace': (['train.py', 'train_parall.py'], 'recognition/ArcFace/symbol'),
        'recognition/SubCenter-ArcFace': (['train_parall.py'], 'recognition/SubCenter-ArcFace/symbol'),
    },
    'B': {
        'recognition/ArcFace': (['train.py', 'train_parall.py'], 'recognition/symbol'),
        'recognition/SubCenter-ArcFace': (['train_parall.py'], 'recognition/symbol'),
    },
    'C': {
        'recognition/arcface_mxnet': (['train.py', 'train_parall.py'], 'recognition/arcface_mxnet/symbol'),
        'recognition/subcenter_arcface': (['train_parall.py'], 'recognition/subcenter_arcface/symbol'),
    },
}


def lay_out(root, layout):
    """Write the miniature checkout `layout` into the folder `root`; return its trainer folders."""
    for trainer, (scripts, symbol) in LAYOUTS[layout].items():
        folder, symbol = os.path.join(root, trainer), os.path.join(root, symbol)
        os.makedirs(folder)
        os.makedirs(symbol, exist_ok=True)
        shutil.copy(os.path.join(TEMPLATE, 'fmini.py'), symbol)
        shutil.copy(os.path.join(TEMPLATE, 'sample_config.py'), folder)
        with open(os.path.join(TEMPLATE, 'train.py')) as file:
            text = file.read().replace('SYMBOL_FOLDER', os.path.relpath(symbol, folder))
        for script in scripts:
            with open(os.path.join(folder, script), 'w') as file:
                file.write(text)
    return [os.path.join(root, trainer) for trainer in LAYOUTS[layout]]


def lay_out_partial_fc(root):
    """Write a miniature partial_fc into the checkout `root`; return its folder."""
    folder = os.path.join(root, 'recognition', 'partial_fc', 'mxnet')
    os.makedirs(os.path.join(folder, 'symbol'))
    for name in ('default.py', 'train_memory.py'):
        shutil.copy(os.path.join(TEMPLATE, name), folder)
    shutil.copy(os.path.join(TEMPLATE, 'mini.py'), os.path.join(folder, 'symbol'))
    open(os.path.join(folder, 'symbol', '__init__.py'), 'w').close()
    return folder


def symbol_folder(trainer):
    """Return the symbol folder of a trainer folder: its own or the shared one next to it."""
    own = os.path.join(trainer, 'symbol')
    return own if os.path.isdir(own) else os.path.join(os.path.dirname(trainer), 'symbol')


def lay_out_torch(root):
    """Write a miniature arcface_torch into the checkout `root`; return its folder."""
    folder = os.path.join(root, 'recognition', 'arcface_torch')
    shutil.copytree(os.path.join(os.path.dirname(TEMPLATE), 'arcface_torch'), folder)
    return folder
