# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Model cards: rendered through one template (`model_card_template.md`) from recorded facts (`card_facts.py`); checked.

What nobody recorded is left out of a card: a row, a column or a section, never a placeholder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from .card_facts import MODEL_ROWS, RESULT_COLUMNS, CardFacts, Evaluation, hub_id


logger = logging.get_logger(__name__)

TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ("algm", "semantic-segmentation", "token-merging", "vision", "custom_code")
PIPELINE_TAG, LIBRARY, METRIC = "image-segmentation", "transformers", "mean_iou"

# Ends a rendered card, with a hash of it: one that a hand has changed since is not replaced by another rendered one.
SIGNATURE = re.compile(r"\n<!-- rendered, not edited: ([0-9a-f]{16}) -->\s*\Z")
TRAINERS_DRAFT = "generated automatically according to the information the Trainer had access to"


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata of a card: what the Hub filters by, and the model index with every score."""
    results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            task_name="Semantic segmentation",
            dataset_type=evaluation.dataset_id,
            dataset_name=evaluation.dataset,
            dataset_config=evaluation.setting,
            dataset_split=evaluation.split,
            metric_type=METRIC,
            metric_name=f"mIoU in per cent, token merging {row['name']}",
            metric_value=round(100 * row["mean_iou"], 2),
            source_name=evaluation.measured_by if evaluation.source_url else None,
            source_url=evaluation.source_url,
        )
        for evaluation in facts.evaluations
        for row in evaluation.rows
        if row.get("mean_iou") is not None and row.get("same_weights", True)
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


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is set left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each setting of merging, as Markdown; columns that nobody measured are left out."""
    columns = [column for column in RESULT_COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    return _table(
        ["token merging", *(heading for _, heading, _ in columns)],
        [
            [row["name"], *("-" if row.get(name) is None else text(row[name]) for name, _, text in columns)]
            for row in rows
        ],
    )


def _explain(evaluation: Evaluation) -> str:
    images = "" if evaluation.num_images is None else f"{evaluation.num_images} images, "
    who = f"[{evaluation.measured_by}]({evaluation.source_url})" if evaluation.source_url else evaluation.measured_by
    lines = [f"Measured by {who}: {images}{evaluation.setting}. Scores in per cent."]
    columns = {name for row in evaluation.rows for name, value in row.items() if value is not None}
    if columns & {"images_per_second", "gflops"} and evaluation.conditions:
        lines.append(f"Speed: {evaluation.conditions}.")
    if columns & {"tokens_mean", "tokens_final"}:
        lines.append("Tokens: mean over images, special tokens counted, summed over windows and scales.")
    others = [row["name"] for row in evaluation.rows if not row.get("same_weights", True)]
    lines += [f"The row {name!r} is the baseline it was compared with, not these weights." for name in others]
    return " ".join(lines)


def _classes_table(classes: Mapping[str, Mapping[str, float | None]]) -> str | None:
    if not classes:
        return None
    text = {
        name: ["-" if s[k] is None else f"{100 * s[k]:.4g}" for k in ("iou", "accuracy")]
        for name, s in classes.items()
    }
    return _table(["class", "IoU", "accuracy"], [[name, *cells] for name, cells in text.items()])


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _provenance(facts: CardFacts) -> str:
    lines = [f"Made with algm-hf at commit `{facts.commit}`."] if facts.commit else []
    if facts.versions:
        lines.append("Versions: " + ", ".join(f"{name} {number}" for name, number in facts.versions.items()) + ".")
    return " ".join(lines)


def render_card(facts: CardFacts) -> ModelCard:
    """
    The card of one checkpoint.

    Args:
        facts ([`CardFacts`]): What is known about it.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the file, `card.save(path)` writes it.
    """
    card = ModelCard.from_template(
        card_data(facts),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=facts.title,
        model_id=facts.model_id,
        summary=facts.summary,
        conversion={"release_url": facts.release_url} if facts.release_url else None,
        evaluations=[
            {"title": f"{e.dataset}, {e.split}", "table": results_table(e.rows), "explanation": _explain(e)}
            for e in facts.evaluations
        ],
        classes_table=_classes_table(facts.classes),
        model_table=_table(
            ["", ""], [[words, _value(facts.model[name])] for name, words in MODEL_ROWS.items() if name in facts.model]
        ),
        training_table=_table(["", ""], [[k, _value(v)] for k, v in facts.training.items()])
        if facts.training
        else None,
        dataset_name=" and ".join(_trained_on(facts)) or None,
        limits=facts.limits,
        command=facts.command,
        published=facts.published,
        classes_setting=facts.classes_setting,
        provenance=_provenance(facts),
    )
    # Sections that are left out leave blank lines behind.
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def _trained_on(facts: CardFacts) -> list[str]:
    """Titles of the evaluated data sets that the training names as its data."""
    data = str(facts.training.get("data", ""))
    return list(dict.fromkeys(e.dataset for e in facts.evaluations if data.startswith(e.dataset)))


def signed_text(text: str) -> str:
    """The text of a rendered card with a comment that tells whether a hand has changed it since."""
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- rendered, not edited: {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def is_by_hand(text: str) -> bool:
    """Whether a person wrote or edited a card: neither a rendered one as it was, nor Trainer's draft."""
    found = SIGNATURE.search(text)
    return TRAINERS_DRAFT not in text if found is None else _digest(text[: found.start()]) != found.group(1)


def write_card(card: ModelCard, folder: str | Path) -> bool:
    """
    Writes `README.md` into a model folder. One that was written or edited by hand stays, with a warning.

    Args:
        card (`huggingface_hub.ModelCard`): From [`render_card`].
        folder (`str` or `Path`): Where the model is.

    Returns:
        `bool`: Whether it was written.
    """
    path = Path(folder) / "README.md"
    if path.is_file() and is_by_hand(path.read_text(encoding="utf-8")):
        logger.warning(f"{path} was written by hand and stays; remove it to have a card rendered.")
        return False
    path.write_text(signed_text(str(card)), encoding="utf-8")
    return True


def check_card(card: ModelCard) -> list[str]:
    """
    What is wrong with a card, without asking the Hub.

    Args:
        card (`huggingface_hub.ModelCard`): Rendered here or written by hand.

    Returns:
        `list[str]`: One sentence for each problem; empty for a good card.
    """
    data, problems = card.data, []
    for name, wanted in (("library_name", LIBRARY), ("pipeline_tag", PIPELINE_TAG)):
        if data.get(name) != wanted:
            problems.append(f"{name} is {data.get(name)!r}, expected {wanted!r}")
    if not data.get("license"):
        problems.append(
            "license is missing, expected an identifier of the Hub's list such as 'apache-2.0', or 'other'"
        )
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        problems.append("license is 'other' without license_name and license_link")
    problems += _wrong_base_models(data)
    for result in data.get("eval_results") or []:
        where = f"the result of {result.dataset_name!r}"
        if METRIC not in (data.get("metrics") or []):
            problems.append(f"metrics is {data.get('metrics')}, expected {METRIC!r} in it, as {where} is given")
        if not result.dataset_split or not result.dataset_config:
            problems.append(f"{where} names no split or no setting")
        if not isinstance(result.metric_value, (int, float)) or not 0 <= result.metric_value <= 100:
            problems.append(f"{where} is {result.metric_value!r}, expected per cent")
    for words in ("trust_remote_code=True", "revision="):
        if words not in card.text:
            problems.append(f"the text does not show how to load the model: no {words!r} in it")
    if "[More Information Needed]" in card.text:
        problems.append("the text holds '[More Information Needed]'")
    return list(dict.fromkeys(problems))


def _wrong_base_models(data: ModelCardData) -> list[str]:
    base = data.get("base_model") or []
    names = [base] if isinstance(base, str) else base
    return [f"base_model is {name!r}, expected a repository on the Hub" for name in names if hub_id(name) is None]


__all__ = ["card_data", "check_card", "is_by_hand", "render_card", "results_table", "signed_text", "write_card"]
