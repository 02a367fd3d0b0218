# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training is told: arguments with their help.

The defaults are the recipe of the paper (ALGM, CVPR 2024, section 4.1): SGD with momentum 0.9 and no weight decay,
polynomial decay of the learning rate with power 0.9 down to 1e-5, drop path 0.1 in the encoder and dropout 0.1 in the
mask transformer.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig, TrainingArguments

from ..configuration_algm import AlgmConfig
from ..refusals import require, require_choice, require_integer
from ..runs.compat import checkpoint_without_reentrance


SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy")
MIN_LEARNING_RATE, POLYNOMIAL_POWER = 1e-5, 0.9


# The recipe's; every other field keeps the value of the model that a training starts from.
RECIPE_OVERRIDES = {"drop_path_rate": 0.1, "decoder_dropout_prob": 0.1}
# Fields of the config that the data set decides, or that every configuration of transformers has.
NOT_OVERRIDDEN = {"semantic_loss_ignore_index", *vars(PreTrainedConfig())}


def parse_overrides(given: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Fields of [`AlgmConfig`] from a mapping, or from words `key=value` and JSON mappings; the last one wins.

    Raises:
        `ValueError`: If a word is none of these, or a key is no field that can be set.
    """
    overrides: dict[str, Any] = {}
    for word in [given] if isinstance(given, Mapping) else given:
        if isinstance(word, str) and not word.startswith("{"):
            name, equals, value = word.partition("=")
            require(equals, "config_overrides", word, "key=value")
            word = {name: value}
        overrides |= _read(json.loads, word) if isinstance(word, str) else word
    fields = set(vars(AlgmConfig())) - NOT_OVERRIDDEN
    for name in overrides:
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else " that can be set"
        require(name in fields, "config_overrides", name, f"a field of AlgmConfig{hint}")
    return {name: _read(_value, value) if isinstance(value, str) else value for name, value in overrides.items()}


def _read(reader: Callable[[str], Any], text: str) -> Any:
    """What a reader of JSON or YAML makes of a text; its errors name the text."""
    try:
        return reader(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config_overrides={text!r}: expected JSON or YAML ({reason})") from error


def _value(text: str) -> Any:
    """A YAML scalar or list, and what YAML 1.1 reads as text: `1e-5` and `None`."""
    try:
        return None if text == "None" else json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


@dataclass
class ModelArguments:
    """The model to start from and what to change about it.

    Attributes:
        config_overrides (`dict[str, Any]`): Made from what is given (see [`parse_overrides`]) and the recipe's
            `drop_path_rate` and `decoder_dropout_prob`.
    """

    init_from: str = field(
        default="scratch:s",
        metadata={
            "help": "Initial weights. scratch:ti, scratch:s, scratch:b, scratch:l (the paper's ViTs) or "
            "scratch:custom (shape from --config_overrides) for random ones; or a folder or Hub id of an ALGM model, "
            "a checkpoint.pth in the Segmenter / ALGM release format, or a folder or Hub id of a ViT (transformers or "
            "timm)."
        },
    )
    init_revision: str | None = field(default=None, metadata={"help": "Commit or branch of the Hub id in init_from."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "Fields of AlgmConfig that differ from those of init_from, as key=value ..., or a mapping in a "
            "file: merge_threshold=0.9 global_merge_layer=null inference_mode=slide window_size=512 ... Without them "
            "drop_path_rate=0.1 decoder_dropout_prob=0.1 class_weights=null; window_size of slide is the shorter side "
            "of crop_size.",
        },
    )
    train_with_merging: bool = field(
        default=True,
        metadata={
            "help": "Merge tokens in training steps, too. With false, steps run the plain ViT, while evaluation and "
            "the saved model merge as configured."
        },
    )
    eval_size: int | None = field(
        default=None,
        metadata={
            "help": "Shorter side in pixels of evaluated images; saved with the processor. Without it window_size, or "
            "else the shorter side of crop_size."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager or flash_attention_2; without it transformers' choice."}
    )

    def __post_init__(self):
        self.config_overrides = RECIPE_OVERRIDES | parse_overrides(self.config_overrides)
        if self.eval_size is not None:
            require_integer("eval_size", self.eval_size, 1)


@dataclass
class SegmentationTrainingArguments(TrainingArguments):
    """
    transformers' [`TrainingArguments`] with the defaults of the paper's recipe and three fields more.

    Args:
        layer_decay (`float`, *optional*): In (0, 1]: each layer below the decoder learns at this multiple of the rate
            of the layer above it; with `--optim adamw_torch`.
        hub_license (`str`, *optional*): For the model card: an identifier of the Hub's list of licences.
        hub_replace_card (`bool`, *optional*, defaults to `False`): Whether a rendered model card replaces one that
            is in the output folder or on the Hub, which may be a person's.
    """

    output_dir: str = field(
        default="outputs/train", metadata={"help": "Folder for the model, checkpoints, arguments and results."}
    )
    optim: str = field(default="sgd", metadata={"help": "sgd (the paper), adamw_torch or any of transformers'."})
    optim_args: str | None = field(
        default=None, metadata={"help": "Arguments of the optimizer; for sgd, without them, momentum=0.9."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of all but biases, norms and embeddings."})
    layer_decay: float | None = field(
        default=None, metadata={"help": "Layer-wise learning-rate decay in (0, 1], such as 0.75 with adamw_torch."}
    )
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Decay of the learning rate, every step."})
    lr_scheduler_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": 'JSON; for polynomial, without it, {"lr_end": 1e-5, "power": 0.9}.'},
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip the gradient to this norm; 0 does not clip."})
    num_train_epochs: float = field(default=64.0, metadata={"help": "Passes over the training images."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Checkpoints to keep in all: the last one and, from 2 on, the best one are among them "
            "(train_no_trainer: the best model lies in output_dir instead)."
        },
    )
    metric_for_best_model: str | None = field(
        default="eval_mean_iou", metadata={"help": "What decides which checkpoint is the best."}
    )
    report_to: str | None = field(
        default="none", metadata={"help": "none, tensorboard, trackio, wandb, ...; several separated by commas."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint folder; last (or true) for the last complete one in output_dir; auto for the last "
            "one if there is one."
        },
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "When --push_to_hub uploads: end, or with the others while training, too."}
    )
    hub_license: str | None = field(
        default=None, metadata={"help": "License of the weights for the model card, as the Hub calls it: mit, ..."}
    )
    hub_replace_card: bool = field(
        default=False,
        metadata={"help": "Render a card in the place of one in output_dir or on the Hub, which may be a person's."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has to stay false."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})

    def __post_init__(self):
        self._check_supported()
        if self.optim == "sgd" and self.optim_args is None:
            self.optim_args = "momentum=0.9"
        if self.lr_scheduler_type == "polynomial" and self.lr_scheduler_kwargs is None:
            lr_end = min(MIN_LEARNING_RATE, self.learning_rate * (1 - 1e-6))  # has to lie below the start
            self.lr_scheduler_kwargs = {"lr_end": lr_end, "power": POLYNOMIAL_POWER}
        if isinstance(self.report_to, str) and "," in self.report_to:
            self.report_to = self.report_to.split(",")
        if self.data_seed is None:
            self.data_seed = self.seed  # the order of the images depends on nothing else
        checkpoint_without_reentrance(self)
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:
            self.accelerator_config.dispatch_batches = False  # every process reads and augments its own images

    def _check_supported(self) -> None:
        """Refuses what these trainings cannot do, so that nothing is accepted and then ignored."""
        fixed = {"remove_unused_columns": False, "prediction_loss_only": False, "label_smoothing_factor": 0.0}
        fixed |= {"bf16_full_eval": False, "fp16_full_eval": False}
        for name, value in fixed.items():
            require(getattr(self, name) == value, name, getattr(self, name), f"{value}: nothing else is supported")
        metric = (self.metric_for_best_model or SCORES[0]).removeprefix("eval_")
        require_choice("metric_for_best_model", metric, SCORES)
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a number above 0")
        rate = self.layer_decay
        require(rate is None or 0 < rate <= 1, "layer_decay", rate, "a number above 0 and up to 1")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            require_integer(name, getattr(self, name), 1)
        epochs = self.num_train_epochs
        require(self.max_steps > 0 or epochs > 0, "num_train_epochs", epochs, "a number above 0")
        if self.dataloader_persistent_workers:
            require_integer("dataloader_num_workers", self.dataloader_num_workers, 1)
        # transformers turns the repository name, by default that of the output folder, into that of a Python module.
        name = "output_dir" if self.hub_model_id is None else "hub_model_id"
        repository = Path(self.output_dir).absolute().name if self.hub_model_id is None else self.hub_model_id
        require(not self.push_to_hub or "." not in repository, name, repository, "a name without dots (hub_model_id)")


__all__ = ["ModelArguments", "SegmentationTrainingArguments"]
