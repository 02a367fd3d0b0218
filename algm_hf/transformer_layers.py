# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer layers on packs: shared by the encoder and the mask transformer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_algm import AlgmConfig
from .packed_attention import packed_attention, uniform_attention
from .token_merging import TokenPack


class LayerDimensions(NamedTuple):
    """
    What distinguishes the layers of the encoder from those of the decoder.

    Attributes:
        hidden_size (`int`): number of channels of a token.
        num_attention_heads (`int`): number of heads, a divisor of `hidden_size`.
        intermediate_size (`int`): number of channels inside the MLP.
        qkv_bias (`bool`): whether queries, keys and values have a bias.
        hidden_dropout_prob (`float`): dropout in [0, 1) after the attention and after the MLP.
        attention_probs_dropout_prob (`float`): dropout in [0, 1) on the attention weights.
    """

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    qkv_bias: bool
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float


class SequenceBoundaries:
    """
    Where each image lies in a pack. An object of its own: of a list or a tuple, `torch.compile` binds its graphs to
    length and numbers, of an object only to what the graph reads, and none reads `lengths`.

    Attributes:
        num_alike (`int`): number of images if all have equally many tokens, else 0.
        lengths (`Sequence[int]` of length `batch_size`): number of tokens of each image.
        cu_seqlens (`Tensor` of shape `(batch_size + 1,)`, int32): start of each image, and the end of the last one.
    """

    def __init__(self, lengths: Sequence[int], cu_seqlens: Tensor):
        self.num_alike = len(lengths) if len(set(lengths)) == 1 else 0
        self.lengths = lengths
        self.cu_seqlens = cu_seqlens


class AlgmDropPath(nn.Module):
    """
    Stochastic depth on a pack: drops the residual branch of an image as a whole and scales up those that stay, in
    training mode only.

    Args:
        drop_prob (`float`): probability in [0, 1).
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
        """`hidden_states (total_tokens, hidden_size)` and `cu_seqlens (batch_size + 1,)` to the scaled branch."""
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1.0 - self.drop_prob
        keep = hidden_states.new_empty(cu_seqlens.shape[0] - 1).bernoulli_(keep_prob).div_(keep_prob)
        keep = keep.repeat_interleave(cu_seqlens.diff(), output_size=hidden_states.shape[0])
        return hidden_states * keep[:, None]

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


class AlgmAttentionBlock(GradientCheckpointingLayer):
    """
    `x + attention(layernorm(x))` on a pack.

    Args:
        config ([`AlgmConfig`]): for `_attn_implementation`, read at every call, `layer_norm_eps`.
        dimensions ([`LayerDimensions`])
        drop_path_rate (`float`): probability in [0, 1) to drop the branch of an image.
    """

    # Read by transformers' attention functions.
    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: AlgmConfig, dimensions: LayerDimensions, drop_path_rate: float):
        super().__init__()
        self.config = config
        self.num_attention_heads = dimensions.num_attention_heads
        self.head_dim = dimensions.hidden_size // dimensions.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = dimensions.attention_probs_dropout_prob
        self.layernorm = nn.LayerNorm(dimensions.hidden_size, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(dimensions.hidden_size, 3 * dimensions.hidden_size, bias=dimensions.qkv_bias)
        self.o_proj = nn.Linear(dimensions.hidden_size, dimensions.hidden_size)
        self.dropout = nn.Dropout(dimensions.hidden_dropout_prob)
        self.drop_path = AlgmDropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, boundaries: SequenceBoundaries) -> Tensor:
        qkv = self.qkv(self.layernorm(hidden_states))
        query, key, value = qkv.view(-1, 3, self.num_attention_heads, self.head_dim).unbind(1)
        dropout = self.attention_dropout if self.training else 0.0
        implementation = self.config._attn_implementation
        if boundaries.num_alike:
            states = (query, key, value, boundaries.num_alike)
            output = uniform_attention(self, *states, self.scaling, dropout, implementation)
        else:
            states = (query, key, value, boundaries)
            output = _attention_of_different_lengths(self, *states, self.scaling, dropout, implementation)
        return hidden_states + self.drop_path(self.dropout(self.o_proj(output)), boundaries.cu_seqlens)


# Which kernel runs, and how often, depends on the token counts; graphs end here and begin again behind it.
@torch.compiler.disable
def _attention_of_different_lengths(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, boundaries: SequenceBoundaries, *settings
) -> Tensor:
    return packed_attention(module, query, key, value, boundaries.lengths, boundaries.cu_seqlens, *settings)


class AlgmMlpBlock(GradientCheckpointingLayer):
    """
    `x + mlp(layernorm(x))` on a pack.

    Args:
        config ([`AlgmConfig`]): for `hidden_act` and `layer_norm_eps`.
        dimensions ([`LayerDimensions`])
        drop_path_rate (`float`): probability in [0, 1) to drop the branch of an image.
    """

    def __init__(self, config: AlgmConfig, dimensions: LayerDimensions, drop_path_rate: float):
        super().__init__()
        self.layernorm = nn.LayerNorm(dimensions.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(dimensions.hidden_size, dimensions.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(dimensions.intermediate_size, dimensions.hidden_size)
        self.dropout = nn.Dropout(dimensions.hidden_dropout_prob)
        self.drop_path = AlgmDropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
        output = self.fc2(self.activation_fn(self.fc1(self.layernorm(hidden_states))))
        return hidden_states + self.drop_path(self.dropout(output), cu_seqlens)


class AlgmLayer(nn.Module):
    """
    A transformer layer with an optional merge between the attention and the MLP (paper, figure 3).

    The two halves are checkpointed separately: the merge in between is then never recomputed, so rounding cannot make
    the backward pass see other tokens than the forward pass.

    Args:
        config ([`AlgmConfig`])
        dimensions ([`LayerDimensions`])
        drop_path_rate (`float`): probability in [0, 1) to drop a branch of an image.
    """

    def __init__(self, config: AlgmConfig, dimensions: LayerDimensions, drop_path_rate: float = 0.0):
        super().__init__()
        self.attention = AlgmAttentionBlock(config, dimensions, drop_path_rate)
        self.mlp = AlgmMlpBlock(config, dimensions, drop_path_rate)

    def forward(self, pack: TokenPack, merge: Callable[[TokenPack], TokenPack] | None = None) -> TokenPack:
        boundaries = SequenceBoundaries(pack.lengths, pack.cu_seqlens)
        pack = pack.with_hidden_states(self.attention(pack.hidden_states, boundaries))
        if merge is not None:
            pack = merge(pack)
        return pack.with_hidden_states(self.mlp(pack.hidden_states, pack.cu_seqlens))


def drop_path_rates(last_rate: float, num_layers: int) -> list[float]:
    """
    Stochastic depth of each layer: linear from 0 at the first to `last_rate` at the last, as timm's and transformers'
    ViTs do. Plain Python, since models are built on the meta device, where tensors have no values.

    Args:
        last_rate (`float`): rate of the last layer in [0, 1).
        num_layers (`int`): number of layers, >= 0.

    Returns:
        `list[float]` of length `num_layers`
    """
    return [last_rate * index / max(1, num_layers - 1) for index in range(num_layers)]


__all__ = [
    "AlgmAttentionBlock",
    "AlgmDropPath",
    "AlgmLayer",
    "AlgmMlpBlock",
    "LayerDimensions",
    "SequenceBoundaries",
    "drop_path_rates",
]
