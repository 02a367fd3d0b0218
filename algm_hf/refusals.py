# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""One form for every refusal: a `ValueError` that reads `name=value: expected ...`."""

import math
from collections.abc import Collection
from typing import Any


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require(condition: object, name: str, value: Any, expected: str) -> None:
    """Raises a `ValueError` that names what is refused, its value and what was expected, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}={value!r}: expected {expected}")


def require_bool(name: str, value: Any) -> None:
    """Refuses what is neither `True` nor `False`."""
    require(isinstance(value, bool), name, value, "True or False")


def require_choice(name: str, value: Any, choices: Collection) -> None:
    """Refuses what is not among `choices`."""
    require(value in choices, name, value, " or ".join(map(repr, choices)))


def require_integer(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> None:
    """Refuses what is no integer in `minimum..maximum`."""
    bounds = "" if minimum == -math.inf else f" of at least {minimum}"
    bounds += "" if maximum == math.inf else f" and at most {maximum}" if bounds else f" of at most {maximum}"
    require(is_integer(value) and minimum <= value <= maximum, name, value, f"an integer{bounds}")


def require_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuses what is no finite number in `[low, high]`."""
    require(is_number(value) and low <= value <= high, name, value, f"a number in [{low}, {high}]")


__all__ = ["is_integer", "is_number", "require", "require_bool", "require_choice", "require_integer", "require_number"]
