# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Clocks that read true, and rows that take turns in front of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from .models import config_settings


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given, so that a clock reads true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def time_settings(
    model,
    processor,
    images: Sequence[Image.Image],
    settings: Mapping[str, Mapping],
    repeats: int = 5,
    warmup: int = 2,
) -> dict[str, float]:
    """Measures the model's forward pass on one batch under several merge settings.

    The settings take turns (A, B, A, B, ...) after `warmup` runs of each, so that a change in the machine's speed
    meets all of them; the median of `repeats` runs counts. Reading and resizing the images is not part of the time.

    Args:
        model, processor, images: See [`segment_images`].
        settings (`Mapping[str, Mapping]`): Name to fields of the config, e.g. `{"plain": {"use_token_merging":
            False}}`.
        repeats (`int`, *optional*, defaults to 5): Timed runs of each setting, at least 1.
        warmup (`int`, *optional*, defaults to 2): Runs of each setting before, not timed.

    Returns:
        `dict[str, float]`: Median seconds per image under each setting.

    Raises:
        `ValueError`: If `repeats` is below 1 or the config has no such field.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, expected at least 1.")
    batch = processor(list(images), return_tensors="pt")
    inputs = {"pixel_values": batch["pixel_values"].to(model.device, model.dtype)}
    if "image_sizes" in batch:
        inputs["image_sizes"] = batch["image_sizes"].to(model.device)
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for turn in range(warmup + repeats):
        for name, fields in settings.items():
            with config_settings(model, **fields):
                synchronize(model.device)
                start = time.perf_counter()
                model(**inputs)
                synchronize(model.device)
                if turn >= warmup:
                    seconds[name].append((time.perf_counter() - start) / len(images))
    return {name: statistics.median(values) for name, values in seconds.items()}


__all__ = ["synchronize", "time_settings"]
