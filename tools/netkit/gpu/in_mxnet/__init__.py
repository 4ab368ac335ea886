"""The parts in MXNet."""
