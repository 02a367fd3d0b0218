# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from algm_hf import AlgmImageProcessor
from algm_hf.segmentation_training import SegmentationCollator, SegmentationTrainingTransform, TimeLimitCallback


def coloured_pair(height, width):
    """A picture whose red channel is ten times its label, in two by two blocks."""
    labels = np.random.default_rng(0).integers(0, 20, (height // 2, width // 2)).repeat(2, axis=0).repeat(2, axis=1)
    pixels = np.stack([labels * 10] * 3, axis=-1).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(labels.astype(np.uint8))


def transformed(crop_size, height=32, width=48, **settings):
    image, annotation = coloured_pair(height, width)
    processor = AlgmImageProcessor(do_resize=False, patch_size=8, image_mean=0.0, image_std=1.0)
    transform = SegmentationTrainingTransform(processor, crop_size, **settings)
    rows = transform({"image": [image] * 8, "annotation": [annotation] * 8})
    return list(zip(rows["pixel_values"], rows["labels"], strict=True)), np.asarray(annotation)


def test_crop_and_flip_move_image_and_labels_alike():
    torch.manual_seed(0)
    rows, annotation = transformed((16, 24))
    for pixels, labels in rows:
        assert pixels.shape == (3, 16, 24)
        assert labels.shape == (16, 24)
        assert torch.equal((pixels[0] * 25.5).round().long(), labels.long())
        assert set(labels.unique().tolist()) <= set(annotation.reshape(-1).tolist())
    assert not all(torch.equal(labels, rows[0][1]) for _, labels in rows)


def test_half_of_the_rows_are_mirrored_unless_flip_is_off():
    torch.manual_seed(0)
    rows, annotation = transformed((32, 48))
    straight, mirrored = torch.tensor(annotation).long(), torch.tensor(annotation[:, ::-1].copy()).long()
    ways = {("straight" if torch.equal(labels.long(), straight) else "mirrored") for _, labels in rows}
    assert all(torch.equal(labels.long(), straight) or torch.equal(labels.long(), mirrored) for _, labels in rows)
    assert ways == {"straight", "mirrored"}
    rows, _ = transformed((32, 48), flip=False)
    assert all(torch.equal(labels.long(), straight) for _, labels in rows)


def test_an_image_smaller_than_the_crop_is_padded_with_zero_and_ignored_labels():
    rows, annotation = transformed((40, 64), flip=False)
    for pixels, labels in rows:
        assert torch.equal(labels[:32, :48].long(), torch.tensor(annotation).long())
        assert (labels[32:] == 255).all()
        assert (labels[:, 48:] == 255).all()
        assert (pixels[:, 32:] == 0).all()
        assert (pixels[:, :, 48:] == 0).all()


def test_collator_stacks_and_refuses_labels_outside_the_classes():
    row = {"pixel_values": torch.zeros(3, 4, 6), "labels": torch.full((4, 6), 255)}
    batch = SegmentationCollator(num_labels=3)([row, row])
    assert batch["pixel_values"].shape == (2, 3, 4, 6)
    assert batch["labels"].shape == (2, 4, 6)
    assert batch["labels"].dtype == torch.int64
    with pytest.raises(ValueError, match="3"):
        SegmentationCollator(num_labels=3)([{**row, "labels": torch.full((4, 6), 3)}])


def test_time_limit_has_to_be_positive():
    with pytest.raises(ValueError, match="max_minutes is 0, expected more than 0"):
        TimeLimitCallback(0)
