# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The plain network (no merging) of one image in float64, written from the papers' formulas and a state dict alone."""

import torch
from torch.nn import functional as F


def norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def block(x, weights, name, heads, eps, activation):
    query, key, value = linear(
        norm(x, weights, f"{name}.attention.layernorm", eps), weights, f"{name}.attention.qkv"
    ).chunk(3, -1)
    outputs = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        outputs.append((q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v)
    x = x + linear(torch.cat(outputs, -1), weights, f"{name}.attention.o_proj")
    hidden = activation(linear(norm(x, weights, f"{name}.mlp.layernorm", eps), weights, f"{name}.mlp.fc1"))
    return x + linear(hidden, weights, f"{name}.mlp.fc2")


def naive_logits(image, model, activation):
    """
    `(channels, height, width)` at the size of the position embeddings to `(num_labels, rows, columns)`. The activation
    is the encoder's; the decoder has the exact GELU.
    """
    config, eps = model.config, model.config.layer_norm_eps
    weights = {name: value.double() for name, value in model.state_dict().items()}
    patch, (rows, columns) = config.patch_size, config.position_grid_size
    pixels = image.double().unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(2)
    kernel = weights["algm.embeddings.patch_embeddings.projection.weight"].flatten(1)
    patches = (pixels @ kernel.T).flatten(0, 1) + weights["algm.embeddings.patch_embeddings.projection.bias"]
    x = (
        torch.cat((weights["algm.embeddings.cls_token"][0], patches))
        + weights["algm.embeddings.position_embeddings"][0]
    )
    for layer in range(config.num_hidden_layers):
        x = block(x, weights, f"algm.layers.{layer}", config.num_attention_heads, eps, activation)
    x = norm(x, weights, "algm.layernorm", eps)[1:]
    if config.decoder_type == "linear":
        return linear(x, weights, "decode_head.classifier").T.view(-1, rows, columns)
    classes = weights["decode_head.class_embeddings"][0]
    x = torch.cat((linear(x, weights, "decode_head.projection"), classes))
    for layer in range(config.decoder_num_hidden_layers):
        x = block(x, weights, f"decode_head.layers.{layer}", config.decoder_num_attention_heads, eps, F.gelu)
    x = norm(x, weights, "decode_head.layernorm", eps)
    tokens = F.normalize(linear(x[: -len(classes)], weights, "decode_head.patch_projection"), dim=-1)
    masks = F.normalize(linear(x[-len(classes) :], weights, "decode_head.class_projection"), dim=-1)
    return norm(tokens @ masks.T, weights, "decode_head.mask_norm", eps).T.view(-1, rows, columns)
