# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From image files to upright RGB images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ..image_inputs import READ_ERRORS, read_image
from ..refusals import require


ORIENTATION = ExifTags.Base.Orientation


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as the image processor sees it: turned as its EXIF tag says, RGB, transparency laid on white, 16 bits
    as 8, the first frame of several.

    Raises:
        One of [`READ_ERRORS`]: If it is damaged.
    """
    image.load()
    if image.getexif().get(ORIENTATION, 1) == 1 and image.mode == "RGB" and "transparency" not in image.info:
        return image
    pixels = read_image(image, 0, True, True, False, image_mean=0.0, image_std=1.0)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).round().astype(np.uint8))


def read_rgb(path: str | Path) -> Image.Image:
    """Reads a file as [`upright_rgb`].

    Raises:
        `ValueError`: If it cannot be read, with its name.
    """
    try:
        with Image.open(path) as image:
            return upright_rgb(image)
    except READ_ERRORS as error:
        raise ValueError(f"{path}={str(error)!r}: expected an image that PIL can read") from error


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Files as they are named, and the image files of folders (not of their sub-folders) in the order of their names.

    Raises:
        `ValueError`: If a path does not exist or there is no image.
    """
    formats = Image.registered_extensions()
    found: list[Path] = []
    for path in map(Path, paths):
        require(path.exists(), "images", str(path), "an image file or a folder of images")
        if path.is_dir():
            inside = (file for file in path.iterdir() if file.suffix.lower() in formats)
            found += sorted(file for file in inside if not file.name.startswith("."))
        else:
            found.append(path)
    require(found, "images", list(map(str, paths)), "at least one image file in it")
    return list(dict.fromkeys(found))


__all__ = ["ORIENTATION", "find_images", "read_rgb", "upright_rgb"]
