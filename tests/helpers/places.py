# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Where things are in the repository, and its scripts as modules."""

import importlib.util
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
PARITY = ROOT / "tests" / "fixtures" / "parity"


def script(name: str):
    """The module of a script."""
    spec = importlib.util.spec_from_file_location(f"algm_script_{name}", ROOT / "scripts" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module
