# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Logits become label maps, and a saved processor comes back, here and where this package is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from places import HELPERS
from transformers import AutoImageProcessor
from transformers.utils import ModelOutput, logging

import algm_hf
from algm_hf import label_maps
from algm_hf.image_processing_algm import AlgmImageProcessor, AlgmImageProcessorPil


CHILD = HELPERS / "image_processing_child.py"
SETTINGS = {
    "do_resize": True,
    "size": {"shortest_edge": 24, "longest_edge": 64},
    "resample": 3,
    "patch_size": 8,
    "do_rescale": True,
    "rescale_factor": 0.01,
    "do_normalize": True,
    "image_mean": (0.1, 0.2, 0.3),
    "image_std": (0.4, 0.5, 0.6),
    "do_convert_rgb": True,
    "do_reduce_labels": True,
    "ignore_index": 254,
}


def upsampled(scores, size):
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


# Label maps from logits


def test_label_map_is_the_argmax_of_upsampled_logits():
    logits = torch.randn(2, 7, 4, 6)
    sizes = [(50, 75), (64, 96)]
    processor = AlgmImageProcessor()
    expected = [upsampled(scores, size).argmax(dim=0) for scores, size in zip(logits, sizes, strict=True)]
    for target_sizes in (sizes, torch.tensor(sizes), np.array(sizes), [torch.tensor(size) for size in sizes]):
        for outputs in (ModelOutput(logits=logits), {"logits": logits}, SimpleNamespace(logits=logits)):
            maps = processor.post_process_semantic_segmentation(outputs, target_sizes)
            assert all(label_map.dtype == torch.int64 for label_map in maps)
            assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))


@pytest.mark.parametrize("max_elements", [1, 50 * 75 * 2, 50 * 75 * 3 + 1])
def test_blocks_of_classes_change_nothing(monkeypatch, max_elements):
    monkeypatch.setattr(label_maps, "MAX_ELEMENTS", max_elements)
    logits = torch.randn(1, 7, 4, 6)
    maps = AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits}, [(50, 75)])
    assert torch.equal(maps[0], upsampled(logits[0], (50, 75)).argmax(dim=0))


@pytest.mark.parametrize("max_elements", [1, 2**22])
def test_ties_go_to_the_lowest_class(monkeypatch, max_elements):
    monkeypatch.setattr(label_maps, "MAX_ELEMENTS", max_elements)
    logits = torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0])[None, :, None, None].expand(1, 5, 3, 3)
    for target_sizes in (None, [(9, 12)]):
        maps = AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits}, target_sizes)
        assert (maps[0] == 1).all()


def test_never_all_classes_at_full_size_at_once(monkeypatch):
    largest = []
    interpolate = F.interpolate

    def spy(scores, *args, **kwargs):
        result = interpolate(scores, *args, **kwargs)
        largest.append(result.numel())
        return result

    monkeypatch.setattr(label_maps, "MAX_ELEMENTS", 2**18)
    monkeypatch.setattr(F, "interpolate", spy)
    logits = torch.randn(1, 40, 8, 8)
    AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits}, [(256, 256)])
    assert len(largest) >= 10
    assert max(largest) <= 2**18


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_upsampled_in_float32(dtype):
    logits = torch.randn(1, 7, 4, 6).to(dtype).requires_grad_()
    maps = AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits}, [(50, 75)])
    assert torch.equal(maps[0], upsampled(logits[0].float(), (50, 75)).argmax(dim=0))


def test_without_target_sizes_the_resolution_of_the_logits_is_kept():
    logits = torch.randn(2, 7, 4, 6)
    maps = AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits, "grid_sizes": None})
    assert torch.equal(torch.stack(maps), logits.argmax(dim=1))


def test_pixel_level_logits_need_no_upsampling():
    logits = torch.randn(1, 5, 33, 47)
    for processor in (AlgmImageProcessor(), AlgmImageProcessor(do_resize=False)):
        for input_sizes in (None, [(33, 47)]):
            maps = processor.post_process_semantic_segmentation({"logits": logits}, [(33, 47)], input_sizes)
            assert torch.equal(maps[0], logits[0].argmax(dim=0))


def test_only_the_grid_of_each_image_counts():
    grid_sizes = torch.tensor([[2, 6], [4, 3]])
    logits = torch.randn(2, 7, 4, 6)
    outputs = ModelOutput(logits=logits, grid_sizes=grid_sizes)
    processor = AlgmImageProcessor()
    for i, (rows, columns) in enumerate(grid_sizes.tolist()):
        alone = {"logits": logits[i : i + 1, :, :rows, :columns]}
        for target_sizes in (None, [(40, 100), (77, 33)]):
            together = processor.post_process_semantic_segmentation(outputs, target_sizes)[i]
            single = processor.post_process_semantic_segmentation(alone, target_sizes and target_sizes[i : i + 1])[0]
            assert torch.equal(together, single)


@pytest.mark.parametrize("given", ["input_sizes", "do_resize=False"])
def test_padding_of_the_model_is_cut_before_the_final_resize(given):
    logits = torch.randn(1, 5, 3, 5)  # 40 x 70 pixels padded to 48 x 80
    full = upsampled(logits[0], (48, 80))[:, :40, :70]
    processor = AlgmImageProcessor(do_resize=given == "input_sizes")
    input_sizes = [(40, 70)] if given == "input_sizes" else None
    maps = processor.post_process_semantic_segmentation({"logits": logits}, [(40, 70)], input_sizes)
    assert torch.equal(maps[0], full.argmax(dim=0))
    if input_sizes:
        maps = processor.post_process_semantic_segmentation({"logits": logits}, [(80, 140)], torch.tensor(input_sizes))
        assert torch.equal(maps[0], upsampled(full, (80, 140)).argmax(dim=0))
        maps = processor.post_process_semantic_segmentation({"logits": logits}, input_sizes=input_sizes)
        assert torch.equal(maps[0], full.argmax(dim=0))


def test_whole_patches_are_resized_in_one_step():
    logits = torch.randn(1, 5, 3, 5)
    maps = AlgmImageProcessor().post_process_semantic_segmentation({"logits": logits}, [(100, 200)], [(48, 80)])
    assert torch.equal(maps[0], upsampled(logits[0], (100, 200)).argmax(dim=0))


@pytest.mark.parametrize(
    ("outputs", "sizes", "message"),
    [
        ({}, {}, "outputs.logits.shape=None"),
        ({"logits": torch.zeros(3, 4, 4)}, {}, r"outputs.logits.shape=\(3, 4, 4\)"),
        (None, {"target_sizes": [(8, 8)]}, r"len\(target_sizes\)=1: expected 2"),
        (None, {"target_sizes": [(8, 8), (0, 8)]}, r"target_sizes\[1\]=\(0, 8\): expected two positive"),
        (None, {"target_sizes": torch.tensor([8, 8])}, r"target_sizes\[0\]=8: expected two positive"),
        (None, {"target_sizes": [(8, 8, 3)] * 2}, r"target_sizes\[0\]=\(8, 8, 3\)"),
        (None, {"target_sizes": [(8, 8.5)] * 2}, r"target_sizes\[0\]=\(8, 8.5\)"),
        (None, {"input_sizes": [(70, 64)] * 2}, r"input_sizes=\(70, 64\): .* \(4, 4\) patches of 16"),
        ({"logits": torch.full((1, 2, 4, 4), torch.nan)}, {}, r"outputs.logits\[0\]='NaN or infinite'"),
    ],
)
def test_outputs_and_sizes_that_do_not_fit_are_refused(outputs, sizes, message):
    outputs = {"logits": torch.zeros(2, 3, 4, 4)} if outputs is None else outputs
    with pytest.raises(ValueError, match=message):
        AlgmImageProcessor().post_process_semantic_segmentation(outputs, **sizes)


def test_a_map_goes_in_and_comes_out_where_it_was():
    classes = np.zeros((60, 90), dtype=np.uint8)
    classes[20:40, 30:60] = 1
    processor = AlgmImageProcessor(size=64, patch_size=1)
    labels = processor(np.zeros((60, 90, 3), np.uint8), classes, return_tensors="pt").labels
    logits = F.one_hot(labels, 2).permute(0, 3, 1, 2).float()
    (label_map,) = processor.post_process_semantic_segmentation({"logits": logits}, [classes.shape])
    assert (label_map.numpy() != classes).mean() < 0.01


def test_only_the_semantic_post_process_is_offered():
    names = [name for name in dir(AlgmImageProcessor) if name.startswith("post_process")]
    assert names == ["post_process_semantic_segmentation"]


# Saving and loading


@pytest.mark.parametrize("processor_class", [AlgmImageProcessor, AlgmImageProcessorPil])
def test_every_setting_survives_saving_and_loading(processor_class, tmp_path):
    assert set(SETTINGS) == set(processor_class().to_dict()) - {"auto_map", "image_processor_type"}
    processor = processor_class(**SETTINGS)
    processor.save_pretrained(tmp_path)
    loaded = processor_class.from_pretrained(tmp_path)
    for name, value in SETTINGS.items():
        assert getattr(processor, name) == getattr(loaded, name) == value, name
        assert getattr(processor_class(), name) != value or name.startswith("do_"), name
    assert loaded.to_dict() == processor.to_dict()
    image = Image.new("RGB", (50, 40), (200, 100, 50))
    before, after = (p(image, return_tensors="pt").pixel_values for p in (processor, loaded))
    assert torch.equal(before, after)


def test_registered_classes_load_without_remote_code_and_without_warnings(tmp_path, caplog, recwarn):
    AlgmImageProcessor(size=32).save_pretrained(tmp_path)
    logging.enable_propagation()
    try:
        default = AutoImageProcessor.from_pretrained(tmp_path)
        pil = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    finally:
        logging.disable_propagation()
    assert (type(default), type(pil)) == (AlgmImageProcessor, AlgmImageProcessorPil)
    assert (default.backend, pil.backend) == ("torchvision", "pil")
    assert not caplog.records
    assert not recwarn.list


def test_saved_by_either_backend_both_can_be_loaded(tmp_path):
    for processor_class in (AlgmImageProcessor, AlgmImageProcessorPil):
        processor_class().save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert saved["image_processor_type"] == "AlgmImageProcessor"
        module = "image_processing_algm"
        pair = [f"{module}.AlgmImageProcessorPil", f"{module}.AlgmImageProcessor"]
        assert saved["auto_map"] == {"AutoImageProcessor": pair}
        assert (tmp_path / "image_processing_algm.py").is_file()
        assert (tmp_path / "image_inputs.py").is_file()


def run_in_fresh_process(tmp_path, *arguments) -> str:
    """What a new interpreter prints; there must be no warning beside it, neither of python nor of transformers."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1"}
    child = subprocess.run(
        [sys.executable, "-I", "-W", "default", *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    return child.stdout


@pytest.mark.parametrize("options", [[], ["without_torchvision"]])
def test_saved_folder_works_without_this_package(options, tmp_path):
    AlgmImageProcessor(**SETTINGS).save_pretrained(tmp_path / "saved_processor")
    printed = run_in_fresh_process(tmp_path, CHILD, tmp_path / "saved_processor", tmp_path / "resaved", *options)
    results = json.loads(printed)
    without_torchvision = bool(options)
    assert results.pop("torchvision") is not without_torchvision
    for name, result in results.items():
        on_pil = without_torchvision or "pil" in name
        assert result["backend"] == ("pil" if on_pil else "torchvision"), name
        assert result["module"].startswith("transformers_modules.")
        assert result["shape"] == ([1, 3, 32, 56] if name == "changed" else [1, 3, 24, 40]), name
        if name != "changed":
            settings = {key: result["settings"][key] for key in SETTINGS}
            assert settings == json.loads(json.dumps(SETTINGS)), name
            assert abs(result["mean"] - results["default"]["mean"]) < 0.02
    assert results["default"]["class"] == ("AlgmImageProcessorPil" if without_torchvision else "AlgmImageProcessor")


def test_this_package_works_without_torchvision(tmp_path):
    AlgmImageProcessor(size=32).save_pretrained(tmp_path / "saved_processor")
    root = Path(algm_hf.__file__).parents[1]
    code = f"""
import sys
sys.path.insert(0, {str(root)!r})
sys.modules["torchvision"] = None
import numpy as np
import algm_hf
from transformers.models.auto.image_processing_auto import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained("saved_processor")
inputs = processor(np.zeros((40, 60, 3), np.uint8), return_tensors="pt")
print(algm_hf.AlgmImageProcessor().backend, type(processor).__name__, tuple(inputs.pixel_values.shape))
"""
    assert run_in_fresh_process(tmp_path, "-c", code) == "pil AlgmImageProcessorPil (1, 3, 32, 48)\n"
