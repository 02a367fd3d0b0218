# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a training starts from: random weights, ALGM, a Segmenter release or a plain ViT."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..configuration_algm import BACKBONE_PRESETS, AlgmConfig
from ..conversion.segmenter_release import convert_segmenter_checkpoint
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from .arguments import ModelArguments


SCRATCH = "scratch:"


@dataclass
class InitialModel:
    """What [`build_model`] returns.

    Attributes:
        model ([`AlgmForSemanticSegmentation`]): In float32, on the CPU.
        processor ([`AlgmImageProcessor`]): With the size of evaluated images.
        new_weights (`list[str]`): Names of the parameters that start at random although others were loaded.
    """

    model: AlgmForSemanticSegmentation
    processor: AlgmImageProcessor
    new_weights: list[str] = field(default_factory=list)


def shortened(names: Sequence[str], most: int = 4) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def config_overrides(arguments: ModelArguments, crop_size: tuple[int, int]) -> dict[str, Any]:
    """The fields of [`AlgmConfig`] that the arguments set.

    Args:
        arguments ([`ModelArguments`]): Unset fields are left out; a merge layer 0 becomes `None`.
        crop_size (`tuple[int, int]`): Height and width of training crops in pixels: its shorter side is the window of
            `inference_mode="slide"` unless one is given.

    Returns:
        `dict[str, Any]`: With `class_weights` in any case, `None` unless given.

    Raises:
        `ValueError`: If `class_weights` is no JSON list of numbers.
    """
    values = asdict(arguments)
    own = ("init_from", "init_revision", "train_with_merging", "eval_size", "attn_implementation")
    overrides = {name: value for name, value in values.items() if value is not None and name not in own}
    for name in ("local_merge_layer", "global_merge_layer"):
        if overrides.get(name) == 0:
            overrides[name] = None
    if overrides.get("inference_mode") == "slide":
        overrides.setdefault("window_size", min(crop_size))
    overrides["class_weights"] = _class_weights(arguments.class_weights)
    return overrides


def _class_weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        weights = json.loads(text)
    except ValueError:
        weights = None
    if not isinstance(weights, list) or not all(type(w) in (int, float) and math.isfinite(w) for w in weights):
        raise ValueError(f"--class_weights is {text!r}, expected a JSON list of numbers such as [1, 1, 0.5].")
    return weights


def scratch_config(
    arguments: ModelArguments, crop_size: tuple[int, int], id2label: Mapping[int, str] | None = None
) -> AlgmConfig:
    """The config of a model with random weights.

    Args:
        arguments ([`ModelArguments`]): With `init_from` of `scratch:ti`, `s`, `b`, `l` or `custom`.
        crop_size (`tuple[int, int]`): Height and width of training crops in pixels; position embeddings are stored for
            as many patches.
        id2label (`Mapping[int, str]`, *optional*): Class names; without them, two classes, or as many as weights.

    Returns:
        [`AlgmConfig`]

    Raises:
        `ValueError`: If a field is out of its range, or the number of class weights is not that of the classes.
    """
    name = arguments.init_from.removeprefix(SCRATCH)
    if name not in (*BACKBONE_PRESETS, "custom"):
        choices = ", ".join((*BACKBONE_PRESETS, "custom"))
        raise ValueError(f"--init_from is {arguments.init_from!r}, expected scratch: with one of {choices}.")
    fields = config_overrides(arguments, crop_size)
    if name != "custom":
        fields = {**BACKBONE_PRESETS[name], **fields}
    if "hidden_size" in fields:
        fields.setdefault("num_attention_heads", max(1, fields["hidden_size"] // 64))
        fields.setdefault("intermediate_size", 4 * fields["hidden_size"])
    if arguments.attn_implementation is not None:
        fields["attn_implementation"] = arguments.attn_implementation
    size = _whole_patches(crop_size, fields.get("patch_size", 16))
    weights = fields["class_weights"]
    labels = {"num_labels": len(weights) if weights else 2} if id2label is None else _labels(id2label)
    config = AlgmConfig(image_size=size, **fields, **labels)
    _check_class_weights(config)
    return config


def _whole_patches(size: tuple[int, int], patch_size: int) -> int | list[int]:
    """Height and width, rounded up to whole patches; one number for a square, as the config writes it."""
    patch_size = max(1, patch_size)  # the config refuses others
    height, width = (patch_size * -(-side // patch_size) for side in size)
    return height if height == width else [height, width]


def _labels(id2label: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(id2label), "label2id": {name: index for index, name in id2label.items()}}


def _check_class_weights(config: AlgmConfig) -> None:
    weights = config.class_weights
    if weights is not None and len(weights) != config.num_labels:
        raise ValueError(
            f"--class_weights holds {len(weights)} numbers, expected one for each of {config.num_labels}."
        )


def source_of(arguments: ModelArguments) -> str:
    """What `init_from` names: `"scratch"`, `"release"` (Segmenter / ALGM), `"algm"` or `"vit"`.

    Raises:
        `ValueError`: If there is no such thing.
    """
    name = arguments.init_from
    path = Path(name)
    if name.startswith(SCRATCH):
        return "scratch"
    described = path.suffix == ".pth" and (path.parent / "variant.yml").is_file()
    if described or (path / "checkpoint.pth").is_file():
        return "release"
    if path.is_file() or (path.is_dir() and not (path / "config.json").is_file()):
        return "vit"  # timm weights
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=arguments.init_revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--init_from {name} is neither a folder nor a model of the Hub: {reason}") from error
    return "algm" if config.get("model_type") == AlgmConfig.model_type else "vit"


def check_model_arguments(arguments: ModelArguments, crop_size: tuple[int, int]) -> None:
    """Refuses what can be refused before the data set, which may take minutes, is read.

    Raises:
        `ValueError`: Naming the argument.
    """
    if source_of(arguments) == "scratch":
        scratch_config(arguments, crop_size)
    config_overrides(arguments, crop_size)


def build_model(
    arguments: ModelArguments, crop_size: tuple[int, int], id2label: Mapping[int, str], from_vit=None
) -> InitialModel:
    """The model that a training starts from.

    Args:
        arguments ([`ModelArguments`])
        crop_size (`tuple[int, int]`): Height and width of training crops in pixels.
        id2label (`Mapping[int, str]`): The classes to train. A head for other classes starts at random in what depends
            on their number, and nowhere else.
        from_vit (`Callable`, *optional*): Takes the place of [`from_vit`] of `conversion/plain_vit.py`.

    Returns:
        [`InitialModel`]

    Raises:
        `ValueError`: If `init_from` cannot be loaded, or an argument does not fit it.
    """
    source = source_of(arguments)
    if source == "scratch":
        config = scratch_config(arguments, crop_size, id2label)
        built = InitialModel(AlgmForSemanticSegmentation(config), AlgmImageProcessor())
    elif source == "vit":
        built = _from_vit(arguments, crop_size, id2label, from_vit)
    elif source == "algm":
        built = _from_saved(arguments, crop_size, id2label, arguments.init_from)
    else:
        model, processor = convert_segmenter_checkpoint(arguments.init_from)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            built = _from_saved(arguments, crop_size, id2label, folder)
    _check_class_weights(built.model.config)
    built.processor = _processor(arguments, crop_size, built)
    return built


def _from_saved(arguments: ModelArguments, crop_size, id2label: Mapping[int, str], folder: str) -> InitialModel:
    """An ALGM model; the arguments may change everything but the shape of its encoder."""
    revision = {"revision": arguments.init_revision} if arguments.init_revision else {}
    saved, _ = AlgmConfig.get_config_dict(folder, **revision)
    for name in ("id2label", "label2id", "num_labels", "auto_map", "model_type", "transformers_version"):
        saved.pop(name, None)
    config = AlgmConfig(**{**saved, **config_overrides(arguments, crop_size), **_labels(id2label)})
    attention = {"attn_implementation": arguments.attn_implementation} if arguments.attn_implementation else {}
    model, report = AlgmForSemanticSegmentation.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **attention,
        **revision,
    )
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    changed = sorted({*report["missing_keys"], *report["unexpected_keys"], *mismatched})
    wrong = [name for name in changed if not name.startswith("decode_head.")]
    if wrong:
        raise ValueError(
            f"the arguments change the shape of the encoder in --init_from {arguments.init_from} ({wrong[0]} and "
            f"{len(wrong) - 1} others do not fit), expected those of the model unchanged."
        )
    new = sorted({*report["missing_keys"], *mismatched})
    return InitialModel(model, AlgmImageProcessor.from_pretrained(folder, **revision), new)


def _from_vit(arguments: ModelArguments, crop_size, id2label: Mapping[int, str], from_vit) -> InitialModel:
    """A plain ViT with a new decoder."""
    if from_vit is None:
        try:
            from ..conversion.plain_vit import from_vit
        except ImportError as error:
            raise ValueError(
                f"--init_from {arguments.init_from} is a ViT, expected scratch:..., an ALGM model or a Segmenter "
                f"release: this version cannot read others ({error})."
            ) from error
    settings = {"id2label": dict(id2label), **config_overrides(arguments, crop_size)}
    if arguments.init_revision is not None:
        settings["revision"] = arguments.init_revision
    try:
        model, processor = from_vit(arguments.init_from, **settings)
        size = _whole_patches(crop_size, model.config.patch_size)
        if size != model.config.image_size:  # the positions are resized once, not in every forward pass
            model, processor = from_vit(arguments.init_from, **settings, image_size=size)
    except (OSError, ImportError) as error:
        raise ValueError(f"--init_from {arguments.init_from}: {' '.join(str(error).split())}") from error
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    new = sorted(name for name in model.state_dict() if name.startswith("decode_head."))
    return InitialModel(model.float(), processor, new)


def _processor(arguments: ModelArguments, crop_size: tuple[int, int], built: InitialModel) -> AlgmImageProcessor:
    """Normalisation of the weights that were loaded, size of the evaluation; labels are final, nothing is reduced."""
    size = arguments.eval_size or arguments.window_size or min(crop_size)
    if size < 1:
        raise ValueError(f"--eval_size is {size}, expected at least 1.")
    kept = {name: getattr(built.processor, name) for name in ("image_mean", "image_std", "resample")}
    return AlgmImageProcessor(size=size, patch_size=built.model.config.patch_size, do_reduce_labels=False, **kept)


__all__ = [
    "InitialModel",
    "build_model",
    "check_model_arguments",
    "config_overrides",
    "scratch_config",
    "shortened",
    "source_of",
]
