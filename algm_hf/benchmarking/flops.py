# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""FLOPs of a call, those of every attention kernel included."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count


def varlen_attention_flops(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k=None, *_, **__
) -> int:
    """FLOPs of `torch_attn::_varlen_attn`: two matrix products for each sequence and head.

    Args:
        query, key, value (`Tensor` of shape `(total_tokens, num_heads, head_dim)`)
        cu_seq_q, cu_seq_k (`Tensor` of shape `(num_sequences + 1,)`): starts of the sequences, and the end.
    """
    lengths_q = cu_seq_q.diff().tolist()
    lengths_k = lengths_q if cu_seq_k is None else cu_seq_k.diff().tolist()
    pairs = sum(a * b for a, b in zip(lengths_q, lengths_k, strict=True))
    return 2 * pairs * query.shape[1] * (query.shape[2] + value.shape[2])


varlen_attention_flops._get_raw = True  # FlopCounterMode hands over the tensors, not their shapes alone


def _cpu_attention_flops(query_shape, key_shape, value_shape, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _missing_formulas() -> dict:
    """Formulas for the attention kernels that this version of torch runs but does not count."""
    formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops}
    try:
        import_module("torch.nn.attention.varlen")  # registers the operator; builds without flash may lack it
        formulas[torch.ops.torch_attn._varlen_attn] = varlen_attention_flops
    except (ImportError, AttributeError):
        pass
    return {operator: formula for operator, formula in formulas.items() if operator not in flop_registry}


@torch.inference_mode()
def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs (2 per multiply-accumulate) of the matrix products, convolutions and attention of a call, not compiled."""
    with FlopCounterMode(display=False, custom_mapping=_missing_formulas()) as counter:
        call()
    return counter.get_total_flops()


__all__ = ["count_flops", "varlen_attention_flops"]
