# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Axial rotary positions (RoPE) on packs: the first half of a head's angles grows with the row of a token, the second
half with its column. DINOv3 and EVA-02 differ in what rows and columns are measured in.

A token that stands for several patches (ALGM, CVPR 2024, arXiv 2406.09936, knows absolute positions only) is put at
the mean of their coordinates. Special tokens are at the origin, where nothing turns.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_algm import AlgmConfig
from .token_packs import TokenPack


class RotaryTable(NamedTuple):
    """Cosine and sine of the angles of each token of a pack, `(total_tokens, 1, head_dim / 2)` each."""

    cosine: Tensor
    sine: Tensor


def rotary_table(config: AlgmConfig, pack: TokenPack, grid_sizes: Sequence[tuple[int, int]]) -> RotaryTable | None:
    """
    The angles of the tokens of a pack in its dtype, each at the mean of the positions that it stands for, computed in
    float32; `None` if the model has no rotary positions.
    """
    if config.rope_theta is None:
        return None
    device = pack.hidden_states.device
    token_index, sizes = pack.token_index.to(device), pack.sizes.to(device)
    positions = _full_coordinates(config, grid_sizes, device)
    coordinates = positions.new_zeros(sizes.shape[0], 2).index_add(0, token_index, positions) / sizes[:, None]
    head_dim = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim
    angles = (coordinates[:, :, None] / config.rope_theta**exponents).flatten(1)[:, None]
    return RotaryTable(angles.cos().to(pack.hidden_states.dtype), angles.sin().to(pack.hidden_states.dtype))


def _full_coordinates(config: AlgmConfig, grid_sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Row and column of each position of a full pack, `(num_positions, 2)` float32, in radians at frequency 1."""
    special = torch.zeros(config.num_special_tokens, 2, device=device)
    of_grid = {}
    for grid in set(grid_sizes):
        rows, columns = (_axis_coordinates(config, length, device) for length in grid)
        of_grid[grid] = torch.cat((special, torch.cartesian_prod(rows, columns)))
    return torch.cat([of_grid[grid] for grid in grid_sizes])


def _axis_coordinates(config: AlgmConfig, length: int, device: torch.device) -> Tensor:
    index = torch.arange(length, dtype=torch.float32, device=device)
    if config.rope_coordinates == "centered":
        return 2 * math.pi * (2 * (index + 0.5) / length - 1)
    if config.rope_reference_grid_size is None:
        return index
    return index / length * config.rope_reference_grid_size


def rotate(states: Tensor, table: RotaryTable) -> Tensor:
    """
    Turn each pair of channels `(k, k + head_dim / 2)` of queries or keys `(total_tokens, num_heads, head_dim)` by its
    angle.
    """
    cosine, sine = table.cosine.to(states.device), table.sine.to(states.device)
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.to(states.dtype)  # under autocast the table is wider than the states


__all__ = ["RotaryTable", "rotary_table", "rotate"]
