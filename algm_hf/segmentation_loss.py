# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From logits on the patch grid to pixels, and the loss there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def upsample_logits(logits: Tensor, image_size: tuple[int, int], patch_size: int) -> Tensor:
    """
    Logits of each pixel of an image: bilinear (`align_corners=False`) to the padded image that the grid covers, then
    cropped to the image (Segmenter, ICCV 2021, section 3.2).

    Args:
        logits (`Tensor` of shape `(batch_size, num_labels, grid_height, grid_width)`)
        image_size (`tuple[int, int]`): height and width of the image in pixels, at most the padded ones.
        patch_size (`int`): side of a patch in pixels.

    Returns:
        `Tensor` of shape `(batch_size, num_labels, height, width)`
    """
    height, width = image_size
    padded_size = (logits.shape[-2] * patch_size, logits.shape[-1] * patch_size)
    pixels = logits
    if patch_size != 1:
        pixels = nn.functional.interpolate(logits, size=padded_size, mode="bilinear", align_corners=False)
    return pixels[..., :height, :width]


def check_labels(labels: Tensor, num_labels: int, ignore_index: int) -> None:
    """
    Check that every label is a class or the ignored value. On an accelerator the same mistake ends in an assertion of
    the device that names nothing, so do this where the labels still are on the CPU.

    Args:
        labels (`Tensor` of any shape, integer)
        num_labels (`int`): number of classes.
        ignore_index (`int`): value of pixels without a label.

    Raises:
        ValueError: naming the values that do not fit, `num_labels` and the settings that usually are the reason.
    """
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"labels has dtype {labels.dtype}: expected integers")
    labels = labels.long()  # comparing a small type with a number that it cannot hold wraps the number
    wrong = labels[((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)]
    if wrong.numel():
        values = torch.unique(wrong).tolist()
        shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        raise ValueError(
            f"labels has the value(s) {shown} in {wrong.numel()} pixels: expected 0..{num_labels - 1} "
            f"(num_labels={num_labels}) or semantic_loss_ignore_index={ignore_index}. If 0 stands for 'no label' in "
            "your maps, use do_reduce_labels=True in the image processor; if a two-class mask is stored as 0 and 255, "
            "divide it by 255"
        )


def segmentation_loss(
    logits: Sequence[Tensor], labels: Sequence[Tensor], ignore_index: int, class_weights: Sequence[float] | None = None
) -> Tensor:
    """
    Cross-entropy averaged over all pixels with a label, in float32 at least; with class weights the weighted average,
    as torch's. 0, not NaN, when no pixel has a label.

    Args:
        logits (`Sequence[Tensor]`): tensors of shape `(batch_size, num_labels, height, width)`; several, when images
            differ in size.
        labels (`Sequence[Tensor]`): their labels `(batch_size, height, width)`, integers in `0..num_labels - 1` or
            `ignore_index`.
        ignore_index (`int`): label value of pixels that do not count.
        class_weights (`Sequence[float]`, *optional*): one weight >= 0 per class.

    Returns:
        `Tensor` of shape `()`
    """
    total, divisor = 0.0, 0.0
    for image_logits, image_labels in zip(logits, labels, strict=True):
        image_logits = image_logits.to(torch.promote_types(image_logits.dtype, torch.float32))
        image_labels = image_labels.long()
        weight = None if class_weights is None else image_logits.new_tensor(class_weights)
        total = total + nn.functional.cross_entropy(
            image_logits, image_labels, weight=weight, ignore_index=ignore_index, reduction="sum"
        )
        valid = image_labels != ignore_index
        if weight is None:
            divisor = divisor + valid.sum()
        else:
            divisor = divisor + (weight[image_labels.masked_fill(~valid, 0)] * valid).sum()
    # Where nothing counts the sum is 0 as well, and so is the loss.
    return total / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


__all__ = ["check_labels", "segmentation_loss", "upsample_logits"]
