"""The papers' ImageNet networks in timm: `timm.create_model('cru116_imagenet', num_classes=10)`.

`import crunet` registers them where timm is installed. A model has timm's methods, and the state dict of
`crunet.create_model`; images are normalised as the package's are, with a mean and standard deviation of 0.5.
"""

import functools
import re

from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn import functional

from .identifiers import layer_path
from .nodes import source
from .symbol_module import SymbolModule
from .symbol_torch import builders, networks, nodes_of_row

IMAGENET = [name for name in networks() if name.endswith('_imagenet')]
STRIDE = 32  # of the last maps
# {setting of the builder: timm's counterpart}
OF_TIMM = {'image_shape': 'img_size', 'emb_size': 'num_classes', 'memonger': 'set_grad_checkpointing'}


class TimmModel(SymbolModule):
    """A network of `networks()` up to its last maps, with a pooling and a classifier of timm.

    `zero_init_last` begins with the last layer of every unit's branch at 0, as timm's ResNets do; without it, the maps
    of 1001 layers overflow before the first step. `settings` are those of the builder. Raises ValueError for settings
    that it does not accept.
    """

    def __init__(  # noqa: PLR0913
        self,
        name,
        num_classes=1000,
        in_chans=3,
        global_pool='avg',
        drop_rate=0.0,
        img_size=224,
        zero_init_last=True,
        **settings,
    ):
        height, width = img_size if isinstance(img_size, (tuple, list)) else (img_size, img_size)
        for key in OF_TIMM.keys() & settings:
            raise ValueError(f'{key} is not a setting of a network in timm, which has {OF_TIMM[key]}')
        settings = {**settings, 'image_shape': (height, width, 3), 'memonger': True}
        nodes, _ = nodes_of_row(builders(), networks()[name], **settings)
        pool = next(number for number, node in enumerate(nodes) if node.attrs.get('global_pool') == 'True')
        stages = [
            max(number for number in range(pool) if nodes[number].name.startswith(f'stage{n}_')) for n in (1, 2, 3)
        ]
        super().__init__(nodes[:pool], (height, width, in_chans), using_checkpoint=True, ends=[*stages, pool - 1])
        self.using_checkpoint = False
        self.num_features = self.head_hidden_size = self.size
        self.drop_rate = drop_rate
        self.feature_info = [
            {'num_chs': shape[1], 'reduction': height // shape[2], 'module': f'stage{number}'}
            for number, (_, _, shape) in enumerate(self.ends, 1)
        ]
        self.reset_classifier(num_classes, global_pool)
        if zero_init_last:
            for name in last_of_branches(nodes):
                nn.init.zeros_(self.get_submodule(layer_path(name)).weight)

    def reset_classifier(self, num_classes, global_pool=None):
        """Replace the classifier; 0 classes: no classifier; the pooling '': no pooling."""
        self.num_classes, pool = num_classes, self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc1 = create_classifier(self.num_features, num_classes, pool_type=pool)
        self._place['fc1'] = len(self._place)  # the last of the parameters
        self._names.update(fc1_weight='fc1.weight', fc1_bias='fc1.bias')

    def get_classifier(self):
        """Return the classifier."""
        return self.fc1

    def set_grad_checkpointing(self, enable=True):
        """Recompute the maps of each unit in the backward pass, by torch.utils.checkpoint, or store them."""
        self.using_checkpoint = 'torch' if enable else False

    def group_matcher(self, coarse=False):
        """Return a function from a parameter's name to the number of its group, in network order.

        The stem is group 0. Then each stage is a group if `coarse`, else each unit, with the layers after it. A weight
        that units share is in the first unit's group. The end of the network is in the last group.
        """
        groups, last, seen = {}, 0, None
        for layer in sorted(self._place, key=self._place.get):
            part = re.match(r'stage\d+' if coarse else r'stage\d+(?:\.\w+)*?\.unit\d+', layer)
            if part and part.group() != seen:
                last, seen = last + 1, part.group()
            groups[layer] = last if layer.startswith(('stage', 'conv0', 'bn0', 'relu0')) else float('inf')
        return lambda name: groups.get(name.rpartition('.')[0], float('inf'))

    def forward_features(self, x):
        """Return the last maps, (n, num_features, height / 32, width / 32)."""
        return super().forward(x)

    def forward_head(self, x, pre_logits=False):
        """Return the classes' logits of the last maps, or, with `pre_logits`, the pooled features."""
        x = functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc1(x)

    def forward(self, x):
        """Return the classes' logits, (n, num_classes), of images (n, in_chans, height, width)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(  # noqa: PLR0913
        self, x, indices=None, norm=False, stop_early=False, output_fmt='NCHW', intermediates_only=False
    ):
        """Return the maps at the ends of stages, preceded by the last maps unless `intermediates_only`.

        `indices` are stage indices, or a number of stages counted from the last. The last stage's maps are
        `forward_features`, with the BatchNorm after them if the network has one, whatever `norm` is. `stop_early`
        skips the stages that no index needs. Raises ValueError for another `output_fmt`.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f'output_fmt={output_fmt} is not NCHW, the only format of maps')
        wanted, last = feature_take_indices(len(self.ends), indices)
        values, maps = {'data': self._given(x)}, []
        for index, (segment, name, _) in enumerate(self.ends[: last + 1] if stop_early else self.ends):
            self._run(range(self.ends[index - 1][0] + 1 if index else 0, segment + 1), values)
            if index in wanted:
                maps.append(values[name])
        return maps if intermediates_only else (values[name], maps)

    def prune_intermediate_layers(self, indices=1, prune_norm=False, prune_head=True):
        """Drop the classifier, which maps do not need; return the absolute indices of stages."""
        if prune_head:
            self.reset_classifier(0, '')
        return feature_take_indices(len(self.ends), indices)[0]


def last_of_branches(nodes):
    """Return the names of the convolutions and BatchNorms whose outputs are added to shortcuts, as first summands."""
    places = [source(nodes, node.inputs[0][0]) for node in nodes if node.op in ('elemwise_add', '_Plus')]
    return [nodes[place].name for place in places if nodes[place].op in ('Convolution', 'BatchNorm')]


def _entry(name):
    def create(pretrained=False, **settings):
        """Return a TimmModel; `timm.create_model` calls it."""
        cut = functools.partial(TimmModel, name)
        of_features = {'feature_cls': 'getter', 'out_indices': (0, 1, 2, 3)}
        return build_model_with_cfg(cut, name, pretrained, feature_cfg=of_features, **settings)

    create.__name__ = create.__qualname__ = name
    return create


def _config(name):
    """Return timm's config of a network; the masks of an attention network fit only one image size."""
    is_fixed = {'fixed_input_size': True} if name.startswith('att') else {}
    return {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (224 // STRIDE, 224 // STRIDE),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': (0.5, 0.5, 0.5),
        'std': (0.5, 0.5, 0.5),
        'first_conv': 'conv0',
        'classifier': 'fc1',
        **is_fixed,
    }


default_cfgs = generate_default_cfgs({name: _config(name) for name in IMAGENET})
for _name in IMAGENET:
    register_model(_entry(_name))
