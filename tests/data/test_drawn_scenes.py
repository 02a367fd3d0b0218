# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from algm_hf.data.drawn_scenes import SCENE_CLASSES, make_scene


def arrays(seed, size=(64, 96)):
    image, labels = make_scene(seed, size)
    return np.asarray(image), np.asarray(labels)


def test_a_seed_always_draws_the_same_scene():
    for first, second in zip(arrays(5), arrays(5), strict=True):
        assert np.array_equal(first, second)


def test_two_seeds_draw_two_scenes():
    (image, labels), (other_image, other_labels) = arrays(5), arrays(6)
    assert not np.array_equal(image, other_image)
    assert not np.array_equal(labels, other_labels)


@pytest.mark.parametrize("size", [(64, 96), (97, 65), (32, 32), (48, 160)])
def test_image_and_label_map_have_the_size_asked_for(size):
    image, labels = make_scene(3, size)
    assert image.mode == "RGB"
    assert labels.mode == "L"
    assert image.size == labels.size == (size[1], size[0])


def test_labels_are_classes_and_every_class_is_drawn_somewhere():
    seen = set()
    for seed in range(12):
        seen |= set(np.unique(arrays(seed)[1]).tolist())
    assert seen == set(range(len(SCENE_CLASSES)))


def test_edges_of_the_label_map_lie_on_edges_of_the_image():
    """A label map moved by two pixels explains the colours of the image worse than the map itself."""
    left = dict.fromkeys((-2, 0, 2), 0.0)
    for seed in range(6):
        image, labels = arrays(seed, (128, 192))
        inner = image[:, 4:-4].reshape(-1, 3).astype(np.float64)
        for shift in left:
            moved = np.roll(labels, shift, axis=1)[:, 4:-4].reshape(-1)
            for label in np.unique(moved):
                of_class = inner[moved == label]
                left[shift] += ((of_class - of_class.mean(axis=0)) ** 2).sum()
    assert left[0] < left[-2]
    assert left[0] < left[2]


def test_even_regions_and_small_objects_stand_side_by_side():
    counts = sum(np.bincount(arrays(seed, (128, 192))[1].reshape(-1), minlength=8) for seed in range(10))
    share = dict(zip(SCENE_CLASSES, counts / counts.sum(), strict=True))
    assert share["sky"] + share["road"] + share["building"] > 0.4
    assert 0.002 < share["person"] < 0.08
    assert 0.002 < share["sign"] < 0.08


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="seed=-1"):
        make_scene(-1)
    with pytest.raises(ValueError, match=r"size=\(16, 96\)"):
        make_scene(0, (16, 96))
