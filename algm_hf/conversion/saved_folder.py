# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Proves that a folder holds the model that was saved: loads it again and compares."""

import json
import math
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

# Not from the top level, where transformers before 5.18 asks for torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require


@torch.no_grad()
def check_saved_folder(
    model: AlgmForSemanticSegmentation, folder: str | os.PathLike, tolerance: float = 1e-5
) -> float:
    """
    Reloads a saved folder with the code that lies in it and compares logits with `model`, merging on and off.

    Args:
        model ([`AlgmForSemanticSegmentation`]):
            The model that was saved, in evaluation mode.
        folder (`str` or `os.PathLike`):
            Where `save_pretrained` wrote model and processor.
        tolerance (`float`, *optional*, defaults to 1e-5):
            Largest absolute difference of logits to accept.

    Returns:
        `float`: the largest absolute difference found.

    Raises:
        ValueError: if the folder names no code, or if a logit differs by more than `tolerance` or is not finite.
        OSError: if a file of weights, settings or code is missing.
    """
    reloaded = _model_class_saved_in(folder).from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    # Flat squares with a little noise: some windows merge, some do not.
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(1, 3, 5, 7, generator=generator)
    side = processor.size["shortest_edge"]
    image = torch.nn.functional.interpolate(squares, size=(side, side + side // 4))
    image = (image + 0.05 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    pixel_values = processor(images=(image[0] * 255).byte(), return_tensors="pt")["pixel_values"]
    return max(_largest_difference(model, reloaded, pixel_values, merging, tolerance) for merging in (True, False))


def _model_class_saved_in(folder: str | os.PathLike) -> type[PreTrainedModel]:
    """The class from the code files of the folder: the Auto classes prefer this package's own while it is imported."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    auto_map = config.get("auto_map", {})
    reference = auto_map.get("AutoModelForSemanticSegmentation")
    require(reference is not None, f"{folder}/config.json: auto_map", auto_map, "the model's code in it")
    return get_class_from_dynamic_module(reference, str(folder))


def _largest_difference(model, reloaded, pixel_values: torch.Tensor, merging: bool, tolerance: float) -> float:
    configured = model.config.use_token_merging
    try:
        model.config.use_token_merging = reloaded.config.use_token_merging = merging
        difference = (model(pixel_values).logits - reloaded(pixel_values).logits).abs().max().item()
    finally:
        model.config.use_token_merging = configured
    is_small = math.isfinite(difference) and difference <= tolerance
    expected = f"at most {tolerance:g} between converted and reloaded logits with use_token_merging={merging}"
    require(is_small, "difference", difference, expected)
    return difference


__all__ = ["check_saved_folder"]
