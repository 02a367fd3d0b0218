# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from algm_hf import segmentation_loss as loss_module
from algm_hf.segmentation_loss import check_labels, segmentation_loss, upsample_logits


def plain_loss(logits, labels, patch_size, ignore_index=255, class_weights=None):
    """Every pixel's logits, then torch's cross-entropy."""
    size = [side * patch_size for side in logits.shape[-2:]]
    pixels = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    weight = None if class_weights is None else logits.new_tensor(class_weights)
    height, width = labels.shape[-2:]
    return torch.nn.functional.cross_entropy(
        pixels[..., :height, :width], labels.long(), weight=weight, ignore_index=ignore_index
    )


def loss_and_gradient(loss_function, logits, *arguments):
    logits = logits.detach().clone().requires_grad_()
    loss = loss_function(logits, *arguments)
    return loss.detach(), *torch.autograd.grad(loss, logits)


def batch(num_labels, height, width, patch_size, batch_size=2, dtype=torch.float64):
    """Random logits on the grid and random labels, the first row of each image without any."""
    generator = torch.Generator().manual_seed(0)
    grid = (-(-height // patch_size), -(-width // patch_size))
    logits = 3 * torch.randn(batch_size, num_labels, *grid, generator=generator, dtype=dtype)
    labels = torch.randint(0, num_labels, (batch_size, height, width), generator=generator)
    labels[:, :1, : width // 2] = 255 if num_labels < 256 else -100
    return logits, labels


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
@pytest.mark.parametrize("patch_size", [1, 4])
def test_without_any_label_the_loss_is_zero_and_so_is_its_gradient(weights, patch_size):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(
        [logits], [torch.full((2, 4 * patch_size, 4 * patch_size), 255)], 255, weights, patch_size
    )
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


@pytest.mark.parametrize(
    "height, width, patch_size",
    [
        *[
            (12, 8, 4),
            (11, 9, 4),
            (33, 47, 16),
            (32, 16, 16),
            (28, 41, 14),
            (9, 10, 3),
            (10, 14, 5),
            (7, 9, 2),
            (5, 6, 1),
        ],
        *[(16, 40, 16), (40, 16, 16), (13, 5, 16), (1, 1, 16), (1, 1, 3), (17, 1, 8), (3, 14, 7)],
    ],
)
@pytest.mark.parametrize("class_weights", [None, [1.0, 0.0, 2.5, 0.3]])
def test_loss_and_gradient_are_those_of_interpolation_and_cross_entropy(height, width, patch_size, class_weights):
    logits, labels = batch(4, height, width, patch_size)
    labels[-1, -1, -1] = 2  # of an image of one pixel too, something counts

    def loss_function(logits):
        return segmentation_loss([logits], [labels], 255, class_weights, patch_size)

    expected = loss_and_gradient(plain_loss, logits, labels, patch_size, 255, class_weights)
    torch.testing.assert_close(loss_and_gradient(loss_function, logits), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 5 * 16 * 3, 7 * 16 * 3, 10**6])
@pytest.mark.parametrize("patch_size", [1, 4])
def test_loss_and_gradient_do_not_depend_on_where_the_bands_end(elements, patch_size, monkeypatch):
    monkeypatch.setattr(loss_module, "BAND_ELEMENTS", elements)
    logits, labels = batch(3, 18, 21, patch_size)
    result = loss_and_gradient(lambda logits: segmentation_loss([logits], [labels], 255, None, patch_size), logits)
    expected = loss_and_gradient(plain_loss, logits, labels, patch_size)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_labels", [2, 150, 1000])
def test_any_number_of_classes_works(num_labels):
    logits, labels = batch(num_labels, 30, 20, 8)
    ignore_index = 255 if num_labels < 256 else -100
    result = loss_and_gradient(lambda logits: segmentation_loss([logits], [labels], ignore_index, None, 8), logits)
    expected = loss_and_gradient(plain_loss, logits, labels, 8, ignore_index)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, ignore_index", [(torch.uint8, 255), (torch.uint8, -100), (torch.int16, -100)])
def test_small_label_types_work_with_any_ignore_index(dtype, ignore_index):
    logits, labels = batch(5, 13, 22, 8)
    labels[labels == 255] = 3 if ignore_index < 0 and dtype is torch.uint8 else ignore_index
    labels = labels.to(dtype)
    result = loss_and_gradient(lambda logits: segmentation_loss([logits], [labels], ignore_index, None, 8), logits)
    expected = loss_and_gradient(plain_loss, logits, labels, 8, ignore_index)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_the_upsampled_loss_passes_gradcheck(patch_size):
    logits, labels = batch(3, 5, 4, patch_size)
    images = [(logits.requires_grad_(), labels), (logits[:1, :, :1, :2].detach().clone().requires_grad_(), None)]
    sides = images[1][0].shape[2] * patch_size, images[1][0].shape[3] * patch_size
    images[1] = (images[1][0], torch.ones(1, *sides, dtype=torch.int64))

    def loss_function(*logits):
        return segmentation_loss(logits, [labels for _, labels in images], 255, [1.0, 0.2, 2.0], patch_size)

    torch.autograd.gradcheck(loss_function, [logits for logits, _ in images])


def test_the_incoming_gradient_scales_the_gradient_also_a_second_time():
    logits, labels = batch(3, 10, 12, 4)
    _, expected = loss_and_gradient(plain_loss, logits, labels, 4)
    logits.requires_grad_()
    loss = segmentation_loss([logits], [labels], 255, None, 4)
    (-8 * loss).backward(retain_graph=True)
    torch.testing.assert_close(logits.grad, -8 * expected)
    loss.backward()
    torch.testing.assert_close(logits.grad, -7 * expected)


def test_a_second_derivative_is_refused():
    logits, labels = batch(3, 10, 12, 4)
    logits.requires_grad_()
    loss = segmentation_loss([logits], [labels], 255, None, 4)
    with pytest.raises(ValueError, match="create_graph=True"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_without_gradients_the_value_is_the_same_and_has_none():
    logits, labels = batch(3, 10, 12, 4)
    expected = plain_loss(logits, labels, 4)
    assert not segmentation_loss([logits], [labels], 255, None, 4).requires_grad
    logits.requires_grad_()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            loss = segmentation_loss([logits], [labels], 255, None, 4)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_upsampled_in_float32_under_autocast_too(dtype, autocast):
    logits, labels = batch(20, 30, 25, 16)
    logits = logits.to(dtype)
    expected_loss, expected_gradient = loss_and_gradient(plain_loss, logits.float(), labels, 16)

    def loss_function(logits):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return segmentation_loss([logits], [labels], 255, None, 16)

    loss, gradient = loss_and_gradient(loss_function, logits)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_a_confident_mistake_keeps_its_loss_and_gradient():
    logits = torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1)  # a probability of exp(-400), 0 in float32
    loss, gradient = loss_and_gradient(
        lambda logits: segmentation_loss([logits], [torch.zeros(1, 4, 4, dtype=torch.int64)], 255, None, 4), logits
    )
    assert loss.item() == 400
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-1.0, 1.0]))


def test_a_compiled_function_may_use_the_upsampled_loss():
    logits, labels = batch(3, 10, 12, 4)
    compiled = torch.compile(
        lambda logits: segmentation_loss([2 * logits], [labels], 255, None, 4) * 3, backend="eager"
    )
    expected = loss_and_gradient(lambda logits: plain_loss(2 * logits, labels, 4) * 3, logits)
    torch.testing.assert_close(loss_and_gradient(compiled, logits), expected)


@pytest.mark.parametrize("size", [(12, 13), (8, 12), (1, 12)])
def test_a_grid_that_does_not_cover_the_labels_is_refused(size):
    labels = torch.zeros(2, *size, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"logits.shape=\(2, 3, 3, 3\): expected .* patch_size=4"):
        segmentation_loss([torch.zeros(2, 3, 3, 3)], [labels], 255, None, 4)


@pytest.mark.parametrize("value", [5, -1, 254])
def test_a_label_that_is_no_class_is_named(value):
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, :3] = value
    with pytest.raises(ValueError, match=rf"labels=\[{value}\]: expected 0\.\.4 \(num_labels=5\).*255.* 3 pixels"):
        check_labels(labels, 5, 255)


def test_labels_that_fit_pass():
    check_labels(torch.tensor([0, 4, 255], dtype=torch.uint8), 5, 255)


@pytest.mark.parametrize(
    "dtype, value, ignore_index", [(torch.uint8, 156, -100), (torch.int8, -1, 255), (torch.uint8, 5, 261)]
)
def test_small_integer_types_do_not_hide_a_wrong_label(dtype, value, ignore_index):
    with pytest.raises(ValueError, match=rf"labels=\[{value}\].* 4 pixels"):
        check_labels(torch.full((2, 2), value, dtype=dtype), 5, ignore_index)


def test_small_integer_types_may_hold_fewer_values_than_there_are_classes():
    check_labels(torch.tensor([0, 100, 255], dtype=torch.uint8), 300, 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_labels_that_are_no_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=f"labels.dtype={dtype}"):
        check_labels(torch.zeros(2, 2, dtype=dtype), 5, 255)
