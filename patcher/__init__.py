"""The modules of patch_insightface.py. They need only Python 3.6 and the files of this project."""
