# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Attention on a pack of sequences of different lengths, without padding.

| `attn_implementation` | device and dtype           | what runs                                                     |
|-----------------------|----------------------------|---------------------------------------------------------------|
| `"sdpa"` (default)    | all lengths equal          | one call of torch's `scaled_dot_product_attention`            |
| `"sdpa"`              | CUDA, float16 / bfloat16   | torch's variable-length flash attention, one call             |
| `"sdpa"`              | everything else            | SDPA, images of equal length together                         |
| `"eager"`             | any                        | softmax(QK^T)V in plain torch, images of equal length together |
| `"flash_attention_*"` | CUDA, float16 / bfloat16   | transformers' flash attention interface with `cu_seq_lens_*`  |
| any other             | as registered              | the registered function, images of equal length together      |
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """
    Attention in plain torch with the signature of transformers' attention functions: heads before length, softmax in
    float32, `attention_mask` added to the scores. Returns the output, length before heads, and the attention weights.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    cu_seqlens: Tensor,
    scaling: float,
    dropout: float,
    implementation: str | None,
) -> Tensor:
    """
    Let the tokens of each image attend to the tokens of the same image; see the table of this module for what runs.
    Queries, keys and values are `(total_tokens, num_heads, head_dim)`, the result `(total_tokens, num_heads *
    head_dim)`. `module` is passed on to transformers' attention functions, which raise a `KeyError` for an unknown
    `implementation`.
    """
    total_tokens = query.shape[0]
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation or "eager", eager_attention_forward)
    kwargs = {"attention_mask": None, "scaling": scaling, "dropout": dropout, "is_causal": False}
    is_ragged = len(set(lengths)) > 1
    if "flash" in (implementation or ""):
        # One sequence of all images with its boundaries, transformers' convention for packed inputs.
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        boundaries = {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens}
        boundaries |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        output = attention(module, query, key, value, **kwargs, **boundaries)[0]
    elif is_ragged and implementation == "sdpa" and dropout == 0.0 and _has_varlen_kernel(query):
        # Imported here because torch builds without flash attention may lack it.
        from torch.nn.attention.varlen import varlen_attn

        longest = max(lengths)
        output = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, longest, longest, scale=scaling)
    elif is_ragged:
        output = _attention_by_length(attention, module, (query, key, value), lengths, kwargs)
    else:
        return uniform_attention(module, query, key, value, len(lengths), scaling, dropout, implementation)
    return output.reshape(total_tokens, -1)


def uniform_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_images: int,
    scaling: float,
    dropout: float,
    implementation: str | None,
) -> Tensor:
    """
    [`packed_attention`] of `num_images` images that have equally many tokens: one call on a view of the pack, which
    `torch.compile` can follow whatever the number of tokens.
    """
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation or "eager", eager_attention_forward)
    shape = (num_images, query.shape[0] // num_images, *query.shape[1:])
    batched = (states.view(shape).transpose(1, 2) for states in (query, key, value))
    output = attention(module, *batched, attention_mask=None, scaling=scaling, dropout=dropout, is_causal=False)[0]
    return output.reshape(query.shape[0], -1)


def _has_varlen_kernel(query: Tensor) -> bool:
    """Whether torch's variable-length flash attention takes these queries."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    head_dim = query.shape[-1]
    if head_dim % 8 or head_dim > 256:
        return False
    # Flash attention needs Ampere, and may be switched off (torch.nn.attention.sdpa_kernel); ROCm has no such kernel.
    if torch.version.hip is not None or not torch.backends.cuda.flash_sdp_enabled():
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attention_by_length(
    attention: Callable, module: nn.Module, states: tuple[Tensor, Tensor, Tensor], lengths: Sequence[int], kwargs: dict
) -> Tensor:
    """One call for each length that occurs. An image of a length of its own is a view of the pack, not a copy."""
    pieces = [state.split(list(lengths)) for state in states]
    images_of_length: dict[int, list[int]] = {}
    for image, length in enumerate(lengths):
        images_of_length.setdefault(length, []).append(image)
    outputs: list[Tensor | None] = [None] * len(lengths)
    for images in images_of_length.values():
        query, key, value = (
            (piece[images[0]][None] if len(images) == 1 else torch.stack([piece[i] for i in images])).transpose(1, 2)
            for piece in pieces
        )
        for image, output in zip(images, attention(module, query, key, value, **kwargs)[0], strict=True):
            outputs[image] = output
    return torch.cat(outputs)


__all__ = ["eager_attention_forward", "packed_attention", "uniform_attention"]
