# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Everything before the first step of a training, from the command line to model and data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import set_seed

from ..data.arguments import AugmentationArguments, DataArguments
from ..data.augmentation import SegmentationAugmentation, build_augmentation
from ..data.loading import SegmentationData, load_segmentation_data
from ..refusals import require
from ..runs.command_line import field_names, parse_arguments
from ..runs.provenance import save_run_arguments
from .arguments import ModelArguments, SegmentationTrainingArguments
from .checkpoints import checkpoint_to_resume
from .initial_model import InitialModel, build_model, check_model_arguments
from .optimizer import check_optimization


ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, SegmentationTrainingArguments)


@dataclass
class TrainingStart:
    """What [`prepare_training`] returns.

    Attributes:
        model_arguments, data_arguments, augmentation_arguments, arguments: What was given.
        checkpoint (`str`, *optional*): The checkpoint to go on with.
        data ([`SegmentationData`]): Without `evaluation` where nothing is to be evaluated.
        initial ([`InitialModel`])
        augmentation ([`SegmentationAugmentation`])
    """

    model_arguments: ModelArguments
    data_arguments: DataArguments
    augmentation_arguments: AugmentationArguments
    arguments: SegmentationTrainingArguments
    checkpoint: str | None
    data: SegmentationData
    initial: InitialModel
    augmentation: SegmentationAugmentation

    def save_arguments(self) -> dict[str, tuple[Any, Any]]:
        """Writes `training_arguments.json`; see [`save_run_arguments`]."""
        groups = {"model": self.model_arguments, "data": self.data_arguments, "training": self.arguments}
        return save_run_arguments(self.arguments.output_dir, **groups, augmentation=self.augmentation_arguments)


def prepare_training(
    argv: Sequence[str], description: str | None, followed: Collection[str] | None = None
) -> TrainingStart:
    """Reads arguments and data and builds the model; what can be refused early is refused before the data are read.

    Args:
        argv (`Sequence[str]`): The command line without the name of the script.
        description (`str`, *optional*): What `--help` says above the arguments.
        followed (`Collection[str]`, *optional*): Those of [`SegmentationTrainingArguments`] that may be given; all by
            default.

    Raises:
        `ValueError`, `OSError`, `ImportError`, `RuntimeError`: If something does not fit.
    """
    (model_arguments, data_arguments, augmentation_arguments, arguments), given = parse_arguments(
        ARGUMENTS, argv, description
    )
    if followed is not None:
        for name in sorted((given & field_names(SegmentationTrainingArguments)) - set(followed)):
            require(False, name, getattr(arguments, name), "no such argument here; scripts/train.py takes it")
    checkpoint = checkpoint_to_resume(arguments.resume_from_checkpoint, arguments.output_dir, arguments.world_size)
    has_length = arguments.max_steps > 0 or not data_arguments.streaming
    require(has_length, "max_steps", arguments.max_steps, "at least 1 for a stream, whose length is unknown")
    check_model_arguments(model_arguments, augmentation_arguments.crop)
    check_optimization(arguments)
    evaluates = arguments.eval_strategy != "no" or arguments.do_eval
    with arguments.main_process_first(desc="reading the data set"):
        splits = ("train", "evaluation") if evaluates else ("train",)
        data = load_segmentation_data(data_arguments, splits, shuffle_seed=arguments.data_seed)
    set_seed(arguments.seed)  # of the random weights
    initial = build_model(model_arguments, augmentation_arguments.crop, data.id2label)
    augmentation = build_augmentation(augmentation_arguments, initial.processor)
    given = (model_arguments, data_arguments, augmentation_arguments, arguments)
    return TrainingStart(*given, checkpoint, data, initial, augmentation)


__all__ = ["TrainingStart", "prepare_training"]
