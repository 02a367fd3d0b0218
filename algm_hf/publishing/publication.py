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
from ..runs.files import read_json
from .card_facts import facts_from_folder
from .model_card import check_card, render_card, signed_text


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
        card_is_new (`bool`): Whether the card was rendered, as the folder has none.
    """

    files: dict[str, Path]
    left_out: dict[str, str]
    card: ModelCard
    problems: list[str]
    card_is_new: bool

    @property
    def card_text(self) -> str:
        """The card as it is uploaded."""
        return signed_text(str(self.card)) if self.card_is_new else str(self.card)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the card included."""
        return {name: path.stat().st_size for name, path in self.files.items()} | {CARD: len(self.card_text.encode())}


def prepare_publication(folder: str | Path, repo_id: str, **changes: Any) -> Publication:
    """
    Loads a folder and checks that it is complete: weights as safetensors, config, processor, the code they name, card.

    No code of the folder is run: this package's classes load it. The network is not used.

    Args:
        folder (`str` or `Path`): What `save_pretrained`, `scripts/train.py` or `scripts/convert_checkpoint.py` wrote.
        repo_id (`str`): Where it is to go.
        changes: Fields of [`~card_facts.CardFacts`] for the card that is rendered if the folder has none.

    Returns:
        [`Publication`]

    Raises:
        ValueError: if something is missing or does not fit, with the file and what was expected.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, expected one that holds a model.")
    files = [CONFIG, PROCESSOR, *_weight_files(folder), *_code_files(folder)]
    _check_model(folder)
    card, is_new = _card(folder, repo_id, changes)
    files += [name for name in _pictures(folder, card) if name not in files]
    left_out = {
        path.name + ("/" if path.is_dir() else ""): _why_left_out(path)
        for path in sorted(folder.iterdir())
        if path.name not in (*files, CARD)
    }
    return Publication({name: folder / name for name in files}, left_out, card, check_card(card), is_new)


def check_repo_id(repo_id: str) -> None:
    """
    Refuses names that the Hub or transformers cannot take.

    Args:
        repo_id (`str`): `name` or `namespace/name`.

    Raises:
        ValueError: if the Hub does not take the name, or if it holds a dot, which transformers turns into a package.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id is {repo_id!r}: {error}") from error
    if "." in repo_id:
        raise ValueError(
            f"repo_id is {repo_id!r}, expected a name without dots: transformers makes a module name of it to load "
            "the code."
        )


def _weight_files(folder: Path) -> list[str]:
    whole, index = (folder / WEIGHTS).is_file(), (folder / INDEX).is_file()
    if whole and index:
        raise ValueError(f"{folder} holds both {WEIGHTS} and {INDEX}, expected one: loading would take the first.")
    if whole:
        return [WEIGHTS]
    if not index:
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        found = f" ({', '.join(pickles)} can run code when it is read and is not published)" if pickles else ""
        raise ValueError(f"{folder} holds no {WEIGHTS}{found}, expected weights as safetensors: save_pretrained.")
    shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder / INDEX} names {', '.join(missing)}, expected these files beside it.")
    return [INDEX, *shards]


def _code_files(folder: Path) -> list[str]:
    """The Python files that config and processor name, with all that these import from beside them."""
    config, processor = _read_part(folder, CONFIG), _read_part(folder, PROCESSOR)
    if config.get("model_type") != "algm":
        raise ValueError(f"{folder / CONFIG}: model_type is {config.get('model_type')!r}, expected 'algm'.")
    references = {}
    for name, part, classes in ((CONFIG, config, AUTO_CLASSES), (PROCESSOR, processor, ("AutoImageProcessor",))):
        for auto_class in classes:
            found = part.get("auto_map", {}).get(auto_class)
            for reference in found if isinstance(found, list) else [found]:
                if found is None or (reference is not None and not re.fullmatch(r"\w+\.\w+", reference)):
                    raise ValueError(
                        f"{folder / name}: {auto_class} of auto_map is {reference!r}, expected the name of a class in "
                        "a file of this folder: save_pretrained with `import algm_hf` writes both."
                    )
                if reference is not None:
                    references[reference.split(".")[0]] = name
    files: dict[str, None] = {}
    for module, origin in references.items():
        files |= dict.fromkeys(_imported(folder, module, origin))
    return sorted(files)


def _read_part(folder: Path, name: str) -> dict:
    part = read_json(folder / name)
    if not isinstance(part, dict) or not isinstance(part.get("auto_map", {}), dict):
        raise ValueError(f"{folder / name} holds {type(part).__name__}, expected the settings of a model.")
    return part


def _imported(folder: Path, module: str, origin: str) -> list[str]:
    entry = folder / f"{module}.py"
    try:
        return [entry.name, *(Path(path).name for path in get_relative_import_files(entry))]
    except FileNotFoundError as error:
        missing = Path(error.filename or entry).name
        raise ValueError(f"{folder} lacks {missing}, which {origin} needs: the code would not load.") from error


def _check_model(folder: Path) -> None:
    """Loads weights and processor with this package's classes and segments a picture of noise."""
    # Sizes that do not fit are to be listed with the rest, not raised one at a time.
    try:
        model, info = AlgmForSemanticSegmentation.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}: the weights cannot be read, expected complete safetensors. {error}") from error
    wrong = {
        name: sorted(map(str, info.get(f"{name}_keys") or [])) for name in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names)
        raise ValueError(f"{folder}: the weights do not fit config.json. {listed}.")
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    if getattr(processor, "patch_size", None) != model.config.patch_size:
        raise ValueError(
            f"{folder / PROCESSOR}: patch_size is {getattr(processor, 'patch_size', None)}, expected that of "
            f"config.json, {model.config.patch_size}."
        )
    generator = torch.Generator().manual_seed(0)
    side = 2 * model.config.patch_size
    noise = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        logits = model.eval()(
            processor(noise, return_tensors="pt", do_resize=False)["pixel_values"].to(model.dtype)
        ).logits
    if not torch.isfinite(logits).all():
        raise ValueError(f"{folder}: logits of a picture of noise are not finite, expected weights that work.")


def _card(folder: Path, repo_id: str, changes: dict[str, Any]) -> tuple[ModelCard, bool]:
    if not (folder / CARD).is_file():
        return render_card(facts_from_folder(folder, model_id=repo_id, **changes)), True
    given = [name for name, value in changes.items() if value is not None]
    if given:
        raise ValueError(f"{folder / CARD} exists and {', '.join(given)} would not change it: remove or edit it.")
    try:
        return ModelCard.load(folder / CARD), False
    except Exception as error:  # of YAML, or of what the metadata hold
        raise ValueError(f"{folder / CARD} has metadata that cannot be read: {error}") from error


def _pictures(folder: Path, card: ModelCard) -> list[str]:
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
