# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Starting from plain Vision Transformers of transformers and timm: what arrives, what holds, what is refused."""

import json
import math
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from places import ROOT
from safetensors.torch import load_file, save_file
from source_vits import SOURCES, source_features, source_vit
from timm_vits import (
    ARCHITECTURES,
    HEADS,
    KINDS,
    PATCH,
    SIDE,
    WIDTH,
    timm_config,
    timm_features,
    timm_state_dict,
    timm_vit,
)
from tiny_models import blocky_images, tiny_config, tiny_model
from transformers import SwinConfig, SwinModel, ViTConfig, ViTImageProcessor, ViTModel

from algm_hf import AlgmForSemanticSegmentation, from_vit
from algm_hf.conversion.plain_vit import _timm_heads
from algm_hf.conversion.saved_folder import check_saved_folder
from algm_hf.rotary_positions import RotaryTable, rotary_table, rotate
from algm_hf.token_packs import TokenPack


SCRIPT = ROOT / "scripts" / "convert_checkpoint.py"
# Each brings something to the encoder that a plain ViT does not have.
MERGED = [
    "deit",
    "dinov2_swiglu",
    "dinov2_with_registers",
    "dinov3",
    "dinov3_without_biases",
    "timm_eva02_base",
    "timm_gap",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Gives the folder of a source, and the model itself if it is one of transformers."""
    made = {}

    def folder(kind):
        if kind not in made:
            path, model = tmp_path_factory.mktemp(kind), None
            if kind in KINDS:
                write_timm_folder(path, KINDS[kind])
            else:
                model = source_vit(kind)
                model.save_pretrained(path)
            made[kind] = path, model
        return made[kind]

    return folder


@pytest.fixture
def source(saved, tmp_path):
    """Gives a folder that a test may damage: a copy with edited weights and config."""

    def write(kind="vit", weights=None, config=None):
        folder = tmp_path / "source"
        shutil.copytree(saved(kind)[0], folder)
        if weights is not None:
            state = load_file(folder / "model.safetensors")
            weights(state)
            save_file(state, folder / "model.safetensors")
        if config is not None:
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return write


def write_timm_folder(folder, name, **changes):
    save_file(timm_state_dict(name), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(timm_config(name) | changes))
    return folder


def converted(saved, kind, **overrides):
    settings = {"num_labels": 5, "local_merge_layer": 1, "global_merge_layer": 3, "merge_threshold": 0.6}
    torch.manual_seed(0)
    return from_vit(saved(kind)[0], **{**settings, **overrides})[0]


def features(model, images):
    with torch.no_grad():
        return model.algm(images).last_hidden_state


# Merging off: the source


@pytest.mark.parametrize("kind", SOURCES)
def test_without_merging_the_features_are_those_of_the_source(saved, kind):
    model, original = converted(saved, kind, use_token_merging=False), saved(kind)[1]
    side = model.config.image_size
    expected = source_features(original, blocky_images(2, side, side))
    found = features(model, blocky_images(2, side, side))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "dinov2_with_registers", "dinov3"])
@pytest.mark.parametrize("grid", [(5, 11), (4, 16), (16, 16)])
def test_positions_on_other_grids_are_those_of_the_source(saved, kind, grid):
    model, original = converted(saved, kind, use_token_merging=False), saved(kind)[1]
    images = blocky_images(2, *(side * model.config.patch_size for side in grid))
    torch.testing.assert_close(features(model, images), source_features(original, images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_state_dicts_of_every_accepted_architecture_give_the_features_of_timm(tmp_path, architecture):
    write_timm_folder(tmp_path, architecture)
    model, processor = from_vit(tmp_path, num_labels=3, use_token_merging=False)
    original = timm_vit(architecture)
    for size in ((SIDE, SIDE), (40, 88)):  # the native grid and another
        images = blocky_images(2, *size)
        expected = timm_features(original, images)
        assert expected.std() > 0.3
        torch.testing.assert_close(features(model, images), expected, atol=1e-4, rtol=0)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3] and list(processor.image_std) == [0.4, 0.5, 0.6]
    assert (dict(processor.size)["shortest_edge"], processor.patch_size, int(processor.resample)) == (SIDE, PATCH, 3)


def test_numbers_of_heads_are_those_of_timm():
    with torch.device("meta"):
        for architecture in ARCHITECTURES:
            model = timm.create_model(architecture, depth=1)
            assert _timm_heads(architecture, model.embed_dim, {}) == model.blocks[0].attn.num_heads, architecture


# What the published weights of these were trained with. The plain EVA looks like any other ViT.
NORMALISATIONS = {kind: timm.get_pretrained_cfg(architecture) for kind, architecture in KINDS.items()}
NORMALISATIONS["timm_eva"] = timm.get_pretrained_cfg("vit_tiny_patch16_224")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_bare_timm_state_dict_needs_nothing_but_the_number_of_heads(tmp_path, caplog, kind, suffix):
    weights, path = timm_state_dict(KINDS[kind]), tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"model": weights, "epoch": 3}, path)
    # DINOv3 has no position embeddings that would tell the size, and works at any.
    with caplog.at_level("WARNING", logger="algm_hf"):
        model, processor = from_vit(path, num_labels=3, num_attention_heads=HEADS, use_token_merging=False)
    images = blocky_images(1, SIDE, SIDE)
    torch.testing.assert_close(
        features(model, images), timm_features(timm_vit(KINDS[kind]), images), atol=1e-4, rtol=0
    )
    assert tuple(processor.image_mean) == tuple(NORMALISATIONS[kind].mean)
    assert tuple(processor.image_std) == tuple(NORMALISATIONS[kind].std)
    (warning,) = caplog.messages
    assert f"{path} comes without config.json; assumed are hidden_act=" in warning
    assert f"image_mean={list(processor.image_mean)}" in warning and "num_attention_heads" not in warning


def test_the_normalisation_can_be_given(tmp_path, saved, caplog):
    path = tmp_path / "weights.safetensors"
    save_file(timm_state_dict(KINDS["timm_dinov2"]), path)
    given = {"image_mean": [0.2, 0.3, 0.4], "image_std": [0.9, 0.8, 0.7]}
    for source in (path, saved("vit")[0]):
        caplog.clear()
        with caplog.at_level("WARNING", logger="algm_hf"):
            heads = {"num_attention_heads": HEADS} if source == path else {}
            processor = from_vit(source, num_labels=3, **heads, **given)[1]
        assert (list(processor.image_mean), list(processor.image_std)) == tuple(given.values())
        assert ("layer_norm_eps" in caplog.text) == (source == path) and "image_mean" not in caplog.text


def test_another_image_size_resizes_the_stored_positions_once_to_the_same_features(saved):
    model = converted(saved, "dinov2_with_registers", use_token_merging=False, image_size=(96, 128))
    original = saved("dinov2_with_registers")[1]
    images = blocky_images(2, 96, 128)
    assert model.config.position_grid_size == (12, 16)
    assert model.algm.embeddings.position_embeddings.shape[1] == 1 + 12 * 16
    torch.testing.assert_close(features(model, images), source_features(original, images), atol=1e-4, rtol=0)


def test_a_bilinear_interpolation_can_be_asked_for(saved):
    bicubic, bilinear = (
        converted(saved, "vit", use_token_merging=False, **fields)
        for fields in ({}, {"position_interpolation": "bilinear"})
    )
    images = blocky_images(1, 80, 80)
    assert not torch.allclose(features(bicubic, images), features(bilinear, images), atol=1e-3)


# Merging on: what holds for every model


@pytest.mark.parametrize("kind", MERGED)
def test_different_images_get_in_a_batch_what_they_get_alone(saved, kind):
    model, images = converted(saved, kind), blocky_images(5, 64, 96)
    with torch.no_grad():
        together = model(images, output_token_merging=True)
        assert len(set(together.token_counts[:, -1].tolist())) >= 3, "images should keep different numbers of tokens"
        for index in range(5):
            alone = model(images[index : index + 1], output_token_merging=True)
            assert torch.equal(alone.token_counts[0], together.token_counts[index])
            assert torch.equal(alone.patch_to_token[0], together.patch_to_token[index])
            torch.testing.assert_close(alone.logits[0], together.logits[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MERGED)
def test_images_of_different_sizes_get_in_a_batch_what_they_get_alone(saved, kind):
    model = converted(saved, kind)
    images = [blocky_images(2, *size, seed=size[0])[1] for size in [(64, 64), (33, 65), (8, 90), (70, 50)]]
    with torch.no_grad():
        together = model(images)
        for image, logits, (rows, columns) in zip(images, together.logits, together.grid_sizes, strict=True):
            alone = model(image[None]).logits[0]
            torch.testing.assert_close(logits[:, :rows, :columns], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MERGED)
def test_special_tokens_stay_and_patches_share_tokens(saved, kind):
    model = converted(saved, kind)
    num_special = model.config.num_special_tokens
    with torch.no_grad():
        output = model.algm(blocky_images(3, 64, 64), output_token_merging=True)
    assert output.last_hidden_state.shape == (3, num_special + 64, model.config.hidden_size)
    for counts, patch_to_token in zip(output.token_counts, output.patch_to_token, strict=True):
        tokens_of_patches = patch_to_token.unique()
        assert len(tokens_of_patches) == counts[-1] - num_special, "no patch may share a token with a special token"
        assert counts[-1] < num_special + 64


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("kind", MERGED)
def test_every_weight_gets_the_same_gradient_with_and_without_checkpointing(saved, kind):
    model = converted(saved, kind).train()
    images, labels = blocky_images(3, 64, 64), torch.randint(0, 5, (3, 64, 64))
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(images, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients[0].values())
    special = ("cls_token", "distillation_token", "register_tokens", "layer_scale", "position_embeddings")
    assert all(gradient.abs().sum() > 0 for name, gradient in gradients[0].items() if name.endswith(special))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "dinov3_swiglu"])
def test_converted_models_eager_and_sdpa_agree(saved, kind):
    model, images = converted(saved, kind), blocky_images(3, 64, 64)
    with torch.no_grad():
        sdpa = model(images).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(images).logits, sdpa, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["deit", "dinov3_swiglu"])
def test_converted_models_run_in_half_precision_and_under_autocast(saved, kind):
    model, images = converted(saved, kind), blocky_images(2, 64, 48)
    with torch.no_grad():
        expected = model(images).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(model(images).logits).all()
        logits = model.to(torch.bfloat16)(images).logits
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.8


def test_compiled_rotary_positions_layer_scale_and_gated_mlps_compile_nothing_anew():
    torch.compiler.reset()
    parts = {"rope_theta": 100.0, "layer_scale_init_value": 0.5, "use_gated_mlp": True, "hidden_act": "silu"}
    plain, compiled = (tiny_model(**parts, use_mlp_inner_norm=True, num_register_tokens=2) for _ in range(2))
    compiled.compile(dynamic=True, backend="aot_eager")
    counts = set()
    with torch.no_grad():
        for batch_size in (1, 2, 3, 1):  # one image, images alike, images apart
            compiled(blocky_images(batch_size, 64, 64))
        with torch.compiler.set_stance("fail_on_recompile"):
            for seed in range(1, 9):
                images = blocky_images(1 + seed % 3, 64, 64 + 8 * (seed % 4), seed=seed)
                expected, found = (model(images, output_token_merging=True) for model in (plain, compiled))
                torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
                counts.update(found.token_counts[:, -1].tolist())
    assert len(counts) >= 8
    torch.compiler.reset()


def test_models_without_any_special_token_merge():
    model = tiny_model(use_class_token=False)
    images = blocky_images(4, 64, 64)
    with torch.no_grad():
        together = model(images, output_token_merging=True)
        assert together.token_counts[:, -1].max() < 64
        for index in range(4):
            alone = model(images[index : index + 1]).logits[0]
            torch.testing.assert_close(together.logits[index], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["dinov3_swiglu", "deit"])
def test_a_converted_model_is_saved_with_all_the_code_it_needs(saved, kind, tmp_path):
    model, processor = from_vit(saved(kind)[0], id2label=dict(enumerate("abc")), image_size=72)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert check_saved_folder(model, tmp_path) == 0.0
    loaded = AlgmForSemanticSegmentation.from_pretrained(tmp_path)
    ours, theirs = model.config.to_dict(), loaded.config.to_dict()
    for name in ("auto_map", "_name_or_path", "transformers_version", "dtype"):
        ours.pop(name, None), theirs.pop(name, None)
    assert ours == theirs
    assert not list(model.named_buffers())


def test_models_with_every_new_part_build_on_the_meta_device():
    with torch.device("meta"):
        model = AlgmForSemanticSegmentation(
            tiny_config(
                use_distillation_token=True,
                num_register_tokens=2,
                rope_theta=100.0,
                layer_scale_init_value=1e-5,
                use_gated_mlp=True,
                use_mlp_inner_norm=True,
            )
        )
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_new_layer_scale_starts_from_its_value():
    model = AlgmForSemanticSegmentation(tiny_config(layer_scale_init_value=0.25))
    scales = [value for name, value in model.named_parameters() if "layer_scale" in name]
    assert len(scales) == 2 * 4
    assert all((scale == 0.25).all() for scale in scales)


# Rotary positions


def expected_angles(rows_and_columns, head_dim, theta):
    """Angles of one token at the mean of these patches: by row, then by column."""
    means = [sum(axis) / len(axis) for axis in zip(*rows_and_columns, strict=True)]
    return [mean * theta ** (-4 * k / head_dim) for mean in means for k in range(head_dim // 4)]


@pytest.mark.parametrize("reference", [None, 12])
def test_a_merged_token_stands_at_the_mean_of_its_patches(reference):
    config = tiny_config(
        rope_theta=50.0, rope_coordinates="index", rope_reference_grid_size=reference, num_register_tokens=1
    )
    # A 2 x 3 grid behind two special tokens; token 0 holds patches 0, 1 and 4, token 1 and 3 are special.
    token_index = torch.tensor([1, 3, 0, 0, 2, 4, 0, 2])
    sizes = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0])
    pack = TokenPack(torch.zeros(5, 32), sizes, token_index, [5], torch.tensor([0, 5]))
    table = rotary_table(config, pack, [(2, 3)])
    scale = (1.0, 1.0) if reference is None else (reference / 2, reference / 3)
    places = {patch: (patch // 3 * scale[0], patch % 3 * scale[1]) for patch in range(6)}
    members = [[0, 1, 4], [], [2, 5], [], [3]]
    for token, patches in enumerate(members):
        angles = expected_angles([places[p] for p in patches] or [(0.0, 0.0)], 16, 50.0)
        torch.testing.assert_close(table.cosine[token, 0], torch.tensor([math.cos(a) for a in angles]))
        torch.testing.assert_close(table.sine[token, 0], torch.tensor([math.sin(a) for a in angles]))


def test_the_layers_behind_a_merge_see_the_positions_of_the_merged_tokens(saved):
    model = converted(saved, "dinov3")
    seen = []
    for layer in model.algm.layers:
        layer.attention.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        output = model.algm(blocky_images(3, 64, 64)[2:], output_token_merging=True)
    # Merges in the layers 1 and 3 change what the layers 2 and 4 see.
    before = [65 + 3, *output.token_counts[0, :-1].tolist()]
    assert [table.sine.shape[0] for table in seen] == before
    assert before[1] < before[0] and before[3] < before[2]
    patch_to_token = output.patch_to_token[0]
    places = [2 * math.pi * ((2 * index + 1) / 8 - 1) for index in range(8)]
    last = rotary_table(model.config, model.algm(blocky_images(3, 64, 64)[2:], output_packed=True).pack, [(8, 8)])
    for token in patch_to_token.unique().tolist():
        patches = (patch_to_token == token).nonzero().flatten().tolist()
        angles = torch.tensor(expected_angles([(places[p // 8], places[p % 8]) for p in patches], 16, 100.0))
        torch.testing.assert_close(last.cosine[token, 0], angles.cos(), atol=1e-4, rtol=0)
        torch.testing.assert_close(last.sine[token, 0], angles.sin(), atol=1e-4, rtol=0)


def test_rotation_keeps_lengths_and_depends_on_differences_of_positions_only():
    states = torch.randn(2, 1, 3, 8)
    query, key = states
    angles = torch.randn(3, 1, 4)

    def product(first, second):
        first, second = (RotaryTable(a.cos(), a.sin()) for a in (first, second))
        return (rotate(query, first) * rotate(key, second)).sum(-1)

    torch.testing.assert_close(
        rotate(query, RotaryTable(angles[:1].cos(), angles[:1].sin())).norm(dim=-1), query.norm(dim=-1)
    )
    shift = angles[2:]
    torch.testing.assert_close(
        product(angles[:1], angles[1:2]), product(angles[:1] + shift, angles[1:2] + shift), atol=1e-5, rtol=0
    )


# Settings


def test_the_processor_takes_the_settings_of_the_source(source):
    folder = source()
    ViTImageProcessor(
        size={"height": 40, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.7, 0.8, 0.9], rescale_factor=1 / 128
    ).save_pretrained(folder)
    processor = from_vit(folder, num_labels=3)[1]
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1, 0.2, 0.3], [0.7, 0.8, 0.9])
    assert (processor.rescale_factor, dict(processor.size)["shortest_edge"], processor.patch_size) == (1 / 128, 40, 8)
    processor = from_vit(folder, num_labels=3, image_size=(96, 80))[1]
    assert dict(processor.size)["shortest_edge"] == 80


def test_what_a_classifier_resizes_to_before_it_crops_is_not_the_size_of_the_processor(saved, tmp_path):
    folder = shutil.copytree(saved("dinov2")[0], tmp_path / "dinov2")
    crops = {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56}}
    (folder / "preprocessor_config.json").write_text(json.dumps(crops))
    model, processor = from_vit(folder, num_labels=3)
    assert dict(processor.size)["shortest_edge"] == model.config.image_size == 56
    (folder / "preprocessor_config.json").write_text(json.dumps(crops | {"do_center_crop": False}))
    assert dict(from_vit(folder, num_labels=3)[1].size)["shortest_edge"] == 64


@pytest.mark.parametrize("kind", ["vit_without_qkv_bias", "dinov3_swiglu"])
def test_the_new_decoder_has_the_activation_of_segmenter(saved, kind):
    model = converted(saved, kind)
    assert model.config.hidden_act != "gelu"
    values = torch.linspace(-3, 3, 50)
    for layer in model.decode_head.layers:
        torch.testing.assert_close(layer.mlp.activation_fn(values), values * (1 + torch.erf(values / 2**0.5)) / 2)
    assert not torch.allclose(model.algm.layers[0].mlp.activation_fn(values), values * torch.sigmoid(1.7 * values))


@pytest.mark.parametrize(("kind", "mean"), [("vit", [0.5, 0.5, 0.5]), ("dinov2", [0.485, 0.456, 0.406])])
def test_without_a_processor_the_normalisation_is_that_of_the_published_models(saved, kind, mean):
    model, processor = from_vit(saved(kind)[0], num_labels=3)
    assert list(processor.image_mean) == mean
    assert dict(processor.size)["shortest_edge"] == model.config.image_size
    assert processor.patch_size == model.config.patch_size


@pytest.mark.parametrize(("depth", "layer"), [(1, None), (2, 2), (12, 5), (24, 7), (40, 10)])
def test_the_global_merge_comes_where_the_paper_puts_it(tmp_path, depth, layer):
    config = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=depth, num_attention_heads=1, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    model = from_vit(tmp_path, num_labels=3)[0]
    assert (model.config.local_merge_layer, model.config.global_merge_layer) == (1, layer)
    assert torch.isfinite(model(blocky_images(1, 32, 32)).logits).all()


def test_settings_of_merging_and_decoder_can_be_given(saved):
    names = {0: "sky", 1: "sea"}
    settings = {"merge_threshold": 0.7, "decoder_type": "linear", "drop_path_rate": 0.2}
    model = from_vit(saved("vit")[0], id2label=names, **settings)[0]
    assert (model.config.id2label, model.config.label2id) == (names, {"sky": 0, "sea": 1})
    assert (model.config.merge_threshold, model.config.decoder_type) == (0.7, "linear")
    assert model.algm.layers[-1].mlp.drop_path.drop_prob == pytest.approx(0.2)
    assert not model.training


def test_half_precision_sources_become_float32(source):
    def halve(state):
        state.update({name: tensor.half() for name, tensor in state.items()})

    model = from_vit(source(weights=halve), num_labels=3)[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_split_files_are_read_together(saved, tmp_path):
    folder, model = saved("dinov2")
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    images = blocky_images(1, 56, 56)
    expected, found = (
        features(from_vit(path, num_labels=3, use_token_merging=False)[0], images) for path in (folder, tmp_path)
    )
    assert torch.equal(expected, found)


def test_a_hub_repository_is_read_from_the_cache_without_network(saved):
    repository, commit = Path(constants.HF_HUB_CACHE) / "models--someone--tiny-vit", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(saved("vit")[0], repository / "snapshots" / commit)
    local = from_vit(saved("vit")[0], num_labels=3, use_token_merging=False)[0]
    for arguments in ({}, {"revision": commit}):
        cached = from_vit("someone/tiny-vit", num_labels=3, use_token_merging=False, **arguments)[0]
        assert torch.equal(features(local, blocky_images(1, 64, 64)), features(cached, blocky_images(1, 64, 64)))


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"num_labels=None"),
        ({"id2label": {1: "a", 2: "b"}}, r"id2label={1: 'a', 2: 'b'}"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, r"id2label=.* one for each of 0 to 2"),
        ({"id2label": ["a", "b"]}, r"id2label=\['a', 'b'\]"),
        ({"num_labels": 3, "merge_treshold": 0.5}, r"merge_treshold=0.5: expected a field of AlgmConfig"),
        ({"num_labels": 3, "hidden_size": 48}, r"hidden_size=48: expected 32"),
        ({"num_labels": 3, "num_attention_heads": 4}, r"num_attention_heads=4: expected 2"),
        ({"num_labels": 3, "image_size": 60}, r"image_size=60: expected .* multiples of patch_size=8"),
        ({"num_labels": 3, "merge_threshold": 2}, r"merge_threshold=2: expected a number in"),
        ({"num_labels": 3, "revision": "main"}, r"revision='main'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(saved, arguments, message):
    with pytest.raises(ValueError, match=message):
        from_vit(saved("vit")[0], **arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("timm_augreg", {"num_attention_heads": 4}, r"num_attention_heads=4: expected 2"),
        ("timm_dinov3", {"rope_theta": 10000.0}, r"rope_theta=10000\.0: expected 100\.0"),
        ("timm_augreg", {"rope_theta": 100.0}, r"rope_theta=100\.0: expected None"),
        ("timm_eva02_base", {"rope_coordinates": "centered"}, r"rope_coordinates='centered': expected 'index'"),
        ("timm_eva02_base", {"rope_reference_grid_size": 14}, r"rope_reference_grid_size=14: expected 16"),
        ("timm_eva02_base", {"hidden_act": "gelu"}, r"hidden_act='gelu': expected 'silu'"),
        ("dinov3", {"rope_theta": 50.0}, r"rope_theta=50\.0: expected 100\.0"),
        ("vit", {"hidden_act": "relu"}, r"hidden_act='relu': expected 'gelu'"),
    ],
)
def test_overrides_that_break_the_weights_are_refused(saved, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        from_vit(saved(kind)[0], num_labels=3, **arguments)


def test_overrides_that_say_what_the_source_has_are_taken(saved):
    model = from_vit(saved("timm_dinov3")[0], num_labels=3, rope_theta=100.0, num_attention_heads=HEADS)[0]
    assert model.config.rope_theta == 100.0
    assert from_vit(saved("vit")[0], num_labels=3, rope_theta=None, hidden_act="gelu", layer_norm_eps=1e-5)


@pytest.mark.parametrize("name", ["none/of/these", "missing.safetensors", "no such folder"])
def test_a_path_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}='missing'"):
        from_vit(name, num_labels=3)


def test_a_hub_repository_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="someone/nothing: config.json=None"):
        from_vit("someone/nothing", num_labels=3)


def test_windowed_attention_is_refused(tmp_path):
    SwinModel(SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[1], window_size=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="model_type='swin'"):
        from_vit(tmp_path, num_labels=3)


def test_relative_position_biases_are_refused(source):
    with pytest.raises(ValueError, match="model_type='beit': .*relative position bias"):
        from_vit(source(config={"model_type": "beit"}), num_labels=3)


@pytest.mark.parametrize(
    "architecture", ["swin_tiny_patch4_window7_224", "samvit_base_patch16", "vit_base_patch16_rope_224", "resnet50"]
)
def test_other_architectures_of_timm_are_refused_by_name(tmp_path, architecture):
    folder = write_timm_folder(tmp_path, KINDS["timm_augreg"], architecture=architecture)
    with pytest.raises(ValueError, match=rf"architecture='{architecture}': expected a plain ViT of timm"):
        from_vit(folder, num_labels=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_args": {"act_layer": "relu"}}, r"model_args=\['act_layer'\]"),
        ({"num_features": 64}, rf"num_features=64: expected {WIDTH}"),
        ({"model_args": {"img_size": 64}}, "position embeddings=37: expected one for each .* 8 x 8"),
    ],
)
def test_timm_configs_that_say_something_else_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        from_vit(write_timm_folder(tmp_path, KINDS["timm_augreg"], **changes), num_labels=3, num_attention_heads=2)


def test_a_width_without_a_known_number_of_heads_is_refused(tmp_path):
    save_file(timm_state_dict(KINDS["timm_augreg"]), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=f"num_attention_heads=None: .* of {WIDTH} channels"):
        from_vit(tmp_path / "vit.safetensors", num_labels=3)


def remove(name):
    return lambda state: state.pop(name)


def add(name):
    return lambda state: state.update({name: torch.zeros(3)})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (remove("encoder.layer.2.layernorm_after.weight"), r"={'missing': \['layers\.2\.mlp\.layernorm\.weight'\]}"),
        (remove("encoder.layer.1.attention.attention.key.bias"), r"'missing': \['layers\.1\.attention\.qkv\.bias'"),
        (remove("encoder.layer.0.intermediate.dense.bias"), r"'missing': \['layers\.0\.mlp\.fc1\.bias'"),
        (remove("encoder.layer.0.output.dense.weight"), r"shape of layers\.0\.mlp\.fc2\.weight=None"),
        (remove("embeddings.cls_token"), r"embeddings\.cls_token=None: expected the weights of a plain ViT"),
        (remove("layernorm.weight"), r"'missing': \['layernorm\.weight'"),
        (add("encoder.layer.0.adapter.weight"), r"=\['encoder\.layer\.0\.adapter\.weight'\]"),
        (
            add("encoder.layer.0.attention.attention.relative_position_bias.table"),
            r"relative_position_bias\.table'\]: .* \(a relative position bias, which merged tokens cannot have\)",
        ),
        (
            lambda state: state.update({"embeddings.position_embeddings": torch.zeros(1, 60, 32)}),
            "position embeddings=60: expected one for each patch of a grid of 8 x 8, alone or with its 1 special",
        ),
        (add("embeddings.cls_token"), r"embeddings\.cls_token=\(3,\): expected \(1, n, hidden_size\)"),
        (
            lambda state: [state.pop(name) for name in list(state) if re.search(r"(query|key|value)\.bias", name)],
            "qkv_bias=True: expected False as in its weights",
        ),
        (lambda state: state.update({"layernorm.bias": torch.zeros(3)}), r"layernorm\.bias=\(3,\): expected \(32,\)"),
    ],
)
def test_weights_that_are_missing_unexpected_or_misshapen_are_refused(source, weights, message):
    with pytest.raises(ValueError, match=message):
        from_vit(source(weights=weights), num_labels=3)


def test_a_config_with_more_layers_than_the_weights_is_refused(source):
    with pytest.raises(ValueError, match="num_hidden_layers=6: expected 4 as in its weights"):
        from_vit(source(config={"num_hidden_layers": 6}), num_labels=3)


def test_weights_of_transformers_without_their_config_are_refused(source):
    folder = source()
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json=None"):
        from_vit(folder, num_labels=3)


def test_a_folder_without_weights_is_refused(source):
    folder = source()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights in .*='': expected model.safetensors"):
        from_vit(folder, num_labels=3)


def test_damaged_files_are_refused(source):
    folder = source()
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="model.safetensors: expected whole safetensors"):
        from_vit(folder, num_labels=3)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json of .*: expected JSON"):
        from_vit(folder, num_labels=3)


class MakesAFolder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_inside_a_torch_file_is_not_run(tmp_path):
    trap, path = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save({"model": timm_state_dict(KINDS["timm_augreg"]), "extra": MakesAFolder(trap)}, path)
    with pytest.raises(ValueError, match="weights.pth: expected weights that can be read safely"):
        from_vit(path, num_labels=3)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_interpolation": "nearest"}, r"position_interpolation='nearest': expected"),
        ({"rope_theta": 0}, r"rope_theta=0: expected None or a number > 0"),
        ({"rope_theta": 10.0, "num_attention_heads": 16}, r"rope_theta=10\.0: expected heads of a multiple of 4"),
        ({"rope_coordinates": "polar"}, r"rope_coordinates='polar': expected"),
        ({"rope_reference_grid_size": 0}, r"rope_reference_grid_size=0: expected an integer of at least 1"),
        ({"layer_scale_init_value": "1"}, r"layer_scale_init_value='1': expected None or a number"),
        ({"use_gated_mlp": 1}, r"use_gated_mlp=1: expected True or False"),
    ],
)
def test_a_field_of_the_encoder_out_of_range_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


# The script


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stopped.value.code


@pytest.mark.parametrize("arguments", [[], ["--source", "vit", "--image_size", "72"]])
def test_the_script_converts_a_vit(saved, monkeypatch, capsys, tmp_path, arguments):
    output = tmp_path / "algm-tiny"
    code = run_script(
        monkeypatch, "--checkpoint", saved("dinov3")[0], "--output_dir", output, "--num_labels", 4, *arguments
    )
    assert code == 0
    assert "reloaded and compared, merging on and off: logits differ by at most 0.0e+00" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} >= {"config.json", "rotary_positions.py", "model.safetensors"}
    assert json.loads((output / "config.json").read_text())["image_size"] == (72 if arguments else 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "none.safetensors", "--num_labels", "3"], "none.safetensors='missing'"),
        (["--checkpoint", "none.pth", "--num_labels", "3"], "--num_labels=3: expected --source vit"),
        (["--checkpoint", "none.pth", "--source", "vit", "--num_labels", "3"], "none.pth='missing'"),
    ],
)
def test_the_script_refuses_what_does_not_fit(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, *arguments, "--output_dir", "out") == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
