#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Publishes a model folder on the Hub: weights as safetensors, config, processor, the code that loads them, and a card.

    python scripts/push_to_hub.py --model outputs/train --repo_id me/algm-streets --license apache-2.0 --dry_run
    python scripts/push_to_hub.py --model outputs/train --repo_id me/algm-streets --license apache-2.0

The folder is loaded and checked first, and a card is rendered from what is recorded in it if it has no README.md.
Everything goes up in one commit; if anything fails, one message says why and what is on the Hub, and the exit code is
1. A card on the Hub that was written by hand is not replaced by a rendered one. --dry_run lists what would go up,
checks the card and uses no network. Log in with `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser
from transformers.utils import logging

from algm_hf.publishing.publication import Publication, prepare_publication
from algm_hf.publishing.upload import PublishingError, publish


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
    evaluation: str | None = field(
        default=None, metadata={"help": "results.json of scripts/evaluate_model.py, for the table of the card."}
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the card. Default: the repository's name."})
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights: an identifier of the Hub's list, or other."}
    )
    license_name: str | None = field(default=None, metadata={"help": "Name of the licence, with --license other."})
    license_link: str | None = field(default=None, metadata={"help": "Link to the licence, with --license other."})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub repository of the weights that the training started from."}
    )


def describe(publication: Publication) -> str:
    """The files with their sizes, what stays behind, and the card."""
    lines = [f"{size:>14,}  {name}" for name, size in publication.sizes().items()]
    lines.append(f"{sum(publication.sizes().values()):>14,}  bytes in {len(publication.files) + 1} files")
    lines += [f"{'left out':>14}  {name}: {reason}" for name, reason in publication.left_out.items()]
    origin = "rendered from what is recorded" if publication.card_is_new else "the folder's own"
    lines.append(f"README.md is {origin}; " + ("its checks pass." if not publication.problems else "its checks fail:"))
    return "\n".join(lines + [f"    {problem}" for problem in publication.problems])


def main() -> None:
    arguments = HfArgumentParser(PushArguments).parse_args_into_dataclasses()[0]
    logging.disable_progress_bar()  # of loading the weights to check them
    card_fields = ("evaluation", "title", "license", "license_name", "license_link", "base_model")
    changes = {name: getattr(arguments, name) for name in card_fields}
    publication = prepare_publication(arguments.model, arguments.repo_id, **changes)
    print(describe(publication))
    if publication.problems:
        raise ValueError(f"README.md: {'; '.join(publication.problems)}. Nothing was published.")
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
