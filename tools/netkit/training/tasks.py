"""The training task: telling faces apart, from the data to the accuracy."""

import os
import sys
from typing import NamedTuple

from netkit.data.batches import FaceBatches, Share
from netkit.data.pairs import PairSet
from netkit.data.records import FaceRecords, image_shape_of, is_data_set
from netkit.data.synthetic import write_synthetic
from netkit.errors import UserError
from netkit.evaluation import engines, protocol, verification as faces
from netkit.files import settle
from netkit.graph.naming import face_form, is_original
from netkit.networks import entry
from netkit.training import losses
from netkit.training.workers import wait_for_workers

DRAWN_SHAPE = (112, 112, 3)


class Measured(NamedTuple):
    """The accuracy of a network on a verification set, and its standard deviation."""

    name: str  # of the set
    accuracy: float
    deviation: float

    def __str__(self):
        return f'{self.name} {self.accuracy:.3f} ± {self.deviation:.3f}'


class FaceTask:
    """Faces of a data set in insightface's format, which is drawn where there is none; measured by its pairs."""

    def __init__(self, run):
        """Find the size of the images; nothing is read or drawn yet."""
        self.run, self.data, self.is_verified = run, run.data, run.checkpoints.is_verified
        self.begun_with = None  # {path of a verification set: what tells it from another of this name}
        self.folder = self.data.folder or os.path.join(run.checkpoints.output, 'data')
        self.settings = {'image_shape': image_shape_of(self.folder) if is_data_set(self.folder) else DRAWN_SHAPE}
        name = run.network.name
        entry('loss', run.loss)  # raises UserError if there is none
        entry('network', name)
        if is_original(name):
            raise UserError(
                f'{name} is an ImageNet network, for tools/train_imagenet.py; for faces name {face_form(name)}'
            )

    def prepare(self, kvstore):
        """Open the data set; where there is none, the first worker draws it. Raises UserError."""
        if kvstore.rank == 0:
            self._draw_if_missing()
        wait_for_workers(kvstore)
        self.records = FaceRecords(self.folder, self.settings['image_shape'], self.data.on_bad_record)
        self.classes = self.records.classes
        if kvstore.rank == 0 and self.records.note:
            print(self.records.note)
        if kvstore.rank == 0 and self.is_verified:
            self._warn_of_pairs()

    def _draw_if_missing(self):
        if settle(self.folder):
            raise UserError(
                f'another run is writing into {self.folder}; wait until it has ended, or pass another --data'
            )
        if is_data_set(self.folder):
            print(f'using the data set that is in {self.folder}')
            return
        if os.path.isdir(self.folder) and os.listdir(self.folder):
            raise UserError(f'{self.folder} is neither empty nor a data set (it has no train.rec); pass another --data')
        if self.data.folder and not self.data.draw:
            raise UserError(
                f'there is no data set in {self.folder}; pass another --data, or add --draw to generate one there'
            )
        drawn = self.data.identities, self.data.images, self.data.pairs
        write_synthetic(self.folder, *drawn, self.run.seed)

    def checksum(self):
        """Return a checksum of the data."""
        return self.records.checksum()

    def _sets(self):
        """Return {name: path} of the verification sets; raises UserError if there are none."""
        return faces.sets_in(self.folder, self.data.sets)

    def _warn_of_pairs(self):
        """Report unverifiable sets before the training."""
        self.begun_with = {}
        try:
            sets = self._sets()
        except UserError as error:
            sys.stderr.write(f'{error}; there will be no verification, as with --no-verification\n')
            return
        for path in sets.values():
            self.begun_with[path] = identity(path)
            try:
                pairs = PairSet(path, self.settings['image_shape'])
                pairs.image(0)
                if len(pairs) < protocol.FOLDS:
                    raise UserError(f'{path}: {len(pairs)} pairs are not enough for {protocol.FOLDS} folds')
            except UserError as error:
                sys.stderr.write(f'{error}; there will be no verification of it\n')

    def head(self, embedding, settings):
        """Return the symbol to train."""
        loss, scale = entry('loss', self.run.loss), self.run.descent.loss_scale
        return losses.classifier(embedding, settings['emb_size'], self.classes, loss, scale)

    def head_parameters(self, settings):
        """Return the number of parameters that the loss adds."""
        return self.classes * settings['emb_size']

    def steps_per_epoch(self, batch_size):
        """Return the steps in which each image is seen once, with the fraction of the last; `batch_size` is of all."""
        return len(self.records) / batch_size

    def batches(self, batch_size, kvstore, step):
        """Return the batches from `step` on."""
        share = Share(self.run.seed, kvstore.rank, kvstore.num_workers, step)
        return FaceBatches(self.records, batch_size, share, self.data.augmentation, self.data.readers)

    def tell_bad(self, rank):
        """Print how many records were left out."""
        if self.records.bad:
            print(f'worker {rank} left out {self.records.count_bad()} records; the first: {self.records.first_bad()}')

    def measure(self, model, context):
        """Return ([Measured, …], problem or None) of a checkpoint, PREFIX,EPOCH, on the disk; raises UserError."""
        engine = engines.open_mxnet(model, self.run.per_batch_size, context, self.settings['image_shape'])
        found, problems = [], []
        for name, path in self._sets().items():
            try:
                if self.begun_with is not None and self.begun_with.get(path) != identity(path):
                    raise UserError(f'{path} was written during this training, and may show people who are in it')
                accuracy = faces.evaluate(engine, name, path).accuracy
                found.append(Measured(name, accuracy.mean, accuracy.deviation))
            except UserError as error:
                problems.append(str(error))
        return found, '; '.join(problems) or None


def identity(path):
    """Return a signature that detects a replaced file."""
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size
