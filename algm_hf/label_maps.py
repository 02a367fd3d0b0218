# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Label maps from logits on a coarse grid: exactly the argmax of the bilinearly upsampled logits, without upsampling all.

Between four neighbouring grid points (a **cell**) every upsampled score is a convex combination of the four corner
scores. So where the corners share their best class, every pixel of the cell has it; and elsewhere a class whose best
corner is below another class's worst corner cannot win. What is left, a few classes in the cells along the borders of
regions, is evaluated. Two scores that rounding could swap are compared as torch's own `interpolate` computes them, so
that the result equals `interpolate` and `argmax` to the last pixel, ties (lowest class) included.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


# Upper bound on the scores evaluated at once: 2**20 float32 values are 4 MiB. More are no faster on a CPU.
MAX_ELEMENTS = 2**20
# The same elsewhere, 64 MiB: there a call costs more than its arithmetic.
MAX_ELEMENTS_ON_DEVICE = 2**24
# Evaluating single cells costs about this much more for each score than upsampling all of them.
CELL_OVERHEAD = 2.0


@torch.no_grad()
def upsampled_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """
    The class of each pixel, `interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0)`:
    int64, where classes tie the lowest. `scores (num_labels, rows, columns)` are finite; half precision is upsampled
    in float32.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    scores = scores.contiguous()  # torch sums in another order where the classes lie innermost
    num_labels, rows, columns = scores.shape
    if (rows, columns) == tuple(size):
        return scores.argmax(dim=0)
    # Few pixels for each cell leave nothing to save; one or two classes neither. On an accelerator arithmetic is
    # cheap, while each of the many small steps below costs a launch, and some make the host wait.
    if num_labels <= 2 or size[0] * size[1] <= 4 * rows * columns or scores.device.type != "cpu":
        return blockwise_argmax(scores, partial(resize_scores, size=size), size[0] * size[1])
    cells = _Cells(scores, size)
    if CELL_OVERHEAD * cells.num_scores > num_labels * size[0] * size[1]:
        return blockwise_argmax(scores, partial(resize_scores, size=size), size[0] * size[1])
    return cells.label_map()


def blockwise_argmax(scores: Tensor, resize: Callable[[Tensor], Tensor], num_pixels: int) -> Tensor:
    """
    The argmax over the classes of resized scores, int64, ties to the lowest, block of classes by block, so that not
    all are held at once. `resize` takes some classes `(n, rows, columns)` to `(n, height, width)`, each by itself;
    `num_pixels` are those of the largest image that it goes through.
    """
    budget = MAX_ELEMENTS if scores.device.type == "cpu" else MAX_ELEMENTS_ON_DEVICE
    block_size = max(1, budget // num_pixels)
    best, label_map = None, None
    for start in range(0, scores.shape[0], block_size):
        values, classes = resize(scores[start : start + block_size]).max(dim=0)
        classes += start
        if best is None:
            best, label_map = values, classes
        else:
            better = values > best  # strictly, so that a tie stays with the lowest class
            best, label_map = torch.where(better, values, best), torch.where(better, classes, label_map)
    return label_map


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores `(n, rows, columns)` at another size, bilinear (`align_corners=False`); as they are at their own."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


class _Axis:
    """
    How the pixels of one side lie between its grid points, in torch's arithmetic (`area_pixel_compute_source_index`).

    Attributes:
        cell (`Tensor` of shape `(num_pixels,)`): the grid point before each pixel.
        first, count (`Tensor` of shape `(num_points,)`): first pixel of each cell, and its number of pixels.
        fraction (`Tensor` of shape `(num_points, max_count)`): place of each pixel between its grid points, 0..1.
        max_count (`int`): pixels of the largest cell.
    """

    def __init__(self, num_points: int, num_pixels: int, dtype: torch.dtype, device: torch.device):
        scale = torch.tensor(num_points, dtype=dtype) / num_pixels
        source = (scale * (torch.arange(num_pixels, dtype=dtype) + 0.5) - 0.5).clamp(min=0)
        cell = source.floor().long().clamp(max=num_points - 1)
        count = torch.bincount(cell, minlength=num_points)
        first = count.cumsum(0) - count
        self.max_count = int(count.max())
        pixel = (first[:, None] + torch.arange(self.max_count)).clamp(max=num_pixels - 1)
        fraction = (source - cell).clamp(0, 1)[pixel]
        self.cell, self.count, self.first, self.fraction = (part.to(device) for part in (cell, count, first, fraction))


class _Cells:
    """The cells of a grid of scores: which classes can win in each, and the label map that follows."""

    def __init__(self, scores: Tensor, size: tuple[int, int]):
        self.scores, self.size = scores, size
        num_labels, rows, columns = scores.shape
        self.axes = [
            _Axis(points, pixels, scores.dtype, scores.device)
            for points, pixels in zip((rows, columns), size, strict=True)
        ]
        # What rounding can change: the arithmetic of a score, and on other devices the place of a pixel too.
        epsilon, largest = torch.finfo(scores.dtype).eps, scores.abs().max()
        self.tolerance = (16 if scores.device.type == "cpu" else 16 + 4 * max(rows, columns)) * epsilon * largest
        can_win = _classes_that_can_win(scores, self.tolerance)
        can_win &= self.axes[0].count[:, None] * self.axes[1].count > 0
        self.num_candidates = can_win.sum(dim=0).flatten()
        self.only_class = can_win.to(torch.uint8).argmax(dim=0)
        self.open_cells = (self.num_candidates > 1).nonzero().flatten()
        self.can_win = can_win.flatten(1).T[self.open_cells]  # (num_open_cells, num_labels)
        # Cells in groups of 2, 3..4, 5..8, ... classes, each evaluated for as many classes as its largest.
        exponents = (self.num_candidates[self.open_cells] - 1).float().log2().floor().long() + 1
        self.widths = [min(2**exponent, num_labels) for exponent in exponents.tolist()]
        pixels = self.axes[0].max_count * self.axes[1].max_count
        self.num_scores = sum(self.widths) * pixels

    def label_map(self) -> Tensor:
        vertical, horizontal = self.axes
        label_map = self.only_class[vertical.cell][:, horizontal.cell]
        contested: list[tuple[Tensor, Tensor]] = []
        widths = torch.tensor(self.widths, device=self.open_cells.device)
        pixels = vertical.max_count * horizontal.max_count
        for width in sorted(set(self.widths)):
            members = (widths == width).nonzero().flatten()
            for group in members.split(max(1, MAX_ELEMENTS // (width * pixels))):
                self._evaluate(group, width, label_map, contested)
        if contested:
            self._settle(contested, label_map)
        return label_map

    def _evaluate(self, group: Tensor, width: int, label_map: Tensor, contested: list[tuple[Tensor, Tensor]]) -> None:
        """Write the pixels of some open cells, each for `width` classes; collect those that rounding could swap."""
        vertical, horizontal = self.axes
        columns = self.scores.shape[2]
        row, column = self.open_cells[group] // columns, self.open_cells[group] % columns
        # The classes that can win, filled up with others: more classes never change a maximum.
        classes = (
            self.can_win[group].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width].sort().values
        )
        corners = _corners(self.scores, classes, row, column)
        right, below = horizontal.fraction[column][:, None], vertical.fraction[row][:, None, :, None]
        above_row = torch.lerp(corners[0][..., None], corners[1][..., None], right)
        below_row = torch.lerp(corners[2][..., None], corners[3][..., None], right)
        values = torch.lerp(above_row[:, :, None], below_row[:, :, None], below)  # (cells, classes, height, width)
        best, winner = values.max(dim=1)
        label = classes.gather(1, winner.flatten(1)).view_as(winner)

        y = vertical.first[row][:, None] + torch.arange(vertical.max_count, device=row.device)
        x = horizontal.first[column][:, None] + torch.arange(horizontal.max_count, device=row.device)
        exists = (y < (vertical.first + vertical.count)[row][:, None])[:, :, None]
        exists = exists & (x < (horizontal.first + horizontal.count)[column][:, None])[:, None]
        place = y[:, :, None] * label_map.shape[1] + x[:, None]
        label_map.view(-1)[place[exists]] = label[exists]

        close = values >= (best - 2 * self.tolerance)[:, None]
        rival_is_close = close.scatter(1, winner[:, None], False).any(dim=1)
        cell, *inside = (rival_is_close & exists).nonzero(as_tuple=True)
        if cell.numel():
            rivals = torch.zeros(self.scores.shape[0], dtype=torch.bool, device=cell.device)
            rivals[classes[cell][close[cell, :, inside[0], inside[1]]]] = True
            contested.append((place[cell, inside[0], inside[1]], rivals))

    def _settle(self, contested: list[tuple[Tensor, Tensor]], label_map: Tensor) -> None:
        """Decide contested pixels among all their rivals with the scores that torch computes."""
        places = torch.cat([place for place, _ in contested])
        rivals = torch.stack([rivals for _, rivals in contested]).any(dim=0).nonzero().flatten()
        best = torch.full(places.shape, -torch.inf, dtype=self.scores.dtype, device=places.device)
        label = torch.zeros_like(places)
        for block in rivals.split(max(1, MAX_ELEMENTS // (self.size[0] * self.size[1]))):
            values, winner = resize_scores(self.scores[block], self.size).flatten(1)[:, places].max(dim=0)
            better = values > best
            best, label = torch.where(better, values, best), torch.where(better, block[winner], label)
        label_map.view(-1)[places] = label


def _neighbours(scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The grids of the four corners of each cell, the last row and column repeated as torch does."""
    padded = torch.cat((scores, scores[:, -1:]), dim=1)
    padded = torch.cat((padded, padded[:, :, -1:]), dim=2)
    return padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]


def _classes_that_can_win(scores: Tensor, tolerance: Tensor) -> Tensor:
    """
    Which classes can be the best of some pixel of a cell, `(num_labels, rows, columns)` bool; at least one in each.

    A class loses everywhere in a cell if its best corner is below another class's worst corner. It also does if, at
    each corner, it is below the mean score of the classes that win the four corners: a mean never exceeds the best of
    them, and both sides are interpolated with the same weights.
    """
    corners = _neighbours(scores)
    lowest = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    highest = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    can_win = highest >= lowest.amax(dim=0) - tolerance
    winners = torch.stack([corner[0] for corner in _neighbours(scores.argmax(dim=0, keepdim=True))])
    exceeds = torch.zeros_like(can_win)
    for corner in corners:
        mean = corner.gather(0, winners).mean(dim=0)
        exceeds |= corner >= mean - tolerance
    return can_win & exceeds


def _corners(scores: Tensor, classes: Tensor, row: Tensor, column: Tensor) -> list[Tensor]:
    """Scores of some classes at the four corners of some cells, four tensors `(num_cells, num_classes)`."""
    _, rows, columns = scores.shape
    next_row, next_column = (row + 1).clamp(max=rows - 1), (column + 1).clamp(max=columns - 1)
    corners = [(row, column), (row, next_column), (next_row, column), (next_row, next_column)]
    return [scores[classes, y[:, None], x[:, None]] for y, x in corners]


__all__ = ["blockwise_argmax", "resize_scores", "upsampled_argmax"]
