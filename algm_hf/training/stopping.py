# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Ends a training early so that what it saved is whole: on a signal, or when its time is over."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from transformers import TrainerCallback


class TimeLimitCallback(TrainerCallback):
    """Ends a training after the step in which `max_minutes` (wall clock) are over.

    Args:
        max_minutes (`float`): More than 0.

    Attributes:
        reached (`bool`): Whether the limit ended the training.
    """

    def __init__(self, max_minutes: float):
        if not max_minutes > 0:
            raise ValueError(f"max_minutes is {max_minutes}, expected more than 0.")
        self.max_minutes = max_minutes
        self.reached = False
        self._start = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self._start > 60 * self.max_minutes and state.global_step < state.max_steps:
            self.reached = control.should_training_stop = True


class StopRequest:
    """Turns Ctrl-C (SIGINT) and SIGTERM, which clusters send before they take a machine, into a request that a
    training meets after the step it is in, so that what it saves is whole. A second signal interrupts at once.

    Use it as a context manager around the training, in the main thread.

    Attributes:
        signal (`int`, *optional*): The signal that came.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # a worker process that reads data: the main process decides
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def reached(self, accelerator) -> bool:
        """Whether to stop now: the same answer in every process, as soon as one was asked to."""
        if accelerator.num_processes > 1:
            if self.signal is not None:
                accelerator.set_trigger()
            if accelerator.check_trigger():
                self.signal = self.signal or signal.SIGINT
        return self.signal is not None


__all__ = ["StopRequest", "TimeLimitCallback"]
