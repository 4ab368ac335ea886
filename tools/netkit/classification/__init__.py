"""Training for image classification in PyTorch with timm, without MXNet."""
