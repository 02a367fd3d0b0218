# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training is told: arguments with their help.

The defaults are the recipe of the paper (ALGM, CVPR 2024, section 4.1): SGD with momentum 0.9 and no weight decay,
polynomial decay of the learning rate with power 0.9 down to 1e-5, drop path 0.1 in the encoder and dropout 0.1 in the
mask transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from ..runs.compat import checkpoint_without_reentrance


SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy")
MIN_LEARNING_RATE, POLYNOMIAL_POWER = 1e-5, 0.9


@dataclass
class ModelArguments:
    """The model to start from and what to change about it.

    Fields left unset keep the values of `init_from`, but for the recipe's `drop_path_rate` and `decoder_dropout_prob`,
    which are set in any case, and `class_weights`, of which there are none unless given.
    """

    init_from: str = field(
        default="scratch:s",
        metadata={
            "help": "Initial weights. scratch:ti, scratch:s, scratch:b, scratch:l (the paper's ViTs) or "
            "scratch:custom (shape from the fields below) for random ones; or a folder or Hub id of an ALGM model, a "
            "checkpoint.pth in the Segmenter / ALGM release format, or a folder or Hub id of a ViT (transformers or "
            "timm)."
        },
    )
    init_revision: str | None = field(default=None, metadata={"help": "Commit or branch of the Hub id in init_from."})
    hidden_size: int | None = field(default=None, metadata={"help": "Channels of a token."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Encoder layers."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads of an encoder layer."})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Channels inside the MLPs; from scratch, four times hidden_size."}
    )
    patch_size: int | None = field(default=None, metadata={"help": "Side of a patch in pixels."})
    num_register_tokens: int | None = field(default=None, metadata={"help": "Register tokens."})
    layer_norm_eps: float | None = field(default=None, metadata={"help": "Epsilon of every LayerNorm."})
    position_interpolation: str | None = field(
        default=None,
        metadata={"help": "How position embeddings are resized: bilinear (Segmenter), bicubic or bicubic_antialias."},
    )
    initializer_range: float | None = field(default=None, metadata={"help": "Standard deviation of random weights."})
    hidden_dropout_prob: float | None = field(default=None, metadata={"help": "Dropout of the encoder."})
    attention_probs_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout on the attention weights of the encoder."}
    )
    drop_path_rate: float = field(
        default=0.1, metadata={"help": "Stochastic depth of the last encoder layer, rising linearly from 0."}
    )
    decoder_type: str | None = field(default=None, metadata={"help": "mask_transformer or linear."})
    decoder_num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers of the mask transformer."})
    decoder_hidden_size: int | None = field(default=None, metadata={"help": "Channels of the mask transformer."})
    decoder_num_attention_heads: int | None = field(default=None, metadata={"help": "Heads of the mask transformer."})
    decoder_intermediate_size: int | None = field(
        default=None, metadata={"help": "Channels inside the MLPs of the mask transformer."}
    )
    decoder_dropout_prob: float = field(default=0.1, metadata={"help": "Dropout of the mask transformer."})
    use_token_merging: bool | None = field(
        default=None, metadata={"help": "Merge tokens at all; saved with the model. false is the plain ViT."}
    )
    train_with_merging: bool = field(
        default=True,
        metadata={
            "help": "Merge tokens in training steps, too. With false, steps run the plain ViT, while evaluation and "
            "the saved model merge as configured."
        },
    )
    local_merge_layer: int | None = field(
        default=None, metadata={"help": "Layer of the local merge, counted from 1; 0 switches it off."}
    )
    global_merge_layer: int | None = field(
        default=None, metadata={"help": "Layer of the global merge, counted from 1; 0 switches it off."}
    )
    merge_threshold: float | None = field(
        default=None, metadata={"help": "Threshold tau, -1 to 1; lower merges more."}
    )
    merge_window_size: int | None = field(default=None, metadata={"help": "Side of a local window in patches."})
    inference_mode: str | None = field(
        default=None, metadata={"help": "whole or slide: how images are evaluated; saved with the model."}
    )
    window_size: int | None = field(default=None, metadata={"help": "Side of a sliding window in pixels."})
    window_stride: int | None = field(default=None, metadata={"help": "Distance between sliding windows in pixels."})
    window_batch_size: int | None = field(default=None, metadata={"help": "Sliding windows that run at once."})
    eval_size: int | None = field(
        default=None,
        metadata={
            "help": "Shorter side in pixels of evaluated images; saved with the processor. Without it window_size, or "
            "else the shorter side of crop_size."
        },
    )
    class_weights: str | None = field(
        default=None, metadata={"help": "Weight of each class in the loss, a JSON list such as [1, 1, 0.5]."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager or flash_attention_2; without it transformers' choice."}
    )


@dataclass
class SegmentationTrainingArguments(TrainingArguments):
    """
    transformers' [`TrainingArguments`] with the defaults of the paper's recipe and two fields more.

    Args:
        layer_decay (`float`, *optional*): In (0, 1]: each layer below the decoder learns at this multiple of the rate
            of the layer above it; with `--optim adamw_torch`.
        hub_license (`str`, *optional*): For the model card: an identifier of the Hub's list of licences.
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
        metadata={"help": "Checkpoints to keep in all: the last one and, from 2 on, the best one are among them."},
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
            if getattr(self, name) != value:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected {value}: nothing else is supported.")
        metric = (self.metric_for_best_model or SCORES[0]).removeprefix("eval_")
        if metric not in SCORES:
            raise ValueError(f"--metric_for_best_model is {metric}, expected one of {', '.join(SCORES)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"--learning_rate is {self.learning_rate}, expected more than 0.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer_decay is {self.layer_decay}, expected a number above 0 and up to 1.")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1.")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError(f"--num_train_epochs is {self.num_train_epochs}, expected more than 0.")
        if self.dataloader_persistent_workers and self.dataloader_num_workers < 1:
            raise ValueError(
                f"--dataloader_persistent_workers with --dataloader_num_workers {self.dataloader_num_workers}, "
                "expected at least 1."
            )
        # transformers turns the repository name into the name of a Python module.
        if self.push_to_hub and self.hub_model_id is not None and "." in self.hub_model_id:
            raise ValueError(f"--hub_model_id {self.hub_model_id} holds a dot, expected a name without dots.")
        name = Path(self.output_dir).absolute().name
        if self.push_to_hub and self.hub_model_id is None and "." in name:
            raise ValueError(
                f"--push_to_hub names the repository after --output_dir, and {name} holds a dot; expected "
                "--hub_model_id with a name without dots."
            )


__all__ = ["ModelArguments", "SegmentationTrainingArguments"]
