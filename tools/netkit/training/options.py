"""The options of a training run, grouped by topic; `tools/train.py` fills them."""

import math
from typing import Any, Dict, List, NamedTuple, Optional

from netkit.data.augment import Augmentation


class Length(NamedTuple):
    """A number of steps or epochs."""

    number: float
    in_epochs: bool

    def steps(self, steps_per_epoch):
        """Return the length in whole steps."""
        return math.ceil(round(self.number * steps_per_epoch, 6)) if self.in_epochs else int(self.number)

    def __str__(self):
        return f'{self.number:g}e' if self.in_epochs else f'{self.number:d}'


class Network(NamedTuple):
    """The network to train."""

    text: str  # NETWORK or NETWORK:SETTING=VALUE,…
    name: str
    settings: Dict[str, Any]
    multiplier: float
    fp16: bool
    memonger: Optional[bool]  # None: the default of the device


class Data(NamedTuple):
    """The images to train on, and the verification sets."""

    folder: Optional[str]
    augmentation: Augmentation
    readers: int
    on_bad_record: str
    sets: Optional[List[str]]
    draw: bool  # whether a folder without a data set gets synthetic faces
    identities: int
    images: int
    pairs: int


class Descent(NamedTuple):
    """SGD: learning rate and its schedule, momentum and weight decay (None: those of the network)."""

    lr: float
    lr_steps: Optional[List[Any]]  # Lengths, in `Run.in_steps` steps
    warmup: Any
    mom: Optional[float]
    wd: Optional[float]
    loss_scale: float


class Checkpoints(NamedTuple):
    """Where and how often checkpoints and the state of a run are written, and which are kept."""

    output: str
    every: Any  # Length or None, in `Run.in_steps` steps
    keep: int  # a value of --ckpt
    is_verified: bool
    state_every: int
    resume: bool


class Run(NamedTuple):
    """All of a run."""

    network: Network
    data: Data
    loss: str
    descent: Descent
    checkpoints: Checkpoints
    steps: int
    epochs: Optional[float]
    per_batch_size: int
    devices: int
    kvstore: Optional[str]
    pretrained: Optional[str]
    seed: int

    def in_steps(self, steps_per_epoch, momentum, decay):
        """Return the run with every length in steps, and with this momentum and weight decay."""
        every, descent = self.checkpoints.every, self.descent
        return self._replace(
            steps=Length(self.epochs, True).steps(steps_per_epoch) if self.epochs else self.steps,
            checkpoints=self.checkpoints._replace(every=every.steps(steps_per_epoch) if every else 0),
            descent=descent._replace(
                lr_steps=descent.lr_steps and sorted({drop.steps(steps_per_epoch) for drop in descent.lr_steps}),
                warmup=descent.warmup.steps(steps_per_epoch),
                mom=momentum,
                wd=decay,
            ),
        )

    def same(self):
        """Return the options that have to be the same to resume the run, {option: value}; steps there may be more."""
        network, data, descent = self.network, self.data, self.descent
        return {
            'network': network.text,
            'loss': self.loss,
            'per_batch_size': self.per_batch_size,
            'devices': self.devices,
            'lr': descent.lr,
            'lr_steps': ','.join(map(str, descent.lr_steps)) if descent.lr_steps else descent.lr_steps,
            'warmup': str(descent.warmup),
            'mom': descent.mom,
            'wd': descent.wd,
            'multiplier': network.multiplier,
            'fp16': network.fp16,
            'loss_scale': descent.loss_scale,
            'pretrained': self.pretrained,
            'crop': data.augmentation.crop,
            'data_color': data.augmentation.color,
            'cutoff': data.augmentation.cutoff,
            'seed': self.seed,
            'on_bad_record': data.on_bad_record,
        }
