"""Times of networks, in turns, and their plans."""
