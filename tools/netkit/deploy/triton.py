"""A model repository for NVIDIA's Triton inference server.

    FOLDER/NAME/config.pbtxt
    FOLDER/NAME/1/model.onnx

The server puts requests that wait into one batch; the file therefore has to take any number of images.
"""

import json
import os
import shutil

from netkit.errors import UserError

LARGEST_BATCH = 32
CONFIG = """\
name: {name}
backend: "onnxruntime"
max_batch_size: {batch}
input [
  {{
    name: {input}
    data_type: TYPE_FP32
    dims: [ {input_dims} ]  # raw 0…255 RGB of an aligned face: the network normalises it itself
  }}
]
output [
  {{
    name: {output}
    data_type: TYPE_FP32
    dims: [ {output_dims} ]
  }}
]
# Requests that are waiting share a batch; none waits for others to come (max_queue_delay_microseconds).
dynamic_batching {{ }}
"""


def check_new(folder, name):
    """Raise UserError if the repository `folder` has a model `name` already."""
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        raise UserError(f'{path} already exists; remove it, or pass another --output or --triton')


def write(folder, name, onnx_path):
    """Write the model `name`, an ONNX file, into the repository `folder`."""
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    (given,), (returned,) = graph.input, graph.output
    versions = os.path.join(folder, name, '1')
    os.makedirs(versions)
    shutil.copyfile(onnx_path, os.path.join(versions, 'model.onnx'))
    text = CONFIG.format(
        name=quoted(name),
        batch=LARGEST_BATCH,
        input=quoted(given.name),
        input_dims=dimensions(given),
        output=quoted(returned.name),
        output_dims=dimensions(returned),
    )
    with open(os.path.join(folder, name, 'config.pbtxt'), 'w', encoding='utf-8') as file:
        file.write(text)


def quoted(text):
    """Return a string of protobuf's text format."""
    return json.dumps(text, ensure_ascii=False)  # whose escapes that format has, too


def dimensions(value):
    """Return the dimensions of one image, or one embedding, as text."""
    return ', '.join(str(axis.dim_value) for axis in value.type.tensor_type.shape.dim[1:])
