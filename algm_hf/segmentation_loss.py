# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From logits on the patch grid to pixels, and the loss there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .patch_grid import patch_grid
from .refusals import require


# Logits of pixels in each tensor of the loss, or those of one cell if they are more: 16 MB in float32. Much smaller
# bands are slow on a busy CPU, where every operation waits for the slowest thread.
BAND_ELEMENTS = 2**22


def upsample_logits(logits: Tensor, image_size: tuple[int, int], patch_size: int) -> Tensor:
    """
    Logits `(batch_size, num_labels, height, width)` of each pixel: bilinear (`align_corners=False`) to the padded
    image that the grid covers, then cropped to the image (Segmenter, ICCV 2021, section 3.2).
    """
    height, width = image_size
    padded_size = (logits.shape[-2] * patch_size, logits.shape[-1] * patch_size)
    pixels = logits
    if patch_size != 1:
        pixels = nn.functional.interpolate(logits, size=padded_size, mode="bilinear", align_corners=False)
    return pixels[..., :height, :width]


def check_labels(labels: Tensor, num_labels: int, ignore_index: int) -> None:
    """
    Raise a `ValueError` unless every label is a class or the ignored value. On an accelerator the same mistake ends in
    an assertion of the device that names nothing, so do this where the labels still are on the CPU.
    """
    is_integer = not (labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool)
    require(is_integer, "labels.dtype", labels.dtype, "an integer type")
    labels = labels.long()  # comparing a small type with a number that it cannot hold wraps the number
    wrong = labels[((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)]
    if wrong.numel():
        values = torch.unique(wrong).tolist()
        expected = (
            f"0..{num_labels - 1} (num_labels={num_labels}) or semantic_loss_ignore_index={ignore_index}, which "
            f"{wrong.numel()} pixels are not. If 0 stands for 'no label' in your maps, use do_reduce_labels=True in "
            "the image processor; if a two-class mask is stored as 0 and 255, divide it by 255"
        )
        require(False, "labels", values if len(values) <= 5 else [*values[:5], ...], expected)


def segmentation_loss(
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    ignore_index: int,
    class_weights: Sequence[float] | None = None,
    patch_size: int = 1,
) -> Tensor:
    """
    Cross-entropy averaged over all pixels with a label, in float32 at least; with class weights the weighted average,
    as torch's. 0, not NaN, when no pixel has a label. Value and gradient are those of [`upsample_logits`] and torch's
    cross-entropy, but the logits of the pixels never exist all at once; see [`upsampled_cross_entropy`].

    Args:
        logits: tensors `(batch_size, num_labels, grid_height, grid_width)`; several, when images differ in size.
        labels: their labels `(batch_size, height, width)`, integers in `0..num_labels - 1` or `ignore_index`.
        class_weights: one weight >= 0 for each class.
        patch_size: side of a patch in pixels; 1 for logits of pixels.
    """
    total, divisor = 0.0, 0.0
    for image_logits, image_labels in zip(logits, labels, strict=True):
        image_logits = image_logits.to(torch.promote_types(image_logits.dtype, torch.float32))
        image_labels = image_labels.long()
        valid = image_labels != ignore_index
        image_labels = image_labels.masked_fill(~valid, 0)
        pixel_weights = valid.to(image_logits.dtype)
        if class_weights is not None:
            pixel_weights *= image_logits.new_tensor(class_weights)[image_labels]
        total = total + upsampled_cross_entropy(image_logits, image_labels, pixel_weights, patch_size)
        divisor = divisor + pixel_weights.sum()
    # Where nothing counts the sum is 0 as well, and so is the loss.
    return total / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


@torch.compiler.disable
def upsampled_cross_entropy(logits: Tensor, labels: Tensor, pixel_weights: Tensor, patch_size: int) -> Tensor:
    """
    The weighted sum of the cross-entropies of all pixels, without ever holding the logits of more than a few of them.

    The four patch centres around a pixel give its bilinear logits, with the same coefficients in every cell, the
    `patch_size ** 2` pixels between four centres. So one small product makes a cell's pixels from its corners, another
    the corners' gradient from that of the pixels: in the same pass, a band of cells at a time, so that backward
    computes nothing again. There is no second derivative: `create_graph=True` is refused.

    `logits` are float32 or float64; `labels` int64 classes also where `pixel_weights`, in their dtype, is 0. Raises a
    `ValueError` if the grid is not the one that covers the labels.
    """
    expected = (labels.shape[0], logits.shape[1], *patch_grid(labels.shape[-2:], patch_size))
    of_labels = f"{expected}, the grid of labels of shape {tuple(labels.shape)} with patch_size={patch_size}"
    require(logits.shape == expected, "logits.shape", tuple(logits.shape), of_labels)
    with torch.autocast(logits.device.type, enabled=False):
        corners = _cell_corners(logits, patch_size)
        labels, pixel_weights = _cell_pixels(labels, patch_size), _cell_pixels(pixel_weights, patch_size)
        coefficients = _cell_coefficients(patch_size, logits)
        if torch.is_grad_enabled() and corners.requires_grad:
            return _CellCrossEntropy.apply(corners, labels, pixel_weights, coefficients)
        return _cell_cross_entropy(corners, labels, pixel_weights, coefficients, None)


class _CellCrossEntropy(torch.autograd.Function):
    """[`_cell_cross_entropy`] with the gradient that it takes on the way."""

    @staticmethod
    def forward(ctx, corners: Tensor, labels: Tensor, pixel_weights: Tensor, coefficients: Tensor) -> Tensor:
        gradient = torch.empty_like(corners, memory_format=torch.contiguous_format)
        total = _cell_cross_entropy(corners, labels, pixel_weights, coefficients, gradient)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, total_gradient: Tensor) -> tuple[Tensor | None, ...]:
        require(not torch.is_grad_enabled(), "create_graph", True, "False; the loss has no second derivative")
        (gradient,) = ctx.saved_tensors
        return gradient * total_gradient, None, None, None


def _cell_cross_entropy(
    corners: Tensor, labels: Tensor, pixel_weights: Tensor, coefficients: Tensor, gradient: Tensor | None
) -> Tensor:
    """
    The weighted sum of the cross-entropies of `(num_cells, num_pixels)` labels, given the corners
    `(num_cells, num_corners, num_labels)` of their cells. Writes its gradient to `gradient`, shaped like `corners`.
    """
    step = max(1, BAND_ELEMENTS // (coefficients.shape[0] * corners.shape[-1]))
    losses = []
    for start in range(0, corners.shape[0], step):
        band = slice(start, start + step)
        band_gradient = None if gradient is None else gradient[band]
        losses.append(_band_losses(corners[band], labels[band], pixel_weights[band], coefficients, band_gradient))
    return torch.cat(losses).sum()


def _band_losses(
    corners: Tensor, labels: Tensor, pixel_weights: Tensor, coefficients: Tensor, gradient: Tensor | None
) -> Tensor:
    """[`_cell_cross_entropy`] of a band, by cell: `(num_cells,)`. Holds at most two tensors of its pixels' logits."""
    classes, is_pixel_level = labels[..., None], coefficients.shape[0] == 1
    # With one pixel a cell the only corner is the pixel.
    logits = corners if is_pixel_level else coefficients @ corners
    log_probabilities = logits.log_softmax(dim=-1)
    del logits
    chosen = log_probabilities.gather(-1, classes)
    losses = -(chosen[..., 0] * pixel_weights).masked_fill(pixel_weights == 0, 0).sum(dim=1)
    if gradient is not None:
        # Of the cross-entropy: the probabilities, less 1 for the labelled class.
        pixel_gradient = log_probabilities.exp_().scatter_(-1, classes, chosen.expm1())
        if is_pixel_level:
            torch.mul(pixel_gradient, pixel_weights[..., None], out=gradient)
        else:
            torch.matmul(coefficients.T * pixel_weights[:, None], pixel_gradient, out=gradient)
    return losses


def _cell_corners(logits: Tensor, patch_size: int) -> Tensor:
    """`(batch_size, num_labels, grid_height, grid_width)` to `(num_cells, 4, num_labels)`, row by row."""
    grid = logits.permute(0, 2, 3, 1)
    if patch_size == 1:
        return grid.flatten(0, 2)[:, None]
    # Around the outermost centres bilinear interpolation repeats them. Concatenation, since the backward of
    # replicating padding is not deterministic on CUDA.
    grid = torch.cat([grid[:, :1], grid, grid[:, -1:]], dim=1)
    grid = torch.cat([grid[:, :, :1], grid, grid[:, :, -1:]], dim=2)
    top, bottom = grid[:, :-1], grid[:, 1:]
    return torch.stack([top[:, :, :-1], top[:, :, 1:], bottom[:, :, :-1], bottom[:, :, 1:]], dim=3).flatten(0, 2)


def _cell_pixels(values: Tensor, patch_size: int) -> Tensor:
    """`(batch_size, height, width)` to `(num_cells, patch_size ** 2)` in the order of [`_cell_corners`]; 0 outside."""
    if patch_size == 1:
        return values.flatten()[:, None]
    height, width = values.shape[-2:]
    rows, columns = (side + 1 for side in patch_grid((height, width), patch_size))
    # The first cells lie before the first centres, where pixel `patch_size // 2` starts the next ones.
    before = patch_size - patch_size // 2
    after_columns, after_rows = columns * patch_size - before - width, rows * patch_size - before - height
    values = nn.functional.pad(values, (before, after_columns, before, after_rows))
    return (
        values.unflatten(2, (columns, patch_size))
        .unflatten(1, (rows, patch_size))
        .transpose(2, 3)
        .reshape(-1, patch_size**2)
    )


def _cell_coefficients(patch_size: int, like: Tensor) -> Tensor:
    """`(patch_size ** 2, 4)`: what each corner contributes to each pixel of a cell, `align_corners=False`."""
    pixels = torch.arange(patch_size, dtype=like.dtype, device=like.device)
    far = (pixels + 0.5 * (patch_size % 2 == 0)) / patch_size
    sides = torch.stack([1 - far, far], dim=1)
    return torch.kron(sides, sides)


__all__ = ["check_labels", "segmentation_loss", "upsample_logits", "upsampled_cross_entropy"]
