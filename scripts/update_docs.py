# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes what README.md and docs/ take from elsewhere: from benchmarks/*.json, the recipes and the config.

python scripts/update_docs.py
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from algm_hf.refusals import require
from algm_hf.runs.tables import markdown_table


ROOT = Path(__file__).resolve().parents[1]
MODELS = {"ti": "ViT-Ti", "s": "ViT-S", "b": "ViT-B", "l": "ViT-L"}


@dataclass
class DocsArguments:
    """Where the figures come from and where they go."""

    root: str = field(default=str(ROOT), metadata={"help": "Folder of README.md, docs/, benchmarks/ and scripts/."})


def read_benchmarks(folder: Path) -> list[dict]:
    """The results of `scripts/benchmark.py` and `scripts/benchmark_heads.py`, by device and size of the model."""
    results = [json.loads(path.read_text(encoding="utf-8")) | {"file": path.name} for path in folder.glob("*.json")]
    for result in results:
        is_result = {"configurations", "label_maps"} & set(result)
        require(is_result, str(folder / result["file"]), sorted(result), "configurations or label_maps of a benchmark")

    def place(result: Mapping) -> tuple:
        name = result["model"]["name"] if "model" in result else ""
        return result["environment"]["device"], [*MODELS, name].index(name), result["file"]

    return sorted(results, key=place)


def merged_rows(results: Sequence[Mapping]) -> Iterator[tuple[Mapping, Mapping, Mapping]]:
    """Each run, its configuration, and each of its uncompiled rows with merging."""
    for result in results:
        for record in result.get("configurations", []):
            for row in record["rows"]:
                if row["kind"] == "merged" and not row["compiled"]:
                    yield result, record, row


def model_name(result: Mapping) -> str:
    name = result["model"]["name"]
    return MODELS.get(name, name)


def number(value: float | None, form: str, unit: str = "x") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def speed_table(results: Sequence[Mapping]) -> str:
    """What a user gains: a row for each model, measured as the README says above the table."""
    shown: dict[str, Mapping] = {}
    for result, record, row in merged_rows(results):
        where = result["environment"]
        measured = where["device"], where["dtype"], *record["resolution"], record["batch_size"]
        if measured == ("cpu", "float32", 512, 512, 8):
            shown.setdefault(model_name(result), row)
    header = ["Model", "Tokens kept", "FLOP ratio", "Speed-up", "Efficiency", "End to end"]
    return markdown_table(
        header,
        [
            [
                name,
                f"{100 * row['token_ratio']:.0f} %",
                number(row["flop_ratio"], ".2f"),
                number(row["speed_up"], ".2f"),
                number(row["efficiency"], ".2f", ""),
                number(row["end_to_end_speed_up_over_dense"], ".2f"),
            ]
            for name, row in shown.items()
        ],
    )


def merging_table(results: Sequence[Mapping]) -> str:
    """Every row with merging of every run."""
    header = ["Run", "Model", "Size", "Batch", "Where", "Tokens kept", "FLOP ratio", "Speed-up", "Efficiency"]
    header += ["Merging itself", "End to end over interpolate + argmax", "Merging off, against ViTModel"]
    table = []
    for result, record, row in merged_rows(results):
        where = result["environment"]
        on = f"{where['threads']} CPU threads" if where["device"] == "cpu" else where["device_name"]
        encoders = [other for other in record["rows"] if other["kind"] == "encoder" and not other["compiled"]]
        share = row["merging_share"]
        table.append(
            [
                Path(result["file"]).stem,
                model_name(result),
                "{} x {}".format(*record["resolution"]),
                record["batch_size"],
                f"{on}, {where['dtype']}",
                f"{100 * row['token_ratio']:.0f} %",
                f"{row['flop_ratio']:.2f}",
                number(row["speed_up"], ".2f"),
                f"{row['efficiency']:.2f}",
                number(share and 100 * share, ".1f", " %"),
                number(row["end_to_end_speed_up_over_dense"], ".2f"),
                number(encoders[0]["speed_up"] if encoders else None, ".2f"),
            ]
        )
    return markdown_table(header, table)


def compiled_table(results: Sequence[Mapping]) -> str:
    """Every compiled row beside its uncompiled counterpart."""
    header = ["Model", "Batch", "Row", "Uncompiled ms", "Compiled ms", "Compiled is"]
    table = []
    for result in results:
        for record in result.get("configurations", []):
            rows = {row["name"]: row for row in record["rows"]}
            for row in record["rows"]:
                plain = rows.get(row["name"].removesuffix(", compiled"))
                if row["compiled"] and plain is not None:
                    times = plain["forward_ms"], row["forward_ms"]
                    cells = [model_name(result), record["batch_size"], plain["name"]]
                    cells += [f"{time:.1f}" for time in times]
                    table.append([*cells, f"{times[0] / times[1]:.2f}x as fast"])
    return markdown_table(header, table)


def heads_table(results: Sequence[Mapping]) -> str:
    """Label maps and the loss, each beside its plain form."""
    header = ["Behind the encoder", "Threads", "Plain ms", "Ours ms", "Speed-up", "Plain peak MiB", "Ours peak MiB"]
    table = []
    for result in results:
        if "label_maps" not in result:
            continue
        arguments = result["arguments"]
        side = arguments["grid"] * arguments["patch_size"]
        rows = {f"label map, scores of {kind}": row for kind, row in result["label_maps"].items()}
        for name, row in {**rows, "loss, forward and backward": result["loss"]}.items():
            what = f"{name}, {arguments['num_labels']} classes, {side} x {side}"
            times = [f"{row[f'{form}_ms']:.1f}" for form in ("plain", "ours")]
            peaks = [f"{row[f'{form}_peak_mib']:.0f}" for form in ("plain", "ours")]
            table.append([what, result["environment"]["threads"], *times, f"{row['speed_up']:.1f}x", *peaks])
    return markdown_table(header, table)


def performance(results: Sequence[Mapping]) -> str:
    """All tables of all runs, with the commands that made them."""
    commands = [f"{result['command']}  # {result['file']}" for result in results]
    made = "Made, with `PYTHONPATH=.` where the package is not installed, by"
    block = "\n".join(["```bash", *commands, "```"])
    return "\n\n".join([merging_table(results), compiled_table(results), heads_table(results), made, block])


def recipes(folder: Path) -> str:
    """The settings of every recipe."""
    header = ["Recipe", "Crop", "Merge layers", "tau", "Window / stride", "Learning rate, epochs, batch"]
    table = []
    for path in sorted(folder.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = recipe["config_overrides"]
        batch = recipe["per_device_train_batch_size"] * recipe.get("gradient_accumulation_steps", 1)
        table.append(
            [
                f"`scripts/recipes/{path.name}`",
                " x ".join(map(str, recipe["crop_size"])),
                f"{config['local_merge_layer']}, {config['global_merge_layer']}",
                config["merge_threshold"],
                f"{config['window_size']} / {config['window_stride']}",
                f"{recipe['learning_rate']}, {recipe['num_train_epochs']}, {batch}",
            ]
        )
    return markdown_table(header, table)


def config_fields(source: Path) -> str:
    """The fields of the config by section: name, default, and the comment beside or above it in its source."""
    lines = source.read_text(encoding="utf-8").split("\n")
    (config,) = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef)]
    fields = {node.lineno: node for node in config.body if isinstance(node, ast.AnnAssign)}
    parts, listed, above = [], [], []
    for number in range(min(fields) - 1, max(fields) + 1):
        line = lines[number - 1].strip()
        if number in fields:
            beside = lines[number - 1][fields[number].end_col_offset :].strip("# ")
            meaning = " ".join([*above, beside] if beside else above)
            default = ast.unparse(fields[number].value)
            listed.append(
                f"- `{fields[number].target.id}` (`{default}`): {meaning[:1].lower()}{meaning[1:].rstrip('.')}"
            )
        above = [*above, line.strip("# ")] if line.startswith("#") and not line.startswith("# ---") else []
        if line.startswith("# ---") or number == max(fields):
            parts += ["\n".join(listed)] if listed else []
            parts += [f"## {line.strip('# -')}"] if line.startswith("# ---") else []
            listed = []
    return "\n\n".join(parts)


def replace_section(text: str, name: str, section: str) -> str:
    """A page with what stands between the two marks of a section exchanged.

    Raises:
        ValueError: if the page does not hold each of the two marks once, in their order.
    """
    begin, end = f"<!-- {name}: written by scripts/update_docs.py -->", f"<!-- {name}: end -->"
    marks = re.findall("|".join(map(re.escape, (begin, end))), text)
    require(marks == [begin, end], f"marks of {name}", marks, f"{begin!r} and, below, {end!r}")
    return f"{text.split(begin)[0]}{begin}\n\n{section}\n\n{end}{text.split(end)[1]}"


def written_pages(root: Path) -> dict[Path, str]:
    """Every page that holds a written section, as it has to be."""
    results = read_benchmarks(root / "benchmarks")
    sections = {
        "README.md": ("speed", speed_table(results)),
        "docs/performance.md": ("performance", performance(results)),
        "docs/configuration.md": ("fields", config_fields(root / "algm_hf" / "configuration_algm.py")),
        "docs/training.md": ("recipes", recipes(root / "scripts" / "recipes")),
    }
    return {
        root / page: replace_section((root / page).read_text(encoding="utf-8"), *section)
        for page, section in sections.items()
    }


def main() -> None:
    arguments: DocsArguments = HfArgumentParser(DocsArguments).parse_args_into_dataclasses()[0]
    for page, text in written_pages(Path(arguments.root)).items():
        changed = page.read_text(encoding="utf-8") != text
        page.write_text(text, encoding="utf-8")
        print(f"{page.name} {'is new' if changed else 'is as it was'}.")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
