# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading released checkpoints: what arrives, what is left behind, what is refused, and the script."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_stand_in import HubStandIn
from places import PARITY, ROOT
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from algm_hf.conversion.saved_folder import check_saved_folder
from algm_hf.conversion.segmenter_release import convert_segmenter_checkpoint


SCRIPT = ROOT / "scripts" / "convert_checkpoint.py"
DECODERS = ["linear", "mask_transformer"]


@pytest.fixture
def released(tmp_path):
    """Gives a function that writes a released folder, with edited settings or weights."""

    def write(decoder="mask_transformer", settings=None, weights=None, checkpoint=None) -> Path:
        folder = tmp_path / "released"
        folder.mkdir()
        variant = yaml.safe_load((PARITY / decoder / "variant.yml").read_text())
        for field, value in (settings or {}).items():
            edit(variant, field, value)
        (folder / "variant.yml").write_text(yaml.safe_dump(variant))
        if weights is None and checkpoint is None:
            shutil.copy(PARITY / decoder / "checkpoint.pth", folder)
        else:
            state = released_weights(decoder)
            state = weights(state) or state if weights else state
            torch.save(checkpoint(state) if checkpoint else {"model": state}, folder / "checkpoint.pth")
        return folder

    return write


def edit(variant: dict, field: str, value) -> None:
    *parents, key = field.split(".")
    for parent in parents:
        variant = variant[parent]
    if value is REMOVED:
        del variant[key]
    else:
        variant[key] = value


REMOVED = object()


def released_weights(decoder: str) -> dict[str, torch.Tensor]:
    return torch.load(PARITY / decoder / "checkpoint.pth", weights_only=True)["model"]


def pixel_values() -> torch.Tensor:
    return load_file(PARITY / "images.safetensors")["square_128"][:2] / 127.5 - 1


# What arrives


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_weight_but_the_imagenet_classifier_arrives(decoder):
    model, _ = convert_segmenter_checkpoint(PARITY / decoder / "checkpoint.pth")
    kept = {name: tensor for name, tensor in released_weights(decoder).items() if not name.startswith("encoder.head.")}

    def content(tensors):  # the sorted values tell a tensor apart, whatever its name and orientation
        return sorted(tuple(tensor.flatten().sort().values.tolist()) for tensor in tensors)

    assert content(kept.values()) == content(model.state_dict().values())


def test_decoder_matrices_are_transposed_for_linear_layers():
    weights = released_weights("mask_transformer")
    model, _ = convert_segmenter_checkpoint(PARITY / "mask_transformer")
    token = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.decode_head.patch_projection(token), token @ weights["decoder.proj_patch"])
    torch.testing.assert_close(model.decode_head.class_projection(token), token @ weights["decoder.proj_classes"])


@pytest.mark.parametrize("decoder", DECODERS)
def test_architecture_arrives_in_the_config(decoder):
    config = convert_segmenter_checkpoint(PARITY / decoder)[0].config
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert found == (64, 12, 2, 256)
    assert (config.image_size, config.patch_size, config.num_labels) == ([128, 128], 16, 11)
    assert (config.layer_norm_eps, config.drop_path_rate, config.hidden_dropout_prob) == (1e-5, 0.1, 0.0)
    assert config.decoder_type == decoder
    if decoder == "mask_transformer":
        assert (config.decoder_num_hidden_layers, config.decoder_num_attention_heads) == (2, 1)
        assert (config.decoder_dropout_prob, config.decoder_drop_path_rate) == (0.1, 0.0)


def test_merging_settings_arrive_in_the_config(released):
    settings = {
        "dataset_kwargs.selected_layers": [2, 7],
        "dataset_kwargs.threshold": 0.85,
        "dataset_kwargs.merging_window_size": [4, 4],
    }
    config = convert_segmenter_checkpoint(released(settings=settings))[0].config
    assert config.use_token_merging is True
    assert (config.local_merge_layer, config.global_merge_layer) == (2, 7)
    assert (config.merge_threshold, config.merge_window_size) == (0.85, 4)


def test_window_and_resolution_arrive_in_config_and_processor(released):
    settings = {
        "inference_kwargs.im_size": 160,
        "inference_kwargs.window_size": 144,
        "inference_kwargs.window_stride": 96,
    }
    model, processor = convert_segmenter_checkpoint(released(settings=settings))
    assert (model.config.inference_mode, model.config.window_size, model.config.window_stride) == ("whole", 144, 96)
    assert dict(processor.size) == {"shortest_edge": 160}
    outputs = processor(images=torch.zeros(3, 200, 320, dtype=torch.uint8), return_tensors="pt")
    assert outputs["pixel_values"].shape == (1, 3, 160, 256)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("vit", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]), ("deit", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])],
)
def test_normalization_arrives_in_the_processor(released, name, mean, std):
    settings = {"net_kwargs.normalization": name, "dataset_kwargs.normalization": name}
    processor = convert_segmenter_checkpoint(released(settings=settings))[1]
    assert (list(processor.image_mean), list(processor.image_std)) == (mean, std)


@pytest.mark.parametrize("patch_type", [REMOVED, None, "pure"])
def test_plain_segmenter_release_has_merging_off(released, patch_type):
    settings = {f"dataset_kwargs.{key}": REMOVED for key in ("selected_layers", "threshold", "merging_window_size")}
    settings["dataset_kwargs.patch_type"] = patch_type
    model, _ = convert_segmenter_checkpoint(released(settings=settings))
    assert model.config.use_token_merging is False
    expected = load_file(PARITY / "mask_transformer" / "plain_128.safetensors")["0.grid_logits"]
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values()).logits[0], expected, atol=1e-4, rtol=0)


def test_plain_release_with_fewer_layers_than_the_default_merge_converts(released):
    settings = {f"dataset_kwargs.{key}": REMOVED for key in ("selected_layers", "threshold", "merging_window_size")}
    settings |= {"dataset_kwargs.patch_type": "pure", "net_kwargs.n_layers": 3}

    def first_three_blocks(weights):
        return {
            name: tensor for name, tensor in weights.items() if not re.match(r"encoder\.blocks\.([3-9]|1\d)\.", name)
        }

    config = convert_segmenter_checkpoint(released(settings=settings, weights=first_three_blocks))[0].config
    assert (config.num_hidden_layers, config.use_token_merging, config.global_merge_layer) == (3, False, None)


def test_folder_and_file_give_the_same_model():
    from_folder, _ = convert_segmenter_checkpoint(PARITY / "linear")
    from_file, _ = convert_segmenter_checkpoint(str(PARITY / "linear" / "checkpoint.pth"))
    assert all(torch.equal(a, b) for a, b in zip(from_folder.parameters(), from_file.parameters(), strict=True))


def test_model_arrives_in_evaluation_mode_and_float32(released):
    model, _ = convert_segmenter_checkpoint(
        released("linear", weights=lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    )
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = released_weights("linear")["encoder.norm.weight"].half().float()
    assert torch.equal(model.algm.layernorm.weight, expected)


def test_names_from_data_parallel_training_are_read(released):
    folder = released("linear", weights=lambda weights: {f"module.{name}": weights[name] for name in weights})
    model, _ = convert_segmenter_checkpoint(folder)
    assert torch.equal(model.algm.layernorm.weight, released_weights("linear")["encoder.norm.weight"])


def test_checkpoint_without_the_imagenet_classifier_converts(released):
    folder = released(weights=lambda weights: {k: v for k, v in weights.items() if not k.startswith("encoder.head.")})
    model, _ = convert_segmenter_checkpoint(folder)
    assert torch.equal(model.algm.layernorm.weight, released_weights("mask_transformer")["encoder.norm.weight"])


@pytest.mark.parametrize("keys", [int, str])  # JSON has only string keys
def test_class_names_are_taken_when_given(keys):
    names = {keys(i): f"class {i}" for i in range(11)}
    config = convert_segmenter_checkpoint(PARITY / "linear", id2label=names)[0].config
    assert config.id2label == {i: f"class {i}" for i in range(11)}
    assert config.label2id["class 10"] == 10


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_saved_folder_gives_the_same_logits_bit_for_bit(tmp_path, decoder):
    model, processor = convert_segmenter_checkpoint(PARITY / decoder)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reloaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(model(pixel_values()).logits, reloaded(pixel_values()).logits)
    reloaded_processor = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert reloaded_processor.to_dict() == processor.to_dict()
    assert check_saved_folder(model, tmp_path) == 0.0
    assert model.config.use_token_merging is True


def test_check_of_a_saved_folder_notices_other_weights(tmp_path):
    model, processor = convert_segmenter_checkpoint(PARITY / "linear")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        model.decode_head.classifier.bias[3] += 0.01
    with pytest.raises(ValueError, match=r"difference=0\.0\d+: .* use_token_merging=True"):
        check_saved_folder(model, tmp_path)


def test_check_of_a_saved_folder_notices_code_that_was_not_carried_along(tmp_path):
    model, processor = convert_segmenter_checkpoint(PARITY / "linear")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "token_merging.py").unlink()
    with pytest.raises(OSError, match=r"token_merging\.py"):
        check_saved_folder(model, tmp_path)


# What is refused: weights


def without(name):
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


def with_extra(name, tensor=None):
    return lambda weights: weights | {name: torch.zeros(64) if tensor is None else tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.norm.bias"), r"={'missing': \['encoder\.norm\.bias'\]}"),
        (without("encoder.cls_token"), r"'missing': \['encoder\.cls_token'\]"),
        (without("encoder.pos_embed"), r"'missing': \['encoder\.pos_embed'\]"),
        (without("decoder.cls_emb"), r"'missing': \['decoder\.cls_emb'\]"),
        (without("encoder.blocks.7.attn.qkv.bias"), r"'missing': \['encoder\.blocks\.7\.attn\.qkv\.bias'\]"),
        (with_extra("encoder.extra"), r"={'unexpected': \['encoder\.extra'\]}"),
        (with_extra("encoder.head.gamma"), r"'unexpected': \['encoder\.head\.gamma'\]"),
        (with_extra("module.encoder.norm.bias"), r"'unexpected': \['module\.encoder\.norm\.bias'\]"),
        (with_extra("decoder.blocks.0.ls.gamma"), r"'unexpected': \['decoder\.blocks\.0\.ls\.gamma'\]"),
        (with_extra("encoder.norm.bias", torch.zeros(65)), r"shape of algm\.layernorm\.bias=\(65,\)"),
        (with_extra("decoder.proj_patch", torch.zeros(64, 32)), r"patch_projection\.weight=\(32, 64\)"),
        (with_extra("encoder.cls_token", torch.zeros(())), r"cls_token=\(\)"),
        (with_extra("steps", torch.tensor(3)), r"steps='torch\.int64'"),
        (with_extra("steps", 3), r"steps='int'"),
        (with_extra("encoder.dist_token"), r"=\['encoder\.dist_token'\]"),
        (lambda weights: {"a": torch.zeros(1)}, r"net_kwargs\.n_layers=12: expected 0 as in the weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(released, change, message):
    with pytest.raises(ValueError, match=message):
        convert_segmenter_checkpoint(released(weights=change))


@pytest.mark.parametrize(("decoder", "other"), [DECODERS, DECODERS[::-1]])
def test_decoder_name_that_disagrees_with_the_weights_is_refused(released, decoder, other):
    message = rf"net_kwargs\.decoder\.name='{other}': expected '{decoder}' as in the weights"
    with pytest.raises(ValueError, match=message):
        convert_segmenter_checkpoint(released(decoder, settings={"net_kwargs.decoder.name": other}))


# What is refused: variant.yml

BAD_SETTINGS = [
    ("net_kwargs.d_model", 96, r"=96: expected 64 as in the weights"),
    ("net_kwargs.d_model", "64", r"='64':"),
    ("net_kwargs.n_layers", 10, r"=10: expected 12 as in the weights"),
    ("net_kwargs.n_layers", 10**9, r"=1000000000: expected 12 as in the weights"),
    ("net_kwargs.patch_size", 8, r"=8: expected 16 as in the weights"),
    ("net_kwargs.patch_size", 0, r"=0:"),
    ("net_kwargs.n_cls", 150, r"=150: expected 11 as in the weights"),
    ("net_kwargs.n_cls", REMOVED, "=None"),
    ("net_kwargs.decoder.n_cls", 12, r"=12: expected 11 as in the weights"),
    ("net_kwargs.image_size", [128, 256], r"=\[128, 256\]:"),
    ("net_kwargs.image_size", 130, r"=130:"),
    ("net_kwargs.image_size", [128], r"=\[128\]:"),
    ("net_kwargs.n_heads", 3, r"=3:"),
    ("net_kwargs.n_heads", True, r"=True:"),
    ("net_kwargs.decoder.n_layers", 3, r"=3: expected 2 as in the weights"),
    ("net_kwargs.decoder.name", "upernet", r"='upernet':"),
    ("net_kwargs.decoder.dropout", 1.5, r"=1\.5:"),
    ("net_kwargs.decoder", REMOVED, r"\.name=None"),
    ("net_kwargs.decoder", "linear", r"\.name=None"),
    ("net_kwargs.normalization", "imagenet", r"='imagenet':"),
    ("dataset_kwargs.normalization", "deit", r"='deit':"),
    ("net_kwargs.distilled", True, r"=True:"),
    ("net_kwargs.dropout", -0.1, r"=-0\.1:"),
    ("net_kwargs.drop_path_rate", 1.0, r"=1\.0:"),
    ("net_kwargs.drop_path_rate", float("nan"), r"=nan:"),
    ("dataset_kwargs.patch_type", "tome", r"='tome':"),
    ("dataset_kwargs.patch_type", REMOVED, "=None"),
    ("dataset_kwargs.selected_layers", [1, 5, 7], r"=\[1, 5, 7\]:"),
    ("dataset_kwargs.selected_layers", 5, r"=5:"),
    ("dataset_kwargs.selected_layers", [5, 5], r"=\[5, 5\]:"),
    ("dataset_kwargs.selected_layers", [0, 5], r"=\[0, 5\]:"),
    ("dataset_kwargs.selected_layers", [1, 13], r"=\[1, 13\]:"),
    ("dataset_kwargs.selected_layers", [1.0, 5.0], r"=\[1\.0, 5\.0\]:"),
    ("dataset_kwargs.threshold", 1.2, r"=1\.2:"),
    ("dataset_kwargs.threshold", "0.9", r"='0\.9':"),
    ("dataset_kwargs.threshold", REMOVED, "=None"),
    ("dataset_kwargs.merging_window_size", [2, 4], r"=\[2, 4\]:"),
    ("dataset_kwargs.merging_window_size", [1, 1], r"=\[1, 1\]:"),
    ("dataset_kwargs.merging_window_size", REMOVED, "=None"),
    ("inference_kwargs.im_size", REMOVED, "=None"),
    ("inference_kwargs.window_size", 8, r"=8:"),
    ("inference_kwargs.window_stride", 200, r"=200:"),
    ("inference_kwargs.window_stride", "128", r"='128':"),
    ("inference_kwargs", REMOVED, r"\.\w+=None"),
    ("net_kwargs", REMOVED, r"\.\S+=None"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_SETTINGS, ids=[row[0] for row in BAD_SETTINGS])
def test_setting_that_is_wrong_is_refused_by_name(released, field, value, message):
    with pytest.raises(ValueError, match=rf"variant\.yml: {re.escape(field)}{message}"):
        convert_segmenter_checkpoint(released(settings={field: value}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net_kwargs: [1", r"variant\.yml: expected plain YAML: while parsing"),
        ("!!python/object/apply:os.mkdir [ran]", r"variant\.yml: expected plain YAML: could not determine"),
        ("- 1\n- 2\n", r"variant\.yml=\[1, 2\]"),
        ("", r"variant\.yml=None"),
    ],
)
def test_variant_that_is_no_plain_mapping_is_refused(released, monkeypatch, tmp_path, text, message):
    monkeypatch.chdir(tmp_path)
    folder = released()
    (folder / "variant.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        convert_segmenter_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_missing_variant_is_refused(released):
    folder = released()
    (folder / "variant.yml").unlink()
    with pytest.raises(ValueError, match=r"variant\.yml='missing'"):
        convert_segmenter_checkpoint(folder)


# What is refused: the checkpoint file


def test_missing_checkpoint_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "checkpoint.pth"):
        with pytest.raises(ValueError, match=r"checkpoint\.pth='missing'"):
            convert_segmenter_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short", b"\x80\x02."], ids=repr)
def test_file_that_is_no_checkpoint_is_refused(released, content):
    folder = released()
    (folder / "checkpoint.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pth: expected a whole file of torch.save"):
        convert_segmenter_checkpoint(folder)


def test_cut_off_checkpoint_is_refused(released):
    folder = released()
    content = (folder / "checkpoint.pth").read_bytes()
    (folder / "checkpoint.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pth: expected a whole file of torch.save"):
        convert_segmenter_checkpoint(folder)


class WritesAFile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_inside_a_checkpoint_is_not_run(released, tmp_path):
    trap = tmp_path / "ran"
    folder = released(checkpoint=lambda weights: {"model": weights, "scheduler": WritesAFile(trap)})
    with pytest.raises(ValueError, match=r"checkpoint\.pth='\w+\.mkdir': expected nothing but tensors"):
        convert_segmenter_checkpoint(folder)
    assert not trap.exists()
    torch.load(folder / "checkpoint.pth", weights_only=False)
    assert trap.exists(), "the trap of this test does not work"


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (lambda weights: weights, r"checkpoint\.pth=\['decoder"),
        (lambda weights: {"state_dict": weights}, r"=\['state_dict'\]"),
        (lambda weights: {"model": {}}, r"=\['model'\]"),
        (lambda weights: [1, 2], "='list'"),
    ],
)
def test_checkpoint_without_a_state_dict_is_refused(released, checkpoint, message):
    with pytest.raises(ValueError, match=message):
        convert_segmenter_checkpoint(released(checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "sky"}, r"id2label={0: 'sky'}: expected .* one for each of 0 to 10"),
        ({i + 1: str(i) for i in range(11)}, r"id2label={1: '0', .*}"),
        (["sky"] * 11, r"id2label=\['sky'"),
        ({"sky": 0}, r"id2label={'sky': 0}"),
        (dict.fromkeys(range(11)), r"id2label={0: None"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        convert_segmenter_checkpoint(PARITY / "linear", id2label=names)


# The script


def run_script(monkeypatch, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stopped.value.code


def test_script_converts_checks_and_tells_how_to_load(tmp_path, monkeypatch, capsys):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({str(i): f"class {i}" for i in range(11)}))
    output = tmp_path / "converted model"
    assert run_script(monkeypatch, checkpoint=PARITY / "linear", output_dir=output, id2label=names) == 0
    printed = capsys.readouterr().out
    assert "reloaded and compared, merging on and off: logits differ by at most 0.0e+00" in printed
    assert f"AutoModelForSemanticSegmentation.from_pretrained('{output}', trust_remote_code=True)" in printed
    written = {path.name for path in output.iterdir()}
    assert written >= {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_algm.py"}
    config = json.loads((output / "config.json").read_text())
    assert (config["merge_threshold"], config["id2label"]["10"]) == (0.9, "class 10")


PUBLISHED = {"checkpoint": PARITY / "linear", "push_to_hub": "someone/algm-converted", "license": "mit"}


def test_script_publishes_as_everything_here_is_published(tmp_path):
    with HubStandIn() as hub:
        environment = os.environ | hub.environment(tmp_path / "cache") | {"OMP_NUM_THREADS": "1"}
        # A stand-in for the installed package where the tests run from a checkout that is not installed.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, str(SCRIPT), "--output_dir", str(tmp_path / "out")]
        command += [word for name, value in PUBLISHED.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        files = hub.files("someone/algm-converted")
        messages = list(hub.repositories["someone/algm-converted"].messages.values())
        assert messages == ["initial commit", "Upload model"] and hub.head("someone/algm-converted") in done.stdout
        assert {"model.safetensors", "preprocessor_config.json", "modeling_algm.py"} <= set(files)
        assert b"\nlicense: mit\n" in files["README.md"]


def test_script_says_in_one_line_why_nothing_was_published(tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, **PUBLISHED, output_dir=tmp_path / "out") == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error: HF_HUB_OFFLINE is set")] == errors[-1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"--checkpoint": "none.pth"}, "none.pth='missing'"),
        ({"--output_dir": "names.json"}, "--output_dir='names.json'"),
        ({"--push_to_hub": "me/algm-1.0"}, "repo_id='me/algm-1.0'"),
        ({"--push_to_hub": "me/algm"}, "--license=None"),
        ({"--id2label": "none.json"}, "none.json cannot be read as JSON"),
        ({"--id2label": "names.json"}, "id2label={'0': 'sky'}"),
    ],
)
def test_script_refuses_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("names.json").write_text('{"0": "sky"}')
    arguments = {"--checkpoint": str(PARITY / "linear"), "--output_dir": "out"} | arguments
    assert run_script(monkeypatch, **{name[2:]: value for name, value in arguments.items()}) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not Path("out").exists()
