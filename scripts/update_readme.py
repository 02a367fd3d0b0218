# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the performance section of README.md anew from benchmarks/*.json: `python scripts/update_readme.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.refusals import require
from algm_hf.runs.files import read_json
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
    """
    models, heads = [], []
    for path in sorted(Path(folder).glob("*.json")):
        results = read_json(path)
        kind = models if "configurations" in results else heads if "label_maps" in results else None
        require(kind is not None, str(path), sorted(results), "a result of one of the benchmarks")
        kind.append(results | {"file": path.name})
    require(models and heads, str(folder), (len(models), len(heads)), "results of both benchmarks")
    models.sort(key=lambda results: (results["environment"]["device"], _place(results["model"]["name"])))
    parts = [_merging_table(models), _compiled_lines(models), _heads_table(heads), _commands(models + heads)]
    return "\n\n".join(part for part in parts if part)


def _place(model: str) -> int:
    return list(MODELS).index(model) if model in MODELS else len(MODELS)


def _records_of(models: Sequence[Mapping]) -> Iterator[tuple[str, Mapping, Mapping]]:
    """Name of the model, all results and one configuration."""
    for results in models:
        name = results["model"]["name"]
        yield from ((MODELS.get(name, name), results, record) for record in results["configurations"])


def _merging_table(models: Sequence[Mapping]) -> str:
    header = ["Model", "Size", "Batch", "Where", "Tokens kept", "FLOP ratio", "Speed-up", "Efficiency"]
    header += ["Merging itself", "End to end over interpolate + argmax", "Merging off, against ViTModel"]
    table = []
    for name, results, record in _records_of(models):
        rows = [row for row in record["rows"] if not row["compiled"]]
        off = next((row["speed_up"] for row in rows if row["kind"] == "encoder"), None)
        for row in (row for row in rows if row["kind"] == "merged"):
            cells = [name, "{} x {}".format(*record["resolution"]), record["batch_size"], _where(results)]
            cells += [f"{100 * row['token_ratio']:.0f} %", f"{row['flop_ratio']:.2f}", f"{row['speed_up']:.2f}x"]
            share = row["merging_share"]
            cells += [f"{row['efficiency']:.2f}", "-" if share is None else f"{100 * share:.1f} %"]
            over = (row["end_to_end_speed_up_over_dense"], off)
            table.append([*cells, *("-" if speed_up is None else f"{speed_up:.2f}x" for speed_up in over)])
    return markdown_table(header, table)


def _where(results: Mapping) -> str:
    where = results["environment"]
    on = f"{where['threads']} CPU threads" if where["device"] == "cpu" else where["device_name"]
    return f"{on}, {where['dtype']}"


def _compiled_lines(models: Sequence[Mapping]) -> str:
    header = ["Model", "Batch", "Row", "Uncompiled ms", "Compiled ms", "Compiled is"]
    table = []
    for model, _, record in _records_of(models):
        rows = {row["name"]: row for row in record["rows"]}
        for name, row in rows.items():
            plain = rows.get(name.removesuffix(", compiled"))
            if row["compiled"] and plain is not None:
                before, after = plain["forward_ms"], row["forward_ms"]
                cells = [model, record["batch_size"], plain["name"], f"{before:.1f}", f"{after:.1f}"]
                table.append([*cells, f"{before / after:.2f}x as fast"])
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
    """A README with its performance section exchanged; it must hold each of the two marks once, in their order."""
    counts = (readme.count(BEGIN), readme.count(END))
    in_order = counts == (1, 1) and readme.index(BEGIN) < readme.index(END)
    require(in_order, "marks", counts, f"one {BEGIN!r} and, below, one {END!r}")
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
