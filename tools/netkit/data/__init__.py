"""Faces: drawn, written and read in insightface's formats."""
