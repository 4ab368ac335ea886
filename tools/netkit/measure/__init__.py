"""Measure time and memory of networks, and check the results of a GPU against a CPU."""
