# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny segmentation data sets on disk, for tests."""

import numpy as np
from PIL import Image

from algm_hf.data.arguments import DataArguments
from algm_hf.data.loading import load_segmentation_data


SIZE = (6, 4)  # width and height


def write_image(path, seed=0, size=SIZE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **kwargs)


def write_labels(path, row, height=SIZE[1]):
    """A label map whose rows all are `row`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if max(row) < 256 else np.uint16
    Image.fromarray(np.array([row] * height, dtype=dtype)).save(path)


def labels_of(row):
    """First line of a read label map."""
    assert row["annotation"].mode == "L"
    return np.asarray(row["annotation"])[0].tolist()


def load(dataset, folder=None, splits=("train", "evaluation"), **kwargs):
    return load_segmentation_data(DataArguments(dataset, data_dir=folder and str(folder), **kwargs), splits)


def build_layout(root, layout, content):
    """Writes `content` (split -> name -> stored labels of a row) where the release of a data set has it."""
    for split, samples in content.items():
        short = "val" if split == "validation" else split
        for seed, (name, row) in enumerate(samples.items()):
            if layout == "ade20k":
                folder = {"train": "training"}.get(split, split)
                image = root / f"ADEChallengeData2016/images/{folder}/{name}.jpg"
                label = root / f"ADEChallengeData2016/annotations/{folder}/{name}.png"
            elif layout == "cityscapes":
                image = root / f"leftImg8bit/{short}/ulm/{name}_leftImg8bit.png"
                label = root / f"gtFine/{short}/ulm/{name}_gtFine_labelIds.png"
            elif layout.startswith("pascal_context"):
                image, label = root / f"JPEGImages/{name}.jpg", root / f"SegmentationClassContext/{name}.png"
                listing = root / f"ImageSets/SegmentationContext/{short}.txt"
                listing.parent.mkdir(parents=True, exist_ok=True)
                listing.write_text("\n".join(samples) + "\n")
            else:
                folder = f"{short}2017" if layout == "coco_stuff" else short
                image, label = root / f"images/{folder}/{name}.jpg", root / f"annotations/{folder}/{name}.png"
            write_image(image, seed)
            write_labels(label, row)
