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

from algm_hf.publishing.card_facts import CardArguments, read_facts
from algm_hf.publishing.model_card import check_card, render_card
from algm_hf.refusals import require


CARDS = Path(__file__).resolve().parent.parent / "model_cards"


@dataclass
class RenderArguments:
    facts: str | None = field(
        default=None,
        metadata={"help": "JSON file with facts, or a model folder. Without it, every model_cards/facts/*.json."},
    )
    output: str | None = field(default=None, metadata={"help": "File to write; without it the card is printed."})
    model_id: str | None = field(
        default=None, metadata={"help": "Repository or folder in the card's example. Default: the recorded one."}
    )


def render_one(facts: str, output: str | None, **changes: str | None) -> list[str]:
    card = render_card(read_facts(facts, **changes))
    if output is None:
        print(card)
    else:
        card.save(output)
        print(f"wrote {output}")
    return [f"{output or facts}: {problem}" for problem in check_card(card)]


def main() -> int:
    arguments, card_arguments = HfArgumentParser((RenderArguments, CardArguments)).parse_args_into_dataclasses()
    options = vars(arguments) | vars(card_arguments)
    if arguments.facts is None:
        for name, value in options.items():
            require(value is None, f"--{name}", value, "--facts with it, as it is for one card")
        pairs = [(path, CARDS / f"{path.stem}.md") for path in sorted((CARDS / "facts").glob("*.json"))]
        problems = [problem for facts, card in pairs for problem in render_one(str(facts), str(card))]
    else:
        problems = render_one(**options)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
