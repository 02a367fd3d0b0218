# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishing in one commit for transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from .card_facts import facts_from_folder
from .model_card import render_card, write_card
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
        refuse_card_problems(publication, self.allow_card_problems)

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


__all__ = ["PublishingMixin"]
