"""Batches for training: order, augmentation and decoding of the images."""

import collections
import math
import multiprocessing
import queue
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from typing import NamedTuple, Optional, Tuple

import numpy as np

from netkit._mxnet import mx
from netkit.data.augment import NO_AUGMENTATION, NUMBERS, prepared
from netkit.errors import UserError

ORDER, AUGMENTATION = 2, 4  # purposes of random numbers, next to the seed; 0 and 1 draw faces, 3 is Dropout's
AHEAD = 2  # batches that readers prepare ahead


class Share(NamedTuple):
    """The options that, with the data, determine the images of a stream of batches.

    So a run can resume at any step. In each step, every one of the `num_parts` workers takes a batch.
    """

    seed: int = 0
    part_index: int = 0  # the number of this worker
    num_parts: int = 1
    step: int = 0  # the steps that are done


ALONE = Share()


class Sample(NamedTuple):
    """An image of a step."""

    number: int  # since the start
    position: int  # in the data set
    read: Optional[Tuple[int, bytes]]  # label, and the bytes of the image; None for a bad record
    is_mirrored: bool
    numbers: Tuple[float, ...]  # the random ones of its augmentation


class FaceBatches:
    """An endless stream of training batches, shuffled in every pass and mirrored at random.

    `readers` is the number of processes that decode and augment the images ahead; the batches are the same.
    """

    def __init__(self, records, batch_size, share=ALONE, augmentation=NO_AUGMENTATION, readers=0):
        self.records, self.batch_size, self.augmentation = records, batch_size, augmentation
        self.seed, self.part_index, self.num_parts, self.step = share
        self._pass = None
        self._readers, self._ahead = Readers(readers) if readers else None, collections.deque()

    def close(self):
        """End the readers."""
        if self._readers:
            self._readers.close()

    def next(self):
        """Return an mx.io.DataBatch: data (batch, 3, h, w) 0…255, label (batch,)."""
        data = np.empty((self.batch_size, 3) + self.records.image_shape[:2], np.float32)
        label = np.empty(self.batch_size, np.float32)
        samples, images = self._next()
        for row, (sample, image) in enumerate(zip(samples, images)):
            label[row], image = self._good(sample, image)
            data[row] = image.transpose(2, 0, 1)
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])

    def _next(self):
        """Return the samples of the next step, and their images, unchecked."""
        if not self._readers:
            samples = self._samples()
            return samples, all_prepared(map(self._task, samples))
        while len(self._ahead) < AHEAD:
            samples = self._samples()
            self._ahead.append((samples, self._readers.begin(list(map(self._task, samples)))))
        samples, begun = self._ahead.popleft()
        return samples, self._readers.finish(begun)

    def _samples(self):
        """Return the samples of the next step, and count it."""
        whole = self.num_parts * self.batch_size
        mine = range(self.part_index * self.batch_size, (self.part_index + 1) * self.batch_size)
        numbers = np.random.RandomState([self.seed, AUGMENTATION, self.step]).uniform(size=(whole, NUMBERS))
        first = self.step * whole
        self.step += 1
        return [self._sample(first + place, tuple(numbers[place])) for place in mine]

    def _sample(self, number, numbers):
        """Return the `number`-th sample since the start."""
        position, is_mirrored = self._order(number)
        return Sample(number, position, self.records.read(position), is_mirrored, numbers)

    def _task(self, sample):
        """Return the arguments of `prepared` for a sample; None for a bad record."""
        return sample.read and (sample.read[1], sample.is_mirrored, self.augmentation, sample.numbers)

    def _good(self, sample, image):
        """Return (label, image) of a sample, or, if it is bad, of the next good one."""
        for following in range(sample.number + 1, sample.number + 1 + len(self.records)):
            checked = self.records.checked(sample.position, image) if sample.read else None
            if checked is not None:
                return sample.read[0], checked
            sample = self._sample(following, sample.numbers if sample.read else (0.5,) * NUMBERS)
            image = prepared(*self._task(sample)) if sample.read else None
        raise UserError(
            f'{self.records.path}: not one of its {len(self.records)} images is usable; the first: '
            f'{self.records.first_bad()}'
        )

    def _order(self, number):
        """Return (position, is_mirrored) of the `number`-th image since the start."""
        one_pass, place = divmod(number, len(self.records))
        if self._pass is None or self._pass[0] != one_pass:
            rng = np.random.RandomState([self.seed, ORDER, one_pass])
            self._pass = one_pass, rng.permutation(len(self.records)), rng.randint(2, size=len(self.records))
        return self._pass[1][place], self._pass[2][place]


def all_prepared(tasks):
    """Return the images for arguments of `prepared`; None for a None argument or an undecodable image."""
    return [task and prepared(*task) for task in tasks]


class Readers:
    """Processes that prepare images.

    Each has its own pipe, to notice a killed process, even during a write; the standard library's executor waits
    forever.
    """

    def __init__(self, count):
        context = multiprocessing.get_context('spawn')  # MXNet does not survive a fork
        self.processes, self._idle = [], queue.SimpleQueue()
        # The processes inherit the blocked Ctrl-C; only this process handles it, after all are started. Python's
        # resource tracker, which starts with the first of them, would unblock it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(count):
                here, there = context.Pipe()
                self.processes.append(context.Process(target=serve, args=(there,), daemon=True))
                self.processes[-1].start()
                there.close()  # else its end would not be seen here
                self._idle.put(here)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._threads = ThreadPoolExecutor(count)

    def begin(self, tasks):
        """Begin the arguments of `prepared`, in as many parts as there are readers; return what `finish` takes."""
        size = math.ceil(len(tasks) / len(self.processes))
        return [self._threads.submit(self._prepare, tasks[at : at + size]) for at in range(0, len(tasks), size)]

    @staticmethod
    def finish(begun):
        """Return the images of what was begun; raises UserError if a reader was ended from outside."""
        try:
            return [image for part in begun for image in part.result()]
        except (EOFError, OSError):
            raise UserError('a process of --readers was ended from outside; take fewer, if memory is short')

    def _prepare(self, tasks):
        connection = self._idle.get()
        try:
            connection.send(tasks)
            return connection.recv()
        finally:
            self._idle.put(connection)

    def close(self):
        """End the processes after their current work."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()
        for process in self.processes:
            process.join()


def serve(connection):
    """Prepare images for the process at the other end, until it closes the connection."""
    while True:
        try:
            connection.send(all_prepared(connection.recv()))
        except (EOFError, OSError):
            return
