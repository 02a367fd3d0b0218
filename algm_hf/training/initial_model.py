# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a training starts from: random weights, ALGM, a Segmenter release or a plain ViT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..configuration_algm import BACKBONE_PRESETS, AlgmConfig
from ..conversion.plain_vit import from_vit
from ..conversion.segmenter_release import convert_segmenter_checkpoint
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..patch_grid import patch_grid
from ..refusals import require, require_integer
from ..vit_embeddings import resize_positions
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
    """The fields of [`AlgmConfig`] that the arguments set: `class_weights` in any case, and `window_size` of
    `inference_mode="slide"`, unless given, to the shorter side of training crops of height and width `crop_size`."""
    overrides = {"class_weights": None, **arguments.config_overrides}
    if overrides.get("inference_mode") == "slide":
        overrides.setdefault("window_size", min(crop_size))
    return overrides


def scratch_config(
    arguments: ModelArguments, crop_size: tuple[int, int], id2label: Mapping[int, str] | None = None
) -> AlgmConfig:
    """The config of a model with random weights.

    Args:
        arguments ([`ModelArguments`]): With `init_from` of `scratch:ti`, `s`, `b`, `l` or `custom`.
        crop_size (`tuple[int, int]`): Height and width of training crops in pixels; position embeddings are stored for
            as many patches.
        id2label (`Mapping[int, str]`, *optional*): Class names; without them, two classes, or as many as weights.

    Raises:
        `ValueError`: If a field is out of its range, or the number of class weights is not that of the classes.
    """
    name = arguments.init_from.removeprefix(SCRATCH)
    choices = ", ".join((*BACKBONE_PRESETS, "custom"))
    require(name in (*BACKBONE_PRESETS, "custom"), "init_from", arguments.init_from, f"scratch: with one of {choices}")
    fields = {"patch_size": 16, **BACKBONE_PRESETS.get(name, {}), **config_overrides(arguments, crop_size)}
    for side in ("patch_size", "hidden_size") if "hidden_size" in fields else ("patch_size",):
        require_integer(side, fields[side], 1)
    if "hidden_size" in arguments.config_overrides:
        defaults = {"num_attention_heads": max(1, fields["hidden_size"] // 64)}
        defaults["intermediate_size"] = 4 * fields["hidden_size"]
        fields |= {key: value for key, value in defaults.items() if key not in arguments.config_overrides}
    if arguments.attn_implementation is not None:
        fields["attn_implementation"] = arguments.attn_implementation
    weights = fields["class_weights"]
    labels = {"num_labels": len(weights) if weights else 2} if id2label is None else _labels(id2label)
    config = AlgmConfig(**{"image_size": _whole_patches(crop_size, fields["patch_size"]), **fields, **labels})
    _check_class_weights(config)
    return config


def _whole_patches(size: tuple[int, int], patch_size: int) -> int | list[int]:
    """Height and width, rounded up to whole patches; one number for a square, as the config writes it."""
    height, width = (patch_size * side for side in patch_grid(size, patch_size))
    return height if height == width else [height, width]


def _labels(id2label: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(id2label), "label2id": {name: index for index, name in id2label.items()}}


def _check_class_weights(config: AlgmConfig) -> None:
    weights = config.class_weights
    expected = f"one for each of the {config.num_labels} classes"
    require(weights is None or len(weights) == config.num_labels, "class_weights", weights, expected)


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
        raise ValueError(f"init_from={name!r}: expected a folder or a model of the Hub ({reason})") from error
    return "algm" if config.get("model_type") == AlgmConfig.model_type else "vit"


def check_model_arguments(arguments: ModelArguments, crop_size: tuple[int, int]) -> None:
    """Refuses what can be refused before the data set, which may take minutes, is read.

    Raises:
        `ValueError`: Naming the argument.
    """
    source = source_of(arguments)
    if source == "scratch":
        scratch_config(arguments, crop_size)
    elif source == "algm":
        AlgmConfig(**{**_saved_fields(arguments), **config_overrides(arguments, crop_size)})


def build_model(arguments: ModelArguments, crop_size: tuple[int, int], id2label: Mapping[int, str]) -> InitialModel:
    """The model that a training starts from.

    Args:
        arguments ([`ModelArguments`])
        crop_size (`tuple[int, int]`): Height and width of training crops in pixels.
        id2label (`Mapping[int, str]`): The classes to train. A head for other classes starts at random in what depends
            on their number, and nowhere else.

    Returns:
        [`InitialModel`]

    Raises:
        `ValueError`: If `init_from` cannot be loaded, or an argument does not fit it.
    """
    build = {"scratch": _from_scratch, "algm": _from_saved, "release": _from_release, "vit": _from_vit}
    built = build[source_of(arguments)](arguments, crop_size, id2label)
    _check_class_weights(built.model.config)
    built.processor = _processor(arguments, crop_size, built)
    return built


def _from_scratch(arguments: ModelArguments, crop_size, id2label: Mapping[int, str]) -> InitialModel:
    """Random weights."""
    config = scratch_config(arguments, crop_size, id2label)
    return InitialModel(AlgmForSemanticSegmentation(config), AlgmImageProcessor())


def _from_saved(arguments: ModelArguments, crop_size, id2label: Mapping[int, str]) -> InitialModel:
    """An ALGM model; the arguments may change everything but the shape of its encoder."""
    fields = {**_saved_fields(arguments), **config_overrides(arguments, crop_size)}
    processor = AlgmImageProcessor.from_pretrained(arguments.init_from, **_revision(arguments))
    return _loaded(arguments, fields, id2label, processor, arguments.init_from)


def _from_release(arguments: ModelArguments, crop_size, id2label: Mapping[int, str]) -> InitialModel:
    """A Segmenter or ALGM release, with the same freedom."""
    model, processor = convert_segmenter_checkpoint(arguments.init_from)
    fields = {**_without_labels(model.config.to_dict()), **config_overrides(arguments, crop_size)}
    return _loaded(arguments, fields, id2label, processor, None, model.state_dict())


def _from_vit(arguments: ModelArguments, crop_size, id2label: Mapping[int, str]) -> InitialModel:
    """A plain ViT with a new decoder; the positions are resized to the crops once, not in every forward pass."""
    overrides = config_overrides(arguments, crop_size)
    try:
        model, processor = from_vit(arguments.init_from, id2label=id2label, **overrides, **_revision(arguments))
    except (OSError, ImportError) as error:
        raise ValueError(f"init_from={arguments.init_from!r}: {' '.join(str(error).split())}") from error
    config, weights = model.config, model.state_dict()
    size = overrides.get("image_size", _whole_patches(crop_size, config.patch_size))
    fields = {**_without_labels(config.to_dict()), "image_size": size}
    name, old_grid = "algm.embeddings.position_embeddings", config.position_grid_size
    if name in weights:
        of_class, of_patches = weights[name].split([int(config.use_class_token), math.prod(old_grid)], dim=1)
        new_grid = AlgmConfig(**fields).position_grid_size
        of_patches = resize_positions(of_patches, old_grid, new_grid, config.position_interpolation)
        weights[name] = torch.cat((of_class, of_patches), dim=1)
    built = _loaded(arguments, fields, id2label, processor, None, weights)
    built.new_weights = sorted(name for name in weights if name.startswith("decode_head."))
    return built


def _revision(arguments: ModelArguments) -> dict[str, str]:
    return {} if arguments.init_revision is None else {"revision": arguments.init_revision}


def _saved_fields(arguments: ModelArguments) -> dict[str, Any]:
    """What the config of an ALGM model says, but for its classes, which the data set decides."""
    return _without_labels(AlgmConfig.get_config_dict(arguments.init_from, **_revision(arguments))[0])


def _without_labels(saved: Mapping[str, Any]) -> dict[str, Any]:
    others = ("id2label", "label2id", "num_labels", "auto_map", "model_type", "transformers_version")
    return {name: value for name, value in saved.items() if name not in others}


def _loaded(
    arguments: ModelArguments,
    fields: Mapping[str, Any],
    id2label: Mapping[int, str],
    processor: AlgmImageProcessor,
    source: str | None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> InitialModel:
    """A model with the weights of a folder, of the Hub or of `weights`; of the decoder, those that fit."""
    attention = {"attn_implementation": arguments.attn_implementation} if arguments.attn_implementation else {}
    model, report = AlgmForSemanticSegmentation.from_pretrained(
        source,
        config=AlgmConfig(**{**fields, **_labels(id2label)}),
        state_dict=weights,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **attention,
        **(_revision(arguments) if weights is None else {}),
    )
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    wrong = sorted(
        name
        for name in {*report["missing_keys"], *report["unexpected_keys"], *mismatched}
        if not name.startswith("decode_head.")
    )
    expected = f"what leaves the shape of the encoder of {arguments.init_from} as it is ({shortened(wrong)})"
    require(not wrong, "config_overrides", arguments.config_overrides, expected)
    return InitialModel(model, processor, sorted({*report["missing_keys"], *mismatched}))


def _processor(arguments: ModelArguments, crop_size: tuple[int, int], built: InitialModel) -> AlgmImageProcessor:
    """Normalisation of the weights that were loaded, size of the evaluation; labels are final, nothing is reduced."""
    size = arguments.eval_size or arguments.config_overrides.get("window_size") or min(crop_size)
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
