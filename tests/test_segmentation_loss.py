# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from algm_hf.segmentation_loss import check_labels, segmentation_loss, upsample_logits


def test_upsampling_interpolates_between_patch_centres_and_crops_the_padding():
    # One row of patches with logits 0 and 4, 4 pixels a patch: pixel centres at 0.5, 1.5, ..., patch centres at 2 and
    # 6.
    pixels = upsample_logits(torch.tensor([[[[0.0, 4.0]]]]), (3, 7), 4)
    expected = [0.0, 0.0, 0.5, 1.5, 2.5, 3.5, 4.0]
    assert pixels.shape == (1, 1, 3, 7)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([expected] * 3))


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits = torch.tensor([[[[0.0, 1.0, 9.0]], [[0.0, 3.0, -9.0]]]])  # two classes, three pixels
    labels = torch.tensor([[[0, 1, 255]]])
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert segmentation_loss([logits], [labels], 255).item() == pytest.approx(expected)


def test_class_weights_weigh_the_mean():
    logits = torch.tensor([[[[0.0, 1.0, 9.0]], [[0.0, 3.0, -9.0]]]])
    labels = torch.tensor([[[0, 1, 255]]])
    expected = (1 * math.log(2) + 3 * math.log(1 + math.exp(-2))) / 4
    assert segmentation_loss([logits], [labels], 255, [1.0, 3.0]).item() == pytest.approx(expected)


def test_images_of_different_sizes_count_by_their_pixels():
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 2, 9, dtype=torch.float64)
    labels = torch.randint(0, 4, (1, 2, 9))
    labels[0, 0, :2] = 255
    together = segmentation_loss([logits], [labels], 255, [1, 2, 3, 4])
    apart = segmentation_loss(logits.split([4, 5], 3), labels.split([4, 5], 2), 255, [1, 2, 3, 4])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_without_any_label_the_loss_is_zero_and_so_is_its_gradient(weights):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss([logits], [torch.full((2, 4, 4), 255)], 255, weights)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.abs().sum() == 0.0


def test_ignored_pixels_get_no_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    segmentation_loss([logits], [torch.tensor([[[0, 255], [1, 2]]])], 255).backward()
    assert logits.grad[0, :, 0, 1].abs().sum() == 0 and logits.grad[0, :, 0, 0].abs().sum() > 0


def test_weight_zero_removes_the_gradient_of_a_class():
    logits = torch.randn(1, 3, 1, 2, requires_grad=True)
    segmentation_loss([logits], [torch.tensor([[[0, 1]]])], 255, [1.0, 0.0, 1.0]).backward()
    assert logits.grad[0, :, 0, 1].abs().sum() == 0 and logits.grad[0, :, 0, 0].abs().sum() > 0


def test_half_precision_logits_are_averaged_in_float32():
    logits = torch.zeros(1, 2, 300, 300, dtype=torch.float16)
    loss = segmentation_loss([logits], [torch.zeros(1, 300, 300, dtype=torch.uint8)], 255)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("value", [5, -1, 254])
def test_a_label_that_is_no_class_is_named(value):
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, :3] = value
    message = (
        rf"labels has the value\(s\) {value} in 3 pixels: expected 0\.\.4 \(num_labels=5\).*255.*do_reduce_labels"
    )
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 5, 255)


def test_labels_that_fit_pass():
    check_labels(torch.tensor([0, 4, 255], dtype=torch.uint8), 5, 255)


@pytest.mark.parametrize(
    "dtype, value, ignore_index", [(torch.uint8, 156, -100), (torch.int8, -1, 255), (torch.uint8, 5, 261)]
)
def test_small_integer_types_do_not_hide_a_wrong_label(dtype, value, ignore_index):
    with pytest.raises(ValueError, match=rf"labels has the value\(s\) {value} in 4 pixels"):
        check_labels(torch.full((2, 2), value, dtype=dtype), 5, ignore_index)


def test_small_integer_types_may_hold_fewer_values_than_there_are_classes():
    check_labels(torch.tensor([0, 100, 255], dtype=torch.uint8), 300, 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_labels_that_are_no_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=f"labels has dtype {dtype}: expected integers"):
        check_labels(torch.zeros(2, 2, dtype=dtype), 5, 255)
