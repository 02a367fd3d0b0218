# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Models inside accelerate's wrappers: mixed precision taken off, shards put together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..configuration_algm import AlgmConfig
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require
from ..runs.models import unwrapped


def whole_model(model: nn.Module, device: torch.device | str = "cpu") -> AlgmForSemanticSegmentation:
    """
    A copy, in evaluation mode, of a model whose parameters are spread over processes (FSDP). Processes then need not
    run it in step, which images of different sizes, with different numbers of windows, do not allow.

    Args:
        model (`nn.Module`): [`AlgmForSemanticSegmentation`] under `fully_shard` or FullyShardedDataParallel. Every
            process has to call this.
        device (`torch.device`, *optional*): Of the copy.

    Returns:
        [`AlgmForSemanticSegmentation`]
    """
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    copy = bare_model(unwrapped(model).config)
    copy.load_state_dict({name: value.to(device) for name, value in weights.items()}, assign=True)
    return copy.eval()


def bare_model(config: AlgmConfig) -> AlgmForSemanticSegmentation:
    """A model without values (on the meta device), to which weights are assigned or with which they are saved:
    `fully_shard` changes a model's class, and `save_pretrained` writes the code of the class."""
    with torch.device("meta"):
        return AlgmForSemanticSegmentation(config)


def is_sharded(accelerator) -> bool:
    """Whether processes hold parts of the model (FSDP).

    Raises:
        `ValueError`: If FSDP was asked for where accelerate does not shard, or would save nothing that loads alone.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    is_asked_for = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    require(sharded or not is_asked_for, "use_fsdp", True, "accelerators: accelerate does not shard models on CPUs")
    if sharded:
        kind = str(accelerator.state.fsdp_plugin.state_dict_type)
        loads_alone = "FULL_STATE_DICT" in kind
        require(loads_alone, "fsdp_state_dict_type", kind, "FULL_STATE_DICT, so that checkpoints load alone")
    return sharded


@contextmanager
def model_to_evaluate(accelerator, model: nn.Module) -> Iterator[AlgmForSemanticSegmentation]:
    """The model of a training as its saved folder will load: in evaluation mode, without wrappers and mixed precision
    for the duration of a `with` block; where it is sharded, a copy of the whole."""
    model.eval()
    if is_sharded(accelerator):
        bare = whole_model(model, accelerator.device)
    else:
        bare = accelerator.unwrap_model(model)
        bare = getattr(bare, "_orig_mod", bare)  # images of many sizes would be compiled anew each time
    mixed = bare.__dict__.pop("forward", None)  # accelerate hides the method of the class behind it
    try:
        yield bare
    finally:
        if mixed is not None:
            bare.__dict__["forward"] = mixed


__all__ = ["bare_model", "is_sharded", "model_to_evaluate", "whole_model"]
