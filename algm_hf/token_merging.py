# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The two token merges of ALGM (CVPR 2024, arXiv 2406.09936, sections 3.2 and 3.3) and their inverse, as pure functions
on a packed layout. Terms, for all files:

- **pack**: the tokens of all images behind one another, `(total_tokens, hidden_size)`, without padding; image `b` has
  `pack[cu_seqlens[b] : cu_seqlens[b + 1]]`, special tokens (class token, registers) in front until the global merge.
- **lengths**: number of tokens of each image; `cu_seqlens` `(batch_size + 1,)` is their cumulated sum from 0.
- **sizes**: how many patches each token stands for, `(total_tokens,)` float32; 1 for a special token.
- **grid_sizes**: height and width in patches of each image; those of one pack may differ.
- **full pack**: the pack before any merge, patches in raster order.
- **assignment**: what a merge decides: the index in the new pack of each token of the old one. Assignments compose by
  indexing, `second[first]`.

A merge is a decision (`local_assignment`, `global_assignment`: float32, without gradient, each image by itself) and
its execution (`merge_tokens`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .refusals import require
from .token_packs import (
    TokenPack,
    cumulated_lengths,
    full_lengths,
    image_of_token,
    sequence_starts,
    special_token_mask,
    to_device,
)


class Assignment(NamedTuple):
    """The decision of a merge: `index (total_tokens,)` into the new pack, whose images have `lengths`, int64."""

    index: Tensor
    lengths: Tensor


@torch.no_grad()
def window_similarity(tokens: Tensor) -> Tensor:
    """
    Mean cosine similarity over the pairs of tokens of each window `(num_windows, n, hidden_size)`, `n >= 2`: with unit
    vectors `u_i` it is `(|sum_i u_i|^2 - n) / (n * (n - 1))` (section 3.2). Float32 `(num_windows,)`.
    """
    num_tokens = tokens.shape[1]
    unit_sum = torch.nn.functional.normalize(tokens.float(), dim=-1).sum(dim=1)
    return (unit_sum.square().sum(dim=-1) - num_tokens) / (num_tokens * (num_tokens - 1))


@torch.no_grad()
def local_assignment(
    hidden_states: Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_special_tokens: int,
    window_size: int,
    threshold: float,
) -> Assignment:
    """
    Decide the local merge (section 3.2) of a full pack: every complete `window_size x window_size` window (side >= 2)
    whose mean cosine similarity is at least `threshold` in [-1, 1] becomes one token.

    An image's new tokens: special tokens, merged windows by descending similarity (equal ones in raster order), other
    patches in raster order. Raises a `ValueError` if the pack does not hold the tokens of these grids.
    """
    device = hidden_states.device
    lengths = full_lengths(grid_sizes, num_special_tokens)
    expected = (
        f"{sum(lengths)}, an unmerged pack of {num_special_tokens} special tokens and a grid of {list(grid_sizes)}"
    )
    require(hidden_states.shape[0] == sum(lengths), "total_tokens", hidden_states.shape[0], expected)
    first_patches = [start + num_special_tokens for start in sequence_starts(lengths)]
    windows, image_of_window = _window_tokens(grid_sizes, first_patches, window_size, device)
    image = image_of_token(lengths, device)
    tokens_per_window = window_size * window_size

    similarity = window_similarity(hidden_states[windows])
    merged = similarity >= threshold
    num_merged = merged.new_zeros(len(lengths), dtype=torch.int64).index_add_(0, image_of_window, merged.long())
    new_lengths = to_device(lengths, device) - num_merged * (tokens_per_window - 1)
    new_starts = cumulated_lengths(new_lengths)[:-1]

    # Two stable sorts order the windows by image and, inside an image, by descending similarity. A merged window's
    # place among its image's windows is its place among the merged ones, since those come first.
    order = torch.argsort(similarity.masked_fill(~merged, -torch.inf), descending=True, stable=True)
    order = order[torch.argsort(image_of_window[order], stable=True)]
    num_windows = [(height // window_size) * (width // window_size) for height, width in grid_sizes]
    first_window = to_device(sequence_starts(num_windows), device)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=device)
    rank -= first_window[image_of_window]
    window_target = new_starts[image_of_window] + num_special_tokens + rank

    in_merged_window = torch.zeros(hidden_states.shape[0], dtype=torch.bool, device=device)
    in_merged_window[windows.flatten()] = merged.repeat_interleave(tokens_per_window)
    # Tokens that stay keep their order: their place is the number of staying tokens before them in the image, and
    # behind the special tokens (which stay, and come first) the merged windows are put in between.
    stays = ~in_merged_window
    place = _count_before(stays, to_device(sequence_starts(lengths), device), image)
    is_patch = place >= num_special_tokens
    target = new_starts[image] + place + is_patch * num_merged[image]
    window_of_token = torch.zeros(hidden_states.shape[0], dtype=torch.int64, device=device)
    window_of_token[windows.flatten()] = window_target.repeat_interleave(tokens_per_window)
    return Assignment(torch.where(stays, target, window_of_token), new_lengths)


@torch.no_grad()
def global_assignment(hidden_states: Tensor, lengths: Sequence[int], special_mask: Tensor, layer: int) -> Assignment:
    """
    Decide the global merge (section 3.3) after the attention of `layer`, counted from 1: an image's tokens at even
    positions (set A) look for their most similar token at an odd one (set B), and merge into it if their cosine
    similarity is at least `mean + std / layer` over A (unbiased, so that fewer than two candidates merge nothing).
    Tokens in `special_mask (total_tokens,)` take no part.

    An image's new tokens: the unmerged tokens of A, then all of B, each in their old order.
    """
    device, num_tokens = hidden_states.device, hidden_states.shape[0]
    unit = torch.nn.functional.normalize(hidden_states.float(), dim=-1)
    starts = sequence_starts(lengths)
    # One more entry than tokens: padding positions write there.
    merged = torch.zeros(num_tokens + 1, dtype=torch.bool, device=device)
    nearest = torch.zeros(num_tokens + 1, dtype=torch.int64, device=device)
    for images in _groups_of_similar_length(lengths):
        group_starts = to_device([starts[image] for image in images], device)
        group_lengths = to_device([lengths[image] for image in images], device)
        longest = max(lengths[image] for image in images)
        position = torch.arange(longest + longest % 2, device=device)
        index = torch.where(position < group_lengths[:, None], group_starts[:, None] + position, num_tokens)
        group_merged, group_nearest = _nearest_neighbours(unit, special_mask, index, layer)
        merged[index[:, 0::2]] = group_merged
        nearest[index[:, 0::2]] = group_nearest
    merged, nearest = merged[:-1], nearest[:-1]

    image = image_of_token(lengths, device)
    lengths, starts = to_device(lengths, device), to_device(starts, device)
    position = torch.arange(num_tokens, device=device) - starts[image]
    in_a = position % 2 == 0
    num_merged = torch.zeros_like(lengths).index_add_(0, image, merged.long())
    num_staying_a = (lengths + 1) // 2 - num_merged
    new_lengths = lengths - num_merged
    place_in_a = _count_before(in_a & ~merged, starts, image)
    place = torch.where(in_a, place_in_a, num_staying_a[image] + position // 2)
    target = cumulated_lengths(new_lengths)[:-1][image] + place
    return Assignment(torch.where(merged, target[nearest], target), new_lengths)


def merge_tokens(
    hidden_states: Tensor, sizes: Tensor, assignment_index: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """
    Replace the tokens that share an entry of `assignment_index`, in `0..num_tokens - 1`, by their mean weighted by
    `sizes`; differentiable, accumulates in float32 at least. A token that merges with nobody is copied bit for bit.
    """
    new_sizes = sizes.new_zeros(num_tokens).index_add(0, assignment_index, sizes)
    # The weight of a token that stays alone is exactly 1, whatever its size.
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    weights = sizes.to(dtype) / new_sizes[assignment_index].to(dtype)
    weighted = hidden_states * weights[:, None]
    merged = weighted.new_zeros(num_tokens, hidden_states.shape[1]).index_add(0, assignment_index, weighted)
    return merged.to(hidden_states.dtype), new_sizes


@torch.compiler.disable
def local_merge(
    pack: TokenPack,
    grid_sizes: Sequence[tuple[int, int]],
    num_special_tokens: int,
    window_size: int,
    threshold: float,
) -> TokenPack:
    """Decide and execute the local merge (section 3.2) on a full pack; see [`local_assignment`]."""
    assignment = local_assignment(pack.hidden_states, grid_sizes, num_special_tokens, window_size, threshold)
    return apply_assignment(pack, assignment)


@torch.compiler.disable
def global_merge(
    pack: TokenPack, grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int, layer: int
) -> TokenPack:
    """Decide and execute the global merge (section 3.3) on any pack; see [`global_assignment`]."""
    special_mask = special_token_mask(pack, grid_sizes, num_special_tokens)
    return apply_assignment(pack, global_assignment(pack.hidden_states, pack.lengths, special_mask, layer))


def apply_assignment(pack: TokenPack, assignment: Assignment) -> TokenPack:
    """
    Execute a merge: the new pack, whose `token_index` still has one entry for each position of the full pack. The only
    place where the host waits for the device, for the new lengths.
    """
    lengths = assignment.lengths.tolist()
    hidden_states, sizes = merge_tokens(pack.hidden_states, pack.sizes, assignment.index, sum(lengths))
    cu_seqlens = cumulated_lengths(assignment.lengths).to(torch.int32)
    return TokenPack(hidden_states, sizes, assignment.index[pack.token_index], lengths, cu_seqlens)


def restore_tokens(hidden_states: Tensor, token_index: Tensor) -> Tensor:
    """The inverse of merging: copy each token to all positions that it stands for, `(num_positions, channels)`."""
    return hidden_states.index_select(0, token_index)


def _window_positions(height: int, width: int, window_size: int, device: torch.device) -> Tensor:
    """Raster positions `(num_windows, window_size ** 2)` of the patches of each complete window of a grid."""
    rows, columns = height // window_size, width // window_size
    raster = torch.arange(height * width, device=device).view(height, width)
    raster = raster[: rows * window_size, : columns * window_size]
    windows = raster.reshape(rows, window_size, columns, window_size).transpose(1, 2)
    return windows.reshape(rows * columns, window_size * window_size)


def _window_tokens(
    grid_sizes: Sequence[tuple[int, int]], first_patches: Sequence[int], window_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pack index `(total_windows, window_size ** 2)` of the tokens of each window, and each window's image."""
    images_of_grid: dict[tuple[int, int], list[int]] = {}
    for image, grid in enumerate(grid_sizes):
        images_of_grid.setdefault(tuple(grid), []).append(image)
    windows, image_of_window = [], []
    for grid, images in images_of_grid.items():
        positions = _window_positions(*grid, window_size, device)
        first = to_device([first_patches[image] for image in images], device)
        windows.append((first[:, None, None] + positions).flatten(0, 1))
        image_of_window.append(to_device(images, device)[:, None].expand(-1, positions.shape[0]).flatten())
    return torch.cat(windows), torch.cat(image_of_window)


def _count_before(selected: Tensor, starts: Tensor, image: Tensor) -> Tensor:
    """How many selected tokens stand before each token in its image, `(total_tokens,)`."""
    before = selected.cumsum(0) - selected.long()
    return before - before[starts][image]


def _groups_of_similar_length(lengths: Sequence[int]) -> list[list[int]]:
    """Images in groups, each padded to its longest for one product; at most a quarter of a side is then padding."""
    groups: list[list[int]] = []
    for image in sorted(range(len(lengths)), key=lambda image: -lengths[image]):
        if groups and 4 * lengths[image] >= 3 * lengths[groups[-1][0]]:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def _nearest_neighbours(unit: Tensor, special_mask: Tensor, index: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """
    Of the A tokens of some images: whether they merge, and the pack index of their nearest B token. `index
    (num_images, length)` is the pack index of each position, `total_tokens` for padding.
    """
    mergeable = torch.cat((~special_mask, special_mask.new_zeros(1)))[index]
    index = index.clamp(max=unit.shape[0] - 1)
    with torch.autocast(device_type=unit.device.type, enabled=False):
        similarity = unit[index[:, 0::2]] @ unit[index[:, 1::2]].transpose(1, 2)
    similarity.masked_fill_(~mergeable[:, None, 1::2], -torch.inf)
    score, nearest = similarity.max(dim=-1)
    candidate = mergeable[:, 0::2] & (score > -torch.inf)
    # mean + std / layer with the unbiased std: NaN, which no score reaches, below two candidates
    count = candidate.sum(dim=1, keepdim=True)
    mean = score.masked_fill(~candidate, 0.0).sum(dim=1, keepdim=True) / count
    deviation = (score - mean).masked_fill(~candidate, 0.0)
    threshold = mean + (deviation.square().sum(dim=1, keepdim=True) / (count - 1)).sqrt() / layer
    return candidate & (score >= threshold), index[:, 1::2].gather(1, nearest)


__all__ = [
    "Assignment",
    "apply_assignment",
    "global_assignment",
    "global_merge",
    "local_assignment",
    "local_merge",
    "merge_tokens",
    "restore_tokens",
    "window_similarity",
]
