# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""How much memory a call takes at its peak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def _memory_mib(entry: str) -> float:
    """`VmRSS`, the memory of this process now, or `VmHWM`, its peak; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 2**10


def peak_growth_of(call: Callable[[], object]) -> int | None:
    """Bytes by which a call raises the memory of this process at its peak; `None` where only Linux could tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _memory_mib("VmRSS")
        call()
        return round((_memory_mib("VmHWM") - before) * 2**20)
    except OSError:
        return None


__all__ = ["peak_growth_of"]
