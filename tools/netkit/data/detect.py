"""Landmarks of the faces in photographs, by a detection model of the user's in the package insightface."""

import os

import numpy as np

from netkit.data.images import Unusable
from netkit.errors import UserError, reason

SIDE = 640  # pixels of the square in which the detector looks
LEAST = 0.5  # of its score


class Detector:
    """Finds the five points of the face that is largest and nearest to the middle of a picture."""

    def __init__(self, path):
        """Load the model; raises UserError for another file, and where the package is not installed."""
        if not os.path.isfile(path):  # insightface would look for a model of that name elsewhere
            raise UserError(f'cannot read {path}: no such file')
        try:
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise UserError(f'--detect wants the package insightface ({error}); pip install insightface onnxruntime')
        try:
            self.model = get_model(os.path.abspath(path), providers=['CPUExecutionProvider'])
            kind = getattr(self.model, 'taskname', None)
        except Exception as error:  # whatever onnxruntime has for a file that is none
            raise UserError(f'{path} is no model that insightface can run: {reason(error)}')
        if kind != 'detection' or not getattr(self.model, 'use_kps', False):
            raise UserError(f'{path} is no detection model with five landmarks, like det_10g.onnx of buffalo_l')
        self.model.prepare(ctx_id=-1, input_size=(SIDE, SIDE), det_thresh=LEAST)

    def __call__(self, path, image):
        """Return the (5, 2) points, x and y, of a face in a PIL image; raises Unusable if there is none."""
        try:
            _, points = self.model.detect(np.asarray(image)[:, :, ::-1].copy(), max_num=1)  # it takes BGR, as OpenCV
        except Exception as error:  # OpenCV's, of a picture so narrow that nothing is left of it
            raise Unusable(f'cannot be searched for a face: {reason(error)}')
        if not len(points):
            raise Unusable('has no face that the detector finds')
        return np.asarray(points[0], float)
