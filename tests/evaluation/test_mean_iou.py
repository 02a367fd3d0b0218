# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The packaged metric against the definition of evaluate's `mean_iou`, written down again as plain loops."""

import math
import pickle

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

from algm_hf.evaluation.metrics import MEAN_IOU_PATH, compute_metric, load_metric


SCALARS = ("mean_iou", "mean_accuracy", "overall_accuracy")
LISTS = ("per_category_iou", "per_category_accuracy")


@pytest.fixture
def metric():
    return evaluate.load(MEAN_IOU_PATH)


def reduce_one(label):
    """The definition for one value: 0 becomes 255, all are lowered by one, and what is 254 then was 255."""
    label = 255 if label == 0 else label
    return 255 if label - 1 == 254 else label - 1


def by_definition(predictions, references, num_labels, ignore_index, nan_to_num=None, label_map=None, reduce=False):
    both, predicted, true = ([0] * num_labels for _ in range(3))
    for prediction, reference in zip(predictions, references, strict=True):
        for guess, label in zip(
            np.asarray(prediction).flatten().tolist(), np.asarray(reference).flatten().tolist(), strict=True
        ):
            label = (label_map or {}).get(label, label)
            label = reduce_one(label) if reduce else label
            if label != ignore_index:
                predicted[guess] += 1
                true[label] += 1
                both[label] += guess == label

    def ratio(part, whole):
        return part / whole if whole else math.nan

    iou = [ratio(b, p + t - b) for b, p, t in zip(both, predicted, true, strict=True)]
    accuracy = [ratio(b, t) for b, t in zip(both, true, strict=True)]
    means = [ratio(sum(v for v in values if v == v), sum(v == v for v in values)) for values in (iou, accuracy)]
    scores = [*means, ratio(sum(both), sum(true)), iou, accuracy]
    if nan_to_num is not None:
        scores = [
            [nan_to_num if v != v else v for v in s] if isinstance(s, list) else nan_to_num if s != s else s
            for s in scores
        ]
    return dict(zip((*SCALARS, *LISTS), scores, strict=True))


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12, err_msg=name)


def random_maps(generator, num_labels, dtype, highest_label=None, lowest_label=0, ignored=0.1):
    """Three pairs of maps of different sizes, predictions right in about half of the pixels."""
    predictions, references = [], []
    highest_label = num_labels - 1 if highest_label is None else highest_label
    for shape in ((7, 9), (3, 4), (10, 2)):
        reference = generator.integers(lowest_label, highest_label + 1, shape)
        prediction = np.where(
            generator.random(shape) < 0.5,
            np.clip(reference, 0, num_labels - 1),
            generator.integers(0, num_labels, shape),
        )
        reference[generator.random(shape) < ignored] = 255
        predictions.append(prediction.astype(dtype))
        references.append(reference.astype(dtype))
    return predictions, references


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.int32])
@pytest.mark.parametrize("nan_to_num", [None, 0, -1.0])
@pytest.mark.parametrize("num_labels, highest_label", [(5, 4), (6, 3), (150, 149), (1, 0), (254, 253)])
def test_random_cases_equal_the_definition(metric, dtype, nan_to_num, num_labels, highest_label):
    for seed in range(3):
        maps = random_maps(np.random.default_rng(seed), num_labels, dtype, highest_label)
        found = metric.compute(
            predictions=maps[0], references=maps[1], num_labels=num_labels, ignore_index=255, nan_to_num=nan_to_num
        )
        assert_equal(found, by_definition(*maps, num_labels, 255, nan_to_num))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("label_map", [None, {3: 4}, {1: 2, 2: 1}])
def test_raw_labels_are_reduced_as_in_the_definition(metric, dtype, label_map):
    """0 is no class, 1 to 5 are the classes 0 to 4."""
    maps = random_maps(np.random.default_rng(1), 5, dtype, highest_label=5, ignored=0)
    assert 0 in maps[1][0]
    settings = {"num_labels": 5, "ignore_index": 255, "label_map": label_map, "reduce_labels": True}
    found = metric.compute(predictions=maps[0], references=maps[1], **settings)
    assert_equal(found, by_definition(*maps, 5, 255, label_map=label_map, reduce=True))


def test_another_ignore_index_is_a_class_that_is_left_out(metric):
    maps = random_maps(np.random.default_rng(2), 5, np.uint8, ignored=0)
    found = metric.compute(predictions=maps[0], references=maps[1], num_labels=5, ignore_index=0)
    assert_equal(found, by_definition(*maps, 5, 0))


def test_a_label_map_replaces_all_values_at_once(metric):
    """Chained replacement would make both classes 0, and IoU 0.5 of what is a perfect swap."""
    found = metric.compute(
        predictions=[[[1, 1, 0, 0]]],
        references=[[[0, 0, 1, 1]]],
        num_labels=2,
        ignore_index=255,
        label_map={0: 1, 1: 0},
    )
    assert found["mean_iou"] == 1.0


def test_a_label_map_may_be_read_from_json_and_may_name_ignored_pixels(metric):
    found = metric.compute(
        predictions=[[[0, 1]]], references=[[[0, 11]]], num_labels=2, ignore_index=255, label_map={"11": 255}
    )
    np.testing.assert_array_equal(found["per_category_iou"], [1.0, np.nan])


@pytest.mark.parametrize(
    "kind",
    [np.asarray, torch.as_tensor, Image.fromarray, lambda labels: labels.tolist()],
    ids=["numpy", "torch", "pillow", "lists"],
)
def test_kinds_of_label_maps_and_ways_to_add_them_make_no_difference(metric, kind):
    predictions, references = random_maps(np.random.default_rng(3), 5, np.uint8)
    expected = by_definition(predictions, references, 5, 255)
    settings = {"num_labels": 5, "ignore_index": 255}
    kinds = [[kind(labels) for labels in maps] for maps in (predictions, references)]
    assert_equal(metric.compute(predictions=kinds[0], references=kinds[1], **settings), expected)
    for prediction, reference in zip(*kinds, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert len(metric) == 3
    assert_equal(metric.compute(**settings), expected)
    metric.add_batch(predictions=kinds[0][1:], references=kinds[1][1:])
    assert_equal(metric.compute(predictions=kinds[0][:1], references=kinds[1][:1], **settings), expected)
    assert len(metric) == 0


def test_inputs_are_not_changed(metric):
    predictions, references = random_maps(np.random.default_rng(4), 5, np.uint8, highest_label=5, ignored=0)
    before = pickle.dumps((predictions, references))
    for maps in (
        (predictions, references),
        [[torch.from_numpy(m) for m in part] for part in (predictions, references)],
    ):
        settings = {"label_map": {1: 2, 2: 1}, "reduce_labels": True}
        metric.compute(predictions=maps[0], references=maps[1], num_labels=5, ignore_index=255, **settings)
    assert pickle.dumps((predictions, references)) == before


def test_what_is_kept_does_not_grow_with_the_number_of_images(metric):
    generator = np.random.default_rng(5)
    for _ in range(200):
        metric.add(prediction=generator.integers(0, 4, (20, 20)), reference=generator.integers(0, 4, (20, 20)))
    assert metric._pairs.numel() == metric._counts.numel() == 16
    assert metric._counts.sum() == 200 * 400


def test_values_up_to_uint16_are_counted(metric):
    """More pairs than the table of counts holds: they are sorted instead."""
    metric.add(prediction=[[4999, 7, 7]], reference=[[65535, 7, 1]])
    assert dict(zip(metric._pairs.tolist(), metric._counts.tolist(), strict=True)) == {
        65535 * 65536 + 4999: 1,
        7 * 65536 + 7: 1,
        1 * 65536 + 7: 1,
    }


def test_a_perfect_prediction_of_reduced_labels_scores_one(metric):
    labels = np.array([[0, 1, 2, 255]])
    found = metric.compute(predictions=[[[0, 1, 2, 0]]], references=[labels], num_labels=3, ignore_index=255)
    assert [found[name] for name in SCALARS] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "predictions, references, settings, message",
    [
        ([[[0, 1]]], [[[0, 255]]], {"reduce_labels": True}, "reduce_labels=True"),
        ([[[0, 1]]], [[[0, 7]]], {}, "references=7: .* 0 to 2 .* or the ignore_index 255"),
        ([[[0, 5]]], [[[0, 1]]], {}, "predictions=5: .* 0 to 2"),
        ([[[0, 1]]], [[[0, -1]]], {}, "references=-1: .* 0 to 65535"),
        ([[[0, 1]]], [[[0]]], {}, r"predictions=\(1, 2\): .*\(1, 1\)"),
        ([[0, 1]], [[0, 1]], {}, r"predictions=\(2,\): expected \(height, width\)"),
        ([[[0, 1]], [[0, 1]]], [[[0, 1]]], {}, "predictions=2: .*references, 1"),
        (None, [[[0, 1]]], {}, "predictions=None: .*references, 1"),
        ([[[0.5, 1]]], [[[0, 1]]], {}, "predictions=.*float64.*: expected integers"),
        ([[[0, 1], [0]]], [[[0, 1], [1]]], {}, "predictions=list: expected a regular array"),
        (None, None, {}, "predictions=None"),
        ([[[0]]], [[[0]]], {"num_labels": 0}, "num_labels=0"),
    ],
)
def test_what_has_no_score_is_refused(metric, predictions, references, settings, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(
            predictions=predictions, references=references, **{"num_labels": 3, "ignore_index": 255, **settings}
        )


def test_unknown_inputs_and_several_processes_are_refused(metric):
    with pytest.raises(ValueError, match=r"inputs=\['weights'\]"):
        metric.add(prediction=[[0]], reference=[[0]], weights=1)
    with pytest.raises(ValueError, match="num_process=2"):
        evaluate.load(MEAN_IOU_PATH, num_process=2, process_id=0)


def test_a_metric_is_told_what_it_takes_and_no_more(metric, tmp_path):
    metric.add(prediction=[[0, 1]], reference=[[0, 255]])
    assert compute_metric(metric, num_labels=2)["overall_accuracy"] == 1.0
    script = tmp_path / "pixels" / "pixels.py"
    script.parent.mkdir()
    script.write_text(
        "import datasets\nimport evaluate\n\n\nclass Pixels(evaluate.Metric):\n    def _info(self):\n"
        "        maps = datasets.Sequence(datasets.Sequence(datasets.Value('uint16')))\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "            features=datasets.Features({'predictions': maps, 'references': maps}))\n\n"
        "    def _compute(self, predictions, references, ignore_index):\n"
        "        return {'counted': sum(v != ignore_index for m in references for row in m for v in row)}\n"
    )
    other = load_metric(str(script.parent))
    other.add(prediction=[[0, 1]], reference=[[0, 255]])
    assert compute_metric(other, num_labels=2) == {"counted": 1}


def test_a_metric_that_cannot_be_loaded_is_named_in_one_line():
    with pytest.raises(ValueError, match="^metric='mean_iou': expected") as error:
        load_metric("mean_iou")
    assert "\n" not in str(error.value)
