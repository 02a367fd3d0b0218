# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""One commit on the Hub that carries a checked folder, or nothing; and what is there afterwards."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from transformers import AutoImageProcessor
from transformers.utils import logging

from ..image_processing_algm import AlgmImageProcessor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require
from ..runs.compat import errors_of_card
from .publication import CARD, Publication, check_repo_id, prepare_publication


logger = logging.get_logger(__name__)

# What a commit takes out of the repository: weights that from_pretrained could load in place of the new ones, and the
# pickle that transformers' Trainer uploads.
STALE_FILES = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|training_args\.bin")


class PublishingError(RuntimeError):
    """Why an upload failed, and what it left on the Hub."""


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
    allow_card_problems: bool = False,
) -> CommitInfo:
    """
    Uploads a publication in one commit. If anything fails, the branch stays as it was, or the message says otherwise.

    A rendered card does not replace one that the repository has, which may be a person's: that one stays, with a
    warning, unless `prepare_publication` was asked to replace it. A card that lies in the folder does replace it.

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
        allow_card_problems (`bool`, *optional*, defaults to `False`): Publish although the card has problems.

    Returns:
        `huggingface_hub.CommitInfo`: `oid` is the commit to pin.

    Raises:
        ValueError: if the name, the visibility or the card is refused.
        PublishingError: if the Hub refuses or the connection breaks, with what is on the Hub.
        KeyboardInterrupt: with what is on the Hub.
    """
    check_repo_id(repo_id)
    refuse_card_problems(publication, allow_card_problems)
    if constants.HF_HUB_OFFLINE:
        raise PublishingError("HF_HUB_OFFLINE is set, so nothing can be published: unset it.")
    api = HfApi(token=token)
    upload = _Upload(api, repo_id, revision or "main", create_pr)
    with upload:
        # Before anything is created for a card that the Hub refuses.
        errors = errors_of_card(publication.card)
        require(not errors, CARD, errors, "metadata that the Hub accepts; nothing was published")
        if "/" not in repo_id:
            upload.repo_id = repo_id = f"{api.whoami()['name']}/{repo_id}"
        if not api.repo_exists(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            upload.created.append(f"the empty repository {repo_id}")
        is_private = api.model_info(repo_id).private
        require(is_private or not private, "private", private, f"False, as {repo_id} exists and is public")
        if revision not in (None, "main") and not revision.startswith("refs/pr"):
            _create_branch(upload)
        head = api.model_info(repo_id, revision=upload.branch)
        upload.head = head.sha
        present = {entry.rfilename for entry in head.siblings or []}
        # One commit of our own: upload_folder may make several, of which an interruption would leave some.
        return api.create_commit(
            repo_id,
            _operations(publication, present, repo_id),
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


def _create_branch(upload: _Upload) -> None:
    try:
        upload.api.model_info(upload.repo_id, revision=upload.branch)
    except RevisionNotFoundError:
        upload.api.create_branch(upload.repo_id, branch=upload.branch, exist_ok=True)
        upload.created.append(f"the branch {upload.branch!r}")


def _operations(publication: Publication, present: set[str], repo_id: str) -> list:
    operations: list = [CommitOperationAdd(name, str(path)) for name, path in publication.files.items()]
    if CARD not in present or publication.replaces_card:
        operations.append(CommitOperationAdd(CARD, str(publication.card).encode()))
    else:
        logger.warning(f"{CARD} of {repo_id} stays as it is: replace_card=True would replace it by the rendered one.")
    stale = sorted(name for name in present - set(publication.files) if STALE_FILES.fullmatch(name))
    return operations + [CommitOperationDelete(name) for name in stale]


@dataclass
class _Upload:
    """Adds to whatever stops an upload what is on the Hub; refusals of this package pass through."""

    api: HfApi
    repo_id: str
    branch: str
    create_pr: bool
    head: str | None = None  # commit of the branch before ours, once it is known
    created: list[str] = field(default_factory=list)

    def __enter__(self) -> _Upload:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"Interrupted. {self.outcome()}") from error
        is_refusal = isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError)  # status 400 is both
        if isinstance(error, Exception) and not is_refusal:
            reasons, cause = {}, error
            while cause is not None:
                reasons[" ".join(str(cause).split()) or type(cause).__name__] = cause
                cause = None if isinstance(cause, HfHubHTTPError) else cause.__cause__  # which says it all
            raise PublishingError(f"Upload to {self.repo_id}: {' '.join(reasons)} {self.outcome()}") from error

    def outcome(self) -> str:
        """Without an answer, or with one that tells of a failure, a commit may have arrived or not."""
        if self.head is not None:
            try:
                current = self.api.model_info(self.repo_id, revision=self.branch).sha
            except Exception:  # out of reach; the first error is the one to tell
                return f"The Hub cannot be asked: look whether {self.branch!r} has a new commit."
            if current != self.head:
                return f"But {self.branch!r} has a new commit, {current}: look at it."
        requested = "; look whether a pull request was opened" if self.head and self.create_pr else ""
        created = f" What was created stays: {' and '.join(self.created)}." if self.created else ""
        return f"Nothing was published on {self.branch!r}{requested}.{created}"


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
    replace_card: bool = False,
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
        replace_card (`bool`, *optional*, defaults to `False`): Replace a card that the repository has, which may be a
            person's; otherwise it stays, with a warning.
        commit_message, commit_description, private, token, revision, create_pr, allow_card_problems: See [`publish`].

    Returns:
        `huggingface_hub.CommitInfo`: `oid` is the commit to pin.

    Raises:
        ValueError: if there is no processor, or if [`prepare_publication`] or [`publish`] refuse.
        PublishingError: See [`publish`].
    """
    processor = processor if processor is not None else _processor_beside(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        publication = prepare_publication(folder, repo_id, replace_card, license=license)
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
            allow_card_problems=allow_card_problems,
        )


def _processor_beside(model: AlgmForSemanticSegmentation):
    origin = model.name_or_path
    if origin:
        try:
            return AutoImageProcessor.from_pretrained(origin)
        except (OSError, ValueError):
            logger.info(f"{origin} holds no image processor.")
    raise ValueError(f"processor=None: expected the one to publish, as there is none at name_or_path={origin!r}")


__all__ = ["PublishingError", "publish", "push_model_to_hub", "refuse_card_problems"]
