# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from places import PARITY, ROOT
from tiny_models import blocky_images, tiny_model
from training_runs import write_data
from transformers import ViTConfig, ViTModel, get_scheduler

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.conversion.plain_vit import from_vit
from algm_hf.data.arguments import AugmentationArguments, DataArguments
from algm_hf.data.augmentation import build_augmentation
from algm_hf.data.loading import load_segmentation_data
from algm_hf.runs.command_line import parse_arguments, read_config, redacted, resume_command
from algm_hf.runs.provenance import save_run_arguments
from algm_hf.training.arguments import ModelArguments, SegmentationTrainingArguments, parse_overrides
from algm_hf.training.initial_model import (
    build_model,
    check_model_arguments,
    config_overrides,
    scratch_config,
    source_of,
)
from algm_hf.training.optimizer import build_optimizer, layer_number, parameter_groups, plain_name


ALL = (ModelArguments, DataArguments, AugmentationArguments, SegmentationTrainingArguments)
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.yaml"))
# ALGM, CVPR 2024: crop, merge layers, tau, window, stride, learning rate, epochs, batch of each published setting.
PUBLISHED = {
    "ade20k_vit_tiny_patch16": (512, 1, 5, 0.90, 512, 512, 0.001, 64, 8),
    "ade20k_vit_small_patch16": (512, 1, 5, 0.88, 512, 512, 0.001, 64, 8),
    "ade20k_vit_base_patch16": (512, 1, 5, 0.94, 512, 512, 0.001, 64, 8),
    "ade20k_vit_large_patch16": (640, 1, 7, 0.95, 640, 640, 0.001, 64, 8),
    "pascal_context_vit_small_patch16": (480, 1, 5, 0.88, 480, 320, 0.001, 256, 16),
    "cityscapes_vit_small_patch16": (768, 1, 5, 0.955, 768, 512, 0.01, 216, 8),
}
SHAPES = {"tiny": (192, 3, 12), "small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}
NAMES = {0: "sky", 1: "road", 2: "car"}


def training_arguments(folder, **settings):
    return SegmentationTrainingArguments(output_dir=str(folder), use_cpu=True, **settings)


# Arguments


def test_the_command_line_wins_over_the_file(tmp_path):
    overrides = {"hidden_size": 16, "merge_threshold": 0.7}
    config = {"config_overrides": overrides, "crop_size": [32, 48], "dataset": "folder", "bf16": False}
    for suffix, text in (("yaml", yaml.safe_dump(config)), ("json", json.dumps(config))):
        path = tmp_path / f"config.{suffix}"
        path.write_text(text)
        argv = [str(path), "--config_overrides", "merge_threshold=0.9", f"--output_dir={tmp_path}", "--use_cpu"]
        (model, data, augmentation, training), given = parse_arguments(ALL, argv)
        recipe = {"drop_path_rate": 0.1, "decoder_dropout_prob": 0.1}
        assert model.config_overrides == {**recipe, "hidden_size": 16, "merge_threshold": 0.9}
        assert (augmentation.crop, data.dataset) == ((32, 48), "folder")
        assert training.bf16 is False
        assert given == {*config, "output_dir", "use_cpu"}


def test_a_file_may_hold_numbers_as_yaml_reads_them_lists_and_mappings(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "dataset: folder\nlearning_rate: 1e-3\nreport_to: [tensorboard, wandb]\n"
        "config_overrides: {class_weights: [1, 2.5], layer_norm_eps: 1e-5, local_merge_layer: null}\n"
        "lr_scheduler_kwargs: {lr_end: 1.0e-6, power: 2}\nignore_labels: []\nflip_prob: null\nuse_cpu: true\n"
    )
    (model, data, augmentation, training), _ = parse_arguments(ALL, [str(path), f"--output_dir={tmp_path}"])
    assert training.learning_rate == 0.001  # a string to YAML 1.1
    overrides = {"class_weights": [1, 2.5], "layer_norm_eps": 1e-5, "local_merge_layer": None}
    assert model.config_overrides.items() >= overrides.items()
    assert training.report_to == ["tensorboard", "wandb"]
    assert training.lr_scheduler_kwargs == {"lr_end": 1e-6, "power": 2}
    assert (data.ignore_labels, augmentation.flip_prob) == ([], 0.5)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("merge_threshold=0.9", 0.9),
        ("layer_norm_eps=1e-5", 1e-5),
        ("local_merge_layer=None", None),
        ("local_merge_layer=null", None),
        ("use_token_merging=false", False),
        ("decoder_type=linear", "linear"),
        ("class_weights=[1, 0.5]", [1, 0.5]),
        ('{"image_size": [32, 48]}', [32, 48]),
    ],
)
def test_an_override_is_read_as_yaml_reads_it(word, value):
    (found,) = parse_overrides([word]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("word", ["merge_threshold", "num_labels=3", "id2label=[a]", "semantic_loss_ignore_index=0"])
def test_what_is_no_field_that_can_be_set_is_refused(word):
    with pytest.raises(ValueError, match=f"config_overrides='{word.partition('=')[0]}'"):
        parse_overrides([word])


@pytest.mark.parametrize(
    ("word", "named"),
    [("image_size=[256,512", "[256,512"), ('{"a": 1', '{"a": 1'), ("image_size=2024-13-45", "2024-13-45")],
)
def test_what_cannot_be_read_is_refused_by_name(word, named):
    with pytest.raises(ValueError, match=re.escape(f"config_overrides={named!r}")):
        parse_overrides([word])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("init_form: scratch:s", "argument='init_form'.*did you mean 'init_from'"),
        ("config_overrides: {merge_treshold: 0.9}", "config_overrides='merge_treshold'.*'merge_threshold'"),
        ("- 1", "config.yaml='list': expected a mapping"),
        ("a: [", "config.yaml=.*: expected YAML or JSON"),
        ("max_steps: soon", "max.steps: invalid int value: 'soon'"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments(ALL, [str(path), "--dataset", "folder"])
    with pytest.raises(ValueError, match="no.yaml=.*: expected YAML or JSON"):
        read_config(tmp_path / "no.yaml")


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"output_dir: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]")
    with pytest.raises(ValueError, match="config.yaml=.*: expected YAML or JSON"):
        parse_arguments(ALL, [str(path)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--init_form=3"], "argument='--init_form=3'.*did you mean --init_from"),
        (["--max_step=3"], "argument='--max_step=3'"),  # no abbreviations
        (["--dataset"], "dataset: expected one argument"),
        (["--crop_size", "1", "2", "3"], r"crop_size=\[1, 2, 3\]"),
        (["--ratio_range", "2", "1"], r"ratio_range=\[2.0, 1.0\]"),
        (["--flip_prob", "1.5"], "flip_prob=1.5"),
        (["--max_category_ratio", "0"], "max_category_ratio=0"),
        (["--base_size", "0"], "base_size=0"),
        (["--layer_decay", "0"], "layer_decay=0.0"),
        (["--learning_rate", "0"], "learning_rate=0.0"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps=0"),
        (["--num_train_epochs", "0"], "num_train_epochs=0.0"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor=0.1"),
        (["--push_to_hub", "--hub_model_id", "me/algm-1.0"], "hub_model_id='me/algm-1.0'"),
        (["--push_to_hub", "--output_dir=out/v1.0"], "output_dir='v1.0'.*hub_model_id"),
        (["--bf16_full_eval"], "bf16_full_eval=True"),
        (["--eval_size=0"], "eval_size=0"),
        (["--dataloader_persistent_workers"], "dataloader_num_workers=0"),
        (["--shuffle_buffer_size=-1"], "shuffle_buffer_size=-1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(argv, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_arguments(ALL, ["--dataset", "folder", f"--output_dir={tmp_path}", "--use_cpu", *argv])


def test_no_argument_of_one_kind_hides_one_of_another():
    names = [entry.name for kind in ALL for entry in fields(kind)]
    assert len(names) == len(set(names))


# Recipes


def test_there_is_a_recipe_for_each_published_setting():
    assert [path.stem for path in RECIPES] == sorted(PUBLISHED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_published_setting(path, tmp_path):
    argv = [str(path), "--data_dir", "FOLDER", f"--output_dir={tmp_path}", "--use_cpu"]
    (model, data, augmentation, training), _ = parse_arguments(ALL, argv)
    crop, local_layer, global_layer, tau, window, stride, rate, epochs, batch = PUBLISHED[path.stem]
    assert data.dataset.split("_")[0] == path.stem.split("_")[0]
    size = path.stem.split("_vit_")[1].split("_")[0]
    assert model.init_from == f"timm/vit_{size}_patch16_384.augreg_in21k_ft_in1k"
    assert augmentation.crop == (crop, crop)
    assert (training.learning_rate, training.num_train_epochs) == (rate, epochs)
    assert training.per_device_train_batch_size == batch
    assert (training.weight_decay, training.max_grad_norm) == (0, 0)

    model.init_from = f"scratch:{'ti' if size == 'tiny' else size[0]}"  # the same shape, offline
    check_model_arguments(model, augmentation.crop)
    assert {"drop_path_rate", "decoder_dropout_prob", "layer_norm_eps"} <= set(model.config_overrides)
    config = scratch_config(model, augmentation.crop, {index: str(index) for index in range(150)})
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == SHAPES[size]
    assert (config.local_merge_layer, config.global_merge_layer) == (local_layer, global_layer)
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.merge_threshold == tau
    assert (config.inference_mode, config.window_size, config.window_stride) == ("slide", window, stride)
    assert (config.position_interpolation, config.layer_norm_eps) == ("bilinear", 1e-5)
    assert (config.drop_path_rate, config.decoder_dropout_prob) == (0.1, 0.1)
    assert (config.decoder_type, config.image_size, config.patch_size) == ("mask_transformer", crop, 16)
    with torch.device("meta"):
        built = AlgmForSemanticSegmentation(config)
    optimizer = build_optimizer(built, config.num_hidden_layers, training)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


# Initial weights


def start(init_from, **overrides):
    return ModelArguments(init_from=str(init_from), config_overrides=overrides)


def saved(folder, **overrides):
    model = tiny_model(num_labels=3, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}, **overrides)
    model.save_pretrained(folder)
    AlgmImageProcessor(size=64, patch_size=8, image_mean=0.4).save_pretrained(folder)
    return model


def test_a_saved_model_starts_with_its_weights_and_settings_but_for_what_is_asked(tmp_path):
    before = saved(tmp_path)
    arguments = start(tmp_path, merge_threshold=0.3, local_merge_layer=None, drop_path_rate=0.2)
    initial = build_model(arguments, (32, 48), NAMES)
    after = initial.model.state_dict()
    assert initial.new_weights == []
    assert all(torch.equal(value, after[name]) for name, value in before.state_dict().items())
    config = initial.model.config
    assert (config.merge_threshold, config.local_merge_layer, config.global_merge_layer) == (0.3, None, 3)
    assert initial.model.algm.layers[-1].mlp.drop_path.drop_prob == pytest.approx(0.2)
    assert initial.processor.image_mean == 0.4
    assert dict(initial.processor.size) == {"shortest_edge": 32}
    images = blocky_images(2, 64, 64)
    before.config.merge_threshold, before.config.local_merge_layer = 0.3, None
    with torch.no_grad():
        assert torch.equal(before(images).logits, initial.model.eval()(images).logits)


def test_other_classes_renew_only_what_depends_on_their_number(tmp_path):
    before = saved(tmp_path).state_dict()
    initial = build_model(ModelArguments(init_from=str(tmp_path)), (32, 32), {i: f"class {i}" for i in range(7)})
    after = initial.model.state_dict()
    expected = {name for name, value in before.items() if value.shape != after[name].shape}
    assert set(initial.new_weights) == expected
    assert expected == {f"decode_head.{name}" for name in ("class_embeddings", "mask_norm.weight", "mask_norm.bias")}
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name not in expected)
    assert initial.model.config.id2label[6] == "class 6"
    with torch.no_grad():
        assert initial.model.eval()(blocky_images(1, 64, 64)).logits.argmax(1).max() < 7


def test_another_decoder_is_new_and_the_encoder_stays(tmp_path):
    before = saved(tmp_path).algm.state_dict()
    initial = build_model(start(tmp_path, decoder_type="linear"), (32, 32), NAMES)
    assert set(initial.new_weights) == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert all(torch.equal(value, before[name]) for name, value in initial.model.algm.state_dict().items())


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"hidden_size": 16}, {"patch_size": 4}])
def test_arguments_cannot_change_the_shape_of_a_saved_encoder(tmp_path, change):
    saved(tmp_path)
    with pytest.raises(ValueError, match="config_overrides=.*the shape of the encoder"):
        build_model(start(tmp_path, **change), (32, 32), NAMES)


def test_a_release_starts_with_its_weights(tmp_path):
    release = next(PARITY.rglob("checkpoint.pth")).parent
    from algm_hf import convert_segmenter_checkpoint

    before, _ = convert_segmenter_checkpoint(release)
    names = {index: str(index) for index in range(before.config.num_labels)}
    initial = build_model(ModelArguments(init_from=str(release)), (64, 64), names)
    after = initial.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.state_dict().items())
    assert initial.model.config.merge_threshold == before.config.merge_threshold


def test_a_vit_starts_with_its_weights_positions_of_the_crops_and_a_new_decoder(tmp_path):
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    source = ViTModel(ViTConfig(image_size=64, patch_size=8, **settings), add_pooling_layer=False)
    source.save_pretrained(tmp_path)
    overrides = {"merge_threshold": 0.9, "inference_mode": "slide", "decoder_num_hidden_layers": 1}
    initial = build_model(start(tmp_path, **overrides), (32, 48), NAMES)
    config, expected = initial.model.config, from_vit(tmp_path, id2label=NAMES, image_size=[32, 48])[0].algm
    assert (config.image_size, config.id2label, config.merge_threshold) == ([32, 48], NAMES, 0.9)
    assert (config.window_size, config.drop_path_rate, config.decoder_num_hidden_layers) == (32, 0.1, 1)
    found = initial.model.algm.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert set(initial.new_weights) == {f"decode_head.{name}" for name in initial.model.decode_head.state_dict()}
    assert list(initial.processor.image_mean) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("init_from", "kind"),
    [
        ("scratch:ti", "scratch"),
        ("release/weights.pth", "release"),
        ("alone/weights.pth", "vit"),
        ("timm", "vit"),
        ("algm", "algm"),
    ],
)
def test_the_kind_of_initial_weights_is_recognised(init_from, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("timm", "algm", "release", "alone"):
        Path(folder).mkdir()
    for file in ("release/weights.pth", "release/variant.yml", "alone/weights.pth"):
        Path(file).touch()
    Path("algm", "config.json").write_text(json.dumps({"model_type": "algm"}))
    assert source_of(ModelArguments(init_from=init_from)) == kind


def test_a_custom_model_has_the_shape_of_its_arguments_and_rounds_its_positions_up_to_patches():
    arguments = start("scratch:custom", hidden_size=64, num_hidden_layers=6, patch_size=16)
    config = scratch_config(arguments, (40, 60), NAMES)
    assert (config.num_attention_heads, config.intermediate_size, config.image_size) == (1, 256, [48, 64])
    assert config.id2label == NAMES


@pytest.mark.parametrize("weights", ["[1, 2]", '{"a": 1}', "many", "[1, 2, true]", "[1, 2, NaN]"])
def test_class_weights_are_one_number_for_each_class(weights):
    arguments = ModelArguments(init_from="scratch:ti", config_overrides=[f"class_weights={weights}"])
    with pytest.raises(ValueError, match="class_weights="):
        scratch_config(arguments, (32, 32), NAMES)


def test_augmentation_normalises_as_the_processor():
    augmentation = build_augmentation(AugmentationArguments(crop_size=[8]), AlgmImageProcessor(image_mean=0.1))
    (normalise,) = [step for step in augmentation.colors.transforms if type(step).__name__ == "Normalize"]
    assert list(normalise.mean) == [0.1] * 3


# Optimizer


def test_layer_numbers_rise_from_the_embeddings_to_the_decoder():
    names = {
        "algm.embeddings.cls_token": 0,
        "algm.layers.0.mlp.fc1.weight": 1,
        "module.algm.layers.3.attention.qkv.bias": 4,
        "_orig_mod.algm._fsdp_wrapped_module.layers.2._fsdp_wrapped_module.mlp.fc2.weight": 3,
        "algm.layernorm.weight": 5,
        "decode_head.layers.0.mlp.fc1.weight": 5,
    }
    assert {name: layer_number(name, 4) for name in names} == names
    assert plain_name("module.decode_head.classifier.weight") == "decode_head.classifier.weight"


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_each_parameter_has_the_rate_and_the_decay_of_its_place(layer_decay):
    model = tiny_model(num_register_tokens=1)
    groups = parameter_groups(model, 4, learning_rate=0.1, weight_decay=0.01, layer_decay=layer_decay)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    places = [model.algm.embeddings, *model.algm.layers, nn_list(model.algm.layernorm, model.decode_head)]
    for depth, place in enumerate(places):
        for name, parameter in place.named_parameters():
            group = found[id(parameter)]
            assert group["lr"] == pytest.approx(0.1 * (1.0 if layer_decay is None else 0.5 ** (5 - depth)))
            is_matrix = parameter.ndim >= 2 and not any(word in name for word in ("token", "embeddings.", "position"))
            is_matrix = is_matrix and name.rsplit(".", 1)[-1] != "class_embeddings"
            is_matrix = is_matrix or name == "patch_embeddings.projection.weight"
            assert group["weight_decay"] == (0.01 if is_matrix else 0.0), name


def nn_list(*modules):
    return torch.nn.ModuleList(modules)


def test_published_optimizer_takes_the_step_of_its_formula(tmp_path):
    """SGD with momentum 0.9 and no weight decay: v = 0.9 v + g, w = w - rate v."""
    model = tiny_model()
    optimizer = build_optimizer(model, 4, training_arguments(tmp_path, learning_rate=0.1))
    parameter = model.decode_head.projection.weight
    start, velocity, gradients = parameter.detach().clone(), 0.0, [0.5, -0.25, 1.0]
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        start = start - 0.1 * velocity
    torch.testing.assert_close(parameter.detach(), start)


@pytest.mark.parametrize(("layer_decay", "scale"), [(None, 1.0), (0.5, 0.5**5)])
def test_schedule_ends_at_its_minimum(tmp_path, layer_decay, scale):
    arguments = training_arguments(tmp_path, learning_rate=0.01, layer_decay=layer_decay)
    optimizer = build_optimizer(tiny_model(), 4, arguments)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, 0, 10, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs
    )
    lowest = min(group["lr"] for group in optimizer.param_groups)
    assert lowest == pytest.approx(0.01 * scale)
    rates = []
    for _ in range(10):
        rates.append(min(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([scale * ((0.01 - 1e-5) * (1 - s / 10) ** 0.9 + 1e-5) for s in range(10)])
    assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx(1e-5 * scale)


def test_other_schedules_and_optimizers_are_not_given_the_arguments_of_the_published_ones(tmp_path):
    arguments = training_arguments(tmp_path, optim="adamw_torch", lr_scheduler_type="cosine", weight_decay=0.1)
    optimizer = build_optimizer(tiny_model(), 4, arguments)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    get_scheduler("cosine", optimizer, 0, 10, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs)


# Streams


def test_a_training_stream_is_shuffled_anew_each_epoch_and_alike_for_a_seed(tmp_path):
    folder = write_data(tmp_path / "set", num_train=6)

    def names(epoch, splits=("train",), shuffle_seed=3, **settings):
        arguments = DataArguments(dataset="folder", data_dir=str(folder), streaming=True, **settings)
        data = load_segmentation_data(arguments, splits, shuffle_seed=shuffle_seed)
        rows = data.train or data.evaluation
        rows.set_epoch(epoch)
        return [row["name"] for row in rows]

    in_order = [str(number) for number in range(6)]
    orders = [names(epoch) for epoch in range(3)]
    assert all(sorted(order) == in_order for order in orders)
    assert len({*map(tuple, orders), tuple(in_order)}) == 4
    assert orders == [names(epoch) for epoch in range(3)]
    assert names(0, shuffle_seed=4) != orders[0]
    assert names(0, shuffle_buffer_size=0) == names(0, shuffle_seed=None) == in_order
    assert names(0, ("evaluation",)) == in_order[:3]


# What is left beside the results


SECRETS = [
    "--hub_token",
    "hf_secret",
    "--push_to_hub_token=hf_secret",
    "--hub-token",
    "hf_secret",
    "--token=hf_secret",
]


def test_a_command_is_told_without_its_secrets():
    argv = ["train.py", "--max_steps=3", *SECRETS, "--num_register_tokens", "4", "--resume_from_checkpoint", "a b"]
    hidden = ["--hub_token", "<HUB_TOKEN>", "--push_to_hub_token=<PUSH_TO_HUB_TOKEN>", "--hub-token", "<HUB_TOKEN>"]
    expected = ["train.py", "--max_steps=3", *hidden, "--token=<TOKEN>", "--num_register_tokens", "4"]
    assert redacted(argv) == [*expected, "--resume_from_checkpoint", "a b"]
    assert redacted(["--hub_token"]) == ["--hub_token"]
    assert shlex.split(resume_command(argv))[1:] == [*expected, "--resume_from_checkpoint", "last"]


def test_arguments_of_every_run_are_kept_and_changes_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *SECRETS])
    first = AugmentationArguments(crop_size=[32])
    assert save_run_arguments(tmp_path, augmentation=first) == {}
    second = AugmentationArguments(crop_size=[32], flip_prob=0.0)
    changes = save_run_arguments(
        tmp_path, augmentation=second, training=training_arguments(tmp_path, hub_token="secret")
    )
    assert changes["flip_prob"] == (0.5, 0.0)
    text = (tmp_path / "training_arguments.json").read_text()
    assert "secret" not in text
    assert [run["arguments"]["augmentation"]["flip_prob"] for run in json.loads(text)["runs"]] == [0.5, 0.0]
    assert "torch" in json.loads(text)["runs"][0]["versions"]
    assert re.fullmatch(r"[0-9a-f]{40}", json.loads(text)["runs"][0].get("commit", "0" * 40))


def test_defaults_of_the_config_and_of_the_arguments_agree():
    """An argument that is set without being asked for has to be one that the recipe names."""
    overrides = config_overrides(ModelArguments(), (512, 512))
    assert overrides == {"drop_path_rate": 0.1, "decoder_dropout_prob": 0.1, "class_weights": None}
    assert set(overrides) <= set(AlgmConfig().to_dict())


def test_a_preset_of_another_width_keeps_the_proportions_of_its_layers():
    config = scratch_config(ModelArguments("scratch:s", config_overrides={"hidden_size": 256}), (64, 64))
    assert (config.num_attention_heads, config.intermediate_size, config.num_hidden_layers) == (4, 1024, 12)
