# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The facts of a model card: a JSON file ([`read_facts`]), or what a training and an evaluation left behind
([`facts_from_folder`]).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import safe_open

from ..runs.files import read_json


# Columns of a table of results: field, heading, factor and format. Scores are recorded from 0 to 1.
RESULT_COLUMNS = (
    ("mean_iou", "mIoU", lambda value: f"{100 * value:.4g}"),
    ("mean_accuracy", "mean accuracy", lambda value: f"{100 * value:.4g}"),
    ("overall_accuracy", "pixel accuracy", lambda value: f"{100 * value:.4g}"),
    ("tokens_mean", "tokens, mean of layers", lambda value: f"{value:.1f}"),
    ("tokens_final", "tokens, last layer", lambda value: f"{value:.1f}"),
    ("images_per_second", "images/s", lambda value: f"{value:.4g}"),
    ("gflops", "GFLOPs", lambda value: f"{value:.4g}"),
)
# Rows of the table of the model: fields of the config and what they are called.
MODEL_ROWS = {
    "parameters": "parameters",
    "patch_size": "patch size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "decoder_type": "decoder",
    "num_labels": "classes",
    "local_merge_layer": "local merge after the attention of layer",
    "global_merge_layer": "global merge after the attention of layer",
    "merge_window_size": "side of a local window, patches",
    "merge_threshold": "threshold tau",
    "image_mean": "mean of the normalisation",
    "image_std": "standard deviation of the normalisation",
}
# Data sets by the name that the scripts know: identifier on the Hub or the name it is known by, and title.
DATASETS = {
    "ade20k": ("zhoubolei/scene_parse_150", "ADE20K"),
    "camvid": ("camvid", "CamVid"),
    "cityscapes": ("cityscapes", "Cityscapes"),
    "coco_stuff": ("coco-stuff", "COCO-Stuff"),
    "pascal_context_59": ("pascal-context", "Pascal-Context, 59 classes"),
    "pascal_context_60": ("pascal-context", "Pascal-Context, 60 classes"),
}


@dataclass
class Evaluation:
    """
    Scores of one checkpoint under several settings of token merging.

    Attributes:
        dataset (`str`): Title of the data set.
        dataset_id (`str`): Its identifier on the Hub, or the name it is known by.
        split (`str`): Which part of it.
        setting (`str`): How images are scored: scales, size, windows.
        measured_by (`str`): Who measured.
        rows (`list[dict]`): `name`, such as `"off"` or `"on, tau 0.88"`, and any of [`RESULT_COLUMNS`]; scores from 0
            to 1, tokens with special tokens. With `same_weights=False`, a row of another model to compare with: it
            is in the table only.
        source_url (`str`, *optional*): Where the figures come from.
        num_images (`int`, *optional*)
        conditions (`str`, *optional*): Hardware, dtype and batch of the speeds.
    """

    dataset: str
    dataset_id: str
    split: str
    setting: str
    measured_by: str
    rows: list[dict[str, Any]]
    source_url: str | None = None
    num_images: int | None = None
    conditions: str | None = None


@dataclass
class CardFacts:
    """
    Everything a card says about one checkpoint. Optional facts that are missing leave their row or section out.

    Attributes:
        title (`str`): Heading of the card.
        model_id (`str`): Hub repository, or the folder that `from_pretrained` is given.
        license (`str`, *optional*): Identifier of the Hub's list; with `"other"`, `license_name` and `license_link`.
        base_model (`str`, *optional*): Hub repository of the weights that the training started from.
        datasets (`list[str]`): Identifiers of the training data.
        summary (`str`, *optional*): What is particular about this checkpoint.
        release_url (`str`, *optional*): For weights of somebody else: where their authors publish them.
        model (`dict`): Fields of the config, see [`MODEL_ROWS`].
        training (`dict[str, Any]`): Rows of the table of the training.
        evaluations (`list[Evaluation]`)
        classes (`dict[str, dict]`): IoU and accuracy by class name, 0 to 1 or `None`.
        limits (`list[str]`): Limits of this checkpoint, besides those of every one.
        versions (`dict[str, str]`): Packages that it was made with.
        commit (`str`, *optional*): Commit of this project that it was made with.
        command (`str`, *optional*): What trained it, with words such as FOLDER in the place of paths.
        published (`bool`): Whether `model_id` can be loaded from the Hub, or by whoever has converted or trained it.
        classes_setting (`str`, *optional*): Setting of merging that `classes` were measured at.
    """

    title: str
    model_id: str
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)
    summary: str | None = None
    release_url: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    classes: dict[str, dict] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    command: str | None = None
    published: bool = True
    classes_setting: str | None = None


def facts_from_dict(values: Mapping[str, Any], source: str = "the facts") -> CardFacts:
    """
    Facts as JSON holds them, checked by name.

    Args:
        values (`Mapping`): Fields of [`CardFacts`], `evaluations` as a list of fields of [`Evaluation`].
        source (`str`, *optional*): What a refusal calls them.

    Returns:
        [`CardFacts`]

    Raises:
        ValueError: if a field is unknown or a required one is missing, or if a score lies outside 0 to 1.
    """
    evaluations = [_build(Evaluation, entry, f"{source}, evaluations") for entry in values.get("evaluations", [])]
    facts = _build(CardFacts, {**values, "evaluations": evaluations}, source)
    known = {"name", "same_weights", *(name for name, _, _ in RESULT_COLUMNS)}
    for row in (row for evaluation in evaluations for row in evaluation.rows):
        if "name" not in row or set(row) - known:
            raise ValueError(f"{source}: a row of results is {row}, expected a name and any of {sorted(known)}.")
        for name in ("mean_iou", "mean_accuracy", "overall_accuracy"):
            if row.get(name) is not None and not 0 <= row[name] <= 1:
                raise ValueError(f"{source}: {name} of {row['name']!r} is {row[name]}, expected 0 to 1, not per cent.")
    return facts


def _build(kind: type, values: Mapping[str, Any], source: str):
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    required = {
        name
        for name, entry in fields.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(values) - set(fields)), sorted(required - set(values))
    if unknown or missing:
        raise ValueError(
            f"{source}: unknown fields {', '.join(unknown) or 'none'}, missing fields {', '.join(missing) or 'none'}; "
            f"expected {', '.join(fields)}."
        )
    return kind(**values)


def read_facts(path: str | Path, evaluation: str | Path | None = None, **changes: Any) -> CardFacts:
    """
    The facts of a JSON file, or of the folder that `scripts/train.py` wrote.

    Args:
        path (`str` or `Path`): File or folder.
        evaluation (`str` or `Path`, *optional*): `results.json` of `scripts/evaluate_model.py`.
        changes: Fields of [`CardFacts`] to set; `None` changes nothing.

    Returns:
        [`CardFacts`]

    Raises:
        ValueError: if a file cannot be read or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        return facts_from_folder(path, evaluation, **changes)
    values = read_json(path)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds {type(values).__name__}, expected an object with the facts of a card.")
    facts = facts_from_dict({**values, **{name: v for name, v in changes.items() if v is not None}}, str(path))
    if evaluation is not None:
        facts.evaluations = [_evaluation_from_results(Path(evaluation))]
    return facts


def facts_from_folder(folder: str | Path, evaluation: str | Path | None = None, **changes: Any) -> CardFacts:
    """
    What is recorded beside the weights: `config.json`, `preprocessor_config.json`, and of `scripts/train.py`, if it
    made them, `training_arguments.json`, `all_results.json` and `scores_by_class.json`.

    Args:
        folder (`str` or `Path`): The model.
        evaluation (`str` or `Path`, *optional*): `results.json` of `scripts/evaluate_model.py` with merging on and
            off. It takes the place of the scores of `all_results.json`. Default: the one in the folder, if any.
        changes: Fields of [`CardFacts`] to set; `None` changes nothing.

    Returns:
        [`CardFacts`]

    Raises:
        ValueError: if a file cannot be read.
    """
    folder = Path(folder)
    changes = {name: value for name, value in changes.items() if value is not None}
    config = read_json(folder / "config.json")
    recorded = {
        name: read_json(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else {}
        for name in ("preprocessor_config", "training_arguments", "all_results", "scores_by_class")
    }
    run = (recorded["training_arguments"].get("runs") or [{}])[-1]
    arguments = run.get("arguments", {})
    model_id = changes.get("model_id", folder.resolve().name)
    facts = CardFacts(
        title=changes.get("title", model_id.split("/")[-1]),
        model_id=model_id,
        model=_num_parameters(folder) | _model_facts(config, recorded["preprocessor_config"]),
        training=_training_facts(arguments),
        classes=recorded["scores_by_class"],
        classes_setting=_merging(config) if recorded["scores_by_class"] else None,
        versions=run.get("versions", {}),
        commit=run.get("commit"),
    )
    if arguments:
        facts.base_model = _start(arguments.get("model", {}))
        identifier = _dataset(arguments["data"])[0]
        facts.datasets = [identifier] if arguments["data"]["dataset"] in DATASETS or hub_id(identifier) else []
    if evaluation is None and (folder / "results.json").is_file():
        evaluation = folder / "results.json"
    if evaluation is not None:
        _check_same_model(read_json(Path(evaluation)), facts.model, str(evaluation))
        facts.evaluations = [_evaluation_from_results(Path(evaluation))]
    elif "eval_mean_iou" in recorded["all_results"] and arguments:
        facts.evaluations = [_evaluation_of_training(recorded["all_results"], arguments, config)]
    return facts_from_dict(vars(facts) | {"evaluations": [vars(e) for e in facts.evaluations]} | changes, str(folder))


def _model_facts(config: Mapping, processor: Mapping) -> dict[str, Any]:
    """The rows of [`MODEL_ROWS`] that the files hold; class names are counted, as configs store no number."""
    facts = {name: config[name] for name in MODEL_ROWS if config.get(name) is not None}
    facts |= {name: processor[name] for name in ("image_mean", "image_std") if processor.get(name) is not None}
    if "id2label" in config:
        facts["num_labels"] = len(config["id2label"])
    return facts


def _num_parameters(folder: Path) -> dict[str, int]:
    """Counted in the headers of the weights; every tensor of an ALGM model is a parameter."""
    total = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return {"parameters": total} if total else {}


def hub_id(name: str | None) -> str | None:
    """
    Tells repositories from folders and keywords.

    Args:
        name (`str`, *optional*): As given to `from_pretrained` or `--init_from`.

    Returns:
        `str` or `None`: `name` if it can be a repository `namespace/name` on the Hub and is no folder of this machine.
    """
    if name is None or name.startswith("scratch:") or name.count("/") != 1 or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _start(model: Mapping[str, Any]) -> str | None:
    """Hub repository of the first weights. A relative folder looks like one, so only a recorded commit or branch
    (`init_revision`), which folders have none of, tells that it is one."""
    return hub_id(model.get("init_from")) if model.get("init_revision") else None


def _dataset(data: Mapping[str, Any]) -> tuple[str, str]:
    """Identifier and title. Of what may be a local path, the last part: a card names no path of one machine, and only
    a recorded `revision` tells a repository from a folder."""
    name = data["dataset"]
    if name in DATASETS:
        return DATASETS[name]
    if name != "folder" and data.get("revision") and hub_id(name):
        return name, name
    local = Path((data.get("data_dir") or name) if name == "folder" else name).name or "folder"
    return local, local


def _training_facts(arguments: Mapping[str, Mapping]) -> dict[str, Any]:
    """Rows of the table of the training, from the arguments that `scripts/train.py` saves."""
    if not arguments:
        return {}
    model, data = arguments.get("model", {}), arguments["data"]
    augmentation, training = arguments.get("augmentation", {}), arguments.get("training", {})
    length = {"steps": training.get("max_steps")} if (training.get("max_steps") or 0) > 0 else {}
    rows = {
        "data": f"{_dataset(data)[1]}, {data.get('train_split', 'train')}",
        "start": "random weights" if str(model.get("init_from")).startswith("scratch:") else _start(model),
        "token merging in training": {True: "on", False: "off"}.get(model.get("train_with_merging")),
        "crop, pixels": augmentation.get("crop_size"),
        "random resize": augmentation.get("ratio_range"),
        "images per step and device": training.get("per_device_train_batch_size"),
        "gradient accumulation": training.get("gradient_accumulation_steps"),
        **(length or {"epochs": training.get("num_train_epochs")}),
        "optimizer": " ".join(str(training[name]) for name in ("optim", "optim_args") if training.get(name)) or None,
        "learning rate": training.get("learning_rate"),
        "learning rate schedule": training.get("lr_scheduler_type"),
        "weight decay": training.get("weight_decay"),
        "drop path": model.get("drop_path_rate"),
        "seed": training.get("seed"),
    }
    return {name: value for name, value in rows.items() if value is not None}


def _evaluation_of_training(results: Mapping, arguments: Mapping[str, Mapping], config: Mapping) -> Evaluation:
    """The last evaluation of a training, at the setting that the config saves."""
    row = {name: results[f"eval_{name}"] for name, _, _ in RESULT_COLUMNS if f"eval_{name}" in results}
    dataset_id, title = _dataset(arguments["data"])
    return Evaluation(
        dataset=title,
        dataset_id=dataset_id,
        split=arguments["data"].get("eval_split", "validation"),
        setting="single scale, " + _windows(config),
        measured_by="this project",
        rows=[{"name": _merging(config), **row}],
        num_images=results.get("eval_num_images") and int(results["eval_num_images"]),
    )


def _merging(config: Mapping) -> str:
    return f"on, tau {config['merge_threshold']:g}" if config.get("use_token_merging", True) else "off"


def _check_same_model(results: Any, model: Mapping[str, Any], source: str) -> None:
    """Scores of another model are not to get into a card unnoticed."""
    scored = results.get("model", {}) if isinstance(results, Mapping) else {}
    names = ("parameters", "hidden_size", "num_hidden_layers", "patch_size", "decoder_type", "num_labels")
    other = {name: scored[name] for name in names if name in scored and name in model and scored[name] != model[name]}
    if other:
        raise ValueError(f"{source} scores a model with {other}, expected { {name: model[name] for name in other} }.")


def _windows(config: Mapping) -> str:
    if config.get("inference_mode") != "slide":
        return "whole images"
    size = config["window_size"]
    return f"windows of {size} with stride {config.get('window_stride') or size}"


def _evaluation_from_results(path: Path) -> Evaluation:
    """What `scripts/evaluate_model.py` recorded."""
    results = read_json(path)
    try:
        environment, arguments, data = results["environment"], results["arguments"], results["data_arguments"]
        scales = [f"{scale:g}" for scale in arguments["scales"]]
        scale = "single scale" if scales == ["1"] else f"scales {', '.join(scales)}"
        size = "x".join(str(length) for length in results["model"]["image_size"].values())
        dataset_id, title = _dataset(data)
        rows = [
            {"name": f"on, {row['name']}" if row["use_token_merging"] and row["name"] != "on" else row["name"]}
            | {name: row[name] for name, _, _ in RESULT_COLUMNS if row.get(name) is not None}
            for row in results["settings"]
        ]
        return Evaluation(
            dataset=title,
            dataset_id=dataset_id,
            split=data["eval_split"],
            setting=f"{scale}{' and mirrored' if arguments['flip'] else ''}, shorter side {size}, "
            + _windows(results["model"]),
            measured_by="this project",
            rows=rows,
            num_images=results["settings"][0]["num_images"] if rows else None,
            conditions=f"{environment['device_name']} ({environment['device']}), {environment['dtype']}, batches of "
            f"{arguments['batch_size']}",
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no {error}, expected results.json of scripts/evaluate_model.py.") from error


__all__ = [
    "DATASETS",
    "MODEL_ROWS",
    "RESULT_COLUMNS",
    "CardFacts",
    "Evaluation",
    "facts_from_dict",
    "facts_from_folder",
    "hub_id",
    "read_facts",
]
