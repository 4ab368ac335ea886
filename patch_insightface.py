#!/usr/bin/env python3
"""Install the networks of this project in an insightface checkout, or remove them.

    python patch_insightface.py ~/insightface              # install, or bring an old install up to date
    python patch_insightface.py ~/insightface --dry-run    # show what would change, write nothing
    python patch_insightface.py ~/insightface --status     # what is there, trainer by trainer
    python patch_insightface.py ~/insightface --revert     # remove them

For every MXNet trainer of the checkout it copies the builder modules into the trainer's symbol folder and adds
two kinds of marked block: imports in the training scripts, networks in the configs. The PyTorch trainer,
arcface_torch, gets a folder `backbones/crunet`, a block in `get_model` of `backbones/__init__.py` and a file of
`configs` for each network. The patch runs no code of the checkout, and changes all files or none.

Needs only Python 3.6 or newer and the files in this folder.
"""

import argparse
import io
import os
import signal
import sys

from patcher.apply import BACKUP, alone_in, apply, is_unfinished, remove_scratch, undo
from patcher.hosts import Checkout, TorchTrainer
from patcher.modern import real_mxnet
from patcher.plan import plan_install, plan_revert, remove_empty_folders
from patcher.report import (
    print_changes,
    print_configs_left,
    print_diff,
    print_leftovers,
    print_next_step,
    status,
    versions,
)
from patcher.source import VERSION, Refusal


def parse_args(argv):
    parser = argparse.ArgumentParser(
        prog='patch_insightface.py',
        description='Put CRU-Net, Residual Attention Network and iResNet into an '
        'insightface checkout (python train.py --network cru116), or remove them.',
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
        help='show the state of every trainer; exit 1 unless all are installed and up to date',
    )
    what.add_argument('--revert', action='store_true', help='remove the networks')
    parser.add_argument('--dry-run', action='store_true', help='print the changes as a unified diff, write nothing')
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace anything edited or not ours; keep a backup FILE%s next to it' % BACKUP,
    )
    parser.add_argument(
        '--adopt',
        action='store_true',
        help='replace identical lines added by hand with the marked blocks; keep a backup',
    )
    parser.add_argument(
        '--without-mxnet',
        action='store_true',
        help='let arcface_torch run on Python 3.13: add a stand-in for MXNet, and blocks for the lines that current '
        'PyTorch, numpy, scipy and pip reject; later runs update both, --revert removes both',
    )
    parser.add_argument(
        '--trainer',
        dest='only',
        metavar='FOLDER',
        help='change only this trainer, by its folder or the end of it, as arcface_torch (an install also updates '
        'trainers that have the networks and share its symbol folder)',
    )
    parser.add_argument('--only', help=argparse.SUPPRESS)  # as --trainer was called before
    args = parser.parse_args(argv)
    if args.status and (args.dry_run or args.force or args.adopt):
        parser.error('--status changes nothing; leave out --dry-run, --force and --adopt')
    if args.revert and args.adopt:
        parser.error('--revert removes what --adopt takes over; pass only one')
    if args.without_mxnet and (args.revert or args.status):
        parser.error('--without-mxnet belongs to an install; leave out --revert and --status')
    return args


def main(argv=None):
    """Do what the command line says; return the exit status."""
    args = parse_args(argv)
    root = find_root(args.path)
    if args.status or args.dry_run:
        if is_unfinished(root):
            raise Refusal(
                'an earlier run was stopped among its changes to %s; run the patch again, which undoes it' % root
            )
        return work(args, root)
    with alone_in(root):
        if is_unfinished(root):
            left = undo(root)
            if is_unfinished(root):
                raise Refusal('; '.join(left))
            print('\n'.join(['An earlier run was stopped among its changes: they were undone.'] + left))
        return work(args, root)


def work(args, root):
    """Run `args` on the checkout in the folder `root`; return the exit status."""
    checkout = Checkout(root, args.only, args.without_mxnet)
    if args.without_mxnet:
        check_without_mxnet(checkout, args.force)
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
        sys.stdout.flush()  # a closed pipe ends the run here, before the first write
    folders = {os.path.dirname(path) for path in list(checkout.copies()) + list(checkout.sources)}
    remove_scratch(sorted(folders) + [os.path.join(root, 'recognition')])
    apply(changes, root)
    if args.revert:
        remove_empty_folders(checkout)
        print('Reverted: %d files.' % len(changes) if changes else 'Nothing to revert in %s.' % checkout.root)
        print_leftovers(checkout)
        print_configs_left(checkout)
    else:
        print('Done: %d files.' % len(changes) if changes else 'Nothing to change: %s is up to date.' % checkout.root)
        print_next_step(checkout)
    return 0


def check_without_mxnet(checkout, force):
    """Raise Refusal if there is no arcface_torch, or if this Python has MXNet and `force` is not set."""
    if not any(isinstance(trainer, TorchTrainer) for trainer in checkout.trainers):
        raise Refusal('--without-mxnet is for recognition/arcface_torch, which is not among the trainers')
    there = real_mxnet(checkout.root)
    if there and not force:
        raise Refusal(
            'this Python has MXNet, in %s, which the stand-in would hide from arcface_torch; leave out '
            '--without-mxnet, run the patch with the Python that trains, or use --force' % os.path.dirname(there)
        )


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


def program(argv=None):
    """Run `main`; return the exit status: 2, with one sentence, for an error that you can fix."""
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
        if problem.filename is None:  # only writing to stdout raises without a name
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
        discard(sys.stderr)  # else Python would try again at its end, and change the exit status


def write_anything():
    """Print ? for characters that the terminal lacks, and discard the output to a closed stream."""
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
    """Discard the pending and later output to a stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end(*_):
    raise KeyboardInterrupt  # SIGTERM ends as Ctrl-C does


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, end)
    sys.exit(program())
