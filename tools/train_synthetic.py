"""Train a network choice on drawn faces, through insightface's own data formats.

Draws a data set (or reads an existing one), trains with the chosen loss, saves OUTPUT/NETWORK-symbol.json and
OUTPUT/NETWORK-0001.params, cut at the embedding, and verifies these files on pairs of people that were not trained on.
On several devices, and with --kvstore dist_sync in several processes (tools/launch_local.py), each takes its share of
the images of a step.
"""

import os
import sys

from netkit import report
from netkit.cli import Parser, folder_name, multiplier, number, run, whole_number
from netkit.networks import LOSSES, NETWORKS
from netkit.training.run import run_training

KVSTORES = ('local', 'device', 'nccl', 'dist_sync', 'dist_sync_device')
JOB = ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER')
SETTLED = 50  # steps until the first values of moving statistics weigh less than a hundredth, at a momentum of 0.9


def parse_args(argv=None):
    parser = Parser(prog='train_synthetic.py', description=__doc__.split('\n\n')[0])
    parser.add_argument('--network', default='cru56', help=f'network choice: {", ".join(NETWORKS)}')
    parser.add_argument('--loss', default='arcface', help=f'loss: {", ".join(LOSSES)}')
    parser.add_argument('--steps', type=whole_number(1), default=100, help='training steps')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=32, help='images per device and step')
    parser.add_argument(
        '--devices',
        type=whole_number(1, 1024),
        default=1,
        help='devices to train on: GPUs where there are any, else CPU contexts',
    )
    parser.add_argument(
        '--kvstore',
        choices=KVSTORES,
        help='how gradients are summed: on the CPU, on the GPUs, by NCCL, or over several processes or '
        'machines (default: device on GPUs, else local)',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the last state in OUTPUT, if there is one; the options that change what is '
        'computed have to be the same, but for --steps, of which there may be more (the learning '
        'rate then falls later). Without --resume, an older state is removed',
    )
    parser.add_argument(
        '--state-every',
        type=whole_number(0),
        default=1000,
        metavar='STEPS',
        help='write the state of the run, for --resume, after every so many steps; 0: never',
    )
    parser.add_argument('--fp16', action='store_true', help='compute the trunk in float16 (on GPUs)')
    parser.add_argument(
        '--loss-scale',
        type=number(1e-6, 1e38),
        help='factor on the gradients until they are applied (default: 128 with --fp16, else 1)',
    )
    parser.add_argument(
        '--on-bad-record',
        choices=('stop', 'skip'),
        default='stop',
        help='what to do about a record of the data set that cannot be read',
    )
    parser.add_argument(
        '--lr',
        type=number(1e-30, 1000),
        default=0.1,
        help='learning rate; divided by 10 after 70%% and 90%% of the steps',
    )
    parser.add_argument(
        '--multiplier',
        type=multiplier,
        default=1.0,
        help="width of the network relative to the paper's (net_multiplier)",
    )
    parser.add_argument(
        '--memonger',
        choices=('on', 'off'),
        help='recompute feature maps in the backward pass instead of keeping them, for a quarter '
        "of the memory (default: the network's choice on a GPU, off on a CPU)",
    )
    parser.add_argument('--identities', type=whole_number(2), default=64, help='people to draw')
    parser.add_argument('--images', type=whole_number(1), default=20, help='images of each')
    parser.add_argument('--pairs', type=whole_number(10), default=300, help='verification pairs to draw')
    parser.add_argument(
        '--data', type=folder_name, help='folder of the data set (default: OUTPUT/data, drawn if it is not there)'
    )
    parser.add_argument('--draw', action='store_true', help='draw the data set into --data if it is not there')
    parser.add_argument('--output', type=folder_name, default='out/synthetic', help='folder for the checkpoint')
    parser.add_argument('--no-verification', action='store_true', help='do not verify after training')
    parser.add_argument('--seed', type=whole_number(0, 2**32 - 1), default=0, help='same seed, same result')
    args = parser.parse_args(argv)
    args.loss_scale = args.loss_scale or (128.0 if args.fp16 else 1.0)
    if args.kvstore and args.kvstore.startswith('dist') and not all(name in os.environ for name in JOB):
        parser.error(
            f'--kvstore {args.kvstore} wants {", ".join(JOB)}; start it with tools/launch_local.py, or see '
            'docs/several-machines.md'
        )
    return args


def show(result):
    """Print what a training came to, and what was written; return the exit status."""
    report.show(
        'trained',
        ('network', 'width', 'loss', 'steps', 'parameters', 'MACs/image', 'last loss', 'verification', 'images/s'),
        [
            (
                result.network,
                f'{result.multiplier:g}',
                result.loss,
                str(result.steps),
                f'{result.parameters:,}',
                f'{result.macs / 1e9:.3f} G',
                f'{result.last_loss:.2f}',
                '{:.3f} ± {:.3f}'.format(*result.verification) if result.verification else '–',
                f'{result.speed:.1f}' if result.speed else '–',
            )
        ],
    )
    report.show('written', ('file', 'bytes'), [(path, f'{os.path.getsize(path):,}') for path in result.files])
    if result.verification and result.steps < SETTLED:
        print(
            f'{result.network}: after {result.steps} steps the moving statistics, by which a network is verified, '
            f'are not settled; the verification says little before {SETTLED}'
        )
    if result.problem:
        sys.stderr.write(f'train_synthetic.py: {result.problem}\n')
    return 2 if result.problem else 0


def main(argv=None):
    result = run_training(parse_args(argv))
    return show(result) if result else 0  # the first worker reports


if __name__ == '__main__':
    run(main)
