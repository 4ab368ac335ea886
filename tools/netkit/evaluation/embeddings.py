"""Embeddings of pictures, as files and as cosines."""

import csv
import os

import numpy as np

from netkit.data.images import Unusable, open_picture
from netkit.errors import UserError
from netkit.evaluation import protocol, streams
from netkit.files import new_files, save_arrays


def embed(engine, paths):
    """Return the embeddings, (n, size) float32, of pictures of the engine's size; raises UserError for others."""
    height, width, _ = engine.image_shape

    def load(number):
        try:
            image = open_picture(paths[number])
        except Unusable as error:
            raise UserError(f'{paths[number]} {error}')
        if image.size != (width, height):
            raise UserError(
                f'{paths[number]} is of {image.size[1]}×{image.size[0]} pixels; {engine.label} takes aligned faces of '
                f'{height}×{width}'
            )
        return np.asarray(image)

    found = streams.run(engine, load, len(paths), 'embedding')
    if not np.isfinite(found).all():
        raise UserError(f'the embeddings of {engine.label} are not finite')
    return found


def cosines(embeddings):
    """Return the cosines, (n, n), of embeddings."""
    unit = protocol.unit_length(embeddings)
    return unit @ unit.T


def people_of(paths, folder):
    """Return the number of the person of each picture in a folder with a subfolder per person; raises UserError."""
    parts = [os.path.relpath(path, folder).split(os.sep) for path in paths]
    for path, part in zip(paths, parts):
        if len(part) < 2:
            raise UserError(f'{path} is in no subfolder, and --far needs one for each person in {folder}')
    names, people = np.unique([part[0] for part in parts], return_inverse=True)
    if len(names) < 2 or len(names) == len(people):
        raise UserError('--far needs a folder with a subfolder for each person, and two pictures of one of them')
    return people


def save(path, paths, embeddings):
    """Write embeddings into a file: .npz with `paths` and `embeddings`, or .csv with a line for each picture."""
    folder, name = os.path.split(os.path.abspath(path))
    with new_files(folder) as scratch:
        if name.endswith('.npz'):
            save_arrays(os.path.join(scratch, name), paths=np.array(paths), embeddings=embeddings)
            return
        with open(os.path.join(scratch, name), 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
            writer = csv.writer(file)
            writer.writerow(['path', *range(embeddings.shape[1])])
            writer.writerows([path, *map(repr, row.tolist())] for path, row in zip(paths, embeddings))
