# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""timm's own plain Vision Transformers by name, made tiny, with random weights: the truth for their state dicts."""

import re

import timm
import torch
from torch import nn

from algm_hf.conversion.plain_vit import TIMM_ARCHITECTURES


WIDTH, DEPTH, HEADS, PATCH, SIDE = 48, 3, 2, 8, 48

# Everything of timm that is accepted by name.
ARCHITECTURES = [
    name for name in timm.list_models() if any(re.fullmatch(pattern, name) for pattern in TIMM_ARCHITECTURES)
]
# One of each kind of state dict.
KINDS = {
    "timm_augreg": "vit_tiny_patch16_224",
    "timm_deit": "deit_tiny_distilled_patch16_224",
    "timm_deit3": "deit3_small_patch16_224",
    "timm_gap": "vit_little_patch16_reg4_gap_256",
    "timm_dinov2": "vit_small_patch14_dinov2",
    "timm_dinov2_registers": "vit_giant_patch14_reg4_dinov2",
    "timm_eva": "eva_giant_patch14_224",
    "timm_eva02_small": "eva02_small_patch14_336",
    "timm_eva02_base": "eva02_base_patch14_448",
    "timm_dinov3": "vit_small_patch16_dinov3",
    "timm_dinov3_gated": "vit_huge_plus_patch16_dinov3_qkvb",
}


def timm_vit(architecture: str) -> nn.Module:
    """In evaluation mode, for images of any size; no parameter is at a value that would hide it."""
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=7, dynamic_img_size=True, **sizes).eval()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                centre = 1.0 if isinstance(module, nn.LayerNorm) and name == "weight" else 0.0
                nn.init.normal_(parameter, mean=centre, std=0.15)
    return model


def timm_state_dict(architecture: str) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in timm_vit(architecture).state_dict().items()}


def timm_config(architecture: str) -> dict:
    """A config.json as timm writes it."""
    pretrained = {
        "input_size": [3, SIDE, SIDE],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bicubic",
    }
    return {
        "architecture": architecture,
        "num_features": WIDTH,
        "model_args": {"num_heads": HEADS, "img_size": SIDE},
        "pretrained_cfg": pretrained,
    }


def timm_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_special_tokens + num_patches, WIDTH)` after the last LayerNorm, or that behind the pooling."""
    with torch.no_grad():
        tokens = model.forward_features(images)
        return model.fc_norm(tokens) if isinstance(getattr(model, "fc_norm", None), nn.LayerNorm) else tokens
