# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from algm_hf import label_maps
from algm_hf.label_maps import upsampled_argmax


def expected(scores, size):
    """All scores upsampled by torch, and their argmax."""
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def regions(num_labels, rows, columns, seed=0, noise=1.0):
    """Scores like a model's: one class stands out in each region, the others are noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_labels, (1, 1, 4, 5), generator=generator).float()
    labels = F.interpolate(labels, size=(rows, columns), mode="nearest")[0, 0].long()
    scores = torch.randn(num_labels, rows, columns, generator=generator) * noise
    return scores + 6.0 * F.one_hot(labels, num_labels).permute(2, 0, 1)


SIZES = [(512, 512), (333, 480), (97, 203), (64, 64), (33, 31), (9, 200), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [(32, 32), (24, 31), (1, 17), (2, 1)])
@pytest.mark.parametrize("num_labels", [2, 3, 19])
def test_label_maps_equal_interpolate_and_argmax(num_labels, grid, size):
    for seed, make in enumerate((regions, lambda k, r, c: torch.randn(k, r, c))):
        torch.manual_seed(seed)
        scores = make(num_labels, *grid)
        assert torch.equal(upsampled_argmax(scores, size), expected(scores, size))


@pytest.mark.parametrize("seed", range(6))
def test_ties_go_to_the_lowest_class(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (7, 12, 10), generator=generator).float()
    scores[5] = scores[2]  # two classes that tie everywhere
    assert torch.equal(upsampled_argmax(scores, (120, 130)), expected(scores, (120, 130)))


@pytest.mark.parametrize("seed", range(6))
def test_scores_apart_by_the_last_bit_are_ordered_as_torch_orders_them(seed):
    scores = regions(6, 12, 12, seed, noise=0.3)
    scores[4] = torch.nextafter(scores[1], torch.full_like(scores[1], torch.inf))
    scores[3] = torch.where(torch.rand_like(scores[1]) < 0.5, scores[1], scores[4])
    for size in ((192, 192), (101, 77)):
        assert torch.equal(upsampled_argmax(scores, size), expected(scores, size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_precision_and_scale_is_exact(dtype, scale):
    scores = (regions(11, 16, 20) * scale).to(dtype)
    assert torch.equal(upsampled_argmax(scores, (255, 321)), expected(scores, (255, 321)))


def test_equal_scores_everywhere_give_class_zero():
    assert upsampled_argmax(torch.zeros(5, 8, 8), (64, 64)).unique().tolist() == [0]


def test_a_thousand_classes_are_exact():
    scores = regions(1000, 16, 16)
    assert torch.equal(upsampled_argmax(scores, (160, 160)), expected(scores, (160, 160)))


def test_views_that_are_not_contiguous_are_exact():
    scores = regions(9, 20, 24).permute(0, 2, 1)[:, 2:, 1:]
    assert torch.equal(upsampled_argmax(scores, (150, 170)), expected(scores.contiguous(), (150, 170)))


def test_small_blocks_change_nothing(monkeypatch):
    monkeypatch.setattr(label_maps, "MAX_ELEMENTS", 500)
    for scores in (regions(9, 12, 12), torch.randn(9, 12, 12)):
        assert torch.equal(upsampled_argmax(scores, (90, 110)), expected(scores, (90, 110)))


def test_regions_leave_few_scores_to_evaluate():
    scores = regions(150, 32, 32)
    assert label_maps._Cells(scores, (512, 512)).num_scores < 150 * 512 * 512 / 10


def test_classes_below_the_mean_of_the_winners_are_never_evaluated():
    # Two regions side by side; class 2 is everywhere second best, yet below the mean of the two winners.
    scores = torch.zeros(3, 4, 4)
    scores[0, :, :2], scores[1, :, 2:], scores[2] = 6.0, 6.0, 2.0
    cells = label_maps._Cells(scores, (64, 64))
    assert not cells.can_win[:, 2].any() and len(cells.open_cells) == 4
    assert torch.equal(cells.label_map(), expected(scores, (64, 64)))
