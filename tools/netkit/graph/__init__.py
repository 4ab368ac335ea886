"""Symbols as nodes: read, named, counted, their memory planned."""
