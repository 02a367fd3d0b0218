# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`transformers.Trainer` for segmentation: evaluation at the original size of the images in memory that does not
grow, the recipe's optimizer, tokens and throughput in the log, and a stop that leaves a whole checkpoint."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics

from ..data.streams import EndlessStream
from ..evaluation.metrics import scalar_metrics
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require
from ..runs.compat import set_epoch
from ..runs.models import config_settings, unwrapped
from .collators import SegmentationCollator
from .evaluation import evaluate_in_training
from .meters import TokenMeter, TrainingClock
from .optimizer import build_optimizer
from .sharding import bare_model, is_sharded
from .stopping import StopRequest


class NothingLeftToTrain(ValueError):
    """The checkpoint to go on with has all its steps; Trainer would run one more. Its weights and state are loaded."""


class _StepCallback(TrainerCallback):
    """The clock around a step, the epoch of the augmentation, and the stop after a step."""

    def __init__(self, trainer: SegmentationTrainer):
        self.trainer = trainer
        self._start = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            raise NothingLeftToTrain(
                f"the checkpoint has {state.global_step} of {state.max_steps} steps: nothing is left to train."
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        # accelerate does not tell the data set when there are several processes. A stream counts its passes itself.
        rows, epoch = self.trainer.train_dataset, int(state.epoch or 0)
        if hasattr(rows, "__len__"):
            set_epoch(kwargs["train_dataloader"], epoch)
            if hasattr(rows, "set_epoch"):
                rows.set_epoch(epoch)

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.clock.add(step=time.perf_counter() - self._start)
        stop = self.trainer.stop
        if stop is not None and stop.reached(self.trainer.accelerator) and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        stop = self.trainer.stop
        if stop is None or not stop.is_due or state.global_step >= state.max_steps:
            return
        if state.epoch != int(state.epoch):
            # No epoch has ended; on_step_end has saved, and a score from here would not be one of the whole run.
            control.should_evaluate = control.should_save = False
        elif control.should_evaluate:
            control.should_save = True  # what on_step_end has saved lacks the score


class SegmentationTrainer(Trainer):
    """
    [`Trainer`] for [`AlgmForSemanticSegmentation`].

    Its evaluation is that of `scripts/evaluate_model.py` ([`evaluate_predictor`]): images at their original size, in
    the precision of the weights, in memory that does not grow with their number, and with the same numbers on several
    processes.

    Args:
        model ([`AlgmForSemanticSegmentation`])
        args ([`SegmentationTrainingArguments`])
        train_dataset (`Dataset`, *optional*): Rows of `pixel_values` and `labels`, see [`AugmentedDataset`]. A stream
            is read pass after pass, see [`EndlessStream`].
        eval_dataset (`Dataset`, *optional*): Rows of `image` and `annotation`.
        processing_class ([`AlgmImageProcessor`])
        train_with_merging (`bool`, *optional*, defaults to `True`): Whether training steps merge tokens. Evaluation
            and the saved model do as the config says in any case.
        stop ([`StopRequest`], *optional*): Ends the training with a checkpoint.
        kwargs: Further arguments of [`Trainer`].

    Attributes:
        scores (`dict`): All scores of the last evaluation, see [`evaluate_predictor`].
        clock ([`TrainingClock`]): Throughput of the training.
    """

    def __init__(
        self,
        model: AlgmForSemanticSegmentation,
        args,
        processing_class,
        train_dataset=None,
        eval_dataset=None,
        train_with_merging: bool = True,
        stop: StopRequest | None = None,
        **kwargs,
    ):
        self.train_with_merging, self.stop = train_with_merging, stop
        self.clock, self.scores = TrainingClock(), {}
        if train_dataset is not None and not hasattr(train_dataset, "__len__"):
            train_dataset = EndlessStream(train_dataset)  # Trainer knows no passes of a stream
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=SegmentationCollator(model.config.num_labels, processing_class.ignore_index),
            processing_class=processing_class,
            **kwargs,
        )
        is_sharded(self.accelerator)  # refuses what does not work before the first step
        self.tokens = TokenMeter(model)
        self.add_callback(_StepCallback(self))

    # Training

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer of `optimizer.py`, which the loop without Trainer uses as well."""
        if self.optimizer is None:
            model = self.model if model is None else model
            self.optimizer = build_optimizer(model, unwrapped(self.model).config.num_hidden_layers, self.args)
        return self.optimizer

    def get_batch_samples(self, *args, **kwargs):
        """Trainer's, timed: how long the step waits for its data."""
        start = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self.clock.add(data=time.perf_counter() - start)
        return samples

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Trainer's, with merging as `train_with_merging` says: `inputs` holds `pixel_values` `(batch_size, 3, height,
        width)` and `labels` `(batch_size, height, width)`."""
        if model.training:
            self.clock.add(images=inputs["pixel_values"].shape[0])
        off = model.training and not self.train_with_merging
        with config_settings(unwrapped(self.model), use_token_merging=False) if off else nullcontext():
            return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Trainer's; a log of the loss also says `images_per_second`, `data_wait_percent` and
        `tokens_kept_percent`."""
        if "loss" in logs:
            logs.update(self.clock.pop(self.args.world_size))
            kept = self.tokens.pop()
            logs.update({} if kept is None else {"tokens_kept_percent": round(kept, 2)})
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir=None, state_dict=None):
        """Trainer's, of a sharded model as of a whole one, and without the token in `training_args.bin`."""
        model, token = self.model, self.args.hub_token
        try:
            self.args.hub_token = None
            if is_sharded(self.accelerator):
                self.model = bare_model(unwrapped(model).config)
            return super()._save(output_dir, state_dict)
        finally:
            self.model, self.args.hub_token = model, token

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Scores the model on rows, a stream of rows, or a mapping of names to these; see [`evaluate_predictor`].

        Args:
            eval_dataset (*optional*): Defaults to that of the trainer; of several, the name of one.
            ignore_keys: Trainer's, without effect.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): In front of the names.

        Returns:
            `dict[str, float]`: The scores that are single numbers; all of them are in `scores`.
        """
        if eval_dataset is None or isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset if eval_dataset is None else self.eval_dataset[eval_dataset]
        require(eval_dataset is not None, "eval_dataset", None, "rows to evaluate")
        if isinstance(eval_dataset, dict):
            scored = [self.evaluate(rows, None, f"{metric_key_prefix}_{name}") for name, rows in eval_dataset.items()]
            return {name: value for metrics in scored for name, value in metrics.items()}
        self._memory_tracker.start()
        start = time.time()
        self.scores = evaluate_in_training(
            self.accelerator, self.args, self.model_wrapped, self.processing_class, eval_dataset
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scalar_metrics(self.scores).items()}
        metrics |= speed_metrics(metric_key_prefix, start, self.scores["num_images"])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, *args, **kwargs):
        """Not Trainer's, which would keep every label map.

        Raises:
            `ValueError`: Always.
        """
        raise ValueError(
            "SegmentationTrainer.predict does not give label maps, expected SegmentationPredictor(model, processor) "
            "of algm_hf.inference.predictor; evaluate() gives the scores."
        )

    def load_best_weights(self) -> None:
        """What `load_best_model_at_end` does at the end of a training, for one that has nothing left to train."""
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()


__all__ = ["NothingLeftToTrain", "SegmentationTrainer"]
