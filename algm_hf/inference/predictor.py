# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
From images to label maps at their own size: whole images or sliding windows, at one scale or averaged over several
scales and mirror images, as the paper tests (ALGM, CVPR 2024, section 4.1; Segmenter, ICCV 2021).

An image is resized so that its shorter side is the processor's (times the scale), cut into windows, the logits of a
pixel averaged over the windows that see it, resized to the original size, and with several scales the softmax of each
averaged; a part at a time, so that `(num_labels, height, width)` never exists at once (see `sliding_window.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..patch_grid import patch_grid
from ..refusals import require
from ..runs.models import config_settings, unwrapped
from ..runs.timing import clock
from ..sliding_window import PixelScores, ScoredImage, slide
from ..token_packs import full_lengths
from .pixel_scores import best_averaged_classes, best_classes


# Of the paper's multi-scale test, each with and without mirroring.
PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass
class SegmentedImage:
    """What a model made of one image.

    Attributes:
        label_map (`np.ndarray` of shape `(height, width)`, int64): Classes at the size of the image.
        input_size (`tuple[int, int]`): Height and width in pixels at which the model saw it (at the first scale).
        token_counts (`list[int]`): Tokens after each layer, special tokens counted (summed over windows, scales and
            mirror images).
        grid_size (`tuple[int, int]`): Rows and columns of patches of `input_size`.
        patch_to_token (`np.ndarray` of shape `(rows * columns,)`, *optional*): The final token of each patch; `None`
            in windows or with several scales.
        tokens_unmerged (`int`): Tokens after each layer if nothing merged, counted as `token_counts`.
        seconds (`float`): Its part of the time that its batch took from tensors to label maps.
    """

    label_map: np.ndarray
    input_size: tuple[int, int]
    token_counts: list[int]
    grid_size: tuple[int, int]
    patch_to_token: np.ndarray | None
    tokens_unmerged: int = 0
    seconds: float = 0.0


class SegmentationPredictor:
    """
    Segments images of any sizes; every image gets what it gets alone.

    `model.config.inference_mode` decides between whole images and windows, `processor.size` the size of the image at
    scale 1. At a single scale, not mirrored, the label maps are exactly those of
    `processor.post_process_semantic_segmentation` (the argmax of the resized logits). With more, an image takes one
    forward pass for each scale, and as many again with `flip`.

    Sharded models (FSDP) gather their weights at every forward pass, and wait for one another: with them, give every
    process equally many images and, in windows, images of one size.

    Beyond the model's own needs for one batch or `window_batch_size` windows, an image takes
    `4 * num_labels / patch_size**2` bytes for each pixel of all its windows at all scales, about 36 bytes for each of
    its own pixels, and with several scales a few bands of `MAX_BAND_ELEMENTS` scores (16 MiB each).

    Args:
        model ([`AlgmForSemanticSegmentation`]): on any device, possibly wrapped by accelerate; in evaluation mode.
        processor ([`AlgmImageProcessor`]): the model's processor.
        scales (`Sequence[float]`): factors, above 0, of the processor's size; [`PAPER_SCALES`] are the paper's.
        flip (`bool`): whether to average with the mirror image.
    """

    def __init__(self, model: nn.Module, processor, scales: Sequence[float] = (1.0,), flip: bool = False):
        self.model, self.processor = model, processor
        self.scales, self.flip = tuple(float(scale) for scale in scales), bool(flip)
        positive = bool(self.scales) and all(math.isfinite(scale) and scale > 0 for scale in self.scales)
        require(positive, "scales", self.scales, "at least one number above 0")

    @property
    def config(self):
        """The model's, also of a wrapped one."""
        return unwrapped(self.model).config

    @property
    def device(self) -> torch.device:
        """The model's, also of a wrapped one."""
        return unwrapped(self.model).device

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[SegmentedImage]:
        """What the model makes of each image, in their order; images may have any sizes."""
        require(not self.model.training, "training", True, "a model in evaluation mode (model.eval())")
        if self.scales == (1.0,) and not self.flip and self.config.inference_mode == "whole":
            return self._whole(list(images))
        return self._views_of(list(images))

    def _whole(self, images: list[Image.Image]) -> list[SegmentedImage]:
        """One forward pass of whole images; the processor makes the label maps."""
        batch = self.processor(images, return_tensors="pt")
        seconds, (outputs, label_maps, sizes) = clock(partial(self._label_maps, batch, images), self.device)
        segmented = []
        for index, (label_map, size) in enumerate(zip(label_maps, sizes, strict=True)):
            grid = patch_grid(size, self.config.patch_size)
            patches = outputs.patch_to_token[index, : grid[0] * grid[1]].cpu().numpy()
            counts = outputs.token_counts[index].tolist()
            unmerged = self._num_tokens([grid])
            segmented.append(SegmentedImage(label_map, size, counts, grid, patches, unmerged, seconds / len(images)))
        return segmented

    def _label_maps(self, batch, images: list[Image.Image]) -> tuple:
        """The model's output for what the processor made of the images, their label maps, their sizes there."""
        inputs = {"pixel_values": batch["pixel_values"].to(self.device, unwrapped(self.model).dtype)}
        sizes = [tuple(batch["pixel_values"].shape[-2:])] * len(images)
        if "image_sizes" in batch:
            inputs["image_sizes"] = batch["image_sizes"].to(self.device)
            sizes = [tuple(size) for size in batch["image_sizes"].tolist()]
        outputs = self.model(**inputs, output_token_merging=True)
        label_maps = self.processor.post_process_semantic_segmentation(
            outputs, target_sizes=[(image.height, image.width) for image in images], input_sizes=sizes
        )
        return outputs, [label_map.cpu().numpy() for label_map in label_maps], sizes

    def _views_of(self, images: list[Image.Image]) -> list[SegmentedImage]:
        """Windows, or several scales: label maps from the patch logits of all of them."""
        views: list[list[ScoredImage]] = [[] for _ in images]
        input_sizes: list[tuple[int, int]] = []
        seconds = 0.0
        for scale in self.scales:
            pixels = self._pixels(images, scale)
            input_sizes = input_sizes or [tuple(image.shape[-2:]) for image in pixels]
            for mirrored in (False, True) if self.flip else (False,):
                taken, seen = clock(partial(self._forward, pixels, mirrored), self.device)
                seconds += taken
                for found, view in zip(views, seen, strict=True):
                    found.append(view)
        return [
            self._segmented(image, found, size, seconds / len(images))
            for image, found, size in zip(images, views, input_sizes, strict=True)
        ]

    def _segmented(self, image: Image.Image, views: list[ScoredImage], input_size, seconds: float) -> SegmentedImage:
        taken, label_map = clock(partial(self._label_map, views, (image.height, image.width)), self.device)
        counts = sum(view.token_counts for view in views).tolist()
        unmerged = self._num_tokens([grid.shape[-2:] for view in views for grid in view.scores.grids])
        grid = patch_grid(input_size, self.config.patch_size)
        return SegmentedImage(label_map, input_size, counts, grid, None, unmerged, seconds + taken)

    def _label_map(self, views: list[ScoredImage], size: tuple[int, int]) -> np.ndarray:
        scores = [view.scores for view in views]
        grids = [grid for view in scores for grid in view.grids]
        require(all(bool(torch.isfinite(grid).all()) for grid in grids), "logits", "NaN or infinite", "finite scores")
        label_map = best_classes(scores[0], size) if len(scores) == 1 else best_averaged_classes(scores, size)
        return label_map.cpu().numpy()

    def _pixels(self, images: list[Image.Image], scale: float) -> list[Tensor]:
        """The normalised images `(num_channels, height, width)` at a scale, unpadded, on the CPU."""
        processor = self.processor
        if scale == 1:
            found = processor(images)["pixel_values"]
        elif processor.do_resize:
            size = {side: max(1, round(scale * length)) for side, length in dict(processor.size).items()}
            found = processor(images, size=size)["pixel_values"]
        else:  # the image's own size is scale 1
            sizes = [(max(1, round(scale * image.height)), max(1, round(scale * image.width))) for image in images]
            found = [
                processor(image, do_resize=True, size={"height": height, "width": width})["pixel_values"][0]
                for image, (height, width) in zip(images, sizes, strict=True)
            ]
        return [torch.as_tensor(pixels) for pixels in found]

    def _forward(self, pixels: list[Tensor], mirrored: bool) -> list[ScoredImage]:
        pixels = [image.to(self.device, unwrapped(self.model).dtype) for image in pixels]
        pixels = [image.flip(-1) for image in pixels] if mirrored else pixels
        if self.config.inference_mode == "slide":
            return slide(self._forward_windows, pixels, self.config, mirrored)
        outputs = self.model(pixels if len(pixels) > 1 else pixels[0][None], output_token_merging=True)
        views = []
        for logits, counts, image in zip(outputs.logits, outputs.token_counts, pixels, strict=True):
            size = tuple(image.shape[-2:])
            patch = self.config.patch_size
            rows, columns = patch_grid(size, patch)
            if size == (rows * patch, columns * patch):
                # Without padding to cut off the processor resizes from the patches in one step; so is it done here.
                size, patch = (rows, columns), 1
            scores = PixelScores([logits[:, :rows, :columns]], size, max(size), max(size), patch, mirrored)
            views.append(ScoredImage(scores, counts))
        return views

    def _forward_windows(self, windows: list[Tensor]):
        with config_settings(unwrapped(self.model), inference_mode="whole"):
            return self.model(windows if len(windows) > 1 else windows[0][None], output_token_merging=True)

    def _num_tokens(self, grids: Sequence[Sequence[int]]) -> int:
        """Tokens of these grids of patches if nothing merges."""
        return sum(full_lengths(grids, self.config.num_special_tokens))


def segment_images(model, processor, images: Sequence[Image.Image]) -> list[SegmentedImage]:
    """Segments images of any sizes in one batch, at a single scale; see [`SegmentationPredictor`]."""
    return SegmentationPredictor(model, processor)(images)


__all__ = ["PAPER_SCALES", "SegmentationPredictor", "SegmentedImage", "segment_images"]
