# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of `algm_hf/evaluation` amid or after a training."""

from __future__ import annotations

from typing import Any

from torch import nn
from tqdm.auto import tqdm

from ..evaluation.scoring import evaluate_predictor
from ..inference.predictor import SegmentationPredictor
from .arguments import SegmentationTrainingArguments
from .sharding import model_to_evaluate


def evaluate_in_training(
    accelerator, arguments: SegmentationTrainingArguments, model: nn.Module, processor, rows
) -> dict[str, Any]:
    """Scores a model as its saved folder would score, with a progress bar; it is in evaluation mode afterwards.

    Args:
        accelerator (`accelerate.Accelerator`): Of the training.
        arguments ([`SegmentationTrainingArguments`]): Batch size and worker processes.
        model ([`AlgmForSemanticSegmentation`]): Possibly wrapped or sharded.
        processor ([`AlgmImageProcessor`])
        rows (`Sequence` or `Iterable`): Rows or a stream of rows `{"image", "annotation"}`.

    Returns:
        `dict`: See [`evaluate_predictor`]; the same in every process.
    """
    total = -(-len(rows) // accelerator.num_processes) if hasattr(rows, "__len__") else None
    silent = arguments.disable_tqdm or not accelerator.is_main_process
    with (
        model_to_evaluate(accelerator, model) as bare,
        tqdm(total=total, desc="evaluating", unit="image", disable=silent, leave=False) as bar,
    ):
        return evaluate_predictor(
            SegmentationPredictor(bare, processor),
            rows,
            arguments.per_device_eval_batch_size,
            processor.ignore_index,
            lambda count, running: bar.update(count),
            accelerator=accelerator,
            num_workers=arguments.dataloader_num_workers,
        )


__all__ = ["evaluate_in_training"]
