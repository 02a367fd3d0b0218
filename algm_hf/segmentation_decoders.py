# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The two decoders of Segmenter (Strudel et al., ICCV 2021, section 3.2), on packs of merged patch tokens."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor, nn

from .configuration_algm import AlgmConfig
from .token_packs import TokenPack, full_pack, image_of_token, to_device
from .transformer_layers import AlgmLayer, drop_path_rates


# The mask transformer's layers are Segmenter's, whatever those of the encoder have.
SEGMENTER_LAYERS = {
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_scale_init_value": None,
    "use_gated_mlp": False,
    "use_mlp_inner_norm": False,
}


class AlgmLinearDecoder(nn.Module):
    """One linear layer from each patch token to its logits `(total_tokens, num_labels)`."""

    def __init__(self, config: AlgmConfig):
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pack: TokenPack) -> Tensor:
        return self.classifier(pack.hidden_states)


class AlgmMaskTransformerDecoder(nn.Module):
    """
    Lets the patch tokens of an image and one learned embedding per class attend to each other; the logits of a token,
    `(total_tokens, num_labels)`, are its normalised products with the classes.
    """

    def __init__(self, config: AlgmConfig):
        super().__init__()
        size, num_layers = config.decoder_hidden_size, config.decoder_num_hidden_layers
        shape = copy(config)
        shape.update(
            {
                "hidden_size": size,
                "num_attention_heads": config.decoder_num_attention_heads,
                "intermediate_size": config.decoder_intermediate_size,
                "hidden_dropout_prob": config.decoder_dropout_prob,
                "attention_probs_dropout_prob": config.decoder_dropout_prob,
                **SEGMENTER_LAYERS,
            }
        )
        self.projection = nn.Linear(config.hidden_size, size)
        self.class_embeddings = nn.Parameter(torch.zeros(1, config.num_labels, size))
        rates = drop_path_rates(config.decoder_drop_path_rate, num_layers)
        self.layers = nn.ModuleList([AlgmLayer(config, shape, rate) for rate in rates])
        self.layernorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.patch_projection = nn.Linear(size, size, bias=False)
        self.class_projection = nn.Linear(size, size, bias=False)
        self.mask_norm = nn.LayerNorm(config.num_labels, eps=config.layer_norm_eps)

    def forward(self, pack: TokenPack) -> Tensor:
        num_images, num_labels = len(pack.lengths), self.class_embeddings.shape[1]
        patches = self.projection(pack.hidden_states)
        classes = self.class_embeddings.to(patches.dtype).expand(num_images, -1, -1).flatten(0, 1)
        order, place = _append_classes(pack.lengths, num_labels, patches.device)
        joint = full_pack(torch.cat((patches, classes))[order], [length + num_labels for length in pack.lengths])
        for layer in self.layers:
            joint = layer(joint)
        hidden_states = self.layernorm(joint.hidden_states)[place]

        num_patches = patches.shape[0]
        patches = nn.functional.normalize(self.patch_projection(hidden_states[:num_patches]), dim=-1)
        classes = nn.functional.normalize(self.class_projection(hidden_states[num_patches:]), dim=-1)
        classes = classes.view(num_images, num_labels, -1)
        return self.mask_norm(_class_products(patches, classes, pack.lengths))


def _class_products(patches: Tensor, classes: Tensor, lengths: Sequence[int]) -> Tensor:
    """
    Each token's products with its image's classes `(batch_size, num_labels, size)`: one product for the batch, images
    of fewer tokens padded.
    """
    if len(set(lengths)) == 1:
        return (patches.unflatten(0, (len(lengths), lengths[0])) @ classes.transpose(1, 2)).flatten(0, 1)
    device, longest, num_tokens = patches.device, max(lengths), sum(lengths)
    lengths = to_device(lengths, device)
    starts = lengths.cumsum(0) - lengths
    padded = (starts[:, None] + torch.arange(longest, device=device)).clamp_(max=num_tokens - 1)
    products = patches[padded] @ classes.transpose(1, 2)
    # Row `longest * image + place` of the padded rows is token `starts[image] + place` of the pack.
    shifts = longest * torch.arange(lengths.shape[0], device=device) - starts
    rows = torch.arange(num_tokens, device=device) + shifts.repeat_interleave(lengths, output_size=num_tokens)
    return products.flatten(0, 1)[rows]


def _append_classes(lengths: Sequence[int], num_labels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """
    How to put each image's class embeddings behind its tokens: `order` takes all tokens followed by all class
    embeddings to that pack, `place` takes the pack back.
    """
    image_of_class = torch.arange(len(lengths), device=device).repeat_interleave(num_labels)
    order = torch.argsort(torch.cat((image_of_token(lengths, device), image_of_class)), stable=True)
    return order, torch.argsort(order)


__all__ = ["AlgmLinearDecoder", "AlgmMaskTransformerDecoder"]
