# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What `pip install` brings to a person who has no checkout: the wheel, built and installed away from this one."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions

import pytest
from places import ROOT
from transformers import ViTConfig, ViTModel

import algm_hf


# Asked of the metadata: an `import pip` would keep setuptools from giving torch.compile its distutils.
if not list(distributions(name="pip")):
    pytest.skip("pip builds and installs the wheel, and is not installed", allow_module_level=True)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

# Runs apart from the checkout and from what is installed in this environment.
USES_IT = """
import sys
installed, vit = sys.argv[1:]
sys.path.insert(0, installed)
import evaluate
import algm_hf
assert algm_hf.__file__.startswith(installed), algm_hf.__file__
from algm_hf import *
from algm_hf.evaluation.metrics import MEAN_IOU_PATH
print(sorted(name for name in dir() if name in algm_hf.__all__))
model, processor = from_vit(vit, id2label={0: "road", 1: "sky"}, image_size=32)
print(model.config.num_labels, processor.patch_size)
metric = evaluate.load(MEAN_IOU_PATH)
metric.add(prediction=[[0, 1], [1, 1]], reference=[[0, 1], [0, 255]])
print(metric.compute(num_labels=2, ignore_index=255)["per_category_iou"].tolist())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "algm_hf", source / "algm_hf", ignore=shutil.ignore_patterns("__pycache__"))
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package(wheel):
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "algm_hf").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("algm_hf/")}
    assert packed == {name for name in here if "__pycache__" not in name}


def test_the_installed_wheel_offers_every_public_name_converts_a_vit_and_scores(wheel, tmp_path):
    installed, vit = tmp_path / "installed", tmp_path / "vit"
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", installed, wheel]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(vit)
    command = [sys.executable, "-I", "-c", USES_IT, str(installed), str(vit)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(sorted(algm_hf.__all__)), "2 8", "[0.5, 0.5]"]
