# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the demo page shows: pictures at screen size, a list of classes and a table of numbers, as HTML."""

from __future__ import annotations

import html
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.drawn_scenes import make_scene
from ..inference.drawing import blend, save_label_map, token_map
from ..inference.palettes import make_palette
from .segmenter import Comparison


SHOWN_SIDE = 1024  # pixels of the longer side of a picture on the page
SAMPLE_SIZE = (256, 384)
SAMPLE_SEEDS = (900_012, 900_003, 900_033, 900_028, 900_016, 900_022)
LISTED_CLASSES = 40


@dataclass
class Views:
    """All that one request puts on the page.

    Attributes:
        image, segmentation (`Image.Image`): RGB, of equal size.
        tokens (`Image.Image`, *optional*): The token map; `None` where the model works in windows.
        label_map (`np.ndarray` of shape `(height, width)`, uint16): The classes of `segmentation`'s pixels.
        classes, numbers (`str`): HTML.
    """

    image: Image.Image
    segmentation: Image.Image
    tokens: Image.Image | None
    label_map: np.ndarray
    classes: str
    numbers: str


@lru_cache(maxsize=len(SAMPLE_SEEDS))
def sample_scene(index: int) -> Image.Image:
    """A drawn street, `SAMPLE_SIZE` pixels high and wide.

    Raises:
        `ValueError`: If there is no such sample.
    """
    if not 0 <= index < len(SAMPLE_SEEDS):
        raise ValueError(f"There is no sample {index}, expected 0 to {len(SAMPLE_SEEDS) - 1}.")
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
    palette = make_palette(id2label)
    labels = comparison.merged.label_map
    size = _shown_size(image.size)
    shown = image.resize(size, Image.Resampling.LANCZOS)
    shown_labels = _resize_labels(labels, size)
    return Views(
        image=shown,
        segmentation=blend(shown, shown_labels, palette, alpha=0.65),
        tokens=_token_picture(image, comparison, patch_size),
        label_map=shown_labels,
        classes=class_list(labels, id2label, palette),
        numbers=number_table(comparison),
    )


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height on the page: large pictures are reduced, small ones enlarged by a whole number."""
    scale = SHOWN_SIDE / max(size)
    scale = scale if scale < 1 else max(1, int(scale))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class at the centre of each new pixel; `size` is width and height."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size[::-1], labels.shape, strict=True)
    )
    return labels[rows[:, None], columns].astype(np.uint16)


def _token_picture(image: Image.Image, comparison: Comparison, patch_size: int) -> Image.Image | None:
    result = comparison.merged
    if result.patch_to_token is None:  # windows of one image merge on their own: there is no one map
        return None
    height, width = result.input_size
    seen = image.resize((width, height), Image.Resampling.BILINEAR)
    magnify = max(1, round(SHOWN_SIDE / max(width, height)))
    return token_map(seen, result.patch_to_token, result.grid_size, patch_size, magnify)


def class_list(labels: np.ndarray, id2label: Mapping[int, str], palette: np.ndarray) -> str:
    """The classes in a label map with colour and share of the pixels, largest first, as an HTML list.

    Args:
        labels (`np.ndarray` of shape `(height, width)`): Classes.
        id2label (`Mapping[int, str]`): Their names.
        palette (`np.ndarray` of shape `(num_labels, 3)`, uint8): Their colours.
    """
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    items = []
    for value, count in zip(values[order][:LISTED_CLASSES], counts[order], strict=False):
        red, green, blue = (int(channel) for channel in palette[value])
        share = 100 * count / labels.size
        items.append(
            f'<li><span class="swatch" style="background: rgb({red}, {green}, {blue})"></span>'
            f'<span class="name">{html.escape(str(id2label[int(value)]))}</span>'
            f'<span class="share">{f"{share:.1f}" if share >= 0.1 else "&lt;0.1"} %</span></li>'
        )
    rest = len(values) - len(items)
    more = f'<p class="algm-note">and {rest} smaller ones</p>' if rest > 0 else ""
    return f'<ul class="algm-classes" aria-label="Classes and their share of the pixels">{"".join(items)}</ul>{more}'


def number_table(comparison: Comparison) -> str:
    """Tokens, time and agreement as HTML, with the most important first as a sentence."""
    merged, plain = comparison.merged.token_counts, comparison.plain.token_counts
    mean_merged, mean_plain = float(np.mean(merged)), float(np.mean(plain))
    rows = [
        ("Tokens after the last layer", plain[-1], merged[-1], f"{plain[-1]:,}", f"{merged[-1]:,}"),
        ("Tokens, mean of the layers", mean_plain, mean_merged, f"{mean_plain:,.0f}", f"{mean_merged:,.0f}"),
        (
            "Time of a forward pass",
            comparison.seconds_plain,
            comparison.seconds_merged,
            f"{1000 * comparison.seconds_plain:.1f} ms",
            f"{1000 * comparison.seconds_merged:.1f} ms",
        ),
    ]  # fmt: skip
    body = "".join(
        f"<tr><th scope='row'>{name}</th><td>{before}</td><td>{after}</td><td>{_change(old, new)}</td></tr>"
        for name, old, new, before, after in rows
    )
    runs = comparison.timed_runs
    return (
        f'<p class="algm-headline"><strong id="agreement">{_percent(comparison.agreement)} %</strong> of the pixels '
        f'get the same class with merging and without, from <strong id="tokens-merged">{merged[-1]:,}</strong> '
        f'instead of <strong id="tokens-plain">{plain[-1]:,}</strong> tokens.</p>'
        '<table class="algm-table"><thead><tr><td></td><th scope="col">'
        'without merging</th><th scope="col">with merging</th><th scope="col">change</th></tr></thead>'
        f'<tbody>{body}</tbody></table><p class="algm-note">Same weights. Time on this server: '
        f"{f'median of {runs} runs each' if runs > 1 else 'one run each'}, in turns. Fewer tokens do not always mean "
        "less time: on small models and small pictures, merging can cost more than it saves.</p>"
    )


def _percent(share: float) -> str:
    """One decimal, never rounded up to all."""
    return "100" if share == 1 else f"{min(100 * share, 99.9):.1f}"


def _change(before: float, after: float) -> str:
    change = round(100 * (after / before - 1))
    return "0 %" if not change else f"{'+' if change > 0 else '−'}{abs(change)} %"


def name_at(label_map: np.ndarray, position: tuple[float, float], id2label: Mapping[int, str]) -> str:
    """Names the class at a point of a shown picture.

    Args:
        label_map (`np.ndarray` of shape `(height, width)`): See [`Views`].
        position (`tuple[float, float]`): Column and row, in pixels; brought inside the picture.
        id2label (`Mapping[int, str]`): Names of the classes.
    """
    height, width = label_map.shape
    column, row = (min(max(int(at), 0), side - 1) for at, side in zip(position, (width, height), strict=True))
    label = int(label_map[row, column])
    return f"Class {label}: {id2label[label]}"


class LabelFiles:
    """Label maps to download, in a folder that goes with the process; the oldest give way to new ones.

    The page copies a file when it offers it, so only those of requests under way are needed.

    Args:
        most (`int`, *optional*, defaults to 50): How many are kept.
        seconds (`float`, *optional*, defaults to 3600): After which a file is deleted, also if no new one comes.
    """

    def __init__(self, most: int = 50, seconds: float = 3600.0):
        self._folder = tempfile.TemporaryDirectory(prefix="algm-label-maps-")
        self._most, self._seconds = most, seconds
        self._written: dict[Path, float] = {}  # folders, the oldest first, and when they were made
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def write(self, label_map: np.ndarray, id2label: Mapping[int, str], stem: str) -> str:
        """Writes an indexed PNG at the picture's own size and returns its path; `stem` is part of its name."""
        with self._lock:
            for old in list(self._written)[: max(0, len(self._written) - self._most + 1)]:
                self._delete(old)
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            self._written[folder] = time.monotonic()
            self._plan()
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stem)[:60] or "picture"
        path = folder / f"{safe}_labels.png"
        save_label_map(label_map, path, make_palette(id2label))
        return str(path)

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        del self._written[folder]

    def _plan(self) -> None:
        """Has one timer wait for the oldest file, as long as there are any."""
        if self._timer is None and self._written:
            wait = min(self._written.values()) + self._seconds - time.monotonic()
            self._timer = threading.Timer(max(0.0, wait), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            latest = time.monotonic() - self._seconds
            for folder in [folder for folder, made in self._written.items() if made <= latest]:
                self._delete(folder)
            self._timer = None
            self._plan()


__all__ = ["LabelFiles", "Views", "class_list", "make_views", "name_at", "number_table", "sample_scene"]
