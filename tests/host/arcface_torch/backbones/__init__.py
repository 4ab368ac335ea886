"""A miniature of arcface_torch's backbones."""
import torch


class Mini(torch.nn.Module):
    def __init__(self, num_features=512, fp16=False, dropout=0.0):
        super().__init__()
        self.layer = torch.nn.Linear(3, num_features)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def get_model(name, **kwargs):
    # the only one
    if name == "mini":
        return Mini(**kwargs)
    else:
        raise ValueError()
