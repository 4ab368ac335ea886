"""CRU-Net, Residual Attention Network and iResNet as PyTorch modules, by their names.

    model = crunet.create_model('cru116', pretrained='model.pt', num_features=512).eval()
    faces = [crunet.transform(crunet.align(path, points)) for path, points in photographs]
    one, other = torch.nn.functional.normalize(model(torch.stack(faces)))
    cosine = one @ other

Images are RGB, (n, 3, 112, 112), (x - 127.5) / 127.5 of x from 0 to 255, as insightface's arcface_torch hands them
over. Needs PyTorch; `align` and `transform` of images also Pillow and NumPy, `save_pretrained` safetensors.
"""

import fnmatch
import importlib.util
import os
import warnings

from .identifiers import WEIGHTS, read_config

# The programs in tools/ read `crunet.identifiers` without PyTorch, so it is imported where it is used.

OF_A_RUN = 'dropout', 'memonger', 'channels_last', 'fp16'  # settings of a run, not of a network


def list_models(pattern='*'):
    """Return the names of the networks that fit a pattern, as 'cru*'; those with `_imagenet` are the papers' own."""
    from . import symbol_torch

    return fnmatch.filter(symbol_torch.networks(), pattern)


def create_model(name, pretrained=None, num_features=None, **settings):
    """Return a network, a module of images (n, 3, height, width) to embeddings, or classes, (n, num_features) float32.

    `name` is one of `list_models`, with settings if needed (`'cru116:net_origin=release'`), the path of a symbol's
    JSON, or a folder that a module's `save_pretrained` wrote, with its settings and weights.
    `pretrained` is the path of a state dict (not True: there are no pretrained weights), `num_features` the size of
    the embedding (default: the network's own).
    `settings` are those of the builder (`net_multiplier=0.25`, `net_origin='release'`), and `dropout`, `memonger`,
    `channels_last` and `fp16` of `symbol_torch.get_model`. Raises ValueError, naming what there is.
    """
    from . import symbol_torch

    name = os.fspath(name)
    if pretrained is True:
        raise ValueError(f'there are no pretrained weights of {name}; pass the path of a state dict')
    if os.path.isdir(name) and name not in symbol_torch.networks():
        pretrained = pretrained or os.path.join(name, WEIGHTS)
        name, kept = read_config(name)
        settings = {**kept, **settings}
    else:
        name, given = symbol_torch.parsed(name)
        weights = given.pop('pretrained', None)
        pretrained, settings = pretrained or weights, {**given, **settings}
    if num_features is not None:
        settings['emb_size'] = int(num_features)
    model = symbol_torch.made(name, settings)
    if pretrained:
        symbol_torch.load_weights(model, os.fspath(pretrained))
    if not name.endswith('.json'):
        model.config = {'network': name, 'settings': {key: settings[key] for key in settings if key not in OF_A_RUN}}
    return model


def align(image, landmarks, size=112):
    """Return the face in a picture, aligned to ArcFace's template, as a PIL image of `size` pixels a side.

    `image` is a path, a PIL image, or an array (height, width, 3) uint8, RGB; `landmarks` are (5, 2) points (x, y) in
    it: left eye, right eye, nose, left and right corner of the mouth, as seen. Raises ValueError for other landmarks,
    and for points that coincide. Needs Pillow and NumPy.
    """
    import numpy as np

    from .alignment import aligned

    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f'landmarks are 5 points (x, y), finite numbers, not an array of {points.shape}: {landmarks}')
    return aligned(_picture(image), points, size)


def transform(image, size=(112, 112)):
    """Return an aligned face as the input of a network, (3, height, width) float32.

    `image` is a path, a PIL image, or an array (height, width, 3) uint8, RGB; a file or PIL image of another size
    is resized.
    """
    import torch

    from .symbol_module import HOST_MEAN, HOST_STD

    if isinstance(image, (str, os.PathLike)) or hasattr(image, 'convert'):
        from PIL import Image

        image = _picture(image).resize(size[::-1], Image.BILINEAR)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(*size, 3)
    else:
        pixels = image if torch.is_tensor(image) else torch.as_tensor(image.copy())  # its strides may be negative
    if pixels.shape != (*size, 3) or pixels.dtype != torch.uint8:
        raise ValueError(f'an image is (height, width, 3) uint8 of {size}, not {tuple(pixels.shape)} {pixels.dtype}')
    return (pixels.permute(2, 0, 1).float() - HOST_MEAN) / HOST_STD


def _picture(image):
    """Return a path, a PIL image or an array as an RGB PIL image, rotated by its EXIF data.

    Raises ValueError for an image of more than 8 bits a channel, which Pillow would cut off.
    """
    from PIL import Image, ImageOps

    if isinstance(image, (str, os.PathLike)):
        with Image.open(image) as file:
            return _picture(file)
    if not hasattr(image, 'convert'):
        import numpy as np

        image = Image.fromarray(np.ascontiguousarray(image))
    if image.mode.startswith(('I', 'F')):
        raise ValueError(f'an image has 8 bits a channel, not the mode {image.mode}')
    return ImageOps.exif_transpose(image).convert('RGB')


# Not in insightface's trainer, where the package is called `backbones.crunet`.
if __name__ == 'crunet' and importlib.util.find_spec('timm'):
    try:
        from . import timm_models  # noqa: F401
    except Exception as error:  # of an old timm, or one that does not fit PyTorch: the package does without
        warnings.warn(f'the ImageNet networks are not in timm, which has to be 1.0.31 or newer: {error}', stacklevel=2)
