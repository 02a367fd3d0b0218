# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a model as it stands or with other merge settings on labelled images, and takes the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..inference.predictor import SegmentationPredictor, SegmentedImage
from ..refusals import require, require_integer
from ..runs.timing import clock
from .metrics import SegmentationConfusion, confusion_scores, constant_mean_iou


@dataclass
class EvaluatedImage:
    """
    One image of an evaluation, as its `on_image` is told of it.

    Attributes:
        index (`int`): Its place in the rows, from 0.
        row (`Mapping`): The row.
        result ([`SegmentedImage`]): What the model made of it.
        confusion (`Tensor` of shape `(num_labels, num_labels)`, int64): Its pixels; see [`image_confusion`].
    """

    index: int
    row: Mapping
    result: SegmentedImage
    confusion: Tensor


def evaluate_predictor(
    predictor: SegmentationPredictor,
    rows: Iterable[Mapping],
    batch_size: int = 8,
    ignore_index: int = 255,
    progress: Callable[[int, SegmentationConfusion], object] = lambda count, running: None,
    *,
    on_image: Callable[[EvaluatedImage], object] = lambda image: None,
    accelerator=None,
    num_workers: int = 0,
) -> dict:
    """Scores a predictor on labelled images at their own size.

    Only sums are kept, all of them integers, so neither memory nor result depends on the number, the order or the
    grouping of the images. Several processes take the batches in turns, the first batch the first process and so on,
    each image once; every process returns the scores of all images.

    Args:
        predictor ([`SegmentationPredictor`])
        rows (`Iterable[Mapping]`): Each with `image` and `annotation` (label map of the same size, its
            values final: nothing is reduced here). With a length and an index (a list, a `datasets.Dataset`) each
            process decodes its own rows only.
        batch_size (`int`, *optional*, defaults to 8): Images per forward pass, at least 1.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that do not count.
        progress (`Callable[[int, SegmentationConfusion], object]`, *optional*): Called with the number of images just
            done in this process, and its matrix so far.
        on_image (`Callable[[EvaluatedImage], object]`, *optional*): Called with each image of this process.
        accelerator (`accelerate.Accelerator`, *optional*): Of several processes.
        num_workers (`int`, *optional*, defaults to 0): Processes that decode rows ahead, where these have an index.

    Returns:
        `dict`: [`confusion_scores`] and [`constant_mean_iou`] of the summed matrix, `num_images`, and the means over
            images `tokens_final` (after the last layer), `tokens_mean` (mean over the layers) and `tokens_unmerged`
            (of a layer without merging), special tokens counted, `token_share` (`tokens_mean / tokens_unmerged`), and
            `images_per_second` of all processes from tensors to label maps and `images_per_second_end_to_end` with
            reading, resizing and counting (`on_image` not counted).

    Raises:
        `ValueError`: If there are no rows, `batch_size` is below 1, or a label is neither a class nor `ignore_index`.
    """
    require_integer("batch_size", batch_size, 1)
    process = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    num_layers = predictor.config.num_hidden_layers
    confusion = SegmentationConfusion(predictor.config.num_labels, ignore_index)
    tokens = torch.zeros(num_layers + 2, dtype=torch.int64)  # after each layer, without merging, and the images
    start, seconds, aside = time.perf_counter(), 0.0, 0.0
    for first, batch in _batches(rows, batch_size, *process, num_workers):
        results = predictor([row["image"] for row in batch])
        for offset, (row, result) in enumerate(zip(batch, results, strict=True)):
            counts = confusion.update(result.label_map, row["annotation"])
            tokens += torch.tensor([*result.token_counts, result.tokens_unmerged, 1])
            seconds += result.seconds
            evaluated = EvaluatedImage(first + offset, row, result, counts)
            aside += clock(partial(on_image, evaluated), predictor.device)[0]
        progress(len(batch), confusion)
    times = (seconds, time.perf_counter() - start - aside)
    sums, times = _over_processes(torch.cat((confusion.matrix.flatten(), tokens)), times, accelerator)
    return _summary(sums[: -len(tokens)].view_as(confusion.matrix), sums[-len(tokens) :].tolist(), times)


def _summary(matrix: Tensor, tokens: list[int], times: tuple[float, float]) -> dict:
    """The returned dictionary of [`evaluate_predictor`] from the sums and the seconds over all processes."""
    *layers, unmerged, num_images = tokens
    require(num_images, "rows", [], "at least one labelled image")
    mean = sum(layers) / len(layers)
    return {
        **confusion_scores(matrix),
        "constant_mean_iou": constant_mean_iou(matrix),
        "num_images": num_images,
        "tokens_final": layers[-1] / num_images,
        "tokens_mean": mean / num_images,
        "tokens_unmerged": unmerged / num_images,
        "token_share": mean / unmerged,
        "images_per_second": num_images / times[0],
        "images_per_second_end_to_end": num_images / times[1],
    }


def _batches(
    rows: Iterable[Mapping], batch_size: int, index: int, count: int, num_workers: int
) -> Iterator[tuple[int, list[Mapping]]]:
    """
    The batches of process `index` of `count`: of all batches of `rows`, those in its turn, each with the place of its
    first row. Whole batches, so that an image has the same neighbours however many processes there are.
    """
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        starts = list(range(0, len(rows), batch_size))[index::count]
        places = [range(start, min(start + batch_size, len(rows))) for start in starts]
        # Its own generator: an evaluation amid a training must not move the training's random numbers.
        loader = DataLoader(
            rows, batch_sampler=places, collate_fn=list, num_workers=num_workers, generator=torch.Generator()
        )
        yield from zip(starts, loader, strict=True)
        return
    rows, number = iter(rows), 0
    while batch := list(islice(rows, batch_size)):
        if number % count == index:
            yield number * batch_size, batch
        number += 1


def _over_processes(sums: Tensor, times: tuple[float, float], accelerator) -> tuple[Tensor, tuple[float, float]]:
    """Integers summed over the processes, and the longest times."""
    if accelerator is None or accelerator.num_processes == 1:
        return sums, times
    sums = accelerator.reduce(sums.to(accelerator.device), reduction="sum").cpu()
    gathered = accelerator.gather(torch.tensor([times], dtype=torch.float32, device=accelerator.device))
    return sums, tuple(gathered.amax(dim=0).tolist())


__all__ = ["EvaluatedImage", "evaluate_predictor"]
