"""The verification behind a training: are two images of the same person?"""

import numpy as np
from tqdm import tqdm

from netkit._mxnet import mx
from netkit.evaluation import protocol


def embed(symbol, parameters, images, batch_size, contexts):
    """Return the sums of the embeddings of image and mirror image, (images, emb_size), as the host does.

    The network is `symbol` with `parameters`, {name: array}; `images` are (height, width, 3) of 0…255.
    """
    statistics = set(symbol.list_auxiliary_states())
    arrays = {name: mx.nd.array(array) for name, array in parameters.items()}
    module = mx.mod.Module(symbol, context=contexts, label_names=None)
    module.bind([('data', (batch_size, 3) + images[0].shape[:2])], for_training=False)
    module.set_params(
        {name: array for name, array in arrays.items() if name not in statistics},
        {name: array for name, array in arrays.items() if name in statistics},
    )
    views = [image for pair in zip(images, (image[:, ::-1] for image in images)) for image in pair]
    rows = []
    for start in tqdm(range(0, len(views), batch_size), unit='batch', desc='verifying', disable=None):
        part = np.stack(views[start : start + batch_size]).transpose(0, 3, 1, 2).astype(np.float32)
        padded = np.concatenate([part, np.zeros((batch_size - len(part),) + part.shape[1:], np.float32)])
        module.forward(mx.io.DataBatch([mx.nd.array(padded)]), is_train=False)
        rows.append(module.get_outputs()[0].asnumpy()[: len(part)])
    rows = np.concatenate(rows)
    return rows[0::2] + rows[1::2]


def accuracy(embeddings, same):
    """Return (mean, standard deviation) of the accuracy on verification pairs, as `evaluation.protocol` has it.

    `embeddings` is (2n, size), pair i being rows 2i and 2i + 1; `same` is (n,) bool. Raises ValueError for too few.
    """
    found = protocol.accuracy(protocol.distances(embeddings), same)
    return found.mean, found.deviation
