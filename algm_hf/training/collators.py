# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From augmented rows to batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..segmentation_loss import check_labels


class SegmentationCollator:
    """Stacks rows of [`AugmentedDataset`] and checks the labels that an accelerator would be given unchecked; those of
    a step on the CPU are checked by the model.

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
        if torch.accelerator.is_available():
            check_labels(labels, self.num_labels, self.ignore_index)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


__all__ = ["SegmentationCollator"]
