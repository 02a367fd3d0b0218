# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a result is recorded with: machine, versions, commit and arguments."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from .command_line import redacted
from .files import replace_file


PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "evaluate", "pillow", "numpy")


def describe_environment(model: PreTrainedModel | None = None, commit: str | None = None) -> dict[str, Any]:
    """Where a measurement is about to be made, printable as JSON: machine, settings of torch, versions and commit.

    Args:
        model (`PreTrainedModel`, *optional*): Whose device, dtype and attention are stated; without it, the CPU is.
        commit (`str`, *optional*): Commit to state; without it git is asked, where there is one.
    """
    device = torch.device("cpu") if model is None else model.device
    where = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": installed_versions(PACKAGES),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        # Whoever else uses the processors slows every run down, and not evenly.
        "load_average_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if model is not None:
        where["dtype"] = str(model.dtype).removeprefix("torch.")
        where["attention"] = model.config._attn_implementation
    return where | ({"commit": commit, "uncommitted_changes": None} if commit else _source_commit())


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, by name; not all of them are needed for everything."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def save_run_arguments(output_dir: str | Path, **arguments: Any) -> dict[str, tuple[Any, Any]]:
    """Writes `training_arguments.json`: the command without its secrets, every argument, the versions and the commit,
    and those of earlier runs that this one goes on with.

    Args:
        output_dir (`str` or `Path`): The folder, made if needed.
        arguments: Dataclasses by a name for each.

    Returns:
        `dict[str, tuple]`: arguments that differ from the run before, as `(before, now)`; empty for a first run.
    """
    path = Path(output_dir) / "training_arguments.json"
    values = {
        name: given.to_dict() if isinstance(given, TrainingArguments) else asdict(given)
        for name, given in arguments.items()
    }
    run = {
        "command": shlex.join([Path(sys.executable).name, *redacted(sys.argv)]),
        "arguments": json.loads(json.dumps(values, default=str)),
        "versions": installed_versions(PACKAGES),
    }
    if commit := _source_commit()["commit"]:
        run["commit"] = commit
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"runs": [*runs, run]}, indent=2) + "\n")
    if not runs:
        return {}
    free = {"resume_from_checkpoint", "output_dir", "run_name"}
    before, now = ({k: v for part in each["arguments"].values() for k, v in part.items()} for each in (runs[-1], run))
    return {k: (before.get(k), v) for k, v in now.items() if k not in free and before.get(k) != v}


def _processor_name() -> str:
    """What Linux calls the processor; elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _source_commit() -> dict:
    """The commit of this package, and whether the sources differ from it; `None` where that cannot be known."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed inside somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(git("status", "--porcelain", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "uncommitted_changes": None}


__all__ = ["PACKAGES", "describe_environment", "installed_versions", "save_run_arguments"]
