# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From image files to files of label maps and drawings, and what merging tokens saved on each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..runs.images import read_rgb
from ..runs.models import config_settings
from ..runs.tables import markdown_table
from ..runs.timing import time_settings
from .drawing import draw_tokens, overlay, save_label_map
from .palettes import make_palette
from .predictor import SegmentedImage, segment_images


MERGED, PLAIN = {"use_token_merging": True}, {"use_token_merging": False}
NamedImage = tuple[Path, str, Image.Image]


def output_names(paths: Sequence[Path]) -> list[str]:
    """One name per file for its results: the stem, with a number where several files share it."""
    stems = [path.stem for path in paths]
    before = [stems[:index].count(stem) for index, stem in enumerate(stems)]
    return [f"{stem}_{count + 1}" if count else stem for stem, count in zip(stems, before, strict=True)]


class FileSegmenter:
    """Segments files with merging and without, at the same weights, and writes label map, overlay and token map.

    Args:
        model ([`AlgmForSemanticSegmentation`]): In evaluation mode, on any device.
        processor ([`AlgmImageProcessor`]): The model's processor.
        folder (`str` or `Path`): Where the files go; made if it does not exist.
        alpha (`float`, *optional*, defaults to 0.55): See [`blend`].
        repeats (`int`, *optional*, defaults to 5): Timed runs of each image with and without merging; 0 for no times.

    Attributes:
        records (`list[dict]`): File, sizes, tokens, agreement and written files of each image that was segmented.
        failures (`dict[str, str]`): What is wrong with each of the others, by file.
    """

    def __init__(self, model, processor, folder: str | Path, alpha: float = 0.55, repeats: int = 5):
        self.model, self.processor, self.folder = model, processor, Path(folder)
        self.alpha, self.repeats = alpha, repeats
        self.palette = make_palette(model.config.id2label)
        self.records: list[dict] = []
        self.failures: dict[str, str] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def segment(self, paths: Sequence[Path], batch_size: int = 1) -> None:
        """Segments files, `batch_size` at a time; one that cannot be read or segmented does not stop the others."""
        batch: list[NamedImage] = []
        for path, name in zip(tqdm(paths, unit="image", desc="segmenting"), output_names(paths), strict=True):
            try:
                batch.append((path, name, read_rgb(path)))
            except ValueError as error:
                self.failures[str(path)] = str(error.__cause__)
            if len(batch) == batch_size:
                self._segment_batch(batch)
                batch = []
        self._segment_batch(batch)

    def _segment_batch(self, batch: Sequence[NamedImage]) -> None:
        """Adds the records of a batch; if an image in it is refused, the others are done one by one."""
        if not batch:
            return
        images = [image for _, _, image in batch]
        try:
            with config_settings(self.model, **MERGED):
                merged = segment_images(self.model, self.processor, images)
            with config_settings(self.model, **PLAIN):
                plain = segment_images(self.model, self.processor, images)
        except ValueError as error:
            if len(batch) == 1:
                self.failures[str(batch[0][0])] = str(error)
            else:
                for item in batch:
                    self._segment_batch([item])
            return
        for item, with_merging, without in zip(batch, merged, plain, strict=True):
            self.records.append(self._record(*item, with_merging, without))

    def _record(
        self, path: Path, name: str, image: Image.Image, merged: SegmentedImage, plain: SegmentedImage
    ) -> dict:
        record = {
            "file": str(path),
            "height": image.height,
            "width": image.width,
            "input_height": merged.input_size[0],
            "input_width": merged.input_size[1],
            "tokens_per_layer": merged.token_counts,
            "tokens_final": merged.token_counts[-1],
            "tokens_mean": float(np.mean(merged.token_counts)),
            "tokens_unmerged": plain.token_counts[-1],
            "agreement": float((merged.label_map == plain.label_map).mean()),
        }
        if self.repeats:
            settings = {"seconds_merged": MERGED, "seconds_unmerged": PLAIN}
            record |= time_settings(self.model, self.processor, [image], settings, repeats=self.repeats)
        return record | {"written": self._write(name, image, merged)}

    def _write(self, name: str, image: Image.Image, result: SegmentedImage) -> list[str]:
        config, path = self.model.config, self.folder / f"{name}_labels.png"
        save_label_map(result.label_map, path, self.palette)
        drawings = {
            "overlay": overlay(image, result.label_map, config.id2label, self.alpha, self.palette),
            "tokens": draw_tokens(image, result, config.patch_size, image.width),
        }
        written = [str(path)]
        for kind, drawing in drawings.items():
            if drawing is not None:
                drawing.save(self.folder / f"{name}_{kind}.png")
                written.append(str(self.folder / f"{name}_{kind}.png"))
        return written


def records_table(records: Sequence[dict]) -> str:
    """The records of a [`FileSegmenter`] as a Markdown table."""
    header = ["image", "size", "tokens unmerged", "after last layer", "mean of layers", "same pixels"]
    timed = "seconds_merged" in records[0]
    header += ["ms merged", "ms unmerged", "speed-up"] if timed else []
    rows = []
    for record in records:
        unmerged = record["tokens_unmerged"]
        row = [Path(record["file"]).name, f"{record['width']} x {record['height']}", unmerged]
        row += [f"{record[key]:.0f} ({100 * record[key] / unmerged:.0f} %)" for key in ("tokens_final", "tokens_mean")]
        row.append(f"{100 * record['agreement']:.1f} %")
        if timed:
            merged, plain = record["seconds_merged"], record["seconds_unmerged"]
            row += [f"{1000 * merged:.1f}", f"{1000 * plain:.1f}", f"{plain / merged:.2f}x"]
        rows.append(row)
    return markdown_table(header, rows)


__all__ = ["FileSegmenter", "output_names", "records_table"]
