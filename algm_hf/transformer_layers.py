# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer layers on packs (see `token_merging.py`): shared by the encoder and the mask transformer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_algm import AlgmConfig
from .packed_attention import packed_attention, uniform_attention
from .rotary_positions import RotaryTable, rotate
from .token_packs import TokenPack


class AlgmLayerScale(nn.Module):
    """A learned factor for each channel of a residual branch, from `init_value` on."""

    def __init__(self, hidden_size: int, init_value: float):
        super().__init__()
        self.init_value = init_value
        self.weight = nn.Parameter(torch.full((hidden_size,), float(init_value)))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.weight


class SequenceBoundaries:
    """
    Where each image lies in a pack, and the number of images if all have equally many tokens, else 0. An object of its
    own: of a list or a tuple, `torch.compile` binds its graphs to length and numbers, of an object only to what the
    graph reads, and none reads `lengths`.
    """

    def __init__(self, lengths: Sequence[int], cu_seqlens: Tensor):
        self.num_alike = len(lengths) if len(set(lengths)) == 1 else 0
        self.lengths = lengths
        self.cu_seqlens = cu_seqlens


class AlgmDropPath(nn.Module):
    """Stochastic depth: in training, drops the branch of an image as a whole and scales up those that stay."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
        """The branch `(total_tokens, hidden_size)` of the images that `cu_seqlens` bounds."""
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
    `x + attention(layernorm(x))` on a pack. The attention implementation is read from the model's `config` at every
    call; sizes, rates and extras come from `shape`: the same config in the encoder, one with the decoder's values
    there.
    """

    # Read by transformers' attention functions.
    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: AlgmConfig, shape: AlgmConfig, drop_path_rate: float):
        super().__init__()
        self.config = config
        self.num_attention_heads = shape.num_attention_heads
        self.head_dim = shape.hidden_size // shape.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = shape.attention_probs_dropout_prob
        self.layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.qkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.layer_scale = _layer_scale(shape)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)
        self.drop_path = AlgmDropPath(drop_path_rate)

    def forward(
        self, hidden_states: Tensor, boundaries: SequenceBoundaries, rotary: RotaryTable | None = None
    ) -> Tensor:
        qkv = self.qkv(self.layernorm(hidden_states))
        query, key, value = qkv.view(-1, 3, self.num_attention_heads, self.head_dim).unbind(1)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        dropout = self.attention_dropout if self.training else 0.0
        implementation = self.config._attn_implementation
        if boundaries.num_alike:
            states = (query, key, value, boundaries.num_alike)
            output = uniform_attention(self, *states, self.scaling, dropout, implementation)
        else:
            states = (query, key, value, boundaries)
            output = _attention_of_different_lengths(self, *states, self.scaling, dropout, implementation)
        output = self.dropout(self.o_proj(output))
        if self.layer_scale is not None:
            output = self.layer_scale(output)
        return hidden_states + self.drop_path(output, boundaries.cu_seqlens)


# Which kernel runs, and how often, depends on the token counts; graphs end here and begin again behind it.
@torch.compiler.disable
def _attention_of_different_lengths(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, boundaries: SequenceBoundaries, *settings
) -> Tensor:
    return packed_attention(module, query, key, value, boundaries.lengths, boundaries.cu_seqlens, *settings)


class AlgmMlpBlock(GradientCheckpointingLayer):
    """`x + mlp(layernorm(x))` on a pack. Of a gated MLP, `fc1` computes the gate and, behind it, what passes on."""

    def __init__(self, config: AlgmConfig, shape: AlgmConfig, drop_path_rate: float):
        super().__init__()
        self.layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.is_gated = shape.use_gated_mlp
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size * (2 if self.is_gated else 1))
        self.activation_fn = ACT2FN[shape.hidden_act]
        inner_norm = nn.LayerNorm(shape.intermediate_size, eps=shape.layer_norm_eps)
        self.inner_layernorm = inner_norm if shape.use_mlp_inner_norm else None
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)
        self.layer_scale = _layer_scale(shape)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)
        self.drop_path = AlgmDropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
        output = self.fc1(self.layernorm(hidden_states))
        if self.is_gated:
            gate, output = output.chunk(2, dim=-1)
            output = self.activation_fn(gate) * output
        else:
            output = self.activation_fn(output)
        if self.inner_layernorm is not None:
            output = self.inner_layernorm(output)
        output = self.dropout(self.fc2(output))
        if self.layer_scale is not None:
            output = self.layer_scale(output)
        return hidden_states + self.drop_path(output, cu_seqlens)


class AlgmLayer(nn.Module):
    """
    A transformer layer with an optional merge between the attention and the MLP (paper, figure 3). The two halves are
    checkpointed separately: the merge in between is then never recomputed, so rounding cannot make the backward pass
    see other tokens than the forward pass.
    """

    def __init__(self, config: AlgmConfig, shape: AlgmConfig, drop_path_rate: float = 0.0):
        super().__init__()
        self.attention = AlgmAttentionBlock(config, shape, drop_path_rate)
        self.mlp = AlgmMlpBlock(config, shape, drop_path_rate)

    def forward(
        self,
        pack: TokenPack,
        merge: Callable[[TokenPack], TokenPack] | None = None,
        rotary: RotaryTable | None = None,
    ) -> TokenPack:
        boundaries = SequenceBoundaries(pack.lengths, pack.cu_seqlens)
        pack = pack.with_hidden_states(self.attention(pack.hidden_states, boundaries, rotary))
        if merge is not None:
            pack = merge(pack)
        return pack.with_hidden_states(self.mlp(pack.hidden_states, pack.cu_seqlens))


def _layer_scale(shape: AlgmConfig) -> AlgmLayerScale | None:
    if shape.layer_scale_init_value is None:
        return None
    return AlgmLayerScale(shape.hidden_size, shape.layer_scale_init_value)


def drop_path_rates(last_rate: float, num_layers: int) -> list[float]:
    """Of each layer, linear from 0. Plain Python: the meta device, where models are built, holds no values."""
    return [last_rate * index / max(1, num_layers - 1) for index in range(num_layers)]


__all__ = [
    "AlgmAttentionBlock",
    "AlgmDropPath",
    "AlgmLayer",
    "AlgmLayerScale",
    "AlgmMlpBlock",
    "SequenceBoundaries",
    "drop_path_rates",
]
