# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Runs in the fresh process of `test_image_processing_outputs.py`, where `algm_hf` (and, if asked, torchvision) cannot be
imported: loads a saved folder through AutoImageProcessor, uses it, saves it again and loads that.

    python -I image_processing_child.py FOLDER RESAVED_FOLDER [without_torchvision]
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


def load(folder: str, **kwargs):
    import transformers
    from packaging.version import Version

    if Version(transformers.__version__) >= Version("5.18.0"):
        from transformers import AutoImageProcessor
    else:
        # Until 5.17 the public name asks for torchvision whatever the model; the class itself works without.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, **kwargs)


def describe(folder: str, **kwargs) -> dict:
    import numpy as np

    processor = load(folder, **kwargs)
    pixels = np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)
    inputs = processor(pixels, np.zeros((24, 40), dtype=np.uint8), return_tensors="pt")
    return {
        "class": type(processor).__name__,
        "backend": processor.backend,
        "settings": processor.to_dict(),
        "module": type(processor).__module__,
        "shape": list(inputs.pixel_values.shape),
        "mean": inputs.pixel_values.mean().item(),
    }


def main(folder: str, resaved: str, *options: str) -> None:
    if "without_torchvision" in options:
        sys.modules["torchvision"] = None
    sys.meta_path.insert(0, PackageBlocker())

    from transformers.utils import is_torchvision_available

    load(folder).save_pretrained(resaved)
    results = {
        "torchvision": is_torchvision_available(),
        "default": describe(folder),
        "pil": describe(folder, backend="pil"),
        "torchvision backend": describe(folder, backend="torchvision"),
        "resaved": describe(resaved),
        "resaved pil": describe(resaved, backend="pil"),
        "changed": describe(folder, size=32, do_normalize=False),
    }
    try:
        importlib.util.find_spec("algm_hf")
    except ModuleNotFoundError:
        json.dump(results, sys.stdout)
    else:
        raise AssertionError("algm_hf can be imported in the fresh process")


if __name__ == "__main__":
    main(*sys.argv[1:])
