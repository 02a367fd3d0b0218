# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a training: parameters by weight decay and by layer-wise learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

from ..refusals import require
from ..runs.compat import sgd_settings


# What wrappers of a model put in front of or between the names of its parameters.
WRAPPER_PREFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Beside biases and norms: vectors that are added to tokens. They do not decay either.
EMBEDDINGS = ("cls_token", "register_tokens", "position_embeddings", "class_embeddings")
# Arguments of some optimizers of transformers that choose the parameters themselves.
OWN_PARAMETERS = ("params", "model", "optimizer_dict")


def plain_name(name: str) -> str:
    """The name of a parameter without what DDP, FSDP or torch.compile add to it."""
    for prefix in WRAPPER_PREFIXES:
        name = name.replace(prefix, "")
    return name.removeprefix("module.")


def layer_number(name: str, num_layers: int) -> int:
    """0 for the embeddings, `i` for encoder layer `i` (from 1), `num_layers + 1` for the final norm and decoder."""
    parts = plain_name(name).removeprefix("algm.").split(".")
    if parts[0] == "embeddings":
        return 0
    return int(parts[1]) + 1 if parts[0] == "layers" else num_layers + 1


def parameter_groups(
    model: nn.Module, num_layers: int, learning_rate: float, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameters by weight decay and, with `layer_decay`, by learning rate.

    Layer-wise decay as in BEiT (ICLR 2022): the decoder and the final norm learn at `learning_rate`, encoder layer `i`
    of `num_layers` at `learning_rate * layer_decay ** (num_layers + 1 - i)`, the embeddings as layer 0.

    Args:
        model (`nn.Module`): [`AlgmForSemanticSegmentation`], possibly wrapped.
        num_layers (`int`): Encoder layers.
        learning_rate (`float`): More than 0.
        weight_decay (`float`): Of weights; biases, norms, layer scales and embeddings have none.
        layer_decay (`float`, *optional*): In (0, 1].

    Returns:
        `list[dict]`: Groups for a torch optimizer: `params`, `weight_decay`, `lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = plain_name(name)
        last = plain.rsplit(".", 1)[-1]
        is_fixed = last == "bias" or last in EMBEDDINGS or "norm" in plain or "layer_scale" in plain
        depth = num_layers + 1 - layer_number(name, num_layers)
        rate = learning_rate if layer_decay is None else learning_rate * layer_decay**depth
        groups.setdefault((0.0 if is_fixed else weight_decay, rate), []).append(parameter)
    return [{"params": found, "weight_decay": decay, "lr": rate} for (decay, rate), found in groups.items()]


def build_optimizer(model: nn.Module, num_layers: int, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """The optimizer of `arguments`, one of those of transformers.

    Args:
        model, num_layers: See [`parameter_groups`].
        arguments ([`SegmentationTrainingArguments`]): `optim`, `optim_args`, `learning_rate`, `weight_decay`,
            `layer_decay` and what else the optimizer reads.

    Raises:
        `ValueError`: If the optimizer takes no groups of parameters.
    """
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    if arguments.optim == "sgd":
        settings |= sgd_settings(arguments.optim_args)
    takes_groups = isinstance(kind, type) and not any(name in settings for name in OWN_PARAMETERS)
    require(takes_groups, "optim", arguments.optim, "an optimizer that takes groups of parameters, such as sgd")
    decay = getattr(arguments, "layer_decay", None)
    groups = parameter_groups(model, num_layers, arguments.learning_rate, arguments.weight_decay, decay)
    return kind(groups, **settings)


def check_optimization(arguments: TrainingArguments) -> None:
    """Refuses an optimizer or a schedule that cannot be built, before the data set is read.

    Raises:
        `ValueError`: In one line.
    """
    try:
        optimizer = build_optimizer(nn.Linear(1, 1), 1, arguments)
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=2,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(
            f"optim={arguments.optim!r}: expected an optimizer and an lr_scheduler_type that can be built ({error})"
        ) from error


__all__ = ["build_optimizer", "check_optimization", "layer_number", "parameter_groups", "plain_name"]
