"""Images from files."""

import numpy as np

from netkit.errors import UserError


def read_image(path, height, width):
    """Return the image at `path`, resized, as (height, width, 3) uint8 RGB; raises UserError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(('I', 'F')):  # 16 or 32 bits per channel, which `convert` would turn to white
                raise UserError(f'--image {path} has more than 8 bits a channel; save it with 8')
            return np.asarray(image.convert('RGB').resize((width, height), Image.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f'--image {path} is not readable as an image: {error}')
