# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Starts ALGM from a plain Vision Transformer of transformers or timm: its weights become the encoder of an
[`AlgmForSemanticSegmentation`] with a fresh decoder, its preprocessing an [`AlgmImageProcessor`]. With merging off the
encoder gives the features of the source, after its last LayerNorm.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from ..configuration_algm import AlgmConfig
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..patch_grid import patch_grid
from ..refusals import require
from ..vit_embeddings import resize_positions
from .checks import label_fields, load_strictly
from .vit_files import VitFiles
from .vit_weights import (
    TIMM_NAMES,
    TRANSFORMERS_NAMES,
    architecture_of,
    halves_from_pairs,
    rename_vit_weights,
    split_positions,
)


logger = logging.get_logger(__name__)

HALF = [0.5, 0.5, 0.5]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

# `model_type` of transformers -> what its modules do that no field of its config says. `mean` and `std` are those of
# the published checkpoints, for sources without a preprocessor_config.json.
TRANSFORMERS_MODELS = {
    "vit": {"position_interpolation": "bicubic", "mean": HALF, "std": HALF},
    "deit": {"position_interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "dinov2": {"position_interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "dinov2_with_registers": {
        "position_interpolation": "bicubic_antialias",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    },
    "dinov3_vit": {"rope_coordinates": "centered", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}
# Field of a transformers config -> field here, where both may be stated.
TRANSFORMERS_FIELDS = {
    "num_attention_heads": "num_attention_heads",
    "hidden_act": "hidden_act",
    "hidden_dropout_prob": "hidden_dropout_prob",
    "attention_probs_dropout_prob": "attention_probs_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "layer_norm_eps": "layer_norm_eps",
    "layerscale_value": "layer_scale_init_value",
    "rope_theta": "rope_theta",
}
# Fields that a config states and the weights decide: they must agree.
STATED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_channels",
    "patch_size",
    "num_register_tokens",
    "qkv_bias",
)

# What the weights cannot show but were trained with; a change breaks them as a change of shape would.
TRAINED_WITH = ("hidden_act", "rope_theta", "rope_coordinates", "rope_reference_grid_size", "layer_scale_init_value")

# timm architectures, by full name, whose functions follow from their weights and these settings. Others may have equal
# names of weights and compute something else (rotary positions, post-norm, other activations).
ROPE_EVA02 = {"rope_theta": 10000.0, "rope_coordinates": "index", "rope_reference_grid_size": 16}
ROPE_DINOV3 = {"rope_theta": 100.0, "rope_coordinates": "centered"}
SIZES = r"(tiny|wee|little|small|medium|mediumd|betwixt|so150m2?|base|large|huge|giant|gigantic)"
TIMM_ARCHITECTURES = {
    rf"vit_{SIZES}_patch\d+_(plus_)?\d+(_miil)?": {},
    rf"vit_{SIZES}_patch\d+_(reg\d+_)?(gap|map)_\d+": {},
    rf"vit_{SIZES}_patch14_(reg4_)?dinov2": {},
    rf"deit3?_{SIZES}(_distilled)?_patch\d+_\d+": {},
    rf"flexivit_{SIZES}": {},
    r"eva_(large|giant)_patch14_\d+": {},
    r"eva02_(tiny|small|base|large)_patch14_\d+": ROPE_EVA02,
    r"vit_(tiny|small|small_plus|base|large|huge_plus)_patch16_dinov3(_qkvb)?": ROPE_DINOV3 | {"layer_norm_eps": 1e-5},
}
# Heads of 64 channels, but for these widths and architectures.
TIMM_HEADS_OF_WIDTH = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
TIMM_HEADS = {
    r"vit_base_patch16_gap_224": 16,
    r"vit_huge_plus_patch16_dinov3(_qkvb)?": 20,
}
TIMM_HEAD_SIZE = 64
# Arguments of timm's constructors that the weights or this file answer, or that do not change the features.
TIMM_ARGUMENTS = {"num_heads", "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "init_values"}
TIMM_ARGUMENTS |= {"class_token", "no_embed_class", "reg_tokens", "num_reg_tokens", "global_pool", "num_classes"}
TIMM_ARGUMENTS |= {"in_chans", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "drop_path_rate", "fc_norm"}
PIL_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}

# The paper merges globally after layer 5 of 12 and 7 of 24; other depths lie on the line through both.
PAPER_LAYERS = ((12, 5), (24, 7))


class _Source(NamedTuple):
    """
    What is known of a source: encoder weights, fields of [`AlgmConfig`] and which of them cannot be changed, settings
    of [`AlgmImageProcessor`], and which fields and settings are assumed.
    """

    weights: dict[str, Tensor]
    config: dict[str, Any]
    fixed: frozenset[str]
    processor: dict[str, Any]
    assumed: tuple[str, ...] = ()


def from_vit(
    name_or_path: str | os.PathLike,
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    revision: str | None = None,
    image_mean: float | Sequence[float] | None = None,
    image_std: float | Sequence[float] | None = None,
    **config_overrides: Any,
) -> tuple[AlgmForSemanticSegmentation, AlgmImageProcessor]:
    """
    Builds ALGM on a pretrained plain Vision Transformer.

    The encoder is the source's; with `use_token_merging=False` it gives the source's features for all tokens, after
    the last LayerNorm (of timm models with pooled features, the LayerNorm behind the pooling, for each token). The
    decoder is new and has to be trained: seed torch before for repeatable weights. Read are

    - transformers: ViT, DeiT (distilled), DINOv2, DINOv2 with registers, DINOv3 ViT;
    - timm: ViT and AugReg, DeiT, DeiT III, FlexiViT, DINOv2, DINOv3, EVA and EVA-02, from a Hub repository, a folder
      with timm's `config.json`, or a bare state dict (safetensors or torch file), which does not say everything: what
      is assumed about heads, rotary positions and normalisation is logged as a warning.

    Other models are refused, among them those with windowed attention (Swin) or relative position biases (BEiT), which
    are not defined for merged tokens. What DINOv3 does to rotary positions in training only is not repeated.

    Args:
        name_or_path (`str` or `os.PathLike`):
            Hub repository, folder, or file of weights.
        num_labels (`int`, *optional*):
            Number of classes, at least 2. This or `id2label` is needed.
        id2label (`Mapping[int, str]`, *optional*):
            Names of the classes `0..num_labels - 1`.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub repository.
        image_mean, image_std (`float` or `Sequence[float]`, *optional*):
            Mean and standard deviation of each channel, of intensities 0 to 1, that the source was trained with.
            Without them, those of its preprocessing; of a bare state dict, the usual ones of what it looks like.
        config_overrides (*optional*):
            Fields of [`AlgmConfig`] that differ from the source or the defaults, such as `merge_threshold`,
            `decoder_type` or `drop_path_rate`. With another `image_size` the position embeddings are resized once, by
            `position_interpolation`. Fields that the weights decide, or that they were trained with (`hidden_act`,
            `num_attention_heads`, `rope_*`), cannot be changed; a bare state dict takes `num_attention_heads` and
            `hidden_act`, which it does not say.

    Returns:
        `tuple[AlgmForSemanticSegmentation, AlgmImageProcessor]`: the model in float32, in evaluation mode on the CPU,
        and the processor with the source's normalisation and size (the shortest edge in pixels: that of its
        preprocessing, or where a classifier crops what it resized, its `image_size`).
        `global_merge_layer`, unless given, is the paper's 5 of 12 or 7 of 24, and in proportion for other depths.

    Raises:
        ValueError: if the source is not such a ViT, if weights are missing, unexpected or disagree with its config, or
            if an argument does not fit.

    Example:

    ```python
    >>> model, processor = from_vit("facebook/dinov2-base", num_labels=150, image_size=518)  # doctest: +SKIP
    >>> model.save_pretrained("algm-dinov2-base")  # doctest: +SKIP
    >>> processor.save_pretrained("algm-dinov2-base")  # doctest: +SKIP
    ```
    """
    labels = label_fields(id2label, num_labels)
    for name, value in config_overrides.items():
        require(name in AlgmConfig.__annotations__, name, value, "a field of AlgmConfig")
    files = VitFiles(name_or_path, revision)
    source = _read_source(files, config_overrides)
    _refuse_changes(source, config_overrides, files.name)
    merging = {"global_merge_layer": _global_merge_layer(source.config["num_hidden_layers"])}
    config = AlgmConfig(**{**source.config, **merging, **config_overrides, **labels})
    _resize_stored_positions(source, config)
    model = AlgmForSemanticSegmentation(config)
    load_strictly(model.algm, source.weights, files.name)
    given = {"image_mean": image_mean, "image_std": image_std}
    settings = source.processor | {name: value for name, value in given.items() if value is not None}
    values = {**source.config, **settings}
    assumed = [name for name in source.assumed if name not in config_overrides and given.get(name) is None]
    if assumed:
        logger.warning(
            f"{files.name} comes without config.json; assumed are "
            f"{', '.join(f'{name}={values[name]!r}' for name in assumed)}. Arguments of these names change them."
        )
    if "image_size" in config_overrides:
        settings["size"] = {"shortest_edge": min(_pair(config.image_size))}
    return model.eval(), AlgmImageProcessor(patch_size=config.patch_size, **settings)


def _refuse_changes(source: _Source, overrides: Mapping[str, Any], name: str) -> None:
    """Refuses overrides of what cannot be changed; what a source does not have is the default of [`AlgmConfig`]."""
    for field in sorted(source.fixed & set(overrides)):
        value = source.config.get(field, getattr(AlgmConfig, field))
        require(overrides[field] == value, field, overrides[field], f"{value!r}, which {name} was trained with")


def _global_merge_layer(num_hidden_layers: int) -> int | None:
    (shallow, first), (deep, second) = PAPER_LAYERS
    if num_hidden_layers < 2:
        return None
    if num_hidden_layers <= shallow:
        return max(2, round(first * num_hidden_layers / shallow))
    return round(first + (second - first) * (num_hidden_layers - shallow) / (deep - shallow))


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _read_source(files: VitFiles, overrides: Mapping[str, Any]) -> _Source:
    config = files.read_json("config.json")
    is_there = config is not None or files.repository is None
    require(
        is_there, f"{files.name}: config.json", None, "a Hub repository of transformers or timm, or a downloaded one"
    )
    if config is not None and "architecture" not in config:
        require(
            config.get("model_type") in TRANSFORMERS_MODELS,
            f"{files.name}: model_type",
            config.get("model_type"),
            f"a plain ViT without relative position biases or windows, one of {', '.join(TRANSFORMERS_MODELS)}, or a "
            "timm model with an architecture",
        )
        return _read_transformers(files, config)
    return _read_timm(files, config or {}, overrides)


# transformers


def _read_transformers(files: VitFiles, saved: dict[str, Any]) -> _Source:
    model_type = saved["model_type"]
    known = TRANSFORMERS_MODELS[model_type]
    weights = rename_vit_weights(files.read_weights(), TRANSFORMERS_NAMES, files.name)
    config = architecture_of(weights, files.name)
    for name in STATED_FIELDS:
        agrees = name not in saved or _square(saved[name]) == config[name]
        require(agrees, f"{files.name}: {name}", saved.get(name), f"{config[name]} as in its weights")
    fixed = frozenset({*config, *TRAINED_WITH, "num_attention_heads"})
    # Configs of old releases leave out what is the default of the model.
    stated = {**CONFIG_MAPPING[model_type]().to_dict(), **saved}
    config |= {field: stated[name] for name, field in TRANSFORMERS_FIELDS.items() if stated.get(name) is not None}
    config |= {name: value for name, value in known.items() if name not in ("mean", "std")}
    if model_type.startswith("dinov2") and config["use_gated_mlp"]:
        config["hidden_act"] = "silu"  # whatever its config says
    _add_layer_scale(config, weights)
    sides = _pair(stated["image_size"])
    grid = tuple(side // config["patch_size"] for side in sides)
    split_positions(weights, grid, files.name)
    config["image_size"] = _size(grid, config["patch_size"])
    processor = _processor_settings(files.read_json("preprocessor_config.json") or {}, known, config)
    return _Source(weights, config, fixed, processor)


def _add_layer_scale(config: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    if "layers.0.attention.layer_scale.weight" in weights:
        config.setdefault("layer_scale_init_value", 1.0)
    else:
        config["layer_scale_init_value"] = None


def _square(value: Any) -> Any:
    """A size that may be given for both sides."""
    return value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value


def _size(grid: tuple[int, int], patch_size: int) -> int | list[int]:
    height, width = (side * patch_size for side in grid)
    return height if height == width else [height, width]


def _processor_settings(
    stated: Mapping[str, Any], known: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Normalisation, rescaling, filter and size of a preprocessor_config.json. What a classifier resizes to before it
    crops is no size to work at: then it is the `image_size` of the config."""
    is_rgb = config["num_channels"] == 3
    settings = {"image_mean": [0.5], "image_std": [0.5], "do_convert_rgb": False}
    if is_rgb:
        settings = {"image_mean": known["mean"], "image_std": known["std"]}
    names = ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor", "resample")
    settings |= {name: stated[name] for name in names if stated.get(name) is not None}
    size = None if stated.get("do_center_crop") else stated.get("size")
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or min((side for side in size.values() if side), default=None)
    return settings | {"size": {"shortest_edge": size if isinstance(size, int) else min(_pair(config["image_size"]))}}


# timm


def _read_timm(files: VitFiles, stated: dict[str, Any], overrides: Mapping[str, Any]) -> _Source:
    name = stated.get("architecture")
    known = {} if name is None else _timm_architecture(name, files.name)
    arguments = stated.get("model_args") or {}
    unknown = sorted(set(arguments) - TIMM_ARGUMENTS)
    require(not unknown, f"{files.name}: model_args", unknown, "none of these, which may change what it computes")
    weights = files.read_weights()
    is_timm = stated or any(name.endswith(TIMM_NAMES.anchor) for name in weights)
    require(is_timm, f"{files.name}: config.json", None, "one beside the weights, or weights under timm's names")
    weights = rename_vit_weights(weights, TIMM_NAMES, files.name)
    config = architecture_of(weights, files.name)
    fixed = {*config, *TRAINED_WITH}
    if name is None:
        known = _guess_rope(weights, config)
    width, hidden_size = stated.get("num_features"), config["hidden_size"]
    require(width in (None, hidden_size), f"{files.name}: num_features", width, f"{hidden_size} as in its weights")
    config |= {"layer_norm_eps": 1e-6, "position_interpolation": "bicubic_antialias", **known}
    config["hidden_act"] = "silu" if config["use_gated_mlp"] else "gelu"
    num_heads = _timm_heads(name, hidden_size, arguments)
    if num_heads is not None and (name is not None or "num_heads" in arguments):
        fixed.add("num_attention_heads")
    else:
        num_heads = overrides.get("num_attention_heads") or num_heads
    expected = f"the number of heads of {hidden_size} channels, which {files.name} does not say"
    require(num_heads is not None, "num_attention_heads", None, expected)
    config["num_attention_heads"] = num_heads
    _add_layer_scale(config, weights)
    if config.get("rope_coordinates") == "index":
        halves_from_pairs(weights, config["num_attention_heads"])
    pretrained = {**stated, **(stated.get("pretrained_cfg") or {})}
    sides = _pair(arguments.get("img_size") or pretrained.get("input_size", [0, 0, 0])[1:])
    patch_size = config["patch_size"]
    grid = tuple(side // patch_size for side in sides) if all(sides) else None
    grid = split_positions(weights, grid, files.name) or grid or (224 // patch_size, 224 // patch_size)
    config["image_size"] = _size(grid, patch_size)
    stated_processor = {
        "image_mean": pretrained.get("mean"),
        "image_std": pretrained.get("std"),
        "resample": PIL_FILTERS.get(pretrained.get("interpolation")),
    }
    mean, std = (HALF, HALF) if stated else _guess_normalisation(config)
    processor = _processor_settings(stated_processor, {"mean": mean, "std": std}, config)
    if stated:
        return _Source(weights, config, frozenset(fixed), processor)
    assumed = ["num_attention_heads", "hidden_act", "layer_norm_eps", "image_mean", "image_std"]
    assumed += [] if config["use_absolute_position_embeddings"] else ["image_size"]
    return _Source(weights, config, frozenset(fixed - {"hidden_act"}), processor, tuple(assumed))


def _timm_architecture(name: str, source: str) -> dict[str, Any]:
    for pattern, settings in TIMM_ARCHITECTURES.items():
        if re.fullmatch(pattern, name):
            return settings
    raise ValueError(
        f"{source}: architecture={name!r}: expected a plain ViT of timm (vit_*, deit*, flexivit_*, *_dinov2, "
        "*_dinov3, eva_*, eva02_*) without windowed attention, relative positions, other normalisation or activations"
    )


def _guess_rope(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary positions of a bare state dict, which has no weights for them."""
    if not config["use_absolute_position_embeddings"]:
        return ROPE_DINOV3 | {"layer_norm_eps": 1e-5}
    # Of the models with absolute positions and gated MLPs DINOv2 has layer scale, EVA-02 has not.
    if config["use_gated_mlp"] and "layers.0.attention.layer_scale.weight" not in weights:
        return ROPE_EVA02
    return {}


def _guess_normalisation(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std of what a bare state dict looks like: EVA-02; DINOv3, distilled DeiT, DINOv2, DeiT III; others."""
    if config.get("rope_coordinates") == "index":
        return CLIP_MEAN, CLIP_STD
    has_layer_scale = config["layer_scale_init_value"] is not None
    if (
        not config["use_absolute_position_embeddings"]
        or config["use_distillation_token"]
        or (has_layer_scale and config["use_class_token"])
    ):
        return IMAGENET_MEAN, IMAGENET_STD
    return HALF, HALF


def _timm_heads(name: str | None, hidden_size: int, arguments: Mapping[str, Any]) -> int | None:
    """The number of heads of an architecture, or of the usual ones of a width; `None` for others."""
    if "num_heads" in arguments:
        return arguments["num_heads"]
    for pattern, num_heads in TIMM_HEADS.items():
        if name is not None and re.fullmatch(pattern, name):
            return num_heads
    num_heads = TIMM_HEADS_OF_WIDTH.get(hidden_size)
    if num_heads is None and hidden_size % TIMM_HEAD_SIZE == 0:
        num_heads = hidden_size // TIMM_HEAD_SIZE
    return num_heads


# Loading


def _resize_stored_positions(source: _Source, config: AlgmConfig) -> None:
    """Position embeddings for another `image_size`, once instead of at every call."""
    name = "embeddings.position_embeddings"
    if name not in source.weights:
        return
    old_grid = patch_grid(_pair(source.config["image_size"]), config.patch_size)
    of_class, of_patches = source.weights[name].split([int(config.use_class_token), old_grid[0] * old_grid[1]], dim=1)
    of_patches = resize_positions(of_patches, old_grid, config.position_grid_size, config.position_interpolation)
    source.weights[name] = torch.cat((of_class, of_patches), dim=1)


__all__ = ["from_vit"]
