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

from ..refusals import require, require_number
from ..runs.files import read_json


# Columns of a table of results: field of [`Result`], heading, factor and format.
RESULT_COLUMNS = {
    "mean_iou": ("mIoU", 100, ".4g"),
    "mean_accuracy": ("mean accuracy", 100, ".4g"),
    "overall_accuracy": ("pixel accuracy", 100, ".4g"),
    "tokens_mean": ("tokens, mean of layers", 1, ".1f"),
    "tokens_final": ("tokens, last layer", 1, ".1f"),
    "images_per_second": ("images/s", 1, ".4g"),
    "gflops": ("GFLOPs", 1, ".4g"),
}
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
class Result:
    """
    One row of a table of results: what was measured at one setting of token merging.

    Attributes:
        name (`str`): Such as `"off"` or `"on, tau 0.88"`.
        mean_iou, mean_accuracy, overall_accuracy (`float`, *optional*): From 0 to 1.
        tokens_mean, tokens_final (`float`, *optional*): Special tokens counted.
        images_per_second, gflops (`float`, *optional*)
        same_weights (`bool`): `False` for another model to compare with, which is in the table only.
    """

    name: str
    mean_iou: float | None = None
    mean_accuracy: float | None = None
    overall_accuracy: float | None = None
    tokens_mean: float | None = None
    tokens_final: float | None = None
    images_per_second: float | None = None
    gflops: float | None = None
    same_weights: bool = True

    def __post_init__(self):
        for name in ("mean_iou", "mean_accuracy", "overall_accuracy"):
            if getattr(self, name) is not None:
                require_number(f"{name} of {self.name!r}", getattr(self, name), 0, 1)


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
        rows (`list[Result]`)
        source_url (`str`, *optional*): Where the figures come from.
        num_images (`int`, *optional*)
        conditions (`str`, *optional*): Hardware, dtype and batch of the speeds.
    """

    dataset: str
    dataset_id: str
    split: str
    setting: str
    measured_by: str
    rows: list[Result]
    source_url: str | None = None
    num_images: int | None = None
    conditions: str | None = None

    def __post_init__(self):
        self.rows = [row if isinstance(row, Result) else Result(**row) for row in self.rows]


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

    def __post_init__(self):
        self.evaluations = [e if isinstance(e, Evaluation) else Evaluation(**e) for e in self.evaluations]


@dataclass
class CardArguments:
    """What a person can say of a card on the command line."""

    evaluation: str | None = field(
        default=None, metadata={"help": "results.json of scripts/evaluate_model.py, for the table of the card."}
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the card. Default: the recorded one."})
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights: an identifier of the Hub's list, or other."}
    )
    license_name: str | None = field(default=None, metadata={"help": "Name of the licence, with --license other."})
    license_link: str | None = field(default=None, metadata={"help": "Link to the licence, with --license other."})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub repository of the weights that the training started from."}
    )


def read_facts(path: str | Path, evaluation: str | Path | None = None, **changes: Any) -> CardFacts:
    """
    The facts of a JSON file, or of a model folder, see [`facts_from_folder`].

    Args:
        path (`str` or `Path`): File with the fields of [`CardFacts`], or folder.
        evaluation (`str` or `Path`, *optional*): `results.json` of `scripts/evaluate_model.py`.
        changes: Fields of [`CardFacts`] to set; `None` changes nothing.
    """
    path = Path(path)
    if path.is_dir():
        return facts_from_folder(path, evaluation, **changes)
    values = read_json(path)
    require(isinstance(values, Mapping), path, values, "an object with the facts of a card")
    try:
        facts = CardFacts(**{**values, **_given(changes)})
    except TypeError as error:  # a field that is unknown or missing
        raise ValueError(f"{path}: {error}") from error
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
    """
    folder, changes = Path(folder), _given(changes)
    config = read_json(folder / "config.json")
    recorded = {
        name: read_json(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else {}
        for name in ("preprocessor_config", "training_arguments", "all_results", "scores_by_class")
    }
    run = (recorded["training_arguments"].get("runs") or [{}])[-1]
    arguments = run.get("arguments", {})
    model_id = changes.get("model_id", folder.resolve().name)
    facts = CardFacts(
        title=model_id.split("/")[-1],
        model_id=model_id,
        model=_num_parameters(folder) | _model_facts(config, recorded["preprocessor_config"]),
        training=_training_facts(arguments, config),
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
        facts.evaluations = [_evaluation_from_results(Path(evaluation), facts.model)]
    elif "eval_mean_iou" in recorded["all_results"] and arguments:
        facts.evaluations = [_evaluation_of_training(recorded["all_results"], arguments, config)]
    return dataclasses.replace(facts, **changes)


def _given(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


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


def _training_facts(arguments: Mapping[str, Mapping], config: Mapping) -> dict[str, Any]:
    """Rows of the table of the training, from the arguments that `scripts/train.py` saves and the config."""
    if not arguments:
        return {}
    model, data = arguments.get("model", {}), arguments["data"]
    augmentation, training = arguments.get("augmentation", {}), arguments.get("training", {})
    steps = training.get("max_steps")
    in_steps = steps is not None and steps > 0
    rows = {
        "data": f"{_dataset(data)[1]}, {data.get('train_split', 'train')}",
        "start": "random weights" if str(model.get("init_from")).startswith("scratch:") else _start(model),
        "token merging in training": {True: "on", False: "off"}.get(model.get("train_with_merging")),
        "crop, pixels": augmentation.get("crop_size"),
        "random resize": augmentation.get("ratio_range"),
        "images per step and device": training.get("per_device_train_batch_size"),
        "gradient accumulation": training.get("gradient_accumulation_steps"),
        "steps": steps if in_steps else None,
        "epochs": None if in_steps else training.get("num_train_epochs"),
        "optimizer": " ".join(str(training[name]) for name in ("optim", "optim_args") if training.get(name)) or None,
        "learning rate": training.get("learning_rate"),
        "learning rate schedule": training.get("lr_scheduler_type"),
        "weight decay": training.get("weight_decay"),
        "drop path": config.get("drop_path_rate"),
        "seed": training.get("seed"),
    }
    return _given(rows)


def _evaluation_of_training(results: Mapping, arguments: Mapping[str, Mapping], config: Mapping) -> Evaluation:
    """The last evaluation of a training, at the setting that the config saves."""
    row = {name: results.get(f"eval_{name}") for name in RESULT_COLUMNS}
    dataset_id, title = _dataset(arguments["data"])
    return Evaluation(
        dataset=title,
        dataset_id=dataset_id,
        split=arguments["data"].get("eval_split", "validation"),
        setting="single scale, " + _windows(config),
        measured_by="this project",
        rows=[Result(_merging(config), **row)],
        num_images=results.get("eval_num_images") and int(results["eval_num_images"]),
    )


def _merging(config: Mapping) -> str:
    return f"on, tau {config['merge_threshold']:g}" if config.get("use_token_merging", True) else "off"


def _windows(config: Mapping) -> str:
    if config.get("inference_mode") != "slide":
        return "whole images"
    size = config["window_size"]
    return f"windows of {size} with stride {config.get('window_stride') or size}"


def _evaluation_from_results(path: Path, model: Mapping[str, Any] | None = None) -> Evaluation:
    """What `scripts/evaluate_model.py` recorded; scores of another model are not to get into a card unnoticed."""
    results = read_json(path)
    try:
        environment, arguments, data = results["environment"], results["arguments"], results["data_arguments"]
        scored, settings = results["model"], results["settings"]
        for name in ("parameters", "hidden_size", "num_hidden_layers", "patch_size", "decoder_type", "num_labels"):
            if model is not None and name in scored and name in model:
                require(
                    scored[name] == model[name], f"{path}: {name}", scored[name], f"{model[name]!r}, as of this model"
                )
        scales = [f"{scale:g}" for scale in arguments["scales"]]
        scale = "single scale" if scales == ["1"] else f"scales {', '.join(scales)}"
        size = "x".join(str(length) for length in scored["image_size"].values())
        dataset_id, title = _dataset(data)
        rows = [
            Result(
                f"on, {row['name']}" if row["use_token_merging"] and row["name"] != "on" else row["name"],
                **{name: row.get(name) for name in RESULT_COLUMNS},
            )
            for row in settings
        ]
        return Evaluation(
            dataset=title,
            dataset_id=dataset_id,
            split=data["eval_split"],
            setting=f"{scale}{' and mirrored' if arguments['flip'] else ''}, shorter side {size}, {_windows(scored)}",
            measured_by="this project",
            rows=rows,
            num_images=settings[0]["num_images"] if rows else None,
            conditions=f"{environment['device_name']} ({environment['device']}), {environment['dtype']}, batches of "
            f"{arguments['batch_size']}",
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no {error}, expected results.json of scripts/evaluate_model.py") from error


__all__ = [
    "DATASETS",
    "MODEL_ROWS",
    "RESULT_COLUMNS",
    "CardArguments",
    "CardFacts",
    "Evaluation",
    "Result",
    "facts_from_folder",
    "hub_id",
    "read_facts",
]
