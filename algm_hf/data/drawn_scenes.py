# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Drawn street scenes with exact label maps: a small segmentation data set that needs no download.

Every scene is a street seen through a pinhole camera: either *along* it (converging kerbs and facades) or *across* it
(a row of facades behind a road). Large even regions (sky, road, facades) stand beside small objects (people, signs,
cars), which is what makes token merging visible. A scene depends on its seed and size alone.

Scenes are drawn at three times their size. The image is the average of each 3 x 3 block, the label map the class of
each block's centre, so borders are smooth in the image and exact in the label map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..refusals import require, require_integer


SCENE_CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person", "sign")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, SIGN = range(len(SCENE_CLASSES))

DEFAULT_SIZE = (128, 192)
MINIMUM_SIDE = 32
SUPERSAMPLING = 3

Color = tuple[int, int, int]
Point = tuple[float, float]
# Corners of a polygon, or two opposite corners of the box around an ellipse, and the colour.
Part = tuple[Sequence[Point], Color]

SKIES = ((120, 165, 220), (170, 190, 210), (160, 165, 175), (205, 180, 170), (190, 205, 215))
FACADES = ((168, 92, 72), (196, 160, 120), (150, 140, 130), (205, 190, 165), (120, 84, 72), (140, 150, 158))
FOLIAGE = ((58, 104, 48), (78, 122, 52), (46, 88, 54), (104, 128, 50), (140, 112, 44))
PAINTS = ((190, 34, 40), (32, 66, 150), (225, 225, 228), (40, 42, 48), (230, 180, 40), (150, 152, 158))
CLOTHES = ((200, 50, 60), (40, 70, 160), (235, 205, 70), (240, 240, 240), (60, 150, 90), (35, 35, 45))
SKIN = ((236, 196, 168), (198, 146, 108), (120, 80, 56), (88, 58, 44))
GLASS, RUBBER, POLE = (60, 78, 96), (28, 28, 30), (120, 122, 126)
ASPHALT, MARKING = (92, 92, 97), (225, 225, 220)
# How rough the surface of each class is: fine and coarse noise.
GRAIN = {ROAD: (7, 6), PAVEMENT: (6, 4), BUILDING: (7, 7), TREE: (26, 12), CAR: (3, 3)}


def _shade(color: Sequence[float], factor: float) -> Color:
    """Multiplies a colour by `factor` and clips it to 0..255."""
    red, green, blue = (int(min(max(channel * factor, 0), 255)) for channel in color)
    return red, green, blue


def _any(colors: Sequence[Color], rng: np.random.Generator, spread: float = 0.15) -> Color:
    """One of some colours, a little lighter or darker."""
    return _shade(colors[rng.integers(len(colors))], rng.uniform(1 - spread, 1 + spread))


def _box(left: float, low: float, right: float, high: float) -> list[Point]:
    return [(left, low), (right, low), (right, high), (left, high)]


class Scene:
    """A backdrop seen through a camera, on which every shape is drawn twice: with its colour into the image and with
    its class into the label map, both enlarged.

    A point `x` metres right of the camera's axis, `up` metres above the ground and `1 / scale` units away lands at
    `(vanishing_x + x * unit * scale, horizon + (eye - up) * unit * scale)`. `scale` 1 is the bottom edge of the image.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator):
        self.width, self.horizon = width, height * rng.uniform(0.36, 0.52)
        self.vanishing_x, self.eye = width * rng.uniform(0.3, 0.7), rng.uniform(2.3, 3.4)
        self.unit = (height - self.horizon) / self.eye  # pixels per metre at scale 1
        ramp = np.linspace(0.75, 0.75 + 0.4 * height / self.horizon, height)[:, None]
        sky = np.clip(ramp * np.array(SKIES[rng.integers(len(SKIES))]), 0, 250).astype(np.uint8)
        self.image = Image.fromarray(np.repeat(sky[:, None], width, axis=1))
        self.labels = Image.new("L", self.image.size, SKY)
        grey = int(rng.integers(135, 185))
        self.draw(_box(-1, self.horizon, width, height), (grey + 6, grey, grey - 8), PAVEMENT)
        x, leaves = -0.1 * height, _any(FOLIAGE, rng)
        while x < width:  # a far line of trees
            radius = height * rng.uniform(0.03, 0.07)
            self.draw([(x, self.horizon - radius), (x + 3 * radius, self.horizon + 0.4 * radius)], leaves, TREE)
            x += radius * rng.uniform(1.0, 2.2)

    def point(self, x: float, up: float, scale: float) -> Point:
        """The pixel of a point of the street."""
        return self.vanishing_x + x * self.unit * scale, self.horizon + (self.eye - up) * self.unit * scale

    def sides(self, scale: float) -> tuple[float, float]:
        """The `x` that the image's left and right edge have at a scale."""
        return -self.vanishing_x / (self.unit * scale), (self.width - self.vanishing_x) / (self.unit * scale)

    def draw(self, points: Sequence[Point], color: Color, label: int) -> None:
        """A polygon, or an ellipse in the box between two points."""
        rounded = [(round(x), round(y)) for x, y in points]
        for canvas, fill in ((self.image, color), (self.labels, label)):
            pen = ImageDraw.Draw(canvas)
            if len(rounded) > 2:
                pen.polygon(rounded, fill=fill)
            else:
                (left, right), (top, bottom) = (sorted(ends) for ends in zip(*rounded, strict=True))
                pen.ellipse((left, top, max(right, left + 1), max(bottom, top + 1)), fill=fill)

    def ground(self, points: Sequence[Point], color: Color) -> None:
        """A part of the road between points `(x, scale)`."""
        self.draw([self.point(x, 0, scale) for x, scale in points], color, ROAD)

    def place(self, parts: Sequence[Part], label: int, x: float, scale: float) -> None:
        """Something upright at `x`, its parts in metres right of and above its foot."""
        for points, color in parts:
            self.draw([self.point(x + right, up, scale) for right, up in points], color, label)

    def place_all(self, actors: Sequence[tuple], rng: np.random.Generator) -> None:
        """Places `(scale, x, maker, label)` from far to near, so that near things hide far ones."""
        for scale, x, maker, label in sorted(actors, key=lambda actor: actor[0]):
            self.place(maker(rng), label, x, scale)


def _tree(rng: np.random.Generator) -> list[Part]:
    """A trunk and a crown of overlapping clumps, 3 to 7 metres high."""
    total, spread, leaves = rng.uniform(3.5, 7), rng.uniform(1.0, 1.9), _any(FOLIAGE, rng)
    parts: list[Part] = [(_box(-0.14, 0, 0.14, 0.6 * total), _any([(92, 68, 48)], rng))]
    for clump in range(12):
        radius, x = spread * rng.uniform(0.4, 0.65), rng.uniform(-0.6, 0.6) * spread
        up = total * (0.68 + rng.uniform(-0.22, 0.28))
        parts.append(([(x - radius, up - radius), (x + radius, up + radius)], _shade(leaves, 0.8 + 0.04 * clump)))
    return parts


def _person(rng: np.random.Generator) -> list[Part]:
    """A walking figure, 1.6 to 1.9 metres high."""
    tall, stride = rng.uniform(1.6, 1.9), rng.uniform(0.05, 0.14)
    coat, trousers, skin = _any(CLOTHES, rng), _any(CLOTHES, rng), _any(SKIN, rng)
    parts = [([(s * 0.11, 0.5), (0, 0.5), (s * stride - 0.04, 0), (s * stride + 0.05, 0)], trousers) for s in (-1, 1)]
    parts += [([(-0.18, 0.44), (-0.1, 0.84), (0.1, 0.84), (0.18, 0.44)], coat), ([(-0.09, 0.8), (0.09, 1)], skin)]
    return [([(x * tall, up * tall) for x, up in points], color) for points, color in parts]


def _car_from_the_side(rng: np.random.Generator) -> list[Part]:
    """About 4 metres long."""
    paint, stretch = _any(PAINTS, rng), rng.choice((-1, 1)) * rng.uniform(0.9, 1.15)
    parts = [
        ([(-2, 0.3), (2, 0.3), (2.05, 0.75), (1.2, 0.92), (-1.95, 0.95), (-2.05, 0.7)], paint),
        ([(-1.75, 0.92), (-1.3, 1.45), (0.35, 1.47), (1.15, 0.92)], _shade(paint, 0.9)),
        ([(-1.5, 0.95), (-1.2, 1.36), (0.3, 1.39), (0.9, 0.95)], GLASS),
    ]
    parts += [([(x - 0.36, -0.03), (x + 0.36, 0.69)], RUBBER) for x in (-1.25, 1.25)]
    return [([(x * stretch, up) for x, up in points], color) for points, color in parts]


def _car_from_behind(rng: np.random.Generator) -> list[Part]:
    """About 1.8 metres wide; from the front its lights are white."""
    paint, light = _any(PAINTS, rng), ((200, 30, 30), (250, 245, 215))[rng.integers(2)]
    parts = [(_box(x - 0.15, 0, x + 0.15, 0.5), RUBBER) for x in (-0.7, 0.7)]
    parts += [(_box(-0.92, 0.25, 0.92, 0.9), paint)]
    parts += [([(-0.85, 0.88), (0.85, 0.88), (0.62, 1.5), (-0.62, 1.5)], _shade(paint, 0.9))]
    parts += [([(-0.68, 0.95), (0.68, 0.95), (0.52, 1.38), (-0.52, 1.38)], GLASS)]
    return parts + [(_box(x - 0.14, 0.62, x + 0.14, 0.82), light) for x in (-0.74, 0.74)]


def _sign(rng: np.random.Generator) -> list[Part]:
    """A disc, a triangle, a diamond or a board on a pole, with a rim."""
    up, radius = rng.uniform(2.3, 2.9), rng.uniform(0.4, 0.6)
    shape, rim, face = (
        ([(-1, -1), (1, 1)], (205, 30, 35), (245, 245, 245)),
        ([(0, 1.1), (1, -0.7), (-1, -0.7)], (205, 30, 35), (245, 245, 245)),
        ([(0, 1.2), (1.2, 0), (0, -1.2), (-1.2, 0)], (250, 250, 250), (240, 200, 40)),
        (_box(-1.3, -0.8, 1.3, 0.8), (250, 250, 250), (30, 80, 170)),
    )[rng.integers(4)]
    parts: list[Part] = [(_box(-0.07, 0, 0.07, up), POLE)]
    for size, color in ((radius, rim), (0.75 * radius, face)):
        parts.append(([(x * size, up + y * size) for x, y in shape], color))
    return parts


def _draw_building(
    scene: Scene, at: Callable[[float, float], Point], wide: float, high: float, rng: np.random.Generator
) -> None:
    """A facade with windows; `at(x, up)` takes metres along it and above the ground to pixels."""
    wall, pane = _any(FACADES, rng, 0.2), _any([(70, 86, 104)], rng, 0.3)
    scene.draw([at(*corner) for corner in _box(0, 0, wide, high)], wall, BUILDING)
    columns, floors = max(1, round(wide / rng.uniform(2.2, 3.4))), max(1, round(high / 3.2))
    side, storey = wide / columns, high / floors
    for column in range(columns):
        for floor in range(floors):
            left, low = (column + 0.25) * side, (floor + 0.28) * storey
            window = [at(*corner) for corner in _box(left, low, left + 0.5 * side, low + 0.52 * storey)]
            scene.draw(window, (238, 214, 150) if rng.random() < 0.12 else pane, BUILDING)


def _draw_street_along(scene: Scene, rng: np.random.Generator) -> None:
    """A street that runs towards the vanishing point."""
    half_road = rng.uniform(2.8, 4.5)
    edge = half_road + rng.uniform(1.8, 3.5)
    for side in (-1, 1):
        depth = 14.0
        while depth > 0.9:  # far lots first
            near = max(depth - rng.uniform(1.0, 2.6), 0.7)
            if rng.random() < 0.8:

                def at(x: float, up: float, side=side, near=near) -> Point:
                    return scene.point(side * edge, up, 1 / (near + x / 5))

                _draw_building(scene, at, (depth - near) * 5, rng.uniform(4.5, 13), rng)
            else:
                scene.place(_tree(rng), TREE, side * (edge + rng.uniform(0, 1.5)), 1 / (near + 0.3))
            depth = near
    scene.ground([(-half_road, 1.1), (half_road, 1.1), (half_road, 0.05), (-half_road, 0.05)], _any([ASPHALT], rng))
    for depth in np.arange(rng.uniform(0.9, 1.3), 9, 1.1):
        near, far = 1 / depth, 1 / (depth + 0.5)
        scene.ground([(-0.09, near), (0.09, near), (0.09, far), (-0.09, far)], MARKING)
    actors = []
    for maker, label, most, near, left, right in (
        (_car_from_behind, CAR, 5, 0.66, 0.4 * half_road, 0.72 * half_road),
        (_person, PERSON, 6, 0.85, half_road + 0.4, edge - 0.3),
        (_tree, TREE, 3, 0.75, half_road + 0.3, half_road + 0.9),
        (_sign, SIGN, 3, 0.75, half_road + 0.3, half_road + 0.9),
    ):
        for _ in range(rng.integers(1, most + 1)):
            actors.append((rng.uniform(0.3, near), rng.choice((-1, 1)) * rng.uniform(left, right), maker, label))
    scene.place_all(actors, rng)


def _draw_street_across(scene: Scene, rng: np.random.Generator) -> None:
    """A street that runs from left to right: facades, far pavement, road, sometimes the near pavement."""
    back, kerb = rng.uniform(0.36, 0.48), rng.uniform(0.53, 0.62)
    front = rng.uniform(0.84, 0.95) if rng.random() < 0.6 else 1.2

    x, end = scene.sides(back)
    x -= rng.uniform(0, 6)
    while x < end:
        wide = rng.uniform(5, 11)
        if rng.random() < 0.78:

            def at(along: float, up: float, x=x) -> Point:
                return scene.point(x + along, up, back)

            _draw_building(scene, at, wide, rng.uniform(4.5, 12), rng)
        else:
            scene.place(_tree(rng), TREE, x + rng.uniform(0.3, 0.7) * wide, back)
        x += wide
    left, right = scene.sides(kerb)
    scene.ground([(left, kerb), (right, kerb), (right, front), (left, front)], _any([ASPHALT], rng))
    middle = (kerb + min(front, 1.0)) / 2
    for x in np.arange(*scene.sides(middle), 3.2):
        near, far = middle + 0.008, middle - 0.008
        scene.ground([(x, near), (x + 1.6, near), (x + 1.6, far), (x, far)], MARKING)
    actors = []
    for maker, label, most, far, near in (
        (_person, PERSON, 6, back + 0.02, kerb - 0.01),
        (_tree, TREE, 3, kerb - 0.03, kerb - 0.01),
        (_sign, SIGN, 3, kerb - 0.02, kerb - 0.005),
        (_car_from_the_side, CAR, 4, kerb + 0.04, min(front, 1.0) - 0.03),
        *([(_person, PERSON, 2, 0.96, 0.98), (_sign, SIGN, 1, 0.96, 0.98)] if front < 1 else []),
    ):
        for _ in range(rng.integers(1, most + 1)):
            scale = rng.uniform(far, near)
            actors.append((scale, rng.uniform(*scene.sides(scale)), maker, label))
    scene.place_all(actors, rng)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise of mean 0 and range about -1..1 whose blotches are about `cell` pixels wide, `(height, width)` float32."""
    grid = rng.uniform(-1, 1, (max(2, height // cell + 1), max(2, width // cell + 1))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _develop(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds grain per class, the light of the day and sensor noise; returns `(height, width, 3)` uint8."""
    fine, coarse = (_smooth_noise(rng, *labels.shape, cell) for cell in (2, 8))
    grain = sum((labels == label) * (weights[0] * fine + weights[1] * coarse) for label, weights in GRAIN.items())
    light = rng.uniform(0.72, 1.12) * (1 + rng.uniform(-0.08, 0.08) * np.array([1.0, 0.0, -1.0]))
    light = light * (1 + rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, labels.shape[1])[:, None])
    developed = (image + grain[:, :, None]) * light + rng.normal(0, rng.uniform(1.0, 4.0), image.shape)
    return np.clip(developed, 0, 255).astype(np.uint8)


def make_scene(seed: int, size: tuple[int, int] = DEFAULT_SIZE) -> tuple[Image.Image, Image.Image]:
    """Draws one street scene.

    Args:
        seed (`int`): Chooses the scene; 0 or more. The same seed and size always give the same pixels.
        size (`tuple[int, int]`, *optional*, defaults to `(128, 192)`): Height and width in pixels, each at least 32.

    Returns:
        `tuple[Image.Image, Image.Image]`: The image (mode `RGB`) and its label map (mode `L`, values index
            [`SCENE_CLASSES`]), both of that size.
    """
    require_integer("seed", seed, 0)
    height, width = size
    require(min(size) >= MINIMUM_SIDE, "size", tuple(size), f"a height and a width of at least {MINIMUM_SIDE} pixels")
    rng = np.random.default_rng([seed, height, width])
    scene = Scene(height * SUPERSAMPLING, width * SUPERSAMPLING, rng)
    (_draw_street_along if rng.random() < 0.55 else _draw_street_across)(scene, rng)
    center = SUPERSAMPLING // 2
    labels = np.asarray(scene.labels)[center::SUPERSAMPLING, center::SUPERSAMPLING].copy()
    image = _develop(np.asarray(scene.image.reduce(SUPERSAMPLING)), labels, rng)
    return Image.fromarray(image), Image.fromarray(labels)


__all__ = ["DEFAULT_SIZE", "SCENE_CLASSES", "make_scene"]
