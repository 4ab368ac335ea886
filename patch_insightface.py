#!/usr/bin/env python3
"""Put the networks of this project into an insightface checkout, or take them out again.

    python patch_insightface.py ~/insightface              # install, or bring an old install up to date
    python patch_insightface.py ~/insightface --dry-run    # show what would change, write nothing
    python patch_insightface.py ~/insightface --status     # what is there, trainer by trainer
    python patch_insightface.py ~/insightface --revert     # out again

For every MXNet trainer of the checkout it copies the builder modules into the trainer's symbol folder and adds
two kinds of marked block: imports in the training scripts, network choices in the configs. The PyTorch trainer,
arcface_torch, gets a folder `backbones/crunet`, a block in `get_model` of `backbones/__init__.py` and a file of
`configs` for each network. Nothing of the checkout is run, and either all files change or none.

Needs nothing but Python 3.6 or newer and the files beside it. Sections: the hosts, what to put in, finding the
places, plan, run, report, top level.
"""

import signal

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports, Ctrl-C ends it without more ado

import argparse
import ast
import collections
import contextlib
import difflib
import hashlib
import io
import os
import re
import runpy
import stat
import sys
import warnings

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

HERE = os.path.dirname(os.path.abspath(__file__))

# ------------------------------------------------------------------------------------------------- the hosts

Host = collections.namedtuple('Host', 'folder scripts configs partial_fc')

_SCRIPTS, _CONFIGS = ('train.py', 'train_parall.py'), ('sample_config.py', 'config.py', 'config/__init__.py')
# Every place where insightface has had an MXNet trainer since 2019.
HOSTS = (
    Host('recognition', _SCRIPTS, _CONFIGS, False),
    Host('recognition/ArcFace', _SCRIPTS, _CONFIGS, False),
    Host('recognition/SubCenter-ArcFace', _SCRIPTS, _CONFIGS, False),
    Host('recognition/arcface_mxnet', _SCRIPTS, _CONFIGS, False),
    Host('recognition/subcenter_arcface', _SCRIPTS, _CONFIGS, False),
    Host('recognition/partial_fc', ('train_memory.py',), ('default.py',), True),
    Host('recognition/partial_fc/mxnet', ('train_memory.py',), ('default.py',), True),
)
TORCH_HOST = Host('recognition/arcface_torch', ('backbones/__init__.py',), (), False)

VERSION = '1.0.0'  # CHANGELOG.md
BEGIN, END = '# >>> CRU-Net plug-in >>>', '# <<< CRU-Net plug-in <<<'
BACKUP, NEW, OLD = '.before-crunet', '.crunet-new', '.crunet-old'


class Refusal(Exception):
    """Why nothing was done: one sentence for the user."""


# -------------------------------------------------------------------------------------------- what to put in


def sha(content):
    return hashlib.sha256(content).hexdigest()[:16]


def load_networks():
    """Return the table of network choices."""
    path = os.path.join(HERE, 'config', 'networks.py')
    try:
        return runpy.run_path(path)['NETWORKS']
    except Exception as error:  # it is a program, and somebody may be at work on it
        raise Refusal('%s has no table of networks: %s' % (path, error))


def load_modules(networks):
    """Return {file name: bytes} of the builder modules and of what they import from beside them."""
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
                'the network %s wants %s, which is not there'
                % (name, os.path.join(HERE, 'symbols', row['net_name'] + '.py'))
            )
    return modules


def load_torch_modules(modules):
    """Return {file name: bytes} of what the PyTorch trainer needs: the builders, what reads them, and the table."""
    parts = ('backbones', 'identifiers.py'), ('backbones', 'symbol_torch.py'), ('config', 'networks.py')
    paths = [os.path.join(HERE, *part) for part in parts]
    for path in paths:
        if not os.path.isfile(path):
            raise Refusal('%s is not there' % path)
    return dict(modules, **{os.path.basename(path): read(path) for path in paths})


def record_lines(copies):
    """Return the lines of a block that keep the checksums of the files copied for it, {path: bytes}."""
    return sorted('# %s %s' % (os.path.basename(path), sha(content)) for path, content in copies.items())


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
    """Return the network choices in the host's own style; `edict` is what it calls EasyDict."""
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
# {network} on MS1M-ArcFace, put here by patch_insightface.py, which replaces it when it is run again: edit a copy.
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
        # The host's other programs, torch2onnx.py and inference.py, know no other size.
        published = '' if size == 512 else '  # the published training had %d' % size
        text = TORCH_CONFIG.format(network=name, published=published, batch=row['per_batch_size'], lr=row['lr'])
        found['ms1mv2_%s.py' % name] = text.encode('utf-8')
    return found


# ---------------------------------------------------------------------------------------- finding the places

# lines[start:end] of the file, without markers; the version that wrote it, '' for one of before there were any
Block = collections.namedtuple('Block', 'start end lines intact version')


def read(path):
    with open(path, 'rb') as file:
        return file.read()


class Source:
    """A Python file of the host, as bytes and lines; nothing of it is ever printed anew."""

    def __init__(self, path, content):
        self.path, self.content = path, content
        try:
            text = content.decode('utf-8')
        except UnicodeDecodeError as error:
            raise Refusal(
                '%s:%d is not UTF-8; convert the file first' % (path, content.count(b'\n', 0, error.start) + 1)
            )
        self.lines = re.findall(r'[^\n]*\n|[^\n]+', text)  # with their ends; form feeds are not line ends
        self.bare = [line.rstrip('\r\n') for line in self.lines]
        self.eol = '\r\n' if self.lines and self.lines[0].endswith('\r\n') else '\n'
        for number, line in enumerate(self.bare, 1):
            if re.match(r'(<<<<<<<|>>>>>>>)( |$)', line):
                raise Refusal('%s:%d has an unresolved merge conflict; resolve it first' % (path, number))
        self.block = self._find_block()
        self.tree = parse(text)

    def _find_block(self):
        starts = [i for i, line in enumerate(self.bare) if line.startswith(BEGIN)]
        ends = [i for i, line in enumerate(self.bare) if line.startswith(END)]
        if not starts and not ends:
            return None
        if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
            raise Refusal(
                '%s:%d has markers of the plug-in that do not form one block; remove them by hand'
                % (self.path, (starts + ends)[0] + 1)
            )
        lines = self.bare[starts[0] + 1 : ends[0]]
        version = re.match(r'%s ([\d.]+);' % re.escape(BEGIN), self.bare[starts[0]])
        return Block(
            starts[0],
            ends[0] + 1,
            lines,
            self.bare[ends[0]] == END + ' ' + sha('\n'.join(lines).encode()),
            version.group(1) if version else '',
        )

    def without_block(self):
        """Return the lines as they were before the block came."""
        if self.block is None:
            return self.lines
        before, after = self.lines[: self.block.start], self.lines[self.block.end :]
        if not after and before and not self.lines[-1].endswith('\n'):
            # The file had no newline at its end.
            before = before[:-1] + [before[-1][: -len(self.eol)] if before[-1].endswith(self.eol) else before[-1]]
        return before + after

    def without(self, lines):
        """Return the Source without those statements at its top that are, to the letter, in the set `lines`, and how
        many of the lines that stay stand in front of the first and of the last of them (None where it has none)."""
        if self.tree is None:
            out = {index for index, line in enumerate(self.bare) if line in lines}
        else:  # a line of a longer statement, or inside a string, is no statement
            out = {start for _, start, end in self.statements() if end == start + 1 and self.bare[start] in lines}
        kept = [line for index, line in enumerate(self.lines) if index not in out]
        return Source(self.path, ''.join(kept).encode('utf-8')), ((min(out), max(out) + 1 - len(out)) if out else None)

    def with_block(self, lines, at):
        """Return the file's bytes with a block of `lines` where the old one is, else before line `at` (from 0).

        Where a statement is open there, as a text of several lines can be, it comes behind that.
        """
        if self.block is not None:
            return self._with_block_at(lines, self.block.start)
        new = self._with_block_at(lines, at)
        if self.tree is None:
            return new
        block = parse('\n'.join(lines))
        for place in [at] + [start for _, start, _ in self.statements() if start > at] + [len(self.lines)]:
            tree = parse(self._with_block_at(lines, place).decode('utf-8'))
            if tree and block and len(tree.body) == len(self.tree.body) + len(block.body):
                return self._with_block_at(lines, place)
        return new

    def _with_block_at(self, lines, at):
        rest = self.without_block()
        marked = ['%s %s; python patch_insightface.py CHECKOUT --revert takes it out' % (BEGIN, VERSION)] + lines
        marked.append(END + ' ' + sha('\n'.join(lines).encode()))
        added = [line + self.eol for line in marked]
        before, after = rest[:at], rest[at:]
        if before and not before[-1].endswith('\n'):
            before = before[:-1] + [before[-1] + self.eol]
            added[-1] = marked[-1]
        return ''.join(before + added + after).encode('utf-8')

    def statements(self):
        """Yield (node, first line, line behind it), from 0, of every statement at the top of the file.

        Only the first line of a statement is sure under all Python versions; it ends with the last line
        before the next statement that is neither blank nor comment.
        """
        firsts = [
            min([node.lineno] + [decorator.lineno for decorator in getattr(node, 'decorator_list', ())])
            for node in self.tree.body
        ]
        for index, node in enumerate(self.tree.body):
            later = [first for first in firsts[index:] if first > node.lineno]
            end = later[0] - 1 if later else len(self.bare)
            while end > node.lineno and re.match(r'\s*(#|$)', self.bare[end - 1]):
                end -= 1
            yield node, node.lineno - 1, end

    def outside_block(self, pattern):
        """Return the number, from 1, of the first line outside the block that matches; or None."""
        inside = range(self.block.start, self.block.end) if self.block else ()
        for index, line in enumerate(self.bare):
            if index not in inside and re.match(pattern, line):
                return index + 1
        return None

    def last(self, matches_node, pattern):
        """Return the line behind the last top-level statement that matches, outside the block, or None.

        By the code's structure where it parses, else by lines that match `pattern`.
        """
        found = None
        inside = range(self.block.start, self.block.end) if self.block else ()
        if self.tree is not None:
            for node, start, end in self.statements():
                if start not in inside and any(matches_node(part) for part in walk_outside_functions(node)):
                    found = end
            return found
        texts = self._lines_of_texts()
        for index, line in enumerate(self.bare):
            if index not in inside and index not in texts and re.match(pattern, line):
                found = self._end_of_line(index)
        return found

    def _lines_of_texts(self):
        """Return the numbers, from 0, of the lines that begin inside a text of several lines."""
        found, text = set(), '\n'.join(self.bare)
        for match in re.finditer(
            r"#[^\n]*|('{3}|\"{3}).*?\1|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"", text, re.DOTALL
        ):
            first = text.count('\n', 0, match.start())
            found.update(range(first + 1, first + match.group().count('\n') + 1))
        return found

    def _end_of_line(self, index):
        """Return the line behind the logical line that starts at `index`: open brackets and backslashes go on."""
        depth = 0
        for end in range(index, len(self.bare)):
            code = re.sub(r"'[^']*'|\"[^\"]*\"|#.*", '', self.bare[end])
            depth += len(re.findall(r'[(\[{]', code)) - len(re.findall(r'[)\]}]', code))
            if depth <= 0 and not code.endswith('\\'):
                return end + 1
        return index + 1


def parse(text):
    """Return the syntax tree, or None for what this Python cannot parse (Python 2 has its own print)."""
    if re.search('\r(?!\n)', text):
        return None  # Python takes a lone carriage return for a line end, which would shift all line numbers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what it thinks of the host's escape sequences is not our business
            return ast.parse(text.lstrip('\ufeff'))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def walk_outside_functions(node):
    """Yield `node` and what is in it, but not what functions and classes hold: that is not run on import."""
    left = [node]  # and no recursion: a sum of a thousand terms is a thousand nodes deep
    while left:
        node = left.pop()
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, getattr(ast, 'AsyncFunctionDef', ast.FunctionDef))):
            yield node
            left.extend(ast.iter_child_nodes(node))


def imports_place(source, host_modules):
    """Return the line, from 0, at which imports of networks belong: behind the host's own."""
    names = '|'.join(re.escape(name) for name in sorted(host_modules)) or r'\b\B'

    def imports_network(node):
        return isinstance(node, ast.Import) and any(alias.name in host_modules for alias in node.names)

    def appends_symbol_folder(node):
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ('append', 'insert')
            and any('symbol' in text for text in map(constant_text, ast.walk(node)))
        )

    place = source.last(imports_network, r'import\s+(%s)\b' % names)
    if place is None:
        place = source.last(appends_symbol_folder, r'sys\.path\.(append|insert)\(.*symbol')
    if place is None:
        raise Refusal(
            '%s: cannot find where it imports its networks (fresnet or another module of its symbol folder)'
            % source.path
        )
    return place


def constant_text(node):
    """Return the text of a string constant, '' for any other node; its class changed with Python 3.8."""
    value = getattr(node, 'value', None) if type(node).__name__ == 'Constant' else getattr(node, 's', None)
    return value if isinstance(value, str) else ''


def root_name(node):
    """Return the name that a chain of attributes and subscripts starts from."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def networks_place(source):
    """Return the line, from 0, at which network choices belong: behind the last of the host's own."""

    def sets_network(node):
        return isinstance(node, ast.Assign) and any(root_name(target) == 'network' for target in node.targets)

    place = source.last(sets_network, r'network(\.|\[|\s*=)')
    if place is None:
        raise Refusal(
            '%s: cannot find its network choices (lines like network.r100 = edict()); where it takes those of '
            'sample_config.py, write "from sample_config import *" into it, else add the choices by hand '
            '(docs/insightface.md)' % source.path
        )
    return place


def takes_all_of_another(source, folder):
    """Tell whether a config takes its choices from the sample_config.py in the trainer's `folder`."""
    from_there = r'from\s+sample_config\s+import\s*\(?\s*(\*|.*\bnetwork\b)'
    return (
        os.path.isfile(os.path.join(folder, 'sample_config.py'))
        and source.outside_block(from_there) is not None
        and source.outside_block(r'network\s*=') is None
        and source.block is None
    )


def default_place(source):
    """Return the line, from 0, behind partial_fc's generate_config."""
    if source.tree is not None:
        for node, _, end in source.statements():
            if (
                isinstance(node, ast.FunctionDef)
                and node.name == 'generate_config'
                and not (source.block and source.block.start < end <= source.block.end)
            ):
                return end
    raise Refusal('%s: cannot find its generate_config' % source.path)


def get_model_place(source):
    """Return (place, indentation, names of its parameters) of the first statement in arcface_torch's get_model.

    Where the file has none, and names networks as functions, the place is its end, without indentation and names.
    """
    for node in source.tree.body if source.tree is not None else ():
        if is_get_model(node):
            is_text = isinstance(node.body[0], ast.Expr) and constant_text(node.body[0].value)
            body = node.body[bool(is_text) :]
            first = min([part.lineno for part in body[:1]] + [line.lineno for line in decorators(body[:1])], default=0)
            indentation = re.match(r'\s*', source.bare[first - 1]).group()
            if body and len(indentation) == body[0].col_offset > 0:
                while not is_text and re.match(r'\s*(#|$)', source.bare[first - 2]):
                    first -= 1  # in front of comments
                return first - 1, indentation, (node.args.args[0].arg, node.args.kwarg.arg)
    if source.tree is not None and not any('get_model' in line for line in source.bare):
        return len(source.bare), '', None
    raise Refusal(
        '%s: cannot find its get_model(name, **kwargs); add the networks by hand (docs/arcface-torch.md), and name '
        'another trainer with --only' % source.path
    )


def is_get_model(node):
    """Tell whether a statement is `def get_model(name, **kwargs)`."""
    if not isinstance(node, ast.FunctionDef) or node.name != 'get_model':
        return False
    given = node.args
    return len(given.args) == 1 and bool(given.kwarg) and not given.vararg and not given.kwonlyargs


def decorators(nodes):
    """Return the decorators of statements."""
    return [decorator for node in nodes for decorator in getattr(node, 'decorator_list', ())]


def edict_name(source):
    """Return what the config calls EasyDict, by how it makes `network`; 'edict' where it does not make it itself."""
    calls = [
        match.group(1)
        for match in (re.match(r'\s*network\s*(?::[^=]*)?=\s*([\w.]+\(|[^\s\w])', line) for line in source.bare)
        if match
    ]
    if not calls:
        return 'edict'
    name = calls[-1].rstrip('(')
    if name in ('dict', 'collections.OrderedDict', 'OrderedDict') or not re.match(r'[\w.]+$', name):
        raise Refusal(
            '%s: its network choices are no EasyDict (network = edict()), whose entries have names; add the choices '
            'by hand (docs/insightface.md)' % source.path
        )
    return name


# ------------------------------------------------------------------------------------------------------ plan

Change = collections.namedtuple('Change', 'path old new')  # bytes; None where there is no file


class Trainer:
    """A trainer folder of the checkout: its files, and what stands in the way of changing them."""

    def __init__(self, checkout, host):
        self.checkout, self.host = checkout, host
        self.folder = os.path.join(checkout.root, *host.folder.split('/'))
        self.scripts = self._existing(host.scripts)
        self.configs = self._existing(host.configs)
        self.symbol = checkout.inside(self._symbol_folder())
        self.is_there = bool(self.scripts and self.configs)
        self.places = (self.symbol, self.folder)  # to which files are copied

    def _existing(self, names):
        paths = [os.path.join(self.folder, *name.split('/')) for name in names]
        return [self.checkout.inside(path) for path in paths if os.path.lexists(path)]

    def _symbol_folder(self):
        symbol = os.path.join(self.folder, 'symbol')
        shared = os.path.join(os.path.dirname(self.folder), 'symbol')
        return shared if not os.path.isdir(symbol) and os.path.isdir(shared) else symbol

    def copies(self):
        """Return {path: bytes} of the files that are copied for this trainer."""
        files = {os.path.join(self.symbol, name): content for name, content in self.checkout.modules.items()}
        if self.host.partial_fc:
            files[os.path.join(self.folder, 'config.py')] = PARTIAL_FC_SHIM
        return files

    def host_modules(self):
        """Return the names of the host's own modules in the symbol folder."""
        own = {name[:-3] for name in self.checkout.modules}
        found = os.listdir(self.symbol) if os.path.isdir(self.symbol) else []
        return {name[:-3] for name in found if name.endswith('.py') and name[0] != '_'} - own | {'fresnet'}

    def block_of(self, source):
        """Return (lines of the block, place) that belong into a script or config."""
        networks = self.checkout.networks
        if source.path in self.scripts:
            lines = import_lines(networks, self.copied(), self.host.partial_fc)
            return lines, imports_place(source, self.host_modules())
        if self.host.partial_fc:
            return partial_fc_lines(networks), default_place(source)
        return network_lines(networks, edict_name(source)), networks_place(source)

    def copied(self):
        """Return {path: bytes} of the copied files without those that were there before: --revert removes these."""
        return {path: content for path, content in self.copies().items() if not self.checkout.was_there(path, content)}

    def without_own(self, source):
        """Return what `Source.without` does, for the lines of the block that were written by hand instead."""
        lines, _ = self.block_of(source)
        return source.without(
            {line for line in lines if line and not line.startswith('#')} if not self.host.partial_fc else set()
        )

    def collision(self, source):
        """Return the line outside the block that already defines what the block is to define, or None."""
        if source.path in self.scripts:
            return source.outside_block(
                imports_one_of(sorted({row['net_name'] for row in self.checkout.networks.values()}))
            )
        names = '|'.join(map(re.escape, self.checkout.networks))
        return source.outside_block(r'\s*network(\.(%s)|\[\s*[\'"](%s)[\'"]\s*\])\s*=[^=]' % (names, names))

    def uses_ours(self, source, first, last):
        """Return the place of the first line that would stand in front of the block and needs it, or None.

        `first` and `last` tell how many lines stand in front of the first and of the last line that the block takes the
        place of. In a config, what sets a network in front of the first would be undone by the block.
        """
        if source.path in self.scripts:
            begin, pattern = (
                first,
                r'[^#]*\b(%s)\b' % '|'.join({row['net_name'] for row in self.checkout.networks.values()}),
            )
        else:
            begin, pattern = 0, names_networks(self.checkout.networks).replace(r'\s*', r'[^#]*\b', 1)
        return next((place for place in range(begin, last) if re.match(pattern, source.bare[place])), None)


class TorchTrainer(Trainer):
    """arcface_torch: its one script is the package of its backbones, and a config is a file of its own."""

    def __init__(self, checkout, host):
        super().__init__(checkout, host)
        self.is_there = bool(self.scripts)
        configs = os.path.join(self.folder, 'configs')
        self.has_configs = os.path.isfile(os.path.join(configs, 'base.py'))
        self.places = (self.symbol, checkout.inside(configs))

    def _symbol_folder(self):
        return os.path.join(self.folder, 'backbones', 'crunet')

    def copies(self):
        """Return {path: bytes} of the files that are copied."""
        crunet, configs = self.places
        files = {os.path.join(crunet, name): content for name, content in self.checkout.torch_modules.items()}
        if self.has_configs:
            own = torch_configs(self.checkout.networks)
            files.update({os.path.join(configs, name): content for name, content in own.items()})
        return files

    def block_of(self, source):
        """Return (lines of the block, place)."""
        code, place = self._code(source)
        return record_lines(self.copied()) + code, place

    @staticmethod
    def _code(source):
        place, indentation, names = get_model_place(source)
        if names is None:
            return list(TORCH_LINES_OF_2021), place
        name, others = names
        return [indentation + line.format(name=name, others=others) for line in TORCH_LINES], place

    def without_own(self, source):
        """Return (Source without the lines of the block that were written by hand, their span, or None)."""
        code, _ = self._code(source)
        for place in range(len(source.bare) - len(code) + 1):
            if source.bare[place : place + len(code)] == code:
                kept = source.lines[:place] + source.lines[place + len(code) :]
                return Source(source.path, ''.join(kept).encode('utf-8')), (place, place)
        return source, None

    def collision(self, source):
        """Return the line outside the block that already takes the networks in, or None."""
        return source.outside_block(r'\s*(from|import)\s+(\S+\s+import\s+)?[\w.]*\bcrunet\b')

    def uses_ours(self, source, first, last):
        """Tell that nothing does: what uses the networks stands inside the block."""


class Checkout:
    """An insightface checkout with its trainers."""

    def __init__(self, root, only=None):
        """Read the checkout in the folder `root`; `only` is the folder of the one trainer to change, if not of all."""
        self.networks = load_networks()
        self.modules = load_modules(self.networks)
        self.torch_modules = load_torch_modules(self.modules)
        self.root = root
        self.adopts = False  # whether files that were copied by hand are taken over
        found = [Trainer(self, host) for host in HOSTS] + [TorchTrainer(self, TORCH_HOST)]
        self.trainers = [trainer for trainer in found if trainer.is_there]
        if not self.trainers:
            raise Refusal(
                '%s has no trainer; looked for %s with a sample_config.py or config.py, for partial_fc/train_memory.py '
                'and for arcface_torch/backbones/__init__.py'
                % (self.root, ', '.join('%s/train*.py' % host.folder for host in HOSTS if not host.partial_fc))
            )
        self.sources = {}
        for trainer in self.trainers:
            for path in trainer.scripts + trainer.configs:
                self.sources[path] = Source(path, self.read(path))
            trainer.configs = [
                path for path in trainer.configs if not takes_all_of_another(self.sources[path], trainer.folder)
            ]
        chosen = [os.path.realpath(path) for path in (only, os.path.join(root, only))] if only is not None else []
        self.others = [trainer for trainer in self.trainers if only is not None and trainer.folder not in chosen]
        self.trainers = [trainer for trainer in self.trainers if trainer not in self.others]
        if not self.trainers:
            raise Refusal(
                '--only %s is no trainer of the checkout; choose from %s'
                % (only, ', '.join(trainer.folder for trainer in self.others))
            )

    def inside(self, path):
        """Return the real path of `path`; refuse one that a link leads out of the checkout."""
        real = os.path.realpath(path)
        if os.path.relpath(real, self.root).split(os.sep)[0] == os.pardir:
            raise Refusal('%s is a link that leads out of the checkout, to %s; replace it by a copy' % (path, real))
        return real

    def read(self, path):
        try:
            return read(path)
        except OSError as error:
            raise Refusal('%s cannot be read: %s' % (path, error.strerror))

    def recorded(self, path):
        """Return the checksums under which blocks of the checkout record the copied file at `path`."""
        folder, name = os.path.split(path)
        return {
            checksum
            for trainer in self.trainers + self.others
            for recorded, checksum in self.records(trainer)
            if recorded == name and folder in trainer.places
        }

    def copy_state(self, path, content):
        """Tell whether a copied file is 'missing', 'current', 'outdated' (ours, of before) or 'foreign'."""
        if not os.path.lexists(path):
            return 'missing'
        there = self.read(self.inside(path))
        if there == content:
            return 'current'
        return 'outdated' if sha(there) in self.recorded(path) else 'foreign'

    def was_there(self, path, content):
        """Tell whether somebody else has put the same file at `path`, and nobody wants it to be taken over."""
        return not self.adopts and self.copy_state(path, content) == 'current' and not self.recorded(path)

    def imported_by_hand(self):
        """Return the paths of copied files that a script imports outside the block: they belong to the user."""
        return {
            path
            for trainer in self.trainers + self.others
            for script in trainer.scripts
            if trainer.collision(self.sources[script])
            for path in trainer.copies()
        }

    def gone(self):
        """Return {path: recorded checksums} of the copied files, still there, that are no longer shipped."""
        found = {}
        for trainer in self.trainers:
            shipped = set(map(os.path.basename, trainer.copies()))
            for name, checksum in self.records(trainer):
                for path in [os.path.join(folder, name) for folder in trainer.places]:
                    if name not in shipped and os.path.lexists(path):
                        found.setdefault(self.inside(path), set()).add(checksum)
        for trainer in self.others:  # whose blocks import it still
            for name, _ in self.records(trainer):
                for folder in trainer.places:
                    found.pop(os.path.realpath(os.path.join(folder, name)), None)
        return found

    def records(self, trainer):
        """Return the (name, checksum) of the copied files that the blocks in a trainer's scripts record."""
        blocks = [self.sources[script].block for script in trainer.scripts] + self.unfinished(trainer)
        return [
            pair
            for block in blocks
            if block
            for pair in re.findall(r'(?m)^# (\w+\.py) ([0-9a-f]{16})$', '\n'.join(block.lines))
        ]

    def unfinished(self, trainer):
        """Return the blocks in the scratch files of a killed process: what they record may be there."""
        paths = [script + suffix for script in trainer.scripts for suffix in (NEW, OLD)]
        blocks = []
        for path in filter(os.path.isfile, paths):
            with contextlib.suppress(Refusal):  # of which no more than the beginning may be there
                blocks.append(Source(path, self.read(path)).block)
        return blocks

    def needed_by_others(self):
        """Return the paths of copied files that a trainer which --only leaves alone has a block for."""
        return {
            path
            for trainer in self.others
            for path in trainer.copies()
            if any(self.sources[script].block for script in trainer.scripts)
        }

    def bring_along(self):
        """Let --only take in the trainers that have a block and share copied files with those that it names.

        Their blocks record what was copied, so an update has to reach them together.
        """
        changed = set(self.copies())
        along = [
            trainer
            for trainer in self.others
            if changed & set(trainer.copies()) and any(self.sources[script].block for script in trainer.scripts)
        ]
        self.trainers += along
        self.others = [trainer for trainer in self.others if trainer not in along]

    def copies(self):
        """Return {path: bytes} of all files that are copied, shared ones once."""
        return {path: content for trainer in self.trainers for path, content in trainer.copies().items()}


def find_root(path):
    """Return the checkout that `path` is in: the nearest folder upwards that has a folder `recognition`."""
    if not os.path.isdir(path):
        raise Refusal('%s is not a folder' % path)
    folder = real = os.path.realpath(path)
    while not os.path.isdir(os.path.join(folder, 'recognition')):
        if os.path.dirname(folder) == folder:
            raise Refusal(
                '%s is not in an insightface checkout: neither it nor a folder above it has a folder recognition' % real
            )
        folder = os.path.dirname(folder)
    recognition = os.path.realpath(os.path.join(folder, 'recognition'))
    if recognition != os.path.join(folder, 'recognition'):
        raise Refusal(
            '%s is a link, to %s; name the checkout that it leads to'
            % (os.path.join(folder, 'recognition'), recognition)
        )
    return folder


def plan_install(checkout, force, adopt=False):
    """Return the changes that install, or bring up to date; refuse what would overwrite anything of the user's.

    All that is in the way is named at once. With `adopt`, lines written by hand that are those of the block, to the
    letter, are no longer in the way: the block takes their place.
    """
    checkout.adopts = adopt
    checkout.bring_along()
    changes, problems = plan_gone(checkout, force)
    for path, content in sorted(checkout.copies().items()):
        state = checkout.copy_state(path, content)
        if state == 'foreign' and not force:
            problems.append(
                '%s is not what this plug-in put there; move it away, or use --force to replace it and keep '
                'a backup' % path
            )
        if state != 'current':
            old = None if state == 'missing' else checkout.read(path)
            if state == 'foreign':
                changes.append(Change(free_backup(path), None, old))
            changes.append(Change(path, old, content))
    for trainer in checkout.trainers:
        for path in trainer.scripts + trainer.configs:
            try:
                changes += plan_block(checkout, trainer, checkout.sources[path], force, adopt)
            except InTheWay as problem:
                problems.append(str(problem))
    if problems:
        raise Refusal('; '.join(problems))
    return unique(changes)


class InTheWay(Exception):
    """What has to go from a file before the plug-in can come: a sentence."""


def plan_block(checkout, trainer, there, force, adopt):
    """Return the changes that give one script or config of a trainer its block; raises InTheWay."""
    lines, place = trainer.block_of(there)
    source, span = trainer.without_own(there) if adopt and there.block is None else (there, None)
    if span:
        place = span[1]  # what uses these lines stands behind them
        used = trainer.uses_ours(source, *span)
        if used is not None:
            raise InTheWay(
                '%s:%d sets or uses one of the networks between the lines that were added by hand; take the line '
                'out, and write it below the block afterwards' % (source.path, there.bare.index(source.bare[used]) + 1)
            )
    line = trainer.collision(source)
    if line and not force:
        raise InTheWay(
            '%s:%d already has something of that name; remove the line%s, or use --force to add the plug-in all '
            'the same'
            % (source.path, trainer.collision(there), '' if adopt else ', use --adopt if it was added by hand')
        )
    is_edited = source.block is not None and not source.block.intact
    if is_edited and not force:
        raise InTheWay(
            '%s:%d: the block of the plug-in was edited; move the edits below the block, or use --force to '
            'replace it and keep a backup' % (source.path, source.block.start + 1)
        )
    new = source.with_block(lines, place)
    check_compiles(there, new)
    if new == there.content:
        return []
    keeps_backup = line or span or is_edited
    return [Change(free_backup(source.path), None, there.content)] * bool(keeps_backup) + [
        Change(source.path, there.content, new)
    ]


def plan_gone(checkout, force):
    """Return the changes that remove copied files which are no longer shipped, and what is in the way, in sentences."""
    changes, problems = [], []
    for path, recorded in sorted(checkout.gone().items()):
        there = checkout.read(path)
        name = os.path.basename(path)[: -len('.py')]
        for source in checkout.sources.values():
            line = source.outside_block(imports_one_of([name]))
            if line:
                problems.append(
                    '%s:%d imports %s, which is no longer shipped; remove the line first' % (source.path, line, name)
                )
        if sha(there) not in recorded:
            if not force:
                problems.append(
                    '%s is no longer shipped, and was edited after it was copied; move it away, or use --force '
                    'to take it out and keep a backup' % path
                )
            changes.append(Change(free_backup(path), None, there))
        changes.append(Change(path, there, None))
    for source in checkout.sources.values():
        for name in sorted(networks_in(source.block) - set(checkout.networks)):
            line = source.outside_block(names_networks([name]))
            if line:
                problems.append(
                    '%s:%d names the network %s, which is no longer shipped; remove the line first'
                    % (source.path, line, name)
                )
    return changes, problems


def imports_one_of(modules):
    """Return the pattern of a line that imports one of these modules."""
    names = '|'.join(map(re.escape, modules))
    return r'\s*(import\s+(.*[\s,])?(%s)\b|from\s+(%s)\s+import\b)' % (names, names)


def names_networks(networks):
    """Return the pattern of a line that sets, or adds to, one of these networks."""
    names = '|'.join(map(re.escape, networks))
    return r'\s*network(\.(%s)\b|\[\s*[\'"](%s)[\'"])' % (names, names)


def networks_in(block):
    """Return the names of the network choices that a block adds to a config."""
    found = re.findall(r"(?m)^(?:network\.(\w+) = |    '(\w+)': \{)", '\n'.join(block.lines if block else ()))
    return {name or in_partial_fc for name, in_partial_fc in found}


def plan_revert(checkout, force):
    """Return the changes that take the plug-in out. Copied files go only if they are what was copied."""
    changes, problems = plan_gone(checkout, force)
    kept = checkout.imported_by_hand() | checkout.needed_by_others()
    for path, content in sorted(checkout.copies().items()):
        state = checkout.copy_state(path, content)
        if state == 'missing' or path in kept or os.path.islink(path):
            continue
        if not checkout.recorded(path):
            continue  # it was there before, or somebody put it there by hand
        if state == 'foreign':
            if not force:
                problems.append(
                    '%s was edited after it was copied; move it away, or use --force to take it out and '
                    'keep a backup' % path
                )
            changes.append(Change(free_backup(path), None, checkout.read(path)))
        changes.append(Change(path, checkout.read(path), None))
    for trainer in checkout.trainers:
        for source in map(checkout.sources.get, trainer.scripts + trainer.configs):
            if source.block is None:
                continue
            if not source.block.intact:
                if not force:
                    problems.append(
                        '%s:%d: the block of the plug-in was edited; move the edits out of it, or use --force '
                        'to take it out and keep a backup' % (source.path, source.block.start + 1)
                    )
                changes.append(Change(free_backup(source.path), None, source.content))
            changes.append(Change(source.path, source.content, ''.join(source.without_block()).encode('utf-8')))
    if problems:
        raise Refusal('; '.join(problems))
    return unique(changes)


def unique(changes):
    """Drop repetitions: a shared symbol folder is planned for once for every trainer."""
    return list(collections.OrderedDict((change.path, change) for change in changes).values())


def backed_up(path):
    """Return the path of the file of which `path` is a backup, or `path` itself if it is none."""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.split(BACKUP)[0])


def free_backup(path):
    """Return a name beside `path` that is not taken."""
    name, number = path + BACKUP, 1
    while os.path.lexists(name):
        number += 1
        name = '%s%s%d' % (path, BACKUP, number)
    return name


def check_compiles(source, new):
    """Refuse a result that this Python cannot compile although it could compile what was there before."""
    problem = compile_error(new, source.path)
    if problem is not None and compile_error(source.content, source.path) is None:
        raise Refusal(
            '%s would not compile with the block in it (line %s: %s); please report this'
            % (source.path, getattr(problem, 'lineno', '?'), problem)
        )


def compile_error(content, path):
    """Return what keeps this Python from compiling a file's bytes, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            compile(content, path, 'exec', dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------------- run


def run(changes, folders):
    """Make all `changes` or none.

    Everything is first written beside its target, new contents and old ones; after that there are only
    renames. Where one fails, or Ctrl-C comes between, what was done is taken back. A process killed among them
    leaves some files changed and some not, each of them whole: the next install or revert finishes the work.
    `folders` are those where such a process can have left its scratch files.
    """
    for folder in folders:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name.endswith((NEW, OLD)):
                os.remove(os.path.join(folder, name))
    with signals_wait() as let_them_in:
        make(changes, let_them_in)


def make(changes, let_them_in):
    """Make all `changes` or none; `let_them_in` is called between them and raises for a signal that has come."""
    folders, begun = [], []
    try:
        for change in changes:
            let_them_in()
            folder = os.path.dirname(change.path)
            if not os.path.isdir(folder):
                os.makedirs(folder)
                folders.append(folder)
            if change.new is not None:
                write(change.path + NEW, change.new, like=backed_up(change.path))
            if change.old is not None:
                write(change.path + OLD, change.old, like=change.path)
        for change in changes:
            let_them_in()
            if not is_as_before(change):
                raise Refusal(
                    '%s was changed by somebody else in the meantime; nothing was changed, try again' % change.path
                )
            begun.append(change)
            if change.new is None:
                os.remove(change.path)
            else:
                os.replace(change.path + NEW, change.path)
        for change in changes:
            sync_folder(os.path.dirname(change.path))
    except BaseException as error:
        kept = roll_back(begun)
        left = clean_up(changes, folders)
        nothing = 'nothing was changed' + ('; remove these: %s' % ', '.join(left) if left else '')
        if kept:
            raise Refusal(
                '%s, and not all could be taken back: %s'
                % (
                    why(error),
                    '; '.join(
                        '%s is changed%s' % (path, backup and ', what it was is in %s' % backup)
                        for path, backup in kept
                    ),
                )
            )
        if isinstance(error, OSError):
            raise Refusal('%s; %s' % (why(error), nothing))
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(nothing)
        raise
    clean_up(changes)


@contextlib.contextmanager
def signals_wait():
    """Let SIGINT, SIGTERM and SIGHUP wait in the block: none comes between what belongs together, however many there
    are.

    Gives a function that raises KeyboardInterrupt where one has come. One that comes behind its last call does nothing
    more: what it would have stopped is done.
    """
    came, before = [], {}

    def let_them_in():
        if came:
            raise KeyboardInterrupt

    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            with contextlib.suppress(ValueError):  # signals are the main thread's
                before[number] = signal.signal(number, lambda *_: came.append(True))
    try:
        yield let_them_in
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def why(error):
    """Return what stopped the changes."""
    if isinstance(error, OSError):
        path = getattr(error, 'filename2', None) or error.filename or 'a file'  # of a rename, what it was to become
        return '%s: %s' % (re.sub('(%s|%s)$' % (re.escape(NEW), re.escape(OLD)), '', str(path)), error.strerror)
    if isinstance(error, Refusal):
        return str(error).split('; nothing was changed')[0]
    return 'interrupted' if isinstance(error, KeyboardInterrupt) else repr(error)


def roll_back(changes):
    """Give every file of `changes` its old content; return those that cannot have it, as (path, name of a copy of it).

    One that somebody else has changed by now keeps what it has.
    """
    kept = []
    for change in reversed(changes):
        try:
            if is_as_before(change):
                continue
            if not is_as_after(change):
                raise OSError('changed by somebody else')
            if change.old is None:
                os.remove(change.path)
            else:
                os.replace(change.path + OLD, change.path)
        except OSError:
            backup = ''
            if change.old is not None:
                with contextlib.suppress(OSError):
                    name = free_backup(change.path)
                    os.rename(change.path + OLD, name)
                    backup = name
            kept.append((change.path, backup))
    return kept[::-1]


def is_as_before(change):
    if change.old is None:
        return not os.path.lexists(change.path)
    return os.path.isfile(change.path) and read(change.path) == change.old


def is_as_after(change):
    if change.new is None:
        return not os.path.lexists(change.path)
    return os.path.isfile(change.path) and read(change.path) == change.new


def clean_up(changes, folders=()):
    """Remove what was written beside the targets, and new folders that are empty; return what could not be removed."""
    left = []
    for path in [change.path + suffix for change in changes for suffix in (NEW, OLD)]:
        try:
            remove(path)
        except OSError:
            left.append(path)
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return left


@contextlib.contextmanager
def alone_in(root):
    """Hold the checkout, so that no other of these programs changes it at the same time; refuse where one does."""
    try:
        handle = os.open(root, os.O_RDONLY)
    except OSError:  # not every system opens folders, and not every user may list this one
        handle = None
    if fcntl is None or handle is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal('another patch_insightface.py is at work in %s; wait until it has ended' % root)
        except OSError:
            pass  # a file system that has no locks
        yield
    finally:
        os.close(handle)


def write(path, content, like):
    """Write a file, synced, with mode, owner and attributes of the file `like`, or those of its folder."""
    try:
        with open(path, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or path
        raise
    is_new = not os.path.exists(like)
    status = os.stat(os.path.dirname(like) if is_new else like)
    mode = stat.S_IMODE(status.st_mode) & (0o666 if is_new else 0o7777)
    if hasattr(os, 'chown'):
        # Group and owner one by one: whoever may not give a file away may still give it to a group of their own.
        own = os.stat(path)
        for is_other, owner in (
            (status.st_gid != own.st_gid, (-1, status.st_gid)),
            (status.st_uid != own.st_uid, (status.st_uid, -1)),
        ):
            with contextlib.suppress(OSError):  # someone else's file, or of nobody that a container knows
                if is_other:
                    os.chown(path, *owner)
    os.chmod(path, mode)
    if not is_new and hasattr(os, 'listxattr'):
        with contextlib.suppress(OSError):  # not every file system has them
            for name in os.listxattr(like):
                os.setxattr(path, name, os.getxattr(like, name))


def remove(path):
    if os.path.lexists(path):  # a folder that is mounted to be read only refuses to remove what is not there
        os.remove(path)


def sync_folder(path):
    """Have the renames in a folder on disk; not every system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def remove_empty_symbol_folders(checkout):
    """Remove a symbol folder that is left empty: git keeps no empty folders, so it came with the plug-in.

    One with nothing but what Python has compiled of the copied files is empty, too.
    """
    for trainer in checkout.trainers:
        compiled = os.path.join(trainer.symbol, '__pycache__')
        with contextlib.suppress(OSError):
            if os.listdir(trainer.symbol) == ['__pycache__']:
                own = {os.path.basename(path)[: -len('py')] for path in trainer.copies()}
                for name in os.listdir(compiled):
                    if name.endswith('.pyc') and name.split('.')[0] + '.' in own:
                        os.remove(os.path.join(compiled, name))
                os.rmdir(compiled)
            os.rmdir(trainer.symbol)


# ---------------------------------------------------------------------------------------------------- report


def print_leftovers(checkout):
    """Point out lines of the user's that need what was taken out, and copies that no block records."""
    for path, content in sorted(checkout.copies().items()):
        if os.path.isfile(path) and path not in checkout.needed_by_others() and read(path) == content:
            print(
                'Note: %s stays: no block says that it was put there by this program.'
                % os.path.relpath(path, checkout.root)
            )
    for path, source in checkout.sources.items():
        line = source.outside_block(names_networks(checkout.networks))
        took_ours = source.block or any(
            path not in trainer.configs and os.path.dirname(path) == trainer.folder for trainer in checkout.trainers
        )  # from sample_config
        if took_ours and line:
            print(
                'Note: %s:%d still names one of the networks; remove the line, or the file will not load.'
                % (os.path.relpath(path, checkout.root), line)
            )


def kind(change):
    if change.old is None:
        return 'keep a backup as' if backed_up(change.path) != change.path else 'add'
    return 'remove' if change.new is None else 'change'


def print_changes(title, changes, root):
    print(title)
    for change in changes:
        print('  %-8s %s' % (kind(change), os.path.relpath(change.path, root)))


def print_diff(changes, root):
    for change in changes:
        name = os.path.relpath(change.path, root).replace(os.sep, '/')
        old, new = [
            re.findall(r'[^\n]*\n|[^\n]+', (content or b'').decode('utf-8', 'replace'))
            for content in (change.old, change.new)
        ]
        for line in difflib.unified_diff(
            old,
            new,
            '/dev/null' if change.old is None else 'a/' + name,
            '/dev/null' if change.new is None else 'b/' + name,
        ):
            sys.stdout.write(line if line.endswith('\n') else line + '\n\\ No newline at end of file\n')


def print_next_step(checkout):
    print('\nTo train:')
    for trainer in checkout.trainers:
        script = os.path.basename(trainer.scripts[0])
        print('  cd %s' % quoted(trainer.folder))
        if isinstance(trainer, TorchTrainer):
            print_torch_commands(trainer)
            continue
        if trainer.host.partial_fc:
            print(
                '  horovodrun -np 8 -H localhost:8 python -u %s --network cru116 --loss arcface --dataset emore'
                % script
            )
            continue
        if not any(os.path.exists(os.path.join(trainer.folder, name)) for name in _CONFIGS[1:]):
            print('  cp sample_config.py config.py    # and set the path of your data set in it')
        print(
            "  CUDA_VISIBLE_DEVICES='0,1,2,3,4,5,6,7' python -u %s --network cru116 --loss arcface --dataset emore"
            % script
        )


def print_torch_commands(trainer):
    """Print the commands that train with arcface_torch, by what this version of it has."""
    what = 'configs/my_cru116.py' if trainer.has_configs else '--network cru116'
    if trainer.has_configs:
        print('  cp configs/ms1mv2_cru116.py %s    # and set the path of your data set in it' % what)
    if os.path.isfile(os.path.join(trainer.folder, 'train_v2.py')):
        print('  torchrun --nproc_per_node=8 train_v2.py %s' % what)
    else:
        print('  python -m torch.distributed.launch --nproc_per_node=8 train.py %s' % what)


def quoted(path):
    return path if re.match(r'[\w./~+-]+$', path) else "'%s'" % path.replace("'", "'\\''")


def status(checkout):
    """Return {trainer: 'installed', 'outdated', 'modified', 'by hand' or 'not installed'}."""
    result = collections.OrderedDict()
    for trainer in checkout.trainers:
        sources = [checkout.sources[path] for path in trainer.scripts + trainer.configs]
        copies = [checkout.copy_state(path, content) for path, content in trainer.copies().items()]
        blocks = [source.block for source in sources]
        if not any(blocks):  # copied files by themselves do nothing
            state = 'by hand' if any(map(trainer.collision, sources)) else 'not installed'
        elif 'foreign' in copies or any(block and not block.intact for block in blocks):
            state = 'modified'
        elif set(copies) == {'current'} and all(
            source.block and source.block.lines == trainer.block_of(source)[0] for source in sources
        ):
            state = 'installed'
        else:
            state = 'outdated'
        result[trainer] = state
    return result


def versions(checkout, trainer):
    """Return which versions of this program wrote a trainer's blocks, in brackets, or '' if there are none."""
    blocks = [checkout.sources[path].block for path in trainer.scripts + trainer.configs]
    found = sorted({block.version or 'before 1.0' for block in blocks if block})
    return '  (%s)' % ', '.join(found) if found else ''


# ------------------------------------------------------------------------------------------------- top level


def parse_args(argv):
    parser = argparse.ArgumentParser(
        prog='patch_insightface.py',
        description='Put CRU-Net, Residual Attention Network and iResNet into an '
        'insightface checkout (python train.py --network cru116), or take them out again.',
        epilog='To change a setting of a network, write a line below the block in config.py, as '
        '"network.cru116.per_batch_size = 40", or "network.cru116.memonger = False" for faster steps that take four '
        'times the memory.',
    )
    parser.add_argument('--version', action='version', version='%(prog)s ' + VERSION)
    parser.add_argument('path', help='the checkout, or any folder in it')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--status',
        action='store_true',
        help='say what is there, for every trainer; exit 1 unless all are installed and up to date',
    )
    what.add_argument('--revert', action='store_true', help='take the networks out again')
    parser.add_argument('--dry-run', action='store_true', help='print the changes as a unified diff, write nothing')
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace what was edited or is not ours, keeping a backup FILE%s beside it' % BACKUP,
    )
    parser.add_argument(
        '--adopt',
        action='store_true',
        help='put the marked blocks in the place of the same lines, added by hand, keeping a backup',
    )
    parser.add_argument(
        '--only',
        metavar='FOLDER',
        help='only the trainer in this folder (an install also reaches those that have the '
        'networks and share its symbol folder)',
    )
    args = parser.parse_args(argv)
    if args.status and (args.dry_run or args.force or args.adopt):
        parser.error('--status changes nothing; leave out --dry-run, --force and --adopt')
    if args.revert and args.adopt:
        parser.error('--revert takes out what --adopt takes over; name one of them')
    return args


def main(argv=None):
    """Do what the command line says; return the exit status."""
    args = parse_args(argv)
    root = find_root(args.path)
    if args.status or args.dry_run:
        return work(args, root)
    with alone_in(root):
        return work(args, root)


def work(args, root):
    """Do what `args` say to the checkout in the folder `root`; return the exit status."""
    checkout = Checkout(root, args.only)
    if args.status:
        states = status(checkout)
        for trainer, state in states.items():
            print('%-14s %s%s' % (state, os.path.relpath(trainer.folder, checkout.root), versions(checkout, trainer)))
        return 0 if set(states.values()) == {'installed'} else 1

    changes = plan_revert(checkout, args.force) if args.revert else plan_install(checkout, args.force, args.adopt)
    if args.dry_run:
        print_diff(changes, checkout.root)
        if not changes:
            print('Nothing would change in %s.' % checkout.root)
        return 0
    if changes:
        print_changes('Plan, in %s:' % checkout.root, changes, checkout.root)
        sys.stdout.flush()  # a reader who has gone ends it here, before the first write
    run(changes, sorted({os.path.dirname(path) for path in list(checkout.copies()) + list(checkout.sources)}))
    if args.revert:
        remove_empty_symbol_folders(checkout)
        print('Taken out: %d files.' % len(changes) if changes else 'Nothing to take out of %s.' % checkout.root)
        print_leftovers(checkout)
    else:
        print('Done: %d files.' % len(changes) if changes else 'Nothing to change: %s is up to date.' % checkout.root)
        print_next_step(checkout)
    return 0


def program(argv=None):
    """Run `main`; return the exit status: 2, with one sentence, for what the user can put right."""
    write_anything()
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except Refusal as refusal:
        tell(str(refusal))
        return 2
    except KeyboardInterrupt as interrupt:
        tell('; '.join(('interrupted',) + interrupt.args))
        return 130
    except BrokenPipeError:  # the reader of the output, head perhaps, has seen enough
        discard(sys.stdout)
        return 1
    except OSError as problem:
        if problem.filename is None:  # nothing else here writes where it has no name for
            discard(sys.stdout)
        where = problem.filename or 'what this program prints cannot be written (--status tells what it has done)'
        tell('%s: %s' % (where, problem.strerror))
        return 2


def tell(sentence):
    """Print a sentence to standard error, if that can be written."""
    try:
        sys.stderr.write('patch_insightface.py: %s\n' % sentence)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)  # else Python would try again at its end, and exit with a status of its own


def write_anything():
    """Let what the terminal has no letters for become ?, and what nobody is there to read go nowhere."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, 'w'))
        elif hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')
        elif hasattr(stream, 'buffer'):  # Python 3.6
            setattr(
                sys, name, io.TextIOWrapper(stream.buffer, stream.encoding, 'replace', line_buffering=name == 'stderr')
            )


def discard(stream):
    """Let what is still to be printed to a stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end(*_):
    raise KeyboardInterrupt  # SIGTERM ends as Ctrl-C does


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(program())
