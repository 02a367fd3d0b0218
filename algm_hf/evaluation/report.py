# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What becomes of an evaluation's results: JSON, Markdown tables, the curve of speed and quality as CSV and plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..runs.files import replace_file
from ..runs.tables import markdown_table


CURVE = ("name", "use_token_merging", "merge_threshold", "mean_iou", "mean_accuracy", "overall_accuracy")
CURVE += ("tokens_mean", "tokens_final", "tokens_unmerged", "token_share")
CURVE += ("images_per_second", "images_per_second_end_to_end", "num_images")


def summary_table(settings: Sequence[Mapping]) -> str:
    """One row for each setting, as Markdown: scores, tokens and speed."""
    header = ["merging", "mIoU", "mean accuracy", "pixel accuracy", "tokens, mean of layers", "tokens, last layer"]
    header += ["token share", "im/s", "im/s end to end"]
    rows = []
    for result in settings:
        row = [result["name"]]
        row += [f"{100 * result[name]:.2f}" for name in ("mean_iou", "mean_accuracy", "overall_accuracy")]
        row += [
            f"{result['tokens_mean']:.1f}",
            f"{result['tokens_final']:.1f}",
            f"{100 * result['token_share']:.1f} %",
        ]
        rows.append(row + [f"{result[name]:.2f}" for name in ("images_per_second", "images_per_second_end_to_end")])
    return markdown_table(header, rows)


def classes_table(classes: Sequence[str], settings: Sequence[Mapping]) -> str:
    """One row for each class, as Markdown: IoU and accuracy in per cent under each setting, `-` where undefined."""
    header = ["class"]
    for result in settings:
        header += [f"IoU {result['name']}", f"accuracy {result['name']}"]
    rows = []
    for index, name in enumerate(classes):
        row = [name]
        for result in settings:
            values = (result["per_category_iou"][index], result["per_category_accuracy"][index])
            row += ["-" if value is None or np.isnan(value) else f"{100 * value:.2f}" for value in values]
        rows.append(row)
    return markdown_table(header, rows)


def explain_results(results: Mapping) -> str:
    """The lines below the tables: what was evaluated, where, and what the columns are."""
    where, model, arguments = results["environment"], results["model"], results["arguments"]
    size = " x ".join(f"{side} {length}" for side, length in model["image_size"].items())
    mode = "whole images"
    if model["inference_mode"] == "slide":
        mode = f"windows of {model['window_size']}, stride {model['window_stride'] or model['window_size']}"
    scales = ", ".join(f"{scale:g}" for scale in arguments["scales"]) + (" and mirrored" if arguments["flip"] else "")
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    num_images = results["settings"][0]["num_images"] if results["settings"] else 0
    lines = [
        f"- {num_images} images of {results['data_arguments']['dataset']} "
        f"({results['data_arguments']['eval_split']}), compared at their own size; {mode}, {size}, scales {scales}",
        f"- `{results['command']}`",
        f"- {where['device_name']} ({where['device']}), {where['processes']} process(es) of {where['threads']} "
        f"threads, {where['dtype']}, attention {where['attention']}, batches of {arguments['batch_size']}, {versions}",
        "- scores in per cent; tokens: mean over images, special tokens counted, summed over windows and scales; "
        "share: of the tokens without merging, mean of the layers",
        "- im/s: from tensors to label maps; end to end: with reading, resizing and counting",
    ]
    lines += [
        f"- metric {arguments['metric']} ({result['name']}): {json.dumps(plain(result['metric']))}"
        for result in results["settings"]
        if result.get("metric") is not None
    ]
    skipped = [f"    - {line}" for line in results["skipped"]]
    return "\n".join(lines + ([f"- {len(skipped)} samples were left out:", *skipped] if skipped else []))


def results_text(results: Mapping) -> str:
    """Both tables and what they mean, as Markdown."""
    settings = results["settings"]
    return "\n\n".join(
        [summary_table(settings), classes_table(results["classes"], settings), explain_results(results)]
    )


def plain(value: Any) -> Any:
    """A value as JSON knows it: arrays become lists, NaN becomes `None`."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def save_results(results: Mapping, folder: Path, plot: bool = True) -> None:
    """Writes `results.json`, `results.md`, `curve.csv` and, of several settings, `curve.png`.

    A file is either the old or the new one, never half.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "results.json", json.dumps(plain(results), indent=2) + "\n")
    replace_file(folder / "results.md", results_text(results) + "\n")
    replace_file(folder / "curve.csv", curve_csv(results["settings"]))
    if plot and len(results["settings"]) > 1:
        plot_curve(results, folder / "curve.png")


def curve_csv(settings: Sequence[Mapping]) -> str:
    """One line for each setting with the columns [`CURVE`]; scores 0 to 1, empty where undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in plain(row).items()} for row in settings)
    return text.getvalue()


def plot_curve(results: Mapping, path: Path) -> None:
    """Draws mIoU against images per second and against the share of tokens, a point for each setting."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    batches = f"batches of {results['arguments']['batch_size']}"
    columns = (
        ("images_per_second", 1, f"images per second ({results['environment']['device_name']}, {batches})"),
        ("token_share", 100, "tokens left, mean of the layers, per cent"),
    )
    for axis, (name, factor, label) in zip(figure.subplots(1, 2), columns, strict=True):
        _plot_points(axis, results["settings"], name, factor)
        axis.set(xlabel=label, ylabel="mIoU, per cent")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _plot_points(axis, settings: Sequence[Mapping], name: str, factor: float) -> None:
    """Settings with merging joined in the order of their thresholds, the one without it as a square."""
    points = {result["name"]: (factor * result[name], 100 * result["mean_iou"]) for result in settings}
    merged = sorted(
        (result for result in settings if result["use_token_merging"]), key=lambda result: result["merge_threshold"]
    )
    if merged:
        axis.plot(*zip(*(points[result["name"]] for result in merged), strict=True), "o-", label="merging on")
    if len(merged) < len(settings):
        plain_points = [points[result["name"]] for result in settings if not result["use_token_merging"]]
        axis.plot(*zip(*plain_points, strict=True), "ks", label="merging off")
    for result in merged:
        axis.annotate(result["name"], points[result["name"]], textcoords="offset points", xytext=(5, 5), fontsize=8)
    axis.margins(0.12)
    axis.legend(fontsize=8)


__all__ = [
    "CURVE",
    "classes_table",
    "curve_csv",
    "explain_results",
    "plain",
    "plot_curve",
    "results_text",
    "save_results",
    "summary_table",
]
