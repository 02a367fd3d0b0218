# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""One colour for each class, told apart by every kind of sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..refusals import require


IGNORE_COLOR = (0, 0, 0)
# Colours of common street classes, close to those of Cityscapes but kept apart in lightness as well as in hue, so
# that they stay distinct to a reader who does not tell red from green.
STREET_COLORS = {
    "sky": (116, 180, 226),
    "building": (112, 104, 100),
    "wall": (150, 140, 160),
    "fence": (196, 160, 150),
    "pole": (180, 182, 186),
    "road": (126, 66, 128),
    "pavement": (236, 150, 214),
    "sidewalk": (236, 150, 214),
    "tree": (84, 138, 44),
    "vegetation": (84, 138, 44),
    "terrain": (160, 214, 140),
    "sign": (250, 216, 40),
    "sign symbol": (250, 216, 40),
    "traffic sign": (250, 216, 40),
    "traffic light": (250, 170, 30),
    "car": (28, 44, 150),
    "truck": (20, 24, 90),
    "bus": (0, 80, 110),
    "train": (0, 100, 90),
    "motorcycle": (90, 0, 190),
    "bicycle": (120, 16, 40),
    "person": (222, 32, 56),
    "pedestrian": (222, 32, 56),
    "rider": (255, 110, 60),
    "bicyclist": (255, 130, 60),
}
# Linear RGB as seen with no red cones (protanopia) and no green cones (deuteranopia): Vienot, Brettel and Mollon,
# 1999.
SIGHTS = (
    np.eye(3),
    np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
)
LINEAR_RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE_XYZ = np.array([0.9505, 1.0, 1.089])


def _lab_by_sight(colors: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB colours `(n, 3)` as seen by each of [`SIGHTS`], `(3, n, 3)`."""
    scaled = colors / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ sight.T, 0, 1) for sight in SIGHTS])
    relative = seen @ LINEAR_RGB_TO_XYZ.T / WHITE_XYZ
    cubic = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    x, y, z = cubic[..., 0], cubic[..., 1], cubic[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@lru_cache(maxsize=16)
def _palette(names: tuple[str, ...]) -> np.ndarray:
    levels = np.linspace(24, 250, 9)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3).round()
    candidates_lab = _lab_by_sight(candidates)
    palette: list = [STREET_COLORS.get(name.strip().lower().replace("_", " ")) for name in names]
    taken = [IGNORE_COLOR, *(color for color in palette if color is not None)]
    distance = np.full(len(candidates), np.inf)
    for color in taken:
        distance = np.minimum(distance, _distance(candidates_lab, color))
    for index, color in enumerate(palette):
        if color is None:
            palette[index] = tuple(int(channel) for channel in candidates[int(distance.argmax())])
            distance = np.minimum(distance, _distance(candidates_lab, palette[index]))
    return np.array(palette, dtype=np.uint8).reshape(-1, 3)


def _distance(candidates_lab: np.ndarray, color: Sequence[int]) -> np.ndarray:
    """Distance of every candidate to a colour for the sight that tells them apart worst."""
    color_lab = _lab_by_sight(np.array([color], dtype=np.float64))
    return np.sqrt(((candidates_lab - color_lab) ** 2).sum(axis=-1)).min(axis=0)


def make_palette(id2label: Mapping[int, str]) -> np.ndarray:
    """Chooses one colour per class, always the same for the same classes.

    Street classes have fixed colours; every other class takes the colour that is farthest (CIE L*a*b*, the worst of
    normal, protanopic and deuteranopic sight) from all colours in use and from the black of ignored pixels.

    Args:
        id2label (`Mapping[int, str]`): Class names for `0` to `len(id2label) - 1`.

    Returns:
        `np.ndarray` of shape `(num_labels, 3)`, uint8: Red, green, blue.
    """
    names = {int(key): str(name) for key, name in id2label.items()}
    require(sorted(names) == list(range(len(names))), "id2label", sorted(names), f"the keys 0 to {len(names) - 1}")
    return _palette(tuple(names[index] for index in range(len(names)))).copy()


__all__ = ["IGNORE_COLOR", "make_palette"]
