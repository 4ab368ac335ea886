"""insightface's trainers: their folders, and the obstacles to changing their files."""

import collections
import contextlib
import os
import re

from patcher import modern
from patcher.apply import NEW, OLD
from patcher.blocks import (
    PARTIAL_FC_SHIM,
    TORCH_LINES,
    TORCH_LINES_OF_2021,
    import_lines,
    imports_one_of,
    load_modules,
    load_networks,
    load_torch_modules,
    names_networks,
    network_lines,
    partial_fc_lines,
    record_lines,
    torch_configs,
)
from patcher.source import (
    BEGIN,
    Refusal,
    Source,
    default_place,
    edict_name,
    get_model_place,
    imports_place,
    networks_place,
    read,
    sha,
    star_import,
)

Host = collections.namedtuple('Host', 'folder scripts configs partial_fc')

SCRIPTS, CONFIGS = ('train.py', 'train_parall.py'), ('sample_config.py', 'config.py', 'config/__init__.py')
# Every place where insightface has had an MXNet trainer since 2019.
HOSTS = (
    Host('recognition', SCRIPTS, CONFIGS, False),
    Host('recognition/ArcFace', SCRIPTS, CONFIGS, False),
    Host('recognition/SubCenter-ArcFace', SCRIPTS, CONFIGS, False),
    Host('recognition/arcface_mxnet', SCRIPTS, CONFIGS, False),
    Host('recognition/subcenter_arcface', SCRIPTS, CONFIGS, False),
    Host('recognition/partial_fc', ('train_memory.py',), ('default.py',), True),
    Host('recognition/partial_fc/mxnet', ('train_memory.py',), ('default.py',), True),
)
TORCH_HOST = Host('recognition/arcface_torch', ('backbones/__init__.py',), (), False)


class Trainer:
    """A trainer folder of the checkout: its files, and the obstacles to changing them."""

    def __init__(self, checkout, host):
        self.checkout, self.host = checkout, host
        self.folder = os.path.join(checkout.root, *host.folder.split('/'))
        self.scripts = self._existing(host.scripts)
        self.configs = self._existing(host.configs)
        self.symbol = checkout.inside(self._symbol_folder())
        self.mends = []  # paths of other files that get a block
        self.is_there = bool(self.scripts and self.configs)
        self.places = (self.symbol, self.folder)  # to which files are copied

    @property
    def files(self):
        """The paths of the files that get a block."""
        return self.scripts + self.configs + self.mends

    def is_in(self, folder):
        """Return whether a path (absolute, in the checkout, or the end of one) names this trainer."""
        root = self.checkout.root
        inside = os.sep + os.path.relpath(self.folder, root)
        return self.folder in map(os.path.realpath, (folder, os.path.join(root, folder))) or (
            folder != '' and inside.endswith(os.sep + os.path.normpath(folder))
        )

    def _existing(self, names):
        paths = [os.path.join(self.folder, *name.split('/')) for name in names]
        return [self.checkout.inside(path) for path in paths if os.path.lexists(path)]

    def _symbol_folder(self):
        symbol = os.path.join(self.folder, 'symbol')
        shared = os.path.join(os.path.dirname(self.folder), 'symbol')
        return shared if not os.path.isdir(symbol) and os.path.isdir(shared) else symbol

    def paths_of(self, recorded):
        """Return the possible paths of the copied file with a recorded name."""
        if '/' in recorded:
            return [os.path.join(self.folder, *recorded.split('/'))]
        return [os.path.join(folder, recorded) for folder in self.places]

    def copies(self):
        """Return {path: bytes} of the files that are copied for this trainer."""
        files = {os.path.join(self.symbol, name): content for name, content in self.checkout.modules.items()}
        if self.host.partial_fc:
            files[os.path.join(self.folder, 'config.py')] = PARTIAL_FC_SHIM
        return files

    def host_modules(self):
        """Return the names of insightface's own modules in the symbol folder."""
        own = {name[:-3] for name in self.checkout.modules}
        found = os.listdir(self.symbol) if os.path.isdir(self.symbol) else []
        return {name[:-3] for name in found if name.endswith('.py') and name[0] != '_'} - own | {'fresnet'}

    def block_of(self, source):
        """Return (lines of the block, place) that belong into a script or config."""
        networks, has_place = self.checkout.networks, source.block is not None
        if source.path in self.scripts:
            lines = import_lines(networks, self.copied(), self.host.partial_fc)
            return lines, None if has_place else imports_place(source, self.host_modules())
        if self.host.partial_fc:
            return partial_fc_lines(networks), None if has_place else default_place(source)
        if not has_place and os.path.basename(source.path) == '__init__.py':
            raise Refusal(
                '%s: a config that is a package is not supported; add the networks by hand (docs/insightface.md)'
                % source.path
            )
        place = None if has_place else networks_place(source)
        return network_lines(networks, edict_name(source)), place

    def copied(self):
        """Return {path: bytes} of the copied files that --revert removes: the ones that did not exist before."""
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
        """Return the place of the first line that would precede the block and needs it, or None.

        `first` and `last` are the numbers of lines before the first and the last line that the block replaces. In a
        config, the block would undo a line before the first that sets a network.
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
    """arcface_torch: its one script is the package of its backbones, and every config is a file."""

    def __init__(self, checkout, host):
        super().__init__(checkout, host)
        self.is_there = bool(self.scripts)
        configs = os.path.join(self.folder, 'configs')
        self.has_configs = os.path.isfile(os.path.join(configs, 'base.py'))
        self.places = (self.symbol, checkout.inside(configs))
        self.stand_in = {}  # {path: bytes} of the stand-in for MXNet, where it is wanted

    def _symbol_folder(self):
        return os.path.join(self.folder, 'backbones', 'crunet')

    def modernise(self, wanted):
        """Find the files that need changed lines on today's Python, if `wanted` or done before."""
        content = {path: self.checkout.read(path) for path in modern.files_of(self.folder, modern.MENDED)}
        has_block = [path for path in content if BEGIN.encode() in content[path]]
        recorded = any('/' in name for name, _ in self.checkout.records(self))
        if wanted:
            modern.check(self.folder)
        if not (wanted or recorded or has_block):
            return
        for name, copied in modern.stand_in().items():
            self.stand_in[os.path.join(self.folder, *name.split('/'))] = copied
        for path in content:
            source = Source(path, content[path])
            if source.block or modern.mend(source):
                self.mends.append(path)
                self.checkout.sources[path] = source

    def copies(self):
        """Return {path: bytes} of the files that are copied."""
        crunet, configs = self.places
        files = {os.path.join(crunet, name): content for name, content in self.checkout.torch_modules.items()}
        if self.has_configs:
            own = torch_configs(self.checkout.networks)
            files.update({os.path.join(configs, name): content for name, content in own.items()})
        files.update(self.stand_in)
        return files

    def block_of(self, source):
        """Return (lines of the block, place)."""
        if source.path in self.mends:
            return modern.mend(source) or ([], 0)
        code, place = self._code(source)
        return record_lines(self.copied(), self._recorded_name) + code, place

    def _recorded_name(self, path):
        """Return the recorded name of a copied file: its file name or, for the stand-in, its relative path."""
        if path in self.stand_in:
            return os.path.relpath(path, self.folder).replace(os.sep, '/')
        return os.path.basename(path)

    @staticmethod
    def _code(source):
        place, indentation, names = get_model_place(source)
        if names is None:
            return list(TORCH_LINES_OF_2021), place
        name, others = names
        return [indentation + line.format(name=name, others=others) for line in TORCH_LINES], place

    def without_own(self, source):
        """Return (Source without the lines of the block that were written by hand, their span, or None)."""
        if source.path in self.mends:
            return source, None
        code, _ = self._code(source)
        for place in range(len(source.bare) - len(code) + 1):
            if source.bare[place : place + len(code)] == code:
                kept = source.lines[:place] + source.lines[place + len(code) :]
                return Source(source.path, ''.join(kept).encode('utf-8')), (place, place)
        return source, None

    def collision(self, source):
        """Return the line outside the block that already takes the networks in, or None."""
        if source.path in self.mends:
            return None
        return source.outside_block(r'\s*(from|import)\s+(\S+\s+import\s+)?[\w.]*\bcrunet\b')

    def uses_ours(self, source, first, last):
        """Return None: only lines inside the block use the networks."""


class Checkout:
    """An insightface checkout with its trainers."""

    def __init__(self, root, only=None, without_mxnet=False):
        """Read the checkout in the folder `root`; `only` is the folder of the one trainer to change, or None.

        `without_mxnet` puts the stand-in for MXNet into arcface_torch; an existing one stays.
        """
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
            trainer.configs = self.with_networks(trainer.configs)
            if isinstance(trainer, TorchTrainer):
                trainer.modernise(without_mxnet)
        self.others = [trainer for trainer in self.trainers if only is not None and not trainer.is_in(only)]
        self.trainers = [trainer for trainer in self.trainers if trainer not in self.others]
        if not self.trainers:
            raise Refusal(
                '--trainer %s: the checkout has no such trainer; choose from %s'
                % (only, ', '.join(os.path.relpath(trainer.folder, root) for trainer in self.others))
            )

    def with_networks(self, configs):
        """Return the configs, except any that star-imports another config's block, as 1.0 allowed."""
        sources = [self.sources[path] for path in configs]
        if not any(source.block for source in sources):
            return configs
        return [source.path for source in sources if source.block or not star_import(source)]

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
        return {
            checksum
            for trainer in self.trainers + self.others
            for recorded, checksum in self.records(trainer)
            if path in trainer.paths_of(recorded)
        }

    def copy_state(self, path, content):
        """Return whether a copied file is 'missing', 'current', 'outdated' (ours, of before) or 'foreign'."""
        if not os.path.lexists(path):
            return 'missing'
        there = self.read(self.inside(path))
        if there == content:
            return 'current'
        return 'outdated' if sha(there) in self.recorded(path) else 'foreign'

    def was_there(self, path, content):
        """Return whether an identical file that the patch did not write is at `path`, and --adopt is off."""
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
            shipped = set(trainer.copies())
            for name, checksum in self.records(trainer):
                paths = trainer.paths_of(name)
                for path in paths:
                    if not shipped.intersection(paths) and os.path.lexists(path):
                        found.setdefault(self.inside(path), set()).add(checksum)
        for trainer in self.others:  # whose blocks import it still
            for name, _ in self.records(trainer):
                for path in trainer.paths_of(name):
                    found.pop(os.path.realpath(path), None)
        return found

    def records(self, trainer):
        """Return the (name, checksum) of the copied files that the blocks in a trainer's scripts record."""
        blocks = [self.sources[script].block for script in trainer.scripts] + self.unfinished(trainer)
        return [
            pair
            for block in blocks
            if block
            for pair in re.findall(r'(?m)^# ([\w/]+\.py) ([0-9a-f]{16})$', '\n'.join(block.lines))
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
        """Return the paths of copied files that the block of a trainer outside --trainer needs."""
        return {
            path
            for trainer in self.others
            for path in trainer.copies()
            if any(self.sources[script].block for script in trainer.scripts)
        }

    def bring_along(self):
        """Extend --trainer to the trainers that have a block and share copied files with the chosen ones.

        Their blocks record the copied files, so an update must include all of them.
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
