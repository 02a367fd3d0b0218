# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`scripts/evaluate_model.py`, in this process where that shows the same, in its own where it does not."""

import csv
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.data.drawn_scenes import SCENE_CLASSES, make_scene
from algm_hf.evaluation.error_images import WorstImages, error_map
from algm_hf.evaluation.metrics import MEAN_IOU_PATH
from algm_hf.evaluation.report import curve_csv, plain
from algm_hf.evaluation.run import EvaluationArguments, check_same_classes, merge_settings
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import PAPER_SCALES, SegmentationPredictor
from algm_hf.runs.models import config_settings


SCRIPT = ROOT / "scripts" / "evaluate_model.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# What starts several processes through torchrun, on machines without a GPU too; with `--cpu` accelerate starts one.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]
SIZES = [(48, 72), (60, 50), (48, 72), (40, 90), (48, 72)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tiny model with random weights and a folder of five labelled scenes of different sizes."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("evaluate")
    config = AlgmConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        image_size=48,
        global_merge_layer=2,
        merge_threshold=0.5,
        initializer_range=0.1,
        decoder_num_hidden_layers=1,
        id2label=dict(enumerate(SCENE_CLASSES)),
        label2id={name: index for index, name in enumerate(SCENE_CLASSES)},
    )
    AlgmForSemanticSegmentation(config).save_pretrained(root / "model")
    AlgmImageProcessor(size=48, patch_size=8).save_pretrained(root / "model")
    for kind in ("images", "annotations"):
        (root / "data" / kind / "val").mkdir(parents=True)
    (root / "data" / "classes.txt").write_text("\n".join(SCENE_CLASSES))
    for seed, size in enumerate(SIZES):
        image, labels = make_scene(seed, size)
        labels = np.array(labels, dtype=np.uint8)
        labels[:3] = 255
        image.save(root / "data" / "images" / "val" / f"scene{seed}.png")
        Image.fromarray(labels).save(root / "data" / "annotations" / "val" / f"scene{seed}.png")
    return root


def command(workplace, output, *arguments):
    call = ["--model", workplace / "model", "--dataset", "folder", "--data_dir", workplace / "data", "--cpu"]
    return [str(part) for part in (*call, "--output_dir", output, *arguments)]


def run_here(monkeypatch, workplace, output, *arguments) -> dict:
    """The script's `main` in this process, and the results it wrote."""
    spec = spec_from_file_location("evaluate_script", SCRIPT)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["scripts/evaluate_model.py", *command(workplace, output, *arguments)])
    assert script.main() == 0
    return json.loads((output / "results.json").read_text())


def rows(workplace):
    for seed in range(len(SIZES)):
        files = [workplace / "data" / kind / "val" / f"scene{seed}.png" for kind in ("images", "annotations")]
        yield {"image": Image.open(files[0]), "annotation": Image.open(files[1])}


def segmenter(workplace):
    model = AlgmForSemanticSegmentation.from_pretrained(workplace / "model").eval()
    return model, AlgmImageProcessor.from_pretrained(workplace / "model")


def test_settings_are_scored_drawn_and_written(workplace, tmp_path, monkeypatch, capsys):
    arguments = ["--merging", "on", "off", "--merge_thresholds", "0.3", "0.9", "--error_images", "2"]
    arguments += ["--save_predictions", "--metric", MEAN_IOU_PATH, "--batch_size", "2"]
    results = run_here(monkeypatch, workplace, tmp_path, *arguments)
    assert [setting["name"] for setting in results["settings"]] == ["off", "tau 0.3", "tau 0.9"]
    model, processor = segmenter(workplace)
    for setting in results["settings"]:
        fields = {name: setting[name] for name in ("use_token_merging", "merge_threshold") if name in setting}
        with config_settings(model, **fields):
            expected = plain(
                evaluate_predictor(SegmentationPredictor(model, processor), rows(workplace), batch_size=2)
            )
        for name, value in expected.items():
            if not name.startswith("images_per_second"):
                assert setting[name] == value, name
        for name, value in setting["metric"].items():
            assert value == pytest.approx(setting[name], abs=1e-12), name
    assert results["settings"][0]["token_share"] == 1.0
    assert results["settings"][1]["token_share"] < results["settings"][2]["token_share"] < 1
    assert results["classes"] == list(SCENE_CLASSES)
    assert results["command"].startswith("python scripts/evaluate_model.py --model")
    assert torch.__version__.startswith(results["environment"]["versions"]["torch"])

    with (tmp_path / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [row["merge_threshold"] for row in curve] == ["", "0.3", "0.9"]
    assert [float(row["mean_iou"]) for row in curve] == [setting["mean_iou"] for setting in results["settings"]]
    assert Image.open(tmp_path / "curve.png").size == (1320, 540)
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert all(f"\n| {name} " in text for name in SCENE_CLASSES)


def test_drawn_files_show_the_predictions_and_the_worst_images(workplace, tmp_path, monkeypatch):
    run_here(monkeypatch, workplace, tmp_path, "--error_images", "2", "--save_predictions")
    model, processor = segmenter(workplace)
    shares = {}
    for index, row in enumerate(rows(workplace)):
        truth = np.asarray(row["annotation"])
        with Image.open(tmp_path / "predictions" / "tau_0.5" / f"scene{index}.png") as drawn:
            assert drawn.mode == "P"
            prediction = np.asarray(drawn)
        shares[f"scene{index}"] = (prediction == truth)[truth != 255].mean()
        scores = evaluate_predictor(SegmentationPredictor(model, processor), [row])
        assert scores["overall_accuracy"] == pytest.approx(shares[f"scene{index}"])
    assert (tmp_path / "predictions" / "legend.png").is_file()
    worst = sorted(shares, key=shares.get)[:2]
    drawings = sorted((tmp_path / "errors" / "tau_0.5").iterdir())
    assert [path.name for path in drawings] == [f"{rank}_{name}.png" for rank, name in enumerate(worst, start=1)]
    assert Image.open(drawings[0]).width > 4 * 400


def test_windows_and_the_papers_scales_are_those_of_the_command_line(workplace, tmp_path, monkeypatch):
    arguments = ["--inference_mode", "slide", "--window_size", "32", "--window_stride", "24", "--flip"]
    arguments += ["--scales", *map(str, PAPER_SCALES), "--max_eval_samples", "2", "--merging", "off"]
    results = run_here(monkeypatch, workplace, tmp_path, *arguments)
    model, _ = segmenter(workplace)
    settings = {"inference_mode": "slide", "window_size": 32, "window_stride": 24, "use_token_merging": False}
    with config_settings(model, **settings):
        two = list(rows(workplace))[:2]
        processor = AlgmImageProcessor(size=32, patch_size=8)
        expected = evaluate_predictor(SegmentationPredictor(model, processor, PAPER_SCALES, True), two, 1)
    assert results["settings"][0]["mean_iou"] == expected["mean_iou"]
    assert results["settings"][0]["tokens_mean"] == expected["tokens_unmerged"]
    assert results["model"]["window_stride"] == 24
    assert results["model"]["image_size"] == {"shortest_edge": 32}


def test_two_processes_give_the_numbers_of_one(workplace, tmp_path, monkeypatch):
    """Five images in batches of two: the processes have three images and two."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    arguments = ["--batch_size", "2", "--error_images", "2"]
    results = {"one": run_here(monkeypatch, workplace, tmp_path / "one", *arguments)}
    call = [*LAUNCH, port, str(SCRIPT), *command(workplace, tmp_path / "two", *arguments)]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results["two"] = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["two"]["environment"]["processes"] == 2
    for one, two in zip(results["one"]["settings"], results["two"]["settings"], strict=True):
        assert one["num_images"] == 5
        for name in one:
            assert name.startswith("images_per_second") or one[name] == two[name], name
    drawings = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "errors").rglob("*.png")} for name in results
    ]
    assert len(drawings[0]) >= 2
    assert drawings[0] == drawings[1]


def test_ctrl_c_keeps_the_settings_that_are_done(workplace, tmp_path):
    thresholds = [f"{0.1 + 0.001 * index:.3f}" for index in range(500)]
    call = [sys.executable, str(SCRIPT), *command(workplace, tmp_path, "--merge_thresholds", *thresholds)]
    process = subprocess.Popen(
        [*call, "--plot", "false"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "results.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    done = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert 1 <= len(done) < 500
    said = int(re.search(r"Interrupted: (\d+) of 500 settings are done\.", errors)[1])
    assert said in (len(done), len(done) - 1)  # between writing and noting, one more is written
    assert "| tau 0.1 " in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--metric", "mean_iou"], "error: metric='mean_iou': expected"),
        (["--model", "no/such_model"], "error: .*no/such_model"),
        (["--output_dir", __file__], "error: .*test_evaluate_script.py"),
    ],
)
def test_what_is_not_there_ends_in_one_line(workplace, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command(workplace, tmp_path, *arguments)])
    with pytest.raises(SystemExit, match=message) as refusal:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "\n" not in str(refusal.value)


LIST_METRIC = """
import datasets
import evaluate
import numpy as np


class ShareOfPixels(evaluate.Metric):
    def _info(self):
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, ignore_index):
        pairs = [(np.array(p), np.array(r)) for p, r in zip(predictions, references)]
        right = sum(((p == r) & (r != ignore_index)).sum() for p, r in pairs)
        return {"share": right / sum((r != ignore_index).sum() for _, r in pairs)}
"""


def test_a_metric_of_lists_gets_lists(workplace, tmp_path, monkeypatch):
    """As evaluate's own are: its features turn no images into numbers."""
    (tmp_path / "share_of_pixels.py").write_text(LIST_METRIC)
    arguments = ["--metric", tmp_path / "share_of_pixels.py", "--batch_size", "2"]
    (setting,) = run_here(monkeypatch, workplace, tmp_path / "out", *arguments)["settings"]
    assert setting["metric"]["share"] == pytest.approx(setting["overall_accuracy"], abs=1e-12)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"error_images": -1}, "error_images=-1"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"merging": ["yes"]}, "merging='yes'"),
        ({"merge_thresholds": [2.0]}, "merge_thresholds=2.0"),
        ({"merge_thresholds": [0.5], "merging": ["off"]}, r"merging=\['off'\]: .*merge_thresholds"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationArguments(model="model", output_dir="out", **settings)


def test_a_metric_in_several_processes_is_refused(workplace, tmp_path):
    from algm_hf.evaluation.run import EvaluationRun

    arguments = EvaluationArguments(model="model", output_dir="out", metric=MEAN_IOU_PATH)
    with pytest.raises(ValueError, match="metric=.*several processes"):
        EvaluationRun(arguments, None, SimpleNamespace(num_processes=2))


@pytest.mark.parametrize(
    "merging, thresholds, use, names",
    [
        ([], [], True, ["tau 0.5"]),
        ([], [], False, ["off"]),
        ([], [0.7, 0.2], False, ["tau 0.7", "tau 0.2"]),
        (["off", "on"], [], True, ["off", "tau 0.5"]),
        (["on", "off"], [0.7], True, ["off", "tau 0.7"]),
        (["off"], [], True, ["off"]),
    ],
)
def test_settings_are_those_asked_for_or_the_checkpoints(merging, thresholds, use, names):
    arguments = EvaluationArguments(model="m", output_dir="o", merging=merging, merge_thresholds=thresholds)
    config = SimpleNamespace(use_token_merging=use, merge_threshold=0.5)
    settings = merge_settings(arguments, config)
    assert list(settings) == names
    assert [fields["use_token_merging"] for fields in settings.values()] == [name != "off" for name in names]


def test_a_data_set_of_other_classes_is_refused():
    check_same_classes({0: "sky", 1: "road"}, {0: "sky", 1: "road"})
    check_same_classes({0: "sky", 1: "road"}, {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ValueError, match="classes of the data set=1: .* 2"):
        check_same_classes({0: "sky"}, {0: "sky", 1: "road"})
    with pytest.raises(ValueError, match="class 0 of the data set='sky': expected 'road'"):
        check_same_classes({0: "sky", 1: "road"}, {0: "road", 1: "sky"})
    with pytest.raises(ValueError, match=r"class 1 of the data set='road': .*class \[0\]"):
        check_same_classes({0: "sky", 1: "road"}, {0: "road", 1: "heaven"})
    check_same_classes({0: "sky", 1: "road"}, {0: "heaven", 1: "road"})


def test_errors_are_red_ignored_pixels_black_and_the_rest_pale():
    drawn = Image.fromarray(np.full((1, 3, 3), 90, np.uint8))
    found = np.asarray(error_map(drawn, np.array([[1, 1, 1]]), np.array([[1, 0, 255]])))[0]
    assert found[0].min() == found[0].max() > 150
    assert found[1, 0] > 150 > 100 > max(found[1, 1:])
    assert found[2].tolist() == [0, 0, 0]


def test_the_worst_images_are_kept_and_ties_go_to_the_first():
    def image(index, right, wrong):
        return SimpleNamespace(index=index, confusion=torch.tensor([[right, wrong], [0, 0]]))

    worst = WorstImages(2)
    for entry in (image(0, 5, 5), image(1, 0, 0), image(2, 1, 9), image(3, 9, 1), image(4, 5, 5), image(5, 5, 5)):
        worst.add(entry)
    assert sorted(kept.index for _, _, kept in worst._kept) == [0, 2]


def test_undefined_scores_are_empty_in_the_csv_and_null_in_the_json():
    assert plain({"a": np.array([0.5, np.nan]), "b": np.float64("nan"), "c": (1, "x")}) == {
        "a": [0.5, None],
        "b": None,
        "c": [1, "x"],
    }
    lines = curve_csv([{"name": "off", "use_token_merging": False, "mean_iou": float("nan")}]).splitlines()
    assert lines[1].startswith("off,False,,,")
