# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import colorsys
import random
import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from algm_hf.data.augmentation import (
    AugmentedDataset,
    AugmentedIterableDataset,
    RandomCategoryCrop,
    SegmentationAugmentation,
    augmentation_speed,
)


COLORS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 20], [128, 20, 128]], dtype=np.uint8)


def coloured_pair(height=60, width=90, seed=0, num_labels=5):
    """Blocks of 15 pixels; the colour of a pixel says its label."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, num_labels, (-(-height // 15), -(-width // 15))).astype(np.uint8)
    labels = blocks.repeat(15, axis=0).repeat(15, axis=1)[:height, :width]
    return Image.fromarray(COLORS[labels]), Image.fromarray(labels)


def plain(crop_size=(48, 64), base_size=60, **kwargs):
    return SegmentationAugmentation(crop_size, base_size, photometric_distortion=False, **kwargs)


def pixels_inside_regions(labels):
    """True where the 5 x 5 neighbourhood (cut off at the border of the array) has one label."""
    padded = np.pad(labels, 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    return (windows == labels[:, :, None, None]).all(axis=(2, 3))


@pytest.mark.parametrize("seed", range(20))
def test_colour_of_every_pixel_off_the_borders_is_that_of_its_label(seed):
    torch.manual_seed(seed)
    image, annotation = coloured_pair(height=60 + 7 * seed, width=150 - 5 * seed, seed=seed)
    result = plain()(image, annotation)
    labels = result["labels"].numpy()
    colors = (result["pixel_values"].numpy() * 0.5 + 0.5).transpose(1, 2, 0) * 255
    inside = pixels_inside_regions(labels)
    labelled = inside & (labels != 255)
    assert labelled.sum() > 300
    assert np.abs(colors[labelled] - COLORS[labels[labelled]]).max() < 1.5


@pytest.mark.parametrize(("numerator", "denominator"), [(2, 1), (3, 1), (1, 3), (1, 5)])
def test_image_and_labels_do_not_drift_apart_when_resized(numerator, denominator):
    # One pixel of the resized image is split by the edge so that more than half of it is bright: it has label 1.
    edge = 15 + denominator // 2
    labels = np.zeros((30, 60), dtype=np.uint8)
    labels[:, edge:] = 1
    image = Image.fromarray(np.stack([labels * 200] * 3, axis=-1))
    ratio, size = numerator / denominator, (30 * numerator // denominator, 60 * numerator // denominator)
    result = plain(size, 30, ratio_range=(ratio, ratio), flip_prob=0.0)(image, Image.fromarray(labels))
    brighter = (result["pixel_values"][0, 2] * 0.5 + 0.5) * 255 > 100
    assert torch.equal(brighter.long(), result["labels"][2])
    assert result["labels"][2].sum() == size[1] - 15 * numerator // denominator


@pytest.mark.parametrize("distortion", [False, True])
def test_types_and_sizes_are_always_those_of_the_crop(distortion):
    for size in ((10, 7), (200, 31), (48, 64)):
        image, annotation = coloured_pair(*size)
        augmentation = SegmentationAugmentation((48, 64), 40, photometric_distortion=distortion)
        result = augmentation(image, annotation)
        assert set(result) == {"pixel_values", "labels"}
        assert type(result["pixel_values"]) is torch.Tensor and type(result["labels"]) is torch.Tensor
        assert result["pixel_values"].shape == (3, 48, 64) and result["pixel_values"].dtype == torch.float32
        assert result["labels"].shape == (48, 64) and result["labels"].dtype == torch.int64


def test_labels_afterwards_are_some_of_those_before_and_255():
    for seed in range(20):
        torch.manual_seed(seed)
        image, annotation = coloured_pair(seed=seed)
        numbers = np.array([3, 17, 101, 150, 255], dtype=np.uint8)[np.asarray(annotation)]
        result = SegmentationAugmentation((70, 70), 60)(image, Image.fromarray(numbers))
        assert set(result["labels"].unique().tolist()) <= set(numbers.flatten().tolist()) | {255}


def test_padding_lies_right_and_below_with_zeros_and_255():
    image = Image.new("RGB", (20, 10), (255, 255, 255))
    result = plain((16, 32), 10, ratio_range=(1.0, 1.0), max_category_ratio=1.0)(image, Image.new("L", (20, 10), 4))
    inside = torch.zeros(16, 32, dtype=torch.bool)
    inside[:10, :20] = True
    assert torch.equal(result["labels"] == 4, inside) and torch.equal(result["labels"] == 255, ~inside)
    assert torch.equal(result["pixel_values"] == 1, inside.expand(3, -1, -1))  # white, normalised
    assert torch.equal(result["pixel_values"] == 0, ~inside.expand(3, -1, -1))


def test_another_ignore_index_fills_the_padding():
    result = plain((16, 32), 10, ignore_index=9)(*coloured_pair(10, 20))
    assert 9 in result["labels"] and 255 not in result["labels"]


def test_normalisation_is_that_of_mean_and_deviation():
    image = Image.new("RGB", (8, 8), (51, 102, 204))
    augmentation = plain((8, 8), 8, ratio_range=(1, 1), image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.25, 2.0))
    result = augmentation(image, Image.new("L", (8, 8)))
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.8 - 0.3) / 2.0])
    torch.testing.assert_close(result["pixel_values"].mean(dim=(1, 2)), expected)


def sizes_after_resize(size, base_size, count=60, crop=(160, 160), **kwargs):
    """Sizes of the resized image, found as the labelled part of a crop that is larger than any of them."""
    augmentation = plain(crop, base_size, max_category_ratio=1.0, **kwargs)
    image, annotation = Image.new("RGB", size), Image.new("L", size)
    for seed in range(count):
        torch.manual_seed(seed)
        labelled = augmentation(image, annotation)["labels"] != 255
        yield int(labelled.any(dim=1).sum()), int(labelled.any(dim=0).sum())


@pytest.mark.parametrize("size", [(120, 80), (80, 120)])
def test_shorter_side_is_the_base_size_times_a_ratio_between_the_limits(size):
    sizes = list(sizes_after_resize(size, base_size=50))
    shorter = [min(found) for found in sizes]
    assert 25 <= min(shorter) < 30 and 92 < max(shorter) <= 100
    assert 0.8 < statistics.mean(shorter) / 62.5 < 1.2
    assert all(abs(width * size[1] - height * size[0]) <= max(size) for height, width in sizes)


def test_without_base_size_the_ratio_is_that_of_the_image_itself():
    assert set(sizes_after_resize((60, 75), None, count=3, ratio_range=(2, 2))) == {(150, 120)}


def test_a_panorama_is_limited_to_four_times_the_side_asked_for():
    assert set(sizes_after_resize((1000, 50), 100, 3, (410, 410), ratio_range=(1, 1))) == {(20, 400)}
    assert set(sizes_after_resize((50, 1000), 100, 3, (410, 410), ratio_range=(1, 1))) == {(400, 20)}


def largest_share(labels):
    values, counts = np.unique(labels[labels != 255], return_counts=True)
    return counts.max() / counts.sum() if len(values) else 1.0


def half_even_pair():
    """Left three quarters class 0, the rest a fine mixture: a window has to reach into the right quarter."""
    labels = np.zeros((64, 256), dtype=np.uint8)
    labels[:, 192:] = np.random.default_rng(0).integers(1, 5, (64, 64))
    return Image.new("RGB", (256, 64)), Image.fromarray(labels)


def shares(max_category_ratio, count=60):
    image, annotation = half_even_pair()
    augmentation = plain((64, 64), 64, ratio_range=(1, 1), max_category_ratio=max_category_ratio, flip_prob=0.0)
    for seed in range(count):
        torch.manual_seed(seed)
        yield largest_share(augmentation(image, annotation)["labels"].numpy())


def test_no_class_fills_more_than_three_quarters_of_a_crop():
    # 75 of 193 places are good: all ten draws are bad in (118/193)^10 = 0.7 % of the crops.
    assert sum(share > 0.75 for share in shares(max_category_ratio=1.0)) > 25
    assert sum(share > 0.75 for share in shares(max_category_ratio=0.75)) <= 2


def test_an_image_of_one_class_is_cropped_all_the_same():
    labels = plain((32, 32), 64)(Image.new("RGB", (90, 64)), Image.new("L", (90, 64), 2))["labels"]
    assert set(labels.unique().tolist()) <= {2, 255}


@pytest.mark.parametrize(
    ("labels", "accepted"),
    [([0, 0, 0, 1], True), ([0, 0, 0, 0, 1], False), ([0, 0, 0, 1, 255, 255], True), ([0, 255, 255], False)]
    + [([255, 255], False)],
)
def test_share_counts_labelled_pixels_only_and_three_quarters_is_allowed(labels, accepted):
    crop = RandomCategoryCrop((1, 1), 0.75)
    assert crop._is_varied(torch.tensor([labels], dtype=torch.uint8)) is accepted


def test_half_of_the_images_are_flipped():
    image, annotation = coloured_pair(30, 30, seed=3)
    straight = torch.from_numpy(np.array(annotation)).long()
    augmentation = plain((30, 30), 30, ratio_range=(1, 1))
    outcomes = []
    for seed in range(200):
        torch.manual_seed(seed)
        labels = augmentation(image, annotation)["labels"]
        outcomes.append(torch.equal(labels, straight.flip(1)))
        assert outcomes[-1] or torch.equal(labels, straight)
    assert 70 < sum(outcomes) < 130


def test_photometric_distortion_changes_colours_but_not_labels_and_swaps_no_channels():
    image, annotation = Image.new("RGB", (16, 16), (90, 140, 90)), Image.new("L", (16, 16), 1)
    augmentation = SegmentationAugmentation((16, 16), 16, ratio_range=(1, 1))
    means = []
    for seed in range(100):
        torch.manual_seed(seed)
        result = augmentation(image, annotation)
        assert (result["labels"] == 1).all()
        means.append(tuple((result["pixel_values"].mean(dim=(1, 2)) * 127.5 + 127.5).round().int().tolist()))
    assert len(set(means)) > 50
    assert all(green > max(red, blue) for red, green, blue in means)
    hues = [360 * colorsys.rgb_to_hsv(*mean)[0] for mean in means]  # green is 120 degrees
    assert 81 < min(hues) < 95 and 145 < max(hues) < 159  # +-36, up to the rounding of colours


# Seeds


def rows(count=6):
    return [dict(zip(("image", "annotation"), coloured_pair(seed=seed), strict=True)) for seed in range(count)]


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in ("pixel_values", "labels"))


def test_a_row_depends_on_seed_epoch_and_index_alone():
    augmentation = SegmentationAugmentation((48, 64), 60)
    first = AugmentedDataset(rows(), augmentation, seed=7)
    expected = [first[index] for index in range(6)]
    torch.manual_seed(123)
    torch.rand(5)
    random.seed(4)
    np.random.seed(4)
    other = AugmentedDataset(rows(), augmentation, seed=7)
    for index in (4, 0, 5, 5, 1, 3, 2, -1):
        assert equal(other[index], expected[index])


def test_epochs_seeds_and_indices_give_different_crops():
    augmentation = SegmentationAugmentation((48, 64), 60)
    same = rows(1) * 3
    seen = [AugmentedDataset(same, augmentation, seed=seed)[index] for seed in (0, 1) for index in range(3)]
    later = AugmentedDataset(same, augmentation, seed=0)
    later.set_epoch(1)
    seen += [later[index] for index in range(3)]
    assert not any(equal(a, b) for place, a in enumerate(seen) for b in seen[:place])
    later.set_epoch(0)
    assert equal(later[2], seen[2])


def test_global_random_state_is_left_alone():
    dataset = AugmentedDataset(rows(), SegmentationAugmentation((48, 64), 60), seed=0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    dataset[3]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_follow_the_epoch(persistent):
    dataset = AugmentedDataset(rows(), SegmentationAugmentation((48, 64), 60), seed=0)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches = list(loader)
        labels, pixels = (torch.cat([batch[key] for batch in batches]) for key in ("labels", "pixel_values"))
        alone = AugmentedDataset(rows(), SegmentationAugmentation((48, 64), 60), seed=0)
        alone.set_epoch(epoch)
        assert torch.equal(labels, torch.stack([alone[index]["labels"] for index in range(6)]))
        assert torch.equal(pixels, torch.stack([alone[index]["pixel_values"] for index in range(6)]))


class Stream:
    def __init__(self, content):
        self.content, self.epoch = content, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(self.content)


def test_a_stream_gives_every_image_the_same_crop_wherever_it_comes():
    augmentation = SegmentationAugmentation((48, 64), 60)
    forward = list(AugmentedIterableDataset(Stream(rows()), augmentation, seed=2))
    backward = list(AugmentedIterableDataset(Stream(rows()[::-1]), augmentation, seed=2))
    assert all(equal(a, b) for a, b in zip(forward, backward[::-1], strict=True))
    stream = Stream(rows())
    later = AugmentedIterableDataset(stream, augmentation, seed=2)
    later.set_epoch(3)
    assert stream.epoch == 3
    assert not any(equal(a, b) for a, b in zip(forward, later, strict=True))


def test_speed_counts_the_rows_it_is_asked_to():
    read = []

    class Rows(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    assert augmentation_speed(SegmentationAugmentation((16, 16), 16), Rows(rows(2)), count=3) > 0
    assert read == [0, 0, 1, 0]


# Refusals


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_size", (0, 4), r"crop_size=\(0, 4\)"),
        ("base_size", 0, "base_size=0"),
        ("ratio_range", (2.0, 0.5), r"ratio_range=\(2\.0, 0\.5\)"),
        ("ratio_range", (0, 1), r"ratio_range=\(0, 1\)"),
        ("max_category_ratio", 0, "max_category_ratio=0"),
        ("max_category_ratio", 1.5, "max_category_ratio=1.5"),
        ("flip_prob", 2, "flip_prob=2"),
        ("ignore_index", -100, "ignore_index=-100"),
    ],
)
def test_an_argument_out_of_range_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        SegmentationAugmentation(**{"crop_size": (4, 4), field: value})


def test_a_pair_that_does_not_fit_is_refused():
    augmentation = SegmentationAugmentation((8, 8), 8)
    with pytest.raises(ValueError, match=r"annotation=\(4, 6\): .*\(6, 4\)"):
        augmentation(Image.new("RGB", (6, 4)), Image.new("L", (4, 6)))
    with pytest.raises(ValueError, match="annotation='RGB'"):
        augmentation(Image.new("RGB", (6, 4)), Image.new("RGB", (6, 4)))
    with pytest.raises(ValueError, match="seed=-1"):
        AugmentedDataset([], augmentation, seed=-1)
    with pytest.raises(ValueError, match="rows="):
        augmentation_speed(augmentation, [])
