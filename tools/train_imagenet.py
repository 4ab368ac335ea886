"""Train an ImageNet network in PyTorch, on one GPU, on several, or on a CPU.

    torchrun --nproc_per_node=8 tools/train_imagenet.py --network cru116_imagenet --data IMAGENET --output out/cru116

IMAGENET has train and val: folders with a subfolder per class, or train.rec and val.rec of tools/pack.py. A run that
was killed continues when the command is repeated. Needs PyTorch, torchvision, timm and tqdm; MXNet is not needed.
"""

from netkit.project import start

start(('torch', 'timm', 'numpy', 'tqdm', 'PIL'))

from netkit.classification.recipes import RECIPES, recipe_of
from netkit.cli import Parser, folder_name, number, run, whole_number
from netkit.errors import UserError


def parse_args():
    parser = Parser(description=__doc__.split('\n')[0], epilog='Presets: ' + '; '.join(map(described, RECIPES)))
    parser.add_argument(
        '--network', required=True, help='an ImageNet network, with settings: cru56_imagenet:net_origin=release'
    )
    parser.add_argument('--data', required=True, type=folder_name, help='folder with train and val')
    parser.add_argument(
        '-o', '--output', required=True, type=folder_name, help='folder of the run: model.pt, last.pt, train.log'
    )
    group = parser.add_argument_group('recipe')
    group.add_argument('--recipe', choices=list(RECIPES), help="preset (default: the network's)")
    group.add_argument(
        '--batch-size', type=whole_number(1), help='images of a step, of all processes (default: the preset)'
    )
    group.add_argument('--lr', type=number(0, 100), help='learning rate (default: the preset)')
    group.add_argument('--epochs', type=whole_number(1), help='(default: the preset)')
    group.add_argument(
        '--lr-steps', metavar='EPOCH,…', help='epochs at which the learning rate is divided by 10 (default: the preset)'
    )
    group.add_argument('--wd', type=number(0, 1), help='weight decay (default: the preset)')
    group.add_argument('--nesterov', action='store_true', help="Nesterov's momentum (default: the preset)")
    group.add_argument('--zero-init-last', action='store_true', help='begin with the last layer of each branch at 0')
    group.add_argument('--warmup', type=whole_number(0), default=0, metavar='EPOCHS', help='of a growing learning rate')
    group.add_argument(
        '--color', type=number(0, 1), help='change of brightness, contrast and saturation (default: the preset)'
    )
    group.add_argument('--mixup', type=number(0, 10), default=0.0, help='alpha of mixup (default: none)')
    group.add_argument('--smoothing', type=number(0, 0.99), default=0.0, help='of the labels (default: none)')
    group.add_argument(
        '--ema', type=number(0, 0.99999), default=0.0, help='decay of averaged weights, as 0.9999 (default: none)'
    )
    group.add_argument('--image-size', type=whole_number(32), default=224, help='pixels')
    group.add_argument('--seed', type=whole_number(0, 2**31), default=0, help='of all random numbers')
    group = parser.add_argument_group('computing')
    group.add_argument('--bfloat16', action='store_true', help='compute in bfloat16 where that is enough')
    group.add_argument('--compile', action='store_true', help='use torch.compile')
    group.add_argument('--recompute', action='store_true', help='gradient checkpointing: less memory, longer steps')
    group.add_argument(
        '--deterministic',
        action='store_true',
        help='on a GPU: equal runs to the bit, slower; needs CUBLAS_WORKSPACE_CONFIG=:4096:8',
    )
    group.add_argument('--workers', type=whole_number(0), default=4, help='processes that decode, for each GPU')
    return parser.parse_args()


def described(name):
    """Return a preset in words."""
    recipe = RECIPES[name]
    return f'{name}: batch {recipe.batch}, lr {recipe.lr}, {recipe.epochs} epochs, steps {recipe.steps}, wd {recipe.wd}'


def recipe(args, network):
    """Return the Recipe of a preset with the command line's changes; raises UserError."""
    preset = RECIPES[args.recipe or recipe_of(network)]
    given = {'batch': args.batch_size, 'lr': args.lr, 'epochs': args.epochs, 'wd': args.wd, 'color': args.color}
    changes = {key: value for key, value in given.items() if value is not None}
    if args.lr_steps is not None:
        try:
            changes['steps'] = tuple(int(epoch) for epoch in args.lr_steps.split(',') if epoch)
            if min(changes['steps'], default=1) < 1:
                raise ValueError
        except ValueError:
            raise UserError(f'--lr-steps {args.lr_steps} is not a list of epochs, as 30,60,80')
    return preset._replace(nesterov=preset.nesterov or args.nesterov, **changes)


def main():
    args = parse_args()
    from netkit.classification import learning  # which imports PyTorch, for seconds

    network, settings = learning.network_of(args.network)
    training = learning.Run(
        network,
        args.data,
        args.output,
        recipe(args, network),
        settings,
        args.image_size,
        args.workers,
        args.warmup,
        args.mixup,
        args.smoothing,
        args.ema,
        args.zero_init_last,
        args.bfloat16,
        args.compile,
        args.recompute,
        args.deterministic,
        args.seed,
    )
    learning.learn(training)


if __name__ == '__main__':
    run(main)
