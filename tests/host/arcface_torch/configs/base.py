from easydict import EasyDict as edict

config = edict()
config.network = "mini"
config.embedding_size = 512
config.fp16 = False
config.batch_size = 128
config.lr = 0.1
config.gradient_acc = 1
config.output = "out"
