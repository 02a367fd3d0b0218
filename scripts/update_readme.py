# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the performance section of README.md anew from benchmarks/*.json: `python scripts/update_readme.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.performance_section import performance_section, replace_section


ROOT = Path(__file__).resolve().parents[1]


@dataclass
class ReadmeArguments:
    """Where the figures come from and where they go."""

    readme: str = field(default=str(ROOT / "README.md"), metadata={"help": "The file with the two marks."})
    benchmarks: str = field(default=str(ROOT / "benchmarks"), metadata={"help": "Folder of the JSON files."})


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
