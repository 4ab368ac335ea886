"""Landmarks of the faces in photographs, by a detection model of the user's in the package insightface."""

import csv
import io
import os

import numpy as np
from PIL import ImageOps

from netkit.data.images import Unusable
from netkit.data.landmarks import landmarks_in
from netkit.errors import UserError, reason

SIDE = 640  # pixels of the square in which the detector looks
LEAST = 0.5  # of its score
BORDER = 4  # retry with a border of 1/4 of a side: a detector needs room around a face
BLIND = 100  # consecutive images without a face, after which the detection stops
STEEPEST = 60  # degrees of a face's roll; upside down a detector takes the eyes for the mouth


class Detector:
    """Finds the five points of the face that is largest and nearest to the middle of a picture."""

    def __init__(self, path):
        """Load the model; raises UserError for another file, and where the package is not installed."""
        if not os.path.isfile(path):  # insightface would look for a model of that name elsewhere
            raise UserError(f'cannot read {path}: no such file')
        try:
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise UserError(f'--detect needs the package insightface ({error}); pip install insightface onnxruntime')
        try:
            self.model = get_model(os.path.abspath(path), providers=['CPUExecutionProvider'])
            kind = getattr(self.model, 'taskname', None)
        except Exception as error:  # onnxruntime has many for a file that is not a model
            raise UserError(f'{path} is not a model that insightface can run: {reason(error)}')
        if kind != 'detection' or not getattr(self.model, 'use_kps', False):
            raise UserError(f'{path} is not a detection model with five landmarks, like det_10g.onnx of buffalo_l')
        self.model.prepare(ctx_id=-1, input_size=(SIDE, SIDE), det_thresh=LEAST)
        self.without = 0

    def __call__(self, path, image):
        """Return the (5, 2) points, x and y, of a face in a PIL image; raises Unusable without an upright face.

        Raises UserError where BLIND pictures in a row have none.
        """
        points = self.found(image)
        if points is None:
            border = max(image.size) // BORDER
            points = self.found(ImageOps.expand(image, border))
            points = None if points is None else points - border
        self.without = self.without + 1 if points is None else 0
        if self.without == BLIND:
            raise UserError(
                f'{BLIND} pictures in a row have no face that the detector finds, the last is {path}; are these '
                'pictures of faces, the right way up?'
            )
        if points is None:
            raise Unusable('has no face that the detector finds')
        roll = abs(np.degrees(np.arctan2(*(points[1] - points[0])[::-1])))
        if roll > STEEPEST:
            raise Unusable(f'has a face that is turned by {roll:.0f} degrees; turn the picture')
        return points

    def found(self, image):
        """Return the (5, 2) points of a face in a PIL image, None if there is none."""
        try:
            _, points = self.model.detect(np.asarray(image)[:, :, ::-1].copy(), max_num=1)  # it takes BGR, as OpenCV
        except Exception as error:  # OpenCV's, of a picture so narrow that nothing is left of it
            raise Unusable(f'cannot be searched for a face: {reason(error)}')
        return np.asarray(points[0], float) if len(points) else None


class Remembering:
    """Appends the points that another function finds to a CSV file, in the format of `--landmarks`, image by image.

    After an interrupted run, or one whose pairs did not fit, these points are reused.
    """

    def __init__(self, find, path, folder):
        """Read what is in the file; raises UserError if it is not a file of landmarks, or cannot be written."""
        self.find, self.folder, self.known, self.as_of = find, folder, {}, 0.0
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            if os.path.exists(path):
                self.known, self.as_of = read_whole_lines(path, folder), os.path.getmtime(path)
            self.file = open(path, 'a', newline='', encoding='utf-8', errors='surrogateescape', buffering=1)
        except OSError as error:
            raise UserError(f'cannot write to {path}: {error.strerror}')

    def __call__(self, path, image):
        """Return the points of a picture; raises what the other function raises."""
        points = self.known.get(os.path.abspath(path))
        if points is None or os.path.getmtime(path) > self.as_of:  # it may be another picture
            points = np.round(self.find(path, image), 2)  # as they are read again
            row = [os.path.relpath(path, self.folder), *(f'{number:.2f}' for number in points.ravel())]
            csv.writer(self.file, lineterminator='\n').writerow(row)
        return points


def read_whole_lines(path, folder):
    """Return the landmarks in a file; remove a last line that was not written completely.

    Raises UserError for any other file, and leaves it unchanged.
    """
    with open(path, 'rb') as file:
        content = file.read()
    whole = content[: content.rfind(b'\n') + 1]
    if not content:
        return {}
    try:
        lines = io.StringIO(whole.decode('utf-8-sig', 'surrogateescape'), newline='')
        known = landmarks_in(lines, path, folder)
    except (UserError, csv.Error):
        raise UserError(f'{path} is not a list of landmarks; move it away, or pass another --output')
    if len(whole) < len(content):
        with open(path, 'r+b') as file:
            file.truncate(len(whole))
    return known
