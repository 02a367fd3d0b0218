# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The weights of other libraries' Vision Transformers under the names of [`AlgmModel`], and what their shapes say about
the architecture.

Three things are stored differently here, and computed to the same result:

- query, key and value are one linear layer, and so are the two inputs of a gated MLP, the gate first;
- only patches and the class token have position embeddings: those of other special tokens are added to these tokens,
  and a class token without one gets zeros;
- biases that an architecture does not have are zeros where a layer here always has one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..refusals import require


class NameTable(NamedTuple):
    """
    How one library names the parts of a ViT.

    Attributes:
        anchor (`str`): a name that every model has; what stands before it is a prefix of all names of the encoder.
        layer (`str`): regular expression of the beginning of the names of a layer, with its number as group 1.
        parts (`Mapping[str, str]`): module or parameter -> name here.
        layer_parts (`Mapping[str, str]`): the same for what is inside a layer.
        dropped (`Sequence[str]`): regular expressions of names that are left behind on purpose: classifiers, poolers,
            mask tokens, which a segmentation model never calls.
    """

    anchor: str
    layer: str
    parts: Mapping[str, str]
    layer_parts: Mapping[str, str]
    dropped: Sequence[str]


# Attention and MLP may be stored in pieces (`attention.query`, `mlp.gate`), which `_fuse` joins.
TRANSFORMERS_NAMES = NameTable(
    anchor="embeddings.cls_token",
    layer=r"(?:encoder\.|model\.)?layers?\.(\d+)\.",
    parts={
        "embeddings.cls_token": "embeddings.cls_token",
        "embeddings.distillation_token": "embeddings.distillation_token",
        "embeddings.register_tokens": "embeddings.register_tokens",
        "embeddings.position_embeddings": "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection": "embeddings.patch_embeddings.projection",
        "embeddings.patch_embeddings": "embeddings.patch_embeddings.projection",
        "layernorm": "layernorm",
        "norm": "layernorm",
    },
    layer_parts={
        "layernorm_before": "attention.layernorm",
        "norm1": "attention.layernorm",
        "attention.attention.query": "attention.query",
        "attention.attention.key": "attention.key",
        "attention.attention.value": "attention.value",
        "attention.q_proj": "attention.query",
        "attention.k_proj": "attention.key",
        "attention.v_proj": "attention.value",
        "attention.output.dense": "attention.o_proj",
        "attention.o_proj": "attention.o_proj",
        "layer_scale1.lambda1": "attention.layer_scale.weight",
        "layernorm_after": "mlp.layernorm",
        "norm2": "mlp.layernorm",
        "intermediate.dense": "mlp.fc1",
        "mlp.fc1": "mlp.fc1",
        "mlp.weights_in": "mlp.fc1",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "output.dense": "mlp.fc2",
        "mlp.fc2": "mlp.fc2",
        "mlp.weights_out": "mlp.fc2",
        "mlp.down_proj": "mlp.fc2",
        "layer_scale2.lambda1": "mlp.layer_scale.weight",
    },
    dropped=(
        r"(cls_|distillation_)?classifier\.",
        r"pooler\.",
        r"embeddings\.mask_token$",
        r"decoder\.",
    ),
)

TIMM_NAMES = NameTable(
    anchor="patch_embed.proj.weight",
    layer=r"blocks\.(\d+)\.",
    parts={
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "reg_token": "embeddings.register_tokens",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "fc_norm": "pooled_layernorm",
    },
    layer_parts={
        "norm1": "attention.layernorm",
        "attn.qkv": "attention.qkv",
        "attn.q_proj": "attention.query",
        "attn.k_proj": "attention.key",
        "attn.v_proj": "attention.value",
        "attn.q_bias": "attention.query.bias",
        "attn.v_bias": "attention.value.bias",
        "attn.proj": "attention.o_proj",
        "ls1.gamma": "attention.layer_scale.weight",
        "gamma_1": "attention.layer_scale.weight",
        "norm2": "mlp.layernorm",
        "mlp.fc1": "mlp.fc1",
        "mlp.w12": "mlp.fc1",
        "mlp.fc1_g": "mlp.gate",
        "mlp.fc1_x": "mlp.up",
        "mlp.norm": "mlp.inner_layernorm",
        "mlp.fc2": "mlp.fc2",
        "mlp.w3": "mlp.fc2",
        "ls2.gamma": "mlp.layer_scale.weight",
        "gamma_2": "mlp.layer_scale.weight",
    },
    dropped=(r"head(_dist)?\.", r"pre_logits\.", r"attn_pool\.", r"mask_token$", r"rope\.freqs_(cos|sin)$"),
)

# Every layer here has these biases; an architecture may have none, in none of its layers.
OPTIONAL_BIASES = ("attention.o_proj.bias", "mlp.fc1.bias", "mlp.fc2.bias")
SPECIAL_TOKENS = ("cls_token", "distillation_token", "register_tokens")
# What no name of this table says, but a reader understands.
EXPLANATIONS = {
    r"relative_position|rel_pos": "a relative position bias, which merged tokens cannot have",
    r"norm_pre\.": "a LayerNorm before the first layer (CLIP)",
    r"attn\.norm\.": "a LayerNorm inside the attention",
    r"[qk]_norm\.": "normalised queries and keys",
}


def rename_vit_weights(weights: Mapping[str, Tensor], table: NameTable, source: str) -> dict[str, Tensor]:
    """
    The weights of the encoder under the names of [`AlgmModel`], float32, positions as they are stored.

    Args:
        weights (`Mapping[str, Tensor]`): tensors of any shape under the names of the library.
        table ([`NameTable`]): names of the library.
        source (`str`): where they come from, for messages.

    Returns:
        `dict[str, Tensor]`

    Raises:
        ValueError: if a name is not in the table and not to be dropped, or if there is no ViT in the weights.
    """
    prefix = next((name.removesuffix(table.anchor) for name in weights if name.endswith(table.anchor)), None)
    require(prefix is not None, f"{source}: {table.anchor}", None, "the weights of a plain ViT")
    parts, layer_parts = _with_suffixes(table.parts), _with_suffixes(table.layer_parts)
    renamed, unexpected = {}, []
    for name, tensor in weights.items():
        inner = name.removeprefix(prefix)
        layer = re.match(table.layer, inner)
        rest = inner[layer.end() :] if layer else inner
        target = (layer_parts if layer else parts).get(rest)
        if tensor.numel() == 0:  # zero registers
            continue
        if target is not None:
            renamed[f"layers.{layer.group(1)}.{target}" if layer else target] = tensor.float()
        elif not any(re.match(pattern, inner) for pattern in table.dropped):
            unexpected.append(name)
    reasons = [text for pattern, text in EXPLANATIONS.items() if any(re.search(pattern, n) for n in unexpected)]
    expected = f"none that a plain ViT does not have{''.join(f' ({reason})' for reason in reasons)}"
    require(not unexpected, f"weights of {source}", unexpected[:5], expected)
    # timm keeps the LayerNorm of pooled features under another name, and then has no other.
    for part in ("weight", "bias"):
        pooled = renamed.pop(f"pooled_layernorm.{part}", None)
        if pooled is not None:
            renamed.setdefault(f"layernorm.{part}", pooled)
    return _fuse(renamed)


def _with_suffixes(parts: Mapping[str, str]) -> dict[str, str]:
    """Both names of each module's weight and bias, and those of parameters as they are."""
    table = dict(parts)
    for old, new in parts.items():
        table |= {f"{old}.{suffix}": f"{new}.{suffix}" for suffix in ("weight", "bias")}
    return table


def num_layers(weights: Mapping[str, Tensor]) -> int:
    """
    Args:
        weights (`Mapping[str, Tensor]`): tensors of any shape under the names of [`AlgmModel`].

    Returns:
        `int`: one more than the highest number of a layer.
    """
    numbers = [int(name.split(".")[1]) for name in weights if name.startswith("layers.")]
    return max(numbers) + 1 if numbers else 0


def _fuse(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join what is one linear layer here, and add the biases that no layer has."""
    weights = dict(weights)
    everywhere = {name.split(".", 2)[2] for name in weights if name.startswith("layers.")}
    for layer in (f"layers.{number}" for number in range(num_layers(weights))):
        query_bias = weights.get(f"{layer}.attention.query.bias")
        if query_bias is not None:
            for part in ("key", "value"):
                if f"attention.{part}.bias" not in everywhere:
                    weights[f"{layer}.attention.{part}.bias"] = torch.zeros_like(query_bias)
        _join(weights, f"{layer}.attention", ("query", "key", "value"), "qkv")
        if f"{layer}.mlp.gate.weight" in weights:
            _join(weights, f"{layer}.mlp", ("gate", "up"), "fc1")
        else:
            _join(weights, f"{layer}.mlp", ("up",), "fc1")
        for bias in OPTIONAL_BIASES:
            weight = weights.get(f"{layer}.{bias}".replace(".bias", ".weight"))
            parts = {bias, *(bias.replace("fc1", part) for part in ("gate", "up"))}
            if weight is not None and not parts & everywhere:
                weights[f"{layer}.{bias}"] = weight.new_zeros(weight.shape[0])
    return weights


def _join(weights: dict[str, Tensor], module: str, parts: Sequence[str], whole: str) -> None:
    """Concatenate the weights, and the biases, of linear layers with equal inputs; leaves incomplete ones."""
    for kind in ("weight", "bias"):
        names = [f"{module}.{part}.{kind}" for part in parts]
        if all(name in weights for name in names):
            weights[f"{module}.{whole}.{kind}"] = torch.cat([weights.pop(name) for name in names])


def split_positions(
    weights: dict[str, Tensor], grid_size: tuple[int, int] | None, source: str
) -> tuple[int, int] | None:
    """
    Bring the position embeddings, in place, to one for each patch behind one for the class token if there is one.

    Args:
        weights (`dict[str, Tensor]`): under the names of [`AlgmModel`], positions `(1, num_positions, hidden_size)`.
        grid_size (`tuple[int, int]`, *optional*): height and width of their grid, if the source says it.
        source (`str`): where the weights come from, for messages.

    Returns:
        `tuple[int, int]`: height and width of the grid; `None` if there are no position embeddings.

    Raises:
        ValueError: if their number fits no grid.
    """
    name = "embeddings.position_embeddings"
    if name not in weights:
        return None
    tokens = {token: weights[f"embeddings.{token}"] for token in SPECIAL_TOKENS if f"embeddings.{token}" in weights}
    num_special, num_class = sum(token.shape[1] for token in tokens.values()), int("cls_token" in tokens)
    positions = weights[name]
    for num_extra in (num_special, num_class, 0):
        grid = _grid(positions.shape[1] - num_extra, grid_size)
        if grid is not None:
            break
    else:
        shape = "a square grid" if grid_size is None else "a grid of {} x {}".format(*grid_size)
        raise ValueError(
            f"{source}: position embeddings={positions.shape[1]}: expected one for each patch of {shape}, alone or "
            f"with its {num_special} special tokens"
        )
    special, patches = positions[:, :num_extra], positions[:, num_extra:]
    class_position = special[:, :num_class]
    if num_extra == num_special > num_class:
        for token, position in zip(list(tokens)[num_class:], _split_like(special[:, num_class:], tokens), strict=True):
            weights[f"embeddings.{token}"] = tokens[token] + position
    if num_extra < num_class:
        class_position = positions.new_zeros(1, 1, positions.shape[2])
    weights[name] = torch.cat((class_position, patches), dim=1)
    return grid


def _split_like(positions: Tensor, tokens: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The positions of each kind of special token but the class token."""
    return positions.split([token.shape[1] for name, token in tokens.items() if name != "cls_token"], dim=1)


def _grid(num_patches: int, grid_size: tuple[int, int] | None) -> tuple[int, int] | None:
    if grid_size is not None:
        return grid_size if grid_size[0] * grid_size[1] == num_patches else None
    side = math.isqrt(max(num_patches, 0))
    return (side, side) if side > 0 and side * side == num_patches else None


def halves_from_pairs(weights: dict[str, Tensor], num_heads: int) -> None:
    """
    Reorder, in place, the channels of queries and keys from rotary pairs `(0, 1), (2, 3), ...` to `(k, k + head_dim /
    2)`. Their products do not change.

    Args:
        weights (`dict[str, Tensor]`): under the names of [`AlgmModel`]; `qkv` of shape `(3 * hidden_size, ...)`.
        num_heads (`int`): number of heads.
    """
    for name in [name for name in weights if ".attention.qkv." in name]:
        query, key, value = weights[name].chunk(3)
        query, key = (
            part.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous() for part in (query, key)
        )
        weights[name] = torch.cat((query, key, value))


def architecture_of(weights: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """
    The fields of [`AlgmConfig`] that the weights decide.

    Args:
        weights (`Mapping[str, Tensor]`): tensors of any shape under the names of [`AlgmModel`].
        source (`str`): where the weights come from, for messages.

    Returns:
        `dict[str, Any]`

    Raises:
        ValueError: if weights are missing or have another number of dimensions, or if the patches are not square.
    """
    needed = {
        "embeddings.patch_embeddings.projection.weight": 4,
        "layers.0.attention.qkv.weight": 2,
        "layers.0.mlp.fc1.weight": 2,
        "layers.0.mlp.fc2.weight": 2,
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name, ndim in needed.items():
        shape = shapes.get(name)
        require(len(shape or ()) == ndim, f"{source}: shape of {name}", shape, f"{ndim} dimensions, as of a whole ViT")
    for name in (f"embeddings.{part}" for part in (*SPECIAL_TOKENS, "position_embeddings")):
        is_sequence = len(shapes.get(name, (1, 1, 1))) == 3
        require(is_sequence, f"{source}: shape of {name}", shapes.get(name), "(1, n, hidden_size)")
    kernel, fc1, fc2 = (weights[name] for name in needed if "qkv" not in name)
    hidden_size, num_channels, *patch = kernel.shape
    require(patch[0] == patch[1], f"{source}: size of a patch", patch, "a square one")
    registers = weights.get("embeddings.register_tokens")
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers(weights),
        "intermediate_size": fc2.shape[1],
        "patch_size": patch[0],
        "num_channels": num_channels,
        "qkv_bias": "layers.0.attention.qkv.bias" in weights,
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "use_class_token": "embeddings.cls_token" in weights,
        "use_distillation_token": "embeddings.distillation_token" in weights,
        "use_absolute_position_embeddings": "embeddings.position_embeddings" in weights,
        "use_gated_mlp": fc1.shape[0] == 2 * fc2.shape[1],
        "use_mlp_inner_norm": "layers.0.mlp.inner_layernorm.weight" in weights,
    }


__all__ = [
    "TIMM_NAMES",
    "TRANSFORMERS_NAMES",
    "NameTable",
    "architecture_of",
    "halves_from_pairs",
    "num_layers",
    "rename_vit_weights",
    "split_positions",
]
