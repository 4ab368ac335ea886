"""The deployed forms of a network, timed side by side on one number of threads."""

import os
import shutil
import statistics
import tempfile
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from netkit._mxnet import mx
from netkit.deploy.compare import cosines, in_batches
from netkit.deploy.exporting import save_onnx
from netkit.deploy.fold import fold
from netkit.deploy.int8 import MIN_CENTRED, MIN_COSINE, Promise, quantise
from netkit.deploy.plain import plain
from netkit.graph.nodes import Graph
from netkit.measure.mxnet_engine import Floor, Step, wait
from netkit.measure.runtimes import OnnxRuntime, OpenVINO
from netkit.measure.side_by_side import texts_of_times
from netkit.measure.timing import in_turns

COLUMNS = ('form', 'ms/image', 'spread', 'images/s', 'ratio', 'to onnxruntime', 'minimum cosine')
RUNTIME = 'onnxruntime'  # the form that the others are compared with, besides the first
NOISE = 12  # calibration images of it, for random weights


class Subject(NamedTuple):
    """A network to time."""

    label: str
    symbol: mx.sym.Symbol  # as it was trained
    image_shape: Tuple[int, int, int]  # height, width, channels
    parameters: Optional[Dict[str, np.ndarray]] = None  # None: random
    faces: Optional[Tuple[np.ndarray, np.ndarray]] = None  # for the ranges, and others to compare on; None: noise


class Row(NamedTuple):
    """The results of one form; times are for one image."""

    label: str
    seconds: List[float]
    ratio: float  # how many times as fast as the first form
    to_runtime: float  # … as onnxruntime in float32
    cosine: Optional[float]  # the smallest, of the embeddings with the first form's; None: not compared
    is_network: bool

    @property
    def median(self):
        return statistics.median(self.seconds)


class Deployed:
    """The files of a Subject: ONNX in float32 and in int8, in the folder `scratch`."""

    def __init__(self, subject, scratch):
        self.subject = subject
        shape = (1, 3, *subject.image_shape[:2])
        self.parameters = subject.parameters or random_parameters(subject.symbol, shape)
        self.graph, self.fewer, _ = fold(plain(Graph.of(subject.symbol)), self.parameters)
        self.in_float, self.in_int8 = (os.path.join(scratch, name) for name in ('float.onnx', 'int8.onnx'))
        save_onnx(self.in_float, self.graph, self.fewer, subject.image_shape, None, 'float32')
        shutil.copyfile(self.in_float, self.in_int8)
        noise = np.random.RandomState(0).randint(0, 256, (2 * NOISE, *shape[1:]))
        ranges, others = subject.faces or (noise[:NOISE], noise[NOISE:])
        # Random weights keep nothing: the last BatchNorm makes much of the little in which images of noise differ.
        cosine, centred = (MIN_COSINE, MIN_CENTRED) if subject.faces else (-1.0, -1.0)
        self.quantised = quantise(self.in_int8, scratch, Promise(ranges, others, cosine, centred, 0))

    def forms(self, batch):
        """Return {form: step} for batches of `batch` images; a step has `run(images)`, the floor apart."""
        subject, context = self.subject, mx.cpu()
        shape = (batch, 3, *subject.image_shape[:2])
        trained, folded = (
            Step(symbol, shape, context, training=False) for symbol in (subject.symbol, self.graph.symbol())
        )
        trained.load(self.parameters)
        folded.load(self.fewer)
        data = trained.data.asnumpy()
        return {
            'MXNet, as it is trained': trained,
            'MXNet, folded': folded,
            RUNTIME: OnnxRuntime(self.in_float, data),
            'onnxruntime, int8': OnnxRuntime(self.in_int8, data),
            'OpenVINO': OpenVINO(self.in_float, data, 'f32'),
            'OpenVINO, bfloat16': OpenVINO(self.in_float, data, 'bf16'),
            'OpenVINO, int8': OpenVINO(self.in_int8, data, 'f32'),
            'MXNet, convolutions and FCs alone': Floor(subject.symbol, shape, context, training=False),
        }

    def measure(self, batch, repetitions):
        """Return the Rows of all forms."""
        forms, expected, least = self.forms(batch), None, {}
        for label, step in forms.items():
            if self.subject.faces and not isinstance(step, Floor):
                found = embeddings(step, self.subject.faces[1], batch)
                expected = found if expected is None else expected
                least[label] = float(cosines(found, expected).min())
        *_, times = in_turns(
            {label: lambda step=step: step for label, step in forms.items()}, wait, None, repetitions, 0
        )
        seconds = {label: [second / batch for second in times[label]] for label in forms}
        medians = {label: statistics.median(times) for label, times in seconds.items()}
        first = next(iter(medians.values()))
        return [
            Row(
                label,
                times,
                first / medians[label],
                medians[RUNTIME] / medians[label],
                least.get(label),
                not isinstance(forms[label], Floor),
            )
            for label, times in seconds.items()
        ]


def measure(subject, sizes, repetitions):
    """Yield (title, Rows) of a Subject for each size of a batch, then print how many layers int8 has."""
    with tempfile.TemporaryDirectory() as scratch:
        files = Deployed(subject, scratch)
        for batch in sizes:
            yield f'{subject.label}, batch {batch}', files.measure(batch, repetitions)
    layers, left = files.quantised.layers, len(files.quantised.left)
    print(f'{layers - left} of {layers} layers in int8.')


def random_parameters(symbol, shape):
    """Return typical parameters of a symbol."""
    arrays = Step(symbol, shape, mx.cpu(), training=False).state()
    return {name: array.asnumpy() for name, array in arrays.items() if name != 'data'}


def embeddings(step, images, batch):
    """Return the outputs of a step for images."""
    return np.concatenate([step.run(part) for part in in_batches(images, batch)])[: len(images)]


def texts_of(row):
    """Return the texts of a Row, for the table with COLUMNS."""
    return (
        *texts_of_times(row),
        f'{row.ratio:.2f}×',
        f'{row.to_runtime:.2f}×',
        '–' if row.cosine is None else f'{row.cosine:.4f}',
    )
