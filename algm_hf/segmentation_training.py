# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What `transformers.Trainer` needs around a segmentation model: a transform, a collator and a clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import TrainerCallback

from .segmentation_loss import check_labels


class SegmentationTrainingTransform:
    """Prepares rows of a segmentation data set for training:
    `dataset.set_transform(SegmentationTrainingTransform(processor))`.

    The image processor resizes and normalises image and label map; then both are cropped at the same random place
    (padded on the right and at the bottom where they are smaller: the image with 0, the labels with the ignore index)
    and mirrored together.

    Args:
        processor ([`AlgmImageProcessor`]): Decides size and normalisation.
        crop_size (`tuple[int, int]`): Height and width in pixels of what comes out, so that rows can be stacked.
        flip (`bool`, *optional*, defaults to `True`): Whether half of the rows are mirrored left to right.
    """

    def __init__(self, processor, crop_size: tuple[int, int], flip: bool = True):
        self.processor = processor
        self.crop_size = tuple(crop_size)
        self.fill = {tv_tensors.Image: 0.0, tv_tensors.Mask: processor.ignore_index}
        self.augment = v2.Compose([v2.RandomCrop(self.crop_size), v2.RandomHorizontalFlip(p=0.5 if flip else 0.0)])

    def __call__(self, rows: Mapping[str, Sequence]) -> dict[str, list[torch.Tensor]]:
        """Columns `image` and `annotation` to `pixel_values` `(channels, *crop_size)` and `labels` `crop_size`."""
        prepared = self.processor(rows["image"], segmentation_maps=rows["annotation"])
        pairs = [
            self._augment(torch.as_tensor(pixels), torch.as_tensor(labels))
            for pixels, labels in zip(prepared["pixel_values"], prepared["labels"], strict=True)
        ]
        return {"pixel_values": [pixels for pixels, _ in pairs], "labels": [labels for _, labels in pairs]}

    def _augment(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = [max(wanted - side, 0) for wanted, side in zip(self.crop_size, labels.shape, strict=True)]
        image, mask = tv_tensors.Image(pixels), tv_tensors.Mask(labels)
        if any(missing):
            image, mask = v2.Pad([0, 0, missing[1], missing[0]], fill=self.fill)(image, mask)
        image, mask = self.augment(image, mask)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


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


class TimeLimitCallback(TrainerCallback):
    """Ends a training after the step in which `max_minutes` (wall clock) are over.

    Args:
        max_minutes (`float`): More than 0.

    Attributes:
        reached (`bool`): Whether the limit ended the training.
    """

    def __init__(self, max_minutes: float):
        if not max_minutes > 0:
            raise ValueError(f"max_minutes is {max_minutes}, expected more than 0.")
        self.max_minutes = max_minutes
        self.reached = False
        self._start = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self._start > 60 * self.max_minutes and state.global_step < state.max_steps:
            self.reached = control.should_training_stop = True


__all__ = ["SegmentationCollator", "SegmentationTrainingTransform", "TimeLimitCallback"]
