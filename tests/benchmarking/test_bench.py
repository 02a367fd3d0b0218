# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from places import ROOT, script
from tiny_models import blocky_images, tiny_config, tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from algm_hf import AlgmImageProcessor
from algm_hf.benchmarking.bench import Bench, compare_rows, dense_label_maps, efficiency, run_benchmark
from algm_hf.benchmarking.flops import count_flops, varlen_attention_flops
from algm_hf.benchmarking.inputs import BenchmarkArguments, benchmark_images, build_other, build_segmenter, build_vit
from algm_hf.benchmarking.report import benchmark_table
from algm_hf.benchmarking.thresholds import find_threshold
from algm_hf.data.drawn_scenes import make_scene
from algm_hf.runs.models import config_settings


SCRIPT = ROOT / "scripts" / "benchmark.py"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
FIELDS = {"device": "cpu", "repeats": 1, "warmup": 0}


def run_script(*arguments, code=0, launcher=(str(SCRIPT),), environment=ENVIRONMENT):
    command = [sys.executable, *launcher, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    AlgmImageProcessor(size=64, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Three different images, one of them twice."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, seed in {"a": 0, "b": 1, "b again": 1, "c": 2}.items():
        make_scene(seed, (70, 90))[0].save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def bench(checkpoint):
    arguments = BenchmarkArguments(model=str(checkpoint), merge_thresholds=[0.6], **FIELDS)
    images = benchmark_images(arguments, (128, 128), 2)
    return Bench(arguments, (128, 128), images, build_segmenter(arguments, (128, 128)))


# A row as it is before it is compared with others.
def row(name, kind, milliseconds, gflops, tokens=None, end_to_end=None):
    known = {
        "name": name,
        "kind": kind,
        "compiled": "compiled" in name,
        "forward_ms": milliseconds,
        "gflops_per_image": gflops,
    }
    return known | {"tokens_mean": tokens, "end_to_end_ms": end_to_end, "merging_ms": 2.0}


def test_efficiency_is_the_share_of_saved_flops_that_is_saved_time():
    # 2.0 s to 1.25 s is 1.6 times as fast; 30 to 15 GFLOPs is half: 1.6 of the 2.0 that were possible.
    assert efficiency(2.0, 1.25, 30e9, 15e9) == pytest.approx(0.8)
    # Saved FLOPs that cost nothing less leave half, saved time in full leaves 1.
    assert efficiency(1.0, 1.0, 2.0, 1.0) == 0.5
    assert efficiency(3.0, 2.0, 1.5, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["seconds_unmerged", "seconds_merged", "flops_unmerged", "flops_merged"])
def test_efficiency_of_nothing_is_refused(name):
    values = dict.fromkeys(("seconds_unmerged", "seconds_merged", "flops_unmerged", "flops_merged"), 1.0) | {name: 0.0}
    with pytest.raises(ValueError, match=f"{name}=0.0"):
        efficiency(**values)


def test_rows_are_compared_with_the_fastest_unmerged_one_and_encoders_with_the_plain_vit():
    rows = [
        row("unmerged", "unmerged", 100.0, 40.0, 1000, 160.0),
        row("dense", "dense", 101.0, 40.0, 1000, 400.0),
        row("unmerged, compiled", "unmerged", 80.0, 40.0, 1000, 140.0),
        row("merged", "merged", 50.0, 20.0, 450, 70.0),
        row("encoder", "encoder", 61.0, 30.0, 1000),
        row("vit", "vit", 60.0, 30.0),
        row("vit, compiled", "vit", 30.0, 30.0),
        row("segformer", "other", 40.0, 10.0, None, 280.0),
    ]
    compared = compare_rows(rows)
    found = {entry["name"]: entry for entry in compared["rows"]}
    assert compared["baseline"] == "unmerged, compiled"
    merged = found["merged"]
    assert merged["speed_up"] == pytest.approx(1.6)
    assert merged["flop_ratio"] == pytest.approx(2.0)
    assert merged["efficiency"] == pytest.approx(0.8)
    assert merged["token_ratio"] == pytest.approx(0.45)
    assert merged["merging_share"] == pytest.approx(2.0 / 80)
    assert merged["end_to_end_speed_up"] == pytest.approx(2.0)
    assert merged["end_to_end_speed_up_over_dense"] == pytest.approx(400 / 70)
    assert (merged["compared_with"], found["encoder"]["compared_with"]) == ("unmerged, compiled", "vit")
    assert found["encoder"]["speed_up"] == pytest.approx(60 / 61)
    assert found["segformer"]["speed_up"] == pytest.approx(2.0)
    assert found["segformer"]["flop_ratio"] == pytest.approx(4.0)
    assert [name for name, entry in found.items() if entry["efficiency"] is not None] == ["merged"]


def test_flops_of_an_unmerged_model_are_those_of_the_formula():
    model = tiny_model(decoder_num_hidden_layers=1, decoder_hidden_size=48, decoder_num_attention_heads=3)
    config, batch = model.config, 3
    width, inner, grid = config.hidden_size, config.intermediate_size, 64 // config.patch_size
    patches, labels, decoder = grid**2, config.num_labels, 48

    def layer(tokens, channels, hidden):
        linear = tokens * channels * (3 * channels + channels + 2 * hidden)  # q, k, v, output, MLP
        attention = 2 * tokens * tokens * channels  # scores and weighted sum, all heads
        return linear + attention

    multiply_accumulates = patches * 3 * config.patch_size**2 * width
    multiply_accumulates += config.num_hidden_layers * layer(patches + 1, width, inner)
    multiply_accumulates += patches * width * decoder
    multiply_accumulates += layer(patches + labels, decoder, 4 * decoder)
    multiply_accumulates += (patches + labels) * decoder * decoder + patches * labels * decoder
    pixel_values = blocky_images(batch, 64, 64)
    with config_settings(model, use_token_merging=False):
        assert count_flops(lambda: model(pixel_values)) == 2 * multiply_accumulates * batch


def test_attention_is_counted_alike_whatever_runs_it():
    query = torch.randn(2, 4, 10, 8)
    expected = 2 * 2 * 2 * 4 * 10 * 10 * 8
    assert count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query)) == expected
    assert count_flops(lambda: (query @ query.transpose(2, 3)) @ query) == expected


def test_attention_on_packs_counts_each_sequence_by_itself():
    lengths, heads, head_dim = [3, 7, 5], 2, 8
    states = torch.randn(sum(lengths), heads, head_dim)
    boundaries = torch.tensor([0, 3, 10, 15], dtype=torch.int32)
    pieces = [piece.transpose(0, 1)[None] for piece in states.split(lengths)]
    expected = sum(
        count_flops(lambda piece=piece: torch.nn.functional.scaled_dot_product_attention(piece, piece, piece))
        for piece in pieces
    )
    assert varlen_attention_flops(states, states, states, boundaries, boundaries, 7, 7) == expected
    assert expected == 2 * 2 * (9 + 49 + 25) * heads * head_dim


def test_counter_hands_over_the_boundaries_of_the_packed_kernel():
    # The kernel runs on CUDA only. On the meta device the operator computes nothing, but it is counted all the same.
    pytest.importorskip("torch.nn.attention.varlen", reason="this build of torch has no variable-length attention")
    states = torch.empty(15, 2, 8, device="meta", dtype=torch.bfloat16)
    boundaries = torch.tensor([0, 3, 10, 15], dtype=torch.int32)
    flops = count_flops(
        lambda: torch.ops.torch_attn._varlen_attn(states, states, states, boundaries, boundaries, 7, 7)
    )
    assert flops == 2 * 2 * (9 + 49 + 25) * 2 * 8


def test_counting_leaves_the_counter_of_torch_as_it_was():
    query = torch.randn(1, 1, 4, 8)

    def attend():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)

    def plain_count():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            attend()
        return counter.get_total_flops()

    before = plain_count()
    assert count_flops(attend) > 0
    assert plain_count() == before


def test_fewer_tokens_are_fewer_flops():
    model = tiny_model()
    pixel_values = blocky_images(2, 64, 64)
    found = []
    for threshold in (1.0, 0.7, 0.3, -1.0):
        with config_settings(model, merge_threshold=threshold):
            tokens = model(pixel_values, output_token_merging=True).token_counts.sum().item()
            found.append((tokens, count_flops(lambda: model(pixel_values))))
    assert len({tokens for tokens, _ in found}) == len(found)
    assert sorted(found, reverse=True) == found
    assert [flops for _, flops in found] == sorted({flops for _, flops in found}, reverse=True)


@pytest.mark.parametrize("target", [0.2, 0.5, 0.93])
def test_bisection_reaches_its_target_where_similarities_crowd_below_one(target):
    def share(threshold):  # everything happens in the last thousandth of the range
        return min(1.0, max(0.1, 1 - (1 - threshold) * 1000))

    threshold, reached = find_threshold(share, target, tolerance=0.01)
    assert share(threshold) == reached == pytest.approx(target, rel=0.01)


def test_bisection_takes_the_nearest_step_and_refuses_what_no_threshold_reaches():
    steps = {-2: 0.25, 0.1: 0.5, 0.6: 1.0}

    def share(threshold):
        return max(value for start, value in steps.items() if threshold >= start)

    threshold, reached = find_threshold(share, 0.55, tolerance=0.01)
    assert reached == 0.5 == share(threshold)
    with pytest.raises(ValueError, match="target=0.1: expected 0.2500 to 1.0000"):
        find_threshold(share, 0.1)


def test_wanted_ratios_are_reached_by_every_measured_row(bench):
    bench.arguments.token_ratios, bench.arguments.flop_ratios = [0.6], [1.5]
    record = bench.measure(bench.contenders())
    rows = {entry["name"]: entry for entry in record["rows"]}
    by_tokens, by_flops = rows["merged, token ratio 0.6"], rows["merged, flop ratio 1.5"]
    plain = rows["unmerged"]
    assert by_tokens["tokens_mean"] / plain["tokens_mean"] == pytest.approx(0.6, rel=0.02)
    assert plain["gflops_per_image"] / by_flops["gflops_per_image"] == pytest.approx(1.5, rel=0.02)
    assert by_tokens["token_ratio"] == pytest.approx(by_tokens["tokens_mean"] / 257)
    for entry in (by_tokens, by_flops):
        speed_up = plain["forward_ms"] / entry["forward_ms"]
        saved = plain["gflops_per_image"] / entry["gflops_per_image"]
        assert entry["efficiency"] == pytest.approx(speed_up / saved)
    if sys.platform.startswith("linux"):
        assert all(entry["peak_memory_bytes"] >= 4 * entry["parameters"] for entry in record["rows"])
    assert bench.model.config.use_token_merging is True


def test_unreachable_ratio_is_refused_by_its_name(bench):
    bench.arguments.flop_ratios = [1000.0]
    with pytest.raises(ValueError, match=r"--flop_ratios=1000\.0"):
        bench.contenders()


def test_images_of_a_batch_differ(bench, folder):
    arguments = BenchmarkArguments(images=str(folder), **FIELDS)
    found = benchmark_images(arguments, (64, 96), 3)
    assert {image.size for image in found} == {(96, 64)}
    assert len({image.tobytes() for image in found}) == 3  # the copy was passed over
    drawn = benchmark_images(BenchmarkArguments(**FIELDS), (64, 64), 4)
    assert len({image.tobytes() for image in drawn}) == 4
    assert len(bench.pixel_values.flatten(1).unique(dim=0)) == 2
    record = bench.measure(bench.contenders())
    assert len(set(record["images"])) == record["batch_size"] == 2
    merged = next(entry for entry in record["rows"] if entry["kind"] == "merged")
    assert len(set(merged["tokens_final_of_each_image"])) == 2


def test_too_few_images_are_refused(folder):
    arguments = BenchmarkArguments(images=str(folder), **FIELDS)
    with pytest.raises(ValueError, match="--images=.*at least 4 different"):
        benchmark_images(arguments, (64, 64), 4)
    with pytest.raises(ValueError, match="--images='nowhere'"):
        benchmark_images(BenchmarkArguments(images="nowhere", **FIELDS), (64, 64), 1)


def test_plain_vit_has_the_cost_of_our_encoder_with_merging_off(bench):
    vit = build_vit(bench.arguments, bench.model, (128, 128))
    rows = {entry["name"]: entry for entry in bench.measure(bench.contenders(vit=vit))["rows"]}
    ours, theirs = rows["encoder, merging off"], rows["transformers ViTModel"]
    assert ours["gflops_per_image"] == theirs["gflops_per_image"]
    assert ours["speed_up"] == pytest.approx(theirs["forward_ms"] / ours["forward_ms"])
    assert ours["flop_ratio"] == 1.0
    assert ours["efficiency"] is None and ours["end_to_end_ms"] is None


def test_other_models_get_their_row_from_a_type_a_config_or_a_folder(bench, tmp_path):
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16], num_attention_heads=[1, 2],
        patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    arguments = bench.arguments
    names = [str(tmp_path), str(tmp_path / "config.json")]
    others = [(name, build_other(arguments, name, 5, (128, 128))) for name in names]
    rows = bench.measure(bench.contenders(others=others))["rows"][-2:]
    assert [entry["name"] for entry in rows] == names
    assert all(entry["end_to_end_ms"] > 0 and entry["gflops_per_image"] > 0 for entry in rows)
    assert build_other(arguments, "segformer", 7, (64, 64)).config.num_labels == 7
    with pytest.raises(ValueError, match="--compare='bert'"):
        build_other(arguments, "bert", 5, (64, 64))


def test_dense_label_maps_are_those_of_the_processor():
    model = tiny_model()
    outputs = model(blocky_images(2, 64, 64))
    processor = AlgmImageProcessor(size=64, patch_size=8)
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70), (64, 64)])
    for dense, exact in zip(dense_label_maps(outputs, [(50, 70), (64, 64)]), expected, strict=True):
        assert torch.equal(dense, exact)


def test_what_cannot_run_is_named_and_the_others_are_measured(bench):
    class Broken(torch.nn.Module):
        config = tiny_config()

        def forward(self, pixel_values):
            raise RuntimeError("no such kernel")

    record = bench.measure(bench.contenders(others=[("broken", Broken())]))
    assert record["skipped"] == [{"name": "broken", "reason": "RuntimeError: no such kernel"}]
    assert {"unmerged", "merged"} <= {entry["kind"] for entry in record["rows"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "int8"}, "--dtype='int8'"),
        ({"attention": "flash_attention_2"}, "--attention='flash_attention_2'"),
        ({"batch_sizes": [1, 0]}, "--batch_sizes=0"),
        ({"merge_thresholds": [1.5]}, "--merge_thresholds=1.5"),
        ({"token_ratios": [0.0]}, "--token_ratios=0.0"),
        ({"flop_ratios": [0.5]}, "--flop_ratios=0.5"),
        ({"resolutions": ["5l2"]}, "--resolutions='5l2'"),
        ({"resolutions": []}, "--resolutions=\\[\\]"),
        ({"repeats": 0}, "--repeats=0"),
        ({"warmup": -1}, "--warmup=-1"),
        ({"threads": 0}, "--threads=0"),
        ({"output": "table"}, "--output='table'"),
    ],
)
def test_arguments_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkArguments(**{**FIELDS, **fields})


def test_models_and_resolutions_that_do_not_fit_are_refused(checkpoint):
    with pytest.raises(ValueError, match="--resolutions=100"):
        build_segmenter(BenchmarkArguments(model=str(checkpoint), **FIELDS), (100, 100))
    with pytest.raises(ValueError, match="--resolutions=520"):
        build_segmenter(BenchmarkArguments(model="ti", **FIELDS), (512, 520))


def test_presets_are_the_backbones_of_the_paper():
    arguments = BenchmarkArguments(model="ti", **FIELDS)
    assert arguments.flop_ratios == [1.47]
    model, processor = build_segmenter(arguments, (64, 96))
    config = model.config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (192, 3, 12)
    assert (config.patch_size, config.num_labels, config.decoder_type) == (16, 150, "mask_transformer")
    assert processor(make_scene(0, (80, 80))[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 96)
    again, _ = build_segmenter(arguments, (64, 96))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_results_are_handed_over_after_every_configuration(checkpoint):
    arguments = BenchmarkArguments(
        model=str(checkpoint), resolutions=["64", "64x96"], batch_sizes=[1, 2], merge_thresholds=[0.6],
        vit_row=False, dense_row=False, **FIELDS,
    )  # fmt: skip
    counts = []
    results = run_benchmark(arguments, lambda so_far: counts.append(len(so_far["configurations"])))
    assert counts == [0, 1, 2, 3, 4, 4]
    assert results["complete"] is True
    assert [record["resolution"] for record in results["configurations"]] == [[64, 64]] * 2 + [[64, 96]] * 2
    table = benchmark_table(results["configurations"])
    assert len(table.splitlines()) == 2 + sum(len(record["rows"]) for record in results["configurations"])


def test_script_measures_a_saved_model_and_writes_json_table_and_plot(checkpoint, tmp_path, monkeypatch, capsys):
    output = tmp_path / "results" / "tiny.json"
    arguments = ["--model", checkpoint, "--resolutions", "64", "96", "--batch_sizes", "2", "--repeats", "2"]
    arguments += ["--warmup", "1", "--merge_thresholds", "0.5", "--device", "cpu", "--threads", "1"]
    arguments += ["--commit", "abc123", "--output", output]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    assert script("benchmark").main() == 0
    results = json.loads(output.read_text())
    assert results["complete"] is True
    assert results["command"].startswith("python ") and "--merge_thresholds 0.5" in results["command"]
    where = results["environment"]
    assert (where["device"], where["threads"], where["dtype"], where["commit"]) == ("cpu", 1, "float32", "abc123")
    assert {"torch", "transformers"} <= set(where["versions"])
    assert [len(record["rows"]) for record in results["configurations"]] == [5, 5]
    table = output.with_suffix(".md").read_text()
    assert table.splitlines()[0] in capsys.readouterr().out
    with Image.open(output.with_suffix(".png")) as plot:
        assert plot.width > plot.height  # speed-ups beside times, as there are two resolutions


def test_script_needs_torch_transformers_numpy_and_pillow_only(checkpoint, tmp_path):
    # An environment that lacks the other packages, as that of a bare machine with an accelerator: links to what is
    # installed here without them, and no site-packages.
    absent = re.compile(
        r"(datasets|torchvision|matplotlib|evaluate|accelerate|scipy|sklearn|scikit|timm|pandas|pyarrow|pytest)\b"
    )
    farm = tmp_path / "packages"
    farm.mkdir()
    for entry in Path(torch.__file__).parents[1].iterdir():
        if not absent.match(entry.name.replace("-", " ").replace("_", " ")):
            (farm / entry.name).symlink_to(entry)
    environment = ENVIRONMENT | {"PYTHONPATH": f"{farm}{os.pathsep}{ROOT}"}
    output = tmp_path / "bare.json"
    arguments = ["--model", checkpoint, "--resolutions", "64", "--repeats", "1", "--warmup", "0", "--device", "cpu"]
    done = run_script(*arguments, "--output", output, launcher=("-S", str(SCRIPT)), environment=environment)
    assert "no plot: matplotlib is not installed" in done.stderr
    results = json.loads(output.read_text())
    assert results["complete"] is True
    assert set(results["environment"]["versions"]) == {"torch", "transformers", "numpy", "pillow"}


def test_interrupted_script_keeps_what_was_measured(checkpoint, tmp_path):
    output, log = tmp_path / "results.json", tmp_path / "log"
    arguments = ["--model", checkpoint, "--resolutions", "64", "512", "--repeats", "60", "--warmup", "0"]
    arguments += ["--merge_thresholds", "0.6", "--device", "cpu", "--output", output]
    with log.open("w") as stream:
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while not (output.exists() and json.loads(output.read_text())["configurations"]):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130, log.read_text()
        finally:
            process.kill()
    assert "Interrupted: 1 of 2 configurations were measured" in log.read_text()
    results = json.loads(output.read_text())
    assert results["complete"] is False
    (record,) = results["configurations"]
    assert record["resolution"] == [64, 64] and len(record["rows"]) == 5
    assert all(entry["forward_ms"] > 0 for entry in record["rows"])
    assert output.with_suffix(".md").read_text().count("64 x 64") == 5
    assert list(tmp_path.glob("*.partial")) == []


def test_script_refuses_with_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--dtype", "int8", "--output", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match="^error: --dtype='int8': [^\n]*$"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_compiled_rows_stand_beside_the_others(bench):
    bench.arguments.compile = True
    contenders = bench.contenders()
    compiled = [contender for contender in contenders if contender.compiled is not None]
    assert [contender.kind for contender in compiled] == ["unmerged", "merged"]
    assert all(contender.model is not bench.model for contender in compiled)
    for contender in compiled:  # the same graphs without the minutes that generating code takes
        contender.model.compile(dynamic=True, backend="eager")
    record = bench.measure(contenders)
    names = [entry["name"] for entry in record["rows"]]
    assert names[-2:] == ["unmerged, compiled", "merged, tau 0.6, compiled"]
    assert record["baseline"] in ("unmerged", "unmerged, compiled")
    rows = {entry["name"]: entry for entry in record["rows"]}
    assert rows["merged, tau 0.6"]["gflops_per_image"] == rows["merged, tau 0.6, compiled"]["gflops_per_image"]
