# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""scripts/train.py and scripts/train_no_trainer.py: results, resumed trainings, two processes, refusals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stand_in import HubStandIn
from PIL import Image
from places import HELPERS, ROOT
from training_runs import SCRIPTS, TINY_CONFIG, are_equal, arguments, train, weights, write_data

from algm_hf import AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.data.arguments import DataArguments
from algm_hf.data.loading import load_segmentation_data
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import SegmentationPredictor


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)])}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 50, "eval_strategy": "no"}

# Loads folders where this package cannot be imported; prints the shapes of the logits.
LOADS_ALONE = """
import sys
sys.modules["algm_hf"] = None
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
for folder in sys.argv[1:]:
    model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    print(tuple(model(**processor(torch.zeros(3, 32, 32, dtype=torch.uint8), return_tensors="pt")).logits.shape))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A training of three steps by each script."""
    folders = {name: tmp_path_factory.mktemp(name) / "out" for name in SCRIPTS}
    steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    for name, folder in folders.items():
        train(name, arguments(data, folder, hub_token="hf_secret" if name == "train" else None, **steps))
    return folders


def history(folder, key):
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in entries if key in entry]


def evaluated(folder, data):
    """The scores of a saved model."""
    model = AlgmForSemanticSegmentation.from_pretrained(folder).eval()
    rows = load_segmentation_data(DataArguments(dataset="folder", data_dir=str(data)), ("evaluation",)).evaluation
    return evaluate_predictor(
        SegmentationPredictor(model, AlgmImageProcessor.from_pretrained(folder)), rows, batch_size=2
    )


def launch(name, tokens, **settings):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *tokens]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.005)


@pytest.mark.parametrize("name", SCRIPTS)
def test_learning_rate_falls_polynomially_every_step(finished, name):
    """Power 0.9 from 0.01 down to 1e-5 after three steps (ALGM, CVPR 2024)."""
    expected = [1e-5 + (0.01 - 1e-5) * (1 - step / 3) ** 0.9 for step in range(3)]
    assert history(finished[name], "learning_rate") == pytest.approx(expected)
    assert len(history(finished[name], "loss")) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_results_are_those_of_evaluating_the_saved_model(finished, data, name):
    folder = finished[name]
    results = json.loads((folder / "all_results.json").read_text())
    scores = evaluated(folder, data)
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "tokens_mean", "tokens_final", "token_share"):
        assert results[f"eval_{key}"] == scores[key]
    rows = load_segmentation_data(DataArguments(dataset="folder", data_dir=str(data)), ("evaluation",)).evaluation
    areas = sum(np.bincount(np.asarray(row["annotation"]).ravel(), minlength=3) for row in rows)
    assert results["eval_constant_mean_iou"] == pytest.approx(areas.max() / areas.sum() / 3)
    table = json.loads((folder / "scores_by_class.json").read_text())
    assert [entry["iou"] for entry in table.values()] == pytest.approx(scores["per_category_iou"].tolist())


@pytest.mark.parametrize("name", SCRIPTS)
def test_log_says_tokens_kept_and_throughput(finished, name):
    for kept in history(finished[name], "tokens_kept_percent"):
        assert 0 < kept <= 100
    if name == "train":
        assert all(speed > 0 for speed in history(finished[name], "images_per_second"))
        assert json.loads((finished[name] / "all_results.json").read_text())["train_step_images_per_second"] > 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_arguments_and_command_are_saved(finished, name):
    (run,) = json.loads((finished[name] / "training_arguments.json").read_text())["runs"]
    assert "--max_steps=3" in run["command"]
    for path in (path for path in finished[name].rglob("*") if path.is_file()):
        assert b"hf_secret" not in path.read_bytes(), path
    assert run["arguments"]["model"]["config_overrides"]["merge_threshold"] == 0.5
    assert run["arguments"]["training"]["learning_rate"] == 0.01
    assert run["arguments"]["augmentation"]["crop_size"] == [32]


def test_checkpoint_and_model_load_where_this_package_is_absent(finished, tmp_path):
    folders = [finished["train"] / "checkpoint-2", finished["train"], finished["train_no_trainer"]]
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADS_ALONE, *map(str, folders)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(1, 3, 4, 4)\n") == 3


def test_a_killed_and_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(data, tmp_path):
    """Drop path, dropout and augmentation on, killed by SIGKILL wherever it is after its third checkpoint."""
    tokens = {folder: arguments(data, tmp_path / folder, max_steps=8, **EVERY_STEP) for folder in ("whole", "killed")}
    process = launch("train", tokens["killed"])
    try:
        wait_for(tmp_path / "killed" / "checkpoint-3" / "trainer_state.json", process)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    train("train", tokens["whole"])
    train("train", [*tokens["killed"], "--resume_from_checkpoint", "last"])
    assert are_equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    runs = json.loads((tmp_path / "killed" / "training_arguments.json").read_text())["runs"]
    assert len(runs) == 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_resuming_within_an_epoch_and_between_two_gives_the_same_weights(name, data, tmp_path):
    """Two steps of two images are an epoch: step 1 lies within the first, 2 at its end, 3 within the second."""
    settings = {"max_steps": 5, **EVERY_STEP, "eval_strategy": "steps", "eval_steps": 1}
    train(name, arguments(data, tmp_path / "whole", **settings))
    for step in (1, 2, 3):
        part = tmp_path / f"part{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", part / f"checkpoint-{step}")
        checkpoint = str(part / f"checkpoint-{step}")
        train(name, [*arguments(data, part, **settings), "--resume_from_checkpoint", checkpoint])
        assert are_equal(weights(tmp_path / "whole"), weights(part)), step
    with pytest.raises(SystemExit, match="output_dir=.*part1.*checkpoint-2"):
        checkpoint = str(tmp_path / "part1" / "checkpoint-1")
        train(name, [*arguments(data, tmp_path / "part1", **settings), "--resume_from_checkpoint", checkpoint])


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(name, data, tmp_path):
    tokens = arguments(data, tmp_path / "out", max_steps=400, save_strategy="steps", save_steps=2, eval_strategy="no")
    tokens += ["--hub_token", "hf_secret"] if name == "train" else []
    process = launch(name, tokens)
    wait_for(tmp_path / "out" / "checkpoint-2" / "trainer_state.json", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "--resume_from_checkpoint last" in error
    assert "hf_secret" not in error
    folder = Path(error.split("saved ")[1].split(". Go on with")[0])
    step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    assert f"Interrupted after step {step}" in error
    train(name, [*tokens, f"--max_steps={step + 1}", "--resume_from_checkpoint", "last"])


def test_two_processes_hold_equal_weights_and_score_like_one(data, tmp_path):
    """An odd number of images to evaluate; `accelerate launch` with gloo."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    command = [sys.executable, *launcher, str(HELPERS / "training_child.py"), str(data), str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in SCRIPTS:
        results = json.loads((tmp_path / name / "all_results.json").read_text())
        scores = evaluated(tmp_path / name, data)
        assert scores["num_images"] % 2 == 1
        for key in ("num_images", "mean_iou", "tokens_mean"):
            assert results[f"eval_{key}"] == scores[key]


def test_a_sharded_model_learns_as_a_whole_one(tmp_path):
    """FSDP 2 (`fully_shard`) on two gloo processes, by torch itself: accelerate does not shard on CPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += [str(HELPERS / "training_child.py"), "sharded", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = torch.load(tmp_path / "whole.pt"), weights(tmp_path / "sharded")
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)
    config = json.loads((tmp_path / "sharded" / "config.json").read_text())
    assert config["architectures"] == ["AlgmForSemanticSegmentation"]


def test_fsdp_on_cpus_is_refused_in_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name in SCRIPTS:
        with pytest.raises(SystemExit, match="error: use_fsdp=True"):
            train(name, arguments(data, tmp_path / name))


def test_a_training_publishes_model_and_new_card_in_one_commit_without_pickles(data, tmp_path):
    hub_arguments = {"push_to_hub": True, "hub_model_id": "someone/model", "hub_license": "mit"}
    hub_arguments["hub_replace_card"] = True
    tokens = arguments(data, tmp_path / "out", max_steps=1, save_strategy="no", **hub_arguments)
    with HubStandIn() as hub:
        hub.create("someone/model", files={"README.md": b"# The scores of an earlier push"})
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tokens]
        environment = ENVIRONMENT | hub.environment(tmp_path / "cache")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        files = hub.files("someone/model")
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_algm.py"} <= set(files)
        assert not [path for path in files if path.endswith(".bin") or path == "training_arguments.json"]
        messages = list(hub.repositories["someone/model"].messages.values())
        assert len(messages) == 2, messages  # what creating a repository leaves, and ours
        card = files["README.md"].decode()
        assert "license: mit" in card and "earlier" not in card
        assert "mean_iou" in card or "mIoU" in card
        assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()


REFUSALS = {
    "unknown argument": (
        {"max_stepz": 3},
        "argument='--max_stepz=3'.*did you mean --max_steps",
    ),
    "wrong type": ({"max_steps": "many"}, "max.steps: invalid int value: 'many'"),
    "unknown field": (
        {"config_overrides": "merge_treshold=0"},
        "config_overrides='merge_treshold'.*'merge_threshold'",
    ),
    "wrong layer": ({"config_overrides": "global_merge_layer=99"}, "global_merge_layer=99: expected None or"),
    "wrong preset": ({"init_from": "scratch:xl"}, "init_from='scratch:xl'"),
    "no model": ({"init_from": "no/such/model"}, "init_from='no/such/model'"),
    "wrong optimizer": ({"optim": "best"}, "best"),
    "class weights": ({"config_overrides": "class_weights=[1, 2]"}, r"class_weights=\[1, 2\]: expected one for each"),
    "crop": ({"crop_size": 0}, r"crop_size=\(0, 0\)"),
    "no checkpoint": ({"resume_from_checkpoint": "last"}, "resume_from_checkpoint='last'"),
    "no data": ({"data_dir": "/no/such/folder"}, "/no/such/folder"),
    "layer decay": ({"layer_decay": 2.0}, "layer_decay=2.0"),
    "decoder": ({"config_overrides": "decoder_type=upernet"}, "decoder_type='upernet'"),
    "unused columns": ({"remove_unused_columns": True}, "remove_unused_columns=True"),
    "schedule": ({"lr_scheduler_kwargs": '{"speed": 2}'}, "lr_scheduler_type"),
    "metric": ({"metric_for_best_model": "loss"}, "metric_for_best_model='loss'"),
    "tracker": ({"report_to": "paper"}, "paper"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_bad_argument_stops_before_training_in_one_line(name, case, data, tmp_path):
    changes, message = REFUSALS[case]
    with pytest.raises(SystemExit, match=message) as refusal:
        train(name, arguments(data, tmp_path / "out", **changes))
    assert str(refusal.value).startswith("error: ")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out" / "training_arguments.json").exists()


def test_the_plain_loop_refuses_what_it_would_ignore(data, tmp_path):
    with pytest.raises(SystemExit, match="torch_compile=True"):
        train("train_no_trainer", arguments(data, tmp_path / "out", torch_compile=True))


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_output_folder_with_checkpoints_is_not_mixed_with_a_new_training(name, finished, data):
    with pytest.raises(SystemExit, match="output_dir=.*checkpoint-.*--resume_from_checkpoint last"):
        train(name, arguments(data, finished[name]))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_finished_training_has_nothing_to_resume(name, data, tmp_path):
    tokens = arguments(data, tmp_path / "out", max_steps=2, **EVERY_STEP)
    train(name, tokens)
    with pytest.raises(SystemExit, match="2 of 2 steps: nothing is left to train"):
        train(name, [*tokens, "--resume_from_checkpoint", "auto"])
    with pytest.raises(SystemExit, match="2 of 1 steps: nothing is left to train"):
        train(name, [*tokens, "--max_steps=1", "--resume_from_checkpoint", "auto"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_final_model_is_the_best_one_when_asked(name, data, tmp_path):
    """At this rate the second half of the training destroys what the first steps have learnt."""
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    folder = tmp_path / "out"
    train(name, arguments(data, folder, max_steps=4, learning_rate=0.3, load_best_model_at_end=True, **steps))
    state = json.loads((folder / "trainer_state.json").read_text())
    scores = history(folder, "eval_mean_iou")[:4]
    best = 1 + scores.index(max(scores))
    assert state["best_metric"] == max(scores)
    assert are_equal(weights(folder), weights(folder / f"checkpoint-{best}"))
    assert json.loads((folder / "all_results.json").read_text())["eval_mean_iou"] == max(scores)
    if name != "train":
        return
    # Killed between the last checkpoint and the results, it is only to be finished.
    expected = weights(folder)
    for file in [path for path in folder.iterdir() if path.is_file()]:
        file.unlink()
    tokens = arguments(data, folder, max_steps=4, learning_rate=0.3, load_best_model_at_end=True, **steps)
    train(name, [*tokens, "--resume_from_checkpoint", "last"])
    assert are_equal(weights(folder), expected)
    assert json.loads((folder / "all_results.json").read_text())["eval_mean_iou"] == max(scores)
    assert (folder / "scores_by_class.json").exists() and (folder / "preprocessor_config.json").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_resumed_training_that_asks_for_no_best_model_ends_with_its_last_weights(name, data, tmp_path):
    """Though its checkpoint knows a best score, and the folder holds the model of it."""
    settings = {**EVERY_STEP, "eval_strategy": "steps", "eval_steps": 1}
    folder = tmp_path / "out"
    train(name, arguments(data, folder, max_steps=2, load_best_model_at_end=True, **settings))
    settings |= {"max_steps": 4, "learning_rate": 0.3, "attn_implementation": "eager"}
    train(name, [*arguments(data, folder, **settings), "--resume_from_checkpoint", "last"])
    assert are_equal(weights(folder), weights(folder / "checkpoint-4"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_without_merging_equals_the_plain_vit_and_still_saves_a_merging_model(name, data, tmp_path):
    plain = {"config": {**TINY_CONFIG, "use_token_merging": False}}
    for folder, setting in (("steps", {"train_with_merging": False}), ("plain", plain)):
        train(name, arguments(data, tmp_path / folder, eval_strategy="no", save_strategy="no", **setting))
    assert are_equal(weights(tmp_path / "steps"), weights(tmp_path / "plain"))
    assert json.loads((tmp_path / "steps" / "config.json").read_text())["use_token_merging"] is True
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["use_token_merging"] is False
    assert history(tmp_path / "steps", "tokens_kept_percent") == [100.0] * 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_accumulation_clipping_layer_decay_and_workers_work_together(name, data, tmp_path):
    settings = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 3,  # does not divide the four batches of an epoch
        "max_grad_norm": 0.5,
        "optim": "adamw_torch",
        "weight_decay": 0.1,
        "layer_decay": 0.7,
        "dataloader_num_workers": 1,
        "gradient_checkpointing": True,
        "save_strategy": "no",
        "eval_strategy": "no",
    }
    train(name, arguments(data, tmp_path / name, **settings))
    assert np.isfinite(history(tmp_path / name, "loss")).all()
    assert history(tmp_path / name, "epoch")[:3] == pytest.approx(
        [0.75, 1, 1.75] if name == "train" else [0.5, 1, 1.5]
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stream_is_trained_on_pass_after_pass_and_resumed(name, data, tmp_path):
    """Five steps of two images from a shuffled stream of four: step 1 lies in the first pass, 3 in the second."""
    settings = {"streaming": True, "max_steps": 5, "shuffle_buffer_size": 3, **EVERY_STEP}
    whole = tmp_path / "whole"
    train(name, arguments(data, whole, **settings))
    for step in (1, 3):
        part = tmp_path / str(step)
        shutil.copytree(whole / f"checkpoint-{step}", part / f"checkpoint-{step}")
        train(name, [*arguments(data, part, **settings), "--resume_from_checkpoint=last"])
        assert are_equal(weights(whole), weights(part)), step
    with pytest.raises(SystemExit, match="max_steps"):
        train(name, arguments(data, tmp_path / "endless", streaming=True, max_steps=-1))


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_in_bfloat16_is_evaluated_in_float32(name, data, tmp_path):
    train(name, arguments(data, tmp_path / "out", bf16=True, max_steps=3, eval_strategy="steps", eval_steps=1))
    assert all(np.isfinite(history(tmp_path / "out", "loss")))
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "out").values())
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    scores = evaluated(tmp_path / "out", data)
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "tokens_mean"):
        assert results[f"eval_{key}"] == scores[key]
    train(name, arguments(data, tmp_path / "unscored", bf16=True, max_steps=3, eval_strategy="no"))
    assert are_equal(weights(tmp_path / "out"), weights(tmp_path / "unscored"))  # the next step is in bfloat16 again


@pytest.mark.parametrize("name", SCRIPTS)
def test_fine_tuning_a_saved_model_on_other_classes_runs(name, finished, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "classes.txt").write_text("sky\nroad\ncar\ntree", encoding="utf-8")
    labels = Image.open(other / "annotations" / "train" / "0.png")
    labels.putpixel((0, 0), 3)
    labels.save(other / "annotations" / "train" / "0.png")
    train(name, arguments(other, tmp_path / "out", {"merge_threshold": 0.5}, init_from=finished[name]))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["sky", "road", "car", "tree"]
    assert config["hidden_size"] == 16
