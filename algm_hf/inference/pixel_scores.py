# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From the scores of an image's views (scales, mirror images) to its label map at any size, a part at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..label_maps import blockwise_argmax, resize_scores
from ..sliding_window import PixelScores


# Upper bound on the scores of pixels that averaging holds in one tensor: 2**22 float32 values are 16 MiB.
MAX_BAND_ELEMENTS = 2**22


def resized_rows(scores: PixelScores, first: int, stop: int, size: tuple[int, int]) -> Tensor:
    """
    Rows `first..stop - 1` of the scores resized to `size`, bilinear (`align_corners=False`), of all classes:
    `(num_labels, stop - first, size[1])` float32.
    """
    # Where torch's interpolate reads: between the rows above and below.
    scale = torch.tensor(scores.size[0], dtype=torch.float32) / size[0]
    source = (scale * (torch.arange(first, stop, dtype=torch.float32) + 0.5) - 0.5).clamp(min=0)
    above = source.long().clamp(max=scores.size[0] - 1)
    below = (above + 1).clamp(max=scores.size[0] - 1)
    start = int(above[0])
    rows = scores.rows(start, int(below[-1]) + 1)
    rows = resize_scores(rows, (rows.shape[1], size[1]))
    if scores.size[0] == size[0]:
        return rows[:, : stop - first]
    # Each row is a mean of two; as a product with these weights every score is read once.
    weights = torch.zeros(stop - first, rows.shape[1])
    row, fraction = torch.arange(stop - first), source - above
    weights[row, above - start] = 1 - fraction
    weights[row, below - start] += fraction
    return weights.to(rows.device) @ rows


def best_classes(scores: PixelScores, size: tuple[int, int]) -> Tensor:
    """
    The argmax over the classes of one view's scores resized to `size`, int64, ties to the lowest: some rows at a time
    where nothing is resized, else a few classes at a time, so that the memory does not grow with their number.
    """
    if scores.size == tuple(size):
        return _argmax_in_bands([scores], size, softmax=False)

    def resize(classes: Tensor) -> Tensor:
        return resize_scores(scores.rows(0, scores.size[0], classes), size)

    # The indices of the classes stand for their scores, which `resize` makes.
    numbers = torch.arange(scores.num_labels, device=scores.device)
    return blockwise_argmax(numbers, resize, max(math.prod(scores.size), math.prod(size)))


def best_averaged_classes(views: Sequence[PixelScores], size: tuple[int, int]) -> Tensor:
    """
    The argmax over the classes of the mean over views of the softmax of the scores resized to `size`, int64, ties to
    the lowest; some rows at a time, in a few bands of at most `MAX_BAND_ELEMENTS` scores.
    """
    return _argmax_in_bands(views, size, softmax=True)


def _argmax_in_bands(views: Sequence[PixelScores], size: tuple[int, int], softmax: bool) -> Tensor:
    """The argmax over the classes of the sum of the views' resized scores or their softmax, band of rows by band."""
    height, width = size
    # A view of more rows than the image needs several of its rows for each of the image's.
    cost = max(max(width, view.size[1]) * max(1.0, view.size[0] / height) for view in views)
    step = max(1, int(MAX_BAND_ELEMENTS / (views[0].num_labels * cost)))
    label_map = torch.empty(height, width, dtype=torch.int64, device=views[0].device)
    for first in range(0, height, step):
        stop, total = min(first + step, height), None
        for view in views:
            scores = resized_rows(view, first, stop, size)
            scores = scores.softmax(dim=0) if softmax else scores
            total = scores if total is None else total.add_(scores)
        label_map[first:stop] = total.argmax(dim=0)
    return label_map


__all__ = ["MAX_BAND_ELEMENTS", "best_averaged_classes", "best_classes", "resized_rows"]
