# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Plain Vision Transformers under timm's names: random state dicts, and their features in float64 written from the
models' formulas and the state dict alone, for images of the size that the state dict stores.
"""

import math

import torch
from torch.nn import functional as F


WIDTH, DEPTH, HEADS, PATCH, GRID, HIDDEN = 48, 3, 2, 8, 6, 40

# Kind -> timm architecture and what its state dict holds.
KINDS = {
    "timm_augreg": {"architecture": "vit_tiny_patch8_48"},
    "timm_deit": {"architecture": "deit_tiny_distilled_patch8_48", "distilled": True},
    "timm_deit3": {"architecture": "deit3_small_patch8_48", "scale": "ls{}.gamma", "embed_prefix": False},
    "timm_gap": {"architecture": "vit_little_patch8_reg2_gap_48", "classes": 0, "registers": 2, "norm": "fc_norm"},
    "timm_dinov2": {"architecture": "vit_small_patch14_dinov2", "scale": "ls{}.gamma"},
    "timm_dinov2_registers": {
        "architecture": "vit_giant_patch14_reg4_dinov2",
        "scale": "ls{}.gamma",
        "registers": 4,
        "embed_prefix": False,
        "mlp": "packed",
    },
    "timm_eva": {"architecture": "eva_giant_patch14_48", "qkv": "bias_apart", "norm": "fc_norm"},
    "timm_eva02_small": {
        "architecture": "eva02_small_patch14_48",
        "qkv": "bias_apart",
        "mlp": "packed",
        "norm": "fc_norm",
        "rope": "eva02",
    },
    "timm_eva02_base": {
        "architecture": "eva02_base_patch14_48",
        "qkv": "split",
        "mlp": "split_norm",
        "norm": "fc_norm",
        "rope": "eva02",
    },
    "timm_dinov3": {
        "architecture": "vit_small_patch16_dinov3",
        "qkv": "no_bias",
        "scale": "gamma_{}",
        "registers": 4,
        "positions": False,
        "rope": "dinov3",
    },
}


def timm_state_dict(
    classes=1, distilled=False, registers=0, embed_prefix=True, positions=True, qkv="fused", mlp="plain", scale=None,
    norm="norm", **_,
):  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def random(*shape, centre=0.0):
        return centre + 0.15 * torch.randn(*shape, generator=generator)

    def linear(name, out, inner, bias=True):
        weights[f"{name}.weight"] = random(out, inner)
        if bias:
            weights[f"{name}.bias"] = random(out)

    def layernorm(name, size):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = random(size, centre=1.0), random(size)

    weights = {"patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": random(WIDTH)}
    for name, count in (("cls_token", classes), ("dist_token", int(distilled)), ("reg_token", registers)):
        if count:
            weights[name] = random(1, count, WIDTH)
    if positions:
        prefix = classes + int(distilled) + registers if embed_prefix else 0
        weights["pos_embed"] = random(1, prefix + GRID * GRID, WIDTH)
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        layernorm(f"{block}.norm1", WIDTH)
        layernorm(f"{block}.norm2", WIDTH)
        if qkv == "split":
            for part in "qkv":
                linear(f"{block}.attn.{part}_proj", WIDTH, WIDTH, bias=part != "k")
        else:
            linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH, bias=qkv == "fused")
        if qkv == "bias_apart":
            weights[f"{block}.attn.q_bias"], weights[f"{block}.attn.v_bias"] = random(WIDTH), random(WIDTH)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        if mlp == "split_norm":
            linear(f"{block}.mlp.fc1_g", HIDDEN, WIDTH)
            linear(f"{block}.mlp.fc1_x", HIDDEN, WIDTH)
            layernorm(f"{block}.mlp.norm", HIDDEN)
        else:
            linear(f"{block}.mlp.fc1", HIDDEN * (2 if mlp == "packed" else 1), WIDTH)
        linear(f"{block}.mlp.fc2", WIDTH, HIDDEN)
        if scale:
            weights[f"{block}.{scale.format(1)}"], weights[f"{block}.{scale.format(2)}"] = random(WIDTH), random(WIDTH)
    layernorm(norm, WIDTH)
    linear("head", 7, WIDTH)
    return weights


def timm_config(kind: str) -> dict:
    size = [3, GRID * PATCH, GRID * PATCH]
    pretrained = {"input_size": size, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    # Narrower than any of timm's own, so the number of heads has to be said.
    return {
        "architecture": KINDS[kind]["architecture"],
        "num_features": WIDTH,
        "model_args": {"num_heads": HEADS},
        "pretrained_cfg": pretrained,
    }


def timm_features(weights: dict, image: torch.Tensor, kind: str) -> torch.Tensor:
    """`(3, 48, 48)` to `(num_special_tokens + num_patches, WIDTH)`, float64, after the last LayerNorm."""
    weights = {name: value.double() for name, value in weights.items()}
    options = {"qkv": "fused", "mlp": "plain", "norm": "norm", "scale": None, "rope": None, **KINDS[kind]}
    eps = 1e-5 if kind == "timm_dinov3" else 1e-6

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    pixels = image.double().unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(0, 1)
    x = pixels.flatten(1) @ weights["patch_embed.proj.weight"].flatten(1).T + weights["patch_embed.proj.bias"]
    special = [weights[name][0] for name in ("cls_token", "dist_token", "reg_token") if name in weights]
    num_special = sum(len(tokens) for tokens in special)
    positions = weights["pos_embed"][0] if "pos_embed" in weights else torch.zeros(GRID * GRID, WIDTH).double()
    if len(positions) == len(x):
        x = torch.cat((*special, x + positions))
    else:
        x = torch.cat((*special, x)) + positions
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        h = norm(x, f"{block}.norm1")
        if options["qkv"] == "split":
            q, k, v = (linear(h, f"{block}.attn.{part}_proj") for part in "qkv")
        else:
            q, k, v = linear(h, f"{block}.attn.qkv").chunk(3, -1)
        if options["qkv"] == "bias_apart":
            q, v = q + weights[f"{block}.attn.q_bias"], v + weights[f"{block}.attn.v_bias"]
        q, k, v = (part.unflatten(1, (HEADS, -1)).transpose(0, 1) for part in (q, k, v))
        if options["rope"]:
            q, k = (turned(part, num_special, options["rope"]) for part in (q, k))
        attention = (q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        branch = linear(attention.transpose(0, 1).flatten(1), f"{block}.attn.proj")
        x = x + branch * (weights[f"{block}.{options['scale'].format(1)}"] if options["scale"] else 1)
        h = norm(x, f"{block}.norm2")
        if options["mlp"] == "plain":
            h = F.gelu(linear(h, f"{block}.mlp.fc1"))
        elif options["mlp"] == "packed":
            gate, up = linear(h, f"{block}.mlp.fc1").chunk(2, -1)
            h = F.silu(gate) * up
        else:
            h = norm(F.silu(linear(h, f"{block}.mlp.fc1_g")) * linear(h, f"{block}.mlp.fc1_x"), f"{block}.mlp.norm")
        branch = linear(h, f"{block}.mlp.fc2")
        x = x + branch * (weights[f"{block}.{options['scale'].format(2)}"] if options["scale"] else 1)
    return norm(x, options["norm"])


def turned(states: torch.Tensor, num_special: int, rope: str) -> torch.Tensor:
    """`(heads, tokens, head_dim)`: pairs of channels as complex numbers, turned by row and by column."""
    num_frequencies = states.shape[-1] // 4
    patches = states[:, num_special:]
    if rope == "dinov3":
        frequency = [2 * math.pi * 100.0 ** (-k / num_frequencies) for k in range(num_frequencies)]
        place = [(2 * index + 1) / GRID - 1 for index in range(GRID)]
        pairs = torch.complex(*patches.chunk(2, -1))
    else:
        frequency = [10000.0 ** (-k / num_frequencies) for k in range(num_frequencies)]
        place = [index * 16 / GRID for index in range(GRID)]
        pairs = torch.complex(patches[..., 0::2], patches[..., 1::2])
    angles = torch.tensor(
        [
            [place[axis] * f for axis in (row, column) for f in frequency]
            for row in range(GRID)
            for column in range(GRID)
        ],
        dtype=torch.float64,
    )
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    if rope == "dinov3":
        patches = torch.cat((pairs.real, pairs.imag), -1)
    else:
        patches = torch.stack((pairs.real, pairs.imag), -1).flatten(-2)
    return torch.cat((states[:, :num_special], patches), 1)
