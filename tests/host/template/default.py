from easydict import EasyDict as edict

config = edict()
config.embedding_size = 512
config.bn_mom = 0.9
config.workspace = 256
config.net_act = 'prelu'
config.net_unit = 3
config.net_input = 1
config.net_output = 'FC'
config.net_se = 0
config.image_size = 112
config.fp16 = False
config.batch_size = 64


def generate_config(loss_name, dataset, network):
    if loss_name == 'arcface':
        config.loss_s = 64.0
    if dataset == 'emore':
        config.num_classes = 85742
    if network == 'mini':
        config.net_name = 'mini'
        config.num_layers = 2
