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


# In this order; an index names the files of weights that are split.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
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
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repository) or path.suffix in _weight_suffixes():
                raise ValueError(
                    f"{self.name} does not exist: expected a file of weights, a folder with config.json and weights, "
                    "or the name of a Hub repository such as google/vit-base-patch16-224."
                )
        elif revision is not None:
            raise ValueError(f"revision={revision!r} with the local {self.name}: expected None, or a Hub repository.")

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
            raise ValueError(f"{file_name} of {self.name} cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file_name} of {self.name} holds a {type(values).__name__}: expected an object.")
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
        if not weights:
            raise ValueError(f"{self.name} holds no weights.")
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
            if missing:
                raise ValueError(f"{self.name} lacks {', '.join(missing)}, which its {name} names.")
            return list(found.values())
        candidates = []
        if self.folder is not None:
            candidates = sorted(path for path in self.folder.iterdir() if path.suffix in _weight_suffixes())
        if len(candidates) != 1:
            names = ", ".join(path.name for path in candidates) or "none"
            raise ValueError(
                f"{self.name} holds no {WEIGHT_FILES[0]} and these other files of weights: {names}. Expected "
                f"{' or '.join(WEIGHT_FILES)}, or a single {SAFETENSORS_SUFFIX} or torch file."
            )
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
            raise ValueError(f"{file_name} of {self.name} cannot be fetched: {_first_line(error)}") from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            lines = str(error).strip().splitlines()
            raise ValueError(
                f"{self.name} cannot be fetched from the Hub: {lines[0] if lines else error!r}"
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _weight_suffixes() -> tuple[str, ...]:
    return (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name, without running any code that it may hold."""
    if path.suffix == SAFETENSORS_SUFFIX:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the unpickler raise nearly anything
        raise ValueError(f"{path} is not a file of weights that can be read safely: {_first_line(error)}") from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        found = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} holds {found}: expected a state dict, alone or under {' or '.join(map(repr, STATE_DICT_KEYS))}."
        )
    return dict(content)


__all__ = ["VitFiles"]
