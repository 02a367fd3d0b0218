# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
from collections import deque

import numpy as np
import pytest
import torch
from tiny_models import blocky_images, tiny_config, tiny_model

from algm_hf import AlgmConfig


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"local_merge_layer": 0}, r"local_merge_layer=0: expected None or an integer in 1\.\.4"),
        ({"global_merge_layer": 5}, r"global_merge_layer=5: .* 1\.\.4"),
        ({"global_merge_layer": 2.5}, r"global_merge_layer=2\.5"),
        ({"local_merge_layer": True}, "local_merge_layer=True"),
        ({"local_merge_layer": 3}, "local_merge_layer=3: .*global_merge_layer=3"),
        ({"merge_window_size": 1}, "merge_window_size=1: expected an integer of at least 2"),
        ({"merge_threshold": 1.5}, r"merge_threshold=1\.5: .*-1"),
        ({"merge_threshold": float("nan")}, "merge_threshold=nan"),
        ({"use_token_merging": "yes"}, "use_token_merging='yes': expected True or False"),
        ({"inference_mode": "tiles"}, "inference_mode='tiles': expected 'slide' or 'whole'"),
        ({"inference_mode": "slide"}, "window_size=None"),
        ({"window_size": 4}, "window_size=4: expected an integer of at least 8"),
        ({"window_size": 32, "window_stride": 33}, "window_stride=33: .* at least 1 and at most 32"),
        ({"window_batch_size": 0}, "window_batch_size=0: expected an integer of at least 1"),
        ({"class_weights": [1.0, 2.0, 1, 1, -1]}, r"class_weights=\[1\.0, 2\.0, 1, 1, -1\]: .* one for each class"),
        ({"class_weights": 5}, "class_weights=5"),
        ({"class_weights": "abc"}, "class_weights='abc'"),
        ({"num_labels": 1}, "num_labels=1: expected an integer of at least 2"),
        ({"semantic_loss_ignore_index": None}, "semantic_loss_ignore_index=None: expected an integer"),
        ({"hidden_size": 0}, "hidden_size=0: expected an integer of at least 1"),
        ({"num_attention_heads": 5}, "num_attention_heads=5: expected a divisor of hidden_size=32"),
        ({"decoder_num_attention_heads": 3}, "decoder_num_attention_heads=3: .* divisor of decoder_hidden_size"),
        ({"decoder_hidden_size": "32"}, "decoder_hidden_size='32'"),
        ({"decoder_type": "fpn"}, "decoder_type='fpn': expected 'linear' or 'mask_transformer'"),
        ({"image_size": 60}, "image_size=60: .* multiples of patch_size=8"),
        ({"image_size": (64, 64, 64)}, r"image_size=\[64, 64, 64\]"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1\.0: expected a number in \[0, 1\)"),
        ({"num_register_tokens": -1}, "num_register_tokens=-1: expected an integer of at least 0"),
        ({"qkv_bias": 1}, "qkv_bias=1: expected True or False"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"rope_theta": 100.0, "hidden_size": 36}, r"rope_theta=100\.0: .*not of 18"),
        ({"rope_coordinates": "pixels"}, "rope_coordinates='pixels'"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_whole_numbers_stand_for_floats_and_unknown_keywords_are_kept():
    config = tiny_config(merge_threshold=1, rope_theta=100, drop_path_rate=0, note="mine")
    assert (config.merge_threshold, config.rope_theta, config.note) == (1, 100, "mine")


@pytest.mark.parametrize(
    "field, value",
    [("merge_threshold", 2), ("local_merge_layer", 9), ("merge_window_size", 0), ("inference_mode", "slide")],
)
def test_a_field_changed_on_a_loaded_model_is_checked_at_the_next_call(field, value):
    model = tiny_model()
    setattr(model.config, field, value)
    for module in (model, model.algm):
        with pytest.raises(ValueError, match=f"{field}={value!r}|window_size=None"):
            module(blocky_images(1, 32, 32))


@pytest.mark.parametrize("kind", [tuple, deque, np.float32, torch.tensor])
def test_class_weights_are_any_sequence_of_numbers(kind):
    weights = np.arange(5, dtype=kind) if kind is np.float32 else kind([0, 1, 2, 3, 4])
    assert tiny_config(class_weights=weights).class_weights == [0, 1, 2, 3, 4]


def test_class_weights_of_a_loaded_model_may_be_a_tuple():
    model, images = tiny_model(), blocky_images(1, 32, 32)
    losses = []
    for model.config.class_weights in ([1, 2, 3, 4, 5], (1, 2, 3, 4, 5)):
        losses.append(model(images, labels=torch.arange(32 * 32).reshape(1, 32, 32) % 5).loss)
    assert torch.equal(*losses)


def test_a_saved_config_comes_back_equal(tmp_path):
    config = tiny_config(
        id2label=dict(enumerate("abcde")),
        class_weights=(1, 2, 3, 4, 5),
        image_size=(64, 32),
        inference_mode="slide",
        window_size=32,
        window_stride=16,
        decoder_hidden_size=48,
        global_merge_layer=None,
    )
    config.save_pretrained(tmp_path)
    loaded = AlgmConfig.from_pretrained(tmp_path)
    ours, theirs = config.to_dict(), loaded.to_dict()
    for key in ("_name_or_path", "auto_map", "transformers_version"):
        ours.pop(key, None), theirs.pop(key, None)
    assert ours == theirs
    assert loaded.id2label == dict(enumerate("abcde"))


def test_the_default_config_is_the_papers_vit_small():
    config = AlgmConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (384, 12, 6)
    assert (config.local_merge_layer, config.global_merge_layer, config.merge_threshold) == (1, 5, 0.88)
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_intermediate_size) == (
        384,
        6,
        1536,
    )
