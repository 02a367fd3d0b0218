# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""One commit on the Hub that carries a checked folder, or nothing; and in words what is there afterwards."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from transformers import AutoImageProcessor
from transformers.utils import logging

from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..runs.compat import errors_of_card
from .model_card import is_by_hand
from .publication import CARD, Publication, check_repo_id, prepare_publication


logger = logging.get_logger(__name__)

# What a commit takes out of the repository: weights that from_pretrained could load in place of the new ones, and the
# pickle that transformers' Trainer uploads.
STALE_FILES = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|training_args\.bin")


class PublishingError(RuntimeError):
    """What a person needs to know about an upload that failed, and what it left on the Hub."""


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
    refuse_card_problems(publication, allow_card_problems)
    branch = revision or "main"
    if constants.HF_HUB_OFFLINE:
        raise PublishingError("HF_HUB_OFFLINE is set, so nothing can be published: unset it.")
    with _explained(repo_id, branch) as state:
        # Before anything is created for a card that the Hub refuses.
        if errors := errors_of_card(publication.card):
            raise ValueError(f"{CARD} does not validate: {'; '.join(errors)}. Nothing was published.")
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


def refuse_card_problems(publication: Publication, allow_problems: bool) -> None:
    """Refuses a card with problems, or logs them where they are allowed."""
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
    Publishes a model in memory with its processor and a card: all that `pipeline` needs, in one commit. (The
    model's own `push_to_hub` is transformers', which uploads neither processor nor card.)

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
        f"The model was loaded from {origin or 'nowhere'!r}, where no image processor is: "
        "push_model_to_hub(model, repo_id, processor=...) takes the one to publish with it."
    )


__all__ = ["PublishingError", "publish", "push_model_to_hub", "refuse_card_problems"]
