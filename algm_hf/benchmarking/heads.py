# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measures what lies behind the encoder against its plain forms: label maps against interpolate + argmax, the loss in
bands against interpolate + cross-entropy. Times are medians of runs that take turns in one process; memory is the
growth of the peak of a process that does one thing only.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.classes import IGNORE_INDEX
from ..data.drawn_scenes import make_scene
from ..image_processing_algm import AlgmImageProcessor
from ..refusals import require_integer
from ..runs.timing import clock, time_in_turns
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
        for name, least in {"num_labels": 8, "grid": 2, "patch_size": 2, "repeats": 1, "threads": 1}.items():
            if name != "threads" or self.threads is not None:
                require_integer(f"--{name}", getattr(self, name), least)

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


def peak_growth(task: str, form: str, num_labels: int, grid: int, patch_size: int, threads: int) -> float:
    """MiB by which one call raises the memory of this process, which should be a fresh one; Linux only.

    Args:
        task (`str`): `"regions"` or `"noise"` for label maps, `"loss"`.
        form (`str`): `"plain"` or `"ours"`.
        num_labels, grid, patch_size, threads (`int`): See [`HeadBenchmarkArguments`].
    """
    torch.set_num_threads(threads)

    def call(num_labels: int, grid: int) -> Callable[[], object]:
        if task == "loss":
            return loss_call(form, num_labels, grid, patch_size)
        return label_map_call(form, class_scores(task, num_labels, grid), grid * patch_size)

    call(8, 2)()  # loads what it needs
    return peak_growth_of(call(num_labels, grid)) / 2**20


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
        label_maps[kind] = {"equal": True} | _times(calls, arguments.repeats)
    progress("loss")
    calls = {form: loss_call(form, arguments.num_labels, arguments.grid, arguments.patch_size) for form in FORMS}
    difference = (calls["plain"]() - calls["ours"]()).abs().max().item()
    loss = {"largest_gradient_difference": difference} | _times(calls, arguments.repeats)
    progress("memory")
    _add_peaks(label_maps | {"loss": loss}, arguments)
    return {"label_maps": label_maps, "loss": loss}


def _times(calls: dict[str, Callable[[], object]], repeats: int) -> dict:
    """Median milliseconds of both forms in turns."""
    cpu = torch.device("cpu")
    runs = [lambda call=calls[form]: {"call": clock(call, cpu)[0]} for form in FORMS]
    plain, ours = (1000 * parts["call"].median for parts in time_in_turns(runs, repeats, warmup=1))
    return {"plain_ms": plain, "ours_ms": ours, "speed_up": plain / ours}


def _add_peaks(rows: dict[str, dict], arguments: HeadBenchmarkArguments) -> None:
    """Adds to every task's row how much memory both forms take, each measured in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports once for all of them
    settings = (arguments.num_labels, arguments.grid, arguments.patch_size, torch.get_num_threads())
    with context.Pool(1, maxtasksperchild=1) as pool:
        for task, row in rows.items():
            peaks = [pool.apply(peak_growth, (task, form, *settings)) for form in FORMS]
            row |= {f"{form}_peak_mib": peak for form, peak in zip(FORMS, peaks, strict=True)}
            row["memory_ratio"] = peaks[0] / max(peaks[1], 1.0)


__all__ = [
    "HeadBenchmarkArguments",
    "class_scores",
    "label_map_call",
    "loss_call",
    "measure_heads",
    "peak_growth",
]
