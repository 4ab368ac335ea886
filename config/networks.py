"""The network choices: the one table that knows them.

A row is what `--network NAME` sets: `net_name` is the builder module, the rest are config keys of the host
and settings of the builder (`symbols/face_blocks.py`). Keys that the host's `default` has too
(`per_batch_size`, `lr`, `wd`, `lr_steps`, …) become that network's command-line defaults there.

Plain Python without imports, so that `patch_insightface.py` can read it under any interpreter.
"""

# The schedule of the published result: 8 GPUs x 80 images, lr 0.1 divided by 10 at these steps.
PUBLISHED_RECIPE = {'per_batch_size': 80, 'lr': 0.1, 'lr_steps': '80000,160000,320000,400000,560000'}

NETWORKS = {
    'cru56': {'net_name': 'fcrunet', 'num_layers': 56, 'emb_size': 256, **PUBLISHED_RECIPE},
    'cru116': {'net_name': 'fcrunet', 'num_layers': 116, 'emb_size': 256, **PUBLISHED_RECIPE},
    'att56': {'net_name': 'fresattention', 'num_layers': 56, **PUBLISHED_RECIPE},
    'att92': {'net_name': 'fresattention', 'num_layers': 92, **PUBLISHED_RECIPE},
}
