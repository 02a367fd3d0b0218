# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Model cards: rendered through one template (`model_card_template.md`) from recorded facts (`card_facts.py`); checked.

What nobody recorded is left out of a card: a row, a column or a section, never a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..runs.tables import markdown_table
from .card_facts import MODEL_ROWS, RESULT_COLUMNS, CardFacts, Evaluation, Result, hub_id


TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ("algm", "semantic-segmentation", "token-merging", "vision", "custom_code")
PIPELINE_TAG, LIBRARY, METRIC = "image-segmentation", "transformers", "mean_iou"


def render_card(facts: CardFacts) -> ModelCard:
    """
    The card of one checkpoint.

    Args:
        facts ([`CardFacts`]): What is known about it.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the file, `card.save(path)` writes it.
    """
    model = {words: facts.model[name] for name, words in MODEL_ROWS.items() if name in facts.model}
    evaluations = [
        {"title": f"{e.dataset}, {e.split}", "table": _results_table(e.rows), "explanation": _explain(e)}
        for e in facts.evaluations
    ]
    card = ModelCard.from_template(
        _metadata(facts),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        facts=facts,
        evaluations=evaluations,
        classes_table=_classes_table(facts.classes),
        model_table=_fields_table(model),
        training_table=_fields_table(facts.training),
        dataset_name=" and ".join(_trained_on(facts)),
    )
    # Sections that are left out leave blank lines behind.
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def _metadata(facts: CardFacts) -> ModelCardData:
    """What the Hub filters by, and the model index with every score."""
    results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            task_name="Semantic segmentation",
            dataset_type=evaluation.dataset_id,
            dataset_name=evaluation.dataset,
            dataset_config=evaluation.setting,
            dataset_split=evaluation.split,
            metric_type=METRIC,
            metric_name=f"mIoU in per cent, token merging {row.name}",
            metric_value=round(100 * row.mean_iou, 2),
            source_name=evaluation.measured_by if evaluation.source_url else None,
            source_url=evaluation.source_url,
        )
        for evaluation in facts.evaluations
        for row in evaluation.rows
        if row.mean_iou is not None and row.same_weights
    ]
    return ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        base_model=facts.base_model,
        datasets=facts.datasets or None,
        metrics=[METRIC] if results else None,
        tags=list(TAGS),
        model_name=facts.title if results else None,
        eval_results=results or None,
    )


def _results_table(rows: Sequence[Result]) -> str:
    """One line for each setting of merging; columns that nobody measured are left out."""
    columns = {
        name: column for name, column in RESULT_COLUMNS.items() if any(getattr(r, name) is not None for r in rows)
    }

    def cells(row: Result) -> list[str]:
        values = ((getattr(row, name), factor, form) for name, (_, factor, form) in columns.items())
        return ["-" if value is None else format(factor * value, form) for value, factor, form in values]

    header = ["token merging", *(heading for heading, _, _ in columns.values())]
    return markdown_table(header, [[row.name, *cells(row)] for row in rows])


def _classes_table(classes: Mapping[str, Mapping[str, float | None]]) -> str | None:
    def percent(score: float | None) -> str:
        return "-" if score is None else f"{100 * score:.4g}"

    rows = [[name, percent(scores["iou"]), percent(scores["accuracy"])] for name, scores in classes.items()]
    return markdown_table(["class", "IoU", "accuracy"], rows) if rows else None


def _fields_table(fields: Mapping[str, Any]) -> str | None:
    return markdown_table(["", "value"], [[name, _text(value)] for name, value in fields.items()]) if fields else None


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _explain(evaluation: Evaluation) -> str:
    images = "" if evaluation.num_images is None else f"{evaluation.num_images} images, "
    who = f"[{evaluation.measured_by}]({evaluation.source_url})" if evaluation.source_url else evaluation.measured_by
    lines = [f"Measured by {who}: {images}{evaluation.setting}. Scores in per cent."]
    measured = {name for row in evaluation.rows for name, value in vars(row).items() if value is not None}
    if measured & {"images_per_second", "gflops"} and evaluation.conditions:
        lines.append(f"Speed: {evaluation.conditions}.")
    if measured & {"tokens_mean", "tokens_final"}:
        lines.append("Tokens: mean over images, special tokens counted, summed over windows and scales.")
    others = [row.name for row in evaluation.rows if not row.same_weights]
    lines += [f"The row {name!r} is the baseline it was compared with, not these weights." for name in others]
    return " ".join(lines)


def _trained_on(facts: CardFacts) -> list[str]:
    """Titles of the evaluated data sets that the training names as its data."""
    data = str(facts.training.get("data", ""))
    return list(dict.fromkeys(e.dataset for e in facts.evaluations if data.startswith(e.dataset)))


def check_card(card: ModelCard) -> list[str]:
    """
    What is wrong with a card, without asking the Hub.

    Args:
        card (`huggingface_hub.ModelCard`): Rendered here or written by hand.

    Returns:
        `list[str]`: `name=value: expected ...` for each problem; empty for a good card.
    """
    data, problems = card.data, []

    def expect(condition: object, name: str, value: Any, expected: str) -> None:
        if not condition:
            problems.append(f"{name}={value!r}: expected {expected}")

    expect(data.get("library_name") == LIBRARY, "library_name", data.get("library_name"), repr(LIBRARY))
    expect(data.get("pipeline_tag") == PIPELINE_TAG, "pipeline_tag", data.get("pipeline_tag"), repr(PIPELINE_TAG))
    licence = data.get("license")
    expect(licence, "license", licence, "an identifier of the Hub's list such as 'apache-2.0', or 'other'")
    is_named = data.get("license_name") and data.get("license_link")
    expect(licence != "other" or is_named, "license", licence, "license_name and license_link with it")
    base = data.get("base_model") or []
    for name in [base] if isinstance(base, str) else base:
        expect(hub_id(name), "base_model", name, "a repository on the Hub")
    results, metrics = data.get("eval_results") or [], data.get("metrics") or []
    expect(not results or METRIC in metrics, "metrics", metrics, f"{METRIC!r} in it, as there are results")
    for result in results:
        where = f"of the result on {result.dataset_name!r}"
        named = (result.dataset_split, result.dataset_config)
        expect(all(named), f"split and setting {where}", named, "a name for each")
        is_score = isinstance(result.metric_value, (int, float)) and 0 <= result.metric_value <= 100
        expect(is_score, f"metric_value {where}", result.metric_value, "per cent")
    for words in ("trust_remote_code=True", "revision="):
        expect(words in card.text, "text", f"without {words}", "an example that loads the model with it")
    placeholder = "[More Information Needed]"
    expect(placeholder not in card.text, "text", placeholder, "what there is to say, or nothing")
    return list(dict.fromkeys(problems))


__all__ = ["check_card", "render_card"]
