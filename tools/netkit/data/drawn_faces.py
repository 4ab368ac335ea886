"""Procedural faces: identities drawn from a seed, each seen under varied pose, light, expression and occlusion.

They substitute for an unavailable face data set. An identity is a set of proportions and colours;
an image is that identity on an ellipsoid head, turned, lit, partly covered, blurred and noisy. What tells
two identities apart is spread over shape and colour, and light and background vary more than skin does, so
a network has to learn the face and not the average colour.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 112  # pixels a side, as insightface aligns faces
OVERSAMPLING = 2  # drawn larger, then reduced: smooth edges
HEAD_DEPTH = 0.9  # of the ellipsoid, in half head widths


class Identity(NamedTuple):
    """What stays the same from image to image. Lengths are in half head widths, angles in radians."""

    skin: tuple
    hair: tuple
    iris: tuple
    lips: tuple
    head_height: float
    jaw: float  # width of the chin against the cheeks
    eye_distance: float
    eye_level: float
    eye_width: float
    eye_opening: float
    eye_slant: float
    brow_gap: float
    brow_thickness: float
    brow_slant: float
    nose_length: float
    nose_width: float
    mouth_level: float
    mouth_width: float
    lip_thickness: float
    fringe: float  # how far the hair comes down the forehead
    parting: float  # -1 left … 1 right
    side_hair: float  # how far the hair comes down at the sides
    beard: float
    freckles: tuple


def draw_identity(rng):
    """Return a random Identity from the numpy RandomState `rng`."""

    def mix(dark, light, spread):
        share = rng.uniform()
        return tuple(
            float(np.clip(d + (w - d) * share + rng.uniform(-spread, spread), 0, 255)) for d, w in zip(dark, light)
        )

    return Identity(
        skin=mix((92, 56, 38), (244, 208, 184), 14),
        hair=mix((18, 14, 12), (224, 180, 110), 40),
        iris=mix((40, 24, 14), (110, 160, 190), 20),
        lips=mix((104, 44, 46), (224, 110, 112), 20),
        head_height=rng.uniform(1.1, 1.55),
        jaw=rng.uniform(0.35, 1.0),
        eye_distance=rng.uniform(0.3, 0.54),
        eye_level=rng.uniform(-0.34, 0.0),
        eye_width=rng.uniform(0.12, 0.27),
        eye_opening=rng.uniform(0.04, 0.15),
        eye_slant=rng.uniform(-0.3, 0.3),
        brow_gap=rng.uniform(0.13, 0.28),
        brow_thickness=rng.uniform(0.02, 0.12),
        brow_slant=rng.uniform(-0.4, 0.4),
        nose_length=rng.uniform(0.3, 0.62),
        nose_width=rng.uniform(0.1, 0.36),
        mouth_level=rng.uniform(0.55, 0.78),
        mouth_width=rng.uniform(0.18, 0.54),
        lip_thickness=rng.uniform(0.03, 0.17),
        fringe=rng.uniform(0.0, 0.7),
        parting=rng.uniform(-1, 1),
        side_hair=rng.uniform(-0.7, 1.0),
        beard=max(0.0, rng.uniform(-0.8, 0.8)),
        freckles=tuple(map(tuple, rng.uniform((-0.6, -0.1), (0.6, 0.6), (rng.randint(0, 5), 2)))),
    )


class _View:
    """Projects points given on the front of the head to the canvas: turn, tilt, scale, shift."""

    def __init__(self, rng, head_height):
        yaw, pitch, roll = rng.normal(0, (0.16, 0.08, 0.05))
        self.head_height = head_height
        self.scale = SIZE * OVERSAMPLING * rng.uniform(0.33, 0.38)
        self.centre = SIZE * OVERSAMPLING * (0.5 + rng.uniform(-0.03, 0.03, 2))
        turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
        nod = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        lean = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
        self.rotation = lean @ nod @ turn

    def project(self, points, lift=0.0):
        """Return canvas positions of (n, 2) face positions, `lift` above the skin (a nose has some)."""
        points = np.asarray(points, float)
        inside = 1 - points[:, 0] ** 2 - (points[:, 1] / self.head_height) ** 2
        depth = HEAD_DEPTH * np.sqrt(np.clip(inside, 0, None)) + lift
        turned = np.column_stack([points, depth]) @ self.rotation.T
        return [tuple(point) for point in turned[:, :2] * self.scale + self.centre]


def _ellipse(x, y, width, height, angle=0.0, arc=(0.0, 2 * math.pi)):
    angles = np.linspace(*arc, 24)
    across, down = width * np.cos(angles), height * np.sin(angles)
    return np.column_stack(
        [x + across * math.cos(angle) - down * math.sin(angle), y + across * math.sin(angle) + down * math.cos(angle)]
    )


def _shade(colour, factor):
    return tuple(int(min(255, max(0, part * factor))) for part in colour)


def _head_outline(identity):
    outline = _ellipse(0, 0, 0.98, identity.head_height * 0.98)
    below = np.clip(outline[:, 1] / identity.head_height, 0, 1)
    outline[:, 0] *= 1 - (1 - identity.jaw) * below**2 * 0.6
    return outline


def _draw_hair_behind(pen, view, identity):
    cap = _ellipse(0, -0.06, 1.1, identity.head_height * 1.08, arc=(math.pi, 2 * math.pi))
    bottom = identity.side_hair * identity.head_height * 0.8
    hair = np.vstack([cap, [(1.08, bottom), (-1.08, bottom)]])
    pen.polygon(view.project(hair), fill=_shade(identity.hair, 0.85))


def _draw_features(pen, view, identity, rng):
    """Draw what lies on the skin, with this image's expression; return where landmarks are, (5, 2), on the canvas.

    They are, from left to right, the eyes' irises, the tip of the nose, and the corners of the mouth.
    """
    smile, mouth_open = rng.uniform(-0.06, 0.1), max(0.0, rng.normal(0, 0.06))
    eyes_open, brows_up = rng.uniform(0.55, 1.15), rng.normal(0, 0.03)
    gaze, irises = rng.uniform(-0.35, 0.35), []

    if identity.beard:
        beard = _ellipse(0, identity.mouth_level, 0.72 * identity.jaw, 0.55)
        pen.polygon(
            view.project(beard),
            fill=_shade(
                tuple((1 - identity.beard) * s + identity.beard * h for s, h in zip(identity.skin, identity.hair)), 0.9
            ),
        )
    for x, y in identity.freckles:
        pen.polygon(view.project(_ellipse(x, y, 0.025, 0.025)), fill=_shade(identity.skin, 0.6))
    for side in (-1, 1):
        x, y, slant = side * identity.eye_distance, identity.eye_level, side * identity.eye_slant
        opening = identity.eye_opening * eyes_open
        pen.polygon(
            view.project(_ellipse(x, y, identity.eye_width * 1.15, opening * 1.45, slant)),
            fill=_shade(identity.skin, 0.72),
        )
        pen.polygon(view.project(_ellipse(x, y, identity.eye_width, opening, slant)), fill=(236, 234, 228))
        iris = min(opening, identity.eye_width * 0.5)
        x_iris = x + gaze * identity.eye_width * 0.5
        irises.append((x_iris, y))
        pen.polygon(view.project(_ellipse(x_iris, y, iris, iris)), fill=_shade(identity.iris, 1))
        pen.polygon(view.project(_ellipse(x_iris, y, iris * 0.45, iris * 0.45)), fill=(12, 10, 10))
        brow = _ellipse(
            x,
            y - identity.brow_gap - brows_up,
            identity.eye_width * 1.25,
            identity.brow_thickness,
            side * identity.brow_slant,
        )
        pen.polygon(view.project(brow), fill=_shade(identity.hair, 0.7))
    top, tip = identity.eye_level + 0.05, identity.eye_level + identity.nose_length
    nose = [(-0.05, top), (0.05, top), (identity.nose_width, tip), (-identity.nose_width, tip)]
    pen.polygon(view.project(nose, 0.14), fill=_shade(identity.skin, 0.9))
    pen.polygon(view.project(_ellipse(0, tip, identity.nose_width, 0.07), 0.24), fill=_shade(identity.skin, 1.06))
    for side in (-1, 1):
        pen.polygon(
            view.project(_ellipse(side * identity.nose_width * 0.5, tip + 0.04, 0.04, 0.025), 0.2),
            fill=_shade(identity.skin, 0.45),
        )
    mouth = _ellipse(0, identity.mouth_level, identity.mouth_width + abs(smile), identity.lip_thickness + mouth_open)
    mouth[:, 1] -= smile * (mouth[:, 0] / identity.mouth_width) ** 2
    pen.polygon(view.project(mouth), fill=_shade(identity.lips, 1))
    gap = _ellipse(0, identity.mouth_level, identity.mouth_width * 0.85, 0.012 + mouth_open * 0.8)
    gap[:, 1] -= smile * (gap[:, 0] / identity.mouth_width) ** 2
    pen.polygon(view.project(gap), fill=(60, 24, 24))
    half = identity.mouth_width + abs(smile)
    level = identity.mouth_level - smile * (half / identity.mouth_width) ** 2
    corners = [(-half, level), (half, level)]
    return np.array([*view.project(irises), *view.project([(0, tip)], 0.24), *view.project(corners)])


def _draw_fringe(pen, view, identity):
    top = _ellipse(0, 0, 1.02, identity.head_height * 1.02, arc=(math.pi, 2 * math.pi))
    line = -identity.head_height + identity.fringe * (identity.head_height + identity.eye_level - identity.brow_gap)
    hair = np.vstack([top, [(0.93, line + 0.15), (0.9 * identity.parting, line - 0.1), (-0.93, line + 0.15)]])
    pen.polygon(view.project(hair), fill=_shade(identity.hair, 1))


def _draw_occlusion(pen, view, identity, rng):
    """Cover part of the face in one image of eight: dark glasses, a mask, or something in front of the lens."""
    kind = rng.randint(0, 24)
    colour = tuple(rng.randint(10, 120, 3))
    if kind == 0:
        for side in (-1, 1):
            lens = _ellipse(side * identity.eye_distance, identity.eye_level, 0.3, 0.2)
            pen.polygon(view.project(lens, 0.1), fill=colour)
        pen.line(view.project([(-0.2, identity.eye_level), (0.2, identity.eye_level)], 0.1), fill=colour, width=4)
    elif kind == 1:
        mask = _ellipse(0, identity.mouth_level + 0.1, 0.75, 0.42)
        pen.polygon(view.project(mask, 0.1), fill=colour)
    elif kind == 2:
        x, y = rng.uniform(-0.2, 1.0, 2) * SIZE * OVERSAMPLING
        side = SIZE * OVERSAMPLING * rng.uniform(0.15, 0.35)
        pen.rectangle((x, y, x + side, y + side), fill=colour)


def _light(picture, view, rng):
    """Shade an (h, w, 3) float picture by a lamp somewhere in front, and colour the light."""
    grid = (np.indices(picture.shape[:2])[::-1].transpose(1, 2, 0) * OVERSAMPLING - view.centre) / view.scale
    bulge = 1 - grid[..., 0] ** 2 - (grid[..., 1] / view.head_height) ** 2
    normal = np.dstack([grid[..., 0], grid[..., 1] / view.head_height, np.sqrt(np.clip(bulge, 0.05, None))])
    lamp = rng.normal(0, (0.5, 0.3, 0.1)) + (0, -0.2, 0.8)
    lit = np.clip(normal @ (lamp / np.linalg.norm(lamp)), 0, None)
    ambient = rng.uniform(0.5, 0.85)
    strength = rng.uniform(0.85, 1.15)
    tint = rng.uniform(0.95, 1.05, 3)
    return picture * (strength * (ambient + (1.1 - ambient) * lit))[..., None] * tint


def _background(rng):
    return tuple(int(part) for part in np.clip(rng.uniform(60, 190) + rng.normal(0, 20, 3), 0, 255))


def draw_face(identity, rng):
    """Return one image of `identity`, (112, 112, 3) uint8 RGB, as the RandomState `rng` has it."""
    return draw_with_landmarks(identity, rng)[0]


def draw_with_landmarks(identity, rng):
    """Return one image of `identity` and its landmarks, (5, 2): x and y of irises, tip of the nose, mouth's corners."""
    view = _View(rng, identity.head_height)
    side = SIZE * OVERSAMPLING
    canvas = Image.new('RGB', (side, side), _background(rng))
    pen = ImageDraw.Draw(canvas)
    for _ in range(4):  # something in the background
        x, y, width, height = rng.uniform(-0.3, 1.0, 4) * side
        pen.rectangle((x, y, x + abs(width), y + abs(height)), fill=_background(rng))
    _draw_hair_behind(pen, view, identity)
    pen.polygon(view.project(_head_outline(identity)), fill=_shade(identity.skin, 1))
    landmarks = _draw_features(pen, view, identity, rng) / OVERSAMPLING - 0.5  # the first pixel's centre is 0
    _draw_fringe(pen, view, identity)
    _draw_occlusion(pen, view, identity, rng)
    canvas = canvas.resize((SIZE, SIZE), Image.BOX)
    if rng.uniform() < 0.2:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    picture = _light(np.asarray(canvas, float), view, rng)
    picture += rng.normal(0, rng.uniform(1, 4), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), landmarks


def draw_people(rng, people, images):
    """Yield `images` images of each of `people` people, person by person."""
    for _ in range(people):
        identity = draw_identity(rng)
        for _ in range(images):
            yield draw_face(identity, rng)


def draw_pairs(rng, pairs):
    """Yield (image, image, whether both are of the same person), every other pair of the same."""
    for number in range(pairs):
        first = draw_identity(rng)
        second = first if number % 2 == 0 else draw_identity(rng)
        yield draw_face(first, rng), draw_face(second, rng), first is second


def example(height, width):
    """Return a face, the same every time, as (height, width, 3) uint8 RGB."""
    rng = np.random.RandomState(7)
    face = Image.fromarray(draw_face(draw_identity(rng), rng))
    return np.asarray(face.resize((width, height), Image.BILINEAR))
