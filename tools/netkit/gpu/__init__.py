"""What is true on a GPU, part by part: the networks in PyTorch. Without a GPU the same parts run small, on the CPU."""
