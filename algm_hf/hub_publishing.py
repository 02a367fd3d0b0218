# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Publishing on the Hub: what a folder has to hold, and one commit that carries all of it or nothing.

[`prepare_publication`] checks a folder without the network, [`publish`] uploads it. [`push_model_to_hub`] and
[`PublishingMixin`] do the same for a model in memory and for transformers' Trainer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils import HFValidationError, get_session, hf_raise_for_status, validate_repo_id
from safetensors import SafetensorError
from transformers import AutoImageProcessor
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from .card_facts import facts_from_folder, read_json
from .image_processing_algm import AlgmImageProcessor
from .model_cards import check_card, is_by_hand, render_card, signed_text, write_card
from .modeling_algm import AlgmForSemanticSegmentation


logger = logging.get_logger(__name__)

CARD, CONFIG, PROCESSOR = "README.md", "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForSemanticSegmentation")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
# What a commit takes out of the repository: weights that from_pretrained could load in place of the new ones, and the
# pickle that transformers' Trainer uploads.
STALE_FILES = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|training_args\.bin")


class PublishingError(RuntimeError):
    """What a person needs to know about an upload that failed, and what it left on the Hub."""


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


def publish(
    publication: Publication,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    keep_card: bool = False,
    allow_card_problems: bool = False,
) -> CommitInfo:
    """
    Uploads a publication in one commit. If anything fails, the branch stays as it was, or the message says otherwise.

    A card in the repository that was written or edited by hand is not replaced by a rendered one: it stays, with a
    warning. A card that was written by hand in the folder replaces it.

    Weights that the repository holds under names that this publication does not use, and `training_args.bin`, are
    deleted in the same commit: `from_pretrained` could take old weights for the new ones, and that file is a pickle.

    Args:
        publication ([`Publication`]): From [`prepare_publication`].
        repo_id (`str`): `namespace/name`, or `name` in the namespace of the token. Created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private. With `True`, a public one is refused.
        revision (`str`, *optional*): Branch, created from `main` if it does not exist. Default: `main`.
        token (`bool` or `str`, *optional*): As everywhere in huggingface_hub; default: that of the login.
        commit_message (`str`, *optional*)
        commit_description (`str`, *optional*)
        create_pr (`bool`, *optional*, defaults to `False`): Opens a pull request instead of committing.
        keep_card (`bool`, *optional*, defaults to `False`): Leave the card of the repository as it is, if it has one.
        allow_card_problems (`bool`, *optional*, defaults to `False`): Publish although the card has problems.

    Returns:
        `huggingface_hub.CommitInfo`: `oid` is the commit to pin.

    Raises:
        ValueError: if the name, the visibility or the card is refused.
        PublishingError: if the Hub refuses or the connection breaks, in words.
        KeyboardInterrupt: with words that say what is on the Hub.
    """
    check_repo_id(repo_id)
    _check_card(publication, allow_card_problems)
    branch = revision or "main"
    if constants.HF_HUB_OFFLINE:
        raise PublishingError("HF_HUB_OFFLINE is set, so nothing can be published: unset it.")
    with _explained(repo_id, branch) as state:
        _validate(publication.card)  # before anything is created for a card that the Hub refuses
        # One commit of our own: upload_folder may make several, of which an interruption would leave some.
        api = HfApi(token=token)
        repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        is_new = not api.repo_exists(repo_id)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if is_new:
            state["left"] = f"An empty repository {repo_id} was created and stays."
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} exists and is public, expected a private one: change it in its settings.")
        if revision not in (None, "main") and not revision.startswith("refs/pr"):
            _create_branch(api, repo_id, revision, state)
        head = api.model_info(repo_id, revision=branch)
        state.update(head=head.sha, create_pr=create_pr)
        state["current"] = lambda: api.model_info(repo_id, revision=branch).sha
        present = {entry.rfilename for entry in head.siblings or []}
        keep_card = CARD in present and (keep_card or _card_stays(api, publication, repo_id, head.sha))
        return api.create_commit(
            repo_id,
            _operations(publication, present, keep_card),
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            parent_commit=None if create_pr else head.sha,
        )


def _check_card(publication: Publication, allow_problems: bool) -> None:
    if publication.problems and not allow_problems:
        raise ValueError(f"{CARD}: {'; '.join(publication.problems)}. Nothing was published.")
    for problem in publication.problems:
        logger.warning(f"{CARD}: {problem}.")


def _create_branch(api: HfApi, repo_id: str, branch: str, state: dict[str, Any]) -> None:
    try:
        api.model_info(repo_id, revision=branch)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
        state["left"] = f"{state.get('left', '')} The new branch {branch!r} was created and stays.".strip()


def _card_stays(api: HfApi, publication: Publication, repo_id: str, commit: str) -> bool:
    """Whether the repository's card is by hand and the new one is not."""
    if is_by_hand(publication.card_text):
        return False
    path = api.hf_hub_download(repo_id, CARD, revision=commit)
    stays = is_by_hand(Path(path).read_text(encoding="utf-8"))
    if stays:
        logger.warning(f"{CARD} of {repo_id} was written by hand and stays; one by hand in the folder replaces it.")
    return stays


def _validate(card: ModelCard) -> None:
    """The Hub's own check of the metadata, as `ModelCard.validate`, which in older versions asks one Hub only."""
    content = {"repoType": "model", "content": str(card)}
    response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=content)
    if response.status_code == 400:
        try:
            found = [entry["message"] for entry in response.json()["errors"]]
        except (ValueError, KeyError, TypeError):
            found = [response.text]
        raise ValueError(f"{CARD} does not validate: {'; '.join(found)}. Nothing was published.")
    hf_raise_for_status(response)


def _operations(publication: Publication, present: set[str], keep_card: bool) -> list:
    operations: list = [CommitOperationAdd(name, str(path)) for name, path in publication.files.items()]
    if not keep_card:
        operations.append(CommitOperationAdd(CARD, publication.card_text.encode()))
    stale = sorted(name for name in present - set(publication.files) if STALE_FILES.fullmatch(name))
    return operations + [CommitOperationDelete(name) for name in stale]


@contextmanager
def _explained(repo_id: str, branch: str) -> Iterator[dict[str, Any]]:
    """Turns whatever the client raises into words; what is refused here passes through. Takes the `head` of the branch
    before the upload, a function for the `current` one, and in words what else was `left` on the Hub."""
    state: dict[str, Any] = {}
    try:
        yield state
    except HfHubHTTPError as error:
        raise PublishingError(_explain(error, repo_id, branch, state)) from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"Interrupted. {_outcome(branch, state)}") from error
    except (ValueError, PublishingError):
        raise
    except Exception as error:  # the classes of the HTTP library differ between versions of huggingface_hub
        causes = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        refusal = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
        if refusal is not None:
            raise PublishingError(_explain(refusal, repo_id, branch, state)) from error
        reasons = " ".join(dict.fromkeys(_one_line(cause) for cause in causes))
        text = f"The upload to {repo_id} was interrupted. {_outcome(branch, state)} {reasons}"
        raise PublishingError(f"{text} Run it again: what is there already is not sent twice.") from error


def _outcome(branch: str, state: dict[str, Any]) -> str:
    """What is on the Hub. Without an answer, or with one that tells of a failure, a commit may have arrived or not."""
    left = f" {state['left']}" if "left" in state else ""
    if "current" not in state:
        return f"Nothing was published on {branch!r}.{left}"
    try:
        current = state["current"]()
    except Exception as error:  # the Hub is out of reach; the first error is the one to tell
        logger.info(f"{branch} cannot be asked for: {error}")
        return f"The Hub cannot be asked: look whether {branch!r} has a new commit."
    if current != state["head"]:
        return f"But {branch!r} has a new commit, {current}: look at it."
    look = "; look whether a pull request was opened" if state["create_pr"] else ""
    return f"Nothing was published on {branch!r}{look}.{left}"


def _one_line(error: BaseException) -> str:
    return f"{' '.join(str(error).split()) or type(error).__name__}".rstrip(".") + "."


def _explain(error: HfHubHTTPError, repo_id: str, branch: str, state: dict[str, Any]) -> str:
    status = error.response.status_code
    said = error.server_message or error.response.headers.get("X-Error-Message") or _one_line(error)
    advice = {
        401: "The Hub does not accept the token: `hf auth login`, or set HF_TOKEN to one that may write.",
        403: f"The token may not write to {repo_id}: use one with write access, or another namespace.",
        404: "The repository or the branch is not there, or the token may not see it.",
        409: "Somebody or something else is changing it: look at it, then run this again.",
        412: f"Somebody else has committed to {branch!r} meanwhile: look at it, then run this again.",
    }.get(status, "Run this again later." if status >= 500 else "")
    text = f"The Hub refused the upload to {repo_id} ({status}: {said.rstrip('.')}). {advice}".strip()
    if status >= 500:  # the commit may have been made before the failure
        return f"{text} {_outcome(branch, state)}"
    return " ".join(filter(None, [text, f"Nothing was published on {branch!r}.", state.get("left")]))


def push_model_to_hub(
    model: AlgmForSemanticSegmentation,
    repo_id: str,
    *,
    processor: AlgmImageProcessor | None = None,
    license: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
    allow_card_problems: bool = False,
) -> CommitInfo:
    """
    `push_to_hub` of a model, with its processor and a card: all that `pipeline` needs, in one commit.

    Args:
        model ([`AlgmForSemanticSegmentation`])
        repo_id (`str`): `namespace/name`, or `name`.
        processor ([`AlgmImageProcessor`], *optional*): Default: the one that lies where the model was loaded from.
        license (`str`, *optional*): Of the weights, for the card: an identifier of the Hub's list.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): Largest file of weights.
        tags (`list[str]`, *optional*): For the card.
        commit_message, commit_description, private, token, revision, create_pr, allow_card_problems: See [`publish`].

    Returns:
        `huggingface_hub.CommitInfo`: `oid` is the commit to pin. A card that the repository has already stays.

    Raises:
        ValueError: if there is no processor, or if [`prepare_publication`] or [`publish`] refuse.
        PublishingError: See [`publish`].
    """
    processor = processor if processor is not None else _processor_beside(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        publication = prepare_publication(folder, repo_id, license=license)
        publication.card.data.tags = list(dict.fromkeys([*publication.card.data.tags, *(tags or [])]))
        return publish(
            publication,
            repo_id,
            private=private,
            revision=revision,
            token=token,
            commit_message=commit_message,
            commit_description=commit_description,
            create_pr=create_pr,
            keep_card=True,
            allow_card_problems=allow_card_problems,
        )


def _processor_beside(model: AlgmForSemanticSegmentation):
    origin = model.name_or_path
    if origin:
        try:
            return AutoImageProcessor.from_pretrained(origin)
        except (OSError, ValueError):
            logger.info(f"{origin} holds no image processor.")
    raise ValueError(
        f"The model was loaded from {origin or 'nowhere'!r}, where no image processor is: push_to_hub(repo_id, "
        "processor=...) takes the one to publish with it."
    )


class PublishingMixin:
    """
    For transformers' [`Trainer`]: `push_to_hub` publishes as [`publish`] does, in one commit, with a card rendered
    from what the training recorded in its output folder, and without pickles such as `training_args.bin`. Uploads
    while the training runs stay Trainer's own; `hub_strategy="end"` leaves them out.

    ```python
    class PublishingTrainer(PublishingMixin, Trainer): ...
    ```

    Attributes:
        card_facts (`dict`): Fields of [`~card_facts.CardFacts`] that are not recorded, such as `license`.
        allow_card_problems (`bool`): Whether `push_to_hub` publishes although the card has problems.
    """

    card_facts: dict[str, Any] = {}
    allow_card_problems = False

    def create_model_card(self, *args, **kwargs) -> None:
        """Writes `README.md` into the output folder, in place of Trainer's draft. One written by hand stays."""
        if self.is_world_process_zero():
            model_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).name
            facts = facts_from_folder(self.args.output_dir, **{"model_id": model_id, **self.card_facts})
            write_card(render_card(facts), self.args.output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """Trainer's, see the class; `kwargs` change nothing, as the card is rendered from what is recorded."""
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.hub_model_id = repo_id
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()

        publication = prepare_publication(self.args.output_dir, repo_id)
        _check_card(publication, self.allow_card_problems)

        def upload() -> CommitInfo:
            return publish(
                publication,
                repo_id,
                private=private if private is not None else self.args.hub_private_repo,
                revision=revision or self.args.hub_revision,
                token=token if token is not None else self.args.hub_token,
                commit_message=commit_message,
                allow_card_problems=self.allow_card_problems,
            )

        return upload() if blocking else _in_background(upload)


def _in_background(upload: Callable[[], CommitInfo]) -> Future:
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(upload)
    executor.shutdown(wait=False)
    return future


__all__ = [
    "Publication",
    "PublishingError",
    "PublishingMixin",
    "check_repo_id",
    "prepare_publication",
    "publish",
    "push_model_to_hub",
]
