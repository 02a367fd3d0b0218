# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The packed layout: the tokens of all images of a batch behind one another, without padding, and the way to
rectangular tensors and back. The vocabulary is that of `token_merging.py`."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

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


class TokenPack(NamedTuple):
    """
    The tokens of a batch of images, without padding.

    Attributes:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`):
            The pack.
        sizes (`Tensor` of shape `(total_tokens,)`, float32):
            How many patches each token stands for; 1 for special tokens.
        token_index (`Tensor` of shape `(num_positions,)`, int64):
            For each position of the full pack, the index of the token that now stands for it.
        lengths (`list[int]` of length `batch_size`):
            Number of tokens of each image, known to the host.
        cu_seqlens (`Tensor` of shape `(batch_size + 1,)`, int32):
            Start of each image in the pack, and the end of the last one.
    """

    hidden_states: Tensor
    sizes: Tensor
    token_index: Tensor
    lengths: list[int]
    cu_seqlens: Tensor

    def with_hidden_states(self, hidden_states: Tensor) -> "TokenPack":
        """The same tokens with other features `(total_tokens, any_size)`, on the device of these."""
        # The device differs where a `device_map` splits the model. (And torch 2.11 cannot compile `_replace`.)
        device = hidden_states.device
        sizes, token_index, cu_seqlens = self.sizes.to(device), self.token_index.to(device), self.cu_seqlens.to(device)
        return TokenPack(hidden_states, sizes, token_index, self.lengths, cu_seqlens)


def cumulated_lengths(lengths: Tensor) -> Tensor:
    """
    Start of each image in a pack, and the end of the last one.

    Args:
        lengths (`Tensor` of shape `(batch_size,)`, integer): number of tokens of each image.

    Returns:
        `Tensor` of shape `(batch_size + 1,)`, int64: `cu_seqlens`, starting with 0.
    """
    return torch.nn.functional.pad(lengths.to(torch.int64).cumsum(0), (1, 0))


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """
    Integers of the host as a tensor. To a GPU they go through pinned memory, so that the host does not wait.

    Args:
        values (`Sequence[int]`): the integers.
        device (`torch.device`): where the result lives.

    Returns:
        `Tensor` of shape `(len(values),)`, int64
    """
    tensor = torch.tensor(list(values), dtype=torch.int64)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def full_lengths(grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int) -> list[int]:
    """
    Number of tokens of each image before any merge.

    Args:
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each image in patches.
        num_special_tokens (`int`): number of tokens in front of an image's patches, >= 0.

    Returns:
        `list[int]` of length `batch_size`.
    """
    return [num_special_tokens + height * width for height, width in grid_sizes]


def full_pack(hidden_states: Tensor, lengths: Sequence[int]) -> TokenPack:
    """
    A pack in which nothing is merged yet.

    Args:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`): the tokens of all images behind one another.
        lengths (`Sequence[int]` of length `batch_size`): number of tokens of each image.

    Returns:
        [`TokenPack`]
    """
    device, num_tokens = hidden_states.device, hidden_states.shape[0]
    cu_seqlens = cumulated_lengths(to_device(lengths, device)).to(torch.int32)
    sizes = torch.ones(num_tokens, device=device)
    return TokenPack(hidden_states, sizes, torch.arange(num_tokens, device=device), list(lengths), cu_seqlens)


def special_positions(
    grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int, device: torch.device | None = None
) -> Tensor:
    """
    Which positions of a full pack hold special tokens.

    Args:
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each image in patches.
        num_special_tokens (`int`): number of tokens in front of an image's patches, >= 0.
        device (`torch.device`, *optional*): where the result lives.

    Returns:
        `Tensor` of shape `(num_positions,)`, bool
    """
    lengths = full_lengths(grid_sizes, num_special_tokens)
    device = torch.device("cpu" if device is None else device)
    special = torch.zeros(sum(lengths), dtype=torch.bool, device=device)
    positions = to_device(sequence_starts(lengths), device)[:, None] + torch.arange(num_special_tokens, device=device)
    return special.index_fill_(0, positions.flatten(), True)


def drop_special_tokens(pack: TokenPack, grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int) -> TokenPack:
    """
    Remove the special tokens of a pack, wherever they stand (with two or more, the global merge moves some of them
    behind patch tokens).

    Args:
        pack ([`TokenPack`]): merged or not.
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each image in patches.
        num_special_tokens (`int`): number of special tokens of each image, >= 0.

    Returns:
        [`TokenPack`]: the patch tokens in their order; `token_index` has one entry for each patch.
    """
    if num_special_tokens == 0:
        return pack
    device, batch_size = pack.hidden_states.device, len(pack.lengths)
    is_special = special_token_mask(pack, grid_sizes, num_special_tokens)
    kept = _indices_of_false(is_special, batch_size * num_special_tokens)
    patches = _indices_of_false(
        special_positions(grid_sizes, num_special_tokens, device), batch_size * num_special_tokens
    )
    new_index = (~is_special).cumsum(0) - 1
    lengths = [length - num_special_tokens for length in pack.lengths]
    offsets = torch.arange(batch_size + 1, device=device, dtype=torch.int32) * num_special_tokens
    return TokenPack(
        pack.hidden_states[kept],
        pack.sizes[kept],
        new_index[pack.token_index[patches]],
        lengths,
        pack.cu_seqlens - offsets,
    )


def special_token_mask(pack: TokenPack, grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int) -> Tensor:
    """Which tokens of a pack are special, `(total_tokens,)` bool. A special token stands for one position only."""
    special = torch.zeros(pack.hidden_states.shape[0], dtype=torch.bool, device=pack.hidden_states.device)
    special[pack.token_index] = special_positions(grid_sizes, num_special_tokens, special.device)
    return special


def _indices_of_false(mask: Tensor, num_true: int) -> Tensor:
    """Ascending indices of `False`; a stable sort, since `nonzero` would make the host wait for the device."""
    return torch.argsort(mask.to(torch.uint8), stable=True)[: mask.shape[0] - num_true]


def sequence_starts(lengths: Sequence[int]) -> list[int]:
    """Where each of some pieces behind one another starts."""
    return list(accumulate(lengths, initial=0))[:-1]


__all__ = [
    "TokenPack",
    "cumulated_lengths",
    "drop_special_tokens",
    "full_lengths",
    "full_pack",
    "sequence_starts",
    "special_positions",
    "special_token_mask",
    "stack_images",
    "to_batch",
    "to_device",
    "to_grids",
]
