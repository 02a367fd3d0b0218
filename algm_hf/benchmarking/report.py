# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a benchmark's results: facts about the run, JSON, a Markdown table and a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from ..runs.files import replace_file
from ..runs.provenance import describe_environment
from ..runs.tables import markdown_table
from .inputs import BenchmarkArguments


MODEL_FACTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
MODEL_FACTS += ("num_labels", "decoder_type", "local_merge_layer", "global_merge_layer", "inference_mode")


def describe_run(model: nn.Module, arguments: BenchmarkArguments) -> dict:
    """`model` and `environment` of a run: what was measured and on what, all printable as JSON."""
    facts = {name: getattr(model.config, name) for name in MODEL_FACTS}
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    environment = describe_environment(model, arguments.commit)
    return {"model": {"name": arguments.model, **facts}, "environment": environment}


# Of a row: heading, name in the JSON, format and unit.
COLUMNS = (
    ("tau", "merge_threshold", ".5f", ""),
    ("tokens", "tokens_mean", ".0f", ""),
    ("GFLOPs", "gflops_per_image", ".2f", ""),
    ("FLOP ratio", "flop_ratio", ".2f", ""),
    ("forward ms", "forward_ms", ".2f", ""),
    ("labels ms", "post_processing_ms", ".2f", ""),
    ("end to end ms", "end_to_end_ms", ".2f", ""),
    ("im/s", "images_per_second", ".1f", ""),
    ("speed-up", "speed_up", ".2f", "x"),
    ("efficiency", "efficiency", ".2f", ""),
    ("merging", "merging_share", ".1%", ""),
    ("end to end speed-up", "end_to_end_speed_up", ".2f", "x"),
    ("over dense", "end_to_end_speed_up_over_dense", ".2f", "x"),
)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def benchmark_table(configurations: Sequence[Mapping]) -> str:
    """One row for each contender of each configuration, as Markdown. Times are milliseconds per image."""
    header = ["row", "size", "batch", *(heading for heading, *_ in COLUMNS), "peak MiB"]
    rows = []
    for record in configurations:
        for row in record["rows"]:
            memory = row["peak_memory_bytes"]
            cells = [row["name"], "{} x {}".format(*record["resolution"]), record["batch_size"]]
            cells += [_number(row[key], form, unit) for _, key, form, unit in COLUMNS]
            rows.append([*cells, _number(memory and memory / 2**20, ".0f")])
    return markdown_table(header, rows)


def explain_table(results: Mapping) -> str:
    """The lines below the table: where, how, and what the columns are."""
    where, arguments = results["environment"], results["arguments"]
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    commit = where["commit"] or "unknown"
    changed = " with uncommitted changes" if where["uncommitted_changes"] else ""
    rows = [row for record in results["configurations"] for row in record["rows"]]
    spreads = [(row["forward_ms_quartiles"][1] - row["forward_ms_quartiles"][0]) / row["forward_ms"] for row in rows]
    skipped = [
        f"- not measured: {entry['name']}, {'x'.join(map(str, record['resolution']))}, batch {record['batch_size']}: "
        f"{entry['reason']}"
        for record in results["configurations"]
        for entry in record["skipped"]
    ]
    return "\n".join(
        [
            f"- {where['device_name']} ({where['device']}), {where['threads']} threads, {where['dtype']}, attention "
            f"{where['attention']}, {versions}, commit {commit}{changed}",
            f"- `{results['command']}`",
            f"- medians of {arguments['repeats']} runs after {arguments['warmup']}, rows taking turns in one process; "
            "batches of different images; milliseconds per image; im/s of the forward pass",
            f"- noise: the middle half of a row's forward times spreads over {100 * max(spreads, default=0):.0f} % of "
            f"their median at most; load average before the run: {_number(where['load_average_at_start'], '.1f')}",
            "- tokens: mean over layers and images; tau: the merge threshold; labels: logits to label maps; end to "
            "end: from PIL images to label maps; over dense: against unmerged with interpolate + argmax, end to end",
            "- speed-up and FLOP ratio against the fastest unmerged row (encoders against transformers' ViTModel); "
            "efficiency = speed-up / FLOP ratio; 1.0 is the limit; merging: time of both merges and of restoring, in "
            "percent of the unmerged forward pass",
            "- peak memory: weights and what forward pass and label maps take at most (on CUDA "
            "`torch.cuda.max_memory_allocated`, on Linux the growth of the process)",
            *skipped,
        ]
    )


def save_results(results: Mapping, path: str | os.PathLike) -> None:
    """Writes the JSON and, beside it, the Markdown table; a file is either the old or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(results, indent=2) + "\n")
    replace_file(
        path.with_suffix(".md"), f"{benchmark_table(results['configurations'])}\n\n{explain_table(results)}\n"
    )


def plot_results(results: Mapping, path: str | os.PathLike) -> None:
    """Draws speed-up against FLOP ratio with the limit of merging and, of several resolutions, time against them."""
    from matplotlib.figure import Figure  # a bare machine with an accelerator may lack it

    configurations = [record for record in results["configurations"] if record["rows"]]
    several = len({tuple(record["resolution"]) for record in configurations}) > 1
    figure = Figure(figsize=(12 if several else 6, 5), layout="constrained")
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _plot_speed_ups(axes[0], configurations)
    if several:
        _plot_times(axes[1], configurations)
    where = results["environment"]
    figure.suptitle(f"ViT {results['model']['name']}, {where['device_name']}, {where['dtype']}", fontsize=10)
    figure.savefig(path, dpi=120)


def _plot_speed_ups(axis, configurations: Sequence[Mapping]) -> None:
    largest = 1.1
    for record in configurations:
        for compiled in (False, True):
            points = [row for row in record["rows"] if row["kind"] == "merged" and row["compiled"] == compiled]
            pairs = sorted((row["flop_ratio"], row["speed_up"]) for row in points)
            if not pairs:
                continue
            label = f"{'x'.join(map(str, record['resolution']))}, batch {record['batch_size']}"
            label += ", compiled" * compiled
            axis.plot(*zip(*pairs, strict=True), marker="o", linestyle=":", label=label)
            largest = max(largest, *(value for pair in pairs for value in pair))
    axis.plot([1, 1.05 * largest], [1, 1.05 * largest], color="black", linewidth=1, label="limit of merging")
    axis.axhline(1, color="grey", linewidth=0.5)
    axis.set(xlabel="FLOPs unmerged / merged", ylabel="time unmerged / merged (forward)")
    axis.legend(fontsize=8)


def _plot_times(axis, configurations: Sequence[Mapping]) -> None:
    """A line for each row and batch size over the square root of the number of pixels."""
    lines: dict[tuple, list[tuple[float, float]]] = {}
    for record in configurations:
        side = (record["resolution"][0] * record["resolution"][1]) ** 0.5
        for row in record["rows"]:
            # At a fixed threshold the rows of all resolutions share their name, and so they do at a fixed target.
            lines.setdefault((row["name"], record["batch_size"]), []).append((side, row["forward_ms"]))
    for (name, batch_size), points in lines.items():
        axis.plot(*zip(*sorted(points), strict=True), marker="o", label=f"{name}, batch {batch_size}")
    axis.set(xlabel="resolution in pixels", ylabel="forward, ms per image", yscale="log")
    axis.legend(fontsize=7)


__all__ = ["benchmark_table", "describe_run", "explain_table", "plot_results", "save_results"]
