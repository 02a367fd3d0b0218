# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What tests of saved models share: images, the pipeline's answer, and a process that lacks this package."""

import numpy as np
import torch
from PIL import Image
from tiny_models import blocky_images


NAMES = dict(enumerate(["road", "sky", "tree", "car", "person"]))

# The child process sees transformers but not this package, whether it is installed or not.
CHILD_PREAMBLE = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "algm_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def flat_image(width, height, seed):
    """An image of flat regions."""
    pixels = blocky_images(2, height, width, seed=seed)[1].permute(1, 2, 0)
    return Image.fromarray((pixels * 60 + 128).clamp(0, 255).to(torch.uint8).numpy())


def label_map(masks, names=NAMES):
    """The classes `(height, width)` of what the image segmentation pipeline gives."""
    ids = {name: index for index, name in names.items()}
    result = torch.full(masks[0]["mask"].size[::-1], -1)
    for entry in masks:
        pixels = torch.from_numpy(np.array(entry["mask"])) == 255
        assert (result[pixels] == -1).all(), "masks overlap"
        result[pixels] = ids[entry["label"]]
    assert (result >= 0).all(), "masks leave pixels out"
    return result
