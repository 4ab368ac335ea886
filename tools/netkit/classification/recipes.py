"""The authors' ImageNet training settings: the presets of train_imagenet.py, each with its source."""

from typing import NamedTuple, Tuple


class Recipe(NamedTuple):
    """The settings of a training run. `batch` is that of all processes, `steps` are epochs."""

    batch: int
    lr: float
    epochs: int
    steps: Tuple[int, ...]  # after which the learning rate is divided by 10
    wd: float
    nesterov: bool
    hsl: Tuple[int, int, int]  # the largest change of hue (of 180), saturation and lightness (of 255)
    color: float  # the largest share by which brightness, contrast and saturation change


RECIPES = {
    # The code of Duta et al. (github.com/iduta/iresnet): batch, learning rate, epochs and weight decay in args_file.py,
    # the steps and the crop in main.py. It changes no colours.
    'iresnet': Recipe(256, 0.1, 90, (30, 60, 80), 1e-4, False, (0, 0, 0), 0.0),
    # Crop, aspect ratio and HSL: README of github.com/cypw/CRU-Net. The schedule is the usual one for ImageNet: the
    # authors do not state theirs.
    'crunet': Recipe(256, 0.1, 90, (30, 60, 80), 1e-4, False, (20, 40, 50), 0.0),
    # Wang et al., arXiv 1704.06904, section 4, from memory: no copy of the text was at hand. Batches of 64, Nesterov,
    # the learning rate divided by 10 at 200k, 400k and 500k of 530k steps, which are 10, 20 and 25 of 26.5 epochs.
    'attention': Recipe(64, 0.1, 27, (10, 20, 25), 1e-4, True, (0, 0, 0), 0.0),
}
CROP, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # shares of the area, and ratios of its sides, of all three


def recipe_of(network):
    """Return the name of the preset for a network."""
    return 'crunet' if network.startswith('cru') else 'attention' if network.startswith('att') else 'iresnet'
