#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Converts a checkpoint into a folder that the Auto classes load: one in the Segmenter / ALGM release format, or a plain
Vision Transformer of transformers or timm, which gets a new decoder to be trained:

    python scripts/convert_checkpoint.py --checkpoint ADE20K_ViT_Small/checkpoint.pth --output_dir algm-ade20k
    python scripts/convert_checkpoint.py --source vit --checkpoint facebook/dinov2-base --num_labels 150 \
        --output_dir algm-dinov2
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf import AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.conversion.plain_vit import from_vit
from algm_hf.conversion.saved_folder import check_saved_folder
from algm_hf.conversion.segmenter_release import convert_segmenter_checkpoint
from algm_hf.publishing.publication import check_repo_id, prepare_publication
from algm_hf.publishing.upload import PublishingError, publish
from algm_hf.refusals import require
from algm_hf.runs.files import read_json


SOURCES = ("auto", "release", "vit")


@dataclass
class ConversionArguments:
    checkpoint: str = field(
        metadata={
            "help": "checkpoint.pth in the Segmenter / ALGM release format, with variant.yml beside it; or a plain "
            "ViT: a folder of transformers or timm, a file of weights, or with --source vit a Hub repository."
        }
    )
    output_dir: str = field(metadata={"help": "Folder to write: weights, config, processor and the model's code."})
    source: str = field(
        default="auto",
        metadata={
            "help": "release, vit, or auto: vit for a folder with config.json and for safetensors, else release.",
            "choices": SOURCES,
        },
    )
    num_labels: int | None = field(
        default=None,
        metadata={"help": "Number of classes of the new decoder of a plain ViT, unless --id2label is given."},
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side in pixels at which a plain ViT is to be used. Default: that of the source."},
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={"help": "Hub repository to publish the folder in, as scripts/push_to_hub.py does; needs --license."},
    )
    license: str | None = field(
        default=None,
        metadata={"help": "With --push_to_hub: licence of the weights, which is their authors', as the Hub names it."},
    )
    id2label: str | None = field(
        default=None, metadata={"help": 'JSON file with the class names, {"0": "wall", ...}. Default: LABEL_0, ...'}
    )


def check_arguments(args: ConversionArguments) -> None:
    output = Path(args.output_dir)
    require(not output.exists() or output.is_dir(), "--output_dir", args.output_dir, "a folder or a new path")
    for name in ("num_labels", "image_size") if _source(args) == "release" else ():
        require(getattr(args, name) is None, f"--{name}", getattr(args, name), "--source vit, as a release says it")
    if args.push_to_hub is not None:
        check_repo_id(args.push_to_hub)
    both = (args.push_to_hub is None) == (args.license is None)
    require(both, "--license", args.license, "--push_to_hub and --license together: it is for the card on the Hub")


def _source(args: ConversionArguments) -> str:
    if args.source != "auto":
        return args.source
    path = Path(args.checkpoint)
    return "vit" if (path / "config.json").is_file() or path.suffix == ".safetensors" else "release"


def convert_source(args: ConversionArguments) -> tuple[AlgmForSemanticSegmentation, AlgmImageProcessor]:
    id2label = None if args.id2label is None else read_json(Path(args.id2label))
    if _source(args) == "release":
        return convert_segmenter_checkpoint(args.checkpoint, id2label=id2label)
    size = {} if args.image_size is None else {"image_size": args.image_size}
    return from_vit(args.checkpoint, num_labels=args.num_labels, id2label=id2label, **size)


def convert(args: ConversionArguments) -> None:
    check_arguments(args)
    model, processor = convert_source(args)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    difference = check_saved_folder(model, args.output_dir)

    print(f"wrote {args.output_dir}: {', '.join(sorted(path.name for path in Path(args.output_dir).iterdir()))}")
    print(f"reloaded and compared, merging on and off: logits differ by at most {difference:.1e}")
    if args.push_to_hub is not None:
        publication = prepare_publication(args.output_dir, args.push_to_hub, license=args.license)
        print(f"published: {publish(publication, args.push_to_hub).commit_url}")
    source = args.push_to_hub or args.output_dir
    print("load it with:")
    print("    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation")
    print(f"    model = AutoModelForSemanticSegmentation.from_pretrained({source!r}, trust_remote_code=True)")
    print(f"    processor = AutoImageProcessor.from_pretrained({source!r}, trust_remote_code=True)")


def main() -> int:
    (args,) = HfArgumentParser(ConversionArguments).parse_args_into_dataclasses()
    try:
        convert(args)
    except (ValueError, OSError, PublishingError) as error:  # refused input, no disk space, no network: one line
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:  # an upload says what it left
        print(str(error) or "Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
