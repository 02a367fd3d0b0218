# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Drawn street scenes with exact label maps: a small segmentation data set that needs no download.

Every scene is a picture of a street seen through a pinhole camera: either *along* the street (converging kerbs and
facades) or *across* it (a row of facades behind a road). Large even regions (sky, road, facades) stand beside small
objects (people, signs, cars), which is what makes token merging visible. A scene depends on its seed and size alone.

Pictures are drawn at three times their size. The image is the average of each 3 x 3 block, the label map the class of
each block's centre, so borders are smooth in the image and exact in the label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw


if TYPE_CHECKING:
    import datasets


SCENE_CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person", "sign")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, SIGN = range(len(SCENE_CLASSES))

DEFAULT_SIZE = (128, 192)
MINIMUM_SIDE = 32
SUPERSAMPLING = 3

Color = tuple[int, int, int]
Point = tuple[float, float]

SKIES: tuple[tuple[Color, Color], ...] = (  # colour at the top, colour at the horizon
    ((70, 130, 205), (190, 215, 235)),
    ((120, 160, 205), (225, 230, 232)),
    ((150, 155, 165), (205, 207, 210)),
    ((75, 90, 150), (240, 190, 150)),
    ((165, 185, 200), (240, 240, 235)),
)
FACADES: tuple[Color, ...] = (
    (168, 92, 72), (196, 160, 120), (150, 140, 130), (205, 190, 165),
    (120, 84, 72), (176, 120, 96), (140, 150, 158), (214, 204, 192),
)  # fmt: skip
FOLIAGE: tuple[Color, ...] = ((58, 104, 48), (78, 122, 52), (46, 88, 54), (104, 128, 50), (140, 112, 44))
PAINTS: tuple[Color, ...] = (
    (190, 34, 40), (32, 66, 150), (225, 225, 228), (40, 42, 48),
    (230, 180, 40), (40, 120, 110), (150, 152, 158), (220, 100, 40),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (200, 50, 60), (40, 70, 160), (235, 205, 70), (240, 240, 240),
    (60, 150, 90), (130, 60, 140), (235, 130, 50), (35, 35, 45),
)  # fmt: skip
SKIN: tuple[Color, ...] = ((236, 196, 168), (198, 146, 108), (120, 80, 56), (88, 58, 44))


def _shade(color: Sequence[float], factor: float) -> Color:
    """Multiplies a colour by `factor` and clips it to 0..255."""
    red, green, blue = (int(min(max(channel * factor, 0), 255)) for channel in color)
    return red, green, blue


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise of mean 0 and range about -1..1 whose blotches are about `cell` pixels wide, `(height, width)` float32."""
    grid = rng.uniform(-1, 1, (max(2, height // cell + 1), max(2, width // cell + 1))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


@dataclass
class Camera:
    """Projects street coordinates to pixels of the enlarged drawing.

    A point `x` metres right of the camera's axis, `up` metres above the ground and `1 / scale` units away lands at
    `(vanishing_x + x * unit * scale, horizon + (eye - up) * unit * scale)`. `scale` 1 is the bottom edge of the
    picture.
    """

    width: int
    height: int
    horizon: float
    vanishing_x: float
    eye: float

    @property
    def unit(self) -> float:
        """Pixels per metre at scale 1."""
        return (self.height - self.horizon) / self.eye

    def point(self, x: float, up: float, scale: float) -> Point:
        return self.vanishing_x + x * self.unit * scale, self.horizon + (self.eye - up) * self.unit * scale

    def x_at(self, pixel: float, scale: float) -> float:
        """The street coordinate in metres whose image column at `scale` is `pixel`."""
        return (pixel - self.vanishing_x) / (self.unit * scale)


class Painter:
    """Draws every shape twice: with its colour into the picture and with its class into the label map."""

    def __init__(self, width: int, height: int):
        self.picture = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height), SKY)
        self._picture_draw = ImageDraw.Draw(self.picture)
        self._labels_draw = ImageDraw.Draw(self.labels)

    def polygon(self, points: Sequence[Point], color: Color, label: int) -> None:
        rounded = [(round(x), round(y)) for x, y in points]
        self._picture_draw.polygon(rounded, fill=color)
        self._labels_draw.polygon(rounded, fill=label)

    def rectangle(self, left: float, top: float, right: float, bottom: float, color: Color, label: int) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, label)

    def ellipse(self, left: float, top: float, right: float, bottom: float, color: Color, label: int) -> None:
        box = [round(left), round(top), max(round(right), round(left) + 1), max(round(bottom), round(top) + 1)]
        self._picture_draw.ellipse(box, fill=color)
        self._labels_draw.ellipse(box, fill=label)

    def tint(self, left: float, top: float, right: float, bottom: float, factor: float) -> None:
        """Darkens an ellipse of the picture (a shadow on the ground); the label map stays as it is."""
        left, top, right, bottom = round(left), round(top), round(right) + 1, round(bottom) + 1
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).ellipse([0, 0, right - left - 1, bottom - top - 1], fill=255)
        patch = self.picture.crop((left, top, right, bottom)).point(lambda value: int(value * factor))
        self.picture.paste(patch, (left, top), mask)


def _paint_sky(painter: Painter, camera: Camera, rng: np.random.Generator) -> None:
    """Gradient from the zenith to the horizon with soft clouds."""
    top, bottom = (np.asarray(color, dtype=np.float32) for color in SKIES[rng.integers(len(SKIES))])
    ramp = np.clip(np.arange(camera.height) / max(camera.horizon, 1), 0, 1)[:, None, None].astype(np.float32)
    sky = np.broadcast_to(top + (bottom - top) * ramp, (camera.height, camera.width, 3))
    cover = _smooth_noise(rng, camera.height, camera.width, camera.height // 6)
    cover = cover + 0.5 * _smooth_noise(rng, camera.height, camera.width, camera.height // 14)
    cloud = np.clip((cover - rng.uniform(0.1, 0.7)) * 1.2, 0, 0.75)[:, :, None]
    painter.picture.paste(Image.fromarray((sky * (1 - cloud) + 245 * cloud).astype(np.uint8)))


def _paint_ground(painter: Painter, camera: Camera, rng: np.random.Generator) -> None:
    """Everything below the horizon is pavement until the road is drawn; a far line of trees closes the view."""
    grey = int(rng.integers(135, 185))
    color = (grey + 6, grey, grey - 8)
    painter.rectangle(-1, camera.horizon, camera.width, camera.height, color, PAVEMENT)
    foliage = _shade(FOLIAGE[rng.integers(len(FOLIAGE))], 0.9)
    x = -camera.height * 0.1
    while x < camera.width:
        radius = camera.height * rng.uniform(0.03, 0.07)
        painter.ellipse(x, camera.horizon - radius, x + 3 * radius, camera.horizon + radius * 0.4, foliage, TREE)
        x += radius * rng.uniform(1.0, 2.2)


def _paint_windows(painter: Painter, corner, columns: int, floors: int, wall: Color, rng: np.random.Generator) -> None:
    """Windows on a facade; `corner(u, v)` maps facade coordinates (0..1 along, 0..1 from the ground up) to pixels."""
    dark = _shade((70, 86, 104), rng.uniform(0.7, 1.3))
    lit = (238, 214, 150)
    frame = _shade(wall, 1.25)
    for column in range(columns):
        for floor in range(floors):
            left, right = (column + 0.25) / columns, (column + 0.75) / columns
            low, high = (floor + 0.28) / floors, (floor + 0.8) / floors
            if floor == 0 and column == columns // 2:
                low = 0.0  # a door reaches the ground
            for margin, color in ((0.06 / columns, frame), (0.0, lit if rng.random() < 0.12 else dark)):
                box = ((left - margin, low), (right + margin, low), (right + margin, high), (left - margin, high))
                painter.polygon([corner(u, v) for u, v in box], color, BUILDING)


def _paint_building(
    painter: Painter, corner, metres_wide: float, metres_high: float, rng: np.random.Generator
) -> None:
    """A facade with brick courses, windows, a door and a cornice."""
    wall = _shade(FACADES[rng.integers(len(FACADES))], rng.uniform(0.75, 1.1))
    painter.polygon([corner(0, 0), corner(1, 0), corner(1, 1), corner(0, 1)], wall, BUILDING)
    floors = max(1, round(metres_high / 3.2))
    for course in range(floors):
        v = course / floors
        strip = [corner(0, v), corner(1, v), corner(1, v + 0.02), corner(0, v + 0.02)]
        painter.polygon(strip, _shade(wall, 0.82), BUILDING)
    if rng.random() < 0.85:
        _paint_windows(painter, corner, max(1, round(metres_wide / rng.uniform(2.2, 3.4))), floors, wall, rng)
    painter.polygon([corner(0, 0.96), corner(1, 0.96), corner(1, 1), corner(0, 1)], _shade(wall, 0.7), BUILDING)


def _paint_tree(painter: Painter, camera: Camera, x: float, scale: float, rng: np.random.Generator) -> None:
    """A trunk and a crown of overlapping leaf clumps, 3 to 7 metres high."""
    metre = camera.unit * scale
    base_x, base_y = camera.point(x, 0, scale)
    total, spread = rng.uniform(3.5, 7) * metre, rng.uniform(1.0, 1.9) * metre
    painter.tint(base_x - spread, base_y - 0.18 * metre, base_x + spread, base_y + 0.18 * metre, 0.7)
    trunk = _shade((92, 68, 48), rng.uniform(0.7, 1.2))
    painter.rectangle(base_x - 0.14 * metre, base_y - total * 0.6, base_x + 0.14 * metre, base_y, trunk, TREE)
    leaves = FOLIAGE[rng.integers(len(FOLIAGE))]
    for clump in range(14):
        radius = spread * rng.uniform(0.4, 0.65)
        center_x = base_x + rng.uniform(-0.6, 0.6) * spread
        center_y = base_y - total * 0.68 + rng.uniform(-0.28, 0.22) * total
        color = _shade(leaves, 0.8 + 0.035 * clump + rng.uniform(-0.08, 0.08))
        painter.ellipse(center_x - radius, center_y - radius, center_x + radius, center_y + radius, color, TREE)


def _paint_person(painter: Painter, camera: Camera, x: float, scale: float, rng: np.random.Generator) -> None:
    """A walking figure, 1.6 to 1.9 metres high."""
    metre = camera.unit * scale
    foot_x, foot_y = camera.point(x, 0, scale)
    tall = rng.uniform(1.6, 1.9) * metre
    coat, trousers = (_shade(CLOTHES[rng.integers(len(CLOTHES))], rng.uniform(0.8, 1.1)) for _ in range(2))
    skin, hair = SKIN[rng.integers(len(SKIN))], _shade((80, 56, 40), rng.uniform(0.4, 1.6))
    stride, half = rng.uniform(0.05, 0.14) * tall, 0.13 * tall
    painter.tint(foot_x - 0.28 * tall, foot_y - 0.05 * tall, foot_x + 0.28 * tall, foot_y + 0.05 * tall, 0.6)
    for side in (-1, 1):
        hip_x, shoe_x = foot_x + side * 0.05 * tall, foot_x + side * stride
        leg = [(hip_x - 0.06 * tall, foot_y - 0.5 * tall), (hip_x + 0.06 * tall, foot_y - 0.5 * tall)]
        leg += [(shoe_x + 0.045 * tall, foot_y), (shoe_x - 0.045 * tall, foot_y)]
        painter.polygon(leg, trousers, PERSON)
        arm_x = foot_x + side * half
        arm = [(arm_x - 0.035 * tall, foot_y - 0.8 * tall), (arm_x + 0.035 * tall, foot_y - 0.8 * tall)]
        arm += [
            (arm_x + (0.035 + side * 0.05) * tall, foot_y - 0.44 * tall),
            (arm_x + (side * 0.05 - 0.035) * tall, foot_y - 0.44 * tall),
        ]
        painter.polygon(arm, _shade(coat, 0.85), PERSON)
    painter.ellipse(foot_x - half, foot_y - 0.86 * tall, foot_x + half, foot_y - 0.66 * tall, coat, PERSON)
    painter.rectangle(foot_x - half, foot_y - 0.76 * tall, foot_x + half, foot_y - 0.44 * tall, coat, PERSON)
    head = 0.085 * tall
    painter.ellipse(foot_x - head, foot_y - tall, foot_x + head, foot_y - tall + 2.3 * head, skin, PERSON)
    painter.ellipse(foot_x - head, foot_y - tall, foot_x + head, foot_y - tall + 1.1 * head, hair, PERSON)


def _paint_car_side(painter: Painter, camera: Camera, x: float, scale: float, rng: np.random.Generator) -> None:
    """A car seen from the side, about 4 metres long."""
    metre = camera.unit * scale
    center_x, ground = camera.point(x, 0, scale)
    paint, flip = _shade(PAINTS[rng.integers(len(PAINTS))], rng.uniform(0.8, 1.1)), rng.choice((-1, 1))
    stretch = rng.uniform(0.9, 1.15)

    def at(along: float, up: float) -> Point:
        return center_x + flip * along * stretch * metre, ground - up * metre

    painter.tint(center_x - 2.2 * metre, ground - 0.2 * metre, center_x + 2.2 * metre, ground + 0.18 * metre, 0.5)
    body = [(-2.0, 0.3), (2.0, 0.3), (2.05, 0.75), (1.2, 0.92), (-1.95, 0.95), (-2.05, 0.7)]
    painter.polygon([at(*point) for point in body], paint, CAR)
    roof = [(-1.75, 0.92), (-1.3, 1.45), (0.35, 1.47), (1.15, 0.92)]
    painter.polygon([at(*point) for point in roof], _shade(paint, 0.9), CAR)
    glass = (60, 78, 96)
    painter.polygon([at(*point) for point in [(-1.5, 0.95), (-1.2, 1.36), (-0.5, 1.38), (-0.5, 0.95)]], glass, CAR)
    painter.polygon([at(*point) for point in [(-0.38, 0.95), (-0.38, 1.38), (0.3, 1.39), (0.9, 0.95)]], glass, CAR)
    for wheel in (-1.25, 1.25):
        wheel_x, _ = at(wheel, 0)
        for radius, color in ((0.36, (28, 28, 30)), (0.18, (150, 150, 155))):
            box = (
                wheel_x - radius * metre,
                ground - (0.33 + radius) * metre,
                wheel_x + radius * metre,
                ground - (0.33 - radius) * metre,
            )
            painter.ellipse(*box, color, CAR)


def _paint_car_rear(painter: Painter, camera: Camera, x: float, scale: float, rng: np.random.Generator) -> None:
    """A car seen from behind or from the front, about 1.8 metres wide."""
    metre = camera.unit * scale
    center_x, ground = camera.point(x, 0, scale)
    paint = _shade(PAINTS[rng.integers(len(PAINTS))], rng.uniform(0.8, 1.1))
    light = (200, 30, 30) if rng.random() < 0.6 else (250, 245, 215)

    def box(left: float, low: float, right: float, high: float, color: Color) -> None:
        painter.rectangle(
            center_x + left * metre, ground - high * metre, center_x + right * metre, ground - low * metre, color, CAR
        )

    painter.tint(center_x - 1.1 * metre, ground - 0.2 * metre, center_x + 1.1 * metre, ground + 0.15 * metre, 0.45)
    for side in (-1, 1):
        box(side * 0.7 - 0.15, 0, side * 0.7 + 0.15, 0.5, (28, 28, 30))
    box(-0.92, 0.25, 0.92, 0.9, paint)
    cabin = [(-0.85, 0.88), (0.85, 0.88), (0.62, 1.5), (-0.62, 1.5)]
    painter.polygon([(center_x + along * metre, ground - up * metre) for along, up in cabin], _shade(paint, 0.9), CAR)
    glass = [(-0.68, 0.95), (0.68, 0.95), (0.52, 1.38), (-0.52, 1.38)]
    painter.polygon([(center_x + along * metre, ground - up * metre) for along, up in glass], (60, 78, 96), CAR)
    box(-0.88, 0.62, -0.6, 0.82, light)
    box(0.6, 0.62, 0.88, 0.82, light)
    box(-0.25, 0.42, 0.25, 0.58, (235, 232, 215))


def _paint_sign(painter: Painter, camera: Camera, x: float, scale: float, rng: np.random.Generator) -> None:
    """A traffic sign on a pole: a disc, a triangle, a diamond or a board."""
    metre = camera.unit * scale
    base_x, base_y = camera.point(x, 0, scale)
    center_y, radius = base_y - rng.uniform(2.3, 2.9) * metre, rng.uniform(0.4, 0.6) * metre
    painter.rectangle(base_x - 0.07 * metre, center_y, base_x + 0.07 * metre, base_y, (120, 122, 126), SIGN)
    shape = rng.integers(4)
    for factor, color in (
        ((1.0, (205, 30, 35)), (0.68, (245, 245, 245)))
        if shape < 2
        else ((1.0, (250, 250, 250)), (0.86, (30, 80, 170)))
    ):
        size = radius * factor
        if shape == 0:
            painter.ellipse(base_x - size, center_y - size, base_x + size, center_y + size, color, SIGN)
        elif shape == 1:
            triangle = [
                (base_x, center_y - 1.1 * size),
                (base_x + size, center_y + 0.7 * size),
                (base_x - size, center_y + 0.7 * size),
            ]
            painter.polygon(triangle, color, SIGN)
        elif shape == 2:
            color = (240, 200, 40) if factor < 1 else color
            diamond = [
                (base_x, center_y - 1.2 * size),
                (base_x + 1.2 * size, center_y),
                (base_x, center_y + 1.2 * size),
                (base_x - 1.2 * size, center_y),
            ]
            painter.polygon(diamond, color, SIGN)
        else:
            painter.rectangle(
                base_x - 1.3 * size, center_y - 0.8 * size, base_x + 1.3 * size, center_y + 0.8 * size, color, SIGN
            )


def _paint_lane(
    painter: Painter, camera: Camera, x: float, near: float, far: float, width: float, color: Color
) -> None:
    """A painted line along the road at `x` metres between two scales."""
    points = [
        camera.point(x - width, 0, near),
        camera.point(x + width, 0, near),
        camera.point(x + width, 0, far),
        camera.point(x - width, 0, far),
    ]
    painter.polygon(points, color, ROAD)


def _paint_facades_along(painter: Painter, camera: Camera, side: int, edge: float, rng: np.random.Generator) -> None:
    """Facades, trees and gaps on one side of a street that runs away from the camera, far lots first."""
    depth = 14.0
    while depth > 0.9:
        metres_wide = rng.uniform(1.0, 2.6)
        near_depth = max(depth - metres_wide, 0.7)
        if rng.random() < 0.85:
            high = rng.uniform(4.5, 13)

            def corner(u: float, v: float, near=near_depth, far=depth, high=high) -> Point:
                return camera.point(side * edge, v * high, 1 / (near + (far - near) * u))

            _paint_building(painter, corner, (depth - near_depth) * 5, high, rng)
        else:
            for _ in range(3):
                _paint_tree(
                    painter,
                    camera,
                    side * (edge + rng.uniform(0, 1.5)),
                    1 / rng.uniform(near_depth + 0.3, depth + 0.3),
                    rng,
                )
        depth = near_depth


def _paint_street_along(painter: Painter, camera: Camera, rng: np.random.Generator) -> None:
    """A street that runs towards the vanishing point."""
    half_road = rng.uniform(2.8, 4.5)
    edge = half_road + rng.uniform(1.8, 3.5)
    asphalt = int(rng.integers(72, 112))
    color = (asphalt, asphalt, asphalt + 5)
    sides = [side for side in (-1, 1) if rng.random() < 0.9]
    for side in sides:
        _paint_facades_along(painter, camera, side, edge, rng)
    road = [
        camera.point(-half_road, 0, 1.1),
        camera.point(half_road, 0, 1.1),
        camera.point(half_road, 0, 0.05),
        camera.point(-half_road, 0, 0.05),
    ]
    painter.polygon(road, color, ROAD)
    for x in (-half_road, half_road):
        _paint_lane(painter, camera, x * 0.985, 1.1, 0.05, 0.07, _shade(color, 1.5))
    depth = rng.uniform(0.9, 1.3)
    while depth < 9:
        _paint_lane(painter, camera, 0, 1 / depth, 1 / (depth + 0.5), 0.09, (225, 225, 220))
        depth += 1.1
    actors = []
    for _ in range(rng.integers(2, 6)):
        lane = rng.choice((-1, 1)) * half_road * rng.uniform(0.4, 0.72)
        actors.append((rng.uniform(0.2, 0.66), _paint_car_rear, lane))
    for _ in range(rng.integers(2, 7)):
        side = rng.choice((-1, 1))
        actors.append((rng.uniform(0.34, 0.85), _paint_person, side * rng.uniform(half_road + 0.4, edge - 0.3)))
    for paint, most in ((_paint_tree, 4), (_paint_sign, 4)):
        for _ in range(rng.integers(1, most)):
            actors.append((rng.uniform(0.36, 0.75), paint, rng.choice((-1, 1)) * (half_road + rng.uniform(0.3, 0.9))))
    _paint_actors(painter, camera, actors, rng)


def _paint_facades_across(painter: Painter, camera: Camera, scale: float, rng: np.random.Generator) -> None:
    """A row of facades, trees and gaps parallel to the picture."""
    x, end = camera.x_at(-10, scale) - rng.uniform(0, 6), camera.x_at(camera.width + 10, scale)
    while x < end:
        wide, high = rng.uniform(5, 11), rng.uniform(4.5, 12)
        if rng.random() < 0.78:

            def corner(u: float, v: float, x=x, wide=wide, high=high) -> Point:
                return camera.point(x + u * wide, v * high, scale)

            _paint_building(painter, corner, wide, high, rng)
        else:
            wide *= 0.6
            for _ in range(3):
                _paint_tree(painter, camera, x + rng.uniform(0, wide), scale, rng)
        x += wide + (rng.uniform(0.5, 2.5) if rng.random() < 0.25 else 0)


def _paint_street_across(painter: Painter, camera: Camera, rng: np.random.Generator) -> None:
    """A street that runs from left to right: facades, far pavement, road, sometimes the near pavement."""
    back, kerb = rng.uniform(0.36, 0.48), rng.uniform(0.53, 0.62)
    front = rng.uniform(0.84, 0.95) if rng.random() < 0.6 else 1.2
    asphalt = int(rng.integers(72, 112))
    color = (asphalt, asphalt, asphalt + 5)
    _paint_facades_across(painter, camera, back, rng)
    rows = [camera.point(0, 0, scale)[1] for scale in (kerb, front)]
    painter.rectangle(-1, rows[0], camera.width, rows[1], color, ROAD)
    painter.rectangle(-1, rows[0], camera.width, rows[0] + 0.012 * camera.height, _shade(color, 1.5), ROAD)
    middle = (kerb + min(front, 1.0)) / 2
    x, end = camera.x_at(-10, middle), camera.x_at(camera.width + 10, middle)
    while x < end:
        top, low = camera.point(x, 0, middle - 0.008), camera.point(x + 1.6, 0, middle + 0.008)
        painter.rectangle(top[0], top[1], low[0], low[1], (225, 225, 220), ROAD)
        x += 3.2

    def anywhere(scale: float) -> float:
        return camera.x_at(rng.uniform(0.02, 0.98) * camera.width, scale)

    actors = []
    for paint, most, nearest, farthest in (
        (_paint_person, 6, back + 0.02, kerb - 0.01),
        (_paint_tree, 3, kerb - 0.03, kerb - 0.01),
        (_paint_sign, 3, kerb - 0.02, kerb - 0.005),
        (_paint_car_side, 4, kerb + 0.04, min(front, 1.0) - 0.03),
    ):
        for _ in range(rng.integers(1, most + 1)):
            scale = rng.uniform(nearest, farthest)
            actors.append((scale, paint, anywhere(scale)))
    if front < 1:
        for paint in (_paint_person, _paint_sign, _paint_person):
            if rng.random() < 0.5:
                actors.append((0.97, paint, anywhere(0.97)))
    _paint_actors(painter, camera, actors, rng)


def _paint_actors(painter: Painter, camera: Camera, actors: list, rng: np.random.Generator) -> None:
    """Draws `(scale, function, x)` from far to near, so that near things hide far ones."""
    for scale, paint, x in sorted(actors, key=lambda actor: actor[0]):
        paint(painter, camera, x, scale, rng)


def _develop(picture: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds grain per class, the light of the day, a vignette and sensor noise; returns `(height, width, 3)` uint8."""
    height, width = labels.shape
    fine, coarse = _smooth_noise(rng, height, width, 2), _smooth_noise(rng, height, width, 8)
    grain = np.zeros((height, width), dtype=np.float32)
    for label, fine_amount, coarse_amount in (
        (ROAD, 7, 6),
        (PAVEMENT, 6, 4),
        (BUILDING, 7, 7),
        (TREE, 26, 12),
        (CAR, 3, 3),
    ):
        grain += (labels == label) * (fine_amount * fine + coarse_amount * coarse)
    light = rng.uniform(0.72, 1.12) * (1 + rng.uniform(-0.08, 0.08) * np.array([1.0, 0.0, -1.0]))
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    falloff = 1 - 0.12 * (rows**2 + columns**2) / 2 + rng.uniform(-0.12, 0.12) * columns
    developed = (picture.astype(np.float32) + grain[:, :, None]) * falloff[:, :, None] * light
    developed += rng.normal(0, rng.uniform(1.0, 4.0), developed.shape)
    return np.clip(developed, 0, 255).astype(np.uint8)


def make_scene(seed: int, size: tuple[int, int] = DEFAULT_SIZE) -> tuple[Image.Image, Image.Image]:
    """Draws one street scene.

    Args:
        seed (`int`): Chooses the scene; 0 or more. The same seed and size always give the same pixels.
        size (`tuple[int, int]`, *optional*, defaults to `(128, 192)`): Height and width in pixels, each at least 32.

    Returns:
        `tuple[Image.Image, Image.Image]`: The picture (mode `RGB`) and its label map (mode `L`, values index
            [`SCENE_CLASSES`]), both of that size.

    Raises:
        `ValueError`: If `seed` is negative or a side of `size` is below 32.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected an integer of 0 or more.")
    height, width = size
    if min(height, width) < MINIMUM_SIDE:
        raise ValueError(f"size is {tuple(size)}, expected a height and a width of at least {MINIMUM_SIDE} pixels.")
    rng = np.random.default_rng([seed, height, width])
    camera = Camera(
        width=width * SUPERSAMPLING,
        height=height * SUPERSAMPLING,
        horizon=height * SUPERSAMPLING * rng.uniform(0.36, 0.52),
        vanishing_x=width * SUPERSAMPLING * rng.uniform(0.3, 0.7),
        eye=rng.uniform(2.3, 3.4),
    )
    painter = Painter(camera.width, camera.height)
    _paint_sky(painter, camera, rng)
    _paint_ground(painter, camera, rng)
    (_paint_street_along if rng.random() < 0.55 else _paint_street_across)(painter, camera, rng)
    picture = np.asarray(painter.picture.reduce(SUPERSAMPLING))
    center = SUPERSAMPLING // 2
    labels = np.asarray(painter.labels)[center::SUPERSAMPLING, center::SUPERSAMPLING]
    return Image.fromarray(_develop(picture, labels, rng)), Image.fromarray(np.ascontiguousarray(labels))


def scene_dataset(num: int, seed: int = 0, sizes: Sequence[tuple[int, int]] = (DEFAULT_SIZE,)) -> datasets.Dataset:
    """Draws `num` scenes into a `datasets.Dataset`.

    Args:
        num (`int`): Number of scenes, at least 1.
        seed (`int`, *optional*, defaults to 0): Seed of the first scene; scene `i` has seed `seed + i`, so ranges of
            seeds that do not overlap give sets that share no scene.
        sizes (`Sequence[tuple[int, int]]`, *optional*): Heights and widths in pixels, taken in turn.

    Returns:
        `datasets.Dataset`: Columns `image` (RGB) and `annotation` (label map, values index [`SCENE_CLASSES`]), held
            in memory.

    Raises:
        `ValueError`: If `num` is below 1, or see [`make_scene`].
    """
    import datasets  # drawing alone does not need it

    if num < 1:
        raise ValueError(f"num is {num}, expected at least 1 scene.")
    pairs = [make_scene(seed + index, sizes[index % len(sizes)]) for index in range(num)]
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    columns = {"image": [pair[0] for pair in pairs], "annotation": [pair[1] for pair in pairs]}
    return datasets.Dataset.from_dict(columns, features=features)


__all__ = ["DEFAULT_SIZE", "SCENE_CLASSES", "make_scene", "scene_dataset"]
