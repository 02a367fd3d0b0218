# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Saving, loading and sharing: what reaches a person who has transformers but not this package."""

import json
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from safetensors.torch import load_file
from saved_models import CHILD_PREAMBLE, NAMES, flat_image, label_map
from tiny_models import blocky_images, tiny_config, tiny_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils import logging

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor, AlgmModel


def save(folder, **overrides):
    model = tiny_model(id2label=NAMES, **overrides)
    model.save_pretrained(folder)
    AlgmImageProcessor(size={"shortest_edge": 64}, patch_size=8).save_pretrained(folder)
    return model


def run_child(code, cwd, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as empty:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": empty, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD_PREAMBLE + code, *map(str, arguments)]
        result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_saved_models_load_with_equal_weights_and_logits_bit_for_bit(tmp_path):
    model, images = save(tmp_path, drop_path_rate=0.2), blocky_images(2, 64, 64)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(loaded) is AlgmForSemanticSegmentation
    assert not list(model.named_buffers()), "no buffers, nothing that loading could leave uninitialised"
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert torch.equal(model(images).logits, loaded(images).logits)
    assert loaded.all_tied_weights_keys == {}
    assert loaded.config.id2label == NAMES


def test_models_build_on_the_meta_device():
    with torch.device("meta"):
        for cls in (AlgmModel, AlgmForSemanticSegmentation):
            model = cls(tiny_config(drop_path_rate=0.2, num_register_tokens=2))
            assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSemanticSegmentation])
def test_the_auto_classes_build_models_from_a_config(auto_class):
    assert isinstance(auto_class.from_config(tiny_config()), (AlgmModel, AlgmForSemanticSegmentation))


def test_the_encoder_of_a_segmenter_loads_alone(tmp_path):
    model = save(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    for name, value in model.algm.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name


def test_settings_can_be_overridden_while_loading(tmp_path):
    save(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, use_token_merging=False, merge_threshold=0.1)
    assert model.config.use_token_merging is False and model.config.merge_threshold == 0.1


@pytest.mark.parametrize("decoder_type", ["mask_transformer", "linear"])
def test_a_new_set_of_classes_replaces_only_the_parameters_that_depend_on_it(tmp_path, decoder_type, caplog):
    old = save(tmp_path, decoder_type=decoder_type)
    names = {0: "water", 1: "land", 2: "ice"}
    logging.enable_propagation()
    new = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, id2label=names, label2id={name: i for i, name in names.items()}, ignore_mismatched_sizes=True
    )
    logging.disable_propagation()
    assert new.config.num_labels == 3 and new(blocky_images(1, 64, 64)).logits.shape[1] == 3
    expected = {
        "linear": {"decode_head.classifier.weight", "decode_head.classifier.bias"},
        "mask_transformer": {
            "decode_head.class_embeddings",
            "decode_head.mask_norm.weight",
            "decode_head.mask_norm.bias",
        },
    }[decoder_type]
    before, after = old.state_dict(), new.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == expected
    assert all(torch.equal(before[name], after[name]) for name in before if name not in expected)
    assert all(torch.isfinite(after[name]).all() for name in expected)
    assert all(name in caplog.text for name in expected), caplog.text
    assert after[min(expected)].float().std() > 0 or "bias" in min(expected)


def test_a_folder_loads_where_this_package_is_not_installed(tmp_path):
    folder = tmp_path / "algm-vit-ti-1.0 with spaces"
    model = save(folder)
    images = blocky_images(3, 64, 72)
    torch.save(images, tmp_path / "images.pt")
    run_child(
        """
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
folder, images, target = sys.argv[1], torch.load(sys.argv[2], weights_only=True), sys.argv[3]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert "transformers_modules" in type(model).__module__ and "algm_hf" not in sys.modules
assert config.model_type == "algm" and processor.patch_size == 8
with torch.no_grad():
    save_file({"logits": model(images).logits, "features": encoder(images).last_hidden_state}, target)
# Saved again, the folder must not point to where it came from.
model.save_pretrained(sys.argv[4])
processor.save_pretrained(sys.argv[4])
""",
        tmp_path,
        folder,
        tmp_path / "images.pt",
        tmp_path / "found.safetensors",
        tmp_path / "again",
    )
    found = load_file(tmp_path / "found.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(images).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(found["features"], model.algm(images).last_hidden_state, atol=1e-5, rtol=0)
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForSemanticSegmentation"}
    assert not any("--" in entry for entry in auto_map.values())
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in (tmp_path / "again").glob("*.py")}


@pytest.mark.parametrize("path", ["./algm-vit-b-1.0/", ".", "absolute path with spaces"])
def test_awkward_folder_names_load(tmp_path, path):
    folder = {".": tmp_path / "here", "./algm-vit-b-1.0/": tmp_path / "algm-vit-b-1.0"}.get(path, tmp_path / path)
    save(folder)
    result = run_child(
        """
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, processor.patch_size)
""",
        folder if path == "." else tmp_path,
        path if path.startswith(".") else folder,
    )
    assert result.stdout.split() == ["AlgmForSemanticSegmentation", "8"]


def test_loading_needs_no_package_but_those_of_transformers_and_torch(tmp_path):
    model, images = save(tmp_path / "model"), blocky_images(1, 64, 64)
    torch.save(images, tmp_path / "images.pt")
    code = """
others = "accelerate datasets evaluate einops timm matplotlib pandas scipy sklearn torchvision".split()
sys.modules.update(dict.fromkeys(others))  # not to be found, and not to be imported
import torch
from transformers import AutoModelForSemanticSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
outputs = model(torch.load(sys.argv[2], weights_only=True))
torch.save(outputs.logits.detach(), sys.argv[3])
assert processor.post_process_semantic_segmentation(outputs, [(70, 50)])[0].shape == (70, 50)
assert not any(sys.modules[other] for other in others)
"""
    run_child(code, tmp_path, tmp_path / "model", tmp_path / "images.pt", tmp_path / "logits.pt")
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(found, model(images).logits, atol=1e-5, rtol=0)


def test_a_subclass_saves_without_pointing_to_code_that_is_not_there(tmp_path):
    class Renamed(AlgmForSemanticSegmentation):
        pass

    Renamed(tiny_config()).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text()).get("auto_map", {})
    assert "test_sharing.AlgmModel" not in auto_map.values()


def test_remote_code_is_not_run_without_consent(tmp_path):
    save(tmp_path / "model")
    code = """
from transformers import AutoModelForSemanticSegmentation
try:
    AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    print("refused:", error)
"""
    assert "refused:" in run_child(code, tmp_path, tmp_path / "model").stdout


# --- pipeline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_pipeline_gives_masks_of_the_original_size(tmp_path, dtype):
    save(tmp_path / "model")
    assert "custom_pipelines" not in json.loads((tmp_path / "model" / "config.json").read_text())
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "model"), trust_remote_code=True, dtype=dtype)
    image = flat_image(90, 70, seed=1)
    image.save(tmp_path / "image.png")
    from_image, from_path = segmenter(image), segmenter(str(tmp_path / "image.png"))
    assert all(entry["mask"].size == (90, 70) for entry in from_image)
    assert torch.equal(label_map(from_image), label_map(from_path))
    processor, model = segmenter.image_processor, segmenter.model
    inputs = processor(image, return_tensors="pt").to(dtype)
    with torch.no_grad():
        outputs = model(**inputs)
    expected = nn.functional.interpolate(outputs.logits.float(), size=(70, 90), mode="bilinear").argmax(1)[0]
    assert torch.equal(label_map(from_image), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[(96, 64)] * 3, [(90, 70), (64, 128), (200, 66)]], ids=["equal", "different"])
def test_the_pipeline_gives_the_same_masks_whatever_its_batch_size(tmp_path, sizes, dtype):
    save(tmp_path / "model")
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "model"), trust_remote_code=True, dtype=dtype)
    images = [flat_image(*size, seed=seed) for seed, size in enumerate(sizes)]
    single, paired = segmenter(images, batch_size=1), segmenter(images, batch_size=2)
    for image, one, two in zip(images, single, paired, strict=True):
        assert one[0]["mask"].size == image.size
        alone = label_map(segmenter(image))
        assert torch.equal(label_map(one), alone)
        # Half precision rounds differently in batches of different shapes; pixels between two classes may flip.
        agreement = (label_map(two) == alone).float().mean()
        assert agreement == 1 if dtype == torch.float32 else agreement > 0.98


def test_the_pipeline_loads_and_runs_without_a_word_on_standard_error(tmp_path):
    save(tmp_path / "model")
    code = """
from PIL import Image
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar
disable_progress_bar()
pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)(Image.new("RGB", (80, 50)))
"""
    assert run_child(code, tmp_path, tmp_path / "model").stderr == ""


# --- Trainer ---------------------------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    def __init__(self, num=4):
        self.images = blocky_images(num, 32, 32)
        self.labels = (self.images[:, 0] > 0).long()
        self.labels[:, :4] = 255

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def trainer(folder, model, **arguments):
    defaults = {"max_steps": 1, "learning_rate": 1e-3, "report_to": "none", "logging_steps": 1, "seed": 0}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "remove_unused_columns": True}
    args = TrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    processor = AlgmImageProcessor(size={"shortest_edge": 32}, patch_size=8)
    return Trainer(model=model, args=args, train_dataset=Pairs(), eval_dataset=Pairs(3), processing_class=processor)


def test_gradient_accumulation_changes_neither_loss_nor_gradient_norm(tmp_path):
    logs = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        run = trainer(
            tmp_path,
            tiny_model(decoder_dropout_prob=0.0),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        run.train()
        logs.append(next(entry for entry in run.state.log_history if "grad_norm" in entry))
    for key in ("loss", "grad_norm"):
        assert logs[0][key] == pytest.approx(logs[1][key], rel=1e-5)


def test_evaluation_gathers_only_the_logits(tmp_path):
    run = trainer(tmp_path, tiny_model(), per_device_eval_batch_size=2)
    prediction = run.predict(run.eval_dataset)
    assert prediction.predictions.shape == (3, 5, 4, 4) and prediction.label_ids.shape == (3, 32, 32)


def test_a_trained_and_saved_folder_segments_where_this_package_is_not_installed(tmp_path):
    """Load from a folder as a person without this package does, train a step, save, load again elsewhere."""
    save(tmp_path / "start")
    code = """
import torch
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, Trainer, TrainingArguments
class Pairs(Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): return {"pixel_values": torch.ones(3, 32, 32) * i, "labels": torch.ones(32, 32).long()}
start, result = sys.argv[1:3]
model = AutoModelForSemanticSegmentation.from_pretrained(start, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(start, trust_remote_code=True)
args = TrainingArguments(output_dir=result, max_steps=1, report_to="none", use_cpu=True, save_strategy="steps",
    save_steps=1, learning_rate=1e-2)
trainer = Trainer(model=model, args=args, train_dataset=Pairs(), processing_class=processor)
trainer.train()
trainer.save_model(result)
model.eval()
torch.save(model(torch.ones(1, 3, 40, 48)).logits, result + "/expected.pt")
"""
    run_child(code, tmp_path, tmp_path / "start", tmp_path / "result")
    assert (tmp_path / "result" / "checkpoint-1" / "preprocessor_config.json").exists()
    code = """
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, pipeline
for folder in (sys.argv[1], sys.argv[1] + "/checkpoint-1"):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
    expected = torch.load(sys.argv[1] + "/expected.pt", weights_only=True)
    assert torch.equal(model(torch.ones(1, 3, 40, 48)).logits, expected)
    masks = pipeline("image-segmentation", model=folder, trust_remote_code=True)(Image.new("RGB", (80, 50)))
    assert masks[0]["mask"].size == (80, 50)
"""
    run_child(code, tmp_path, tmp_path / "result")


# --- devices ---------------------------------------------------------------------------------------------------------


def test_a_model_split_between_memory_and_disk_gives_the_same_logits(tmp_path):
    model, images = save(tmp_path / "model"), blocky_images(2, 64, 64)
    parts = dict.fromkeys(("algm.embeddings", "algm.layernorm", "decode_head"), "cpu")
    parts |= {f"algm.layers.{index}": "disk" if index > 1 else "cpu" for index in range(4)}
    split = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path / "model", device_map=parts, offload_folder=str(tmp_path / "offload")
    )
    with torch.no_grad():
        torch.testing.assert_close(split(images).logits, model(images).logits, atol=1e-5, rtol=0)


def test_device_map_auto_loads(tmp_path):
    model, images = save(tmp_path), blocky_images(1, 64, 64)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, device_map="auto")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits.cpu(), model(images).logits, atol=1e-4, rtol=0)


def test_local_auto_classes_know_the_model_type(tmp_path):
    save(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AlgmConfig)
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), AlgmImageProcessor)
