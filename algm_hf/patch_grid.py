# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From pixels to patches."""

from collections.abc import Sequence


def patch_grid(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Height and width in patches of the grid that covers an image of this height and width in pixels."""
    height, width = size
    return -(-height // patch_size), -(-width // patch_size)


__all__ = ["patch_grid"]
