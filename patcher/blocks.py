"""The additions to insightface: the lines of the blocks, and the copied files."""

import ast
import os
import re
import runpy

from patcher.source import Refusal, parse, read, sha

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The package crunet without what registers it in timm.
TORCH_MODULES = ('__init__', 'alignment', 'identifiers', 'layers', 'nodes', 'symbol_module', 'symbol_torch')


def load_networks():
    """Return the table of networks."""
    path = os.path.join(HERE, 'config', 'networks.py')
    try:
        return runpy.run_path(path)['NETWORKS']
    except Exception as error:  # it is a program, and the user may be editing it
        raise Refusal('%s has no table of networks: %s' % (path, error))


def load_modules(networks):
    """Return {file name: bytes} of the builder modules and of what they import from next to them."""
    modules, wanted = {}, sorted({row['net_name'] for row in networks.values()})
    while wanted:
        name = wanted.pop()
        path = os.path.join(HERE, 'symbols', name + '.py')
        if name + '.py' in modules or not os.path.isfile(path):
            continue
        content = read(path)
        modules[name + '.py'] = content
        tree = parse(content.decode('utf-8', 'replace'))
        if tree is None:
            raise Refusal('%s is not a Python module' % path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted.append(node.module)
            elif isinstance(node, ast.Import):
                wanted.extend(alias.name for alias in node.names)
    for name, row in networks.items():
        if row['net_name'] + '.py' not in modules:
            raise Refusal(
                'the network %s needs %s, which does not exist'
                % (name, os.path.join(HERE, 'symbols', row['net_name'] + '.py'))
            )
    return modules


def load_torch_modules(modules):
    """Return {file name: bytes} of the PyTorch trainer's files: the builders, their readers, and the table."""
    own = [('backbones', 'crunet', name + '.py') for name in TORCH_MODULES]
    paths = [os.path.join(HERE, *part) for part in [*own, ('config', 'networks.py')]]
    for path in paths:
        if not os.path.isfile(path):
            raise Refusal('%s does not exist' % path)
    return dict(modules, **{os.path.basename(path): read(path) for path in paths})


def record_lines(copies, name_of=os.path.basename):
    """Return the lines of a block that keep the checksums of the files copied for it, {path: bytes}."""
    return sorted('# %s %s' % (name_of(path), sha(content)) for path, content in copies.items())


def import_lines(networks, copies, partial_fc):
    """Return the lines of the block in a training script. They keep the checksums of the files copied for it."""
    lines = record_lines(copies)
    if partial_fc:
        lines += [
            'import os',
            'import sys',
            "sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'symbol'))",
        ]
    return lines + ['import %s' % name for name in sorted({row['net_name'] for row in networks.values()})]


def network_lines(networks, edict):
    """Return the networks in insightface's own style; `edict` is what it calls EasyDict."""
    lines = []
    for name, row in networks.items():
        lines += ['', 'network.%s = %s()' % (name, edict)]
        lines += ['network.%s.%s = %r' % (name, key, row[key]) for key in row]
    return lines[1:]


def partial_fc_lines(networks):
    """Return the block for partial_fc's default.py, whose generate_config is a chain of elif.

    Its names differ: `embedding_size`, `image_size` and `batch_size`. Its learning rates and steps go by data
    set and stay as they are.
    """
    own = ('lr', 'lr_steps', 'wd')
    lines = ['_crunet_networks = {']
    lines += [
        '    %r: %r,' % (name, {key: row[key] for key in row if key not in own}) for name, row in networks.items()
    ]
    return lines + [
        '}',
        '_crunet_host_generate_config = generate_config',
        '',
        '',
        'def generate_config(loss_name, dataset, network):',
        '    _crunet_host_generate_config(loss_name, dataset, network)',
        '    if network in _crunet_networks:',
        '        config.emb_size = config.embedding_size',
        '        config.image_shape = (config.image_size, config.image_size, 3)',
        '        for key, value in _crunet_networks[network].items():',
        '            config[key] = value',
        '        config.embedding_size = config.emb_size',
        '        config.batch_size = config.per_batch_size',
    ]


PARTIAL_FC_SHIM = b"""# The networks of the CRU-Net plug-in look for the config under this name.
from default import config  # noqa: F401
"""

# At the top of get_model; the names are those of its parameters.
TORCH_LINES = (
    'from .crunet import symbol_torch',
    'if symbol_torch.is_known({name}):',
    '    return symbol_torch.get_model({name}, **{others})',
)
# Before May 2021 there was no get_model: the trainer looked for a function of the network's name in the package.
TORCH_LINES_OF_2021 = ('from .crunet import symbol_torch', 'globals().update(symbol_torch.functions())')

TORCH_CONFIG = """\
# {network} on MS1M-ArcFace, written by patch_insightface.py. The next run replaces this file: edit a copy.
from easydict import EasyDict as edict

config = edict()
# Settings may follow the name: '{network}:memonger=True' keeps a third of the feature maps or less, in longer steps;
# '{network}:dropout=0.0' (0.4 otherwise); '{network}:pretrained=model.pt' starts from these weights.
config.network = '{network}'
config.embedding_size = 512{published}
config.margin_list = (1.0, 0.5, 0.0)
config.loss = 'arcface'  # where there is no margin_list yet
config.sample_rate = 1.0
config.interclass_filtering_threshold = 0

config.fp16 = True
config.batch_size = {batch}  # on each of 8 GPUs: up to 17 GB for feature maps and their gradients
config.optimizer = 'sgd'
config.lr = {lr}
config.momentum = 0.9
config.weight_decay = 5e-4
config.num_epoch = 20
config.warmup_epoch = 0

config.rec = '/train_tmp/faces_emore'
config.num_classes = 85742
config.num_image = 5822653
config.val_targets = ['lfw', 'cfp_fp', 'agedb_30']
config.dali = False
config.verbose = 2000
config.resume = False
config.output = None  # work_dirs/ and the name of this file
"""


def torch_configs(networks):
    """Return {file name: bytes} of the configs for arcface_torch, one for each face network."""
    found = {}
    for name, row in networks.items():
        if name.endswith('_imagenet'):
            continue
        size = row.get('emb_size', 512)
        # insightface's other programs, torch2onnx.py and inference.py, support only 512.
        published = '' if size == 512 else '  # the published training had %d' % size
        text = TORCH_CONFIG.format(network=name, published=published, batch=row['per_batch_size'], lr=row['lr'])
        found['ms1mv2_%s.py' % name] = text.encode('utf-8')
    return found


def imports_one_of(modules):
    """Return the pattern of a line that imports one of these modules."""
    names = '|'.join(map(re.escape, modules))
    return r'\s*(import\s+(.*[\s,])?(%s)\b|from\s+(%s)\s+import\b)' % (names, names)


def names_networks(networks):
    """Return the pattern of a line that sets, or adds to, one of these networks."""
    names = '|'.join(map(re.escape, networks))
    return r'\s*network(\.(%s)\b|\[\s*[\'"](%s)[\'"])' % (names, names)


def networks_in(block):
    """Return the names of the networks that a block adds to a config."""
    found = re.findall(r"(?m)^(?:network\.(\w+) = |    '(\w+)': \{)", '\n'.join(block.lines if block else ()))
    return {name or in_partial_fc for name, in_partial_fc in found}
