"""Train an ImageNet network, in one process or in several that torchrun started.

All randomness of an epoch comes from a seed and the epoch's number, so a run that was killed continues at the beginning
of its epoch, and ends with the same weights to the bit.
"""

import contextlib
import os
import random
from typing import NamedTuple

import numpy as np
import timm
import torch
from timm import data as timm_data, optim, utils
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from crunet import symbol_torch, timm_models
from crunet.symbol_module import HOST_MEAN, HOST_STD
from netkit.classification.pictures import Hsl, Pictures, set_in
from netkit.classification.recipes import CROP, RATIO, Recipe
from netkit.errors import UserError
from netkit.evaluation import imagenet
from netkit.training.log import Writer

LAST, MODEL, LOG = 'last.pt', 'model.pt', 'train.log'  # files of a run: to resume it, the weights, the log
MOMENTUM, DECAY = 0.9, 0.1  # of SGD; by which the learning rate is multiplied at a step
# Names of timm that are not settings of a network.
OF_THE_RUN = {'num_classes', 'img_size', 'in_chans', 'global_pool', 'drop_rate', 'zero_init_last', 'pretrained'}


class Run(NamedTuple):
    """What to train, and how; `recipe` has the rest."""

    network: str
    data: str
    output: str
    recipe: Recipe
    settings: dict  # of the network's builder
    image_size: int = 224
    workers: int = 4
    warmup: int = 0  # epochs
    mixup: float = 0.0
    smoothing: float = 0.0
    ema: float = 0.0  # decay of the averaged weights, 0 for none
    zero_init_last: bool = False
    half: bool = False  # bfloat16
    compiled: bool = False
    recompute: bool = False
    deterministic: bool = False
    seed: int = 0


def network_of(text):
    """Return (name, {setting: value}) of an ImageNet network, NAME or NAME:SETTING=VALUE,…; raises UserError."""
    try:
        name, settings = symbol_torch.parsed(text)
    except ValueError as error:
        raise UserError(str(error))
    if set(settings) & OF_THE_RUN:
        raise UserError(
            f'{", ".join(sorted(set(settings) & OF_THE_RUN))}: the data and the options of the program say it'
        )
    if name not in timm_models.IMAGENET:
        raise UserError(f'{name} is not an ImageNet network; choose from {", ".join(timm_models.IMAGENET)}')
    return name, settings


class Processes(NamedTuple):
    """This process among those of torchrun."""

    rank: int
    count: int
    device: torch.device


@contextlib.contextmanager
def processes():
    """Yield the Processes; several are connected by NCCL on GPUs, by gloo on a CPU."""
    rank, count = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    is_gpu = torch.cuda.is_available()
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0))) if is_gpu else torch.device('cpu')
    if is_gpu:
        torch.cuda.set_device(device)
    if count > 1:
        distributed.init_process_group('nccl' if is_gpu else 'gloo')
    try:
        yield Processes(rank, count, device)
    finally:
        if count > 1:
            distributed.destroy_process_group()


class Share:
    """The images of a set that one of several processes measures, as `imagenet.evaluate` takes them."""

    def __init__(self, images, rank, count):
        self.images, self.numbers = images, range(rank, len(images), count)
        self.path, self.classes, self.names = images.path, images.classes, images.names
        self.labels = images.labels[self.numbers]

    def __len__(self):
        return len(self.numbers)

    def load(self, number):
        return self.images.load(self.numbers[number])


class Classifier:
    """A module as an engine of `imagenet.evaluate`: raw images (n, 3, side, side) to logits (n, classes)."""

    def __init__(self, module, label, batch, device, half):
        self.module, self.label, self.batch, self.device, self.half = module.eval(), label, batch, device, half

    @torch.no_grad()
    def __call__(self, images):
        x = (torch.from_numpy(images).to(self.device) - HOST_MEAN) / HOST_STD
        with autocast(self.device, self.half):
            return self.module(x).float().cpu().numpy()


def autocast(device, half):
    """Return the context in which the network computes in bfloat16, or in float32."""
    return torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()


class Learner:
    """The training of a Run in a process."""

    def __init__(self, run, among):
        self.run, self.among, recipe = run, among, run.recipe
        if run.deterministic:
            torch.use_deterministic_algorithms(True)
        if recipe.batch % among.count:
            raise UserError(f'a batch of {recipe.batch} cannot be divided among {among.count} processes')
        self.batch = recipe.batch // among.count
        self.train = Pictures(set_in(run.data, 'train'))
        side = run.image_size
        self.validation = imagenet.Images(set_in(run.data, 'val'), imagenet.resize_for(side), side)
        self._compare()
        if run.mixup and self.batch % 2:
            raise UserError(f'--mixup takes images in pairs, and each process has a batch of {self.batch}')
        if len(self.train) < recipe.batch:
            raise UserError(f'{self.train.path} has {len(self.train)} images, fewer than a batch of {recipe.batch}')
        torch.manual_seed(run.seed)
        shape = {'num_classes': self.train.classes, 'img_size': run.image_size}
        try:
            model = timm.create_model(run.network, zero_init_last=run.zero_init_last, **shape, **run.settings)
        except ValueError as error:  # of the builder: a setting that it does not know
            raise UserError(str(error))
        model.set_grad_checkpointing(run.recompute)
        self.model = model.to(among.device)
        self.loader = self._loader()
        self.averaged = utils.ModelEmaV3(self.model, decay=run.ema) if run.ema else None
        self.optimiser = optim.create_optimizer_v2(
            self.model,
            opt='sgd' if recipe.nesterov else 'momentum',  # timm's sgd is Nesterov's
            lr=recipe.lr,
            weight_decay=recipe.wd,
            momentum=MOMENTUM,
            filter_bias_and_bn=False,
        )
        self.mixup = timm_data.Mixup(run.mixup, label_smoothing=run.smoothing, num_classes=self.train.classes)
        self.step_of = torch.compile(self.model) if run.compiled else self.model
        if among.count > 1:
            self.step_of = DistributedDataParallel(self.step_of, static_graph=True)

    def _compare(self):
        """Raise UserError where the validation set does not fit the training set, or the processes."""
        path, names, known = self.validation.path, self.validation.names, self.train.names
        if self.train.classes < 2:
            raise UserError(f'{self.train.path} has one class, and two are needed')
        if self.validation.classes > self.train.classes:
            raise UserError(f'{path} has {self.validation.classes} classes, {self.train.path} {self.train.classes}')
        if names and known and names != known:
            only = sorted(set(names) ^ set(known))
            how = f': {only[0]} is in one of them only' if only else ' in the same order'
            raise UserError(f'{path} and {self.train.path} do not have the same classes{how}')
        if len(self.validation) < self.among.count:
            raise UserError(f'{path} has {len(self.validation)} images, fewer than there are processes')

    def _loader(self):
        run, recipe = self.run, self.run.recipe
        loader = timm_data.create_loader(
            self.train,
            (3, run.image_size, run.image_size),
            self.batch,
            is_training=True,
            use_prefetcher=False,
            scale=CROP,
            ratio=RATIO,
            color_jitter=recipe.color or None,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            interpolation='bilinear',
            num_workers=run.workers,
            distributed=self.among.count > 1,
            persistent_workers=False,  # they would keep a random state between epochs
            pin_memory=self.among.device.type == 'cuda',
        )
        if any(recipe.hsl):
            self.train.transform.transforms.insert(0, Hsl(*recipe.hsl))
        return loader

    @property
    def path(self):
        """Path of the state to resume."""
        return os.path.join(self.run.output, LAST)

    def restore(self):
        """Load the state of an interrupted run; return the number of its finished epochs, 0 without a state."""
        if not os.path.exists(self.path):
            return 0
        try:
            state = torch.load(self.path, map_location='cpu', weights_only=True)
            if state['run'] != self._described():
                raise UserError(
                    f'{self.path} is of another run: {state["run"]}, and not {self._described()}; choose another '
                    '--output, or remove it'
                )
            self.model.load_state_dict(state['model'])
            self.optimiser.load_state_dict(state['optimiser'])
            if self.averaged:
                self.averaged.load_state_dict(state['averaged'])
            return int(state['epochs'])
        except UserError:
            raise
        except Exception as error:  # torch.load has many for files that are not its own
            raise UserError(f'{self.path} is not the state of a run: {str(error).splitlines()[0]}')

    def _described(self):
        """Return the settings that a resumed run must keep, as text."""
        left_out = {'output', 'workers', 'compiled', 'data'}
        fields = {name: of for name, of in self.run._asdict().items() if name not in left_out}
        return repr({**fields, 'recipe': self.run.recipe._replace(epochs=0), 'processes': self.among.count})

    def save(self, epochs):
        """Write the state after an epoch, and the weights, each completely or not."""
        state = {
            'run': self._described(),
            'epochs': epochs,
            'model': self.model.state_dict(),
            'optimiser': self.optimiser.state_dict(),
            'averaged': self.averaged.state_dict() if self.averaged else None,
        }
        weights = (self.averaged.module if self.averaged else self.model).state_dict()
        for name, content in {MODEL: weights, LAST: state}.items():  # so that the weights are never the older ones
            path = os.path.join(self.run.output, name)
            torch.save(content, path + '.new')
            os.replace(path + '.new', path)

    def seed(self, epoch):
        """Seed the random numbers of an epoch, differently per process."""
        number = (self.run.seed * 1_000_003 + epoch) * self.among.count + self.among.rank
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        if self.among.count > 1:
            self.loader.sampler.set_epoch(epoch)

    def rate(self, epoch):
        """Return the learning rate of an epoch, the first being 0."""
        warm = min(1.0, (epoch + 1) / (self.run.warmup + 1))
        return self.run.recipe.lr * warm * DECAY ** sum(epoch >= step for step in self.run.recipe.steps)

    def epoch(self, epoch, log):
        """Train an epoch; `log` is a Writer, None in all processes but the first."""
        self.seed(epoch)
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate(epoch)
        self.model.train()
        done = epoch * len(self.loader)
        with tqdm(self.loader, desc=f'epoch {epoch}', unit='steps', leave=False, disable=None if log else True) as bar:
            for step, (images, labels) in enumerate(bar, done + 1):
                loss, right = self.step(images, labels)
                if log:
                    log.add(step, len(images) * self.among.count, loss, right)
                    bar.set_postfix(loss=f'{loss:.3f}')

    def step(self, images, labels):
        """Take a step; return its loss and the share of images whose class is the likeliest."""
        device = self.among.device
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        targets, smoothing = labels, self.run.smoothing
        if self.run.mixup:
            (images, targets), smoothing = self.mixup(images, labels), 0.0  # it smooths by itself
        with autocast(device, self.run.half):
            logits = self.step_of(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if self.averaged:
            self.averaged.update(self.model)
        if not torch.isfinite(loss):
            raise UserError('the loss is not finite: choose a smaller --lr, or --warmup')
        return float(loss.detach()), float((logits.argmax(1) == labels).float().mean())

    def measure(self):
        """Return {k: error} of the top k on the validation set, measured by all processes."""
        module = self.averaged.module if self.averaged else self.model
        if self.among.count > 1:  # moving statistics differ between processes; those of the first are saved
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)
        engine = Classifier(module, self.run.network, self.batch, self.among.device, self.run.half)
        share = Share(self.validation, self.among.rank, self.among.count)
        found = imagenet.evaluate(engine, share)
        sums = torch.tensor([found.images, *(found.images * of for of in found.errors.values())], dtype=torch.float64)
        if self.among.count > 1:
            sums = sums.to(self.among.device)
            distributed.all_reduce(sums)
        return {k: float(sums[place] / sums[0]) for place, k in enumerate(found.errors, 1)}


@contextlib.contextmanager
def of_workers():
    """Raise the UserError of a worker unchanged, without the traceback that PyTorch prepends."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).strip().rpartition('UserError: ')[2])


def learn(run):
    """Train a Run, or continue it after its last whole epoch; raises UserError."""
    os.makedirs(run.output, exist_ok=True)
    with processes() as among:
        learner = Learner(run, among)
        start = learner.restore()
        is_first, length = among.rank == 0, len(learner.loader)
        if start >= run.recipe.epochs:
            errors = learner.measure()
            if is_first:
                print(f'{learner.path} has {start} epochs: the run is finished, {accuracies(errors)}')
        last = run.recipe.epochs * length
        writer = Writer(os.path.join(run.output, LOG), last, length, goes_on=start > 0) if is_first else None
        with writer or contextlib.nullcontext():
            for epoch in range(start, run.recipe.epochs):
                with of_workers():
                    learner.epoch(epoch, writer)
                if is_first:  # before it is measured: an image that cannot be read does not cost the epoch
                    learner.save(epoch + 1)
                errors = learner.measure()
                if is_first:
                    for k, error in errors.items():
                        writer.measured((epoch + 1) * length, f'top-{k}', 1 - error)
                    print(f'epoch {epoch}: {accuracies(errors)}', flush=True)


def accuracies(errors):
    """Return {k: error} as a text."""
    return ', '.join(f'top-{k} {1 - error:.4f}' for k, error in errors.items())
