# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from algm_hf.evaluation.metrics import SegmentationConfusion


# Four classes, of which class 3 occurs nowhere; 255 is ignored. By hand, over the eight counted pixels (true ->
# predicted): 0->0 x2, 0->1 x1, 1->1 x2, 1->2 x1, 2->2 x1, 2->0 x1.
REFERENCE = np.array([[0, 0, 0, 1, 1], [1, 2, 2, 255, 255]])
PREDICTION = np.array([[0, 0, 1, 1, 1], [2, 2, 0, 2, 0]])


def scores(predictions, references, num_labels=4):
    confusion = SegmentationConfusion(num_labels)
    for prediction, reference in zip(predictions, references, strict=True):
        confusion.update(prediction, reference)
    return confusion.compute()


def test_hand_computed_case_with_ignored_pixels_and_an_absent_class():
    result = scores([PREDICTION], [REFERENCE])
    iou = [2 / 4, 2 / 4, 1 / 3]
    accuracy = [2 / 3, 2 / 3, 1 / 2]
    np.testing.assert_allclose(result["per_category_iou"], [*iou, np.nan])
    np.testing.assert_allclose(result["per_category_accuracy"], [*accuracy, np.nan])
    assert result["mean_iou"] == pytest.approx(sum(iou) / 3)
    assert result["mean_accuracy"] == pytest.approx(sum(accuracy) / 3)
    assert result["overall_accuracy"] == pytest.approx(5 / 8)


def test_perfect_prediction_scores_one():
    reference = np.array([[0, 1], [2, 255]])
    result = scores([np.where(reference == 255, 0, reference)], [reference])
    assert result["mean_iou"] == result["mean_accuracy"] == result["overall_accuracy"] == 1.0


def test_a_class_predicted_but_nowhere_true_counts_with_iou_zero():
    result = scores([np.array([0, 3])], [np.array([0, 0])])
    np.testing.assert_allclose(result["per_category_iou"], [0.5, np.nan, np.nan, 0.0])
    np.testing.assert_allclose(result["per_category_accuracy"], [0.5, np.nan, np.nan, np.nan])
    assert result["mean_iou"] == 0.25


def test_order_and_grouping_of_images_change_nothing():
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 4, (5, 7, 9)), generator.integers(0, 4, (5, 7, 9))
    references[generator.random(references.shape) < 0.1] = 255
    one_by_one = scores(predictions, references)
    at_once = scores([predictions], [references])
    backwards = scores(predictions[::-1], references[::-1])
    for name in one_by_one:
        np.testing.assert_array_equal(one_by_one[name], at_once[name])
        np.testing.assert_array_equal(one_by_one[name], backwards[name])


def test_small_integer_types_do_not_overflow():
    labels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert scores([labels], [labels], num_labels=200)["mean_iou"] == 1.0


def test_nothing_counted_gives_nan():
    result = scores([np.array([0, 1])], [np.array([255, 255])])
    assert np.isnan(result["mean_iou"])
    assert np.isnan(result["overall_accuracy"])


def test_wrong_shapes_and_values_are_refused():
    confusion = SegmentationConfusion(4)
    with pytest.raises(ValueError, match=r"prediction=\(2,\): .*\(3,\)"):
        confusion.update(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="prediction=4: .* 0 to 3"):
        confusion.update(np.array([4]), np.array([0]))
    with pytest.raises(ValueError, match="reference=-1: .* 0 to 3 .* or the ignore_index 255"):
        confusion.update(np.array([0]), np.array([-1]))
    with pytest.raises(ValueError, match="num_labels=0"):
        SegmentationConfusion(0)
