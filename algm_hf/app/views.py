# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the demo page shows: images at screen size, the classes on them, and numbers as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ..data.drawn_scenes import make_scene
from ..inference.drawing import draw_tokens
from ..inference.palettes import make_palette
from ..refusals import require_integer
from ..runs.tables import markdown_table
from .segmenter import Comparison


SHOWN_SIDE = 1024  # pixels of the longer side of an image on the page
SAMPLE_SIZE = (256, 384)
SAMPLE_SEEDS = (900_012, 900_003, 900_033, 900_028, 900_016, 900_022)
LISTED_CLASSES = 40  # each with its name and colour; all smaller ones share one
SMALLER, GREY = -1, (128, 128, 128)
OPACITY = 0.65  # of the classes over the image


@dataclass
class Views:
    """All that one request puts on the page.

    Attributes:
        image (`Image.Image`): RGB.
        label_map (`np.ndarray` of shape `(height, width)`, uint16): The classes of `image`'s pixels.
        tokens (`Image.Image`, *optional*): The token map; `None` where the model works in windows.
        masks (`list[tuple[np.ndarray, str]]`): For each of [`named_shares`]: its opacity at each pixel of `image`,
            and its name with its share of the pixels.
        colors (`dict[str, str]`): Colour of each of these names.
        numbers (`str`): Markdown.
    """

    image: Image.Image
    label_map: np.ndarray
    tokens: Image.Image | None
    masks: list[tuple[np.ndarray, str]]
    colors: dict[str, str]
    numbers: str


@lru_cache(maxsize=len(SAMPLE_SEEDS))
def sample_scene(index: int) -> Image.Image:
    """A drawn street, `SAMPLE_SIZE` pixels high and wide."""
    require_integer("sample", index, 0, len(SAMPLE_SEEDS) - 1)
    return make_scene(SAMPLE_SEEDS[index], SAMPLE_SIZE)[0]


def make_views(image: Image.Image, comparison: Comparison, id2label: Mapping[int, str], patch_size: int) -> Views:
    """Turns results into what is shown.

    Args:
        image (`Image.Image`): What was segmented, RGB.
        comparison ([`Comparison`]): Its results.
        id2label (`Mapping[int, str]`): Names of the classes.
        patch_size (`int`): Of the model, in pixels.

    Returns:
        [`Views`]
    """
    labels = comparison.merged.label_map
    size = _shown_size(image.size)
    shown_labels = np.asarray(Image.fromarray(labels.astype(np.uint16)).resize(size, Image.Resampling.NEAREST))
    names = named_shares(labels, id2label)
    painted = np.where(np.isin(shown_labels, list(names)), shown_labels.astype(int), SMALLER)
    palette = dict(enumerate(make_palette(id2label))) | {SMALLER: GREY}
    return Views(
        image=image.resize(size, Image.Resampling.LANCZOS),
        label_map=shown_labels,
        tokens=draw_tokens(image, comparison.merged, patch_size, SHOWN_SIDE * min(1, image.width / image.height)),
        masks=[(OPACITY * (painted == label), name) for label, name in names.items()],
        colors={name: "#{:02x}{:02x}{:02x}".format(*palette[label]) for label, name in names.items()},
        numbers=number_text(comparison),
    )


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height on the page: large images are reduced, small ones enlarged by a whole number."""
    scale = SHOWN_SIDE / max(size)
    scale = scale if scale < 1 else max(1, int(scale))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def named_shares(labels: np.ndarray, id2label: Mapping[int, str]) -> dict[int, str]:
    """The classes in a label map and their names with their share of the pixels, the largest first; beyond
    `LISTED_CLASSES` the others together, as `SMALLER`."""
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = {int(values[place]): 100 * counts[place] / labels.size for place in order[:LISTED_CLASSES]}
    names = {label: id2label[label] for label in shares}
    smaller = order[LISTED_CLASSES:]
    if len(smaller):
        shares[SMALLER] = 100 * counts[smaller].sum() / labels.size
        names[SMALLER] = f"smaller classes ({len(smaller)})"
    return {label: f"{names[label]} {'<0.1' if s < 0.1 else format(s, '.1f')} %" for label, s in shares.items()}


def number_text(comparison: Comparison) -> str:
    """Tokens, time and agreement as Markdown, with the most important first as a sentence."""
    merged, plain = comparison.merged.token_counts, comparison.plain.token_counts
    milliseconds = (1000 * comparison.seconds_plain, 1000 * comparison.seconds_merged)
    rows = [
        ("Tokens after the last layer", plain[-1], merged[-1], ",d", ""),
        ("Tokens, mean of the layers", float(np.mean(plain)), float(np.mean(merged)), ",.0f", ""),
        ("Time of a forward pass", *milliseconds, ".1f", " ms"),
    ]
    cells = [
        [name, format(old, form) + unit, format(new, form) + unit, _change(old, new)]
        for name, old, new, form, unit in rows
    ]
    runs = comparison.timed_runs
    # Never rounded up to all.
    agreement = "100" if comparison.agreement == 1 else f"{min(100 * comparison.agreement, 99.9):.1f}"
    return (
        f"**{agreement} %** of the pixels get the same class with merging and without, from **{merged[-1]:,}** "
        f"instead of **{plain[-1]:,}** tokens.\n\n"
        f"{markdown_table(['', 'without merging', 'with merging', 'change'], cells)}\n\n"
        f"Same weights. Time on this server: {f'median of {runs} runs each' if runs > 1 else 'one run each'}, in "
        "turns. Fewer tokens do not always mean less time: on small models and small images, merging can cost more "
        "than it saves."
    )


def _change(before: float, after: float) -> str:
    change = round(100 * (after / before - 1))
    return "0 %" if not change else f"{'+' if change > 0 else '−'}{abs(change)} %"


def name_at(label_map: np.ndarray, position: tuple[float, float], id2label: Mapping[int, str]) -> str:
    """Names the class at a point of a shown image.

    Args:
        label_map (`np.ndarray` of shape `(height, width)`): See [`Views`].
        position (`tuple[float, float]`): Column and row, in pixels; brought inside the image.
        id2label (`Mapping[int, str]`): Names of the classes.
    """
    height, width = label_map.shape
    column, row = (min(max(int(at), 0), side - 1) for at, side in zip(position, (width, height), strict=True))
    label = int(label_map[row, column])
    return f"Class {label}: {id2label[label]}"


__all__ = ["Views", "make_views", "name_at", "named_shares", "number_text", "sample_scene"]
