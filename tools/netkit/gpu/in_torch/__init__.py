"""The parts in PyTorch."""
