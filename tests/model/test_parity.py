# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reference numbers of the method, computed in float64 by an implementation that is not in this repository
(`fixtures/parity`): released-format checkpoint -> `convert_segmenter_checkpoint` -> `save_pretrained` -> Auto classes
in a fresh process that cannot import this package.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import HELPERS, PARITY
from safetensors.torch import load_file

from algm_hf.conversion.segmenter_release import convert_segmenter_checkpoint


CHILD = HELPERS / "parity_child.py"
CASES = json.loads((PARITY / "cases.json").read_text())["cases"]
CASE_NAMES = list(CASES["linear"])
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def run_in_fresh_process(decoder: str, folder: Path) -> dict[str, torch.Tensor]:
    """Converts, saves, and returns what a process without this package computes from the saved folder."""
    model, processor = convert_segmenter_checkpoint(PARITY / decoder)
    model.save_pretrained(folder / "saved")
    processor.save_pretrained(folder / "saved")
    (folder / "hf_home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [folder / "saved", PARITY / "cases.json", PARITY / "images.safetensors", decoder]
    command = [sys.executable, "-I", CHILD, *arguments, folder / "results.safetensors"]
    child = subprocess.run(map(str, command), cwd=folder, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return load_file(folder / "results.safetensors")


@pytest.fixture(scope="module", params=list(CASES))
def decoder(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def results(decoder, tmp_path_factory) -> dict[str, torch.Tensor]:
    return run_in_fresh_process(decoder, tmp_path_factory.mktemp(decoder))


def expected_assignment(expected: dict[str, torch.Tensor], image: int, num_patches: int) -> torch.Tensor:
    """Token of the class token and of each patch; the plain cases give none, there every patch keeps its own."""
    return expected.get(f"{image}.assignment", torch.arange(num_patches + 1))


def check_image(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], image: int, tokens: list[int]):
    class_token = torch.tensor([0])
    found_assignment = torch.cat([class_token, found["patch_to_token"]])
    assignment = expected_assignment(expected, image, found["patch_to_token"].numel())
    sizes = expected.get(f"{image}.size", torch.ones(tokens[-1]))
    assert found["token_counts"].tolist() == tokens
    assert found_assignment.tolist() == assignment.tolist()
    assert found_assignment.bincount().tolist() == sizes.tolist()
    torch.testing.assert_close(found["grid_logits"], expected[f"{image}.grid_logits"], **TOLERANCE)

    # The encoder's output is restored to one row per patch; of images after the first only four tokens are recorded.
    features = expected[f"{image}.features"]
    recorded = assignment < len(features)
    assert recorded.all() or (image > 0 and len(features) == 4)
    torch.testing.assert_close(found["features"][recorded], features[assignment[recorded]], **TOLERANCE)
    if f"{image}.masks" in expected:
        torch.testing.assert_close(found["masks"], expected[f"{image}.masks"], **TOLERANCE)


@pytest.mark.parametrize("mode", ["alone", "batch"])
@pytest.mark.parametrize("name", CASE_NAMES)
def test_reference_is_reproduced_in_a_fresh_process(decoder, results, name, mode):
    expected = load_file(PARITY / decoder / f"{name}.safetensors")
    all_tokens = CASES[decoder][name]["tokens"]
    fields = ("grid_logits", "token_counts", "patch_to_token", "features", "masks")
    for image, tokens in enumerate(all_tokens):
        check_image({field: results[f"{name}.{mode}.{image}.{field}"] for field in fields}, expected, image, tokens)


def test_fixtures_hold_seven_cases_per_decoder_and_masks_in_two():
    assert set(CASES) == {"mask_transformer", "linear"}
    for decoder, cases in CASES.items():
        assert list(cases) == CASE_NAMES
        assert len(cases) == 7
        recorded = {name: load_file(PARITY / decoder / f"{name}.safetensors") for name in cases}
        assert sum("0.masks" in tensors for tensors in recorded.values()) == 2
        for name, tensors in recorded.items():
            assert all(f"{i}.grid_logits" in tensors for i in range(len(cases[name]["tokens"])))


def test_reloaded_processor_gives_the_pixel_values_of_the_reference(results):
    images = load_file(PARITY / "images.safetensors")["square_128"]
    torch.testing.assert_close(results["processor.pixel_values"], images / 127.5 - 1, atol=1e-6, rtol=0)
