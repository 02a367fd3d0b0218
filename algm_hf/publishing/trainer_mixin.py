# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishing in one commit for transformers' Trainer."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi

from .publication import prepare_publication
from .upload import publish, refuse_card_problems


class PublishingMixin:
    """
    For transformers' [`Trainer`] and its subclasses: `push_to_hub` publishes as [`publish`] does, in one commit, with
    a card rendered from what the training recorded in its output folder, and without pickles such as
    `training_args.bin`. Uploads while the training runs stay Trainer's own; `hub_strategy="end"` leaves them out.

    ```python
    class PublishingTrainer(PublishingMixin, SegmentationTrainer): ...
    ```

    Attributes:
        card_facts (`dict`): Fields of [`~card_facts.CardFacts`] that are not recorded, such as `license`; refused
            where the output folder has a card that is not to be replaced.
        replace_card (`bool`): Whether a rendered card replaces one that is there, which may be a person's.
        allow_card_problems (`bool`): Whether `push_to_hub` publishes although the card has problems.
    """

    card_facts: dict[str, Any] = {}
    replace_card = False
    allow_card_problems = False

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """Trainer's, but see the class: Trainer's own makes several commits and uploads a pickle. `kwargs` of the card
        change nothing."""
        repo_id = self.hub_model_id = self._repo_id()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        publication = prepare_publication(self.args.output_dir, repo_id, self.replace_card, **self.card_facts)
        options = {
            "private": private if private is not None else self.args.hub_private_repo,
            "revision": revision or self.args.hub_revision,
            "token": token if token is not None else self.args.hub_token,
            "commit_message": commit_message,
            "allow_card_problems": self.allow_card_problems,
        }
        if blocking:
            return publish(publication, repo_id, **options)
        refuse_card_problems(publication, self.allow_card_problems)  # now, not in the background
        return HfApi().run_as_future(publish, publication, repo_id, **options)

    def _repo_id(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name


__all__ = ["PublishingMixin"]
