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


def settings_with(network, contexts, of_task):
    """Return the settings of an `options.Network` that suit the devices, with those `of_task`, {name: value}.

    Raises UserError for a setting of --network that an option or the data set decides.
    """
    for name in network.settings:
        if name in OPTIONS or name in of_task:
            decides = OPTIONS.get(name, 'the data set')
            raise UserError(f'--network {network.text}: {name} cannot be set there, since {decides} decides it')
    device = contexts[0].device_type
    changes = dict(settings_for(device), net_multiplier=network.multiplier, fp16=network.fp16)
    if network.memonger is not None:
        changes['memonger'] = network.memonger
    if network.fp16 and device == 'cpu':
        raise UserError('--fp16 needs a GPU: MXNet has no float16 matrix product on a CPU')
    return settings_of(network.name, **{**changes, **network.settings, **of_task})


def check_memory(embedding, of_head, classes, image_shape, batch, contexts):
    """Raise UserError for a step that cannot fit in this machine's memory, before the system kills processes.

    A CPU context takes CONTEXT, the planned memory of an image times `batch`, and weights (also `of_head`, those of
    the loss), their gradients and momentum. A GPU reports by itself what does not fit.
    """
    if contexts[0].device_type == 'gpu':
        return
    weights = CONTEXT + 12 * (count_parameters(embedding, image_shape) + of_head)
    maps = planned_memory(embedding, 1, image_shape) * 2**20 + 12 * classes
    check_room(
        len(contexts) * (weights + batch * maps),
        f'take fewer --devices or a smaller --per-batch-size: {len(contexts)} devices with '
        f'{batch} images each and {classes} classes need',
    )


def make_trainer(symbol, contexts, image_shape, run, kvstore):
    """Return the Trainer of an `options.Run`, with random first weights."""
    descent = run.descent
    trainer = Trainer(
        symbol,
        contexts,
        (run.per_batch_size * len(contexts), 3, *image_shape[:2]),
        kvstore,
        run.seed,
        descent.loss_scale,
        learning_rate=descent.lr,
        momentum=descent.mom,
        wd=descent.wd,
        multi_precision=run.network.fp16,
        lr_scheduler=schedule(descent.lr, run.steps, descent.lr_steps, descent.warmup),
    )
    mx.random.seed(run.seed)
    trainer.initialize(initializer())
    return trainer


def decay_of(descent, network):
    """Return (momentum, weight decay) of an `options.Descent`, by default insightface's for this network."""
    default = {**host.default, **entry('network', network)}
    return default['mom'] if descent.mom is None else descent.mom, default['wd'] if descent.wd is None else descent.wd


def start_from(trainer, model, is_told):
    """Set the parameters that a checkpoint, PREFIX,EPOCH or a state dict, has in the same shape.

    With `is_told`, print those that did not fit. Raises UserError for a checkpoint that is invalid, holds NaN or
    infinity, or has nothing that fits.
    """
    try:
        path = checkpoints.parameters_path(model)
        found, wanted = checkpoints.load_parameters(path), trainer.shapes()
    except UserError as error:
        raise UserError(f'--pretrained: {error}')
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
            ('of another shape, begun again', [name for name in wanted if name in found and name not in fitting]),
            ('not in it, begun again', [name for name in wanted if name not in found]),
            ('in it, but not in this network', [name for name in found if name not in wanted]),
        )
        for title, names in groups:
            if names:
                more = f' and {len(names) - 8} more' if len(names) > 8 else ''
                print(f'  {title}: {", ".join(sorted(names)[:8])}{more}')


def resume(trainer, run, same):
    """With --resume, load the state of an interrupted run into `trainer`, if there is one.

    Returns its state.Progress, None where the run begins; then the first worker removes the state. `same` are the
    options that have to be the same. Raises UserError where the workers do not see the same state.
    """
    is_first, progress = trainer.kvstore.rank == 0, None
    output, asked = run.checkpoints.output, run.checkpoints.resume
    found = state.load(output, same) if asked else None
    path = os.path.join(output, state.FILE)
    if found:
        arrays, progress = found
        trainer.load_state(arrays, path)
    elif is_first:
        state.forget(output)
        if asked:
            print(f'there is no state in {output}; the run begins again')
    steps = first_workers(trainer.kvstore, trainer.steps)
    if steps != trainer.steps:
        raise UserError(
            f'--resume: the first worker continues after step {steps}, this one after step '
            f'{trainer.steps}; all have to see the same --output'
        )
    if steps > run.steps:
        raise UserError(f'--resume: {path} is of step {steps}, behind the last of --steps {run.steps}; ask for more')
    if found and is_first:
        print(f'continuing after step {steps} of {run.steps}')
    return progress
