"""Quantise an ONNX file to int8 with onnxruntime (static), leaving in float the layers that the embeddings need.

Convolutions and fully connected layers are quantised, between pairs of QuantizeLinear and DequantizeLinear (QDQ), which
onnxruntime, OpenVINO and TensorRT read: weights per filter, maps per tensor, by ranges from images. The engines'
requirements differ (SCHEMES).
"""

import contextlib
import os
import pathlib
from typing import Callable, Dict, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from netkit.deploy.compare import Different, compute_onnx, cosines, in_batches
from netkit.errors import UserError

OPERATORS = ['Conv', 'Gemm']  # that are quantised
CALIBRATION, HELD_OUT = 300, 100  # faces for the ranges, and others to judge by, by default
MIN_COSINE, MIN_CENTRED = 0.99, 0.97  # by default
TOGETHER = 4  # images that an ONNX file without a fixed batch gets at a time
FEW = 8  # images on which single layers are tried
WEIGHTS = 'weights'  # name of the file with them, while single layers are tried
MOST_LEFT = 0.5  # share of the layers that may stay in float


class Scheme(NamedTuple):
    """How numbers are quantised, and where, for one kind of machine."""

    signed: bool  # maps are int8 with a zero point of 0, not uint8 with any
    weight_bits: int
    outputs: bool  # the outputs of layers are quantised, not only their inputs
    biases: bool  # are quantised, to int32
    optimised: bool  # onnxruntime's int8 kernels judge it, not what the QDQ pairs say in float


SCHEMES = {
    # onnxruntime computes a layer in int8 only if its output is quantised too, and is half as fast with signed maps.
    # OpenVINO does not mind. Processors without VNNI add pairs of products in int16, which eight bits overflow.
    'cpu': Scheme(signed=False, weight_bits=7, outputs=True, biases=True, optimised=True),
    # TensorRT refuses other zero points than 0, and biases in int32.
    'tensorrt': Scheme(signed=True, weight_bits=8, outputs=False, biases=False, optimised=False),
}


class Promise(NamedTuple):
    """Limits of a quantised network, and the test data."""

    calibration: np.ndarray  # images for the ranges, (n, 3, height, width), as the file takes them
    held_out: np.ndarray  # other images
    min_cosine: float  # of the embeddings of `held_out`, against those in float
    min_centred: float  # the same, seen from their mean in float: faces of a network that learnt little lie together
    max_drop: float  # of the accuracy, in points
    accuracy: Optional[Callable[[str], float]] = None  # function of an ONNX file: its accuracy, in percent


class Outcome(NamedTuple):
    """How a quantised file does."""

    smallest: float  # cosine
    mean: float  # cosine
    centred: float  # minimum cosine, seen from the mean embedding in float
    drop: Optional[float]  # of the accuracy, in points; None if that was not asked for
    holds: bool


class Quantised(NamedTuple):
    """The result of a quantisation."""

    layers: int
    left: Dict[str, float]  # layers that stay in float: what quantising each alone takes from the mean cosine
    outcome: Outcome


class _Reader:
    """Hands images to onnxruntime's calibrator."""

    def __init__(self, name, images, batch):
        self.name, count = name, -(-len(images) // batch)
        self.batches = iter(tqdm(in_batches(images, batch), 'ranges', count, leave=False, disable=None))

    def get_next(self):
        """Return the next input, or None."""
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


class Quantiser:
    """Quantises one ONNX file in float, leaving out some layers, and judges the result."""

    def __init__(self, path, scratch, promise, batch=None, machine='cpu'):
        """Find the ranges.

        `scratch` is a folder for files, `batch` the images that the file takes, None for any; `machine` is a key of
        SCHEMES.
        """
        from google.protobuf.message import DecodeError
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        self.path, self.scratch, self.promise, self.batch = path, scratch, promise, batch or TOGETHER
        self.scheme = SCHEMES[machine]
        augmented = os.path.join(scratch, 'augmented.onnx')
        try:
            calibrator = create_calibrator(path, OPERATORS, augmented, CalibrationMethod.MinMax)
            self.model = load_model_with_shape_infer(pathlib.Path(path))
        except DecodeError:  # onnx did not notice that the disk was full
            raise UserError(f'cannot read back what was written into {scratch}; is the disk full?')
        (given,) = calibrator.infer_session.get_inputs()
        calibrator.collect_data(_Reader(given.name, promise.calibration, self.batch))
        self.ranges = calibrator.compute_data()
        os.remove(augmented)
        self.expected = self.embeddings(path, promise.held_out)
        self.accuracy = promise.accuracy(path) if promise.accuracy else None

    def embeddings(self, path, images):
        """Return the embeddings of an ONNX file, (n, size)."""
        return compute_onnx(path, images, self.batch, self.scheme.optimised)

    def layers(self):
        """Return the names of the layers that can be quantised."""
        return [node.name for node in self.model.graph.node if node.op_type in OPERATORS]

    def write(self, path, layers):
        """Write the network with these layers quantised."""
        import onnx

        onnx.save(self.quantised(copy_of(self.model), layers), path)

    def quantised(self, model, layers):
        """Quantise layers of a model, in place; return it."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        scheme = self.scheme
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=scheme.weight_bits < 8,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if scheme.signed else QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=list(layers),
            nodes_to_exclude=[],
            op_types_to_quantize=OPERATORS,
            extra_options={
                'ActivationSymmetric': scheme.signed,
                'QuantizeBias': scheme.biases,
                'OpTypesToExcludeOutputQuantization': [] if scheme.outputs else OPERATORS,
            },
        )
        quantizer.quantize_model()
        put_in_order(quantizer.model.model.graph)
        return quantizer.model.model

    def judge(self, path):
        """Return the Outcome of a quantised file."""
        promise, embeddings, drop = self.promise, self.embeddings(path, self.promise.held_out), None
        found, middle = cosines(embeddings, self.expected), self.expected.mean(axis=0)
        centred = float(cosines(embeddings - middle, self.expected - middle).min())
        holds = bool(found.min() >= promise.min_cosine and centred >= promise.min_centred)
        if self.accuracy is not None and holds:
            drop = self.accuracy - promise.accuracy(path)
            holds = drop <= promise.max_drop
        return Outcome(float(found.min()), float(found.mean()), centred, drop, holds)

    def costs(self, layers):
        """Return {layer: what quantising it alone takes from the mean cosine}, the largest first."""
        path, found = os.path.join(self.scratch, 'single.onnx'), {}
        images, expected = self.promise.held_out[:FEW], self.expected[:FEW]
        with self.light_model() as light:
            for layer in tqdm(layers, 'layers', leave=False, disable=None):
                self.write_alone(path, light, layer)
                found[layer] = 1 - float(cosines(self.embeddings(path, images), expected).mean())
        os.remove(path)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @contextlib.contextmanager
    def light_model(self):
        """Yield the model with its weights in a separate file, which need not be written for every layer."""
        import onnx

        light, path = copy_of(self.model), os.path.join(self.scratch, 'light.onnx')
        onnx.save(light, path, save_as_external_data=True, location=WEIGHTS)  # it takes them out of `light`
        yield light
        os.remove(path)
        os.remove(os.path.join(self.scratch, WEIGHTS))

    def write_alone(self, path, light, layer):
        """Write the network with one layer quantised, next to the weights of the others."""
        import onnx

        model = copy_of(light)
        (node,) = (node for node in model.graph.node if node.name == layer)
        whole = {array.name: array for array in self.model.graph.initializer}
        for array in model.graph.initializer:
            if array.name in node.input:
                array.CopyFrom(whole[array.name])
        onnx.save(self.quantised(model, [layer]), path)


def copy_of(model):
    """Return a copy of an ONNX model, or of a part of one."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def put_in_order(graph):
    """Move the nodes of an ONNX graph after their inputs, as the format requires; the others keep their order.

    Unlike onnxruntime's sorting, this leaves the nodes that insightface's client looks for among the first.
    """
    makers, ordered = {name: node for node in graph.node for name in node.output}, {}

    def put(node):
        if node.output[0] not in ordered:
            for name in node.input:
                if name in makers:
                    put(makers[name])
            ordered[node.output[0]] = node

    for node in graph.node:
        put(node)
    nodes = [copy_of(node) for node in ordered.values()]
    del graph.node[:]
    graph.node.extend(nodes)


def quantise(path, scratch, promise, batch=None, machine='cpu'):
    """Quantise the ONNX file `path` in place, with as few layers in float as `promise` needs; return Quantised.

    The other arguments are Quantiser's.
    Tries all layers, then without the costliest one, two, four, …, then what lies between. Raises Different, and leaves
    the file as it was, if half of the layers in float are not enough.
    """
    quantiser = Quantiser(path, scratch, promise, batch, machine)
    tried, kept = (os.path.join(scratch, name) for name in ('tried.onnx', 'kept.onnx'))
    layers = quantiser.layers()

    def attempt(left):
        quantiser.write(tried, [layer for layer in layers if layer not in left])
        outcome = quantiser.judge(tried)
        if outcome.holds:  # what is tried after it, and holds as well, has fewer layers in float
            os.replace(tried, kept)
        else:
            os.remove(tried)
        return outcome

    whole = outcome = attempt([])
    costs, few, most, limit = {}, 0, 0, max(1, int(MOST_LEFT * len(layers)))
    if not whole.holds:
        costs, most = quantiser.costs(layers), 1
        while not (outcome := attempt(costliest(costs, most))).holds:
            if most == limit:
                raise Different(broken(os.path.basename(path), promise, whole, outcome, most))
            few, most = most, min(2 * most, limit)
        while most - few > 1:
            middle = (few + most) // 2
            between = attempt(costliest(costs, middle))
            few, most, outcome = (few, middle, between) if between.holds else (middle, most, outcome)
    os.replace(kept, path)
    return Quantised(len(layers), {layer: costs[layer] for layer in costliest(costs, most)}, outcome)


def costliest(costs, count):
    """Return the first `count` layers."""
    return list(costs)[:count]


def broken(name, promise, whole, last, left):
    """Return the sentence for a promise that cannot be kept."""
    wanted = f'a minimum cosine of {promise.min_cosine:g}, from the mean face {promise.min_centred:g}'
    if promise.accuracy:
        wanted += f', and no more than {promise.max_drop:g} points of accuracy lost'
    return (
        f'{name} in int8 does not keep {wanted}: they are {whole.smallest:.4f} and {whole.centred:.4f}, and '
        f'{last.smallest:.4f} and {last.centred:.4f} with the {left} costliest layers in float'
    )
