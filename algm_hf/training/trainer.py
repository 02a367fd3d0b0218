# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`transformers.Trainer` for segmentation: evaluation at the original size of the images in memory that does not
grow, the recipe's optimizer, tokens and throughput in the log, and a stop that leaves a whole checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalPrediction

from ..data.streams import EndlessStream
from ..evaluation.metrics import confusion_scores, constant_mean_iou, image_confusion, scalar_metrics
from ..inference.predictor import SegmentationPredictor
from ..modeling_algm import AlgmForSemanticSegmentation
from ..runs.compat import set_epoch
from ..runs.models import config_settings, unwrapped
from .collators import TrainingAndEvaluationCollator, numbered
from .meters import TokenMeter, TrainingClock
from .optimizer import build_optimizer
from .sharding import bare_model, is_sharded, model_to_evaluate, without_autocast
from .stopping import StopRequest


def predict_batch(
    predictor: SegmentationPredictor, batch: Mapping[str, Any], seen: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Segments the images of a batch, without accelerate's mixed precision, and counts their pixels.

    Args:
        predictor ([`SegmentationPredictor`]): Decides how.
        batch (`Mapping`): The lists `image` and `annotation`, and the tensor `index` `(batch_size,)`.
        seen (`int`): The largest `index` of this process so far. What does not lie above it are repetitions that fill
            the last batches of several processes; they are left out, so that every image has the same neighbours
            however many processes there are.
        device (`torch.device`, *optional*): Of what is returned.

    Returns:
        `tuple[Tensor, Tensor]`: confusion matrices `(batch_size, num_labels, num_labels)`, rows are true classes; and
        tokens after each layer and without merging, `(batch_size, num_hidden_layers + 1)`; int64, zero where left out.
    """
    config, ignore_index = predictor.config, predictor.processor.ignore_index
    batch_size = len(batch["image"])
    confusions = torch.zeros(batch_size, config.num_labels, config.num_labels, dtype=torch.int64)
    tokens = torch.zeros(batch_size, config.num_hidden_layers + 1, dtype=torch.int64)
    places = []
    for place, index in enumerate(batch["index"].tolist()):
        if index > seen:
            places.append(place)
            seen = index
    with without_autocast(predictor.model):
        results = predictor([batch["image"][place] for place in places]) if places else []
    for place, result in zip(places, results, strict=True):
        annotation = batch["annotation"][place]
        confusions[place] = image_confusion(result.label_map, annotation, config.num_labels, ignore_index)
        tokens[place] = torch.tensor([*result.token_counts, result.tokens_unmerged])
    return confusions.to(device), tokens.to(device)


class EvaluationSums:
    """
    Adds up [`predict_batch`] over batches and processes. Integers only, so the order changes nothing.

    Args:
        num_labels (`int`): Number of classes.
    """

    def __init__(self, num_labels: int):
        self.matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64)
        self.tokens: Tensor | None = None
        self.seen: set[int] = set()

    def update(self, confusions: Tensor, tokens: Tensor, index: Tensor) -> None:
        """Adds a gathered batch; images of an `index` `(batch_size,)` that was added before are left out."""
        fresh = []
        for place, number in enumerate(index.tolist()):
            if number not in self.seen and tokens[place, -1] > 0:  # without tokens: left out as a repetition
                fresh.append(place)
                self.seen.add(number)
        self.matrix += confusions[fresh].sum(dim=0).cpu()
        added = tokens[fresh].sum(dim=0).cpu()
        self.tokens = added if self.tokens is None else self.tokens + added

    def compute(self) -> dict[str, Any]:
        """
        Returns:
            `dict`: [`confusion_scores`], `constant_mean_iou` (see [`constant_mean_iou`]), `num_images`, the means over
                images `tokens_final`, `tokens_mean` and `tokens_unmerged`, and `token_share`, as
                [`evaluate_segmentation`] defines them.

        Raises:
            `ValueError`: If no image was added.
        """
        if not self.seen:
            raise ValueError("the evaluation set is empty, expected at least one labelled image.")
        *layers, unmerged = self.tokens.tolist()
        mean, num_images = sum(layers) / len(layers), len(self.seen)
        return {
            **confusion_scores(self.matrix),
            "constant_mean_iou": constant_mean_iou(self.matrix),
            "num_images": num_images,
            "tokens_final": layers[-1] / num_images,
            "tokens_mean": mean / num_images,
            "tokens_unmerged": unmerged / num_images,
            "token_share": mean / unmerged,
        }


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
        if stop is None or stop.signal is None or state.global_step >= state.max_steps:
            return
        if state.epoch != int(state.epoch):
            # No epoch has ended; on_step_end has saved, and a score from here would not be one of the whole run.
            control.should_evaluate = control.should_save = False
        elif control.should_evaluate:
            control.should_save = True  # what on_step_end has saved lacks the score


class SegmentationTrainer(Trainer):
    """
    [`Trainer`] for [`AlgmForSemanticSegmentation`].

    Evaluation sees the images at their original size through [`SegmentationPredictor`], as `scripts/evaluate_model.py`
    does, and gives the same numbers. Trainer's own loop adds up one confusion matrix per image (`batch_eval_metrics`),
    so its memory does not grow with the number of images, and several processes give the numbers of one.

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
        scores (`dict`): All scores of the last evaluation, see [`EvaluationSums.compute`].
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
        self._sums, self._seen, self._predictor = None, -1, None
        if train_dataset is not None and not hasattr(train_dataset, "__len__"):
            train_dataset = EndlessStream(train_dataset)  # Trainer knows no passes of a stream
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=TrainingAndEvaluationCollator(model.config.num_labels, processing_class.ignore_index),
            processing_class=processing_class,
            compute_metrics=self._add_batch,
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

    def get_eval_dataloader(self, eval_dataset=None):
        """Trainer's, over rows with their numbers.

        Raises:
            `ValueError`: If there are no rows.
        """
        if eval_dataset is None or isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset if eval_dataset is None else self.eval_dataset[eval_dataset]
        if eval_dataset is None:
            raise ValueError("eval_dataset is None, expected rows to evaluate.")
        rows = numbered(eval_dataset)
        settings = {"dataloader_drop_last": False}  # every image counts
        if not hasattr(rows, "__len__"):  # the workers of a stream would number their own parts
            settings |= {"dataloader_num_workers": 0, "dataloader_persistent_workers": False}
            settings |= {"dataloader_prefetch_factor": None}
        before = {name: getattr(self.args, name) for name in settings}
        try:
            vars(self.args).update(settings)
            return super().get_eval_dataloader(rows)
        finally:
            vars(self.args).update(before)

    def evaluation_loop(self, *args, **kwargs):
        """Trainer's, from zero."""
        model = unwrapped(self.model)
        self._sums, self._seen = EvaluationSums(model.config.num_labels), -1
        self._predictor = None
        # torch's data loaders draw a number for their workers: it must not move the training's random numbers.
        with torch.random.fork_rng(devices=[]):
            output = super().evaluation_loop(*args, **kwargs)
        self._predictor = None
        return output

    def prediction_step(self, model: nn.Module, inputs, prediction_loss_only: bool, ignore_keys=None):
        """No loss; confusion matrices and tokens of the batch, see [`predict_batch`]; its `index` `(batch_size,)`."""
        if self._predictor is None:
            self._predictor = SegmentationPredictor(model_to_evaluate(self.accelerator, model), self.processing_class)
        counts = predict_batch(self._predictor, inputs, self._seen, self.args.device)
        self._seen = max(self._seen, int(inputs["index"].max()))
        return None, counts, inputs["index"].to(self.args.device)

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

    def _add_batch(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        confusions, tokens = prediction.predictions
        self._sums.update(confusions, tokens, prediction.label_ids)
        if not compute_result:
            return {}
        self.scores = self._sums.compute()
        return scalar_metrics(self.scores)


__all__ = ["EvaluationSums", "NothingLeftToTrain", "SegmentationTrainer", "predict_batch"]
