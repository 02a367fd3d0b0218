# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the performance section of README.md anew from benchmarks/*.json: `python scripts/update_readme.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from algm_hf.performance_section import performance_section, replace_section


ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    changed = replace_section(text, performance_section(ROOT / "benchmarks"))
    readme.write_text(changed, encoding="utf-8")
    print("README.md is as it was." if changed == text else "README.md has a new performance section.")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
