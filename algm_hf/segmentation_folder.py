# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a labelled set of images from a folder.

```
folder/
    classes.txt                  one class name a line; line 1 is label 0
    images/<split>/NAME.jpg      any format PIL reads
    annotations/<split>/NAME.png one-channel label map of the same size, values index classes.txt, 255 is ignored
```
"""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import datasets
import numpy as np
from PIL import ExifTags, Image


IGNORE_INDEX = 255
LABEL_MODES = ("1", "L", "P", "I", "I;16")
VALIDATION_NAMES = ("validation", "val")


def _shorten(names: Collection[str], most: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_classes(path: Path) -> dict[int, str]:
    """Reads `classes.txt`: one class name a line, the first one is label 0.

    Raises:
        `ValueError`: If the file is missing, holds no name, an empty line between names, a name twice, or more than
            255 names (255 is the label of ignored pixels).
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a text file with one class name a line.")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    if not names:
        raise ValueError(f"{path} is empty, expected one class name a line.")
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(
                f"{path} line {number} is empty, expected a class name (the line number decides the label)."
            )
        if names.index(name) != number - 1:
            raise ValueError(f"{path} names the class {name!r} on lines {names.index(name) + 1} and {number}.")
    if len(names) > IGNORE_INDEX:
        raise ValueError(
            f"{path} holds {len(names)} classes, expected at most {IGNORE_INDEX}: {IGNORE_INDEX} is ignored."
        )
    return dict(enumerate(names))


def _files_by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their name without extension; hidden files and other formats are passed over."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist, expected a folder of images.")
    formats = Image.registered_extensions()
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.suffix.lower() not in formats:
            continue
        if path.stem in files:
            raise ValueError(f"{path} and {files[path.stem].name} have the same stem, expected one file per stem.")
        files[path.stem] = path
    return files


def _pair(images: Path, annotations: Path) -> list[tuple[Path, Path]]:
    """Pairs the files of two folders by stem."""
    by_stem, label_by_stem = _files_by_stem(images), _files_by_stem(annotations)
    if not by_stem and not label_by_stem:
        raise ValueError(f"{images} holds no images, expected at least one.")
    for present, absent, there, lacking in (
        (by_stem, label_by_stem, images, annotations),
        (label_by_stem, by_stem, annotations, images),
    ):
        alone = [present[stem].name for stem in present if stem not in absent]
        if alone:
            raise ValueError(
                f"{len(alone)} of the {len(present)} files in {there} have no partner of the same stem in {lacking} "
                f"({len(absent)} files): {_shorten(alone)}."
            )
    return [(by_stem[stem], label_by_stem[stem]) for stem in sorted(by_stem)]


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the rotation that the EXIF tag asks for (`datasets` applies it when it decodes)."""
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if sideways else image.size


def _read_labels(path: Path, num_labels: int, ignore_labels: Collection[int]) -> np.ndarray:
    """Reads a label map, maps `ignore_labels` to 255 and refuses every other value outside the classes."""
    with Image.open(path) as label_map:
        if label_map.mode not in LABEL_MODES:
            raise ValueError(f"{path} is an image of mode {label_map.mode}, expected one channel of class numbers.")
        labels = np.asarray(label_map).astype(np.int64)
    labels[np.isin(labels, list(ignore_labels))] = IGNORE_INDEX
    outside = np.unique(labels[((labels < 0) | (labels >= num_labels)) & (labels != IGNORE_INDEX)])
    if outside.size:
        listed = " ".join(str(value) for value in outside[:8])
        raise ValueError(
            f"{path} holds the label(s) {listed}, expected 0 to {num_labels - 1} (classes.txt names {num_labels} "
            f"classes) or {IGNORE_INDEX}. If they mean 'unlabelled', pass them as ignore_labels "
            f"(--ignore_labels {listed})."
        )
    return labels.astype(np.uint8)


def _check_pair(image_path: Path, label_path: Path, num_labels: int, ignore_labels: Collection[int]) -> np.ndarray:
    """Opens both files of a pair, compares their sizes and returns the label map `(height, width)`, uint8."""
    try:
        with Image.open(image_path) as image, Image.open(label_path) as label_map:
            size, label_size = _upright_size(image), _upright_size(label_map)
    except OSError as error:
        raise ValueError(f"{image_path} or {label_path.name} cannot be read as an image: {error}.") from error
    if size != label_size:
        raise ValueError(
            f"{label_path} is {label_size[0]} x {label_size[1]} pixels (width x height), expected the "
            f"{size[0]} x {size[1]} of {image_path}."
        )
    try:
        return _read_labels(label_path, num_labels, ignore_labels)
    except OSError as error:
        raise ValueError(f"{label_path} cannot be read as an image: {error}.") from error


def _png(labels: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _load_split(pairs: list[tuple[Path, Path]], num_labels: int, ignore_labels: Collection[int]) -> datasets.Dataset:
    annotations: list = []
    for image_path, label_path in pairs:
        labels = _check_pair(image_path, label_path, num_labels, ignore_labels)
        annotations.append(_png(labels) if ignore_labels else str(label_path))
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    columns = {"image": [str(image_path) for image_path, _ in pairs], "annotation": annotations}
    return datasets.Dataset.from_dict(columns, features=features)


def load_segmentation_folder(
    path: str | Path, ignore_labels: Collection[int] = ()
) -> tuple[datasets.DatasetDict, dict[int, str]]:
    """Loads `images/<split>`, `annotations/<split>` and `classes.txt`.

    Files are paired by stem. Every file is opened once and every label map read, so that a wrong file is named here
    and not in the middle of a training. Pictures stay on disk and are decoded when they are used.

    Args:
        path (`str` or `Path`): The folder.
        ignore_labels (`Collection[int]`, *optional*): Label values, 0 to 65535, that stand for "unlabelled" and
            become 255. The label maps are then held in memory (as PNG).

    Returns:
        `tuple[datasets.DatasetDict, dict[int, str]]`: One data set per split with the columns `image` and
            `annotation` (label map, values
        `0` to `len(id2label) - 1`, 255 is ignored), and the class names. The splits `val` and `validation` are both
        returned as `validation`; other splits keep their names.

    Raises:
        `ValueError`: Naming the file or folder, if something is missing, empty, unreadable, without partner, of
            another size than its partner, or holds labels outside the classes.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder, expected one with images/, annotations/ and classes.txt.")
    id2label = read_classes(path / "classes.txt")
    images, annotations = path / "images", path / "annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise ValueError(f"{folder} does not exist, expected a folder with one sub-folder per split.")
    splits = sorted(folder.name for folder in images.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not splits:
        raise ValueError(f"{images} holds no split, expected sub-folders such as train and val.")
    loaded = datasets.DatasetDict()
    for split in splits:
        name = "validation" if split in VALIDATION_NAMES else split
        if name in loaded:
            raise ValueError(f"{images} holds both {' and '.join(VALIDATION_NAMES)}, expected one of them.")
        pairs = _pair(images / split, annotations / split)
        loaded[name] = _load_split(pairs, len(id2label), ignore_labels)
    return loaded, id2label


__all__ = ["load_segmentation_folder", "read_classes"]
