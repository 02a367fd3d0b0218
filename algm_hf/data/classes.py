# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The classes of a data set: their names, the values that stand for them in label maps, and their colours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..refusals import require, require_integer


IGNORE_INDEX = 255  # of the pixels of every label map here that do not count
STORED_VALUES = 65536  # label maps are 8-bit or 16-bit
OUTSIDE = -1
CLASS_FILES = Path(__file__).parent / "class_tables"


@dataclass
class ClassTable:
    """Classes of a data set.

    Attributes:
        classes (`list[str]`): Name of each class.
        stored_labels (`list[int]`): The value of each class in the label maps.
        ignored_labels (`list[int]`): Values in the label maps that mean "no class".
        palette (`list[tuple[int, int, int]]`, *optional*): Red, green and blue of each class, 0 to 255.
    """

    classes: list[str]
    stored_labels: list[int]
    ignored_labels: list[int] = field(default_factory=list)
    palette: list[tuple[int, int, int]] | None = None


class LabelMapping:
    """From the values stored in label maps to the classes `0` to `num_labels - 1` and 255 for ignored pixels.

    Args:
        stored_labels (`Sequence[int]`): The stored value of each class, each 0 to 65535.
        ignored_labels (`Collection[int]`, *optional*): Stored values that mean "no class", 0 to 65535; they win over
            `stored_labels`. The stored value 255 is always ignored unless it is a class.

    Raises:
        `ValueError`: If there are no classes, more than 255, one stored value for two classes, or a value out of
            range.
    """

    def __init__(self, stored_labels: Sequence[int], ignored_labels: Collection[int] = ()):
        self.num_labels = len(stored_labels)
        require_integer("num_labels", self.num_labels, 1, IGNORE_INDEX)
        twice = repeated(stored_labels)
        require(not twice, "stored_labels", twice, "one stored value for each class")
        for value in (*stored_labels, *ignored_labels):
            require_integer("stored label", value, 0, STORED_VALUES - 1)
        self.stored_labels = tuple(stored_labels)
        self.table = np.full(STORED_VALUES, OUTSIDE, dtype=np.int16)
        self.table[IGNORE_INDEX] = IGNORE_INDEX
        self.table[list(stored_labels)] = np.arange(self.num_labels)
        self.table[list(ignored_labels)] = IGNORE_INDEX
        small = self.table[:256]
        unchanged = (small == np.arange(256)) | (small == OUTSIDE)
        self.changes_bytes = not bool(unchanged.all())

    def expected(self) -> str:
        """The stored values that are classes, in words."""
        first, last = min(self.stored_labels), max(self.stored_labels)
        if last - first + 1 == self.num_labels:
            return f"{first} to {last}"
        return f"one of the {self.num_labels} values {listed(sorted(self.stored_labels), 24)}"


def listed(values: Iterable, most: int = 8) -> str:
    """The first `most` values, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return " ".join(str(value) for value in values[:most]) + more


def repeated(values: Iterable) -> list:
    """What occurs more than once."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def read_class_table(layout: str) -> ClassTable:
    """Reads the JSON file of a layout in `class_tables`."""
    content = json.loads((CLASS_FILES / f"{layout}.json").read_text(encoding="utf-8"))
    palette = content["palette"] and [tuple(color) for color in content["palette"]]
    return ClassTable(content["classes"], content["stored_labels"], content["ignored_labels"], palette)


def read_classes(path: Path) -> dict[int, str]:
    """Reads `classes.txt`: one class name a line, the first one is label 0.

    Raises:
        `ValueError`: If the file is missing, holds no name, an empty line between names, a name twice, or more than
            255 names (255 is the label of ignored pixels).
    """
    require(path.is_file(), path, "missing", "a text file with one class name a line")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    require(names, path, "empty", "one class name a line")
    require(all(names), path, f"empty line {names.index('') + 1}" if "" in names else "", "a class name on every line")
    require(not repeated(names), path, repeated(names), "every class name once")
    require(
        len(names) <= IGNORE_INDEX, path, len(names), f"at most {IGNORE_INDEX} classes, as {IGNORE_INDEX} is ignored"
    )
    return dict(enumerate(names))


def read_id2label(path: str | Path) -> list[str]:
    """Reads class names from a JSON file: a list of names, or `{number: name}` with the numbers `0` to `K - 1`.

    Raises:
        `ValueError`: If the file is missing, is no such JSON, or names a class twice.
    """
    expected = 'a JSON list of names or {"0": name, "1": name, ...}'
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"id2label={str(path)!r}: expected {expected} ({error})") from error
    if isinstance(content, dict):
        numbers = [str(number) for number in range(len(content))]
        require(sorted(content) == sorted(numbers), path, sorted(content)[:12], expected)
        content = [content[number] for number in numbers]
    is_list = isinstance(content, list) and content and all(isinstance(name, str) for name in content)
    require(is_list, path, str(content)[:80], expected)
    require(not repeated(content), path, repeated(content), "every class name once")
    return content


__all__ = [
    "IGNORE_INDEX",
    "OUTSIDE",
    "STORED_VALUES",
    "ClassTable",
    "LabelMapping",
    "listed",
    "read_class_table",
    "read_classes",
    "read_id2label",
]
