# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Sliding-window inference as the paper tests (ALGM, section 4.1; Segmenter, ICCV 2021): windows at a fixed stride, the
last one flush with the border, the logits of each pixel averaged over the windows that see it.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


def window_starts(length: int, window_size: int, window_stride: int) -> list[int]:
    """
    Where the windows along one side of an image start.

    Args:
        length (`int`): the side of the image in pixels.
        window_size (`int`): the side of a window in pixels.
        window_stride (`int`): distance between two windows in pixels, in `1..window_size`.

    Returns:
        `list[int]`: ascending; `[0]` if the image is not longer than a window.
    """
    last = max(0, length - window_size)
    return [*range(0, last, window_stride), last]


def averaged_bands(
    window_logits: Callable[[Tensor], Iterable[Tensor]],
    images: Tensor,
    num_labels: int,
    window_size: int,
    window_stride: int,
    window_batch_size: int,
) -> Iterator[tuple[int, Tensor]]:
    """
    The averaged logits of a batch of images, in bands of rows from top to bottom, each as soon as no further window
    touches it. Beyond the pack of windows in flight this holds the logits of `window_size` rows and those of the rows
    that overlap with the next windows, never those of a whole image.

    Args:
        window_logits (`Callable`):
            takes windows `(num_windows, num_channels, window_height, window_width)` to the logits of their pixels, one
            tensor `(num_labels, window_height, window_width)` after the other.
        images (`Tensor` of shape `(batch_size, num_channels, height, width)`)
        num_labels (`int`): number of classes.
        window_size (`int`): side of a window in pixels; windows are cut to smaller images.
        window_stride (`int`): distance between two windows in pixels, in `1..window_size`.
        window_batch_size (`int`): number of windows given to `window_logits` at once, from all images of the batch.

    Yields:
        `tuple[int, Tensor]`: the first row of a band and its float32 logits `(batch_size, num_labels, rows, width)`.
    """
    batch_size, _, height, width = images.shape
    window_height, window_width = min(window_size, height), min(window_size, width)
    tops = window_starts(height, window_size, window_stride)
    lefts = window_starts(width, window_size, window_stride)
    windows = [(image, left) for image in range(batch_size) for left in lefts]
    rows_done = 0
    sums = images.new_zeros(batch_size, num_labels, window_height, width, dtype=torch.float32)
    counts = images.new_zeros(window_height, width, dtype=torch.float32)
    for top, next_top in zip(tops, [*tops[1:], height], strict=True):
        rows = slice(top, top + window_height)
        for first in range(0, len(windows), window_batch_size):
            pack = windows[first : first + window_batch_size]
            crops = torch.stack([images[image, :, rows, left : left + window_width] for image, left in pack])
            for (image, left), logits in zip(pack, window_logits(crops), strict=True):
                sums[image, :, :, left : left + window_width] += logits.to(sums.device)
        for left in lefts:
            counts[:, left : left + window_width] += 1
        num_rows = next_top - top
        # In place, to save the memory of a band: nothing is added to these rows any more.
        yield rows_done, sums[:, :, :num_rows].div_(counts[:num_rows])
        rows_done += num_rows
        if next_top < height:
            # New tensors, not shifted ones: what was yielded stays as it is.
            sums = torch.nn.functional.pad(sums[:, :, num_rows:], (0, 0, 0, num_rows))
            counts = torch.nn.functional.pad(counts[num_rows:], (0, 0, 0, num_rows))


__all__ = ["averaged_bands", "window_starts"]
