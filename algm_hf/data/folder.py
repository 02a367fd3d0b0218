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
from PIL import Image

from .checks import check_rows, problem_report
from .classes import LabelMapping, read_classes
from .layouts import VALIDATION_NAMES, Listing, list_folder
from .rows import RowReader


def _png(labels: Image.Image) -> dict:
    buffer = io.BytesIO()
    labels.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _load_split(listing: Listing, where: str, mapping: LabelMapping, in_memory: bool) -> datasets.Dataset:
    """Reads every file of a split once; the label maps are kept, as PNG with final labels, if asked for."""
    stored = [{"image": str(image), "annotation": str(label), "name": name} for name, image, label in listing.pairs]
    reader = RowReader(mapping)
    bad, _ = check_rows(stored, reader, where)
    problems = [*listing.problems, *bad.values()]
    if problems:
        total = len(stored) + len(listing.problems)
        raise ValueError(problem_report(problems, total, where, mapping, skippable=False))
    labels = [_png(reader.read({"annotation": row["annotation"]})["annotation"]) for row in stored if in_memory]
    columns = {
        "image": [row["image"] for row in stored],
        "annotation": labels if in_memory else [row["annotation"] for row in stored],
    }
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
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
        mapping = LabelMapping(range(len(id2label)), ignore_labels)
        listing = list_folder(path, split)
        loaded[name] = _load_split(listing, f"split {split} of {path}", mapping, in_memory=bool(ignore_labels))
    return loaded, id2label


__all__ = ["load_segmentation_folder"]
