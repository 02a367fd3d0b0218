# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Files of a published Vision Transformer, from a file, a folder or the Hub: `config.json`, `preprocessor_config.json`
and the weights. Nothing here can run code: JSON, safetensors, and torch files with `weights_only=True`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..refusals import require
from .checks import first_line


# In this order; an index names the files of weights that are split.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_SUFFIX = ".safetensors"
WEIGHT_SUFFIXES = (SAFETENSORS_SUFFIX, ".bin", ".pt", ".pth")
# Where training code puts the state dict of a model inside a torch file.
STATE_DICT_KEYS = ("state_dict", "model", "teacher", "module")
HUB_PREFIXES = ("hf-hub:", "hf_hub:")


class VitFiles:
    """
    The files of one model.

    Args:
        name_or_path (`str` or `os.PathLike`): a file of weights, a folder, or the name of a Hub repository.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.

    Raises:
        ValueError: if it is none of them, or with a `revision` for local files.
    """

    def __init__(self, name_or_path: str | os.PathLike, revision: str | None = None):
        self.name = str(name_or_path)
        self.revision = revision
        path = Path(name_or_path)
        self.weights_file = path if path.is_file() else None
        self.folder = path.parent if path.is_file() else path if path.is_dir() else None
        self.repository = None
        if self.folder is None:
            self.repository = self.name.removeprefix(HUB_PREFIXES[0]).removeprefix(HUB_PREFIXES[1])
            is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repository) and path.suffix not in WEIGHT_SUFFIXES
            expected = "a file of weights, a folder with config.json and weights, or the name of a Hub repository"
            require(is_name, self.name, "missing", expected)
        else:
            require(revision is None, "revision", revision, f"None with the local {self.name}")

    def read_json(self, file_name: str) -> dict[str, Any] | None:
        """
        Args:
            file_name (`str`): such as `config.json`.

        Returns:
            `dict[str, Any]`, or `None` if there is no such file.

        Raises:
            ValueError: if it cannot be read or fetched, or is not a JSON object.
        """
        path = self._find(file_name)
        if path is None:
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file_name} of {self.name}={str(error)!r}: expected JSON") from error
        require(isinstance(values, dict), f"{file_name} of {self.name}", values, "an object")
        return values

    def read_weights(self) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict[str, torch.Tensor]`: all tensors, of any shape, by name.

        Raises:
            ValueError: if there are none, or a file cannot be read safely.
        """
        weights: dict[str, torch.Tensor] = {}
        for path in self._weight_files():
            weights |= _read_tensors(path)
        require(weights, f"weights of {self.name}", list(weights), "at least one")
        return weights

    def _weight_files(self) -> Iterable[Path]:
        if self.weights_file is not None:
            return [self.weights_file]
        for name in WEIGHT_FILES:
            path = self._find(name)
            if path is None:
                continue
            if not name.endswith(".json"):
                return [path]
            parts = sorted(set(self.read_json(name).get("weight_map", {}).values()))
            found = {part: self._find(part) for part in parts}
            missing = [part for part, file in found.items() if file is None]
            require(not missing, f"{name} of {self.name}: weight_map", missing, "files beside it")
            return list(found.values())
        files = [] if self.folder is None else sorted(self.folder.iterdir())
        candidates = [path for path in files if path.suffix in WEIGHT_SUFFIXES]
        expected = f"{' or '.join(WEIGHT_FILES)}, or a single other file of safetensors or torch"
        names = ", ".join(path.name for path in candidates)
        require(len(candidates) == 1, f"weights in {self.name}", names, expected)
        return candidates

    def _find(self, file_name: str) -> Path | None:
        if self.folder is not None:
            path = self.folder / file_name
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(self.repository, file_name, revision=self.revision))
        except LocalEntryNotFoundError as error:
            # Not in the cache and not fetched. Offline that may be a file the repository never had.
            if constants.HF_HUB_OFFLINE:
                return None
            raise ValueError(f"{file_name} of {self.name}={first_line(error)!r}: expected a file to fetch") from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(f"{self.name}={first_line(error)!r}: expected a repository of the Hub") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name, without running any code that it may hold."""
    if path.suffix == SAFETENSORS_SUFFIX:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: expected whole safetensors: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the unpickler raise nearly anything
        raise ValueError(f"{path}: expected weights that can be read safely: {first_line(error)}") from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    is_mapping = isinstance(content, Mapping)
    found = sorted(map(str, content))[:5] if is_mapping else type(content).__name__
    is_state = is_mapping and all(isinstance(tensor, torch.Tensor) for tensor in content.values())
    require(is_state, path, found, f"a state dict, alone or under {' or '.join(map(repr, STATE_DICT_KEYS))}")
    return dict(content)


__all__ = ["VitFiles"]
