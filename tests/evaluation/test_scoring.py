# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import evaluate
import numpy as np
import pytest
import torch
from places import ROOT
from scene_rows import scene_dataset

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.data.drawn_scenes import SCENE_CLASSES, make_scene
from algm_hf.evaluation.metrics import MEAN_IOU_PATH, SegmentationConfusion, image_confusion
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import SegmentationPredictor, segment_images
from algm_hf.runs.models import config_settings
from algm_hf.runs.provenance import describe_environment, installed_versions
from algm_hf.runs.tables import markdown_table
from algm_hf.runs.timing import time_settings


SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy")
TOKENS = ("num_images", "tokens_final", "tokens_mean", "tokens_unmerged", "token_share")


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
    rows = scene_dataset(3, seed=5, size=(64, 96))
    confusion = SegmentationConfusion(len(SCENE_CLASSES))
    counts = []
    for row in rows:
        (result,) = segment_images(model, processor, [row["image"]])
        confusion.update(result.label_map, np.asarray(row["annotation"]))
        counts.append(result.token_counts)
    for batch_size in (1, 2, 3):
        scores = evaluate_predictor(SegmentationPredictor(model, processor), rows, batch_size=batch_size)
        assert scores["mean_iou"] == pytest.approx(confusion.compute()["mean_iou"], abs=1e-3)
        assert scores["num_images"] == 3
        assert scores["tokens_final"] == pytest.approx(np.mean([count[-1] for count in counts]))
        assert scores["tokens_mean"] == pytest.approx(np.mean(counts))


def assert_same(found, expected):
    for name in (*SCORES, *TOKENS):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_batch_size_order_and_kind_of_rows_change_nothing(segmenter):
    """Images of one size, so that a batch computes what its images do alone."""
    rows = scene_dataset(5, seed=5, size=(64, 96))
    expected = evaluate_predictor(SegmentationPredictor(*segmenter), rows, batch_size=1)
    for others in (list(rows), iter(rows), rows.to_iterable_dataset(), [rows[i] for i in (3, 0, 4, 1, 2)]):
        assert_same(evaluate_predictor(SegmentationPredictor(*segmenter), others, batch_size=1), expected)
    for batch_size in (2, 3, 8):
        found = evaluate_predictor(SegmentationPredictor(*segmenter), rows, batch_size=batch_size)
        assert [found[name] for name in TOKENS] == [expected[name] for name in TOKENS]
        np.testing.assert_allclose(found["per_category_accuracy"], expected["per_category_accuracy"], atol=1e-3)


def test_scores_are_those_of_the_packaged_metric(segmenter):
    metric, told, confusion = evaluate.load(MEAN_IOU_PATH), [], 0

    def on_image(image):
        nonlocal confusion
        told.append(image.index)
        confusion = confusion + image.confusion
        metric.add(prediction=image.result.label_map, reference=image.row["annotation"])

    rows = scene_dataset(3, seed=5, size=(64, 96))
    scores = evaluate_predictor(SegmentationPredictor(*segmenter), rows, batch_size=2, on_image=on_image)
    expected = metric.compute(num_labels=len(SCENE_CLASSES), ignore_index=255)
    for name in SCORES:
        np.testing.assert_allclose(scores[name], expected[name], atol=1e-12, rtol=0)
    assert told == [0, 1, 2]
    assert confusion.sum() == 3 * 64 * 96


def test_scales_and_mirror_images_are_scored(segmenter):
    rows = scene_dataset(2, seed=5, size=(64, 96))
    scores = evaluate_predictor(SegmentationPredictor(*segmenter, (0.5, 1.0), True), rows)
    # Two scales, each twice: 4 x 6 and 8 x 12 patches and a class token.
    assert scores["tokens_unmerged"] == 2 * (4 * 6 + 1 + 8 * 12 + 1)
    assert 0 < scores["token_share"] < 1
    assert min(scores["images_per_second"], scores["images_per_second_end_to_end"]) > 0


def test_reading_ahead_in_other_processes_changes_nothing(segmenter):
    rows = scene_dataset(3, seed=5, size=(64, 96))
    ahead = evaluate_predictor(SegmentationPredictor(*segmenter), rows, batch_size=2, num_workers=1)
    assert_same(ahead, evaluate_predictor(SegmentationPredictor(*segmenter), rows, batch_size=2))


def test_an_evaluation_amid_a_training_leaves_the_random_numbers_alone(segmenter):
    before = torch.get_rng_state()
    evaluate_predictor(SegmentationPredictor(*segmenter), scene_dataset(2, seed=5, size=(64, 96)))
    assert torch.equal(torch.get_rng_state(), before)


def test_confusion_of_an_image_by_hand():
    found = image_confusion([[0, 1, 1], [2, 2, 0]], np.array([[0, 0, 1], [2, 255, 255]], np.uint8), 3, 255)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found.dtype == torch.int64


def test_nothing_to_evaluate_is_refused(segmenter):
    for rows in ([], iter([])):
        with pytest.raises(ValueError, match="rows="):
            evaluate_predictor(SegmentationPredictor(*segmenter), rows)
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate_predictor(SegmentationPredictor(*segmenter), [], batch_size=0)


def test_a_label_that_is_no_class_is_refused(segmenter):
    image = make_scene(0, (64, 96))[0]
    with pytest.raises(ValueError, match="reference=99: .* or the ignore_index 255"):
        evaluate_predictor(SegmentationPredictor(*segmenter), [{"image": image, "annotation": np.full((64, 96), 99)}])
    with pytest.raises(ValueError, match=r"prediction=\(64, 96\): .*\(96, 64\)"):
        evaluate_predictor(
            SegmentationPredictor(*segmenter), [{"image": image, "annotation": np.zeros((96, 64), int)}]
        )


CHILD = """
import json, resource, sys
from pathlib import Path
import numpy, torch
from accelerate import Accelerator
from PIL import Image
from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import SegmentationPredictor

torch.manual_seed(0)
config = AlgmConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=1, intermediate_size=64, patch_size=8,
    image_size=32, global_merge_layer=2, num_labels=5, initializer_range=0.1)
model, processor = AlgmForSemanticSegmentation(config).eval(), AlgmImageProcessor(size=32, patch_size=8)

def rows(count, height, width):
    for seed in range(count):
        random = numpy.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=numpy.uint8))
        labels = random.integers(0, 5, (height, width), dtype=numpy.uint8)
        yield {"image": coarse.resize((width, height)), "annotation": Image.fromarray(labels)}

def peak():
    # Linux starts ru_maxrss with what the parent had; VmHWM is this process's own.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

cases, path = json.loads(sys.argv[1])
accelerator, found = Accelerator(cpu=True), []
for count, height, width, batch_size, listed in cases:
    made = rows(count, height, width)
    made = list(made) if listed else made
    scores = evaluate_predictor(SegmentationPredictor(model, processor), made, batch_size, accelerator=accelerator)
    scores = {name: value.tolist() if isinstance(value, numpy.ndarray) else value for name, value in scores.items()}
    found.append({**scores, "peak": peak(), "processes": accelerator.num_processes})
with open(f"{path}{accelerator.process_index}.json", "w") as file:
    json.dump(found, file)
accelerator.end_training()
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_child(tmp_path, cases, launch=()):
    """The scores of each case, by process."""
    script, path = tmp_path / "child.py", tmp_path / f"scores-{len(launch)}-"
    script.write_text(CHILD)
    call = [sys.executable, *launch, str(script), json.dumps([cases, str(path)])]
    done = subprocess.run(call, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(file.read_text()) for file in sorted(tmp_path.glob(path.name + "*"))]


def test_neither_processes_nor_kind_of_rows_change_numbers_nor_does_memory_grow_with_the_images(tmp_path):
    """Seven images on one and on two processes, listed and streamed; then label maps of 1 MB each: kept, those of 180
    more images would be a quarter of the process."""
    few_images = [(7, 40, 50, 2, True), (7, 40, 50, 2, False)]
    ((*alone, few, many),) = run_child(tmp_path, [*few_images, (20, 300, 400, 4, False), (200, 300, 400, 4, False)])
    assert many["num_images"] == 200
    assert many["peak"] < 1.05 * few["peak"]
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    with socket.socket() as found:  # a free port: old versions of accelerate take 0 literally and wait for ever
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launch += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port))
    both = run_child(tmp_path, few_images, launch)
    assert len(both) == 2
    for process in both:
        for scores, expected in zip(process, alone, strict=True):
            assert scores["processes"] == 2
            assert_same(scores, expected)


def test_settings_hold_inside_the_block_only_even_after_an_error(segmenter):
    model, _ = segmenter
    with pytest.raises(RuntimeError), config_settings(model, use_token_merging=False):
        assert model.config.use_token_merging is False
        raise RuntimeError
    assert model.config.use_token_merging is True
    with pytest.raises(ValueError, match="'merge_treshold'"), config_settings(model, merge_treshold=0.5):
        pass


def test_times_are_positive_and_named(segmenter):
    settings = {"on": {}, "off": {"use_token_merging": False}}
    seconds = time_settings(*segmenter, [make_scene(0, (64, 96))[0]], settings, repeats=2, warmup=1)
    assert set(seconds) == {"on", "off"}
    assert min(seconds.values()) > 0
    with pytest.raises(ValueError, match="repeats=0"):
        time_settings(*segmenter, [make_scene(0, (64, 96))[0]], settings, repeats=0)


def test_environment_names_device_dtype_and_versions(segmenter):
    where = describe_environment(segmenter[0])
    assert (where["device"], where["dtype"]) == ("cpu", "float32")
    assert (
        where["versions"]["torch"] == torch.__version__.split("+")[0]
        or where["versions"]["torch"] == torch.__version__
    )


def test_packages_that_are_not_installed_are_left_out_of_the_environment(segmenter, monkeypatch):
    with pytest.raises(PackageNotFoundError):
        version("no-such-package")
    monkeypatch.setattr("algm_hf.runs.provenance.PACKAGES", ("torch", "no-such-package"))
    assert list(describe_environment(segmenter[0])["versions"]) == ["torch"]
    assert installed_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


def test_markdown_table_lines_up():
    lines = markdown_table(["name", "value"], [["a", 1], ["long name", 22]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | ----: |"
