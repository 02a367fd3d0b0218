#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Renders model cards from recorded facts.

    python scripts/render_model_cards.py                          # model_cards/*.md from model_cards/facts/*.json
    python scripts/render_model_cards.py --facts FACTS.json --output CARD.md
    python scripts/render_model_cards.py --facts MODEL_FOLDER --evaluation results.json --license apache-2.0 \\
        --output MODEL_FOLDER/README.md

A folder is one that scripts/train.py wrote; results.json comes from scripts/evaluate_model.py. Prints what it wrote
and what the Hub would miss in it; the exit code is 1 if a card has a problem.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.publishing.card_facts import read_facts
from algm_hf.publishing.model_card import check_card, render_card


CARDS = Path(__file__).resolve().parent.parent / "model_cards"


@dataclass
class CardArguments:
    facts: str | None = field(
        default=None,
        metadata={"help": "JSON file with facts, or a model folder. Without it, every model_cards/facts/*.json."},
    )
    output: str | None = field(default=None, metadata={"help": "File to write; without it the card is printed."})
    evaluation: str | None = field(
        default=None, metadata={"help": "results.json of scripts/evaluate_model.py: its scores go into the card."}
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the card. Default: the recorded one."})
    model_id: str | None = field(
        default=None, metadata={"help": "Repository or folder in the card's example. Default: the recorded one."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights: an identifier of the Hub's list, or other."}
    )
    license_name: str | None = field(default=None, metadata={"help": "Name of the licence, with --license other."})
    license_link: str | None = field(default=None, metadata={"help": "Link to the licence, with --license other."})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub repository of the weights that the training started from."}
    )


def render_one(arguments: CardArguments) -> list[str]:
    fields = ("title", "model_id", "license", "license_name", "license_link", "base_model")
    changes = {name: getattr(arguments, name) for name in fields}
    card = render_card(read_facts(arguments.facts, arguments.evaluation, **changes))
    if arguments.output is None:
        print(card)
    else:
        card.save(arguments.output)
        print(f"wrote {arguments.output}")
    return [f"{arguments.output or arguments.facts}: {problem}" for problem in check_card(card)]


def main() -> int:
    arguments = HfArgumentParser(CardArguments).parse_args_into_dataclasses()[0]
    if arguments.facts is None:
        given = [name for name, value in vars(arguments).items() if value is not None]
        if given:
            raise ValueError(f"--{given[0]} is given without --facts, expected the facts that it is for.")
        pairs = [(path, CARDS / f"{path.stem}.md") for path in sorted((CARDS / "facts").glob("*.json"))]
        problems = [p for facts, card in pairs for p in render_one(CardArguments(facts=str(facts), output=str(card)))]
    else:
        problems = render_one(arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
