#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Converts a checkpoint in the Segmenter / ALGM release format into a folder that the Auto classes load:

    python scripts/convert_checkpoint.py --checkpoint ADE20K_ViT_Small/checkpoint.pth --output_dir algm-ade20k
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from transformers import HfArgumentParser

from algm_hf.conversion import check_saved_folder, convert_segmenter_checkpoint


@dataclass
class ConversionArguments:
    checkpoint: str = field(
        metadata={"help": "checkpoint.pth in the Segmenter / ALGM release format, with variant.yml beside it."}
    )
    output_dir: str = field(metadata={"help": "Folder to write: weights, config, processor and the model's code."})
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Hub repository to upload the folder to, such as user/algm-vit-small-ade20k."}
    )
    id2label: str | None = field(
        default=None, metadata={"help": 'JSON file with the class names, {"0": "wall", ...}. Default: LABEL_0, ...'}
    )


def read_class_names(path: str) -> dict[str, str]:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f'--id2label {path} cannot be read as JSON such as {{"0": "wall"}}: {error}') from error


def check_arguments(args: ConversionArguments) -> None:
    if Path(args.output_dir).exists() and not Path(args.output_dir).is_dir():
        raise ValueError(f"--output_dir {args.output_dir} is a file, expected a folder or a new path.")
    if args.push_to_hub is not None and "." in args.push_to_hub:
        # transformers turns the repository name into the name of a Python module.
        raise ValueError(f"--push_to_hub {args.push_to_hub} holds a dot, expected a repository name without dots.")


def upload(folder: str, repo_id: str) -> None:
    """Uploads exactly the files that were checked."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    print(f"uploaded: {api.upload_folder(repo_id=repo_id, folder_path=folder)}")


def convert(args: ConversionArguments) -> None:
    check_arguments(args)
    id2label = None if args.id2label is None else read_class_names(args.id2label)
    model, processor = convert_segmenter_checkpoint(args.checkpoint, id2label=id2label)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    difference = check_saved_folder(model, args.output_dir)

    print(f"wrote {args.output_dir}: {', '.join(sorted(path.name for path in Path(args.output_dir).iterdir()))}")
    print(f"reloaded and compared, merging on and off: logits differ by at most {difference:.1e}")
    if args.push_to_hub is not None:
        upload(args.output_dir, args.push_to_hub)
    source = args.push_to_hub or args.output_dir
    print("load it with:")
    print("    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation")
    print(f"    model = AutoModelForSemanticSegmentation.from_pretrained({source!r}, trust_remote_code=True)")
    print(f"    processor = AutoImageProcessor.from_pretrained({source!r}, trust_remote_code=True)")


def main() -> int:
    (args,) = HfArgumentParser(ConversionArguments).parse_args_into_dataclasses()
    try:
        convert(args)
    except (ValueError, OSError) as error:  # refused input, no disk space, no network: one line, no traceback
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
