# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from naive_merging import naive_average, naive_global, naive_local
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from algm_hf.token_merging import (
    _groups_of_similar_length,
    apply_assignment,
    global_assignment,
    global_merge,
    local_assignment,
    local_merge,
    merge_tokens,
    restore_tokens,
    window_similarity,
)
from algm_hf.token_packs import cumulated_lengths, drop_special_tokens, full_lengths, full_pack, special_positions


CHANNELS = 12


def smooth_image(grid, num_special, seed):
    """Tokens that resemble their neighbours, so that some windows merge and some do not."""
    generator = torch.Generator().manual_seed(seed)
    height, width = grid
    coarse = torch.randn(1, CHANNELS, max(1, height // 3), max(1, width // 3), generator=generator)
    patches = torch.nn.functional.interpolate(coarse, size=grid, mode="nearest")[0].flatten(1).T
    patches = patches + 0.35 * torch.randn(height * width, CHANNELS, generator=generator)
    return torch.cat((torch.randn(num_special, CHANNELS, generator=generator), patches))


def random_pack(grids, num_special, seed=0):
    images = [smooth_image(grid, num_special, seed + i) for i, grid in enumerate(grids)]
    return full_pack(torch.cat(images), full_lengths(grids, num_special)), images


def groups_of(index, start, length, new_start):
    """The groups of old positions of one image, by new position."""
    groups = {}
    for old, new in enumerate((index[start : start + length] - new_start).tolist()):
        groups.setdefault(new, []).append(old)
    return groups


GRIDS = [(6, 6), (5, 7), (1, 9), (2, 2), (8, 3), (1, 1), (4, 12)]


@pytest.mark.parametrize("num_special", [0, 1, 2, 5])
@pytest.mark.parametrize("window, threshold", [(2, 0.6), (2, -1.0), (2, 1.0), (3, 0.4)])
def test_local_merge_of_a_mixed_batch_equals_the_naive_merge_of_each_image(num_special, window, threshold):
    pack, images = random_pack(GRIDS, num_special)
    merged = local_merge(pack, GRIDS, num_special, window, threshold)
    old, new = cumulated_lengths(torch.tensor(pack.lengths)), cumulated_lengths(torch.tensor(merged.lengths))
    for image, (tokens, grid) in enumerate(zip(images, GRIDS, strict=True)):
        expected = naive_local(tokens.double(), grid, num_special, window, threshold)
        found = groups_of(merged.token_index, old[image], pack.lengths[image], new[image])
        assert [found[position] for position in sorted(found)] == [sorted(group) for group in expected]
        means, sizes = naive_average(tokens.double(), torch.ones(len(tokens)), expected)
        rows = slice(new[image], new[image + 1])
        torch.testing.assert_close(merged.hidden_states[rows].double(), torch.stack(means), atol=1e-6, rtol=1e-5)
        assert merged.sizes[rows].tolist() == sizes


@pytest.mark.parametrize("num_special", [0, 1, 2, 5])
@pytest.mark.parametrize("layer", [1, 5])
@pytest.mark.parametrize("after_local", [False, True])
def test_global_merge_of_a_mixed_batch_equals_the_naive_merge_of_each_image(num_special, layer, after_local):
    pack, _ = random_pack(GRIDS, num_special, seed=10)
    if after_local:
        pack = local_merge(pack, GRIDS, num_special, 2, 0.6)
    merged = global_merge(pack, GRIDS, num_special, layer)
    old, new = cumulated_lengths(torch.tensor(pack.lengths)), cumulated_lengths(torch.tensor(merged.lengths))
    assignment = global_assignment(
        pack.hidden_states,
        pack.lengths,
        torch.cat([torch.arange(n) < num_special for n in pack.lengths]),
        layer,
    )
    assert any(length < before for length, before in zip(merged.lengths, pack.lengths, strict=True))
    for image in range(len(GRIDS)):
        rows = slice(old[image], old[image + 1])
        tokens = pack.hidden_states[rows].double()
        expected = naive_global(tokens, set(range(num_special)), layer)
        found = groups_of(assignment.index, old[image], pack.lengths[image], new[image])
        assert [found[position] for position in sorted(found)] == [sorted(group) for group in expected]
        means, sizes = naive_average(tokens, pack.sizes[rows], expected)
        rows = slice(new[image], new[image + 1])
        torch.testing.assert_close(merged.hidden_states[rows].double(), torch.stack(means), atol=1e-6, rtol=1e-5)
        assert merged.sizes[rows].tolist() == sizes


@pytest.mark.parametrize("num_special", [0, 1, 3])
def test_sizes_count_the_patches_that_each_token_stands_for(num_special):
    pack, _ = random_pack(GRIDS, num_special)
    pack = global_merge(local_merge(pack, GRIDS, num_special, 2, 0.5), GRIDS, num_special, 3)
    assert torch.equal(torch.bincount(pack.token_index).float(), pack.sizes)


@pytest.mark.parametrize("num_special", [1, 2, 4])
def test_special_tokens_stand_for_themselves_only(num_special):
    pack, images = random_pack(GRIDS, num_special)
    merged = global_merge(local_merge(pack, GRIDS, num_special, 2, -1.0), GRIDS, num_special, 1)
    special = special_positions(GRIDS, num_special)
    assert torch.equal(restore_tokens(merged.hidden_states, merged.token_index)[special], pack.hidden_states[special])


@pytest.mark.parametrize("num_special", [0, 1, 2, 4])
def test_dropping_special_tokens_leaves_the_patches_of_every_image_in_order(num_special):
    pack, _ = random_pack(GRIDS, num_special)
    pack = global_merge(local_merge(pack, GRIDS, num_special, 2, 0.6), GRIDS, num_special, 2)
    patches = drop_special_tokens(pack, GRIDS, num_special)
    assert patches.lengths == [length - num_special for length in pack.lengths]
    assert patches.cu_seqlens.tolist() == cumulated_lengths(torch.tensor(patches.lengths)).tolist()
    everything = restore_tokens(pack.hidden_states, pack.token_index)
    expected = everything[~special_positions(GRIDS, num_special)]
    assert torch.equal(restore_tokens(patches.hidden_states, patches.token_index), expected)


def test_restoring_is_the_identity_when_nothing_merges():
    pack, _ = random_pack(GRIDS, 1)
    merged = local_merge(pack, GRIDS, 1, 2, 1.0)
    assert torch.equal(restore_tokens(merged.hidden_states, merged.token_index), pack.hidden_states)


def test_a_token_that_merges_with_nobody_is_copied_bit_for_bit():
    hidden_states, sizes = torch.randn(40, 7), torch.randint(1, 50, (40,)).float()
    merged, _ = merge_tokens(hidden_states, sizes, torch.randperm(40), 40)
    assert set(map(tuple, merged.tolist())) == set(map(tuple, hidden_states.tolist()))


def test_window_similarity_is_the_mean_over_pairs():
    windows = torch.randn(20, 9, CHANNELS, dtype=torch.float64)
    unit = windows / windows.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)
    expected = (cosines.sum(dim=(1, 2)) - 9) / 72
    torch.testing.assert_close(window_similarity(windows).double(), expected, atol=1e-6, rtol=1e-6)


def test_equal_windows_keep_raster_order():
    tokens = torch.ones(16, 4)
    index = local_assignment(tokens, [(4, 4)], 0, 2, 0.9).index
    assert index.view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_several_tokens_may_merge_into_one():
    tokens = torch.tensor(
        [[1.0, 0.0], [1.0, 0.001], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1, 0.1], [0, 1]]
    )
    merged = global_merge(full_pack(tokens, [8]), [(2, 4)], 0, 1000)
    assert sorted(merged.sizes.tolist()) == [1, 1, 1, 1, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decisions_are_made_in_float32_whatever_the_dtype(dtype):
    pack, _ = random_pack(GRIDS, 1)
    half = pack.hidden_states.to(dtype)
    lengths, special = pack.lengths, special_positions(GRIDS, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        local = local_assignment(half, GRIDS, 1, 2, 0.6)
        other = global_assignment(half, lengths, special, 5)
    assert torch.equal(local.index, local_assignment(half.float(), GRIDS, 1, 2, 0.6).index)
    assert torch.equal(other.index, global_assignment(half.float(), lengths, special, 5).index)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_averages_keep_the_dtype_and_accumulate_in_float32_at_least(dtype):
    hidden_states = torch.randn(300, 5, dtype=torch.float64).to(dtype)
    merged, sizes = merge_tokens(hidden_states, torch.ones(300), torch.zeros(300, dtype=torch.int64), 1)
    assert merged.dtype == dtype and sizes.dtype == torch.float32
    tolerance = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    torch.testing.assert_close(
        merged.double(), hidden_states.double().mean(0, keepdim=True), atol=tolerance, rtol=1e-2
    )


def test_averaging_passes_gradcheck_with_the_assignment_fixed():
    index = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    sizes = torch.tensor([1.0, 4.0, 2.0, 1.0, 1.0, 3.0, 9.0])
    hidden_states = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: merge_tokens(x, sizes, index, 4)[0], (hidden_states,))


def test_both_merges_and_restoring_pass_gradcheck_with_the_decisions_fixed():
    grids = [(4, 4), (3, 5)]
    pack, _ = random_pack(grids, 1)
    local = local_assignment(pack.hidden_states, grids, 1, 2, 0.3)
    between = local_merge(pack, grids, 1, 2, 0.3)
    special = torch.cat([torch.arange(length) < 1 for length in between.lengths])
    second = global_assignment(between.hidden_states, between.lengths, special, 3)
    total = int(second.lengths.sum())
    assert sum(pack.lengths) > sum(between.lengths) > total

    def both(hidden_states):
        hidden_states, sizes = merge_tokens(hidden_states, pack.sizes, local.index, sum(between.lengths))
        hidden_states, _ = merge_tokens(hidden_states, sizes, second.index, total)
        return restore_tokens(hidden_states, second.index[local.index])

    assert torch.autograd.gradcheck(both, (pack.hidden_states.double().requires_grad_(),))


def test_decisions_carry_no_gradient():
    pack, _ = random_pack([(4, 4)], 1)
    hidden_states = pack.hidden_states.requires_grad_()
    assert not window_similarity(hidden_states[None, 1:5]).requires_grad
    merged = local_merge(pack._replace(hidden_states=hidden_states), [(4, 4)], 1, 2, 0.3)
    assert merged.hidden_states.requires_grad and not merged.sizes.requires_grad


def test_an_image_decides_alone_whatever_its_batch_mates():
    together, images = random_pack(GRIDS, 1)
    merged = global_merge(local_merge(together, GRIDS, 1, 2, 0.6), GRIDS, 1, 5)
    old, new = cumulated_lengths(torch.tensor(together.lengths)), cumulated_lengths(torch.tensor(merged.lengths))
    for image, (tokens, grid) in enumerate(zip(images, GRIDS, strict=True)):
        alone = global_merge(local_merge(full_pack(tokens, [len(tokens)]), [grid], 1, 2, 0.6), [grid], 1, 5)
        assert alone.lengths == [merged.lengths[image]]
        rows = merged.token_index[old[image] : old[image + 1]] - new[image]
        assert torch.equal(alone.token_index, rows)


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [100, 3, 76, 75, 74, 3, 1, 98], [6401] + [17] * 15])
def test_products_are_padded_by_a_quarter_of_a_side_at_most(lengths):
    groups = _groups_of_similar_length(lengths)
    assert sorted(image for group in groups for image in group) == list(range(len(lengths)))
    for group in groups:
        assert min(lengths[image] for image in group) >= 0.75 * max(lengths[image] for image in group)


def test_new_features_take_the_bookkeeping_to_their_device():
    pack, _ = random_pack([(4, 4)], 1)
    moved = pack.with_hidden_states(torch.empty(17, 3, device="meta"))
    assert all(part.is_meta for part in moved if isinstance(part, torch.Tensor)) and moved.lengths == [17]


def test_nan_features_do_not_break_the_bookkeeping():
    pack, _ = random_pack([(6, 6)], 1)
    pack.hidden_states[5] = float("nan")
    merged = global_merge(local_merge(pack, [(6, 6)], 1, 2, 0.3), [(6, 6)], 1, 5)
    assert merged.token_index.min() >= 0 and merged.token_index.max() < merged.lengths[0]


def test_local_merge_of_a_merged_pack_is_refused():
    pack, _ = random_pack([(4, 4)], 1)
    merged = local_merge(pack, [(4, 4)], 1, 2, -1.0)
    with pytest.raises(ValueError, match="total_tokens=5: expected 17"):
        local_merge(merged, [(4, 4)], 1, 2, -1.0)


def test_decisions_never_wait_for_the_device():
    """Tensors without values: whatever would need one, and so make the host wait for a GPU, raises an error."""
    lengths, grids = [1 + 8 * 8, 1 + 8 * 8, 1 + 5 * 6], [(8, 8), (8, 8), (5, 6)]
    with FakeTensorMode():
        hidden_states = torch.randn(sum(lengths), 16)
        local = local_assignment(hidden_states, grids, 1, 2, 0.9)
        assert local.index.shape == (sum(lengths),)
        special = special_positions(grids, 1)
        decided = global_assignment(hidden_states, lengths, special, 5)
        assert decided.index.shape == (sum(lengths),)
        # The one place of a merge that has to know the new token counts:
        with pytest.raises(DataDependentOutputException):
            apply_assignment(full_pack(hidden_states, lengths), local)


def test_number_of_operations_of_a_decision_does_not_grow_with_the_batch():
    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.operations = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.operations += 1
            return function(*args, **(kwargs or {}))

    def operations(batch_size):
        grids, lengths = [(8, 8)] * batch_size, [65] * batch_size
        hidden_states = torch.randn(65 * batch_size, 16)
        with Count() as count:
            local_assignment(hidden_states, grids, 1, 2, 0.9)
            global_assignment(hidden_states, lengths, special_positions(grids, 1), 5)
        return count.operations

    assert operations(32) == operations(2)
