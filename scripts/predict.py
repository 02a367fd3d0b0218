# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Segments images with an ALGM checkpoint and measures what token merging saves.

    python scripts/predict.py --model outputs/demo/model --images street.jpg holiday/ --output_dir predictions

For every image NAME.* the output folder receives

    NAME_labels.png   the label map: an indexed PNG at the image's size, its pixel values are the classes
    NAME_overlay.png  the classes laid over the image, with a legend
    NAME_tokens.png   the final tokens: each one's patches filled with its mean colour

and for all of them predictions.json with the table that is printed: tokens and time with and without merging at the
same weights, and how many pixels the two label maps share. A file that cannot be read is reported by name, the others
are still done, and the exit code is 1.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, HfArgumentParser

import algm_hf  # noqa: F401  registers the Auto classes, so that local checkpoints need no --trust_remote_code
from algm_hf.inference.files import FileSegmenter, records_table
from algm_hf.refusals import require_choice, require_integer, require_number
from algm_hf.runs.images import find_images
from algm_hf.runs.provenance import describe_environment


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
        require_integer("--batch_size", self.batch_size, 1)
        require_integer("--repeats", self.repeats, 0)
        require_choice("--dtype", self.dtype, ("float32", "float16", "bfloat16"))
        require_number("--alpha", self.alpha, 0, 1)
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> int:
    arguments: PredictionArguments = HfArgumentParser(PredictionArguments).parse_args_into_dataclasses()[0]
    paths = find_images(arguments.images)
    source = {"revision": arguments.revision, "trust_remote_code": arguments.trust_remote_code}
    processor = AutoImageProcessor.from_pretrained(arguments.model, **source)
    model = AutoModelForSemanticSegmentation.from_pretrained(arguments.model, dtype=arguments.dtype, **source)
    model = model.to(arguments.device).eval()
    if arguments.merge_threshold is not None:
        model.config.merge_threshold = arguments.merge_threshold
    where, threshold = describe_environment(model), model.config.merge_threshold
    segmenter = FileSegmenter(model, processor, arguments.output_dir, arguments.alpha, arguments.repeats)
    segmenter.segment(paths, arguments.batch_size)
    saved = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "arguments": asdict(arguments),
        "environment": where,
        "merge_threshold": threshold,
        "images": segmenter.records,
        "failures": segmenter.failures,
    }
    (segmenter.folder / "predictions.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    if segmenter.records:
        print(records_table(segmenter.records))
        if arguments.repeats:
            print(
                f"\nTimes: forward passes of one image, median of {arguments.repeats} runs, on and off in turns; "
                f"{where['device_name']} ({where['device']}), {where['threads']} threads, {where['dtype']},"
                f" attention {where['attention']}, tau {threshold}."
            )
    done = f"{len(segmenter.records)} of {len(paths)} images segmented"
    print(f"\n{done}; drawings and predictions.json are in {segmenter.folder}.")
    for path, error in segmenter.failures.items():
        print(f"failed: {path}: {error}", file=sys.stderr)
    return 1 if segmenter.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
