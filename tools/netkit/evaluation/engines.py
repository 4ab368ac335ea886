"""A network that can be run: a checkpoint in MXNet, or an ONNX file in onnxruntime.

An engine takes (n, 3, height, width) raw 0…255 RGB of any n, in batches of a fixed size, and returns (n, size) float32.
"""

import numpy as np

from netkit._mxnet import mx
from netkit.checkpoints import is_state_dict, meant
from netkit.errors import UserError, reason, refusals
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.naming import is_label
from netkit.onnx_session import open_session
from netkit.targets import of_checkpoint

# Prefixes of node names by which insightface's client knows that a network normalises its input itself, and how it
# normalises it otherwise.
SELF_NORMALISING = ('Sub', '_minus'), ('Mul', '_mul')
FIRST_NODES = 8
MEAN = STD = 127.5


class Engine:
    """A network that runs batches of `batch` images; subclasses implement `run`."""

    def __init__(self, label, image_shape, batch):
        self.label, self.image_shape, self.batch = label, tuple(image_shape), batch
        self.target = None  # what is known of a checkpoint's network

    def run(self, images):
        """Return the outputs for exactly `batch` images."""
        raise NotImplementedError

    def __call__(self, images):
        """Return the outputs, (n, size), for images, (n, 3, height, width)."""
        rows = []
        for start in range(0, len(images), self.batch):
            part = np.asarray(images[start : start + self.batch], np.float32)
            missing = self.batch - len(part)
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
            rows.append(self.run(padded)[: len(part)])
        return np.concatenate(rows)


class MXNetEngine(Engine):
    """A Target with parameters in MXNet."""

    def __init__(self, target, batch, context):
        super().__init__(target.label, target.image_shape, batch)
        self.target = target
        with refusals('MXNet cannot compute the network'):
            on_cpu = context.device_type == 'cpu'
            symbol = for_cpu(target.symbol, target.image_shape) if on_cpu else target.symbol
            self.executor = symbol.simple_bind(context, grad_req='null', data=(batch, 3, *target.image_shape[:2]))
        for arrays in (self.executor.arg_dict, self.executor.aux_dict):
            for name, array in arrays.items():
                if name != 'data' and not is_label(name):
                    array[:] = target.parameters[name]

    def run(self, images):
        """Return the outputs for exactly `batch` images."""
        output = self.executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()
        return output.reshape(len(output), -1)


class OnnxEngine(Engine):
    """An ONNX file in onnxruntime, with the normalisation that insightface's client would apply."""

    def __init__(self, path, batch, image_shape=None):
        import onnx

        try:
            names = [str(node.name) for node in onnx.load(path).graph.node[:FIRST_NODES]]
            session = open_session(path)
            inputs = [(end.name, end.shape) for end in session.get_inputs()]
            outputs = [end.name for end in session.get_outputs()]
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror or error}')
        except ModuleNotFoundError:
            raise
        except Exception as error:  # onnx and onnxruntime have many for files that are none
            raise UserError(f'{path} is not an ONNX file that onnxruntime can run: {reason(error)}')
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0][1]) != 4:
            raise UserError(
                f'{path} is not a network from images to embeddings: it has {len(inputs)} inputs and '
                f'{len(outputs)} outputs'
            )
        ((self.input, (images, channels, height, width)),) = inputs
        if channels != 3:
            raise UserError(f'{path} takes images of {channels} channels in the first place, not 3')
        sizes = height, width
        if not all(isinstance(side, int) for side in sizes):
            sizes = (image_shape or (112, 112, 3))[:2]
        self.fixed = images if isinstance(images, int) else None  # the only number of images that the file takes
        super().__init__(path, (*sizes, 3), self.fixed or batch)
        self.is_raw = all(any(name.startswith(known) for name in names) for known in SELF_NORMALISING)
        self.session = session

    def normalised(self, images):
        """Return raw images as the file takes them."""
        return images if self.is_raw else (np.float32(images) - np.float32(MEAN)) / np.float32(STD)

    def run(self, images):
        """Return the outputs for exactly `batch` images."""
        try:
            (output,) = self.session.run(None, {self.input: self.normalised(images)})
        except Exception as error:  # onnxruntime has many for networks that cannot be computed
            raise UserError(f'onnxruntime cannot compute {self.label}: {reason(error)}')
        return output.reshape(len(output), -1)


def open_mxnet(model, batch, context, image_shape=None):
    """Return the Engine of a checkpoint, PREFIX,EPOCH, on a context; raises UserError."""
    return MXNetEngine(of_checkpoint(model, image_shape), batch, context)


def open_engine(model, batch, network=None, image_shape=None, multiplier=1.0, otherwise=None):
    """Return the Engine of MODEL: PREFIX,EPOCH, FILE.pt or FILE.onnx; raises UserError.

    `network`, `image_shape` and `multiplier` are those of `targets.of_options`, `otherwise` of `targets.of_checkpoint`.
    """
    if model.endswith('.onnx'):
        return OnnxEngine(model, batch, image_shape)
    if ',' not in model and not is_state_dict(model):
        advice = meant(model) or ': name a checkpoint, PREFIX,EPOCH, or a .pt or .onnx file'
        raise UserError(f'{model} is not a model{advice}')
    target = of_checkpoint(model, image_shape, network, multiplier, otherwise)
    context = mx.gpu(0) if mx.context.num_gpus() else mx.cpu(0)
    return MXNetEngine(target, batch, context)
