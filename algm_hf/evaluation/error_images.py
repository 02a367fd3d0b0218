# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Images of an evaluation: predictions in the colours of the classes, and what is wrong in the worst images."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object
from PIL import Image

from ..inference.drawing import colorize, make_legend, panel, save_label_map
from .scoring import EvaluatedImage


WRONG, IGNORED = (214, 24, 48), (0, 0, 0)
COLUMN_WIDTH = 420


def image_name(image: EvaluatedImage) -> str:
    """A file name for an image: its `name` column without folders' separators, else its number."""
    name = str(image.row.get("name") or f"{image.index:06d}")
    return name.replace("/", "__").replace("\\", "__")


def save_prediction(image: EvaluatedImage, folder: Path, id2label: Mapping[int, str], palette) -> None:
    """Writes `folder/NAME.png`, whose values are the classes and whose palette their colours, and the legend once."""
    folder.mkdir(parents=True, exist_ok=True)
    legend = folder.parent / "legend.png"
    if not legend.exists():
        make_legend(list(id2label.values()), palette, width=800).save(legend)
    save_label_map(image.result.label_map, folder / f"{image_name(image)}.png", np.asarray(palette, np.uint8))


def error_map(image: Image.Image, prediction: np.ndarray, truth: np.ndarray, ignore_index: int = 255) -> Image.Image:
    """The image in pale grey, its wrong pixels red and its ignored pixels black.

    Args:
        image (`Image.Image`): Of the size of the label maps.
        prediction, truth (`np.ndarray` of shape `(height, width)`, integers)
        ignore_index (`int`, *optional*, defaults to 255): Truth of pixels that do not count.

    Returns:
        `Image.Image`: RGB, of the image's size.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    colors = np.broadcast_to(150 + grey * 105 / 255, (*prediction.shape, 3)).copy()
    wrong = (prediction != truth) & (truth != ignore_index)
    colors[wrong] = 0.8 * np.array(WRONG) + 0.2 * grey[wrong]
    colors[truth == ignore_index] = IGNORED
    return Image.fromarray(colors.round().astype(np.uint8))


class WorstImages:
    """
    Keeps the images with the smallest share of right pixels, and no others.

    Args:
        count (`int`): How many.
    """

    def __init__(self, count: int):
        self.count = count
        # A heap whose first entry is the best one kept: (minus the share that is right, minus the index, image).
        self._kept: list[tuple[float, int, EvaluatedImage]] = []

    def add(self, image: EvaluatedImage) -> None:
        """Looks at an image; one without labelled pixels is passed over."""
        labelled = int(image.confusion.sum())
        if not labelled or not self.count:
            return
        right = int(image.confusion.diagonal().sum()) / labelled
        entry = (-right, -image.index, image)
        if len(self._kept) < self.count:
            heapq.heappush(self._kept, entry)
        elif entry[:2] > self._kept[0][:2]:
            heapq.heapreplace(self._kept, entry)

    def draw(self, folder: Path, id2label: Mapping[int, str], palette, accelerator=None) -> list[Path]:
        """Writes image | truth | prediction | errors of the worst images of all processes, the worst as `1_NAME.png`.

        Returns:
            `list[Path]`: The files that this process wrote.
        """
        if not self.count:
            return []
        entries = [(right, index) for right, index, _ in self._kept]
        if accelerator is not None and accelerator.num_processes > 1:
            entries = gather_object(entries)
        ranks = {entry: rank for rank, entry in enumerate(sorted(entries, reverse=True)[: self.count], start=1)}
        paths = []
        for right, index, image in self._kept:
            if (right, index) in ranks:
                folder.mkdir(parents=True, exist_ok=True)
                digits = len(str(self.count))
                paths.append(folder / f"{ranks[right, index]:0{digits}d}_{image_name(image)}.png")
                draw_errors(image, -right, id2label, np.asarray(palette, np.uint8)).save(paths[-1])
        return sorted(paths)


def draw_errors(image: EvaluatedImage, right: float, id2label: Mapping[int, str], palette: np.ndarray) -> Image.Image:
    """Image | truth | prediction | errors with a legend of the classes in them."""
    shown = image.row["image"].convert("RGB")
    truth, prediction = np.asarray(image.row["annotation"]), image.result.label_map
    present = [index for index in id2label if (truth == index).any() or (prediction == index).any()]
    names = [id2label[index] for index in present] + ["wrong", "ignored"]
    colors = [palette[index] for index in present] + [WRONG, IGNORED]
    columns = [shown, colorize(truth, palette), colorize(prediction, palette)]
    columns.append(error_map(shown, prediction, truth))
    captions = [f"{shown.width} x {shown.height}", "", "", f"{100 * (1 - right):.1f} % of labelled pixels wrong"]
    titles = ["image", "truth", "prediction", "errors"]
    return panel([columns], titles, [captions], (names, colors), image_name(image), COLUMN_WIDTH)


__all__ = ["WorstImages", "draw_errors", "error_map", "image_name", "save_prediction"]
