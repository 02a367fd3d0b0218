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
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from ..configuration_algm import MERGE_THRESHOLD_RANGE, AlgmConfig
from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import is_integer, is_number, require, require_integer
from .checks import check_names, first_line, label_fields, load_strictly


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
NOT_DISTILLED = "none: distilled backbones (two special tokens) are not supported yet"
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
    """`variant.yml` with checked access by dotted names (`net_kwargs.d_model`); absent and null read as `None`."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}='missing': expected variant.yml beside the checkpoint") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: expected plain YAML: {first_line(error)}") from error
        require(isinstance(self.values, dict), path, self.values, "a mapping of settings")

    def get(self, field: str) -> Any:
        value = self.values
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def require(self, condition: object, field: str, expected: str) -> None:
        require(condition, f"{self.path}: {field}", self.get(field), expected)

    def integer(self, field: str, minimum: int = 1) -> int:
        require_integer(f"{self.path}: {field}", self.get(field), minimum)
        return self.get(field)

    def rate(self, field: str) -> float:
        value = 0.0 if self.get(field) is None else self.get(field)
        self.require(is_number(value) and 0 <= value < 1, field, "a number in [0, 1)")
        return float(value)

    def choice(self, field: str, choices: tuple[str, ...]) -> str:
        value = self.get(field)
        self.require(isinstance(value, str) and value in choices, field, " or ".join(map(repr, choices)))
        return value

    def pair(self, field: str, minimum: int) -> list[int]:
        """Two integers, or one that stands for both."""
        value = self.get(field)
        pair = [value, value] if is_integer(value) else value
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(is_integer(n) and n >= minimum for n in pair)
        self.require(is_pair, field, f"two integers of at least {minimum}, or one for both")
        return pair


def _locate(path: str | os.PathLike) -> tuple[Path, Path]:
    """The checkpoint and its `variant.yml`, from the path of the checkpoint or of its folder."""
    checkpoint = Path(path)
    if checkpoint.is_dir():
        checkpoint = checkpoint / "checkpoint.pth"
    require(checkpoint.is_file(), checkpoint, "missing", "a checkpoint.pth or the folder that holds one")
    return checkpoint, checkpoint.with_name("variant.yml")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The released state dict as `{name: tensor}`, without running any code that the file may hold."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the unpickler raise nearly anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        require(
            refused is None,
            path,
            refused and refused.group(1),
            "nothing but tensors, numbers and strings. If you trust the file, save its weights alone: "
            "torch.save({'model': torch.load(path, weights_only=False)['model']}, new_path)",
        )
        raise ValueError(f"{path}: expected a whole file of torch.save: {type(error).__name__}") from error
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
    require(isinstance(weights, Mapping) and weights, path, found, "a dict with the state dict under 'model'")
    for name, tensor in weights.items():
        is_weight = isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        require(is_weight, f"{path}: {name}", str(found), "a floating point tensor")
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
    """Compares every setting of `net_kwargs` that the weights decide too."""
    variant.require(variant.get("net_kwargs.distilled") in (None, False), "net_kwargs.distilled", NOT_DISTILLED)
    distilled = [name for name in DISTILLED_NAMES if name in weights]
    require(not distilled, f"weights beside {variant.path}", distilled, NOT_DISTILLED)
    decoder_name = variant.choice("net_kwargs.decoder.name", DECODERS)
    found_name = "linear" if "decoder.head.weight" in weights else "mask_transformer"
    is_unclear = "decoder.head.weight" not in weights and "decoder.cls_emb" not in weights
    variant.require(
        decoder_name == found_name or is_unclear, "net_kwargs.decoder.name", f"{found_name!r} as in the weights"
    )
    class_name, class_axis = ("decoder.head.weight", 0) if decoder_name == "linear" else ("decoder.cls_emb", 1)
    num_classes = _dimension(weights, class_name, class_axis)
    stated = {
        "net_kwargs.d_model": _dimension(weights, "encoder.cls_token", -1),
        "net_kwargs.n_layers": _count_blocks(weights, "encoder"),
        "net_kwargs.patch_size": _dimension(weights, "encoder.patch_embed.proj.weight", -1),
        "net_kwargs.n_cls": num_classes,
    }
    if variant.get("net_kwargs.decoder.n_cls") is not None:
        stated["net_kwargs.decoder.n_cls"] = num_classes
    if decoder_name == "mask_transformer":
        stated["net_kwargs.decoder.n_layers"] = _count_blocks(weights, "decoder")
    for field, found in stated.items():
        variant.require(variant.integer(field) == found or found is None, field, f"{found} as in the weights")
    _check_position_grid(variant, _dimension(weights, "encoder.pos_embed", 1))


def _check_position_grid(variant: _Variant, num_positions: int | None) -> None:
    """`image_size` must tile into the grid of the position embeddings, behind one class token."""
    field = "net_kwargs.image_size"
    height, width = variant.pair(field, minimum=1)
    patch_size = variant.integer("net_kwargs.patch_size")
    is_multiple = height % patch_size == width % patch_size == 0
    variant.require(is_multiple, field, f"multiples of net_kwargs.patch_size = {patch_size}")
    num_patches = (height // patch_size) * (width // patch_size)
    is_whole = num_positions is None or num_positions == num_patches + 1
    variant.require(is_whole, field, f"{num_positions} positions with the class token as in the weights")


def _normalization(variant: _Variant) -> tuple[list[float], list[float]]:
    name = variant.choice("net_kwargs.normalization", tuple(NORMALIZATIONS))
    field = "dataset_kwargs.normalization"
    variant.require(variant.get(field) in (None, name), field, f"{name!r} as in net_kwargs.normalization")
    return NORMALIZATIONS[name]


def _num_heads(variant: _Variant) -> int:
    num_heads, hidden_size = variant.integer("net_kwargs.n_heads"), variant.integer("net_kwargs.d_model")
    is_divisor = hidden_size % num_heads == 0
    variant.require(is_divisor, "net_kwargs.n_heads", f"a divisor of net_kwargs.d_model = {hidden_size}")
    return num_heads


def _decoder_settings(variant: _Variant, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    decoder_type = variant.choice("net_kwargs.decoder.name", DECODERS)
    if decoder_type == "linear":
        return {"decoder_type": decoder_type}
    hidden_size = variant.integer("net_kwargs.d_model")
    num_heads = max(1, hidden_size // DECODER_HEAD_SIZE)
    divides = hidden_size % num_heads == 0
    variant.require(divides, "net_kwargs.d_model", f"a width that {num_heads} decoder heads (d_model // 64) divide")
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
    settings = {name: f"dataset_kwargs.{name}" for name in ("selected_layers", "threshold", "merging_window_size")}
    patch_type = variant.get("dataset_kwargs.patch_type")
    if patch_type is not None or any(variant.get(field) is not None for field in settings.values()):
        variant.choice("dataset_kwargs.patch_type", ("algm", "pure"))
    num_layers = variant.integer("net_kwargs.n_layers")
    if patch_type in (None, "pure"):
        # The default layers must exist even while merging is off.
        return {"use_token_merging": False} | ({"global_merge_layer": None} if num_layers < 5 else {})
    layers, threshold = variant.get(settings["selected_layers"]), variant.get(settings["threshold"])
    is_pair = isinstance(layers, list) and len(layers) == 2 and all(map(is_integer, layers))
    is_ordered = is_pair and 1 <= layers[0] < layers[1] <= num_layers
    variant.require(
        is_ordered, settings["selected_layers"], f"[local, global] with 1 <= local < global <= {num_layers}"
    )
    sides = variant.pair(settings["merging_window_size"], minimum=2)
    variant.require(sides[0] == sides[1], settings["merging_window_size"], "a square window, [side, side]")
    low, high = MERGE_THRESHOLD_RANGE
    valid = is_number(threshold) and low <= threshold <= high
    variant.require(valid, settings["threshold"], f"a number in [{low:g}, {high:g}]")
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
    size = variant.integer("inference_kwargs.window_size", minimum=variant.integer("net_kwargs.patch_size"))
    stride = variant.integer("inference_kwargs.window_stride")
    variant.require(
        stride <= size, "inference_kwargs.window_stride", f"at most window_size = {size}, to leave no gaps"
    )
    return {"inference_mode": "whole", "window_size": size, "window_stride": stride}


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
        image_size=variant.pair("net_kwargs.image_size", minimum=1),
        patch_size=variant.integer("net_kwargs.patch_size"),
        num_channels=_dimension(weights, "encoder.patch_embed.proj.weight", 1) or 3,
        drop_path_rate=variant.rate("net_kwargs.drop_path_rate"),
        **_decoder_settings(variant, weights),
        **_merging_settings(variant),
        **_window_settings(variant),
        **label_fields(id2label, variant.integer("net_kwargs.n_cls")),
    )


def _rename(weights: dict[str, torch.Tensor], config: AlgmConfig, wanted: set[str], path: Path) -> dict:
    """The released weights under their names here, for the `wanted` names of the model."""
    num_blocks = max(config.num_hidden_layers, config.decoder_num_hidden_layers)
    table = {old.format(i=i): new.format(i=i) for old, new in NAME_TABLE.items() for i in range(num_blocks)}
    table = {old: new for old, new in table.items() if new in wanted}
    check_names(path, set(weights) - set(DROPPED_NAMES), table)
    return {new: weights[old].T if old in TRANSPOSED_NAMES else weights[old] for old, new in table.items()}


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
    load_strictly(model, _rename(weights, model.config, set(model.state_dict()), checkpoint_path), checkpoint_path)
    return model.eval(), processor


__all__ = ["DROPPED_NAMES", "NAME_TABLE", "convert_segmenter_checkpoint"]
