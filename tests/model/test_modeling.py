# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import re
import threading

import pytest
import torch
from naive_segmenter import naive_logits
from tiny_models import blocky_images, tiny_config, tiny_model
from torch import nn
from transformers import ViTConfig, ViTModel

from algm_hf import AlgmModel
from algm_hf.segmentation_loss import upsample_logits
from algm_hf.token_packs import cumulated_lengths
from algm_hf.transformer_layers import AlgmDropPath


SIZES = [(64, 64), (64, 96), (97, 65), (33, 65), (8, 8), (8, 200), (11, 9)]


@pytest.fixture(scope="module", params=["mask_transformer", "linear"])
def model(request):
    return tiny_model(decoder_type=request.param)


def outputs(model, images, **kwargs):
    with torch.no_grad():
        return model(images, output_token_merging=True, **kwargs)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_six_different_images_get_in_a_batch_what_they_get_alone(model):
    images = blocky_images(6, 64, 96)
    together = outputs(model, images)
    assert len(set(together.token_counts[:, -1].tolist())) >= 4, "the images should keep different numbers of tokens"
    for index in range(6):
        alone = outputs(model, images[index : index + 1])
        assert torch.equal(alone.token_counts[0], together.token_counts[index])
        assert torch.equal(alone.patch_to_token[0], together.patch_to_token[index])
        torch.testing.assert_close(alone.logits[0], together.logits[index], atol=1e-4, rtol=0)
        assert torch.equal(alone.logits[0].argmax(0), together.logits[index].argmax(0))


def test_shuffling_the_batch_shuffles_the_result(model):
    images = blocky_images(6, 64, 64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight, shuffled = outputs(model, images), outputs(model, images[order])
    assert torch.equal(straight.token_counts[order], shuffled.token_counts)
    assert torch.equal(straight.patch_to_token[order], shuffled.patch_to_token)
    torch.testing.assert_close(straight.logits[order], shuffled.logits, atol=1e-4, rtol=0)


def test_images_of_different_sizes_in_one_padded_batch_get_what_they_get_alone(model):
    sizes = [(64, 64), (33, 65), (8, 90), (70, 50)]
    images = torch.zeros(4, 3, 70, 90)
    labels = torch.full((4, 70, 90), 255)
    generator = torch.Generator().manual_seed(0)
    for index, (height, width) in enumerate(sizes):
        images[index, :, :height, :width] = blocky_images(2, height, width, seed=index)[1]
        labels[index, :height, :width] = torch.randint(0, 5, (height, width), generator=generator)
    # What lies in the padding must not matter either.
    images[2, :, 8:] = 7.0
    together = outputs(model, images, image_sizes=torch.tensor(sizes), labels=labels)
    assert together.grid_sizes.tolist() == [[8, 8], [5, 9], [1, 12], [9, 7]]
    assert together.logits.shape == (4, 5, 9, 12)
    loss, num_pixels = 0.0, 0
    for index, (height, width) in enumerate(sizes):
        image = images[index : index + 1, :, :height, :width]
        alone = outputs(model, image, labels=labels[index : index + 1, :height, :width])
        rows, columns = together.grid_sizes[index]
        torch.testing.assert_close(alone.logits[0], together.logits[index, :, :rows, :columns], atol=1e-4, rtol=0)
        assert torch.equal(alone.token_counts[0], together.token_counts[index])
        assert torch.equal(alone.patch_to_token[0], together.patch_to_token[index, : rows * columns])
        assert (together.patch_to_token[index, rows * columns :] == -1).all()
        assert together.logits[index, :, rows:].abs().sum() == together.logits[index, :, :, columns:].abs().sum() == 0
        loss, num_pixels = loss + alone.loss * height * width, num_pixels + height * width
    torch.testing.assert_close(together.loss, loss / num_pixels)


def test_a_list_of_images_is_a_batch(model):
    images = [blocky_images(1, *size, seed=size[0])[0] for size in [(64, 64), (24, 40), (64, 56)]]
    together = outputs(model, images)
    assert together.grid_sizes.tolist() == [[8, 8], [3, 5], [8, 7]]
    for image, logits, (rows, columns) in zip(images, together.logits, together.grid_sizes, strict=True):
        alone = outputs(model, image[None]).logits[0]
        torch.testing.assert_close(logits[:, :rows, :columns], alone, atol=1e-4, rtol=0)
    nested = outputs(model, [[images[0]], [images[0]]])
    assert nested.grid_sizes is None and nested.logits.shape == (2, 5, 8, 8)


def test_restored_features_of_padded_batches_equal_those_of_each_image(model):
    sizes = [(64, 64), (24, 40)]
    images = torch.zeros(2, 3, 64, 64)
    for index, (height, width) in enumerate(sizes):
        images[index, :, :height, :width] = blocky_images(2, height, width, seed=index)[1]
    with torch.no_grad():
        together = model.algm(images, image_sizes=torch.tensor(sizes), output_hidden_states=True)
        alone = model.algm(images[1:, :, :24, :40], output_hidden_states=True)
    torch.testing.assert_close(together.last_hidden_state[1, :16], alone.last_hidden_state[0], atol=1e-4, rtol=0)
    for padded, exact in zip(together.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(padded[1, :16], exact[0], atol=1e-4, rtol=0)
        assert padded[1, 16:].abs().sum() == 0


# --- shapes, restoring and the plain ViT -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_any_image_shape_runs_with_merging_on(model, size):
    height, width = size
    output = outputs(model, blocky_images(2, height, width), labels=torch.zeros(2, height, width, dtype=torch.int64))
    grid = (-(-height // 8), -(-width // 8))
    assert output.logits.shape == (2, 5, *grid)
    assert output.patch_to_token.shape == (2, grid[0] * grid[1])
    assert output.token_counts.shape == (2, 4)
    assert torch.isfinite(output.logits).all() and torch.isfinite(output.loss)
    assert upsample_logits(output.logits, size, 8).shape == (2, 5, height, width)


@pytest.mark.parametrize("size", [(512, 512), (512, 768), (769, 513), (33, 65)])
def test_real_sizes_run_and_give_logits_of_every_pixel(size):
    model = tiny_model(patch_size=16, image_size=512, num_hidden_layers=2, global_merge_layer=2)
    output = outputs(model, blocky_images(1, *size))
    assert output.token_counts[0, -1] < 1 + output.patch_to_token.shape[1]
    assert upsample_logits(output.logits, size, 16).shape == (1, 5, *size)


def test_token_counts_and_assignments_agree(model):
    output = outputs(model, blocky_images(4, 64, 64))
    assert (output.token_counts[:, 0] < 65).any() and (output.token_counts.diff(dim=1) <= 0).all()
    for counts, patch_to_token in zip(output.token_counts, output.patch_to_token, strict=True):
        # The class token is token 0; every other token stands for some patch.
        assert torch.equal(patch_to_token.unique(), torch.arange(1, int(counts[-1])))


def test_patches_of_one_token_share_features_and_logits(model):
    images = blocky_images(2, 64, 64)
    output = outputs(model, images)
    features = model.algm(images).last_hidden_state[:, 1:]
    for image in range(2):
        for token in output.patch_to_token[image].unique():
            patches = output.patch_to_token[image] == token
            assert features[image, patches].unique(dim=0).shape[0] == 1
            assert output.logits[image].flatten(1)[:, patches].unique(dim=1).shape[1] == 1


@pytest.mark.parametrize("num_registers", [0, 3])
def test_every_hidden_state_has_the_full_sequence(num_registers):
    model = tiny_model(num_register_tokens=num_registers)
    output = model.algm(blocky_images(2, 64, 40), output_hidden_states=True, output_token_merging=True)
    assert output.token_counts[:, -1].max() < 41 + num_registers
    assert output.last_hidden_state.shape == (2, 41 + num_registers, 32)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 41 + num_registers, 32)] * 5
    normalised = model.algm.layernorm(output.hidden_states[-1])
    torch.testing.assert_close(normalised, output.last_hidden_state)


def test_merging_that_merges_nothing_equals_merging_off(model):
    images = blocky_images(3, 64, 64)
    model.config.merge_threshold, model.config.global_merge_layer = 1.0, None
    merging = outputs(model, images)
    model.config.use_token_merging = False
    plain = outputs(model, images)
    model.config.merge_threshold, model.config.global_merge_layer, model.config.use_token_merging = 0.6, 3, True
    assert merging.token_counts.unique().tolist() == [65]
    torch.testing.assert_close(merging.logits, plain.logits, atol=1e-5, rtol=0)


def test_changing_the_config_takes_effect_at_the_next_call(model):
    images = blocky_images(2, 64, 64)
    kept = {}
    for threshold in (0.2, 0.6, 1.0):
        model.config.merge_threshold = threshold
        kept[threshold] = int(outputs(model, images).token_counts.sum())
    model.config.merge_threshold = 0.6
    assert kept[0.2] < kept[0.6] < kept[1.0]
    model.config.local_merge_layer = 2
    assert outputs(model, images).token_counts[:, 0].tolist() == [65, 65]
    model.config.local_merge_layer = 1


@pytest.mark.parametrize("decoder_type", ["mask_transformer", "linear"])
def test_every_architecture_field_acts_as_in_the_papers(decoder_type):
    """None of these is at its default, so that no field can be accepted and ignored."""
    model = tiny_model(
        decoder_type=decoder_type,
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=80,
        hidden_act="relu",
        layer_norm_eps=1e-2,
        qkv_bias=False,
        image_size=(48, 32),
        num_channels=2,
        decoder_num_hidden_layers=3,
        decoder_hidden_size=40,
        decoder_num_attention_heads=5,
        decoder_intermediate_size=56,
        use_token_merging=False,
    )
    image = torch.randn(2, 48, 32)
    expected = naive_logits(image, model, torch.relu)
    with torch.no_grad():
        torch.testing.assert_close(model(image[None]).logits[0].double(), expected, atol=2e-5, rtol=1e-4)


def transformers_vit(model):
    """transformers' ViTModel with the weights of the encoder; its releases spell some names differently."""
    config = model.config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
    vit = ViTModel(ViTConfig(**{name: getattr(config, name) for name in names}, **sizes), add_pooling_layer=False)
    ours = model.algm.state_dict()
    roles = [
        (("query", "q_proj"), "attention.qkv", 0),
        (("key", "k_proj"), "attention.qkv", 1),
        (("value", "v_proj"), "attention.qkv", 2),
        (("layernorm_before",), "attention.layernorm", None),
        (("layernorm_after",), "mlp.layernorm", None),
        (("fc1", "intermediate"), "mlp.fc1", None),
        (("attention.output", "o_proj"), "attention.o_proj", None),
        (("fc2", "output"), "mlp.fc2", None),
    ]
    for name, parameter in vit.state_dict().items():
        match = re.search(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)$", name)
        if match is None:
            parameter.copy_(ours[name])
            continue
        layer, role, part = match.groups()
        _, target, chunk = next(entry for entry in roles if any(hint in role for hint in entry[0]))
        value = ours[f"layers.{layer}.{target}.{part}"]
        parameter.copy_(value if chunk is None else value.chunk(3)[chunk])
    return vit.eval()


def test_without_merging_the_encoder_equals_transformers_vit():
    model = tiny_model(use_token_merging=False)
    vit = transformers_vit(model)
    images = blocky_images(2, 64, 64)
    with torch.no_grad():
        expected = vit(images).last_hidden_state
        torch.testing.assert_close(model.algm(images).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_position_embeddings_are_resized_bilinearly_and_those_of_the_class_token_kept(model):
    embeddings = model.algm.embeddings
    images = torch.zeros(1, 3, 24, 48)  # a 3 x 6 grid, from 8 x 8
    with torch.no_grad():
        tokens = model.algm(images, output_hidden_states=True).hidden_states[0][0]
        positions = embeddings.position_embeddings[0]
        torch.testing.assert_close(tokens[0], embeddings.cls_token[0, 0] + positions[0])
        grid = positions[1:].view(8, 8, -1)
        for row in range(3):
            for column in range(6):
                y, x = (row + 0.5) * 8 / 3 - 0.5, (column + 0.5) * 8 / 6 - 0.5
                top, left = int(y), int(x)
                bottom, right = min(top + 1, 7), min(left + 1, 7)
                v, h = y - top, x - left
                expected = (1 - v) * ((1 - h) * grid[top, left] + h * grid[top, right])
                expected += v * ((1 - h) * grid[bottom, left] + h * grid[bottom, right])
                expected += embeddings.patch_embeddings.projection.bias
                torch.testing.assert_close(tokens[1 + row * 6 + column], expected, atol=1e-5, rtol=1e-4)


def test_a_grid_that_is_not_square_but_has_as_many_patches_is_resized():
    model = tiny_model()
    a, b = (model.algm(torch.zeros(1, 3, *size), output_hidden_states=True) for size in ((64, 64), (32, 128)))
    assert not torch.allclose(a.hidden_states[0], b.hidden_states[0])


# --- implementations and dtypes --------------------------------------------------------------------------------------


def test_eager_and_sdpa_agree(model):
    images = blocky_images(4, 64, 64)
    sdpa = outputs(model, images)
    model.set_attn_implementation("eager")
    eager = outputs(model, images)
    model.set_attn_implementation("sdpa")
    assert torch.equal(sdpa.token_counts, eager.token_counts)
    torch.testing.assert_close(sdpa.logits, eager.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_resembles_float32(dtype):
    model, images = tiny_model(), blocky_images(3, 64, 48)
    expected = outputs(model, images).logits
    output = outputs(model.to(dtype), images)
    assert output.logits.dtype == dtype and torch.isfinite(output.logits).all()
    agreement = (output.logits.argmax(1) == expected.argmax(1)).float().mean()
    assert agreement > 0.9


@pytest.mark.parametrize("decoder_type", ["mask_transformer", "linear"])
@pytest.mark.parametrize("seed", range(3))
def test_in_bfloat16_label_maps_alone_and_in_a_batch_agree_on_999_of_1000_pixels(decoder_type, seed):
    model = tiny_model(seed, decoder_type=decoder_type).to(torch.bfloat16)
    images = blocky_images(6, 64, 96, seed=seed).to(torch.bfloat16)

    def label_maps(images):
        logits = outputs(model, images).logits.float()
        return nn.functional.interpolate(logits, size=(64, 96), mode="bilinear").argmax(dim=1)

    alone = torch.cat([label_maps(images[index : index + 1]) for index in range(6)])
    agreement = (alone == label_maps(images)).flatten(1).float().mean(dim=1)
    assert alone.unique().numel() >= 3
    assert agreement.min() >= 0.999


def test_autocast_trains(model):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(blocky_images(2, 64, 64), labels=torch.ones(2, 64, 64, dtype=torch.int64)).loss
    loss.backward()
    model.eval()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_models_give_the_same_logits(backend):
    model = tiny_model()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for seed in range(2):
            images = blocky_images(2, 64, 64, seed=seed)
            torch.testing.assert_close(compiled(images).logits, model(images).logits, atol=1e-4, rtol=0)


def token_counts_of(compiled, batches):
    """Runs batches, none of which may compile anything, and returns each image's final token count."""
    counts = []
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
        for images in batches:
            counts += compiled(images, output_token_merging=True).token_counts[:, -1].tolist()
    return counts


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_fifty_images_of_different_token_counts_compile_nothing_anew(backend):
    torch.compiler.reset()
    model = tiny_model()
    model.compile(dynamic=True, backend=backend)
    with torch.no_grad():
        for batch_size in (1, 2, 3, 1):  # one image, images alike, images apart
            model(blocky_images(batch_size, 64, 64))
    alone = token_counts_of(model, blocky_images(50, 64, 96).split(1))
    assert len(set(alone)) >= 15
    mixed = blocky_images(12, 80, 64, seed=1)
    token_counts_of(model, (mixed[:3], mixed[3:7], mixed[7:]))  # other batch sizes and another shape
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiling_in_place_changes_neither_logits_nor_gradients(backend):
    torch.compiler.reset()
    plain, compiled = tiny_model(), tiny_model()
    compiled.compile(backend=backend)
    images, labels = blocky_images(2, 64, 64), torch.randint(0, 5, (2, 64, 64))
    results = []
    for model in (plain, compiled):
        output = model(images, labels=labels)
        output.loss.backward()
        results.append((output, {name: parameter.grad for name, parameter in model.named_parameters()}))
    torch.testing.assert_close(results[0][0].logits, results[1][0].logits, atol=1e-4, rtol=0)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-5, rtol=1e-3)
    torch.compiler.reset()


def test_a_compiled_model_saves_the_same_weights_under_the_same_names(tmp_path):
    model = tiny_model()
    names = list(model.state_dict())
    model.compile(backend="aot_eager")
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    assert list(reloaded.state_dict()) == names
    assert all(torch.equal(reloaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_one_graph_for_everything_is_refused():
    with pytest.raises(ValueError, match="fullgraph=True"):
        tiny_model().compile(fullgraph=True)


# --- training --------------------------------------------------------------------------------------------------------


def gradients(model, images, labels, checkpointing, **kwargs):
    torch.manual_seed(3)
    model.zero_grad()
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    model(images, labels=labels).loss.backward()
    model.gradient_checkpointing_disable()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    model = tiny_model(drop_path_rate=0.3, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    images, labels = blocky_images(3, 64, 64), torch.randint(0, 5, (3, 64, 64))
    plain = gradients(model, images, labels, False)
    checkpointed = gradients(model, images, labels, True, use_reentrant=use_reentrant)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_gradient_checkpointing_trains_under_autocast_with_merging_on():
    model = tiny_model().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(blocky_images(3, 64, 64), labels=torch.randint(0, 5, (3, 64, 64))).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_parameter_gets_a_gradient_and_some_steps_lower_the_loss(model):
    images = blocky_images(2, 32, 32)
    labels = (images[:, 0] > 0).long()
    trained = tiny_model(decoder_type=model.config.decoder_type).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = trained(images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_drop_path_drops_whole_images_in_training_only():
    drop_path, lengths = AlgmDropPath(0.5), [3, 5, 2, 4, 6, 1, 7, 2]
    hidden_states = torch.ones(sum(lengths), 4)
    torch.manual_seed(0)
    boundaries = cumulated_lengths(torch.tensor(lengths))
    kept = [piece.unique().tolist() for piece in drop_path.train()(hidden_states, boundaries).split(lengths)]
    assert sorted(map(tuple, kept))[0] == (0.0,) and sorted(map(tuple, kept))[-1] == (2.0,)
    assert all(len(values) == 1 for values in kept)
    assert torch.equal(drop_path.eval()(hidden_states, boundaries), hidden_states)


def test_the_encoder_drop_path_grows_linearly_to_its_rate():
    model = AlgmModel(tiny_config(drop_path_rate=0.3))
    rates = [layer.mlp.drop_path.drop_prob for layer in model.layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_loss_is_the_cross_entropy_of_the_upsampled_and_cropped_logits(model):
    images, labels = blocky_images(2, 60, 50), torch.randint(0, 5, (2, 60, 50))
    labels[0, :9] = 255
    output = outputs(model, images, labels=labels)
    padded = nn.functional.interpolate(output.logits, size=(64, 56), mode="bilinear", align_corners=False)
    expected = nn.functional.cross_entropy(padded[:, :, :60, :50], labels, ignore_index=255)
    torch.testing.assert_close(output.loss, expected)


def test_class_weights_and_ignore_index_of_the_config_shape_the_loss(model):
    weights = [0.0, 3.0, 1.0, 0.5, 2.0]
    images, labels = blocky_images(2, 64, 64), torch.randint(0, 5, (2, 64, 64))
    labels[1, 10:] = -100
    before = {name: getattr(model.config, name) for name in ("class_weights", "semantic_loss_ignore_index")}
    model.config.class_weights, model.config.semantic_loss_ignore_index = weights, -100
    output = outputs(model, images, labels=labels)
    with pytest.raises(ValueError, match=r"labels=\[255\]"):
        model(images, labels=labels.masked_fill(labels == -100, 255))
    for name, value in before.items():
        setattr(model.config, name, value)
    pixels = nn.functional.interpolate(output.logits, size=(64, 64), mode="bilinear", align_corners=False)
    expected = nn.functional.cross_entropy(pixels, labels, weight=torch.tensor(weights), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)


# --- calls -----------------------------------------------------------------------------------------------------------


def test_forward_keeps_no_state_so_that_threads_do_not_disturb_each_other():
    model = tiny_model()
    batches = [blocky_images(2, 64, 64, seed=seed) for seed in range(4)]
    expected = [outputs(model, batch).logits for batch in batches]
    found = {}

    def worker(index):
        for _ in range(3):
            found[index] = outputs(model, batches[index]).logits

    threads = [threading.Thread(target=worker, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for index in range(4):
        torch.testing.assert_close(found[index], expected[index], atol=1e-5, rtol=0)


def test_by_default_only_loss_and_logits_are_returned(model):
    images, labels = blocky_images(2, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    assert list(model(images, labels=labels).keys()) == ["loss", "logits"]
    assert list(model(images).keys()) == ["logits"]
    loss, logits = model(images, labels=labels, return_dict=False)
    assert loss.ndim == 0 and logits.shape == (2, 5, 8, 8)
    extra = set(model(images, output_token_merging=True, output_hidden_states=True).keys()) - {"loss", "logits"}
    assert extra <= set(model.config.keys_to_ignore_at_inference)


def test_repeated_calls_give_the_same_bits(model):
    images = blocky_images(3, 64, 64)
    assert torch.equal(outputs(model, images).logits, outputs(model, images).logits)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"pixel_values": torch.zeros(1, 4, 32, 32)}, r"pixel_values.shape=\(1, 4, 32, 32\).*num_channels=3"),
        ({"pixel_values": torch.zeros(3, 32, 32)}, r"pixel_values.shape=\(3, 32, 32\)"),
        ({"pixel_values": torch.zeros(0, 3, 32, 32)}, r"pixel_values.shape=\(0, 3, 32, 32\)"),
        ({"pixel_values": torch.zeros(1, 3, 7, 32)}, r"\(7, 32\): expected at least one patch"),
        ({"image_sizes": torch.tensor([[32, 40]])}, r"\(32, 40\): .* at most pixel_values"),
        ({"image_sizes": torch.tensor([32, 32])}, r"image_sizes.shape=\(2,\): expected \(1, 2\)"),
        ({"image_sizes": [[32, 32]]}, r"image_sizes=\[\[32, 32\]\]: expected a tensor"),
        ({"image_sizes": torch.tensor([[32.0, 32.0]])}, "image_sizes=.*: expected a tensor of integers"),
        ({"pixel_values": [torch.zeros(3, 32, 32)], "image_sizes": torch.tensor([[32, 32]])}, "image_sizes=.*None"),
        ({"pixel_values": []}, r"pixel_values.shape=\[\]"),
        (
            {"pixel_values": [torch.zeros(3, 32, 32), torch.zeros(1, 32, 32)]},
            r"pixel_values.shape=\[\(3, 32, 32\), \(1, 32, 32\)\]",
        ),
        ({"pixel_values": [torch.zeros(3, 32, 32), 7]}, r"pixel_values=\['Tensor', 'int'\]: expected tensors"),
        ({"labels": torch.zeros(1, 4, 4, dtype=torch.int64)}, r"labels.shape=\(1, 4, 4\): .*\(1, 32, 32\)"),
        ({"labels": torch.full((1, 32, 32), 5)}, r"labels=\[5\]: expected 0\.\.4"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{"pixel_values": torch.zeros(1, 3, 32, 32), **kwargs})


def test_inputs_are_checked_once_in_a_forward(monkeypatch):
    model, calls = tiny_model(), []
    check = type(model.config).validate_call_settings
    monkeypatch.setattr(type(model.config), "validate_call_settings", lambda self: calls.append(check(self)))
    model(blocky_images(1, 32, 32))
    assert len(calls) == 1


def test_attention_maps_are_refused():
    model = tiny_model()
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions=True"):
        model(blocky_images(1, 32, 32))


def test_a_head_for_merged_tokens_gets_the_pack(model):
    images = blocky_images(3, 64, 64)
    packed = model.algm(images, output_packed=True, output_token_merging=True)
    restored = model.algm(images).last_hidden_state
    assert packed.last_hidden_state is None
    assert packed.pack.lengths == packed.token_counts[:, -1].tolist()
    assert torch.equal(packed.pack.hidden_states[packed.pack.token_index].view_as(restored), restored)


def test_class_weights_of_other_classes_are_refused_only_where_they_are_used():
    model = tiny_model(class_weights=[1.0, 2.0])
    images = blocky_images(1, 32, 32)
    assert model(images).loss is None
    with pytest.raises(ValueError, match=r"class_weights=\[1\.0, 2\.0\]: .*num_labels=5"):
        model(images, labels=torch.zeros(1, 32, 32, dtype=torch.int64))
