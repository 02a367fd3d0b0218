# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of results: written whole or not at all, read with their name in every refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def replace_file(path: Path, text: str) -> None:
    """Writes a text file; whatever interrupts it, the file is either the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """
    The content of a JSON file.

    Raises:
        ValueError: if it cannot be read, with its name.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


__all__ = ["read_json", "replace_file"]
