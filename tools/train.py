"""Train a network on synthetic faces, or on a data set in insightface's format.

Saves OUTPUT/NETWORK-symbol.json and OUTPUT/NETWORK-0001.params, cut at the embedding, and evaluates these files on the
verification sets (.bin) of the data set. Several devices (--devices), or processes (--kvstore dist_sync with
tools/launch_local.py), share the images of a step. To train the ImageNet networks, use tools/train_imagenet.py.

LENGTH is a number of steps (2000) or epochs (1.5e).
"""

import argparse
import os
import sys

from netkit.project import start

start()

from netkit import report
from netkit.cli import Parser, folder_name, multiplier, number, run, whole_number
from netkit.data.augment import Augmentation
from netkit.networks import FACE_NETWORKS, LOSSES, parse
from netkit.training import options
from netkit.training.keeping import ALL, BEST, ONE
from netkit.training.run import run_training
from netkit.training.schedule import length, lengths

KVSTORES = ('local', 'device', 'nccl', 'dist_sync', 'dist_sync_device')
JOB = ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER')
SETTLED = 50  # steps until the first values of moving statistics weigh less than a hundredth, at a momentum of 0.9
STEPS = 100
# Options with a separate field in options.Run.
OF_RUN = 'steps', 'epochs', 'per_batch_size', 'devices', 'kvstore', 'pretrained', 'seed'


def add_what(parser):
    """Add the options for the network and the data."""
    group = parser.add_argument_group('network and data')
    group.add_argument(
        '--network', default='cru56', help=f'{", ".join(FACE_NETWORKS)}; with settings as in ires50:net_origin=release'
    )
    group.add_argument(
        '--multiplier',
        type=multiplier,
        default=1.0,
        help="width of the network relative to the paper's (net_multiplier)",
    )
    group.add_argument('--dataset', help=argparse.SUPPRESS)  # of earlier versions, which also trained on ImageNet
    group.add_argument(
        '--data', type=folder_name, help='folder of the data set (default: synthetic faces in OUTPUT/data)'
    )
    group.add_argument('--loss', default='arcface', help=f'{", ".join(LOSSES)}')
    group.add_argument(
        '-o', '--output', type=folder_name, default='out/train', help='folder of the run: checkpoints, train.log'
    )
    group.add_argument(
        '--pretrained',
        metavar='PREFIX,EPOCH',
        help='start from the weights of this checkpoint whose names and shapes fit',
    )
    group.add_argument('--seed', type=whole_number(0, 2**32 - 1), default=0, help='of all random numbers')


def add_how_long(parser):
    """Add the options for steps and learning rate."""
    group = parser.add_argument_group('length and learning rate')
    either = group.add_mutually_exclusive_group()
    either.add_argument('--steps', type=whole_number(1), default=STEPS, help='training steps')
    either.add_argument('--epochs', type=number(1e-6, 1e6), help='instead of --steps: passes over the data set')
    group.add_argument('--per-batch-size', type=whole_number(1), default=32, help='images per device and step')
    group.add_argument('--lr', type=number(1e-30, 1000), default=0.1, help='learning rate')
    group.add_argument(
        '--lr-steps',
        type=lengths,
        metavar='LENGTH,LENGTH…',
        help='divide it by 10 after each of these (default: after 70%% and 90%% of the steps)',
    )
    group.add_argument(
        '--warmup',
        type=length,
        metavar='LENGTH',
        default=options.Length(0, False),
        help='raise the learning rate from 0 during this LENGTH',
    )
    group.add_argument('--mom', type=number(0, 1), help="momentum (default: the network's)")
    group.add_argument('--wd', type=number(0, 1), help="weight decay (default: the network's)")


def add_images(parser):
    """Add the options for augmentation."""
    group = parser.add_argument_group('images', 'The trainer always mirrors half of the images.')
    group.add_argument(
        '--crop',
        type=number(0.1, 1),
        default=1.0,
        help='enlarge a random crop with at least this share of the sides; published: 0.9',
    )
    group.add_argument(
        '--data-color',
        type=number(0, 1),
        default=0.0,
        help='change brightness, contrast and saturation by up to this share; published: 0.1',
    )
    group.add_argument(
        '--cutoff', type=whole_number(0, 4096), default=0, help='cover half of the faces by a grey square of this side'
    )
    group.add_argument(
        '--readers',
        type=whole_number(0, 1024),
        default=0,
        help='processes that decode images ahead; 0: the main process decodes them',
    )
    group.add_argument(
        '--on-bad-record',
        choices=('stop', 'skip'),
        default='stop',
        help='stop at a record that cannot be read, or skip it',
    )


def add_measuring(parser):
    """Add the options for checkpoints and their evaluation."""
    group = parser.add_argument_group('checkpoints')
    group.add_argument(
        '--verbose',
        type=length,
        metavar='LENGTH',
        help='write and evaluate a checkpoint every LENGTH and at the end (default: at the end)',
    )
    group.add_argument(
        '--ckpt',
        type=int,
        choices=(BEST, ALL, ONE),
        default=ONE,
        help='keep 1: the best so far and the last; 2: all; 3: one, 0001',
    )
    group.add_argument(
        '--sets',
        type=lambda text: text.split(','),
        metavar='NAME,NAME…',
        help='verification sets to evaluate on (default: all .bin files of the data set)',
    )
    group.add_argument('--no-verification', action='store_true', help='do not evaluate')
    group.add_argument(
        '--resume',
        action='store_true',
        help='resume from the last state in OUTPUT, if any. Options that affect the result must be unchanged; --steps '
        'or --epochs may be larger (the learning rate then drops later). Without --resume, an older state is deleted',
    )
    group.add_argument(
        '--state-every',
        type=whole_number(0),
        default=1000,
        metavar='STEPS',
        help='write the state of the run, for --resume, every N steps; 0: never',
    )


def add_devices(parser):
    """Add the options for where and how to compute."""
    group = parser.add_argument_group('devices')
    group.add_argument(
        '--devices',
        type=whole_number(1, 1024),
        default=1,
        help='number of GPUs, or of CPU contexts on a machine without a GPU',
    )
    group.add_argument(
        '--kvstore',
        choices=KVSTORES,
        help='sum gradients on the CPU, on the GPUs, by NCCL, or over several processes or machines (default: device '
        'on GPUs, else local)',
    )
    group.add_argument('--fp16', action='store_true', help='compute the trunk in float16 (on GPUs)')
    group.add_argument(
        '--loss-scale',
        type=number(1e-6, 1e38),
        help='factor on the gradients until they are applied (default: 128 with --fp16, else 1)',
    )
    group.add_argument(
        '--memonger',
        choices=('on', 'off'),
        help='gradient checkpointing: a quarter of the memory, longer steps (default: the setting of the network on a '
        'GPU, off on a CPU)',
    )


def add_drawing(parser):
    """Add the options for synthetic faces."""
    group = parser.add_argument_group('synthetic faces')
    group.add_argument('--draw', action='store_true', help='generate synthetic faces in --data if it does not exist')
    group.add_argument('--identities', type=whole_number(2), default=64, help='people to draw')
    group.add_argument('--images', type=whole_number(1), default=20, help='images of each')
    group.add_argument('--pairs', type=whole_number(10), default=300, help='verification pairs to draw')


def parse_args(argv=None):
    """Return the options.Run of the command line."""
    parser = Parser(prog='train.py', description=__doc__)
    for add in (add_what, add_how_long, add_images, add_measuring, add_devices, add_drawing):
        add(parser)
    args = parser.parse_args(argv)
    if args.dataset == 'imagenet':
        parser.error(
            '--dataset imagenet is now another program, in PyTorch: tools/train_imagenet.py '
            '--network cru56_imagenet --data FOLDER --output FOLDER'
        )
    if args.dataset not in (None, 'faces', 'synthetic'):
        parser.error(f'--dataset {args.dataset}: the only one is faces; pass the folder of the data set as --data')
    if args.ckpt == BEST and args.no_verification:
        parser.error('--ckpt 1 keeps what measures best, and --no-verification measures nothing')
    if args.kvstore and args.kvstore.startswith('dist') and not all(name in os.environ for name in JOB):
        parser.error(
            f'--kvstore {args.kvstore} needs {", ".join(JOB)}; start it with tools/launch_local.py, or see '
            'docs/several-machines.md'
        )
    return described(args)


def described(args):
    """Return the options.Run that the command line asks for."""
    name, settings = parse(args.network)
    memonger = None if args.memonger is None else args.memonger == 'on'
    return options.Run(
        network=options.Network(args.network, name, settings, args.multiplier, args.fp16, memonger),
        data=options.Data(
            args.data,
            Augmentation(args.crop, args.data_color, args.cutoff),
            args.readers,
            args.on_bad_record,
            args.sets,
            args.draw,
            args.identities,
            args.images,
            args.pairs,
        ),
        loss=args.loss,
        descent=options.Descent(
            args.lr, args.lr_steps, args.warmup, args.mom, args.wd, args.loss_scale or (128.0 if args.fp16 else 1.0)
        ),
        checkpoints=options.Checkpoints(
            args.output, args.verbose, args.ckpt, not args.no_verification, args.state_every, args.resume
        ),
        **{name: getattr(args, name) for name in OF_RUN},
    )


def show(result):
    """Print the result of a training run and the written files; return the exit status."""
    report.show(
        'trained',
        ('network', 'width', 'loss', 'steps', 'parameters', 'MACs/image', 'last loss', 'measured', 'images/s'),
        [
            (
                result.network,
                f'{result.multiplier:g}',
                result.loss,
                str(result.steps),
                f'{result.parameters:,}',
                f'{result.macs / 1e9:.3f} G',
                f'{result.last_loss:.2f}',
                ', '.join(map(str, result.measured)) or '–',
                f'{result.speed:.1f}' if result.speed else '–',
            )
        ],
    )
    report.show('written', ('file', 'bytes'), [(path, f'{os.path.getsize(path):,}') for path in result.files])
    if result.measured and result.steps < SETTLED:
        print(
            f'{result.network}: after {result.steps} steps the moving statistics, by which a network is verified, '
            f'are not settled; the verification says little before {SETTLED}'
        )
    if result.problem:
        sys.stderr.write(f'train.py: {result.problem}\n')
    return 2 if result.problem else 0


def main(argv=None):
    result = run_training(parse_args(argv))
    return show(result) if result else 0  # the first worker reports


if __name__ == '__main__':
    run(main)
