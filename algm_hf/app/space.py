# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the demo page as a Hugging Face Space: a folder that `hf upload` takes as it is."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from ..refusals import require


GRADIO_VERSION = "6.31.0"  # named in the card if gradio is not installed here
PYTHON_VERSION = "3.11"
MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
LICENSE = "apache-2.0"

APP = '''\
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Serves the demo page of one model. The folder `algm_hf` is the code that runs it; none comes from the model."""

from pathlib import Path

from algm_hf.app.page import build_app, launch_app
from algm_hf.app.segmenter import DemoSegmenter


MODEL = {model}
REVISION = {revision!r}

demo = build_app(DemoSegmenter.from_pretrained(MODEL, REVISION, name={name!r}))

if __name__ == "__main__":
    launch_app(demo, host=None)  # the Space says where to listen; on another machine this is loopback
'''

CARD = """
Try a segmentation model that merges similar tokens (ALGM, CVPR 2024): choose or send an image, move the threshold and
the merge layers, and compare label maps, tokens and time with and without merging at the same weights.

Model: {model}. The page runs with `python app.py` too, after `pip install -r requirements.txt gradio=={gradio}`.
"""


def export_space(folder: str | Path, model: str, revision: str = "main", name: str | None = None) -> list[str]:
    """Writes a Space: card, requirements, `app.py`, this package and, if it is a folder, the model.

    Args:
        folder (`str` or `Path`): Where to; it must not exist or be empty.
        model (`str`): Folder of a saved model and processor, copied (weights in safetensors and configs, no code), or
            a name on the Hub, which the Space downloads.
        revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit on the Hub.
        name (`str`, *optional*): What the page calls the model.

    Returns:
        `list[str]`: The files, relative to `folder`, in order.

    Raises:
        `ValueError`: If the folder holds something, the model's folder is incomplete or its name is none of the Hub.
    """
    folder, package = Path(folder), Path(__file__).parents[1]
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(is_new, "--export_space", str(folder), "a new or empty folder")
    is_local = Path(model).is_dir()
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", model)
    require(is_local or is_name, "--model", model, "a folder, or a name on the Hub such as user/model")
    files = _model_files(Path(model)) if is_local else []
    requirements = _requirements()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    if is_local:
        (folder / "model").mkdir()
        for file in files:
            shutil.copy(file, folder / "model")
    place = 'str(Path(__file__).parent / "model")' if is_local else repr(model)
    name = name or (Path(model).resolve().name if is_local else model)
    app = APP.format(model=place, revision=revision, name=name)
    if not is_local:
        app = app.replace("from pathlib import Path\n\n", "")
    (folder / "app.py").write_text(app, encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(name, None if is_local else model), encoding="utf-8")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _model_files(folder: Path) -> list[Path]:
    files = [path for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))]
    names = {path.name for path in files}
    missing = [name for name in MODEL_FILES[:2] if name not in names]
    missing += [] if any(name.endswith(".safetensors") for name in names) else ["model.safetensors"]
    require(not missing, "--model", str(folder), f"{', '.join(missing)} in it, as save_pretrained writes them")
    return files


def _requirements() -> list[str]:
    """What this package needs at run time, without gradio: a Space installs the one that its card names."""
    try:
        needed = requires("algm-hf") or []
    except PackageNotFoundError:
        raise ValueError("algm-hf='not installed': expected `pip install -e .`, which says what it needs") from None
    return sorted(line for line in needed if "extra ==" not in line)


def _card(name: str, repo: str | None) -> str:
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = GRADIO_VERSION
    data = SpaceCardData(
        title="ALGM token merging",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        license=LICENSE,
        models=[repo] if repo else None,
        colorFrom="green",
        colorTo="gray",
        short_description="Segmentation with and without token merging",
        pinned=False,
    )
    return str(
        SpaceCard(f"---\n{data.to_yaml()}\n---\n\n# ALGM token merging\n{CARD.format(model=name, gradio=gradio)}")
    )


__all__ = ["export_space"]
