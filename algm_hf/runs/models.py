# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A model as a run meets it: inside wrappers, and with other settings for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def config_settings(model: nn.Module, **settings) -> Iterator[None]:
    """Sets fields of `model.config` for the duration of a `with` block and puts the old values back.

    Raises:
        `ValueError`: If the config has no such field.
    """
    for name in settings:
        if not hasattr(model.config, name):
            raise ValueError(f"the config of {type(model).__name__} has no field {name!r}.")
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
