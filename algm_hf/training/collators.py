# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From rows to batches: augmented rows become tensors, rows to evaluate stay images of their own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..segmentation_loss import check_labels


class SegmentationCollator:
    """Stacks rows of [`SegmentationTrainingTransform`] and checks the labels, here where they still are on the CPU.

    Args:
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that do not count.

    Raises:
        `ValueError`: When called with a label that is neither a class nor `ignore_index`.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels = num_labels
        self.ignore_index = ignore_index

    def __call__(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        labels = torch.stack([row["labels"] for row in rows]).long()
        check_labels(labels, self.num_labels, self.ignore_index)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


class TrainingAndEvaluationCollator:
    """One collator for both: augmented rows become tensors, rows to evaluate stay pictures of their own size.

    Args:
        num_labels, ignore_index: See [`SegmentationCollator`].
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.stack = SegmentationCollator(num_labels, ignore_index)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`pixel_values` `(batch_size, 3, height, width)` and `labels` `(batch_size, height, width)`; or the lists
        `image` and `annotation` and the tensor `index` `(batch_size,)`."""
        if "pixel_values" in rows[0]:
            return self.stack(rows)
        batch: dict[str, Any] = {name: [row[name] for row in rows] for name in ("image", "annotation")}
        return {**batch, "index": torch.tensor([row["index"] for row in rows])}


class NumberedRows(torch.utils.data.Dataset):
    """Rows to evaluate, each with its place as `index`, by which a row that is read twice is counted once.

    Args:
        rows (`Sequence`): Rows `{"image", "annotation"}`.
    """

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"image": row["image"], "annotation": row["annotation"], "index": index}


class NumberedStream(torch.utils.data.IterableDataset):
    """[`NumberedRows`] of a stream; to be read without worker processes, which would number their own parts.

    Args:
        rows (`Iterable`): Rows `{"image", "annotation"}`.
    """

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for index, row in enumerate(self.rows):
            yield {"image": row["image"], "annotation": row["annotation"], "index": index}


def numbered(rows) -> NumberedRows | NumberedStream:
    """Rows with their numbers, whichever kind they are."""
    return NumberedRows(rows) if hasattr(rows, "__len__") else NumberedStream(rows)


__all__ = ["NumberedRows", "NumberedStream", "SegmentationCollator", "TrainingAndEvaluationCollator", "numbered"]
