"""List the images in folders, and label them by folder name."""

import os

from netkit.errors import UserError

ENDINGS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.heic', '.avif')


def is_picture(path):
    """Return whether a file is an image, by its name; hidden files, which macOS adds, are not."""
    return path.lower().endswith(ENDINGS) and not os.path.basename(path).startswith('.')


def names_in(folder):
    """Return the sorted names in a folder; raises UserError if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f'cannot read {folder}: {error.strerror}')


def classes_in(folder):
    """Return ({class: [path, …]}, {path: why it is skipped}) of a folder with one subfolder per class, sorted."""
    classes, skipped = {}, {}
    for name in names_in(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path) or name.startswith('.'):
            skipped[path] = 'is hidden' if name.startswith('.') else 'is in no folder of its own'
            continue
        classes[name] = []
        for file in names_in(path):
            full = os.path.join(path, file)
            if os.path.isfile(full) and is_picture(file):
                classes[name].append(full)
            elif not file.startswith('.'):
                skipped[full] = 'is a folder within a folder' if os.path.isdir(full) else 'is not an image by its name'
    return classes, skipped


def pictures_in(paths):
    """Return the images in `paths`, files and folders, in order; raises UserError for a path without images."""
    found = []
    for path in paths:
        inside = [path]
        if os.path.isdir(path):
            inside = sorted(
                os.path.join(at, name) for at, _, names in os.walk(path) for name in names if is_picture(name)
            )
        if not inside or not os.path.isfile(inside[0]):
            raise UserError(f'{path} is {"a folder without pictures" if os.path.isdir(path) else "not a file"}')
        found += inside
    return found
