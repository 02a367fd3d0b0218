# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Small models and images that the tests share."""

import torch

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
    "local_merge_layer": 1,
    "global_merge_layer": 3,
    "merge_threshold": 0.6,
    "num_labels": 5,
}


def tiny_config(**overrides) -> AlgmConfig:
    return AlgmConfig(**{**TINY, **overrides})


def tiny_model(seed: int = 0, **overrides) -> AlgmForSemanticSegmentation:
    """A model whose weights are large enough that features differ from patch to patch, in evaluation mode."""
    torch.manual_seed(seed)
    return AlgmForSemanticSegmentation(tiny_config(initializer_range=0.12, **overrides)).eval()


def blocky_images(batch_size: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Images `(batch_size, 3, height, width)` of flat regions with some noise: some patches merge, some do not."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch_size, 3, 3, 3, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")
    noise = torch.randn(batch_size, 3, height, width, generator=generator)
    # The noise differs between images, and so does the number of tokens they keep.
    return images + noise * torch.linspace(0.05, 0.6, batch_size)[:, None, None, None]
