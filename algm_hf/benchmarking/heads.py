# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measures what lies behind the encoder against its plain forms: label maps against interpolate + argmax, the loss in
bands against interpolate + cross-entropy. Times are medians of runs that take turns in one process; memory is the
growth of the peak of a process that does one thing only.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.classes import IGNORE_INDEX
from ..data.drawn_scenes import make_scene
from ..image_processing_algm import AlgmImageProcessor
from ..segmentation_loss import segmentation_loss
from .memory import peak_growth_of


SCORES = ("regions", "noise")
FORMS = ("plain", "ours")


@dataclass
class HeadBenchmarkArguments:
    """What to measure, how often, and where the results go."""

    num_labels: int = field(default=150, metadata={"help": "Classes, at least 8."})
    grid: int = field(default=32, metadata={"help": "Side of the grid of patches."})
    patch_size: int = field(default=16, metadata={"help": "Side of a patch in pixels."})
    threads: int | None = field(default=None, metadata={"help": "Threads of torch; without it, its choice."})
    repeats: int = field(default=15, metadata={"help": "Timed runs of every form, in turns; the median counts."})
    output: str = field(default="outputs/benchmark/heads.json", metadata={"help": "The JSON file."})

    def __post_init__(self):
        minimum = {"num_labels": 8, "grid": 2, "patch_size": 2, "repeats": 1, "threads": 1}
        for name, least in minimum.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}, expected at least {least}.")

    @property
    def side(self) -> int:
        """Side of the label maps in pixels."""
        return self.grid * self.patch_size


def class_scores(kind: str, num_labels: int, grid: int, seed: int = 0) -> Tensor:
    """
    Scores to make label maps of.

    Args:
        kind (`str`): `"regions"`, the classes of a drawn street scene stand out by 6 from noise of deviation 1, as a
            trained model's do; or `"noise"`, where every cell has many candidates: the worst case.
        num_labels (`int`): number of classes, at least 8.
        grid (`int`): side of the grid.
        seed (`int`): seed of the scene and of the noise.

    Returns:
        `Tensor` of shape `(num_labels, grid, grid)`, float32
    """
    scores = torch.randn(num_labels, grid, grid, generator=torch.Generator().manual_seed(seed))
    if kind == "noise":
        return scores
    annotation = make_scene(seed, (16 * grid, 16 * grid))[1].resize((grid, grid), resample=0)
    labels = torch.frombuffer(bytearray(annotation.tobytes()), dtype=torch.uint8).view(grid, grid).long()
    return scores + 6.0 * F.one_hot(labels, num_labels).permute(2, 0, 1)


def label_map_call(form: str, scores: Tensor, side: int) -> Callable[[], Tensor]:
    """Scores `(num_labels, grid, grid)` to a label map `(side, side)`, as transformers does it or as this package."""
    size = (side, side)
    if form == "ours":
        processor = AlgmImageProcessor(size=side, patch_size=side // scores.shape[-1])
        outputs = SimpleNamespace(logits=scores[None])
        return lambda: processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    return lambda: F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def loss_call(form: str, num_labels: int, grid: int, patch_size: int, batch_size: int = 1) -> Callable[[], Tensor]:
    """One training step of the loss alone, forward and backward; returns the gradient of the logits on the grid."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch_size, num_labels, grid, grid, generator=generator).requires_grad_()
    side = grid * patch_size
    labels = torch.randint(0, num_labels, (batch_size, side, side), generator=generator)

    def step() -> Tensor:
        logits.grad = None
        if form == "ours":
            segmentation_loss([logits], [labels], IGNORE_INDEX, None, patch_size).backward()
        else:
            pixels = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
            F.cross_entropy(pixels, labels, ignore_index=IGNORE_INDEX).backward()
        return logits.grad

    return step


def median_times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of some calls that take turns, one run of each before not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def peak_growth(task: str, form: str, arguments: HeadBenchmarkArguments) -> float:
    """
    MiB by which one call raises the memory of a fresh process at its peak; a small call before it loads what it
    needs. Linux only, where a process can tell its own peak.

    Args:
        task (`str`): `"regions"` or `"noise"` for label maps, `"loss"`.
        form (`str`): `"plain"` or `"ours"`.
        arguments ([`HeadBenchmarkArguments`])
    """
    values = [task, form, arguments.num_labels, arguments.grid, arguments.patch_size, torch.get_num_threads()]
    command = [sys.executable, "-m", "algm_hf.benchmarking.heads", json.dumps(values)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_growth_here(task: str, form: str, num_labels: int, grid: int, patch_size: int, threads: int) -> float:
    torch.set_num_threads(threads)

    def call(num_labels: int, grid: int) -> Callable[[], object]:
        if task == "loss":
            return loss_call(form, num_labels, grid, patch_size)
        return label_map_call(form, class_scores(task, num_labels, grid), grid * patch_size)

    call(8, 2)()
    measured = call(num_labels, grid)
    return peak_growth_of(measured) / 2**20


def measure_heads(arguments: HeadBenchmarkArguments, progress: Callable[[str], object] = lambda text: None) -> dict:
    """
    Measures label maps on regions and on noise, and the loss.

    Returns:
        `dict`: `label_maps` with `regions` and `noise`, and `loss`; each with `plain_ms`, `ours_ms`, `speed_up` and
        `plain_peak_mib`, `ours_peak_mib`, `memory_ratio` (plain over ours); label maps also with `equal`, that
        both forms agree in every pixel, and the loss with `largest_gradient_difference`.

    Raises:
        RuntimeError: if the label maps differ.
    """
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    label_maps = {}
    for kind in SCORES:
        progress(f"label maps, {kind}")
        scores = class_scores(kind, arguments.num_labels, arguments.grid)
        calls = {form: label_map_call(form, scores, arguments.side) for form in FORMS}
        if not torch.equal(calls["plain"](), calls["ours"]()):
            raise RuntimeError(f"the label maps of {kind} differ, expected those of interpolate + argmax.")
        label_maps[kind] = {"equal": True}
        label_maps[kind] |= _compare(calls, kind, arguments)
    progress("loss")
    calls = {form: loss_call(form, arguments.num_labels, arguments.grid, arguments.patch_size) for form in FORMS}
    difference = (calls["plain"]() - calls["ours"]()).abs().max().item()
    loss = {"largest_gradient_difference": difference} | _compare(calls, "loss", arguments)
    return {"label_maps": label_maps, "loss": loss}


def _compare(calls: dict[str, Callable[[], object]], task: str, arguments: HeadBenchmarkArguments) -> dict:
    times = median_times(calls, arguments.repeats)
    peaks = {form: peak_growth(task, form, arguments) for form in FORMS}
    found = {f"{form}_ms": times[form] for form in FORMS} | {"speed_up": times["plain"] / times["ours"]}
    found |= {f"{form}_peak_mib": peaks[form] for form in FORMS}
    return found | {"memory_ratio": peaks["plain"] / max(peaks["ours"], 1.0)}


if __name__ == "__main__":
    sys.stdout.write(f"{_peak_growth_here(*json.loads(sys.argv[1]))}\n")


__all__ = [
    "HeadBenchmarkArguments",
    "class_scores",
    "label_map_call",
    "loss_call",
    "measure_heads",
    "median_times",
    "peak_growth",
]
