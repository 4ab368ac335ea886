"""The names of the parameters in released files of CRU-Nets and attention networks.

Four naming schemes: the face networks of 2018 in MXNet (`fcrunet.py`, `fresattnet.py`), the CRU-Nets of their authors,
and the attention networks in PyTorch of tengshaofeng, on whose blocks FaceX-Zoo's are built.
"""

import re

from netkit.iresnet import SUFFIXES as TORCH

STAGES = 4
PARAMETER = re.compile(r'(.+)_(weight|bias|gamma|beta|moving_mean|moving_var)')
UNIT = re.compile(r'stage(\d)_unit(\d+)_(.+)')
SHARED = re.compile(r'stage(\d)_group(\d+)_conv(\d)')
MODULE = re.compile(r'stage(\d)_attention(\d+)_(.+)')
MASK_UNIT = re.compile(r'mask_(down|up|skip)(\d)_(?:unit1_)?(.+)')
MASK_END = re.compile(r'mask_((?:bn|relu|conv)\d)')
ROLE = re.compile(r'(unit1|trunk_unit1|trunk_unit2|close)_(.+)')


def split(name):
    """Return (layer, kind) of one of our parameters, ('stage1_unit1_conv1', 'weight')."""
    return PARAMETER.fullmatch(name).groups()


def mask_step(stage, way, level):
    """Return (number, half) of a mask's unit where units are counted along the mask, and the lowest two share a number.

    Masks of stage 1, 2, 3 have 3, 2, 1 levels: down1, down2, (down3, up3), up2, up1 in stage 1. `half` is 0 or 1 for
    the lowest two, None for the others.
    """
    levels = STAGES - stage
    number = level if way == 'down' else 2 * levels - level
    return number, (0 if way == 'down' else 1) if level == levels else None


def mask_end(stage):
    """Return the number of the two last convolutions of a mask, counted on from its units."""
    return 2 * (STAGES - stage)


# ------------------------------------------------------------------------- CRU-Net, the faces of 2018 and its authors'

PLACES = {
    False: ('c1x1-a', 'c3x3-b', 'c1x1-c'),  # the convolutions of a unit
    True: ('c1x1-a', 'c3x3-b(1)', 'c1x1-b', 'c1x1-c'),  # of a collective one
}
BASES = {'1': '1x1_bases[dim3]_weight', '2': '3x3_bases[dim21]_weight'}  # of the shared convolutions
CRU_FACE = {'conv0': 'conv1_conv2d', 'bn0': 'conv1-bn1_batchnorm', 'relu0': 'conv1-bn1_prelu'}
CRU_ORIGINAL = {
    'conv0': 'conv1_x_1__conv',
    'bn0': 'conv1_x_1__relu-sp__bn',
    'bn1': 'conv5_x_x__relu-sp__bn',
    'fc1': 'fc6',
}


def is_collective(unit, expected):
    """Return whether a unit, `stage2_unit1`, is collective: these have four convolutions."""
    return unit + '_conv4_weight' in expected


def cru_face_names(expected):
    """Return {our name: [its name in fcrunet.py of 2018]}."""

    def layer_of(layer):
        unit = UNIT.fullmatch(layer)
        if not unit:
            return CRU_FACE.get(layer, layer)  # the head has insightface's names
        stage, number, inside = unit.groups()
        collective = is_collective(f'stage{stage}_unit{number}', expected)
        prefix, places = f'conv{int(stage) + 1}_x_{number}_', PLACES[collective]
        strided = '(s/key)' if collective else '(s/2)'
        projections = {
            'shortcut': f'c1x1-w{strided}_conv2d',
            'shortcut_bn': f'bn-c1x1-w{strided}_batchnorm',
            'project': 'c1x1-w(s/1)_conv2d',
            'project_bn': 'bn-c1x1-w(s/1)_batchnorm',
        }
        if inside in projections:
            return prefix + projections[inside]
        kind, place = re.fullmatch(r'(bn|conv|relu)(\d)', inside).groups()
        if int(place) > len(places):
            return prefix + 'bn-c1x1-c_batchnorm'
        return f'{prefix}{places[int(place) - 1]}_' + {'bn': 'batchnorm', 'conv': 'conv2d', 'relu': 'prelu'}[kind]

    return cru_names(expected, layer_of, lambda stage, group, _: f'x_{group}' if stage == 3 else 'x')


def cru_original_names(expected):
    """Return {our name: [its name in the files of CRU-Net's authors]}."""

    def layer_of(layer):
        unit = UNIT.fullmatch(layer)
        if not unit:
            return CRU_ORIGINAL.get(layer)
        stage, number, inside = unit.groups()
        collective = is_collective(f'stage{stage}_unit{number}', expected)
        prefix, strided = f'conv{int(stage) + 1}_x__{number}_', '(s/1)' if stage == '1' else '(s/2)'
        projections = {
            'shortcut': 'c1x1-w',
            'project': 'c1x1-w',
            'shortcut_bn': 'c1x1-w{}__bn__bn'.format('(s/key)' if collective else strided),
            'project_bn': 'c1x1-w(s/1)__bn__bn',
        }
        if inside in projections:
            return prefix + projections[inside]
        kind, place = re.fullmatch(r'(bn|conv)(\d)', inside).groups()
        name = PLACES[collective][int(place) - 1].replace('c1x1-b', 'c1x1-b(2)')
        return f'{prefix}{name}__' + {'bn': 'bn__bn', 'conv': 'conv'}[kind]

    return cru_names(expected, layer_of, lambda _, group, groups: f'x__({group})' if groups > 1 else 'x__x')


def cru_names(expected, layer_of, group_of):
    """Return {our name: [theirs]}.

    `layer_of` and `group_of` return their names of a layer, and of a sharing group by (stage, group, groups of the
    stage).
    """
    found, groups = {}, {}
    for match in filter(None, map(SHARED.match, expected)):
        groups[match[1]] = max(groups.get(match[1], 0), int(match[2]))
    for name in expected:
        layer, kind = split(name)
        shared = SHARED.fullmatch(layer)
        if shared:
            stage, group, conv = shared.groups()
            found[name] = [f'conv{int(stage) + 1}_{group_of(int(stage), int(group), groups[stage])}_{BASES[conv]}']
        else:
            theirs = layer_of(layer)
            found[name] = [f'{theirs}_{kind}'] if theirs else []
    return found


# -------------------------------------------------------------------------------------- attention, the faces of 2018

ATT_FACE = {'conv0': 'RA_conv1_conv2d', 'bn0': 'RA_conv1_bn1_batchnorm', 'relu0': 'RA_conv1_bn1_prelu'}
ATT_FACE_LAYERS = {
    'bn1': 'c1x1_batchnorm',
    'conv1': 'c1x1_a_conv2d',
    'bn2': 'c3x3_batchnorm',
    'relu2': 'c3x3_prelu',
    'conv2': 'c3x3_conv2d',
    'bn3': 'c1x1_b_batchnorm',
    'relu3': 'c1x1_b_prelu',
    'conv3': 'c1x1_b_conv2d',
    'bn4': 'bn_c1x1_b_batchnorm',
    'shortcut': 'conv1sc_conv2d',
    'shortcut_bn': 'bn_sc_batchnorm',
    'se_conv1': 'se_1_conv2d',
    'se_relu1': 'se_prelu',
    'se_conv2': 'se_2_conv2d',
}
ATT_FACE_ROLES = {'unit1': 'rb_first', 'trunk_unit1': 'tk_rb_1', 'trunk_unit2': 'tk_rb_2', 'close': 'rb_last'}


def att_face_names(expected):
    """Return {our name: [its name in fresattnet.py of 2018]}."""

    def layer_of(layer):
        unit, module = UNIT.fullmatch(layer), MODULE.fullmatch(layer)
        if unit:
            stage, number, inside = unit.groups()
            place = f'RAN_R_unit{stage}' + (f'_{number}' if stage == '4' else '')
            return f'{place}_{ATT_FACE_LAYERS[inside]}'
        if not module:
            return ATT_FACE.get(layer, layer)
        stage, number, inside = int(module[1]), module[2], module[3]
        prefix = f'RAN_AM_s{stage}_unit{number}_'
        end, mask = MASK_END.fullmatch(inside), MASK_UNIT.fullmatch(inside)
        if end:
            kind, last = end[1][:-1], end[1][-1]
            which = {'1': 'a', '2': 'b'}[last]
            return f'{prefix}sm_c1x1_{which}_' + {'bn': 'batchnorm', 'relu': 'prelu', 'conv': 'conv2d'}[kind]
        if mask and mask[1] == 'skip':
            return f'{prefix}sk_cn_rb_{mask[2]}_{ATT_FACE_LAYERS[mask[3]]}'
        if mask:
            step, half = mask_step(stage, mask[1], int(mask[2]))
            return f'{prefix}sm_rb_{step}' + ('' if half is None else f'_{half + 1}') + f'_{ATT_FACE_LAYERS[mask[3]]}'
        role, inner = ROLE.fullmatch(inside).groups()
        theirs = 'RB_last' if stage == 1 and role == 'close' else ATT_FACE_ROLES[role]
        return f'{prefix}{theirs}_{ATT_FACE_LAYERS[inner]}'

    return {name: ['_'.join([layer_of(layer), kind])] for name in expected for layer, kind in [split(name)]}


# ------------------------------------------------------------------------------------------ attention in PyTorch

BLOCK = {'shortcut': 'conv4'}  # the other layers of a unit have our names
TORCH_ROLES = {
    'unit1': 'first_residual_blocks',
    'trunk_unit1': 'trunk_branches.0',
    'trunk_unit2': 'trunk_branches.1',
    'close': 'last_blocks',
}
MASK_LAYERS = {'bn1': 0, 'conv1': 2, 'bn2': 3, 'conv2': 5}  # places in the Sequential of a mask's end


def inside_module(stage, inside):
    """Return the name of a layer of an attention module, in tengshaofeng's and FaceX-Zoo's module."""
    end, mask = MASK_END.fullmatch(inside), MASK_UNIT.fullmatch(inside)
    if end:
        return f'softmax{mask_end(stage)}_blocks.{MASK_LAYERS[end[1]]}'
    if mask and mask[1] == 'skip':
        return f'skip{mask[2]}_connection_residual_block.{BLOCK.get(mask[3], mask[3])}'
    if mask:
        step, half = mask_step(stage, mask[1], int(mask[2]))
        return f'softmax{step}_blocks' + ('' if half is None else f'.{half}') + f'.{BLOCK.get(mask[3], mask[3])}'
    role, inner = ROLE.fullmatch(inside).groups()
    return f'{TORCH_ROLES[role]}.{BLOCK.get(inner, inner)}'


def attention_names(expected, ends, unit_of, module_of):
    """Return {our name: [its name in PyTorch]}.

    `ends` are {our layer: theirs} of stem and head, `unit_of` and `module_of` functions of (stage, number).
    """

    def layer_of(layer):
        unit, module = UNIT.fullmatch(layer), MODULE.fullmatch(layer)
        if unit:
            return f'{unit_of(int(unit[1]), int(unit[2]))}.{BLOCK.get(unit[3], unit[3])}'
        if module:
            stage = int(module[1])
            return f'{module_of(stage, int(module[2]))}.{inside_module(stage, module[3])}'
        return ends.get(layer)

    found = {}
    for name in expected:
        layer, kind = split(name)
        theirs = layer_of(layer)
        found[name] = [f'{theirs}.{TORCH[kind]}'] if theirs else []
    return found


def tengshaofeng_names(expected):
    """Return {our name: [its name in tengshaofeng's state dicts]}."""
    return attention_names(
        expected,
        {'conv0': 'conv1.0', 'bn0': 'conv1.1', 'bn1': 'mpool2.0', 'fc1': 'fc'},
        lambda stage, number: f'residual_block{stage + number - 1}',
        lambda stage, number: f'attention_module{stage}' + (f'_{number}' if number > 1 else ''),
    )


def facexzoo_names(expected):
    """Return {our name: [its name in FaceX-Zoo's state dicts, without `backbone.`]}, where parts are counted."""
    modules = {(int(match[1]), int(match[2])) for match in map(MODULE.match, expected) if match}

    def before(stage):
        """Return how many parts precede a stage: one unit and the modules of each stage."""
        return sum(1 + sum(of == earlier for of, _ in modules) for earlier in range(1, stage))

    return attention_names(
        expected,
        {'conv0': 'conv1.0', 'bn0': 'conv1.1', 'pre_fc1': 'output_layer.1', 'fc1': 'output_layer.2'},
        lambda stage, number: f'attention_body.{before(stage) + number - 1}',
        lambda stage, number: f'attention_body.{before(stage) + number}',
    )
