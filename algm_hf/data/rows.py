# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading one row of a segmentation data set: image, label map, and what can be wrong with them.

A row on disk is `{"image", "annotation", "name"}` where image and label map are files, encoded bytes
(`{"bytes", "path"}`, as `datasets` stores them), PIL images or, for label maps, nested lists. Read, it holds an
upright RGB image and an 8-bit label map of classes, 255 where ignored.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageOps

from ..image_inputs import READ_ERRORS
from ..runs.images import ORIENTATION, upright_rgb
from .classes import IGNORE_INDEX, OUTSIDE, STORED_VALUES, LabelMapping, listed


LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


class BadSampleError(ValueError):
    """A pair that cannot be used; the message names the file.

    Attributes:
        kind (`str`): `"without partner"`, `"unreadable"`, `"of different size"` or
            `"with labels outside the classes"`.
        counts (`Mapping[int, int]`): Stored label values outside the classes and their number of pixels.
    """

    def __init__(self, message: str, kind: str, counts: Mapping[int, int] | None = None):
        super().__init__(message)
        self.kind = kind
        self.counts = dict(counts or {})

    def __reduce__(self):  # worker processes send it to the main process
        return type(self), (str(self), self.kind, self.counts)


def describe(value: Any, fallback: str) -> str:
    """The file of a stored image or label map, or `fallback` where it has none."""
    path = value.get("path") if isinstance(value, Mapping) else value
    return str(path) if isinstance(path, (str, Path)) and str(path) else fallback


def content_name(row: Mapping[str, Any], prefix: str) -> str:
    """A name that depends on the content of a stored row alone, for rows that are not numbered.

    Args:
        row (`Mapping[str, Any]`): `image` and `annotation` as they are stored.
        prefix (`str`): Beginning of the name where the image has no file name.

    Returns:
        `str`: The stem of the image's file, if it has one, and 16 digits of a hash of image and label map.
    """
    path = describe(row["image"], "")
    stem = path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    digest = blake2b(digest_size=8)
    for key in ("image", "annotation"):
        digest.update(_content(row[key]))
        digest.update(b"/")
    return f"{stem or prefix}-{digest.hexdigest()}"


def _content(value: Any) -> bytes:
    """What tells a stored image or label map from others: its bytes, else its path."""
    if isinstance(value, Image.Image):
        return repr((value.mode, value.size)).encode() + value.tobytes()
    if isinstance(value, Mapping):
        return value.get("bytes") or str(value.get("path")).encode()
    return repr(value.tolist() if isinstance(value, np.ndarray) else value).encode()


def _open(value: Any) -> Image.Image:
    """Opens a stored image without decoding it where that is possible."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, (str, Path)):
        value = {"bytes": None, "path": str(value)}
    if not isinstance(value, Mapping):
        array = np.asarray(value)
        if array.ndim != 2 or array.dtype.kind not in "iub":
            raise OSError(f"it is {type(value).__name__} of shape {array.shape}, neither an image nor class numbers")
        return Image.fromarray(array.astype(np.int32 if array.dtype != np.uint8 else np.uint8))
    if value.get("bytes") is not None:
        return Image.open(io.BytesIO(value["bytes"]))
    path = value.get("path")
    if not path:
        raise OSError("it has neither content nor a path")
    if os.path.isfile(path):
        return Image.open(path)
    return datasets.Image().decode_example({"bytes": None, "path": path})  # an address or a member of an archive


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels after the rotation that the EXIF tag asks for."""
    sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if sideways else image.size


def _read_image(value: Any, name: str) -> Image.Image:
    """Reads a stored image as [`upright_rgb`]."""
    try:
        with _open(value) as image:
            read = upright_rgb(image)
    except READ_ERRORS as error:
        raise BadSampleError(_unreadable(value, name, error), "unreadable") from error
    return read.copy() if read is value else read


def _unreadable(value: Any, name: str, error: Exception) -> str:
    return f"{describe(value, name)} cannot be read as an image: {error}."


def _read_stored_labels(value: Any, name: str) -> Image.Image:
    """Reads a label map as it is stored, upright, one channel."""
    try:
        with _open(value) as opened:
            opened.load()
            labels = ImageOps.exif_transpose(opened) if opened.getexif().get(ORIENTATION, 1) != 1 else opened
    except READ_ERRORS as error:
        raise BadSampleError(_unreadable(value, name, error), "unreadable") from error
    if labels.mode not in LABEL_MODES:
        raise BadSampleError(
            f"{describe(value, name)} is an image of mode {labels.mode}, expected one channel of class numbers.",
            "unreadable",
        )
    return labels


def _count(labels: Image.Image) -> dict[int, int]:
    """How many pixels hold each stored value."""
    if labels.mode in ("L", "P"):
        return {value: count for value, count in enumerate(labels.histogram()[:256]) if count}
    values, counts = np.unique(np.asarray(labels).astype(np.int64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


class RowReader:
    """Reads and checks rows; as the transform of a map-style data set it is called with columns.

    Args:
        mapping ([`LabelMapping`]): From stored values to classes.
    """

    def __init__(self, mapping: LabelMapping):
        self.mapping = mapping

    def __call__(self, columns: Mapping[str, Sequence]) -> dict[str, list]:
        """Columns of stored rows to columns of read rows; columns that are missing stay missing."""
        count = len(next(iter(columns.values())))
        rows = [self.read({key: column[index] for key, column in columns.items()}) for index in range(count)]
        return {key: [row[key] for row in rows] for key in columns}

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Reads one row, or those of its columns that are there.

        Returns:
            `dict[str, Any]`: `image` (RGB), `annotation` (mode `L`, classes and 255, of the same size), `name`.

        Raises:
            `BadSampleError`: If something cannot be read, differs in size or holds labels outside the classes.
        """
        name, read = str(row.get("name", "the row")), dict(row)
        if "image" in row:
            read["image"] = _read_image(row["image"], f"the image of {name}")
        if "annotation" in row:
            labels = _read_stored_labels(row["annotation"], f"the label map of {name}")
            if "image" in row:
                self._compare_sizes(row, read["image"].size, labels.size)
            self._check_values(row, _count(labels))
            read["annotation"] = self._map(labels)
        return read

    def check(self, row: Mapping[str, Any]) -> Counter:
        """Reads one row as [`~RowReader.read`] does, but decodes the image only as far as its errors show.

        Returns:
            `Counter`: Number of pixels of each class and of 255.

        Raises:
            `BadSampleError`: As [`~RowReader.read`].
        """
        name = str(row.get("name", "the row"))
        try:
            with _open(row["image"]) as image:
                size = upright_size(image)
                if image is not row["image"]:
                    image.draft("RGB", (1, 1))  # a JPEG is then decoded at an eighth of its size, from all its data
                image.load()
                common = image.mode in ("RGB", "L")
        except READ_ERRORS as error:
            raise BadSampleError(_unreadable(row["image"], f"the image of {name}", error), "unreadable") from error
        if not common:
            _read_image(row["image"], f"the image of {name}")  # whether its mode can be converted
        labels = _read_stored_labels(row["annotation"], f"the label map of {name}")
        self._compare_sizes(row, size, labels.size)
        counts: Counter = Counter()
        for value, count in self._check_values(row, _count(labels)).items():
            counts[int(self.mapping.table[value])] += count
        return counts

    def _compare_sizes(self, row: Mapping[str, Any], size: tuple[int, int], label_size: tuple[int, int]) -> None:
        if size != label_size:
            name = row.get("name", "the row")
            raise BadSampleError(
                f"{describe(row['annotation'], f'the label map of {name}')} is {label_size[0]} x {label_size[1]} "
                f"pixels (width x height), expected the {size[0]} x {size[1]} of "
                f"{describe(row['image'], f'the image of {name}')}.",
                "of different size",
            )

    def _check_values(self, row: Mapping[str, Any], counts: dict[int, int]) -> dict[int, int]:
        table = self.mapping.table
        outside = {v: n for v, n in counts.items() if not 0 <= v < STORED_VALUES or table[v] == OUTSIDE}
        if outside:
            file = describe(row["annotation"], f"the label map of {row.get('name', 'the row')}")
            raise BadSampleError(
                f"{file} holds the label(s) {listed(outside)} in {listed(outside.values())} pixels, expected "
                f"{self.mapping.expected()} ({self.mapping.num_labels} classes) or ignored labels such as "
                f"{IGNORE_INDEX}.",
                "with labels outside the classes",
                outside,
            )
        return counts

    def _map(self, labels: Image.Image) -> Image.Image:
        if labels.mode == "L" and not self.mapping.changes_bytes:
            return labels
        stored = np.asarray(labels)
        table = self.mapping.table.astype(np.uint8)
        return Image.fromarray(table[:256][stored] if stored.dtype == np.uint8 else table[stored.astype(np.int64)])


__all__ = ["BadSampleError", "RowReader", "content_name", "describe", "upright_size"]
