# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny data set and tiny trainings that the tests of training share."""

import contextlib
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from places import ROOT, script
from safetensors.torch import load_file


SCRIPTS = ("train", "train_no_trainer")
CLASSES = ("sky", "road", "car")
# Drop path, dropout and augmentation are on: what a resumed training has to repeat.
TINY_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "global_merge_layer": 2,
    "merge_threshold": 0.5,
    "initializer_range": 0.1,
    "drop_path_rate": 0.3,
    "decoder_num_hidden_layers": 1,
}
TINY = {
    "dataset": "folder",
    "init_from": "scratch:custom",
    "crop_size": 32,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "max_steps": 3,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


def write_data(folder: Path, num_train: int = 4, num_validation: int = 3) -> Path:
    """Images of 40 x 48 whose colours tell the class, in squares of 8 pixels; `classes.txt` names three classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("validation", num_validation)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = generator.integers(0, 3, (5, 6)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
            pixels = labels[..., None] * 80 + generator.integers(0, 40, (*labels.shape, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(folder / "annotations" / split / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return folder


def arguments(data: Path, output: Path, config: dict = TINY_CONFIG, **changes) -> list[str]:
    """The command line of a tiny training with fields of the config; `None` leaves an argument out, a list gives it
    several values."""
    overrides = [f"{name}={value}" for name, value in config.items()]
    values = {**TINY, "config_overrides": overrides or None, "data_dir": data, "output_dir": output, **changes}
    tokens = []
    for name, value in values.items():
        if value is not None:
            tokens += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return tokens


@contextlib.contextmanager
def fresh_accelerate():
    """accelerate keeps its state per process: a training begins without that of the one before, and leaves none."""
    try:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def train(name: str, tokens: list[str]) -> None:
    """Runs a script's `main` in this process."""
    with fresh_accelerate(), mock.patch.object(sys, "argv", [str(ROOT / "scripts" / f"{name}.py"), *tokens]):
        script(name).main()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
