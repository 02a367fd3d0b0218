# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the performance section of README.md anew from benchmarks/*.json: `python scripts/update_readme.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.runs.tables import markdown_table


ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- performance: written by scripts/update_readme.py from benchmarks/*.json -->"
END = "<!-- performance: end -->"
MODELS = {"ti": "ViT-Ti", "s": "ViT-S", "b": "ViT-B", "l": "ViT-L"}


@dataclass
class ReadmeArguments:
    """Where the figures come from and where they go."""

    readme: str = field(default=str(ROOT / "README.md"), metadata={"help": "The file with the two marks."})
    benchmarks: str = field(default=str(ROOT / "benchmarks"), metadata={"help": "Folder of the JSON files."})


def performance_section(folder: str | Path) -> str:
    """
    Tables of all results in a folder: merging, merging off against transformers' ViT, compiled models, label maps and
    loss, each with the commands that made them.

    Args:
        folder (`str` or `Path`): Where `scripts/benchmark.py` and `scripts/benchmark_heads.py` left their JSON files.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: if a file is no result of those scripts, or the folder holds none of either.
    """
    models, heads = [], []
    for path in sorted(Path(folder).glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if "configurations" in results:
            models.append(results)
        elif "label_maps" in results:
            heads.append(results)
        else:
            raise ValueError(f"{path} has the keys {sorted(results)}: expected a result of one of the benchmarks.")
        results["file"] = path.name
    if not models or not heads:
        raise ValueError(f"{folder} has {len(models)} and {len(heads)} results: expected at least one of each script.")
    known = list(MODELS)
    models.sort(
        key=lambda results: (
            results["environment"]["device"],
            known.index(results["model"]["name"]) if results["model"]["name"] in known else len(known),
        )
    )
    parts = [_merging_table(models), _compiled_lines(models), _heads_table(heads), _commands(models + heads)]
    return "\n\n".join(part for part in parts if part)


def _rows_of(models: Sequence[Mapping]):
    for results in models:
        for record in results["configurations"]:
            if record["rows"]:
                yield results, record, {"merged": [], **_by_kind(record["rows"])}


def _by_kind(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    kinds: dict[str, list[Mapping]] = {}
    for row in rows:
        if not row["compiled"]:
            kinds.setdefault(row["kind"], []).append(row)
    return kinds


def _merging_table(models: Sequence[Mapping]) -> str:
    header = [
        "Model",
        "Size",
        "Batch",
        "Where",
        "Tokens kept",
        "FLOP ratio",
        "Speed-up",
        "Efficiency",
        "Merging itself",
    ]
    header += ["End to end over interpolate + argmax", "Merging off, against ViTModel"]
    table = []
    for results, record, kinds in _rows_of(models):
        off = kinds.get("encoder", [{"speed_up": None}])[0]["speed_up"]
        name = results["model"]["name"]
        for row in kinds["merged"]:
            dense, share = row["end_to_end_speed_up_over_dense"], row["merging_share"]
            table.append(
                [
                    MODELS.get(name, name),
                    "{} x {}".format(*record["resolution"]),
                    record["batch_size"],
                    _where(results),
                    f"{100 * row['token_ratio']:.0f} %",
                    f"{row['flop_ratio']:.2f}",
                    f"{row['speed_up']:.2f}x",
                    f"{row['efficiency']:.2f}",
                    "-" if share is None else f"{100 * share:.1f} %",
                    "-" if dense is None else f"{dense:.2f}x",
                    "-" if off is None else f"{off:.2f}x",
                ]
            )
    return markdown_table(header, table)


def _where(results: Mapping) -> str:
    where = results["environment"]
    on = f"{where['threads']} CPU threads" if where["device"] == "cpu" else where["device_name"]
    return f"{on}, {where['dtype']}"


def _compiled_lines(models: Sequence[Mapping]) -> str:
    header = ["Model", "Batch", "Row", "Uncompiled ms", "Compiled ms", "Compiled is"]
    table = []
    for results, record, _ in _rows_of(models):
        rows = {row["name"]: row for row in record["rows"]}
        for name, row in rows.items():
            plain = rows.get(name.removesuffix(", compiled"))
            if row["compiled"] and plain is not None:
                model, times = results["model"]["name"], [plain["forward_ms"], row["forward_ms"]]
                cells = [
                    MODELS.get(model, model),
                    record["batch_size"],
                    plain["name"],
                    *(f"{time:.1f}" for time in times),
                ]
                table.append([*cells, f"{times[0] / times[1]:.2f}x as fast"])
    return markdown_table(header, table) if table else ""


def _heads_table(heads: Sequence[Mapping]) -> str:
    header = ["Behind the encoder", "Threads", "Plain ms", "Ours ms", "Speed-up", "Plain peak MiB", "Ours peak MiB"]
    table = []
    for results in heads:
        arguments = results["arguments"]
        side = arguments["grid"] * arguments["patch_size"]
        what = f"{arguments['num_labels']} classes, {side} x {side}"
        rows = {f"label map, scores of {kind}": row for kind, row in results["label_maps"].items()}
        for name, row in {**rows, "loss, forward and backward": results["loss"]}.items():
            cells = [f"{name}, {what}", results["environment"]["threads"]]
            cells += [f"{row[f'{form}_ms']:.1f}" for form in ("plain", "ours")] + [f"{row['speed_up']:.1f}x"]
            table.append([*cells, *(f"{row[f'{form}_peak_mib']:.0f}" for form in ("plain", "ours"))])
    return markdown_table(header, table)


def _commands(measured: Sequence[Mapping]) -> str:
    lines = [f"{results['command']}  # {results['file']}" for results in measured]
    return "\n".join(
        ["Made, with `PYTHONPATH=.` where the package is not installed, by", "", "```bash", *lines, "```"]
    )


def replace_section(readme: str, section: str) -> str:
    """
    A README with its performance section exchanged.

    Raises:
        ValueError: if the text does not hold each of the two marks once, in their order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the README has no single pair of marks: expected {BEGIN!r} and, below, {END!r}.")
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n\n{section}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    arguments: ReadmeArguments = HfArgumentParser(ReadmeArguments).parse_args_into_dataclasses()[0]
    readme = Path(arguments.readme)
    text = readme.read_text(encoding="utf-8")
    changed = replace_section(text, performance_section(arguments.benchmarks))
    readme.write_text(changed, encoding="utf-8")
    print(f"{readme.name} is as it was." if changed == text else f"{readme.name} has a new performance section.")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
