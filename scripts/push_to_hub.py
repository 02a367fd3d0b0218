#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Publishes a model folder on the Hub: weights as safetensors, config, processor, the code that loads them, and a card.

    python scripts/push_to_hub.py --model outputs/train --repo_id me/algm-streets --license apache-2.0 --dry_run
    python scripts/push_to_hub.py --model outputs/train --repo_id me/algm-streets --license apache-2.0

The folder is loaded and checked first, and a card is rendered from what is recorded in it if it has no README.md.
Everything goes up in one commit; if anything fails, one message says why and what is on the Hub, and the exit code is
1. A card on the Hub stays, unless one lies in the folder or --replace_card is given. --dry_run lists what would go
up, checks the card and uses no network. Log in with `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser
from transformers.utils import logging

from algm_hf.publishing.card_facts import CardArguments
from algm_hf.publishing.publication import Publication, prepare_publication
from algm_hf.publishing.upload import PublishingError, publish, refuse_card_problems


@dataclass
class PushArguments:
    model: str = field(metadata={"help": "Folder with the model, as training or conversion wrote it."})
    repo_id: str = field(metadata={"help": "Repository, namespace/name without dots; created if it does not exist."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private; refuse a public one."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch to commit to, made from main if it does not exist. Default: main."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check, list what would be uploaded, and stop; uses no network."}
    )
    commit_message: str = field(default="Upload model", metadata={"help": "First line of the commit."})
    replace_card: bool = field(
        default=False,
        metadata={"help": "Render a card in the place of one in the folder or on the Hub, which may be a person's."},
    )


def describe(publication: Publication) -> str:
    """The files with their sizes, what stays behind, and the card."""
    lines = [f"{size:>14,}  {name}" for name, size in publication.sizes().items()]
    lines.append(f"{sum(publication.sizes().values()):>14,}  bytes in {len(publication.files) + 1} files")
    lines += [f"{'left out':>14}  {name}: {reason}" for name, reason in publication.left_out.items()]
    origin = "rendered from what is recorded" if publication.is_rendered else "the folder's own"
    lines.append(f"README.md is {origin}; " + ("its checks pass." if not publication.problems else "its checks fail:"))
    return "\n".join(lines + [f"    {problem}" for problem in publication.problems])


def main() -> None:
    arguments, card_arguments = HfArgumentParser((PushArguments, CardArguments)).parse_args_into_dataclasses()
    logging.disable_progress_bar()  # of loading the weights to check them
    publication = prepare_publication(
        arguments.model, arguments.repo_id, arguments.replace_card, **vars(card_arguments)
    )
    print(describe(publication))
    refuse_card_problems(publication, allow_problems=False)
    if arguments.dry_run:
        print(f"Dry run: nothing was sent to {arguments.repo_id}.")
        return
    commit = publish(
        publication,
        arguments.repo_id,
        private=arguments.private or None,
        revision=arguments.revision,
        commit_message=arguments.commit_message,
    )
    print(f"Published: {commit.commit_url}\nLoad it with revision={commit.oid!r} and trust_remote_code=True.")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, PublishingError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt as error:  # the upload says what it left
        print(str(error) or "Interrupted before the upload: nothing was published.", file=sys.stderr)
        sys.exit(130)
