# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny plain Vision Transformers of transformers with random weights, from which ALGM can start."""

import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)


SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
# The MLP of DINOv2 is given by a ratio.
WITH_MLP = {**SIZES, "intermediate_size": 48}


def _vit(**fields):
    return ViTModel(ViTConfig(**{**WITH_MLP, **fields}))


def _dinov3(**fields):
    return DINOv3ViTModel(DINOv3ViTConfig(**{**WITH_MLP, "num_register_tokens": 3, **fields}))


# Name -> a function that builds the model. Each differs from the others in what the encoder has to do.
SOURCES = {
    "vit": _vit,
    "vit_without_qkv_bias": lambda: _vit(qkv_bias=False, layer_norm_eps=1e-3, hidden_act="relu"),
    "vit_classifier": lambda: ViTForImageClassification(ViTConfig(**WITH_MLP)),
    "deit": lambda: DeiTModel(DeiTConfig(**WITH_MLP)),
    "deit_classifier": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**WITH_MLP)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**{**SIZES, "image_size": 56, "patch_size": 14})),
    "dinov2_swiglu": lambda: Dinov2Model(Dinov2Config(**SIZES, use_swiglu_ffn=True)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES)),
    "dinov3": _dinov3,
    "dinov3_swiglu": lambda: _dinov3(use_gated_mlp=True, hidden_act="silu", rope_theta=50.0),
    "dinov3_without_biases": lambda: _dinov3(
        query_bias=False, value_bias=False, proj_bias=False, mlp_bias=False, num_register_tokens=0
    ),
}


def source_vit(kind: str) -> nn.Module:
    """A model of this kind in evaluation mode; no parameter is at a value that would hide it."""
    torch.manual_seed(1)
    model = SOURCES[kind]().eval()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            centre = 1.0 if isinstance(module, nn.LayerNorm) and name == "weight" else 0.0
            nn.init.normal_(parameter, mean=centre, std=0.15)
    return model


def source_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_special_tokens + num_patches, hidden_size)` after the last LayerNorm."""
    backbone = getattr(model, "vit", getattr(model, "deit", model))
    kwargs = {}
    if backbone.config.model_type in ("vit", "deit"):
        kwargs["interpolate_pos_encoding"] = True
    with torch.no_grad():
        return backbone(images, **kwargs).last_hidden_state
