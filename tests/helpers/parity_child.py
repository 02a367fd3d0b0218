# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Runs in the fresh process of `test_parity.py`, where `algm_hf` cannot be imported: loads a saved folder through the
Auto classes and writes what the model gives for every reference case to one safetensors file.

    python -I parity_child.py MODEL_FOLDER CASES_JSON IMAGES_SAFETENSORS DECODER OUTPUT_SAFETENSORS
"""

import importlib.util
import json
import sys


class PackageBlocker:
    """Hides an installed `algm_hf`, editable installs included: it stands before every other finder."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "algm_hf":
            raise ModuleNotFoundError(f"{name} is hidden in this process", name=name)
        return None


def assert_package_is_hidden() -> None:
    try:
        importlib.util.find_spec("algm_hf")
    except ModuleNotFoundError:
        return
    raise AssertionError("algm_hf can be imported in the fresh process")


def set_merging(config, case: dict) -> None:
    config.use_token_merging = case["layers"] is not None
    if case["layers"] is not None:
        config.local_merge_layer, config.global_merge_layer = case["layers"]
        config.merge_threshold = case["threshold"]


def run(model, encoder, upsample_logits, pixel_values) -> dict:
    outputs = model(pixel_values, output_token_merging=True)
    image_size, patch_size = tuple(pixel_values.shape[-2:]), model.config.patch_size
    return {
        "grid_logits": outputs.logits,
        "token_counts": outputs.token_counts,
        "patch_to_token": outputs.patch_to_token,
        "features": encoder(pixel_values).last_hidden_state,
        "masks": upsample_logits(outputs.logits, image_size, patch_size),
    }


def main(folder: str, cases_path: str, images_path: str, decoder: str, output_path: str) -> None:
    sys.meta_path.insert(0, PackageBlocker())
    assert_package_is_hidden()

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

    model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    package = type(model).__module__.rpartition(".")[0]
    upsample_logits = sys.modules[f"{package}.segmentation_loss"].upsample_logits

    with open(cases_path) as file:
        cases = json.load(file)["cases"][decoder]
    images = load_file(images_path)
    results = {}

    def keep(prefix: str, tensors: dict) -> None:
        results.update({f"{prefix}.{name}": tensor.clone() for name, tensor in tensors.items()})

    with torch.no_grad():
        for name, case in cases.items():
            set_merging(model.config, case)
            set_merging(encoder.config, case)
            pixel_values = images[case["images"]] / 127.5 - 1
            batched = run(model, encoder, upsample_logits, pixel_values)
            for i in range(len(pixel_values)):
                alone = run(model, encoder, upsample_logits, pixel_values[i : i + 1])
                keep(f"{name}.alone.{i}", {field: tensor[0] for field, tensor in alone.items()})
                keep(f"{name}.batch.{i}", {field: tensor[i] for field, tensor in batched.items()})
    keep("processor", processor(images=list(images["square_128"]), return_tensors="pt"))
    save_file(results, output_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
