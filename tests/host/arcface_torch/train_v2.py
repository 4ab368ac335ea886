"""A miniature of arcface_torch's trainer: what it does to a backbone, on random images."""
import importlib
import os
import sys

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

from backbones import get_model

rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
distributed.init_process_group("nccl", init_method="env://", rank=rank, world_size=world_size)


def main(path):
    cfg = importlib.import_module("configs.base").config
    cfg.update(importlib.import_module("configs." + os.path.basename(path)[:-3]).config)
    torch.manual_seed(2048)
    backbone = get_model(cfg.network, dropout=0.0, fp16=cfg.fp16, num_features=cfg.embedding_size).cuda()
    os.makedirs(cfg.output, exist_ok=True)
    if rank == 0:
        torch.save(backbone.state_dict(), os.path.join(cfg.output, "first.pt"))
    backbone = torch.nn.parallel.DistributedDataParallel(
        module=backbone, broadcast_buffers=False, device_ids=[rank], bucket_cap_mb=16, find_unused_parameters=True)
    backbone.register_comm_hook(None, fp16_compress_hook)
    backbone.train()
    backbone._set_static_graph()
    classes = torch.nn.Linear(cfg.embedding_size, cfg.num_classes).cuda()
    sgd = torch.optim.SGD([{"params": backbone.parameters()}], lr=cfg.lr, momentum=0.9, weight_decay=cfg.weight_decay)
    torch.manual_seed(rank)
    for step in range(1, cfg.steps + 1):
        images = torch.rand(cfg.batch_size, 3, 112, 112).cuda() * 2 - 1
        labels = torch.randint(cfg.num_classes, (cfg.batch_size,)).cuda()
        loss = torch.nn.functional.cross_entropy(classes(backbone(images)), labels)
        loss.backward()
        if step % cfg.gradient_acc == 0:
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), 5)
            sgd.step()
            sgd.zero_grad()
        print("step", step, "loss", loss.item())
    torch.save(backbone.module.state_dict(), os.path.join(cfg.output, "model_%d.pt" % rank))


if __name__ == "__main__":
    main(sys.argv[1])
