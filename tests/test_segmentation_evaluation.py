# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.scenes import SCENE_CLASSES, make_scene, scene_dataset
from algm_hf.segmentation_evaluation import (
    config_settings,
    describe_environment,
    evaluate_segmentation,
    markdown_table,
    segment_images,
    time_settings,
)
from algm_hf.segmentation_metrics import SegmentationConfusion


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    config = AlgmConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        image_size=[64, 96],
        global_merge_layer=2,
        merge_threshold=0.5,
        decoder_num_hidden_layers=1,
        id2label=dict(enumerate(SCENE_CLASSES)),
    )
    return AlgmForSemanticSegmentation(config).eval(), AlgmImageProcessor(size=64, patch_size=8)


def test_label_maps_have_the_size_of_their_images_and_do_not_depend_on_the_batch(segmenter):
    images = [make_scene(0, (64, 96))[0], make_scene(1, (50, 90))[0], make_scene(2, (90, 70))[0]]
    together = segment_images(*segmenter, images)
    for image, result in zip(images, together, strict=True):
        (alone,) = segment_images(*segmenter, [image])
        assert result.label_map.shape == (image.height, image.width)
        assert result.patch_to_token.shape == (result.grid_size[0] * result.grid_size[1],)
        assert result.token_counts == alone.token_counts
        assert np.array_equal(result.patch_to_token, alone.patch_to_token)
        assert (result.label_map == alone.label_map).mean() > 0.999


def test_scores_are_those_of_the_label_maps_whatever_the_batch_size(segmenter):
    model, processor = segmenter
    rows = scene_dataset(3, seed=5, sizes=[(64, 96)])
    confusion = SegmentationConfusion(len(SCENE_CLASSES))
    counts = []
    for row in rows:
        (result,) = segment_images(model, processor, [row["image"]])
        confusion.update(result.label_map, np.asarray(row["annotation"]))
        counts.append(result.token_counts)
    for batch_size in (1, 2, 3):
        scores = evaluate_segmentation(model, processor, rows, batch_size=batch_size)
        assert scores["mean_iou"] == pytest.approx(confusion.compute()["mean_iou"], abs=1e-3)
        assert scores["num_images"] == 3
        assert scores["tokens_final"] == pytest.approx(np.mean([count[-1] for count in counts]))
        assert scores["tokens_mean"] == pytest.approx(np.mean(counts))


def test_nothing_to_evaluate_is_refused(segmenter):
    with pytest.raises(ValueError, match="rows is empty"):
        evaluate_segmentation(*segmenter, [])


def test_settings_hold_inside_the_block_only_even_after_an_error(segmenter):
    model, _ = segmenter
    with pytest.raises(RuntimeError), config_settings(model, use_token_merging=False):
        assert model.config.use_token_merging is False
        raise RuntimeError
    assert model.config.use_token_merging is True
    with pytest.raises(ValueError, match="no field 'merge_treshold'"), config_settings(model, merge_treshold=0.5):
        pass


def test_times_are_positive_and_named(segmenter):
    settings = {"on": {}, "off": {"use_token_merging": False}}
    seconds = time_settings(*segmenter, [make_scene(0, (64, 96))[0]], settings, repeats=2, warmup=1)
    assert set(seconds) == {"on", "off"}
    assert min(seconds.values()) > 0
    with pytest.raises(ValueError, match="repeats is 0"):
        time_settings(*segmenter, [make_scene(0, (64, 96))[0]], settings, repeats=0)


def test_environment_names_device_dtype_and_versions(segmenter):
    where = describe_environment(segmenter[0])
    assert (where["device"], where["dtype"]) == ("cpu", "float32")
    assert (
        where["versions"]["torch"] == torch.__version__.split("+")[0]
        or where["versions"]["torch"] == torch.__version__
    )


def test_markdown_table_lines_up():
    lines = markdown_table(["name", "value"], [["a", 1], ["long name", 22]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | ----: |"
