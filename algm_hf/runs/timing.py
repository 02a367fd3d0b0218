# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Clocks that read true, and runs that take turns in front of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from ..refusals import require_integer
from .models import config_settings


class Times(NamedTuple):
    """Seconds of repeated runs: the fastest, the borders of the middle half, and the median."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        lower, upper = (sorted(seconds)[round(share * (len(seconds) - 1))] for share in (0.25, 0.75))
        return cls(min(seconds), lower, statistics.median(seconds), upper)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given, so that a clock reads true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """The seconds that a call takes on a device, and what it returns."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def time_in_turns(
    runs: Sequence[Callable[[], Mapping[str, float]]],
    repeats: int,
    warmup: int,
    progress: Callable[[str], object] = lambda text: None,
) -> list[dict[str, Times]]:
    """Repeats several runs in turns, there and back (C, B, A, A, B, C, ...), so that a change in the machine's speed
    meets all of them and none always comes behind the same other one.

    Args:
        runs (`Sequence[Callable]`): Each runs once and returns the seconds of its parts by name; see [`clock`].
        repeats (`int`): Turns that count, at least 1.
        warmup (`int`): Turns before them.
        progress (`Callable[[str], object]`, *optional*): Gets a line of text before every turn.

    Returns:
        `list[dict[str, Times]]`: The times of each run's parts.
    """
    require_integer("repeats", repeats, 1)
    require_integer("warmup", warmup, 0)
    seconds: list[dict[str, list[float]]] = [{} for _ in runs]
    for turn in range(warmup + repeats):
        progress(f"turn {turn + 1} of {warmup + repeats}")
        for run, collected in list(zip(runs, seconds, strict=True))[:: 1 if turn % 2 else -1]:
            for part, value in run().items():
                if turn >= warmup:
                    collected.setdefault(part, []).append(value)
    return [{part: Times.of(values) for part, values in collected.items()} for collected in seconds]


@torch.inference_mode()
def time_settings(
    model,
    processor,
    images: Sequence[Image.Image],
    settings: Mapping[str, Mapping],
    repeats: int = 5,
    warmup: int = 2,
) -> dict[str, float]:
    """Measures the model's forward pass on one batch under several merge settings, in turns.

    Reading and resizing the images is not part of the time.

    Args:
        model, processor, images: See [`segment_images`].
        settings (`Mapping[str, Mapping]`): Name to fields of the config, e.g. `{"plain": {"use_token_merging":
            False}}`.
        repeats, warmup (`int`): See [`time_in_turns`].

    Returns:
        `dict[str, float]`: Median seconds per image under each setting.
    """
    batch = processor(list(images), return_tensors="pt")
    inputs = {"pixel_values": batch["pixel_values"].to(model.device, model.dtype)}
    if "image_sizes" in batch:
        inputs["image_sizes"] = batch["image_sizes"].to(model.device)

    def run(fields: Mapping) -> dict[str, float]:
        with config_settings(model, **fields):
            return {"forward": clock(partial(model, **inputs), model.device)[0] / len(images)}

    times = time_in_turns([partial(run, fields) for fields in settings.values()], repeats, warmup)
    return {name: parts["forward"].median for name, parts in zip(settings, times, strict=True)}


__all__ = ["Times", "clock", "synchronize", "time_in_turns", "time_settings"]
