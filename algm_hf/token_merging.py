# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The two token merges of ALGM (CVPR 2024, arXiv 2406.09936, sections 3.2 and 3.3) and their inverse, as pure functions
on a packed layout.

Vocabulary:

- **pack**: the tokens of all images behind one another, `(total_tokens, hidden_size)`, without padding. The tokens of
  image `b` are `pack[cu_seqlens[b] : cu_seqlens[b + 1]]`, special tokens (class token, registers) in front until the
  global merge reorders them.
- **lengths**: number of tokens of each image, `(batch_size,)`; `cu_seqlens` is their cumulated sum with a leading 0.
- **sizes**: how many patches each token stands for, `(total_tokens,)` float32. A special token has size 1.
- **assignment**: what a merge decides: for every token of the pack before it, the index of its token in the pack after
  it, `(total_tokens,)`. Assignments compose by indexing: `second[first]`.
- **full pack**: the pack before any merge, `num_special_tokens + grid_height * grid_width` tokens for each image,
  patches in raster order.
- **grid**: height and width of an image in patches. Images of one pack may have different grids.

A merge is a decision (`local_assignment`, `global_assignment`: float32, without gradient, each image by itself) and
its execution (`merge_tokens`: a size-weighted mean, differentiable). `restore_tokens` copies every merged token back
to all the positions that it stands for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .token_packs import TokenPack, cumulated_lengths, full_lengths, sequence_starts, special_token_mask, to_device


class Assignment(NamedTuple):
    """
    The decision of one merge.

    Attributes:
        index (`Tensor` of shape `(total_tokens,)`, int64):
            For each token of the old pack, the index of the token of the new pack that it becomes part of.
        lengths (`Tensor` of shape `(batch_size,)`, int64):
            Number of tokens of each image in the new pack.
    """

    index: Tensor
    lengths: Tensor


@torch.no_grad()
def window_similarity(tokens: Tensor) -> Tensor:
    r"""
    Mean cosine similarity over the ordered pairs of distinct tokens of each window, without forming pairs: with unit
    vectors `u_i` and `n` tokens, `(|sum_i u_i|^2 - n) / (n * (n - 1))` (paper, section 3.2).

    Args:
        tokens (`Tensor` of shape `(num_windows, n, hidden_size)`): the tokens of each window, `n >= 2`.

    Returns:
        `Tensor` of shape `(num_windows,)`, float32, in [-1 / (n - 1), 1].
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
    Decide the local merge (paper, section 3.2): every complete `window_size x window_size` window of patches whose
    mean pairwise cosine similarity is at least `threshold` becomes one token.

    The order of an image's new tokens is: special tokens, merged windows by descending similarity (equal ones in
    raster order), unmerged patches in raster order. Patches of windows that the grid cuts off stay unmerged.

    Args:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`): a full pack.
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each image in patches.
        num_special_tokens (`int`): number of tokens in front of an image's patches, >= 0.
        window_size (`int`): side of a window in patches, >= 2.
        threshold (`float`): tau in [-1, 1].

    Returns:
        [`Assignment`]

    Raises:
        ValueError: if the pack does not hold the tokens that `grid_sizes` and `num_special_tokens` say.
    """
    device = hidden_states.device
    lengths = full_lengths(grid_sizes, num_special_tokens)
    if hidden_states.shape[0] != sum(lengths):
        raise ValueError(
            f"hidden_states has {hidden_states.shape[0]} tokens: expected the {sum(lengths)} tokens of the grids "
            f"{list(grid_sizes)} with {num_special_tokens} special tokens each; the local merge needs an unmerged pack"
        )
    starts = to_device(sequence_starts(lengths), device)
    windows, image_of_window = _window_tokens(
        grid_sizes, sequence_starts(lengths), num_special_tokens, window_size, device
    )
    image_of_token = _repeat_each(range(len(lengths)), lengths, device)
    tokens_per_window = window_size * window_size

    similarity = window_similarity(hidden_states[windows])
    merged = similarity >= threshold
    num_merged = torch.zeros(len(lengths), dtype=torch.int64, device=device).index_add_(
        0, image_of_window, merged.long()
    )
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
    before = stays.cumsum(0) - stays.long()
    place = before - before[starts][image_of_token]
    is_patch = place >= num_special_tokens
    target = new_starts[image_of_token] + place + is_patch * num_merged[image_of_token]
    window_of_token = torch.zeros(hidden_states.shape[0], dtype=torch.int64, device=device)
    window_of_token[windows.flatten()] = window_target.repeat_interleave(tokens_per_window)
    return Assignment(torch.where(stays, target, window_of_token), new_lengths)


@torch.no_grad()
def global_assignment(hidden_states: Tensor, lengths: Sequence[int], special_mask: Tensor, layer: int) -> Assignment:
    """
    Decide the global merge (paper, section 3.3): of each image's sequence the tokens at even positions (set `A`) look
    for their most similar token at an odd position (set `B`); those whose cosine similarity is at least `mean +
    std / layer` over the image's `A` tokens merge into it (unbiased standard deviation, so that an image with fewer
    than two candidates merges nothing). Special tokens neither merge nor are merged into.

    The order of an image's new tokens is: the unmerged tokens of `A`, then all of `B`, each in their old order.

    Args:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`): a pack.
        lengths (`Sequence[int]` of length `batch_size`): number of tokens of each image, >= 1.
        special_mask (`Tensor` of shape `(total_tokens,)`, bool): `True` for special tokens.
        layer (`int`): the layer after whose attention this happens, counted from 1.

    Returns:
        [`Assignment`]
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

    image_of_token = _repeat_each(range(len(lengths)), lengths, device)
    lengths, starts = to_device(lengths, device), to_device(starts, device)
    position = torch.arange(num_tokens, device=device) - starts[image_of_token]
    in_a = position % 2 == 0
    before = (in_a & ~merged).cumsum(0) - (in_a & ~merged).long()
    num_merged = torch.zeros_like(lengths).index_add_(0, image_of_token, merged.long())
    num_staying_a = (lengths + 1) // 2 - num_merged
    new_lengths = lengths - num_merged
    place_in_a = before - before[starts][image_of_token]
    place = torch.where(in_a, place_in_a, num_staying_a[image_of_token] + position // 2)
    target = cumulated_lengths(new_lengths)[:-1][image_of_token] + place
    return Assignment(torch.where(merged, target[nearest], target), new_lengths)


def merge_tokens(
    hidden_states: Tensor, sizes: Tensor, assignment_index: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """
    Replace each group of tokens that share an assignment by its size-weighted mean. Differentiable with respect to
    `hidden_states`; accumulates in float32 at least. A token that merges with nobody is copied bit for bit.

    Args:
        hidden_states (`Tensor` of shape `(total_tokens, hidden_size)`): the old pack.
        sizes (`Tensor` of shape `(total_tokens,)`, floating point): how many patches each old token stands for.
        assignment_index (`Tensor` of shape `(total_tokens,)`, int64): new index of each old token, in
            `0..num_tokens - 1`, each of them used.
        num_tokens (`int`): number of tokens of the new pack.

    Returns:
        `tuple[Tensor, Tensor]`: the new pack `(num_tokens, hidden_size)` in the dtype of the old one and the sizes of
        its tokens `(num_tokens,)`.
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
    """
    Decide and execute the local merge (paper, section 3.2) on an unmerged pack. See [`local_assignment`] for the
    arguments and errors.

    Returns:
        [`TokenPack`]
    """
    assignment = local_assignment(pack.hidden_states, grid_sizes, num_special_tokens, window_size, threshold)
    return apply_assignment(pack, assignment)


@torch.compiler.disable
def global_merge(
    pack: TokenPack, grid_sizes: Sequence[tuple[int, int]], num_special_tokens: int, layer: int
) -> TokenPack:
    """
    Decide and execute the global merge (paper, section 3.3) on a pack. See [`global_assignment`] for what it does.

    Args:
        pack ([`TokenPack`]): merged before or not.
        grid_sizes (`Sequence[tuple[int, int]]` of length `batch_size`): height and width of each image in patches.
        num_special_tokens (`int`): number of tokens in front of an image's patches, >= 0.
        layer (`int`): the layer after whose attention this happens, counted from 1.

    Returns:
        [`TokenPack`]
    """
    special_mask = special_token_mask(pack, grid_sizes, num_special_tokens)
    return apply_assignment(pack, global_assignment(pack.hidden_states, pack.lengths, special_mask, layer))


def apply_assignment(pack: TokenPack, assignment: Assignment) -> TokenPack:
    """
    Execute a merge on a pack. The only place of a merge where the host waits for the device, for the new lengths.

    Args:
        pack ([`TokenPack`]): the old pack.
        assignment ([`Assignment`]): the decision.

    Returns:
        [`TokenPack`]: the new pack; `token_index` still has one entry for each position of the full pack.
    """
    lengths = assignment.lengths.tolist()
    hidden_states, sizes = merge_tokens(pack.hidden_states, pack.sizes, assignment.index, sum(lengths))
    cu_seqlens = cumulated_lengths(assignment.lengths).to(torch.int32)
    return TokenPack(hidden_states, sizes, assignment.index[pack.token_index], lengths, cu_seqlens)


def restore_tokens(hidden_states: Tensor, token_index: Tensor) -> Tensor:
    """
    The inverse of merging: copy each token to all the positions that it stands for. The identity when nothing merged.

    Args:
        hidden_states (`Tensor` of shape `(total_tokens, channels)`): a pack.
        token_index (`Tensor` of shape `(num_positions,)`, int64): pack index of the token of each position.

    Returns:
        `Tensor` of shape `(num_positions, channels)`
    """
    return hidden_states.index_select(0, token_index)


def _window_positions(height: int, width: int, window_size: int, device: torch.device) -> Tensor:
    """Raster positions `(num_windows, window_size ** 2)` of the patches of each complete window of a grid."""
    rows, columns = height // window_size, width // window_size
    raster = torch.arange(height * width, device=device).view(height, width)
    raster = raster[: rows * window_size, : columns * window_size]
    windows = raster.reshape(rows, window_size, columns, window_size).transpose(1, 2)
    return windows.reshape(rows * columns, window_size * window_size)


def _window_tokens(
    grid_sizes: Sequence[tuple[int, int]],
    starts: Sequence[int],
    num_special_tokens: int,
    window_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """
    Pack index of each token of each complete window, `(total_windows, window_size ** 2)`, and each window's image,
    `(total_windows,)`: images of one grid together, an image's windows in raster order.
    """
    images_of_grid: dict[tuple[int, int], list[int]] = {}
    for image, grid in enumerate(grid_sizes):
        images_of_grid.setdefault(tuple(grid), []).append(image)
    windows, image_of_window = [], []
    for grid, images in images_of_grid.items():
        positions = _window_positions(*grid, window_size, device)
        first_patches = to_device([starts[image] + num_special_tokens for image in images], device)
        windows.append((first_patches[:, None, None] + positions).flatten(0, 1))
        image_of_window.append(to_device(images, device)[:, None].expand(-1, positions.shape[0]).flatten())
    return torch.cat(windows), torch.cat(image_of_window)


def _repeat_each(values: Sequence[int], repeats: Sequence[int], device: torch.device) -> Tensor:
    """`values[i]` repeated `repeats[i]` times, `(sum(repeats),)`; its size is given, so nothing waits for it."""
    return to_device(values, device).repeat_interleave(to_device(repeats, device), output_size=sum(repeats))


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
    For the `A` tokens of some images: whether they merge, and the pack index of their nearest `B` token.

    Args:
        unit (`Tensor` of shape `(total_tokens, hidden_size)`, float32): the pack in unit vectors.
        special_mask (`Tensor` of shape `(total_tokens,)`, bool)
        index (`Tensor` of shape `(num_images, length)`, int64, even length):
            pack index of each position, `total_tokens` for padding.
        layer (`int`): see [`global_assignment`].

    Returns:
        `tuple[Tensor, Tensor]` of shape `(num_images, length / 2)`, bool and int64.
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
