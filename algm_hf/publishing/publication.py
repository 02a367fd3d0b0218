# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks, without the network, that a folder holds all that a published model needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import SafetensorError
from transformers import AutoImageProcessor
from transformers.dynamic_module_utils import get_relative_import_files

from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require, require_choice
from ..runs.files import read_json
from .card_facts import facts_from_folder
from .model_card import check_card, render_card


CARD, CONFIG, PROCESSOR = "README.md", "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForSemanticSegmentation")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")


@dataclass
class Publication:
    """
    A checked folder.

    Attributes:
        files (`dict[str, Path]`): Path in the repository and file, without the card.
        left_out (`dict[str, str]`): What is in the folder and stays there, and why.
        card (`huggingface_hub.ModelCard`)
        problems (`list[str]`): What is wrong with the card; empty for a good one.
        is_rendered (`bool`): Whether the card was rendered, or is the folder's own.
        replaces_card (`bool`): Whether the card takes the place of one on the Hub.
    """

    files: dict[str, Path]
    left_out: dict[str, str]
    card: ModelCard
    problems: list[str]
    is_rendered: bool
    replaces_card: bool

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the card included."""
        return {name: path.stat().st_size for name, path in self.files.items()} | {CARD: len(str(self.card).encode())}


def prepare_publication(folder: str | Path, repo_id: str, replace_card: bool = False, **changes: Any) -> Publication:
    """
    Loads a folder and checks that it is complete: weights as safetensors, config, processor, the code they name, card.

    No code of the folder is run: this package's classes load it. The network is not used.

    Args:
        folder (`str` or `Path`): What `save_pretrained`, `scripts/train.py` or `scripts/convert_checkpoint.py` wrote.
        repo_id (`str`): Where it is to go.
        replace_card (`bool`, *optional*, defaults to `False`): Render a card although the folder or the Hub has one,
            which may be a person's. Otherwise a card is rendered if the folder has none, and one on the Hub stays.
        changes: Fields of [`~card_facts.CardFacts`] for the card that is rendered.

    Returns:
        [`Publication`]

    Raises:
        ValueError: if something is missing or does not fit, with the file and what was expected.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    require(folder.is_dir(), "folder", str(folder), "a folder that holds a model")
    files = [CONFIG, PROCESSOR, *_weight_files(folder), *_code_files(folder)]
    _check_model(folder)
    is_rendered = replace_card or not (folder / CARD).is_file()
    if is_rendered:
        card = render_card(facts_from_folder(folder, **{"model_id": repo_id, **changes}))
    else:
        card = _own_card(folder / CARD, changes)
    files += [name for name in _images(folder, card) if name not in files]
    left_out = {
        path.name + ("/" if path.is_dir() else ""): _why_left_out(path)
        for path in sorted(folder.iterdir())
        if path.name not in (*files, CARD)
    }
    paths = {name: folder / name for name in files}
    return Publication(paths, left_out, card, check_card(card), is_rendered, replace_card or not is_rendered)


def check_repo_id(repo_id: str) -> None:
    """
    Refuses names that the Hub or transformers cannot take.

    Args:
        repo_id (`str`): `name` or `namespace/name`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id={repo_id!r}: {error}") from error
    require("." not in repo_id, "repo_id", repo_id, "no dot: transformers makes a module name of it to load the code")


def _weight_files(folder: Path) -> list[str]:
    found = [name for name in (WEIGHTS, INDEX) if (folder / name).is_file()]
    found = found or [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    expected = f"{WEIGHTS} or {INDEX}, one of them and no pickles, which can run code: save_pretrained writes it"
    require(found in ([WEIGHTS], [INDEX]), f"weights in {folder}", ", ".join(found), expected)
    if found == [WEIGHTS]:
        return found
    shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    require(not missing, f"{folder / INDEX}: weight_map", ", ".join(missing), "files beside it")
    return [INDEX, *shards]


def _code_files(folder: Path) -> list[str]:
    """The Python files that config and processor name, with all that these import from beside them."""
    config, processor = _read_part(folder / CONFIG), _read_part(folder / PROCESSOR)
    require_choice(f"{folder / CONFIG}: model_type", config.get("model_type"), ["algm"])
    files: set[str] = set()
    for name, part, classes in ((CONFIG, config, AUTO_CLASSES), (PROCESSOR, processor, ("AutoImageProcessor",))):
        for auto_class in classes:
            found = part.get("auto_map", {}).get(auto_class)
            for reference in found if isinstance(found, list) else [found]:
                is_local = isinstance(reference, str) and re.fullmatch(r"\w+\.\w+", reference)
                require(
                    is_local or (reference is None and found is not None),
                    f"{folder / name}: {auto_class} of auto_map",
                    reference,
                    "a class in a file of this folder, as save_pretrained writes it after `import algm_hf`",
                )
                if is_local:
                    files |= set(_imported(folder, reference.split(".")[0], name))
    return sorted(files)


def _read_part(path: Path) -> dict:
    part = read_json(path)
    is_settings = isinstance(part, dict) and isinstance(part.get("auto_map", {}), dict)
    require(is_settings, path, part, "the settings of a model")
    return part


def _imported(folder: Path, module: str, origin: str) -> list[str]:
    entry = folder / f"{module}.py"
    try:
        return [entry.name, *(Path(path).name for path in get_relative_import_files(entry))]
    except FileNotFoundError as error:
        missing = Path(error.filename or entry).name
        raise ValueError(f"{folder / missing}='missing': expected the code that {origin} needs") from error


def _check_model(folder: Path) -> None:
    """Loads weights and processor with this package's classes and segments an image of noise."""
    # Sizes that do not fit are to be listed with the rest, not raised one at a time.
    try:
        model, info = AlgmForSemanticSegmentation.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}: expected complete weights as safetensors: {error}") from error
    found = {kind: info.get(f"{kind}_keys") for kind in ("missing", "unexpected", "mismatched")}
    wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    require(not wrong, f"{folder}: weights", wrong, "those that config.json asks for")
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    patch_size = model.config.patch_size
    found = getattr(processor, "patch_size", None)
    require(found == patch_size, f"{folder / PROCESSOR}: patch_size", found, f"{patch_size}, as in config.json")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 2 * patch_size, 2 * patch_size), generator=generator, dtype=torch.uint8)
    pixel_values = processor(noise, return_tensors="pt", do_resize=False)["pixel_values"]
    with torch.inference_mode():
        logits = model.eval()(pixel_values.to(model.dtype)).logits
    require(torch.isfinite(logits).all(), f"{folder}: logits", "not finite", "finite ones, of an image of noise")


def _own_card(path: Path, changes: dict[str, Any]) -> ModelCard:
    for name, value in changes.items():
        require(value is None, name, value, f"nothing, as {path} exists: edit it, or have it replaced (replace_card)")
    try:
        return ModelCard.load(path)
    except Exception as error:  # of YAML, or of what the metadata hold
        raise ValueError(f"{path}: expected metadata that can be read: {error}") from error


def _images(folder: Path, card: ModelCard) -> list[str]:
    """The image files that the card shows and the folder holds."""
    names = re.findall(r"!\[[^\]]*\]\(([\w.-]+\.(?:png|jpe?g|svg|gif))\)", card.text)
    return [name for name in dict.fromkeys(names) if (folder / name).is_file()]


def _why_left_out(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.suffix in PICKLES:
        return "can run code when it is read"
    if path.suffix == ".py":
        return "no code that the model needs"
    return "not part of a published model"


__all__ = ["CARD", "Publication", "check_repo_id", "prepare_publication"]
