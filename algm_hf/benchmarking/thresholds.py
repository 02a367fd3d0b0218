# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The merge threshold at which a wanted share of tokens or FLOPs is left, searched on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..refusals import require
from ..runs.models import config_settings
from .flops import count_flops
from .inputs import BenchmarkArguments


UNMERGED = {"use_token_merging": False}
# How far the reached share of tokens or FLOPs may be from the wanted one, relative to it, before the search goes on.
TARGET_TOLERANCE = 0.01


def find_threshold(
    share_at: Callable[[float], float], target: float, tolerance: float = TARGET_TOLERANCE, iterations: int = 40
) -> tuple[float, float]:
    """
    The merge threshold at which a share (of the tokens, of the FLOPs) that grows with it reaches a target: bisection
    on -1..1. The similarities of random features differ from those of trained ones, so no table could give it.

    Args:
        share_at (`Callable[[float], float]`): The share left at a threshold, 1 without merging.
        target (`float`): The wanted share, above 0 and up to 1.
        tolerance (`float`): Relative distance from the target at which the search ends.
        iterations (`int`): Steps after which the nearest threshold so far is taken.

    Returns:
        `tuple[float, float]`: The threshold and the share it reaches.

    Raises:
        ValueError: if the target is below what the threshold -1 leaves, or above what 1 leaves.
    """
    tried = {threshold: share_at(threshold) for threshold in (-1.0, 1.0)}
    least, most = tried[-1.0], tried[1.0]
    expected = f"{least:.4f} to {most:.4f}, which the merge thresholds -1 and 1 leave on these images"
    require(least * (1 - tolerance) <= target <= most * (1 + tolerance), "target", target, expected)
    low, high = -1.0, 1.0
    for _ in range(iterations):
        nearest = min(tried, key=lambda threshold: abs(tried[threshold] - target))
        if abs(tried[nearest] - target) <= tolerance * target:
            break
        middle = (low + high) / 2
        tried[middle] = share_at(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    nearest = min(tried, key=lambda threshold: abs(tried[threshold] - target))
    return nearest, tried[nearest]


class BatchCosts:
    """Tokens and FLOPs of a model on one batch under some settings; what was once counted is remembered.

    Args:
        model (`nn.Module`): The segmentation model.
        pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`)
    """

    def __init__(self, model: nn.Module, pixel_values: Tensor):
        self.model, self.pixel_values = model, pixel_values
        self._known: dict[tuple, Any] = {}

    def _counted(self, count: Callable[[], Any], settings: Mapping) -> Any:
        key = (count, *sorted(settings.items()))
        if key not in self._known:
            with config_settings(self.model, **settings):
                self._known[key] = count()
        return self._known[key]

    @torch.inference_mode()
    def _count_tokens(self) -> Tensor:
        return self.model(self.pixel_values, output_token_merging=True).token_counts.double().cpu()

    def _count_flops(self) -> int:
        return count_flops(lambda: self.model(self.pixel_values))

    def tokens(self, settings: Mapping) -> Tensor:
        """Tokens of each image after each layer, `(batch_size, num_hidden_layers)`."""
        return self._counted(self._count_tokens, settings)

    def flops(self, settings: Mapping) -> int:
        """FLOPs of the batch."""
        return self._counted(self._count_flops, settings)


def merged_settings(costs: BatchCosts, arguments: BenchmarkArguments) -> list[tuple[dict, dict | None]]:
    """`(settings, target)` of every merged contender, its threshold searched on the batch where a ratio is wanted."""

    def settings_at(threshold: float) -> dict:
        return {"use_token_merging": True, "merge_threshold": threshold}

    def token_share(threshold: float) -> float:
        return (costs.tokens(settings_at(threshold)).mean() / costs.tokens(UNMERGED).mean()).item()

    def flop_share(threshold: float) -> float:
        return costs.flops(settings_at(threshold)) / costs.flops(UNMERGED)

    found = [(settings_at(threshold), None) for threshold in arguments.merge_thresholds]
    wanted = [("token_ratio", ratio, ratio, token_share) for ratio in arguments.token_ratios]
    wanted += [("flop_ratio", ratio, 1 / ratio, flop_share) for ratio in arguments.flop_ratios]
    for name, ratio, share, share_at in wanted:
        try:
            threshold, _ = find_threshold(share_at, share)
        except ValueError as error:
            raise ValueError(f"--{name}s={ratio}: expected a ratio that a threshold reaches: {error}") from error
        found.append((settings_at(threshold), {name: ratio}))
    return found or [(settings_at(costs.model.config.merge_threshold), None)]


__all__ = ["TARGET_TOLERANCE", "UNMERGED", "BatchCosts", "find_threshold", "merged_settings"]
