"""Pack your own images: faces in insightface's formats, classes as a RecordIO file."""

import csv
import io
import json
import os
import re
import tempfile
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from crunet.alignment import aligned
from netkit._mxnet import mx
from netkit.data.classes import names_path
from netkit.data.folders import classes_in, names_in
from netkit.data.images import QUALITY, Unusable, as_jpeg, open_picture, scaled
from netkit.data.pairs import PairSet
from netkit.data.recordio import RecordFile
from netkit.data.records import FaceRecords
from netkit.data.writing import write_pairs, write_records
from netkit.errors import UserError, refusals
from netkit.files import new_files

FEWEST_PAIRS = 10  # of a verification set: it is verified in ten folds
SKIPPED = 'skipped.csv'  # what was not packed, and why


class Options(NamedTuple):
    """How faces are packed."""

    size: int = 112  # pixels a side
    min_images: int = 2  # of a person; those with fewer are left out
    pairs: int = 0  # of the verification set
    set: str = 'pairs'  # its name
    share: float = 0.1  # of the people who are kept out of training for the pairs
    seed: int = 0


class Packed(NamedTuple):
    """What was packed."""

    people: int  # in training
    images: int  # in training
    kept_out: int  # people of the verification pairs
    pairs: int
    skipped: Dict[str, str]  # {path: why}


def face(path, size, find=None):
    """Return a picture as the bytes of an image of `size` pixels a side; raises Unusable.

    With `find`, the face is aligned by the points, (5, 2), that `find(path, image)` returns. Without, the image must
    have that size, and a JPEG keeps its bytes.
    """
    image = open_picture(path)
    if find:
        points = find(path, image)
        middle = points.mean(axis=0)
        if not ((middle >= 0) & (middle < image.size)).all():
            raise Unusable('has landmarks around a point outside the picture')
        try:
            return as_jpeg(aligned(image, points, size))
        except ValueError as error:
            raise Unusable(str(error))
    if image.size != (size, size):
        raise Unusable(f'is of {image.size[0]}×{image.size[1]} pixels, not {size}×{size}, and has no landmarks')
    with open(path, 'rb') as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as opened:
        # CMYK and turned pictures come out differently from one decoder to the next.
        is_plain = opened.format == 'JPEG' and opened.mode in ('RGB', 'L') and opened.getexif().get(0x0112, 1) == 1
    return content if is_plain else as_jpeg(image)


def listed(landmarks):
    """Return a function that looks up an image in the result of `read_landmarks`.

    An unlisted image is Unusable, because it may not be aligned.
    """

    def find(path, _):
        if os.path.abspath(path) not in landmarks:
            raise Unusable('has no line in --landmarks')
        return landmarks[os.path.abspath(path)]

    return find


class Spool:
    """Packed images, stored on disk, not in memory, until their destination is known."""

    def __init__(self, folder):
        self.file = tempfile.TemporaryFile(dir=folder)

    def add(self, content):
        """Keep the bytes of an image; return its (place, length), by which `read` finds them."""
        place = self.file.seek(0, os.SEEK_END)
        self.file.write(content)
        return place, len(content)

    def read(self, image):
        """Return the bytes of an image."""
        place, length = image
        self.file.seek(place)
        return self.file.read(length)


class Person(NamedTuple):
    """The pictures of a person, in a Spool."""

    name: str
    images: List[Tuple[int, int]]
    paths: List[str] = []


def load_people(folder, options, find, spool):
    """Return ([Person, …], {path: why it was skipped}) of a folder with one subfolder per person."""
    classes, skipped = classes_in(folder)
    people = []
    for name in [name for name in classes if set(name) & set('\t\r\n')]:
        skipped[os.path.join(folder, name)] = 'has a tab or a line break in its name'
        del classes[name]
    for paths in classes.values():
        for path in [path for path in paths if set(os.path.basename(path)) & set('\t\r\n')]:
            skipped[path] = 'has a tab or a line break in its name'
            paths.remove(path)
    with tqdm(total=sum(map(len, classes.values())), unit='images', desc='reading', leave=False, disable=None) as bar:
        for name, paths in classes.items():
            images, taken = [], []
            for path in paths:
                try:
                    images.append(spool.add(face(path, options.size, find)))
                    taken.append(path)
                except Unusable as error:
                    skipped[path] = str(error)
                bar.update()
            if len(images) >= options.min_images:
                people.append(Person(name, images, taken))
            else:
                skipped[os.path.join(folder, name)] = f'has {len(images)} usable pictures, fewer than --min-images'
    return people, skipped


def kept_out(people, options) -> Tuple[List, List]:
    """Split people into those for training and those for the pairs, at random; raises UserError for too few."""
    if not options.pairs:
        return people, []
    count = max(2, round(options.share * len(people)))
    if len(people) - count < 2:
        raise UserError(f'{len(people)} people are too few for a training and {count} who are kept out of it')
    chosen = set(np.random.RandomState(options.seed).permutation(len(people))[:count])
    return (
        [person for place, person in enumerate(people) if place not in chosen],
        [person for place, person in enumerate(people) if place in chosen],
    )


def draw_pairs(people, options):
    """Return (images, same) of pairs, every other one of the same person, no pair twice; raises UserError."""
    rng = np.random.RandomState([options.seed, 1])
    owners = [owner for owner, person in enumerate(people) for _ in person.images]
    images = [image for person in people for image in person.images]
    of_same, of_different = (count_pairs(people, same) for same in (True, False))
    most = min(2 * of_same, 2 * of_different + 1)
    if options.pairs > most:
        advice = f'take --pairs {most} at most, or ' if most >= FEWEST_PAIRS else ''
        raise UserError(
            f'--pairs {options.pairs}: the {len(people)} people who are kept out have {len(images)} pictures, with '
            f'{of_same} pairs of the same person and {of_different} of different people; {advice}'
            'take more people by --share'
        )
    found = {same: sample_pairs(owners, same, (options.pairs + same) // 2, rng) for same in (True, False)}
    order = [pair for both in zip(found[True], found[False]) for pair in both] + found[True][len(found[False]) :]
    return [images[i] for pair in order for i in pair], [owners[i] == owners[j] for i, j in order]


def count_pairs(people, same):
    """Return the number of pairs of images of the same person, or of different people."""
    counts = [len(person.images) for person in people]
    of_same = sum(count * (count - 1) // 2 for count in counts)
    return of_same if same else sum(counts) * (sum(counts) - 1) // 2 - of_same


def sample_pairs(owners, same, wanted, rng):
    """Return `wanted` pairs (i, j), i < j, of images of the same person, or of different people, at random."""
    by_owner = {}
    for place, owner in enumerate(owners):
        by_owner.setdefault(owner, []).append(place)
    if same or len(owners) < 1000:  # few enough to list all
        pairs = [
            (i, j)
            for j in range(len(owners))
            for i in (by_owner[owners[j]] if same else range(j))
            if i < j and (owners[i] == owners[j]) == same
        ]
        return [pairs[place] for place in rng.permutation(len(pairs))[:wanted]]
    chosen = {}
    while len(chosen) < wanted:
        i, j = sorted(int(place) for place in rng.randint(len(owners), size=2))
        if owners[i] != owners[j]:
            chosen[i, j] = None
    return list(chosen)


def write_faces(folder, people, size, spool):
    """Write `train.rec`, `train.idx`, `property` and `train.lst` of [Person, …]."""
    images = (spool.read(image) for person in people for image in person.images)
    write_records(folder, size, [len(person.images) for person in people], images)
    with open(os.path.join(folder, 'train.lst'), 'w', encoding='utf-8', errors='surrogateescape') as listing:
        for label, person in enumerate(people):
            listing.writelines(f'1\t{os.path.abspath(path)}\t{label}\n' for path in person.paths)


def pack_faces(folder, output, options, find=None):
    """Pack a folder with one subfolder per person into the folder `output`, all files or none; return what was Packed.

    `find(path, image)` returns the landmarks of a picture; without it they are aligned. Raises UserError for too few
    people or pairs, and where the files cannot be written completely.
    """
    own = options.set + '.bin' if options.pairs else None
    others = (
        [name for name in names_in(output) if name.endswith('.bin') and name != own] if os.path.isdir(output) else []
    )
    if others:
        raise UserError(
            f'{os.path.join(output, others[0])} may be of an earlier packing, and its people in this training; name '
            'another --output, write that set again (--pairs, --set), or remove it'
        )
    shape = (options.size, options.size, 3)
    with new_files(output) as scratch:
        spool = Spool(scratch)
        people, skipped = load_people(folder, options, find, spool)
        training, others = kept_out(people, options)
        check_people(folder, training, skipped)
        pairs = draw_pairs(others, options) if others else None
        if skipped or os.path.exists(os.path.join(output, SKIPPED)):
            write_skipped(os.path.join(scratch, SKIPPED), skipped)
        try:
            write_faces(scratch, training, options.size, spool)
            records = FaceRecords(scratch, shape)
        except (mx.MXNetError, UserError) as error:
            raise UserError(f'the data set could not be written completely to {output}: {error}')
        if pairs:
            path = os.path.join(scratch, options.set + '.bin')
            write_pairs(path, list(map(spool.read, pairs[0])), pairs[1])
            PairSet(path, shape)
    return Packed(len(training), len(records), len(others), len(pairs[1]) if pairs else 0, skipped)


def check_people(folder, training, skipped):
    """Raise UserError where too few people are left for a training."""
    if len(training) < 2:
        first = f'; the first: {" ".join(next(iter(skipped.items())))}' if skipped else ''
        raise UserError(
            f'{folder} has {len(training)} people with pictures that can be packed, and a training needs two; '
            f'{len(skipped)} files and folders were skipped{first}'
        )


def write_skipped(path, skipped):
    """Write {path: why it was skipped} as a CSV file."""
    with open(path, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        csv.writer(file).writerows([('path', 'why'), *skipped.items()])


def counted(skipped):
    """Return [(why, how many, the first)] of {path: why it was skipped}, the most frequent first.

    Numbers, as of sizes, are of the first.
    """
    groups = {}
    for path, why in skipped.items():
        groups.setdefault(re.sub(r'\d+', '…', why), []).append((path, why))
    return sorted(((found[0][1], len(found), found[0][0]) for found in groups.values()), key=lambda row: -row[1])


def pack_classes(folder, output, resize, quality=QUALITY, seed=0):
    """Pack a folder with one subfolder per class, sorted, into a RecordIO file; return (classes, images, skipped).

    The shorter side of the images is `resize` pixels, if it is longer. The records are in random order, since a trainer
    shuffles no further than it reads ahead.
    """
    classes, skipped = classes_in(folder)
    if len(classes) < 2:
        raise UserError(f'{folder} has {len(classes)} folders of classes, and two are needed')
    for name, paths in classes.items():
        if not paths:
            raise UserError(f'{os.path.join(folder, name)} has no picture; remove it, or put pictures into it')
    counts, (where, name) = dict.fromkeys(range(len(classes)), 0), os.path.split(os.path.abspath(output))
    files = [(label, path) for label, paths in enumerate(classes.values()) for path in paths]
    order = np.random.RandomState(seed).permutation(len(files))
    with new_files(where) as scratch:
        record = mx.recordio.MXRecordIO(os.path.join(scratch, name), 'w')
        for place in tqdm(order, unit='images', desc='packing', leave=False, disable=None):
            label, path = files[place]
            try:
                image = open_picture(path)
                content = as_jpeg(scaled(image, min(1.0, resize / min(image.size))), quality)
            except Unusable as error:
                skipped[path] = str(error)
                continue
            header = mx.recordio.IRHeader(0, float(label), sum(counts.values()), 0)
            with refusals(f'{name} could not be written completely, perhaps because the disk is full'):
                record.write(mx.recordio.pack(header, content))
            counts[label] += 1
        record.close()
        for class_name, count in zip(classes, counts.values()):
            if not count:
                raise UserError(f'{os.path.join(folder, class_name)} has no picture that can be packed')
        if len(RecordFile(os.path.join(scratch, name))) != sum(counts.values()):
            raise UserError(f'{name} could not be written completely; is the disk full?')
        with open(os.path.join(scratch, names_path(name)), 'w', encoding='utf-8') as file:
            json.dump(list(classes), file, indent=0)
    return len(classes), sum(counts.values()), skipped
