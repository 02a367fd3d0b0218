# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The packed layout and the way to rectangular tensors and back. The terms are those of `token_merging.py`."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn


def to_batch(packed: Tensor, lengths: Sequence[int], padding_value: float = 0.0) -> Tensor:
    """
    The sequences of a pack `(total_tokens, ...)` as a batch `(batch_size, max(lengths), ...)`, padded at the end.
    """
    if len(set(lengths)) == 1:
        return packed.unflatten(0, (len(lengths), lengths[0]))
    return nn.utils.rnn.pad_sequence(packed.split(list(lengths)), batch_first=True, padding_value=padding_value)


def to_grids(packed: Tensor, grid_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """
    The patches of a pack `(total_patches, num_labels)` as grids `(batch_size, num_labels, largest_height,
    largest_width)`, zero-padded right and bottom.
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
    The tokens of a batch of images.

    Attributes:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`): the pack.
        sizes (`Tensor` of shape `(total_tokens,)`, float32): how many patches each token stands for.
        token_index (`Tensor` of shape `(num_positions,)`, int64): the token for each position of the full pack.
        lengths (`list[int]` of length `batch_size`): number of tokens of each image, known to the host.
        cu_seqlens (`Tensor` of shape `(batch_size + 1,)`, int32): start of each image, and the end of the last one.
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
    """`cu_seqlens (batch_size + 1,)`, int64, of the lengths `(batch_size,)` of the images."""
    return torch.nn.functional.pad(lengths.to(torch.int64).cumsum(0), (1, 0))


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Integers of the host as an int64 tensor; to a GPU through pinned memory, so that the host does not wait."""
    tensor = torch.tensor(list(values), dtype=torch.int64)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def full_lengths(grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int) -> list[int]:
    """Number of tokens of each image before any merge."""
    return [num_special_tokens + height * width for height, width in grid_sizes]


def full_pack(hidden_states: Tensor, lengths: Sequence[int]) -> TokenPack:
    """A pack `(total_tokens, hidden_size)` in which nothing is merged yet."""
    device, num_tokens = hidden_states.device, hidden_states.shape[0]
    cu_seqlens = cumulated_lengths(to_device(lengths, device)).to(torch.int32)
    sizes = torch.ones(num_tokens, device=device)
    return TokenPack(hidden_states, sizes, torch.arange(num_tokens, device=device), list(lengths), cu_seqlens)


def special_positions(
    grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int, device: torch.device | None = None
) -> Tensor:
    """Which positions of a full pack hold special tokens, `(num_positions,)` bool."""
    lengths = full_lengths(grid_sizes, num_special_tokens)
    device = torch.device("cpu" if device is None else device)
    special = torch.zeros(sum(lengths), dtype=torch.bool, device=device)
    positions = to_device(sequence_starts(lengths), device)[:, None] + torch.arange(num_special_tokens, device=device)
    return special.index_fill_(0, positions.flatten(), True)


def drop_special_tokens(pack: TokenPack, grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int) -> TokenPack:
    """
    The patch tokens of a pack in their order, wherever its special tokens stand (with two or more, the global merge
    moves some of them behind patch tokens); `token_index` then has one entry for each patch.
    """
    if num_special_tokens == 0:
        return pack
    device, batch_size = pack.hidden_states.device, len(pack.lengths)
    num_dropped = batch_size * num_special_tokens
    is_special = special_token_mask(pack, grid_sizes, num_special_tokens)
    kept = _indices_of_false(is_special, num_dropped)
    patches = _indices_of_false(special_positions(grid_sizes, num_special_tokens, device), num_dropped)
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
    """Which tokens of a pack are special, `(total_tokens,)` bool."""
    special = torch.zeros(pack.hidden_states.shape[0], dtype=torch.bool, device=pack.hidden_states.device)
    special[pack.token_index] = special_positions(grid_sizes, num_special_tokens, special.device)
    return special


def image_of_token(lengths: Sequence[int], device: torch.device) -> Tensor:
    """The image of each token, `(total_tokens,)` int64; its size is given, so nothing waits for it."""
    images = torch.arange(len(lengths), device=device)
    return images.repeat_interleave(to_device(lengths, device), output_size=sum(lengths))


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
    "image_of_token",
    "sequence_starts",
    "special_positions",
    "special_token_mask",
    "to_batch",
    "to_device",
    "to_grids",
]
