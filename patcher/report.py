"""Printed output: the state of a checkout, the changes, and the commands to train."""

import collections
import difflib
import glob
import os
import re
import sys

from patcher.apply import backed_up
from patcher.blocks import names_networks
from patcher.hosts import CONFIGS, TorchTrainer
from patcher.source import Source, read

NAMES_NETWORK = rb"""(?m)^[ \t]*config\.network[ \t]*=[ \t]*['"]([\w.]+)"""


def print_leftovers(checkout):
    """Point out the user's lines that need a removed network, and copies that no block records."""
    for path, content in sorted(checkout.copies().items()):
        if os.path.isfile(path) and path not in checkout.needed_by_others() and read(path) == content:
            print(
                'Note: %s stays: no block says that it was put there by this program.'
                % os.path.relpath(path, checkout.root)
            )
    for path, source in checkout.sources.items():
        took_ours = source.block or any(
            path not in trainer.configs and os.path.dirname(path) == trainer.folder for trainer in checkout.trainers
        )  # from sample_config
        if not took_ours or not source.outside_block(names_networks(checkout.networks)):
            continue
        line = Source(path, read(path)).outside_block(names_networks(checkout.networks))  # as the file is now
        if line:
            print(
                'Note: %s:%d still names one of the networks; remove the line, or the file will not load.'
                % (os.path.relpath(path, checkout.root), line)
            )


def print_configs_left(checkout):
    """Point out the user's arcface_torch configs that name a removed network."""
    for trainer in checkout.trainers:
        if os.path.isdir(trainer.symbol):  # put in by hand, it stays
            continue
        for path in sorted(glob.glob(os.path.join(glob.escape(trainer.folder), 'configs', '*.py'))):
            names = re.findall(NAMES_NETWORK, read(path)) if os.path.isfile(path) else []
            if names and names[-1].decode() in checkout.networks:
                print(
                    'Note: %s uses %s, which this trainer no longer has.'
                    % (os.path.relpath(path, checkout.root), names[-1].decode())
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
        if not any(os.path.exists(os.path.join(trainer.folder, name)) for name in CONFIGS[1:]):
            print('  cp sample_config.py config.py    # and set the path of your data set in it')
        print(
            "  CUDA_VISIBLE_DEVICES='0,1,2,3,4,5,6,7' python -u %s --network cru116 --loss arcface --dataset emore"
            % script
        )


def print_torch_commands(trainer):
    """Print the commands that train with this version of arcface_torch."""
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
        sources = [checkout.sources[path] for path in trainer.files]
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
    blocks = [checkout.sources[path].block for path in trainer.files]
    found = sorted({block.version or 'before 1.0' for block in blocks if block})
    return '  (%s)' % ', '.join(found) if found else ''
