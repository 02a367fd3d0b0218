# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What every conversion checks: class names, and that weights and model fit each other exactly."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..refusals import require


def first_line(error: Exception) -> str:
    """The first line of an error, or its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def label_fields(id2label: Mapping[Any, str] | None, num_labels: int | None) -> dict[str, Any]:
    """
    The fields of [`AlgmConfig`] for classes.

    Args:
        id2label (`Mapping[int, str]`, *optional*): Their names; without them, they are called `LABEL_0`, ...
        num_labels (`int`, *optional*): Their number; with names, how many there have to be.
    """
    if id2label is None:
        require(num_labels is not None, "num_labels", None, "the number of classes, or id2label with their names")
        return {"num_labels": num_labels}
    try:
        names = {int(key): name for key, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        names = {}
    is_whole = len(names) == len(id2label) and sorted(names) == list(range(num_labels or len(names)))
    expected = "one name for each class index" if num_labels is None else f"one for each of 0 to {num_labels - 1}"
    is_named = is_whole and names and all(isinstance(name, str) for name in names.values())
    require(is_named, "id2label", id2label, f"a mapping from class index to name, {expected}")
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def check_names(source: Any, found: Iterable[str], expected: Iterable[str]) -> None:
    """Refuses weights of `source` that are missing or unexpected; lists all of them."""
    found, expected = set(found), set(expected)
    wrong = {"missing": sorted(expected - found), "unexpected": sorted(found - expected)}
    wrong = {kind: names for kind, names in wrong.items() if names}
    require(not wrong, f"weights of {source}", wrong, "those of its architecture, no more and no fewer")


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], source: Any) -> None:
    """Loads weights that fit in name and shape, and refuses others."""
    expected = module.state_dict()
    check_names(source, weights, expected)
    for name, tensor in weights.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        require(shape == wanted, f"{source}: shape of {name}", shape, f"{wanted}")
    module.load_state_dict(weights, strict=True)


__all__ = ["check_names", "first_line", "label_fields", "load_strictly"]
