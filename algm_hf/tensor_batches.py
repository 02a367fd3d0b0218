# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Between lists, packs and the rectangular tensors of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def stack_images(images: Sequence) -> tuple[Tensor, Tensor | None]:
    """
    One zero-padded tensor of a list of images of any sizes.

    Args:
        images (`Sequence[Tensor]`, each `(num_channels, height, width)`): the images, possibly in nested lists.

    Returns:
        `tuple[Tensor, Tensor]`: the images `(batch_size, num_channels, height, width)`, padded right and bottom, and
        their heights and widths `(batch_size, 2)`, int64, or `None` if they are alike.

    Raises:
        ValueError: if there is no image, or one is no tensor of that shape with as many channels as the first.
    """
    flat = list(images)
    while any(isinstance(image, (list, tuple)) for image in flat):
        flat = [image for entry in flat for image in (entry if isinstance(entry, (list, tuple)) else [entry])]
    if not all(isinstance(image, Tensor) for image in flat):
        raise ValueError(f"pixel_values holds {[type(image).__name__ for image in flat]}: expected tensors only")
    shapes = [tuple(image.shape) for image in flat]
    if not flat or any(len(shape) != 3 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(
            f"pixel_values holds tensors of the shapes {shapes}: expected (num_channels, height, width) for each"
        )
    height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
    padded = [nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in flat]
    sizes = None if len(set(shapes)) == 1 else torch.tensor([shape[1:] for shape in shapes])
    return torch.stack(padded), sizes


def to_batch(packed: Tensor, lengths: Sequence[int], padding_value: float = 0.0) -> Tensor:
    """
    The sequences of a pack as a batch.

    Args:
        packed (`Tensor` of shape `(sum(lengths), ...)`): the sequences behind one another.
        lengths (`Sequence[int]` of length `batch_size`): their lengths.
        padding_value (`float`): what stands at the end of shorter ones.

    Returns:
        `Tensor` of shape `(batch_size, max(lengths), ...)`
    """
    if len(set(lengths)) == 1:
        return packed.unflatten(0, (len(lengths), lengths[0]))
    return nn.utils.rnn.pad_sequence(packed.split(list(lengths)), batch_first=True, padding_value=padding_value)


def to_grids(packed: Tensor, grid_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """
    The patches of a pack as grids.

    Args:
        packed (`Tensor` of shape `(total_patches, num_labels)`): images behind one another, each in raster order.
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each grid.

    Returns:
        `Tensor` of shape `(batch_size, num_labels, largest_height, largest_width)`, zero-padded.
    """
    if len(set(grid_sizes)) == 1:
        return packed.view(len(grid_sizes), *grid_sizes[0], -1).permute(0, 3, 1, 2).contiguous()
    height, width = (max(sides) for sides in zip(*grid_sizes, strict=True))
    grids = []
    for patches, (rows, columns) in zip(packed.split([h * w for h, w in grid_sizes]), grid_sizes, strict=True):
        grid = patches.view(rows, columns, -1).permute(2, 0, 1)
        grids.append(nn.functional.pad(grid, (0, width - columns, 0, height - rows)))
    return torch.stack(grids)


__all__ = ["stack_images", "to_batch", "to_grids"]
