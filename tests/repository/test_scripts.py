# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The scripts, run as a person runs them: in a process of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT, script

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.data.drawn_scenes import make_scene


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY_DEMO = [
    "--size",
    "64",
    "--max_steps",
    "2",
    "--config_overrides",
    "hidden_size=32",
    "--num_train_scenes",
    "6",
    "--num_eval_scenes",
    "2",
]


def command(script, *arguments):
    return [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]


def run(script, *arguments, code=0):
    done = subprocess.run(command(script, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model with random weights, saved as `save_pretrained` does."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    config = AlgmConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        image_size=64,
        local_merge_layer=1,
        global_merge_layer=2,
        decoder_num_hidden_layers=1,
        num_labels=4,
    )
    AlgmForSemanticSegmentation(config).save_pretrained(folder)
    AlgmImageProcessor(size=64, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    """A wide image, a tall grey one of the same stem, and a file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    make_scene(0, (60, 100))[0].save(folder / "a.png")
    make_scene(1, (90, 70))[0].convert("L").save(folder / "a.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_predict_writes_maps_images_and_numbers_and_names_the_broken_file(checkpoint, images, tmp_path):
    out = tmp_path / "out"
    done = run(
        "predict.py", "--model", checkpoint, "--images", images, "--output_dir", out, "--batch_size", 3,
        "--repeats", 1, "--device", "cpu", code=1,
    )  # fmt: skip
    assert "broken.jpg" in done.stderr
    assert "2 of 3 images segmented" in done.stdout
    expected = {f"{name}_{kind}.png" for name in ("a", "a_2") for kind in ("labels", "overlay", "tokens")}
    assert {path.name for path in out.iterdir()} == expected | {"predictions.json"}
    report = json.loads((out / "predictions.json").read_text())
    assert [Path(name).name for name in report["failures"]] == ["broken.jpg"]
    for record in report["images"]:
        labels, overlay, tokens = (Image.open(path) for path in record["written"])
        assert labels.mode == "P"
        assert labels.size == (record["width"], record["height"])
        assert set(np.unique(np.asarray(labels))) <= set(range(4))
        assert overlay.width >= record["width"]
        assert overlay.height > record["height"]
        assert tokens.width % record["input_width"] == 0
        patches = -(-record["input_height"] // 8) * -(-record["input_width"] // 8)
        assert record["tokens_unmerged"] == patches + 1
        assert record["tokens_final"] == record["tokens_per_layer"][-1] <= record["tokens_unmerged"]
        assert 0 <= record["agreement"] <= 1
        assert record["seconds_merged"] > 0
        assert record["seconds_unmerged"] > 0
    assert report["environment"]["device"] == "cpu"
    assert "predict.py" in report["command"]


def test_a_threshold_that_merges_nothing_gives_the_unmerged_map(checkpoint, images, tmp_path, monkeypatch):
    """With tau 1 only exactly equal patches merge locally; without the global merge nothing else can."""
    model = AlgmForSemanticSegmentation.from_pretrained(checkpoint)
    model.config.global_merge_layer = None
    model.save_pretrained(tmp_path / "local")
    AlgmImageProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "local")
    out = tmp_path / "out"
    arguments = ["--model", tmp_path / "local", "--images", images / "a.png", "--output_dir", out]
    arguments += ["--merge_threshold", 1, "--repeats", 0, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    assert script("predict").main() == 0
    report = json.loads((out / "predictions.json").read_text())
    assert report["merge_threshold"] == 1
    (record,) = report["images"]
    assert record["tokens_final"] == record["tokens_unmerged"]
    assert record["agreement"] == 1
    assert "seconds_merged" not in record


def test_predict_refuses_what_it_cannot_do():
    predict = script("predict")
    for name, value in {"batch_size": 0, "repeats": -1, "dtype": "int8", "alpha": 1.5}.items():
        with pytest.raises(ValueError, match=f"--{name}={value!r}"):
            predict.PredictionArguments(model="m", images=["i"], output_dir="o", **{name: value})


def test_demo_trains_saves_reloads_and_draws(tmp_path):
    out = tmp_path / "demo"
    done = run("quickstart.py", *TINY_DEMO, "--output_dir", out, "--other_thresholds", "0.5")
    assert "all 2 masks are equal" in done.stdout
    with Image.open(out / "demo.png") as image:
        assert image.width > 1536  # four columns
    results = json.loads((out / "results.json").read_text())
    assert [result["name"] for result in results["settings"]] == ["off", "tau 0.85", "tau 0.5"]
    off, on, low = results["settings"]
    assert off["tokens_final"] == 8 * 12 + 1
    assert max(low["tokens_final"], on["tokens_final"]) < off["tokens_final"]
    assert results["training"]["steps"] == 2
    assert list(results["milliseconds_per_image"]) == ["off", "tau 0.85", "tau 0.5"]
    assert min(results["milliseconds_per_image"].values()) > 0
    table = (out / "results.md").read_text()
    assert all(f"{100 * result['mean_iou']:.2f}" in table for result in results["settings"])
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_algm.py"} <= {
        path.name for path in (out / "model").iterdir()
    }


def test_demo_takes_a_folder_of_labelled_images_and_a_time_limit(tmp_path):
    data = tmp_path / "data"
    for split, seeds in (("train", range(3)), ("val", range(10, 12))):
        for kind in ("images", "annotations"):
            (data / kind / split).mkdir(parents=True)
        for seed in seeds:
            image, labels = make_scene(seed, (64, 80))
            image.save(data / "images" / split / f"{seed}.jpg")
            labels.save(data / "annotations" / split / f"{seed}.png")
    (data / "classes.txt").write_text("sky\nbuilding\nroad\npavement\ntree\ncar\nperson\n")
    arguments = [*TINY_DEMO, "--data_dir", data, "--output_dir", tmp_path / "out", "--ignore_labels", "7"]
    arguments += ["--max_eval_samples", "1", "--max_steps", "100000", "--max_minutes", "0.02"]
    arguments += ["--config_overrides", "hidden_size=32", "inference_mode=slide", "window_size=32"]
    done = run("quickstart.py", *arguments)
    assert "max_minutes=0.02 ended the training" in done.stdout
    assert "all 1 masks are equal" in done.stdout
    assert json.loads((tmp_path / "out" / "results.json").read_text())["training"]["time_limit_reached"]
    with Image.open(tmp_path / "out" / "demo.png") as image:
        assert 3 * 384 < image.width < 4 * 384  # windows have no column of tokens
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["inference_mode"] == "slide"
    assert config["id2label"]["6"] == "person"
    assert len(config["id2label"]) == 7


def test_an_interrupted_training_keeps_the_model(tmp_path):
    out = tmp_path / "demo"
    arguments = [*TINY_DEMO, "--output_dir", out, "--max_steps", "100000", "--max_minutes", "3"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command("quickstart.py", *arguments), env=ENVIRONMENT, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 120
            while "1/100000" not in log.read_text():  # the progress bar has moved: the training has begun
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130, log.read_text()
        finally:
            process.kill()
    assert "Interrupted after step" in log.read_text()
    AlgmForSemanticSegmentation.from_pretrained(out / "model")
    AlgmImageProcessor.from_pretrained(out / "model")
