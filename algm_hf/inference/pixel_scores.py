# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The scores of an image's pixels, made from the logits of patches where and when they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from ..label_maps import blockwise_argmax
from ..sliding_window import window_starts


# Upper bound on the scores of pixels that averaging holds in one tensor: 2**22 float32 values are 16 MiB.
MAX_BAND_ELEMENTS = 2**22


class PixelScores:
    """
    The scores of the pixels of one image, as the windows of one scale give them, made on demand.

    Args:
        grids (`list[Tensor]`, each `(num_labels, grid_height, grid_width)`, floating point): Logits of the patches of
            each window, row by row of windows.
        size (`tuple[int, int]`): Height and width in pixels of the image in which the windows lie.
        window_size (`int`): Side of a window in pixels; windows are cut to smaller images.
        window_stride (`int`): Distance between two windows in pixels.
        patch_size (`int`): Side of a patch in pixels.
        mirrored (`bool`, *optional*, defaults to `False`): Whether the model saw the image mirrored left to right;
            the scores are turned back.

    Raises:
        `ValueError`: If a score is not finite.
    """

    def __init__(
        self,
        grids: list[Tensor],
        size: tuple[int, int],
        window_size: int,
        window_stride: int,
        patch_size: int,
        mirrored: bool = False,
    ):
        if not all(bool(torch.isfinite(grid).all()) for grid in grids):
            raise ValueError("the model's logits hold NaN or infinite values, expected finite scores.")
        self.grids, self.size, self.patch_size, self.mirrored = grids, tuple(size), patch_size, mirrored
        self.window = tuple(min(window_size, side) for side in size)
        self.starts = [window_starts(side, window_size, window_stride) for side in size]
        self.num_labels = grids[0].shape[0]
        # How many windows see a pixel: those that see its row times those that see its column.
        self.counts = [torch.zeros(side, device=grids[0].device) for side in size]
        for counts, starts, side in zip(self.counts, self.starts, self.window, strict=True):
            for start in starts:
                counts[start : start + side] += 1

    def rows(self, first: int, stop: int, classes: slice | Tensor = slice(None)) -> Tensor:
        """
        Averaged scores of some rows of pixels.

        Args:
            first, stop (`int`): The rows `first..stop - 1`.
            classes (`slice` or `Tensor` of indices, *optional*): Some of the classes; all by default.

        Returns:
            `Tensor` of shape `(num_classes, stop - first, width)`, float32
        """
        num_classes = self.grids[0][classes].shape[0]
        sums = self.counts[0].new_zeros(num_classes, stop - first, self.size[1])
        for grid, (top, left) in zip(self.grids, product(*self.starts), strict=True):
            begin, end = max(first, top), min(stop, top + self.window[0])
            if begin < end:
                pixels = _rows_of_pixels(grid[classes], begin - top, end - top, self.patch_size)
                columns = slice(left, left + self.window[1])
                sums[:, begin - first : end - first, columns] += pixels[..., : self.window[1]]
        sums /= self.counts[0][first:stop, None] * self.counts[1]
        return sums.flip(-1) if self.mirrored else sums

    def resized_rows(self, first: int, stop: int, size: tuple[int, int]) -> Tensor:
        """
        Rows `first..stop - 1` of the scores resized to `size`, bilinear (`align_corners=False`), of all classes.

        Returns:
            `Tensor` of shape `(num_labels, stop - first, size[1])`, float32
        """
        # Where torch's interpolate reads: between the rows above and below.
        scale = torch.tensor(self.size[0], dtype=torch.float32) / size[0]
        source = (scale * (torch.arange(first, stop, dtype=torch.float32) + 0.5) - 0.5).clamp(min=0)
        above = source.long().clamp(max=self.size[0] - 1)
        below = (above + 1).clamp(max=self.size[0] - 1)
        start = int(above[0])
        scores = self.rows(start, int(below[-1]) + 1)
        if self.size[1] != size[1]:
            scores = _interpolate(scores, (scores.shape[1], size[1]))
        if self.size[0] == size[0]:
            return scores[:, : stop - first]
        # Each row is a mean of two; as a product with these weights every score is read once.
        weights = torch.zeros(stop - first, scores.shape[1])
        rows, fraction = torch.arange(stop - first), source - above
        weights[rows, above - start] = 1 - fraction
        weights[rows, below - start] += fraction
        return weights.to(scores.device) @ scores


def _interpolate(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def _rows_of_pixels(grid: Tensor, begin: int, end: int, patch_size: int) -> Tensor:
    """Rows `begin..end - 1` of a grid `(n, rows, columns)` upsampled by `patch_size`, from the patches they need."""
    if patch_size == 1:
        return grid[:, begin:end].float()
    # One row of patches more on either side: where the grid is cut, interpolation would repeat its border.
    first, last = max(0, begin // patch_size - 1), min(grid.shape[1], (end - 1) // patch_size + 2)
    part = grid[:, first:last].float()
    pixels = _interpolate(part, (part.shape[1] * patch_size, part.shape[2] * patch_size))
    return pixels[:, begin - first * patch_size : end - first * patch_size]


def best_classes(scores: PixelScores, size: tuple[int, int]) -> Tensor:
    """
    The argmax over the classes of one view's scores resized to `size`: some rows at a time where nothing is resized,
    else a few classes at a time, so that the memory does not grow with their number.

    Args:
        scores ([`PixelScores`])
        size (`tuple[int, int]`): Height and width of the result in pixels.

    Returns:
        `Tensor` of shape `size`, int64; where classes tie, the lowest.
    """
    if scores.size == tuple(size):
        return _argmax_in_bands([scores], size, softmax=False)

    def resize(classes: Tensor) -> Tensor:
        return _interpolate(scores.rows(0, scores.size[0], classes), size)

    # The indices of the classes stand for their scores, which `resize` makes.
    numbers = torch.arange(scores.num_labels, device=scores.grids[0].device)
    return blockwise_argmax(numbers, resize, max(math.prod(scores.size), math.prod(size)))


def best_averaged_classes(views: Sequence[PixelScores], size: tuple[int, int]) -> Tensor:
    """
    The argmax over the classes of the mean over views (scales, mirror images) of the softmax of the scores resized to
    `size`; some rows at a time, so that the memory is that of the result and of a few bands of at most
    `MAX_BAND_ELEMENTS` scores.

    Args:
        views (`Sequence[PixelScores]`): At least one.
        size (`tuple[int, int]`): Height and width of the result in pixels.

    Returns:
        `Tensor` of shape `size`, int64; where classes tie, the lowest.
    """
    return _argmax_in_bands(views, size, softmax=True)


def _argmax_in_bands(views: Sequence[PixelScores], size: tuple[int, int], softmax: bool) -> Tensor:
    """The argmax over the classes of the sum of the views' resized scores or their softmax, band of rows by band."""
    height, width = size
    # A view of more rows than the image needs several of its rows for each of the image's.
    cost = max(max(width, view.size[1]) * max(1.0, view.size[0] / height) for view in views)
    step = max(1, int(MAX_BAND_ELEMENTS / (views[0].num_labels * cost)))
    label_map = torch.empty(height, width, dtype=torch.int64, device=views[0].grids[0].device)
    for first in range(0, height, step):
        stop, total = min(first + step, height), None
        for view in views:
            scores = view.resized_rows(first, stop, size)
            scores = scores.softmax(dim=0) if softmax else scores
            total = scores if total is None else total.add_(scores)
        label_map[first:stop] = total.argmax(dim=0)
    return label_map


__all__ = ["MAX_BAND_ELEMENTS", "PixelScores", "best_averaged_classes", "best_classes"]
