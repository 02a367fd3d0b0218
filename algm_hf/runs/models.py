# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A model as a run meets it: inside wrappers, and with other settings for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..refusals import require


@contextmanager
def config_settings(model: nn.Module, **settings) -> Iterator[None]:
    """Sets fields of `model.config` for the duration of a `with` block and puts the old values back."""
    for name in settings:
        require(hasattr(model.config, name), "settings", name, f"a field of {type(model.config).__name__}")
    before = {name: getattr(model.config, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model.config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers such as `DistributedDataParallel`, which lack its config."""
    while not hasattr(model, "config") and hasattr(model, "module"):
        model = model.module
    return model


__all__ = ["config_settings", "unwrapped"]
