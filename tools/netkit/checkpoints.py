"""Read, write and check checkpoints: PREFIX-symbol.json and PREFIX-EPOCH.params of MXNet, arcface_torch's state dicts.

Parameters have MXNet's names.
"""

import glob
import os
import re

import numpy as np

from crunet.identifiers import (
    CONFIG,
    STEM_WEIGHTS,
    WEIGHTS,
    identifiers,
    mxnet_names,
    owners_of,
    read_config,
    torch_name,
)
from netkit import params_file, state_dict
from netkit.errors import UserError, refusals
from netkit.files import settle
from netkit.graph.naming import is_label, stage_of
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol, save_symbol


def parse_model(text):
    """Return (prefix, epoch) of `PREFIX,EPOCH`, insightface's notation; raises UserError."""
    prefix, _, epoch = text.rpartition(',')
    if not prefix or not epoch.strip().isdecimal() or len(epoch) > 9:
        example = meant(text) or ', like models/r100-arcface-emore/model,36'
        raise UserError(f'{text} is neither PREFIX,EPOCH nor FILE.pt{example}')
    return prefix, int(epoch)


def meant(text):
    """Return '; did you mean PREFIX,EPOCH?' for a checkpoint's file or the prefix of an existing one; else ''.

    For an ONNX file, name the tool that takes it.
    """
    if text.endswith('.onnx'):
        return '; it is an ONNX file, which tools/evaluate.py takes'
    match = re.fullmatch(r'(.+?)(?:-(\d{4,9})\.params|-symbol\.json)?', text)
    prefix, epoch = match.groups() if match else (text, None)
    found = [path[len(prefix) + 1 : -len('.params')] for path in glob.glob(glob.escape(prefix) + '-*.params')]
    epochs = [int(epoch)] if epoch else [int(part) for part in found if re.fullmatch(r'\d{4,9}', part)]
    return f'; did you mean {prefix},{max(epochs)}?' if epochs else ''


def is_state_dict(model):
    """Return whether a model is a state dict of arcface_torch, by its file name, or a folder of the package."""
    return model.endswith(state_dict.SUFFIXES) or os.path.isfile(os.path.join(model, CONFIG))


def shared_network(folder):
    """Return the network of a folder that `crunet.save_pretrained` wrote, NETWORK or NETWORK:SETTING=VALUE,…

    Omits the embedding size, which the weights show. None for a file of weights; raises UserError.
    """
    if not os.path.isfile(os.path.join(folder, CONFIG)):
        return None
    try:
        network, settings = read_config(folder)
    except ValueError as error:
        raise UserError(str(error))
    text = ','.join(f'{key}={value}'.replace(' ', '') for key, value in settings.items() if key != 'emb_size')
    return network + (text and f':{text}')


def parameters_path(model):
    """Return the path of the parameters of a model, PREFIX,EPOCH or model.pt; raises UserError."""
    return weights_path(model) if is_state_dict(model) else files(*parse_model(model))[1]


def weights_path(model):
    """Return the path of the file of a state dict, or of the one in a folder of `crunet.save_pretrained`."""
    return os.path.join(model, WEIGHTS) if os.path.isdir(model) else model


def epoch_of(model):
    """Return the epoch of a model, PREFIX,EPOCH, or 0 for a state dict, which has none. Raises UserError."""
    return 0 if is_state_dict(model) else parse_model(model)[1]


def files(prefix, epoch):
    """Return the paths of a checkpoint's symbol and parameters."""
    return f'{prefix}-symbol.json', f'{prefix}-{epoch:04d}.params'


def save(prefix, epoch, symbol, parameters):
    """Write a checkpoint of `symbol` and `parameters`, {name: array}, as MXNet's Module does, and read it back.

    Raises UserError if it was not written completely.
    """
    symbol_path, path = files(prefix, epoch)
    save_symbol(symbol_path, symbol)
    statistics = set(symbol.list_auxiliary_states())
    arrays = {
        ('aux:' if name in statistics else 'arg:') + name: np.asarray(values, np.float32)
        for name, values in parameters.items()
    }
    params_file.write(path, arrays)
    try:
        written = load_arrays(path)
        is_whole = set(written) == set(arrays) and all(
            np.array_equal(written[name], array, equal_nan=True) for name, array in arrays.items()
        )
    except UserError:
        is_whole = False
    if not is_whole:
        raise UserError(f'{os.path.basename(path)} could not be written completely; is the disk full?')


def save_state_dict(path, symbol, parameters):
    """Write the `parameters` of a symbol, {name: array}, as a state dict, and read it back.

    Names become PyTorch identifiers (`torch_name`), as in its reader of symbol JSON. A gamma that MXNet treats as 1,
    whatever its value (`fix_gamma`), is written as 1. Raises UserError if the file was not written completely.
    """
    parameters = dict(parameters)
    nodes = Graph.of(symbol).nodes()
    for node in nodes:
        if node.op == 'BatchNorm' and node.attr('fix_gamma', True):
            gamma = node.inputs[1][0].name
            parameters[gamma] = np.ones_like(parameters[gamma])
    names = identifiers([node.name for node in nodes])
    parameters = {torch_name(names[name]): array for name, array in parameters.items()}
    state_dict.write(path, parameters)
    written = read_with(state_dict.read, path, 'a state dict of PyTorch')
    if any(not np.array_equal(written[name], values, equal_nan=True) for name, values in parameters.items()):
        raise UserError(f'{os.path.basename(path)} could not be written completely; is the disk full?')


def read_with(reader, path, kind):
    """Return the result of `reader(path)`; raises UserError if the file is not of that `kind`."""
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except ValueError as error:
        raise UserError(f'{path} is not readable as {kind}: {error}')


def load_arrays(path):
    """Return the arrays of a .params file, {name: array}; raises UserError, also for arrays without names."""
    arrays = read_with(params_file.read, path, 'an MXNet .params file')
    if not isinstance(arrays, dict):
        raise UserError(f'{path} holds no names')
    return arrays


def load_parameters(path):
    """Return the parameters and moving statistics of a checkpoint as {name: float32 array}; raises UserError.

    `path` is that of a .params file or of a state dict.
    """
    if is_state_dict(path):
        return load_state_dict(path)
    settle(os.path.dirname(path) or os.curdir)
    parameters = {}
    for key, values in load_arrays(path).items():
        kind, _, name = key.partition(':')
        if kind not in ('arg', 'aux'):
            raise UserError(f'{path} is not a checkpoint of a Module: {key} has neither arg: nor aux: in front')
        if values.dtype.kind != 'f':
            raise UserError(f'{path} holds {name} as {values.dtype}, which is not a number with a fraction')
        parameters[name] = values.astype(np.float32, copy=False)
    return parameters


def load_state_dict(path):
    """Return the tensors of a state dict as {MXNet's name: float32 array}; raises UserError.

    For a larger saved module, as by Lightning, returns only the tensors of the network in it.
    """
    arrays = read_with(state_dict.read, weights_path(path), 'a state dict of PyTorch')
    owners = owners_of(arrays)
    if len(owners) > 1:
        raise UserError(f'{path} has several networks, {", ".join(owners)}; save the state dict of one of them')
    for owner in owners:
        arrays = {name[len(owner) :]: values for name, values in arrays.items() if name.startswith(owner)}
    if STEM_WEIGHTS[1] in arrays:
        names = mxnet_names({name: values.ndim for name, values in arrays.items()})
        arrays = {names[name]: arrays[name] for name in names}
    return {name: values.astype(np.float32, copy=False) for name, values in arrays.items()}


def load(prefix, epoch):
    """Return (symbol, parameters) of a checkpoint; raises UserError."""
    symbol_path, parameters_path = files(prefix, epoch)
    settle(os.path.dirname(symbol_path) or os.curdir)
    return load_symbol(symbol_path), load_parameters(parameters_path)


def fitting(parameters, symbol, image_shape, path):
    """Return the `parameters`, read from `path`, that `symbol` uses (no classification layer).

    Raises UserError, naming the first parameter that is missing, has another shape than in the symbol for images of
    `image_shape`, contains NaN or infinity, or belongs to a stage that the symbol does not have.
    """
    wanted = wanted_shapes(symbol, image_shape)
    for name, shape in wanted.items():
        if name not in parameters:
            raise UserError(f'{path} has no {name}; is it a checkpoint of another network?')
        if parameters[name].shape != shape:
            raise UserError(
                f'{path} has {name} in shape {parameters[name].shape} where the network needs {shape}; is '
                'it a checkpoint of another network, or for images of another size?'
            )
        if not np.isfinite(parameters[name]).all():
            raise UserError(f'{path} has NaN or infinity in {name}; take an earlier checkpoint')
    for name in parameters:
        if stage_of(name) and name not in wanted:
            raise UserError(f'{path} has {name}, for which there is no place; is it a checkpoint of another network?')
    return {name: parameters[name] for name in wanted}


def wanted_shapes(symbol, image_shape):
    """Return {name: shape} of the parameters and moving statistics of a symbol; raises UserError."""
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    if 'data' not in names:
        raise UserError('the network has no input called data')

    def of_batch(batch):
        with refusals('the network does not take images of {}×{}'.format(*image_shape[:2])):
            arguments, _, statistics = symbol.infer_shape_partial(data=(batch, 3, *image_shape[:2]))
        shapes = dict(zip(names, arguments + statistics))
        return {name: shape for name, shape in shapes.items() if name != 'data' and not is_label(name)}

    shapes = of_batch(1)
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise UserError(
                f'nothing in the network tells the shape of {name}; is it a second input, or an operator without shape?'
            )
    for name, shape in of_batch(2).items():
        if shape != shapes[name]:
            raise UserError(
                f'the network is for a fixed number of images: with two, {name} is of {shape}, not {shapes[name]}; '
                'write 0 or -1 in place of that number in its Reshape'
            )
    return shapes
