"""What networks cost on a machine: time, memory, and whether a GPU computes what a CPU does."""
