# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Segments images with a model as it stands or with other merge settings, scores the result and takes the time."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

import numpy as np
import torch
from PIL import Image

from .segmentation_metrics import SegmentationConfusion


PACKAGES = ("torch", "torchvision", "transformers", "datasets", "pillow", "numpy")


@dataclass
class SegmentedImage:
    """What a model made of one image.

    Attributes:
        label_map (`np.ndarray` of shape `(height, width)`, int64): Classes at the size of the image.
        input_size (`tuple[int, int]`): Height and width in pixels at which the model saw it.
        token_counts (`list[int]`): Tokens after each layer, special tokens counted (summed over windows in slide
            mode).
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        patch_to_token (`np.ndarray` of shape `(rows * columns,)`, *optional*): The final token of each patch; `None`
            in slide mode.
    """

    label_map: np.ndarray
    input_size: tuple[int, int]
    token_counts: list[int]
    grid_size: tuple[int, int]
    patch_to_token: np.ndarray | None


@contextmanager
def config_settings(model: torch.nn.Module, **settings) -> Iterator[None]:
    """Sets fields of `model.config` for the duration of a `with` block and puts the old values back.

    Raises:
        `ValueError`: If the config has no such field.
    """
    for name in settings:
        if not hasattr(model.config, name):
            raise ValueError(f"the config of {type(model).__name__} has no field {name!r}.")
    before = {name: getattr(model.config, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model.config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


def _inputs_of(model, processor, images: Sequence[Image.Image]) -> tuple[dict, list[tuple[int, int]]]:
    """The processor's tensors on the model's device and in its dtype, and each image's size in them."""
    batch = processor(list(images), return_tensors="pt")
    inputs = {"pixel_values": batch["pixel_values"].to(model.device, model.dtype)}
    sizes = [tuple(batch["pixel_values"].shape[-2:])] * len(images)
    if "image_sizes" in batch:
        inputs["image_sizes"] = batch["image_sizes"].to(model.device)
        sizes = [tuple(size) for size in batch["image_sizes"].tolist()]
    return inputs, sizes


@torch.inference_mode()
def segment_images(model, processor, images: Sequence[Image.Image]) -> list[SegmentedImage]:
    """Segments images, of any sizes, in one batch; every image gets what it gets alone.

    Args:
        model ([`AlgmForSemanticSegmentation`]): In evaluation mode, on any device.
        processor ([`AlgmImageProcessor`]): The model's processor.
        images (`Sequence[Image.Image]`): At least one picture.

    Returns:
        `list[SegmentedImage]`: One per image, in their order.
    """
    inputs, sizes = _inputs_of(model, processor, images)
    outputs = model(**inputs, output_token_merging=True)
    label_maps = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[(image.height, image.width) for image in images], input_sizes=sizes
    )
    patch_size = model.config.patch_size
    segmented = []
    for index, (label_map, (height, width)) in enumerate(zip(label_maps, sizes, strict=True)):
        grid = (-(-height // patch_size), -(-width // patch_size))
        patches = None
        if outputs.patch_to_token is not None:
            patches = outputs.patch_to_token[index, : grid[0] * grid[1]].cpu().numpy()
        counts = outputs.token_counts[index].tolist()
        segmented.append(SegmentedImage(label_map.cpu().numpy(), (height, width), counts, grid, patches))
    return segmented


def evaluate_segmentation(
    model,
    processor,
    rows: Iterable[Mapping],
    batch_size: int = 8,
    ignore_index: int = 255,
    progress: Callable[[int], object] = lambda count: None,
) -> dict:
    """Scores a model on labelled images at their own size.

    Args:
        model, processor: See [`segment_images`].
        rows (`Iterable[Mapping]`): Each with `image` (picture) and `annotation` (label map of the same size).
        batch_size (`int`, *optional*, defaults to 8): Images per forward pass; changes speed, not results.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that do not count.
        progress (`Callable[[int], object]`, *optional*): Called with the number of images just done.

    Returns:
        `dict`: [`SegmentationConfusion.compute`]'s scores, `num_images`, and the means over images `tokens_final`
            (after the last layer) and `tokens_mean` (mean over the layers), special tokens counted.

    Raises:
        `ValueError`: If there are no rows, or a label is neither a class nor `ignore_index`.
    """
    confusion = SegmentationConfusion(model.config.num_labels, ignore_index)
    final, mean = [], []
    rows = iter(rows)
    while batch := list(islice(rows, batch_size)):
        results = segment_images(model, processor, [row["image"] for row in batch])
        for row, result in zip(batch, results, strict=True):
            confusion.update(result.label_map, np.asarray(row["annotation"]))
            final.append(result.token_counts[-1])
            mean.append(statistics.fmean(result.token_counts))
        progress(len(batch))
    if not final:
        raise ValueError("rows is empty, expected at least one labelled image.")
    return {
        **confusion.compute(),
        "num_images": len(final),
        "tokens_final": statistics.fmean(final),
        "tokens_mean": statistics.fmean(mean),
    }


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
    inputs, _ = _inputs_of(model, processor, images)
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


def describe_environment(model) -> dict:
    """Where a measurement was made: device, dtype, attention, threads and versions, all printable as JSON."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "device_name": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns also line up as plain text; the first column is set left, the others right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "| " + " | ".join("-" * width if not i else "-" * (width - 1) + ":" for i, width in enumerate(widths)) + " |"
    )
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])


__all__ = [
    "SegmentedImage",
    "config_settings",
    "describe_environment",
    "evaluate_segmentation",
    "markdown_table",
    "segment_images",
    "synchronize",
    "time_settings",
]
