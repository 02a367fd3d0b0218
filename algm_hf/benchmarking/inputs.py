# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is told to measure: its arguments, the models and the images. Offline but for Hub names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    ViTConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..configuration_algm import BACKBONE_PRESETS, MERGE_THRESHOLD_RANGE, AlgmConfig
from ..data.drawn_scenes import make_scene
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require, require_choice, require_integer
from ..runs.images import find_images, read_rgb


PRESET_PATCH_SIZE, PRESET_LABELS = 16, 150
DTYPES = ("float32", "float16", "bfloat16")
# Others, such as flash_attention_2, run kernels whose FLOPs torch cannot count.
ATTENTION = ("sdpa", "eager")


@dataclass
class BenchmarkArguments:
    """What to measure, on what, how often, and where the results go."""

    model: str = field(
        default="s",
        metadata={
            "help": "ti, s, b or l (the paper's ViTs with a mask transformer, random weights), or the folder or Hub "
            "name of a saved ALGM model."
        },
    )
    resolutions: list[str] = field(
        default_factory=lambda: ["512"],
        metadata={"help": "Sides of the images in pixels: 512 for squares, 512x1024 for height x width; several."},
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "Images per batch, always different ones; several."}
    )
    merge_thresholds: list[float] = field(
        default_factory=list, metadata={"help": "Measure merging at these thresholds tau, -1 to 1."}
    )
    token_ratios: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Measure merging at the thresholds that leave these shares of the encoder's tokens (mean over "
            "layers and images), above 0 and up to 1; each is searched on the batch."
        },
    )
    flop_ratios: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Measure merging at the thresholds where the unmerged model needs this many times the FLOPs, at "
            "least 1. Without any of the three: 1.47, the paper's ViT-S on ADE20K, for a preset, and a saved model's "
            "own threshold."
        },
    )
    images: str | None = field(
        default=None,
        metadata={
            "help": "Folder of images, cropped to the middle and resized before the clock starts; drawn scenes "
            "without it."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of random weights and of the first drawn scene."})
    device: str = field(
        default="auto", metadata={"help": "cpu, cuda, cuda:1, ...; auto takes cuda where there is one."}
    )
    dtype: str = field(default="float32", metadata={"help": "float32, float16 or bfloat16."})
    threads: int | None = field(
        default=None, metadata={"help": "Threads of torch on the CPU; without it, its choice."}
    )
    attention: str = field(default="sdpa", metadata={"help": "Attention of our model and of ViTModel: sdpa or eager."})
    repeats: int = field(default=10, metadata={"help": "Timed runs of every row, in turns; the median counts."})
    warmup: int = field(default=3, metadata={"help": "Runs of every row before, not timed."})
    vit_row: bool = field(
        default=True,
        metadata={"help": "Compare our encoder, merging off, with transformers' ViTModel of its size."},
    )
    dense_row: bool = field(
        default=True, metadata={"help": "Add the unmerged model with interpolate + argmax over all classes."}
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other segmentation models: a transformers model type (segformer, upernet, eomt, mask2former, ...)"
            " or a config.json, both with random weights, or a folder or Hub name."
        },
    )
    compile: bool = field(default=False, metadata={"help": "Measure our rows and ViTModel compiled, too."})
    output: str = field(
        default="outputs/benchmark/benchmark.json",
        metadata={"help": "The JSON file; the table (.md) and the plot (.png) go beside it under the same name."},
    )
    plot: bool = field(default=True, metadata={"help": "Draw the plot, where matplotlib is installed."})
    commit: str | None = field(
        default=None, metadata={"help": "Commit to state in the results; without it git is asked, where there is one."}
    )

    def __post_init__(self):
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.model in BACKBONE_PRESETS and not (self.merge_thresholds or self.token_ratios or self.flop_ratios):
            self.flop_ratios = [1.47]
        _check_device(self.device)
        require_choice("--dtype", self.dtype, DTYPES)
        require_choice("--attention", self.attention, ATTENTION)
        for name, minimum in {"repeats": 1, "warmup": 0, "seed": 0}.items():
            require_integer(f"--{name}", getattr(self, name), minimum)
        if self.threads is not None:
            require_integer("--threads", self.threads, 1)
        require(Path(self.output).suffix == ".json", "--output", self.output, "a file name that ends in .json")
        for name in ("resolutions", "batch_sizes"):
            require(getattr(self, name), f"--{name}", getattr(self, name), "at least one value")
        low, high = MERGE_THRESHOLD_RANGE
        ranges: dict[str, tuple[Callable, str]] = {
            "batch_sizes": (lambda value: value >= 1, "numbers of at least 1"),
            "merge_thresholds": (lambda value: low <= value <= high, f"numbers from {low:g} to {high:g}"),
            "token_ratios": (lambda value: 0 < value <= 1, "numbers above 0 and up to 1"),
            "flop_ratios": (lambda value: 1 <= value < float("inf"), "numbers of at least 1"),
            "resolutions": (lambda value: re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", value), "pixels, as 512 or 512x1024"),
        }
        for name, (is_valid, expected) in ranges.items():
            for value in getattr(self, name):
                require(is_valid(value), f"--{name}", value, expected)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every resolution."""
        sides = [[int(side) for side in resolution.split("x")] for resolution in self.resolutions]
        return [(side[0], side[-1]) for side in sides]


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        expected = "cpu" + (", cuda or cuda:N" if torch.cuda.is_available() else " (torch sees no CUDA device here)")
        raise ValueError(f"--device={name!r}: expected {expected}") from error


def _finish(model: nn.Module, arguments: BenchmarkArguments) -> nn.Module:
    return model.to(arguments.device, getattr(torch, arguments.dtype)).eval()


def build_segmenter(
    arguments: BenchmarkArguments, resolution: tuple[int, int]
) -> tuple[nn.Module, AlgmImageProcessor]:
    """
    The model to measure, in evaluation mode, and a processor that makes its inputs of exactly this size.

    Raises:
        ValueError: if a side is no multiple of the patch, or the name is that of another kind of model.
    """
    size = {"height": resolution[0], "width": resolution[1]}
    if arguments.model in BACKBONE_PRESETS:
        _check_patches(resolution, PRESET_PATCH_SIZE)
        config = AlgmConfig(
            **BACKBONE_PRESETS[arguments.model],
            patch_size=PRESET_PATCH_SIZE,
            image_size=list(resolution),
            num_labels=PRESET_LABELS,
            attn_implementation=arguments.attention,
        )
        torch.manual_seed(arguments.seed)
        model = AlgmForSemanticSegmentation(config)
        processor = AlgmImageProcessor(size=size, patch_size=config.patch_size)
    else:
        model = AutoModelForSemanticSegmentation.from_pretrained(
            arguments.model, attn_implementation=arguments.attention
        )
        expected = f"an ALGM model or one of {', '.join(BACKBONE_PRESETS)}; other models go to --compare"
        require(isinstance(model, AlgmForSemanticSegmentation), "--model", arguments.model, expected)
        _check_patches(resolution, model.config.patch_size)
        processor = AlgmImageProcessor.from_pretrained(arguments.model, size=size)
    return _finish(model, arguments), processor


def _check_patches(resolution: tuple[int, int], patch_size: int) -> None:
    for side in resolution:
        require(side % patch_size == 0, "--resolutions", side, f"multiples of the patch size {patch_size}")


def build_vit(arguments: BenchmarkArguments, model: nn.Module, resolution: tuple[int, int]) -> nn.Module:
    """
    transformers' ViTModel of the widths of our encoder, random weights, positions stored at this resolution.

    Raises:
        ValueError: if the model has register tokens, which ViTModel has not.
    """
    ours = model.config
    require(not ours.num_register_tokens, "num_register_tokens", ours.num_register_tokens, "0: ViTModel has none")
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    shared += ("layer_norm_eps", "patch_size", "num_channels", "qkv_bias")
    config = ViTConfig(**{name: getattr(ours, name) for name in shared}, image_size=list(resolution))
    torch.manual_seed(arguments.seed)
    vit = AutoModel.from_config(config, attn_implementation=arguments.attention, add_pooling_layer=False)
    return _finish(vit, arguments)


def build_other(arguments: BenchmarkArguments, name: str, num_labels: int, resolution: tuple[int, int]) -> nn.Module:
    """
    Another segmentation model: `name` is a model type or a `config.json` (random weights), a folder or a Hub name.

    Raises:
        ValueError: if transformers has no segmentation model for it.
    """
    is_saved = name not in CONFIG_MAPPING and not name.endswith(".json")
    if name in CONFIG_MAPPING:
        config = AutoConfig.for_model(name)
        config.num_labels = num_labels
        if hasattr(config, "image_size") and resolution[0] == resolution[1]:
            config.image_size = resolution[0]
    else:
        config = AutoConfig.from_pretrained(name)
    autos = (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)
    auto = next((auto for auto in autos if type(config) in auto._model_mapping), None)
    require(auto, "--compare", name, "a model that transformers can segment with")
    torch.manual_seed(arguments.seed)
    return _finish(auto.from_pretrained(name) if is_saved else auto.from_config(config), arguments)


def digest(image: Image.Image) -> str:
    """Tells images apart in the results: the beginning of the hash of size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:12]


def benchmark_images(arguments: BenchmarkArguments, resolution: tuple[int, int], count: int) -> list[Image.Image]:
    """
    Different images of exactly this size: drawn scenes, or the first ones of the folder in the order of their names.

    Raises:
        ValueError: if the folder is none, or holds too few different images.
    """
    if arguments.images is None:
        return [make_scene(arguments.seed + index, resolution)[0] for index in range(count)]
    require(Path(arguments.images).is_dir(), "--images", arguments.images, "a folder of images")
    found: dict[str, Image.Image] = {}
    for path in find_images([arguments.images]):
        if len(found) < count:
            image = ImageOps.fit(read_rgb(path), (resolution[1], resolution[0]), Image.Resampling.BILINEAR)
            found.setdefault(digest(image), image)
    expected = f"at least {count} different images, the largest of --batch_sizes, instead of {len(found)}"
    require(len(found) >= count, "--images", arguments.images, expected)
    return list(found.values())


__all__ = ["BenchmarkArguments", "benchmark_images", "build_other", "build_segmenter", "build_vit", "digest"]
