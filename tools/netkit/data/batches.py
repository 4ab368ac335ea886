"""Batches for training: the order of the images, and their augmentation."""

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError


class FaceBatches:
    """An endless stream of training batches, shuffled in every pass and mirrored at random.

    The images of a step depend on `seed` and the number of the step only, so that a run can be resumed at any step. Of
    the images of a step, `num_parts` workers take `batch_size` each; this stream is that of worker `part_index`.
    """

    def __init__(self, records, batch_size, seed, part_index=0, num_parts=1, step=0):
        self.records, self.batch_size = records, batch_size
        self.seed, self.part_index, self.num_parts, self.step = seed, part_index, num_parts, step
        self._pass = None

    def next(self):
        """Return an mx.io.DataBatch: data (batch, 3, h, w) 0…255, label (batch,)."""
        data = np.empty((self.batch_size, 3) + self.records.image_shape[:2], np.float32)
        label = np.empty(self.batch_size, np.float32)
        first = (self.step * self.num_parts + self.part_index) * self.batch_size
        for row in range(self.batch_size):
            label[row], image = self._image(first + row)
            data[row] = image.transpose(2, 0, 1)
        self.step += 1
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])

    def _image(self, number):
        """Return (label, image) of the `number`-th image since the start; the next good one for a bad one."""
        for _ in range(len(self.records)):
            position, is_mirrored = self._order(number)
            found = self.records[position]
            if found:
                return found[0], found[1][:, ::-1] if is_mirrored else found[1]
            number += 1
        raise UserError(
            f'{self.records.path}: not one of its {len(self.records)} images is usable; the first: '
            f'{next(iter(self.records.bad.values()))}'
        )

    def _order(self, number):
        """Return (position, is_mirrored) of the `number`-th image since the start."""
        one_pass, place = divmod(number, len(self.records))
        if self._pass is None or self._pass[0] != one_pass:
            rng = np.random.RandomState([self.seed, 2, one_pass])
            self._pass = one_pass, rng.permutation(len(self.records)), rng.randint(2, size=len(self.records))
        return self._pass[1][place], self._pass[2][place]
