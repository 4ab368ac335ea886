"""The only table of the networks.

A row is what `--network NAME` sets: `net_name` is the builder module, the rest are config keys of insightface
and settings of the builder (`symbols/face_blocks.py`). Keys that insightface's `default` has too
(`per_batch_size`, `lr`, `wd`, `lr_steps`, …) become that network's command-line defaults there.

`NAME_imagenet` is the network of its paper, for `--dataset imagenet` (224x224, 1000 classes).

Plain Python without imports, so that `patch_insightface.py` can read it under any interpreter.
"""

# The schedule of the published face result: 8 GPUs x 80 images, lr 0.1 divided by 10 at these steps. A GPU
# with 11 GB fits 80 images only with `memonger`, and even then not for the deepest networks, which take fewer
# (`tools/measure.py networks --memory`; weights, gradients, momentum, classes and CUDA itself need up to 5 GB more).
FACE_RECIPE = {'per_batch_size': 80, 'lr': 0.1, 'lr_steps': '80000,160000,320000,400000,560000', 'memonger': True}
# The usual one for ImageNet: 8 GPUs x 32 images, lr 0.1 divided by 10 after 30, 60 and 80 epochs of 5005 steps.
IMAGENET_RECIPE = {'per_batch_size': 32, 'lr': 0.1, 'wd': 0.0001, 'lr_steps': '150150,300300,400400'}
# 7x7/2 stem, ReLU, and a classifier in place of the embedding.
IMAGENET_FORM = {'emb_size': 1000, 'net_input': 0, 'net_act': 'relu', 'net_output': 'C'}

_FACE, _ORIGINAL = {}, {}


def _add(name, face, original, face_recipe=None, imagenet_recipe=None):
    """Add a network: the settings of its face variant and its ImageNet variant, and changes to the recipes."""
    _FACE[name] = dict(dict(face, **FACE_RECIPE), **(face_recipe or {}))
    _ORIGINAL[name + '_imagenet'] = dict(
        dict(dict(face, **IMAGENET_FORM), **dict(original, **IMAGENET_RECIPE)), **(imagenet_recipe or {})
    )


_RECOMPUTE = {'memonger': True}
for _depth in (56, 116):
    _add('cru%d' % _depth, {'net_name': 'fcrunet', 'num_layers': _depth, 'emb_size': 256}, {'net_unit': 2})
for _depth, _face_recipe, _imagenet_recipe in (
    (56, {}, {}),
    (92, {}, {}),
    (128, {'per_batch_size': 64}, _RECOMPUTE),
    (164, {'per_batch_size': 48}, _RECOMPUTE),
    (200, {'per_batch_size': 40}, _RECOMPUTE),
    (236, {'per_batch_size': 32}, _RECOMPUTE),
    (452, {'per_batch_size': 16}, {'memonger': True, 'per_batch_size': 16}),
):
    _add(
        'att%d' % _depth,
        {'net_name': 'fresattention', 'num_layers': _depth},
        {'net_unit': 2, 'net_mask_up': 'paper'},
        _face_recipe,
        _imagenet_recipe,
    )
for _depth, _imagenet_recipe in ((56, {}), (92, _RECOMPUTE)):
    _add(
        'attnext%d' % _depth,
        {'net_name': 'fresattention', 'num_layers': _depth, 'num_group': 32},
        {'net_unit': 1, 'net_mask_up': 'paper'},
        {},
        _imagenet_recipe,
    )
for _depth, _face_recipe, _imagenet_recipe in (
    (18, {}, {}),
    (34, {}, {}),
    (50, {}, {}),
    (101, {}, {}),
    (152, {}, {}),
    (200, {}, _RECOMPUTE),
    (302, {}, _RECOMPUTE),
    (404, {'per_batch_size': 64}, _RECOMPUTE),
    (1001, {'per_batch_size': 32}, _RECOMPUTE),
):
    _add('ires%d' % _depth, {'net_name': 'firesnet', 'num_layers': _depth}, {}, _face_recipe, _imagenet_recipe)
for _name, _num_group in (('iresgroup', (8, 16, 32, 64)), ('iresgroupfix', 64)):
    for _depth, _face_recipe, _imagenet_recipe in (
        (50, {}, {}),
        (101, {}, {}),
        (152, {'per_batch_size': 64}, _RECOMPUTE),
    ):
        _add(
            '%s%d' % (_name, _depth),
            {'net_name': 'firesnet', 'num_layers': _depth, 'num_group': _num_group},
            {},
            _face_recipe,
            _imagenet_recipe,
        )

# iResNet's baseline ResNet, as its authors trained it: for ImageNet only.
for _depth, _imagenet_recipe in ((50, {}), (101, {}), (152, {}), (200, _RECOMPUTE)):
    _ORIGINAL['resnet%d_imagenet' % _depth] = dict(
        {'net_name': 'firesnet', 'num_layers': _depth, 'net_staged': False, 'net_pooled': False},
        **dict(dict(IMAGENET_FORM, **IMAGENET_RECIPE), **_imagenet_recipe),
    )

NETWORKS = dict(_FACE, **_ORIGINAL)
