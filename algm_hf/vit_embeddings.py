# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From pixels to the tokens of a plain Vision Transformer, packed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .configuration_algm import AlgmConfig
from .patch_grid import patch_grid
from .refusals import require


GridSizes = Sequence[tuple[int, int]]


class ImageBatch(NamedTuple):
    """Images padded right and bottom to one tensor, and their heights and widths in pixels where they differ."""

    pixel_values: Tensor
    sizes: GridSizes | None = None

    def grid_sizes(self, patch_size: int) -> GridSizes:
        """Height and width in patches of each image."""
        sizes = self.sizes or [self.pixel_values.shape[-2:]] * self.pixel_values.shape[0]
        return [patch_grid(size, patch_size) for size in sizes]


def stack_images(images: Sequence) -> ImageBatch:
    """
    One batch of images `(num_channels, height, width)` of any sizes, possibly in nested lists. Raises a `ValueError`
    if there is no image, or one is no tensor of that shape with the channels of the first.
    """
    flat = list(images)
    while any(isinstance(image, (list, tuple)) for image in flat):
        flat = [image for entry in flat for image in (entry if isinstance(entry, (list, tuple)) else [entry])]
    types = [type(image).__name__ for image in flat]
    require(all(isinstance(image, Tensor) for image in flat), "pixel_values", types, "tensors only")
    shapes = [tuple(image.shape) for image in flat]
    alike = bool(flat) and all(len(shape) == 3 and shape[0] == shapes[0][0] for shape in shapes)
    require(alike, "pixel_values.shape", shapes, "(num_channels, height, width) for each")
    if len(set(shapes)) == 1:
        return ImageBatch(torch.stack(flat))
    height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
    padded = [nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in flat]
    return ImageBatch(torch.stack(padded), [shape[1:] for shape in shapes])


class AlgmPatchEmbeddings(nn.Module):
    """A convolution with kernel and stride of one patch, on images zero-padded right and bottom to whole patches."""

    def __init__(self, config: AlgmConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(batch_size, num_channels, height, width)` to `(batch_size, hidden_size, grid_height, grid_width)`."""
        height, width = pixel_values.shape[-2:]
        padding = (0, -width % self.patch_size, 0, -height % self.patch_size)
        pixel_values = nn.functional.pad(pixel_values, padding) if any(padding) else pixel_values
        return self.projection(pixel_values.to(self.projection.weight.dtype))


class AlgmEmbeddings(nn.Module):
    """Patch, special token and position embeddings, packed."""

    def __init__(self, config: AlgmConfig):
        super().__init__()
        grid_height, grid_width = config.position_grid_size
        self.position_grid_size = config.position_grid_size
        self.position_interpolation = config.position_interpolation
        self.cls_token = _parameter(config, int(config.use_class_token))
        self.distillation_token = _parameter(config, int(config.use_distillation_token))
        self.register_tokens = _parameter(config, config.num_register_tokens)
        # Of the special tokens only the class token has a position: another's would only be a part of the token.
        num_positions = int(config.use_class_token) + grid_height * grid_width
        self.position_embeddings = _parameter(config, num_positions * config.use_absolute_position_embeddings)
        self.patch_embeddings = AlgmPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor, image_sizes: GridSizes | None) -> tuple[Tensor, GridSizes]:
        """
        The full pack `(total_tokens, hidden_size)` of images `(batch_size, num_channels, height, width)`, whose sizes
        in pixels are given where they differ, and the height and width of each in patches.
        """
        if image_sizes is None:
            batches = [pixel_values]
        else:
            batches = [image[None, :, :h, :w] for image, (h, w) in zip(pixel_values, image_sizes, strict=True)]
        packs, grid_sizes = [], []
        for batch in batches:
            patches = self.patch_embeddings(batch)
            grid_sizes += [tuple(patches.shape[-2:])] * batch.shape[0]
            packs.append(self._add_special_tokens(patches).flatten(0, 1))
        return self.dropout(torch.cat(packs) if len(packs) > 1 else packs[0]), grid_sizes

    def _add_special_tokens(self, patches: Tensor) -> Tensor:
        batch_size, _, *grid_size = patches.shape
        patch_tokens = patches.flatten(2).transpose(1, 2)
        class_token = self.cls_token
        if self.position_embeddings is not None:
            class_position, patch_positions = self._interpolate_positions(grid_size)
            patch_tokens = patch_tokens + patch_positions
            class_token = None if class_token is None else class_token + class_position
        special = (class_token, self.distillation_token, self.register_tokens)
        tokens = [token.expand(batch_size, -1, -1) for token in special if token is not None] + [patch_tokens]
        return torch.cat([part.to(patches.dtype) for part in tokens], dim=1)

    def _interpolate_positions(self, grid_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Position embeddings of the class token `(1, 0 or 1, C)` and of the patches `(1, num_patches, C)`."""
        num_class_positions = 0 if self.cls_token is None else 1
        class_position = self.position_embeddings[:, :num_class_positions]
        positions = self.position_embeddings[:, num_class_positions:]
        return class_position, resize_positions(
            positions, self.position_grid_size, grid_size, self.position_interpolation
        )


def _parameter(config: AlgmConfig, num_rows: int) -> nn.Parameter | None:
    """Learned tokens or positions `(1, num_rows, hidden_size)`; `None` for no rows."""
    return nn.Parameter(torch.zeros(1, num_rows, config.hidden_size)) if num_rows else None


def resize_positions(
    positions: Tensor, old_grid_size: Sequence[int], new_grid_size: Sequence[int], interpolation: str
) -> Tensor:
    """
    Positions `(1, num_patches, hidden_size)` in raster order of one grid for another grid, as they are if the grids
    are equal; `interpolation` as in `config.position_interpolation`.
    """
    if tuple(new_grid_size) == tuple(old_grid_size):
        return positions
    mode, _, antialias = interpolation.partition("_")
    # In float32: half precision would resize the positions coarsely, and not at all on some devices.
    grid = positions.float().transpose(1, 2).unflatten(2, tuple(old_grid_size))
    grid = nn.functional.interpolate(
        grid, size=tuple(new_grid_size), mode=mode, align_corners=False, antialias=bool(antialias)
    )
    return grid.flatten(2).transpose(1, 2).to(positions.dtype)


__all__ = ["AlgmEmbeddings", "AlgmPatchEmbeddings", "GridSizes", "ImageBatch", "resize_positions", "stack_images"]
