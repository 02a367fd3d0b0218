# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Sliding-window inference as the paper tests (ALGM, section 4.1; Segmenter, ICCV 2021): windows at a fixed stride, the
last one flush with the border, the logits of each pixel averaged over the windows that see it.

What is kept of a window are the logits of its patches. Those of pixels are made from them where and when they are
needed, some rows or some classes at a time, so that `(num_labels, height, width)` need not exist at once.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .configuration_algm import AlgmConfig
from .patch_grid import patch_grid
from .segmentation_loss import upsample_logits


# Scores of pixels in a band of rows: 2**26 float32 values are 256 MiB. Of less, most would be made twice.
BAND_ELEMENTS = 2**26


class PixelScores:
    """
    The scores of the pixels of one image, made on demand from the logits of the patches of its windows.

    Args:
        grids (`list[Tensor]`, each `(num_labels, grid_height, grid_width)`): by window, row by row of windows.
        size (`tuple[int, int]`): height and width of the image in pixels.
        window_size, window_stride (`int`): in pixels; windows are cut to smaller images.
        patch_size (`int`): side of a patch in pixels.
        mirrored (`bool`): whether the model saw the image mirrored left to right; the scores are turned back.
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
        self.grids, self.size, self.patch_size, self.mirrored = grids, tuple(size), patch_size, mirrored
        self.num_labels, self.device = grids[0].shape[0], grids[0].device
        self.window = tuple(min(window_size, side) for side in size)
        self.starts = [window_starts(side, window_size, window_stride) for side in size]
        # How many windows see a pixel: those that see its row times those that see its column.
        self.counts = [torch.zeros(side, device=self.device) for side in size]
        for counts, starts, side in zip(self.counts, self.starts, self.window, strict=True):
            for start in starts:
                counts[start : start + side] += 1

    def rows(self, first: int, stop: int, classes: slice | Tensor = slice(None)) -> Tensor:
        """Scores of the rows `first..stop - 1` for some classes, `(num_classes, stop - first, width)` float32."""
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

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows from top to bottom: some of them at a time, and their scores."""
        height, width = self.size
        step = max(self.patch_size, BAND_ELEMENTS // (self.num_labels * width))
        for first in range(0, height, step):
            stop = min(first + step, height)
            yield slice(first, stop), self.rows(first, stop)


class ScoredImage(NamedTuple):
    """What the model makes of an image: its scores, and `token_counts (num_layers,)` summed over its windows."""

    scores: PixelScores
    token_counts: Tensor | None


def slide(
    forward: Callable[[list[Tensor]], ModelOutput],
    images: Sequence[Tensor],
    config: AlgmConfig,
    mirrored: bool = False,
) -> list[ScoredImage]:
    """
    Images `(num_channels, height, width)` of any sizes in the windows of `config`, `window_batch_size` of them at a
    time, whichever images they are of. `forward` takes a list of windows to the model's output, with token counts or
    without.
    """
    size, patch_size = config.window_size, config.patch_size
    stride = size if config.window_stride is None else config.window_stride
    windows = []
    for owner, image in enumerate(images):
        starts = [window_starts(side, size, stride) for side in image.shape[-2:]]
        windows += [(owner, image[:, top : top + size, left : left + size]) for top, left in product(*starts)]
    grids: list[list[Tensor]] = [[] for _ in images]
    counts: list[list[Tensor]] = [[] for _ in images]
    for first in range(0, len(windows), config.window_batch_size):
        batch = windows[first : first + config.window_batch_size]
        output = forward([window for _, window in batch])
        for (owner, window), logits in zip(batch, output.logits, strict=True):
            rows, columns = patch_grid(window.shape[-2:], patch_size)
            # A copy, lest the padding of a batch of different sizes stays in memory.
            grids[owner].append(logits[:, :rows, :columns].clone())
        if output.token_counts is not None:
            for (owner, _), tokens in zip(batch, output.token_counts, strict=True):
                counts[owner].append(tokens)
    return [
        ScoredImage(
            PixelScores(grid, image.shape[-2:], size, stride, patch_size, mirrored),
            torch.stack(tokens).sum(0) if tokens else None,
        )
        for image, grid, tokens in zip(images, grids, counts, strict=True)
    ]


def window_starts(length: int, window_size: int, window_stride: int) -> list[int]:
    """Where the windows along one side of an image start, ascending; `[0]` if it is not longer than a window."""
    last = max(0, length - window_size)
    return [*range(0, last, window_stride), last]


def _rows_of_pixels(grid: Tensor, begin: int, end: int, patch_size: int) -> Tensor:
    """Rows `begin..end - 1` of a grid `(n, rows, columns)` upsampled by `patch_size`, from the patches they need."""
    # One row of patches more on either side: where the grid is cut, interpolation would repeat its border.
    first, last = max(0, begin // patch_size - 1), min(grid.shape[1], (end - 1) // patch_size + 2)
    size = (end - first * patch_size, grid.shape[2] * patch_size)
    return upsample_logits(grid[None, :, first:last].float(), size, patch_size)[0, :, begin - first * patch_size :]


__all__ = ["PixelScores", "ScoredImage", "slide", "window_starts"]
