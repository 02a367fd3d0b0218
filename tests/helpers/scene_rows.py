# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import datasets

from algm_hf.data.drawn_scenes import make_scene


def scene_dataset(num, seed, size):
    """The scenes of `num` consecutive seeds as a `datasets.Dataset` with the columns `image` and `annotation`."""
    images, label_maps = zip(*(make_scene(seed + index, size) for index in range(num)), strict=True)
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.Dataset.from_dict({"image": images, "annotation": label_maps}, features=features)
