# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Segments pictures with an ALGM checkpoint and measures what token merging saves.

    python scripts/predict.py --model outputs/demo/model --images street.jpg holiday/ --output_dir predictions

For every picture NAME.* the output folder receives

    NAME_labels.png   the label map: an indexed PNG at the picture's size, its pixel values are the classes
    NAME_overlay.png  the classes laid over the picture, with a legend
    NAME_tokens.png   the final tokens: each one's patches filled with its mean colour

and for all of them predictions.json with the table that is printed: tokens and time with and without merging at the
same weights, and how many pixels the two label maps share. A file that cannot be read is reported by name, the others
are still done, and the exit code is 1.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, HfArgumentParser

import algm_hf  # noqa: F401  registers the Auto classes, so that local checkpoints need no --trust_remote_code
from algm_hf.inference.drawing import overlay, save_label_map, token_map
from algm_hf.inference.palettes import make_palette
from algm_hf.inference.predictor import SegmentedImage, segment_images
from algm_hf.runs.models import config_settings
from algm_hf.runs.provenance import describe_environment
from algm_hf.runs.tables import markdown_table
from algm_hf.runs.timing import time_settings


MERGED, PLAIN = {"use_token_merging": True}, {"use_token_merging": False}


@dataclass
class PredictionArguments:
    """What to segment, with what, and where the results go."""

    model: str = field(
        metadata={"help": "Folder of a saved model and processor, or its name on the Hugging Face Hub."}
    )
    images: list[str] = field(
        metadata={"help": "Image files, and folders whose image files are taken (not their sub-folders)."}
    )
    output_dir: str = field(metadata={"help": "Folder for the results; it is made if it does not exist."})
    batch_size: int = field(
        default=1, metadata={"help": "Images per forward pass; sizes may differ. Results do not depend on it."}
    )
    device: str = field(
        default="auto", metadata={"help": "cpu, cuda, cuda:1, ...; auto takes cuda where there is one."}
    )
    dtype: str = field(default="float32", metadata={"help": "float32, float16 or bfloat16."})
    merge_threshold: float | None = field(
        default=None, metadata={"help": "Threshold tau, -1 to 1; lower merges more. Without it, the checkpoint's own."}
    )
    alpha: float = field(default=0.55, metadata={"help": "Weight of the class colours in the overlay, 0 to 1."})
    repeats: int = field(
        default=5, metadata={"help": "Timed runs per image, with and without merging; 0 measures no time."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the checkpoint's own copy of the model code instead of this package's."}
    )

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"--batch_size is {self.batch_size}, expected at least 1.")
        if self.repeats < 0:
            raise ValueError(f"--repeats is {self.repeats}, expected 0 or more.")
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"--dtype is {self.dtype!r}, expected float32, float16 or bfloat16.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"--alpha is {self.alpha}, expected a number from 0 to 1.")
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"


def find_images(paths: Sequence[str]) -> list[Path]:
    """Files as named, and the image files of folders in the order of their names.

    Raises:
        `ValueError`: If a path does not exist or nothing is found.
    """
    formats = Image.registered_extensions()
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(
                file for file in path.iterdir() if file.suffix.lower() in formats and not file.name.startswith(".")
            )
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"--images: {path} does not exist.")
    if not found:
        raise ValueError(f"--images: no image file in {', '.join(paths)}.")
    return list(dict.fromkeys(found))


def output_names(paths: Sequence[Path]) -> list[str]:
    """One name per file for its results: the stem, with a number where several files share it."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}")
    return names


def read_image(path: Path) -> Image.Image:
    """The picture as RGB, turned as its EXIF tag says; `OSError` or `ValueError` if it cannot be read."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises on some broken or oversized files
        raise ValueError(str(error)) from error


class Predictor:
    """Segments images with a loaded model, writes the pictures and collects one record per image."""

    def __init__(self, arguments: PredictionArguments):
        self.arguments = arguments
        source = {"revision": arguments.revision, "trust_remote_code": arguments.trust_remote_code}
        self.processor = AutoImageProcessor.from_pretrained(arguments.model, **source)
        model = AutoModelForSemanticSegmentation.from_pretrained(arguments.model, dtype=arguments.dtype, **source)
        self.model = model.to(arguments.device).eval()
        if arguments.merge_threshold is not None:
            self.model.config.merge_threshold = arguments.merge_threshold
        self.id2label = dict(self.model.config.id2label)
        self.palette = make_palette(self.id2label)
        self.folder = Path(arguments.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)

    def predict(self, batch: Sequence[tuple[Path, str, Image.Image]]) -> list[dict]:
        """Segments a batch of `(file, name of the results, picture)` and returns their records."""
        images = [image for _, _, image in batch]
        with config_settings(self.model, **MERGED):
            merged = segment_images(self.model, self.processor, images)
        with config_settings(self.model, **PLAIN):
            plain = segment_images(self.model, self.processor, images)
        records = []
        for (path, name, image), with_merging, without in zip(batch, merged, plain, strict=True):
            record = {"file": str(path), "height": image.height, "width": image.width}
            record |= self._record(image, with_merging, without)
            record["written"] = self._write(name, image, with_merging)
            records.append(record)
        return records

    def _record(self, image: Image.Image, merged: SegmentedImage, plain: SegmentedImage) -> dict:
        record = {
            "input_height": merged.input_size[0],
            "input_width": merged.input_size[1],
            "tokens_per_layer": merged.token_counts,
            "tokens_final": merged.token_counts[-1],
            "tokens_mean": float(np.mean(merged.token_counts)),
            "tokens_unmerged": plain.token_counts[-1],
            "agreement": float((merged.label_map == plain.label_map).mean()),
        }
        if self.arguments.repeats:
            settings = {"seconds_merged": MERGED, "seconds_unmerged": PLAIN}
            record |= time_settings(self.model, self.processor, [image], settings, repeats=self.arguments.repeats)
        return record

    def _write(self, name: str, image: Image.Image, result: SegmentedImage) -> list[str]:
        paths = [self.folder / f"{name}_{kind}.png" for kind in ("labels", "overlay", "tokens")]
        save_label_map(result.label_map, paths[0], self.palette)
        overlay(image, result.label_map, self.id2label, self.arguments.alpha, self.palette).save(paths[1])
        if result.patch_to_token is None:  # windows of one image merge on their own: there is no one map
            return [str(path) for path in paths[:2]]
        height, width = result.input_size
        seen = image.resize((width, height), Image.Resampling.BILINEAR)
        magnify = max(1, round(image.width / width))
        patches = result.patch_to_token
        token_map(seen, patches, result.grid_size, self.model.config.patch_size, magnify).save(paths[2])
        return [str(path) for path in paths]


def make_table(records: Sequence[dict]) -> str:
    """The records as a Markdown table, with a last row of means if there are several."""
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


@dataclass
class Report:
    """What came of all files."""

    records: list[dict] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def predict_batch(predictor: Predictor, batch: Sequence[tuple[Path, str, Image.Image]], report: Report) -> None:
    """Segments a batch; if an image in it is refused, the others are done one by one."""
    try:
        report.records += predictor.predict(batch)
    except ValueError as error:
        if len(batch) == 1:
            report.failures[str(batch[0][0])] = str(error)
            return
        for item in batch:
            predict_batch(predictor, [item], report)


def predict_files(predictor: Predictor, paths: Sequence[Path], batch_size: int) -> Report:
    """Reads and segments files batch by batch; those that cannot be read end up in the report's failures."""
    report = Report()
    batch: list[tuple[Path, str, Image.Image]] = []
    with tqdm(total=len(paths), unit="image", desc="segmenting") as bar:
        for path, name in zip(paths, output_names(paths), strict=True):
            try:
                batch.append((path, name, read_image(path)))
            except (OSError, ValueError) as error:
                report.failures[str(path)] = str(error)
                bar.update()
            if len(batch) == batch_size:
                predict_batch(predictor, batch, report)
                bar.update(len(batch))
                batch = []
        if batch:
            predict_batch(predictor, batch, report)
            bar.update(len(batch))
    return report


def main() -> int:
    arguments: PredictionArguments = HfArgumentParser(PredictionArguments).parse_args_into_dataclasses()[0]
    paths = find_images(arguments.images)
    predictor = Predictor(arguments)
    report = predict_files(predictor, paths, arguments.batch_size)
    where = describe_environment(predictor.model)
    threshold = predictor.model.config.merge_threshold
    saved = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "arguments": asdict(arguments),
        "environment": where,
        "merge_threshold": threshold,
        "images": report.records,
        "failures": report.failures,
    }
    (predictor.folder / "predictions.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    if report.records:
        print(make_table(report.records))
        if arguments.repeats:
            print(
                f"\nTimes: forward passes of one image, median of {arguments.repeats} runs, on and off in turns; "
                f"{where['device_name']} ({where['device']}), {where['threads']} threads, {where['dtype']},"
                f" attention {where['attention']}, tau {threshold}."
            )
    done = f"{len(report.records)} of {len(paths)} images segmented"
    print(f"\n{done}; pictures and predictions.json are in {predictor.folder}.")
    for path, error in report.failures.items():
        print(f"failed: {path}: {error}", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
