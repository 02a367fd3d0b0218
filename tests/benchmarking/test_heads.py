# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest
import torch
from places import script

from algm_hf.benchmarking.heads import FORMS, HeadBenchmarkArguments, class_scores, label_map_call, loss_call


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's own peak is known on Linux")
def test_both_forms_agree_and_ours_takes_a_fraction_of_the_memory_of_all_pixels(tmp_path, monkeypatch):
    output = tmp_path / "results" / "heads.json"
    threads = str(torch.get_num_threads())
    command = ["benchmark_heads.py", "--repeats", "1", "--threads", threads, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    assert script("benchmark_heads").main() == 0
    results = json.loads(output.read_text())
    assert results["arguments"]["num_labels"] == 150
    assert results["environment"]["threads"] == torch.get_num_threads()
    assert "benchmark_heads.py" in results["command"]
    for row in (*results["label_maps"].values(), results["loss"]):
        assert row["speed_up"] == pytest.approx(row["plain_ms"] / row["ours_ms"])
        assert row["plain_peak_mib"] > 140  # the scores of all pixels alone are 150 * 512 * 512 float32
    assert all(row["equal"] and row["memory_ratio"] >= 5 for row in results["label_maps"].values())
    assert results["loss"]["largest_gradient_difference"] < 1e-6
    assert results["loss"]["memory_ratio"] >= 3


@pytest.mark.parametrize("name, value", [("num_labels", 7), ("grid", 1), ("patch_size", 1), ("repeats", 0)])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        HeadBenchmarkArguments(**{name: value})
