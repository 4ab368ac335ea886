"""What patch_insightface.py is made of. Needs nothing but Python 3.6 and the files of this project."""
