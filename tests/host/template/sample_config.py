import os
from easydict import EasyDict as edict

config = edict()
config.bn_mom = 0.9
config.workspace = 256
config.emb_size = 512
config.net_se = 0
config.net_act = 'prelu'
config.net_unit = 3
config.net_input = 1
config.net_output = 'E'
config.net_multiplier = 1.0
config.count_flops = True
config.max_steps = 0

# networks
network = edict()

network.mini = edict()
network.mini.net_name = 'fmini'
network.mini.num_layers = 2

network.mini4 = edict()
network.mini4.net_name = 'fmini'
network.mini4.num_layers = 4
network.mini4.per_batch_size = 16

# data sets
dataset = edict()

dataset.emore = edict()
dataset.emore.dataset = 'emore'
dataset.emore.dataset_path = '../datasets/faces_emore'
dataset.emore.num_classes = 85742
dataset.emore.image_shape = (112, 112, 3)
dataset.emore.val_targets = ['lfw']

loss = edict()
loss.softmax = edict()
loss.softmax.loss_name = 'softmax'

loss.arcface = edict()
loss.arcface.loss_name = 'margin_softmax'
loss.arcface.loss_s = 64.0
loss.arcface.loss_m1 = 1.0
loss.arcface.loss_m2 = 0.5
loss.arcface.loss_m3 = 0.0

default = edict()
default.network = 'mini'
default.dataset = 'emore'
default.loss = 'arcface'
default.lr = 0.1
default.lr_steps = '100000,160000'
default.per_batch_size = 128
default.verbose = 2000
default.ckpt = 3
default.models_root = './models'


def generate_config(_network, _dataset, _loss):
    for table, choice in ((loss, _loss), (network, _network), (dataset, _dataset)):
        for key, value in table[choice].items():
            config[key] = value
            if key in default:
                default[key] = value
    config.network = _network
    config.dataset = _dataset
    config.loss = _loss
