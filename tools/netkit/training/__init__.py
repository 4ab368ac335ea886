"""Training on one device or several, in one process or many."""
