# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads checkpoints in the Segmenter / ALGM release format (`checkpoint.pth` beside `variant.yml`) into
[`AlgmForSemanticSegmentation`] and [`AlgmImageProcessor`].

Published checkpoints use plain module names and keep every setting in `variant.yml`. What is read from where:

- weights: the state dict under `model` in `checkpoint.pth`, renamed by `NAME_TABLE`;
- architecture: `net_kwargs`, checked against the shapes of the weights;
- token merging (ALGM, CVPR 2024, arXiv 2406.09936): `dataset_kwargs`; a plain Segmenter release has none;
- test resolution and sliding window: `inference_kwargs`.

This file is not copied beside saved models: a converted folder no longer needs it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from ..configuration_algm import AlgmConfig
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation


# Released name -> name here; `{i}` counts blocks from 0. Rows of the other decoder do not apply to a checkpoint.
# Both sides fuse query, key and value in this order, so `qkv` needs no splitting.
NAME_TABLE = {
    "encoder.cls_token": "algm.embeddings.cls_token",
    "encoder.pos_embed": "algm.embeddings.position_embeddings",
    "encoder.patch_embed.proj.weight": "algm.embeddings.patch_embeddings.projection.weight",
    "encoder.patch_embed.proj.bias": "algm.embeddings.patch_embeddings.projection.bias",
    "encoder.blocks.{i}.norm1.weight": "algm.layers.{i}.attention.layernorm.weight",
    "encoder.blocks.{i}.norm1.bias": "algm.layers.{i}.attention.layernorm.bias",
    "encoder.blocks.{i}.attn.qkv.weight": "algm.layers.{i}.attention.qkv.weight",
    "encoder.blocks.{i}.attn.qkv.bias": "algm.layers.{i}.attention.qkv.bias",
    "encoder.blocks.{i}.attn.proj.weight": "algm.layers.{i}.attention.o_proj.weight",
    "encoder.blocks.{i}.attn.proj.bias": "algm.layers.{i}.attention.o_proj.bias",
    "encoder.blocks.{i}.norm2.weight": "algm.layers.{i}.mlp.layernorm.weight",
    "encoder.blocks.{i}.norm2.bias": "algm.layers.{i}.mlp.layernorm.bias",
    "encoder.blocks.{i}.mlp.fc1.weight": "algm.layers.{i}.mlp.fc1.weight",
    "encoder.blocks.{i}.mlp.fc1.bias": "algm.layers.{i}.mlp.fc1.bias",
    "encoder.blocks.{i}.mlp.fc2.weight": "algm.layers.{i}.mlp.fc2.weight",
    "encoder.blocks.{i}.mlp.fc2.bias": "algm.layers.{i}.mlp.fc2.bias",
    "encoder.norm.weight": "algm.layernorm.weight",
    "encoder.norm.bias": "algm.layernorm.bias",
    # linear decoder
    "decoder.head.weight": "decode_head.classifier.weight",
    "decoder.head.bias": "decode_head.classifier.bias",
    # mask transformer decoder
    "decoder.proj_dec.weight": "decode_head.projection.weight",
    "decoder.proj_dec.bias": "decode_head.projection.bias",
    "decoder.cls_emb": "decode_head.class_embeddings",
    "decoder.blocks.{i}.norm1.weight": "decode_head.layers.{i}.attention.layernorm.weight",
    "decoder.blocks.{i}.norm1.bias": "decode_head.layers.{i}.attention.layernorm.bias",
    "decoder.blocks.{i}.attn.qkv.weight": "decode_head.layers.{i}.attention.qkv.weight",
    "decoder.blocks.{i}.attn.qkv.bias": "decode_head.layers.{i}.attention.qkv.bias",
    "decoder.blocks.{i}.attn.proj.weight": "decode_head.layers.{i}.attention.o_proj.weight",
    "decoder.blocks.{i}.attn.proj.bias": "decode_head.layers.{i}.attention.o_proj.bias",
    "decoder.blocks.{i}.norm2.weight": "decode_head.layers.{i}.mlp.layernorm.weight",
    "decoder.blocks.{i}.norm2.bias": "decode_head.layers.{i}.mlp.layernorm.bias",
    "decoder.blocks.{i}.mlp.fc1.weight": "decode_head.layers.{i}.mlp.fc1.weight",
    "decoder.blocks.{i}.mlp.fc1.bias": "decode_head.layers.{i}.mlp.fc1.bias",
    "decoder.blocks.{i}.mlp.fc2.weight": "decode_head.layers.{i}.mlp.fc2.weight",
    "decoder.blocks.{i}.mlp.fc2.bias": "decode_head.layers.{i}.mlp.fc2.bias",
    "decoder.decoder_norm.weight": "decode_head.layernorm.weight",
    "decoder.decoder_norm.bias": "decode_head.layernorm.bias",
    "decoder.proj_patch": "decode_head.patch_projection.weight",
    "decoder.proj_classes": "decode_head.class_projection.weight",
    "decoder.mask_norm.weight": "decode_head.mask_norm.weight",
    "decoder.mask_norm.bias": "decode_head.mask_norm.bias",
}
# Released as matrices for `x @ W`; `nn.Linear` computes `x @ W.T`.
TRANSPOSED_NAMES = ("decoder.proj_patch", "decoder.proj_classes")
# Left behind on purpose: the ImageNet classifier of the backbone, which segmentation never calls.
DROPPED_NAMES = ("encoder.head.weight", "encoder.head.bias")
# Only distilled (DeiT) backbones have these.
DISTILLED_NAMES = ("encoder.dist_token", "encoder.head_dist.weight", "encoder.head_dist.bias")
DISTILLATION_REFUSAL = "distilled backbones (two special tokens) are not supported yet"
# `normalization` of the release -> (mean, standard deviation) per RGB channel, for pixels in [0, 1].
NORMALIZATIONS = {
    "vit": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "deit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
DECODERS = ("linear", "mask_transformer")
# The release uses torch's default, not the 1e-6 of most ViTs.
LAYER_NORM_EPS = 1e-5
DECODER_HEAD_SIZE = 64


class _Variant:
    """
    `variant.yml` with typed access by dotted field names (`net_kwargs.d_model`); absent and null read as `None`.
    Every refusal names the file, the field, its value and what was expected.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist: expected `variant.yml` beside the checkpoint.") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read as plain YAML: {_first_line(error)}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}: expected a mapping of settings.")
        self.values = values

    def get(self, field: str) -> Any:
        value = self.values
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def refusal(self, field: str, expected: str) -> ValueError:
        value = self.get(field)
        found = "is missing" if value is None else f"is {value!r}"
        return ValueError(f"{self.path}: {field} {found}, expected {expected}.")

    def integer(self, field: str, minimum: int = 1) -> int:
        value = self.get(field)
        if not _is_integer(value) or value < minimum:
            raise self.refusal(field, f"an integer of at least {minimum}")
        return value

    def rate(self, field: str) -> float:
        value = 0.0 if self.get(field) is None else self.get(field)
        if not _is_number(value) or not 0 <= value < 1:
            raise self.refusal(field, "a number in [0, 1)")
        return float(value)

    def choice(self, field: str, choices: tuple[str, ...]) -> str:
        value = self.get(field)
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(field, f"one of {', '.join(choices)}")
        return value

    def height_width(self, field: str) -> tuple[int, int]:
        value = self.get(field)
        pair = [value, value] if _is_integer(value) else value
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_integer(side) and side > 0 for side in pair):
            raise self.refusal(field, "a positive integer or [height, width]")
        return pair[0], pair[1]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _locate(path: str | os.PathLike) -> tuple[Path, Path]:
    """The checkpoint and its `variant.yml`, from the path of the checkpoint or of its folder."""
    checkpoint = Path(path)
    if checkpoint.is_dir():
        checkpoint = checkpoint / "checkpoint.pth"
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint} does not exist: expected a `checkpoint.pth` or the folder that holds one.")
    return checkpoint, checkpoint.with_name("variant.yml")


def _why_unreadable(error: Exception) -> str:
    """What `torch.load` with `weights_only=True` complains about, in one line."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return (
            f"it holds {refused.group(1)}, expected nothing but tensors, numbers and strings. If you trust the file, "
            "save its weights alone: torch.save({'model': torch.load(path, weights_only=False)['model']}, new_path)."
        )
    return f"{type(error).__name__}, expected a whole file written by torch.save."


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The released state dict as `{name: tensor}`, without running any code that the file may hold."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the unpickler raise nearly anything
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {_why_unreadable(error)}") from error
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, Mapping) or not weights:
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} holds {found}: expected a dict with the state dict under 'model'.")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{path}: 'model' holds {name!r} of type {found}, expected floating point tensors.")
    if all(name.startswith("module.") for name in weights):  # saved from inside DataParallel
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return dict(weights)


def _dimension(weights: dict[str, torch.Tensor], name: str, axis: int) -> int | None:
    """One side of a released tensor; `None` where the strict load has to complain about the tensor itself."""
    tensor = weights.get(name)
    if tensor is None or not -tensor.ndim <= axis < tensor.ndim:
        return None
    return tensor.shape[axis]


def _count_blocks(weights: dict[str, torch.Tensor], part: str) -> int:
    numbers = (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in weights)
    return len({match.group(1) for match in numbers if match})


def _check_agreement(variant: _Variant, weights: dict[str, torch.Tensor]) -> None:
    """
    Compares every setting of `net_kwargs` that the weights decide too.

    Raises:
        ValueError: if they disagree; names the field, its value and what the weights say.
    """
    if variant.get("net_kwargs.distilled") not in (None, False):
        raise variant.refusal("net_kwargs.distilled", f"false: {DISTILLATION_REFUSAL}")
    distilled = [name for name in DISTILLED_NAMES if name in weights]
    if distilled:
        raise ValueError(f"The weights beside {variant.path} hold {', '.join(distilled)}: {DISTILLATION_REFUSAL}.")
    decoder_name = variant.choice("net_kwargs.decoder.name", DECODERS)
    found_name = "linear" if "decoder.head.weight" in weights else "mask_transformer"
    if decoder_name != found_name and ("decoder.head.weight" in weights or "decoder.cls_emb" in weights):
        raise variant.refusal("net_kwargs.decoder.name", f"{found_name!r} as in the weights")

    class_name, class_axis = ("decoder.head.weight", 0) if decoder_name == "linear" else ("decoder.cls_emb", 1)
    num_classes = _dimension(weights, class_name, class_axis)
    stated = [
        ("net_kwargs.d_model", _dimension(weights, "encoder.cls_token", -1)),
        ("net_kwargs.n_layers", _count_blocks(weights, "encoder")),
        ("net_kwargs.patch_size", _dimension(weights, "encoder.patch_embed.proj.weight", -1)),
        ("net_kwargs.n_cls", num_classes),
    ]
    if variant.get("net_kwargs.decoder.n_cls") is not None:
        stated.append(("net_kwargs.decoder.n_cls", num_classes))
    if decoder_name == "mask_transformer":
        stated.append(("net_kwargs.decoder.n_layers", _count_blocks(weights, "decoder")))
    for field, found in stated:
        if variant.integer(field) != found and found is not None:
            raise variant.refusal(field, f"{found} as in the weights")
    _check_position_grid(variant, _dimension(weights, "encoder.pos_embed", 1))


def _check_position_grid(variant: _Variant, num_positions: int | None) -> None:
    """`image_size` must tile into the grid of the position embeddings, behind one class token."""
    height, width = variant.height_width("net_kwargs.image_size")
    patch_size = variant.integer("net_kwargs.patch_size")
    if height % patch_size or width % patch_size:
        raise variant.refusal("net_kwargs.image_size", f"multiples of net_kwargs.patch_size = {patch_size}")
    num_patches = (height // patch_size) * (width // patch_size)
    if num_positions is not None and num_positions != num_patches + 1:
        raise variant.refusal(
            "net_kwargs.image_size",
            f"a size of {num_positions - 1} patches of {patch_size} x {patch_size} pixels as in the weights "
            f"(encoder.pos_embed has {num_positions} positions with the class token), not {num_patches}",
        )


def _normalization(variant: _Variant) -> tuple[list[float], list[float]]:
    name = variant.choice("net_kwargs.normalization", tuple(NORMALIZATIONS))
    if variant.get("dataset_kwargs.normalization") not in (None, name):
        raise variant.refusal("dataset_kwargs.normalization", f"{name!r} as in net_kwargs.normalization")
    return NORMALIZATIONS[name]


def _num_heads(variant: _Variant) -> int:
    num_heads, hidden_size = variant.integer("net_kwargs.n_heads"), variant.integer("net_kwargs.d_model")
    if hidden_size % num_heads:
        raise variant.refusal("net_kwargs.n_heads", f"a divisor of net_kwargs.d_model = {hidden_size}")
    return num_heads


def _decoder_settings(variant: _Variant, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    decoder_type = variant.choice("net_kwargs.decoder.name", DECODERS)
    if decoder_type == "linear":
        return {"decoder_type": decoder_type}
    hidden_size = variant.integer("net_kwargs.d_model")
    num_heads = max(1, hidden_size // DECODER_HEAD_SIZE)
    if hidden_size % num_heads:
        raise variant.refusal("net_kwargs.d_model", f"a width that {num_heads} decoder heads (d_model // 64) divide")
    return {
        "decoder_type": decoder_type,
        "decoder_num_hidden_layers": variant.integer("net_kwargs.decoder.n_layers"),
        "decoder_hidden_size": hidden_size,
        "decoder_num_attention_heads": num_heads,
        "decoder_intermediate_size": _dimension(weights, "decoder.blocks.0.mlp.fc1.weight", 0) or 4 * hidden_size,
        "decoder_dropout_prob": variant.rate("net_kwargs.decoder.dropout"),
        "decoder_drop_path_rate": variant.rate("net_kwargs.decoder.drop_path_rate"),
    }


def _merging_settings(variant: _Variant) -> dict[str, Any]:
    """Section 3 of the paper: layers counted from 1, cosine threshold in [-1, 1], side of the square window."""
    fields = ("selected_layers", "threshold", "merging_window_size")
    patch_type = variant.get("dataset_kwargs.patch_type")
    if patch_type is None and any(variant.get(f"dataset_kwargs.{field}") is not None for field in fields):
        raise variant.refusal("dataset_kwargs.patch_type", "'algm' or 'pure', as merging settings are given")
    num_layers = variant.integer("net_kwargs.n_layers")
    if patch_type in (None, "pure"):
        # The default layers must exist even while merging is off.
        return {"use_token_merging": False} | ({"global_merge_layer": None} if num_layers < 5 else {})
    variant.choice("dataset_kwargs.patch_type", ("algm", "pure"))

    layers = variant.get("dataset_kwargs.selected_layers")
    is_pair = isinstance(layers, list) and len(layers) == 2 and all(_is_integer(layer) for layer in layers)
    if not is_pair or not 1 <= layers[0] < layers[1] <= num_layers:
        raise variant.refusal(
            "dataset_kwargs.selected_layers", f"[local, global] with 1 <= local < global <= {num_layers}"
        )
    window = variant.get("dataset_kwargs.merging_window_size")
    sides = [window, window] if _is_integer(window) else window
    if not isinstance(sides, list) or len(sides) != 2 or not all(_is_integer(side) and side >= 2 for side in sides):
        raise variant.refusal("dataset_kwargs.merging_window_size", "[side, side] with a side of at least 2 patches")
    if sides[0] != sides[1]:
        raise variant.refusal("dataset_kwargs.merging_window_size", "a square window, [side, side]")
    threshold = variant.get("dataset_kwargs.threshold")
    if not _is_number(threshold) or not -1 <= threshold <= 1:
        raise variant.refusal("dataset_kwargs.threshold", "a cosine similarity, a number in [-1, 1]")
    return {
        "use_token_merging": True,
        "local_merge_layer": layers[0],
        "global_merge_layer": layers[1],
        "merge_window_size": sides[0],
        "merge_threshold": float(threshold),
    }


def _window_settings(variant: _Variant) -> dict[str, Any]:
    """
    The sliding window of the release. `inference_mode` stays `"whole"`, so that logits keep the documented grid shape
    and no score depends on a mode that nobody chose; `model.config.inference_mode = "slide"` evaluates as the release.
    """
    window_size = variant.integer("inference_kwargs.window_size", minimum=variant.integer("net_kwargs.patch_size"))
    window_stride = variant.integer("inference_kwargs.window_stride")
    if window_stride > window_size:
        raise variant.refusal(
            "inference_kwargs.window_stride", f"at most inference_kwargs.window_size = {window_size}, to leave no gaps"
        )
    return {"inference_mode": "whole", "window_size": window_size, "window_stride": window_stride}


def _class_names(id2label: Mapping[Any, str] | None, num_classes: int) -> dict[str, Any]:
    """`num_labels` alone (LABEL_0, LABEL_1, ...), or both directions of the given names."""
    if id2label is None:
        return {"num_labels": num_classes}
    try:
        names = {int(key): name for key, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"id2label is {id2label!r}, expected a mapping from class index to class name.") from None
    if sorted(names) != list(range(num_classes)) or len(names) != len(id2label):
        raise ValueError(
            f"id2label has {len(id2label)} entries with the indices {sorted(names)}, expected one name for each of "
            f"0 to {num_classes - 1} (net_kwargs.n_cls in variant.yml is {num_classes})."
        )
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"id2label is {id2label!r}, expected every class name to be a string.")
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def _build_config(variant: _Variant, weights: dict[str, torch.Tensor], id2label: Mapping | None) -> AlgmConfig:
    hidden_size = variant.integer("net_kwargs.d_model")
    dropout = variant.rate("net_kwargs.dropout")
    return AlgmConfig(
        hidden_size=hidden_size,
        num_hidden_layers=variant.integer("net_kwargs.n_layers"),
        num_attention_heads=_num_heads(variant),
        intermediate_size=_dimension(weights, "encoder.blocks.0.mlp.fc1.weight", 0) or 4 * hidden_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        layer_norm_eps=LAYER_NORM_EPS,
        image_size=list(variant.height_width("net_kwargs.image_size")),
        patch_size=variant.integer("net_kwargs.patch_size"),
        num_channels=_dimension(weights, "encoder.patch_embed.proj.weight", 1) or 3,
        drop_path_rate=variant.rate("net_kwargs.drop_path_rate"),
        **_decoder_settings(variant, weights),
        **_merging_settings(variant),
        **_window_settings(variant),
        **_class_names(id2label, variant.integer("net_kwargs.n_cls")),
    )


def _rename(weights: dict[str, torch.Tensor], config: AlgmConfig, wanted: set[str], path: Path) -> dict:
    """
    The released weights under their names here, for the `wanted` names of the model.

    Raises:
        ValueError: if a name is missing or unknown; lists all of them.
    """
    num_blocks = max(config.num_hidden_layers, config.decoder_num_hidden_layers)
    table = {old.format(i=i): new.format(i=i) for old, new in NAME_TABLE.items() for i in range(num_blocks)}
    table = {old: new for old, new in table.items() if new in wanted}
    missing = sorted(set(table) - set(weights))
    unexpected = sorted(set(weights) - set(table) - set(DROPPED_NAMES))
    if missing or unexpected:
        raise ValueError(
            f"{path} does not hold the weights of a Segmenter with a {config.decoder_type} decoder. "
            f"Missing names: {', '.join(missing) or 'none'}. Unexpected names: {', '.join(unexpected) or 'none'}."
        )
    return {new: weights[old].T if old in TRANSPOSED_NAMES else weights[old] for old, new in table.items()}


def _load_strictly(model: AlgmForSemanticSegmentation, weights: dict[str, torch.Tensor], path: Path) -> None:
    expected = model.state_dict()
    renamed = _rename(weights, model.config, set(expected), path)
    wrong = [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in renamed.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(f"{path} disagrees with variant.yml: {'; '.join(wrong)}.")
    model.load_state_dict(renamed, strict=True)


def convert_segmenter_checkpoint(
    path: str | os.PathLike, id2label: Mapping[int, str] | None = None
) -> tuple[AlgmForSemanticSegmentation, AlgmImageProcessor]:
    """
    Reads a checkpoint in the Segmenter / ALGM release format.

    The layers, threshold and window of token merging, normalisation, dropout rates, test resolution and sliding window
    of `variant.yml` arrive in `model.config` and in the processor. A plain Segmenter release (`dataset_kwargs` without
    merging settings, or `patch_type: pure`) gives a model with `use_token_merging=False`.

    Args:
        path (`str` or `os.PathLike`):
            `checkpoint.pth`, a dict with the state dict under `model`, or the folder that holds it. `variant.yml` must
            lie beside it. Neither file can run code: they are read with `weights_only=True` and `yaml.safe_load`.
        id2label (`Mapping[int, str]`, *optional*):
            Class names, one per class of the checkpoint. The release stores none; the default is `LABEL_0`, ...

    Returns:
        `tuple[AlgmForSemanticSegmentation, AlgmImageProcessor]`: the model in float32, in evaluation mode on the CPU,
        with `inference_mode="whole"` (set `model.config.inference_mode = "slide"` to evaluate with the released
        window), and the processor, whose shortest edge is `inference_kwargs.im_size` in pixels.

    Raises:
        ValueError: if a file is missing or unreadable, if names are missing or unexpected, if `variant.yml` disagrees
            with the weights, or if a setting is out of its range or not supported (distilled backbones).

    Example:

    ```python
    >>> model, processor = convert_segmenter_checkpoint("ADE20K_ViT_Small/checkpoint.pth")  # doctest: +SKIP
    >>> model.save_pretrained("algm-vit-small-ade20k")  # doctest: +SKIP
    >>> processor.save_pretrained("algm-vit-small-ade20k")  # doctest: +SKIP
    ```
    """
    checkpoint_path, variant_path = _locate(path)
    variant = _Variant(variant_path)
    weights = _read_weights(checkpoint_path)
    _check_agreement(variant, weights)
    image_mean, image_std = _normalization(variant)
    processor = AlgmImageProcessor(
        size={"shortest_edge": variant.integer("inference_kwargs.im_size")},
        image_mean=image_mean,
        image_std=image_std,
        patch_size=variant.integer("net_kwargs.patch_size"),
    )
    model = AlgmForSemanticSegmentation(_build_config(variant, weights, id2label))
    _load_strictly(model, weights, checkpoint_path)
    return model.eval(), processor


__all__ = ["DROPPED_NAMES", "NAME_TABLE", "convert_segmenter_checkpoint"]
