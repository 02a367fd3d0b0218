# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training counts beside the loss: tokens kept, images a second, time spent waiting for data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..runs.models import unwrapped


class TokenMeter:
    """Which share of the tokens the forward passes of a training keep. It adds up Python integers that every forward
    pass has anyway, so it costs nothing.

    Args:
        model ([`AlgmForSemanticSegmentation`]): Watched from now on, in training mode only.
    """

    def __init__(self, model: nn.Module):
        self._kept = self._unmerged = 0
        self._layers = list(unwrapped(model).algm.layers)
        for layer in self._layers:
            layer.register_forward_hook(self._count)

    def _count(self, layer: nn.Module, inputs: tuple, output) -> None:
        if not layer.training:
            return
        self._kept += sum(output.lengths)
        if layer is self._layers[0]:
            self._unmerged += sum(inputs[0].lengths) * len(self._layers)

    def pop(self) -> float | None:
        """Percent of the tokens kept since the last call, mean over layers and images, special tokens counted; `None`
        without a forward pass."""
        percent = 100 * self._kept / self._unmerged if self._unmerged else None
        self._kept = self._unmerged = 0
        return percent


class TrainingClock:
    """Times the parts of training steps: waiting for data, and computing. Evaluation and saving are not part of it."""

    def __init__(self):
        self._window = {"images": 0, "data": 0.0, "step": 0.0}
        self._total = dict(self._window)

    def add(self, images: int = 0, data: float = 0.0, step: float = 0.0) -> None:
        """Adds images of this process, and seconds spent waiting for data and computing."""
        for name, value in (("images", images), ("data", data), ("step", step)):
            self._window[name] += value
            self._total[name] += value

    def pop(self, num_processes: int = 1) -> dict[str, float]:
        """Throughput since the last call: `images_per_second` of all processes and `data_wait_percent`."""
        speed = self._speed(self._window, num_processes)
        self._window = {"images": 0, "data": 0.0, "step": 0.0}
        speed.pop("step_images_per_second", None)
        return speed

    def total(self, num_processes: int = 1) -> dict[str, float]:
        """The same for the whole training, and `step_images_per_second`, the speed if data were always there."""
        return self._speed(self._total, num_processes)

    @staticmethod
    def _speed(parts: Mapping[str, float], num_processes: int) -> dict[str, float]:
        seconds, images = parts["data"] + parts["step"], parts["images"] * num_processes
        if not images or not parts["step"]:
            return {}
        return {
            "images_per_second": round(images / seconds, 3),
            "step_images_per_second": round(images / parts["step"], 3),
            "data_wait_percent": round(100 * parts["data"] / seconds, 2),
        }


__all__ = ["TokenMeter", "TrainingClock"]
