"""A Trainer at the beginning of a run: its devices, settings and first weights, or where an earlier run was."""

import os

import numpy as np

import config as host
from netkit import checkpoints
from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.graph.counts import count_parameters
from netkit.graph.memory import check_room, planned_memory
from netkit.networks import entry, initializer, settings_for, settings_of
from netkit.training import state
from netkit.training.schedule import schedule
from netkit.training.trainer import Trainer
from netkit.training.workers import first_workers

OPTIONS = {'net_multiplier': '--multiplier', 'fp16': '--fp16', 'memonger': '--memonger'}  # that decide settings
CONTEXT = 256 << 20  # bytes that a CPU context takes in addition to parameters and maps: 200 MB, measured


def devices(count):
    """Return `count` contexts: GPUs if there are any, else CPU contexts, which compute one after the other."""
    gpus = mx.context.num_gpus()
    if gpus and gpus < count:
        raise UserError(f'--devices {count}: there are only {gpus} GPUs')
    return [mx.gpu(i) if gpus else mx.cpu(i) for i in range(count)]


def settings_with(args, contexts, of_task):
    """Return the settings of the network that suit the devices, with those `of_task`, {name: value}.

    Raises UserError for a setting of --network that an option or the data set decides.
    """
    for name in args.settings:
        if name in OPTIONS or name in of_task:
            decides = OPTIONS.get(name, 'the data set')
            raise UserError(f'--network {args.choice}: {name} cannot be set there, since {decides} decides it')
    device = contexts[0].device_type
    changes = dict(settings_for(device), net_multiplier=args.multiplier, fp16=args.fp16)
    if args.memonger:
        changes['memonger'] = args.memonger == 'on'
    if args.fp16 and device == 'cpu':
        raise UserError('--fp16 wants a GPU: MXNet has no float16 matrix product on a CPU')
    return settings_of(args.network, **{**changes, **args.settings, **of_task})


def check_memory(embedding, of_head, classes, image_shape, args, contexts):
    """Raise UserError for a step that cannot fit in this machine's memory, before the system kills processes.

    A CPU context takes CONTEXT, the planned memory of an image times the images, and weights (also `of_head`, those of
    the loss), their gradients and momentum. A GPU reports by itself what does not fit.
    """
    if contexts[0].device_type == 'gpu':
        return
    weights = CONTEXT + 12 * (count_parameters(embedding, image_shape) + of_head)
    maps = planned_memory(embedding, 1, image_shape) * 2**20 + 12 * classes
    check_room(
        len(contexts) * (weights + args.per_batch_size * maps),
        f'take fewer --devices or a smaller --per-batch-size: {len(contexts)} devices with '
        f'{args.per_batch_size} images each and {classes} classes want',
    )


def make_trainer(symbol, contexts, image_shape, args, kvstore):
    """Return the Trainer of a run, with its first weights: random ones, and those of --pretrained that fit."""
    data_shape = (args.per_batch_size * len(contexts), 3, *image_shape[:2])
    trainer = Trainer(
        symbol,
        contexts,
        data_shape,
        kvstore,
        args.seed,
        args.loss_scale,
        learning_rate=args.lr,
        momentum=args.mom,
        wd=args.wd,
        multi_precision=args.fp16,
        lr_scheduler=schedule(args.lr, args.steps, args.lr_steps, args.warmup),
    )
    mx.random.seed(args.seed)
    trainer.initialize(initializer())
    return trainer


def sgd_of(args):
    """Return (momentum, weight decay) of the options, by default the host's for this network."""
    default = {**host.default, **entry('network', args.network)}
    return default['mom'] if args.mom is None else args.mom, default['wd'] if args.wd is None else args.wd


def start_from(trainer, model, is_told):
    """Set the parameters that a checkpoint, PREFIX,EPOCH or a state dict, has in the same shape.

    With `is_told`, print which did not fit. Raises UserError for a checkpoint that is none, holds NaN or infinity, or
    has nothing that fits.
    """
    path = checkpoints.parameters_path(model)
    found, wanted = checkpoints.load_parameters(path), trainer.shapes()
    fitting = {name: values for name, values in found.items() if wanted.get(name) == values.shape}
    for name, values in fitting.items():
        if not np.isfinite(values).all():
            raise UserError(f'{path} has NaN or infinity in {name}; take an earlier checkpoint')
    if not fitting:
        raise UserError(f'--pretrained {model}: no parameter of it has the name and shape of one of this network')
    trainer.set_parameters(fitting)
    if is_told:
        print(f'{len(fitting)} of {len(wanted)} parameters are those of {path}')
        groups = (
            ('of another shape, begun anew', [name for name in wanted if name in found and name not in fitting]),
            ('not in it, begun anew', [name for name in wanted if name not in found]),
            ('in it, but not in this network', [name for name in found if name not in wanted]),
        )
        for title, names in groups:
            if names:
                more = f' and {len(names) - 8} more' if len(names) > 8 else ''
                print(f'  {title}: {", ".join(sorted(names)[:8])}{more}')


def resume(trainer, args, same):
    """With --resume, load the state of an interrupted run into `trainer`, if there is one.

    Returns its state.Progress, None where the run begins; then the first worker removes the state. `same` are the
    options that have to be the same. Raises UserError where the workers do not see the same state.
    """
    is_first, progress = trainer.kvstore.rank == 0, None
    found = state.load(args.output, same) if args.resume else None
    path = os.path.join(args.output, state.FILE)
    if found:
        arrays, progress = found
        trainer.load_state(arrays, path)
    elif is_first:
        state.forget(args.output)
        if args.resume:
            print(f'there is no state in {args.output}; the run begins anew')
    steps = first_workers(trainer.kvstore, trainer.steps)
    if steps != trainer.steps:
        raise UserError(
            f'--resume: the first worker goes on behind step {steps}, this one behind step '
            f'{trainer.steps}; all have to see the same --output'
        )
    if steps > args.steps:
        raise UserError(f'--resume: {path} is of step {steps}, behind the last of --steps {args.steps}; ask for more')
    if found and is_first:
        print(f'going on behind step {steps} of {args.steps}')
    return progress
