# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest
import torch
from places import ROOT

from algm_hf.benchmarking.heads import (
    FORMS,
    HeadBenchmarkArguments,
    class_scores,
    label_map_call,
    loss_call,
    peak_growth,
)


LINUX_ONLY = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's own peak is known on Linux")


@pytest.mark.parametrize("kind", ["regions", "noise"])
def test_both_forms_of_a_label_map_agree(kind):
    scores = class_scores(kind, 12, 8)
    plain, ours = (label_map_call(form, scores, 64)() for form in FORMS)
    assert plain.shape == (64, 64)
    assert torch.equal(plain, ours)


def test_scores_of_regions_are_won_by_the_classes_of_the_scene_and_those_of_noise_by_any():
    assert class_scores("regions", 40, 16).argmax(dim=0).lt(8).float().mean() > 0.98  # a scene has 8 classes
    assert class_scores("noise", 40, 16).argmax(dim=0).lt(8).float().mean() < 0.5


def test_both_forms_of_the_loss_have_the_same_gradient():
    plain, ours = (loss_call(form, 5, 4, 8)() for form in FORMS)
    assert plain.abs().max() > 1e-4
    torch.testing.assert_close(ours, plain, atol=1e-7, rtol=1e-4)


@LINUX_ONLY
def test_the_loss_takes_a_third_of_the_memory_of_all_pixels_or_less():
    arguments = HeadBenchmarkArguments()
    plain, ours = (peak_growth("loss", form, arguments) for form in FORMS)
    assert plain > 150  # the logits of all pixels alone are 150 * 512 * 512 float32
    assert plain >= 3 * ours


@LINUX_ONLY
@pytest.mark.parametrize("kind", ["regions", "noise"])
def test_label_maps_take_a_fifth_of_the_memory_of_all_pixels_or_less(kind):
    arguments = HeadBenchmarkArguments()
    plain, ours = (peak_growth(kind, form, arguments) for form in FORMS)
    assert plain > 140
    assert plain >= 5 * ours


@LINUX_ONLY
def test_the_script_writes_times_memory_and_agreement(tmp_path):
    output = tmp_path / "heads.json"
    command = [sys.executable, "scripts/benchmark_heads.py", "--num_labels", "9", "--grid", "8", "--repeats", "2"]
    command += ["--threads", "1", "--output", str(output)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    results = json.loads(output.read_text())
    assert results["arguments"]["num_labels"] == 9
    assert results["environment"]["threads"] == 1
    assert "benchmark_heads.py" in results["command"]
    for row in (*results["label_maps"].values(), results["loss"]):
        assert row["speed_up"] == pytest.approx(row["plain_ms"] / row["ours_ms"])
    assert all(row["equal"] for row in results["label_maps"].values())
    assert results["loss"]["largest_gradient_difference"] < 1e-6


@pytest.mark.parametrize("name, value", [("num_labels", 7), ("grid", 1), ("patch_size", 1), ("repeats", 0)])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name} is {value}, expected at least"):
        HeadBenchmarkArguments(**{name: value})
