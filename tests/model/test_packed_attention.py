# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from algm_hf.packed_attention import packed_attention
from algm_hf.token_packs import cumulated_lengths


HEADS, HEAD_DIM = 3, 8


class Caller(nn.Module):
    is_causal = False
    num_key_value_groups = 1


def run(states, lengths, implementation, dropout=0.0):
    cu_seqlens = cumulated_lengths(torch.tensor(lengths)).int()
    scaling = HEAD_DIM**-0.5
    return packed_attention(Caller(), *states, lengths, cu_seqlens, scaling, dropout, implementation)


def random_states(total, dtype=torch.float32):
    """Queries, keys and values as the fused projection gives them: views with gaps."""
    return torch.randn(total, 3, HEADS, HEAD_DIM, dtype=dtype).unbind(1)


def masked_dense_attention(states, lengths):
    """All tokens of the batch in one sequence, with a mask that keeps images apart."""
    query, key, value = (state.double().transpose(0, 1) for state in states)
    image = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = query @ key.transpose(1, 2) / HEAD_DIM**0.5
    scores = scores.masked_fill(image[:, None] != image, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", None])
@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [4, 9, 1], [4, 9, 4, 6, 9], [1, 1]])
def test_tokens_attend_to_their_own_image_only(implementation, lengths):
    states = random_states(sum(lengths))
    output = run(states, lengths, implementation)
    torch.testing.assert_close(output.double(), masked_dense_attention(states, lengths), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_to_float64(dtype):
    states = random_states(20, dtype)
    output = run(states, [8, 12], "sdpa")
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), masked_dense_attention(states, [8, 12]), atol=2e-2, rtol=2e-2)


def test_a_registered_attention_function_runs_once_for_each_length():
    shapes = []

    def recorded(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        shapes.append(tuple(query.shape))
        output = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return output.transpose(1, 2), None

    AttentionInterface.register("recorded", recorded)
    states = random_states(26)
    output = run(states, [6, 7, 6, 7], "recorded")
    assert sorted(shapes) == [(2, HEADS, 6, HEAD_DIM), (2, HEADS, 7, HEAD_DIM)]
    torch.testing.assert_close(output.double(), masked_dense_attention(states, [6, 7, 6, 7]), atol=1e-5, rtol=1e-4)


def test_flash_attention_gets_the_boundaries_of_the_images():
    calls = []

    def flash(module, query, key, value, attention_mask, **kwargs):
        calls.append(kwargs)
        lengths = kwargs["cu_seq_lens_q"].diff().tolist()
        pieces = [part.split(lengths, dim=2) for part in (query, key, value)]
        outputs = [nn.functional.scaled_dot_product_attention(*piece) for piece in zip(*pieces, strict=True)]
        return torch.cat(outputs, dim=2).transpose(1, 2), None

    AttentionInterface.register("my_flash_attention", flash)
    states = random_states(11)
    output = run(states, [4, 7], "my_flash_attention")
    torch.testing.assert_close(output.double(), masked_dense_attention(states, [4, 7]), atol=1e-5, rtol=1e-4)
    assert calls[0]["cu_seq_lens_k"].tolist() == [0, 4, 11] and calls[0]["cu_seq_lens_k"].dtype == torch.int32
    assert calls[0]["max_length_q"] == calls[0]["max_length_k"] == 7


def test_gradients_of_ragged_packs_equal_those_of_masked_dense_attention():
    lengths = [4, 9, 4]
    qkv = torch.randn(17, 3, HEADS, HEAD_DIM, requires_grad=True)
    weights = torch.randn(17, HEADS * HEAD_DIM)
    (run(qkv.unbind(1), lengths, "sdpa") * weights).sum().backward()
    gradient, qkv.grad = qkv.grad, None
    (masked_dense_attention(qkv.unbind(1), lengths) * weights).sum().backward()
    torch.testing.assert_close(gradient, qkv.grad, atol=1e-5, rtol=1e-4)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(KeyError, match="no_such_attention"):
        run(random_states(4), [4], "no_such_attention")
