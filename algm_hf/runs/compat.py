# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What differs between the oldest and the newest supported version of a library, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import get_session, hf_raise_for_status


if TYPE_CHECKING:
    from transformers import TrainingArguments


def set_epoch(loader, epoch: int) -> None:
    """Tells an accelerate data loader its epoch, and the sampler however deep it is wrapped: accelerate does not reach
    it on several processes, and older versions nowhere once batches are skipped.

    Args:
        loader (`DataLoader`): Before batches are skipped.
        epoch (`int`): Counted from 0.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        inner = getattr(sampler, "batch_sampler", None)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner


def sgd_settings(optim_args: str | None) -> dict[str, float]:
    """The numbers in `optim_args` that torch's SGD takes: older transformers read no arguments for it.

    Args:
        optim_args (`str`, *optional*): Such as `momentum=0.9,dampening=0`.
    """
    pairs = [part.partition("=")[::2] for part in (optim_args or "").replace(" ", "").split(",")]
    return {name: float(value) for name, value in pairs if name in ("momentum", "dampening")}


def checkpoint_without_reentrance(arguments: TrainingArguments) -> None:
    """Sets the form of gradient checkpointing, unless given, that newer transformers take by themselves."""
    if not hasattr(arguments, "activation_checkpointing_kwargs") and arguments.gradient_checkpointing_kwargs is None:
        arguments.gradient_checkpointing_kwargs = {"use_reentrant": False}


def errors_of_card(card: ModelCard) -> list[str]:
    """The Hub's own check of a card's metadata, as `ModelCard.validate`, which in older huggingface_hub asks one Hub
    only, whatever `HF_ENDPOINT` says."""
    content = {"repoType": "model", "content": str(card)}
    response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=content)
    if response.status_code == 400:
        try:
            return [entry["message"] for entry in response.json()["errors"]]
        except (ValueError, KeyError, TypeError):
            return [response.text]
    hf_raise_for_status(response)
    return []


__all__ = ["checkpoint_without_reentrance", "errors_of_card", "set_epoch", "sgd_settings"]
