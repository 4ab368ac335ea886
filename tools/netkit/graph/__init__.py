"""A symbol as nodes: read, named, counted, planned."""
