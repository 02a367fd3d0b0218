# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Ends a training early so that what it saved is whole: on a signal, or when its time is over."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from ..refusals import require


class StopRequest:
    """Turns Ctrl-C (SIGINT) and SIGTERM, which clusters send before they take a machine, into a request that a
    training meets after the step it is in, so that what it saves is whole. A second signal interrupts at once.

    Use it as a context manager around the training, in the main thread.

    Args:
        max_minutes (`float`, *optional*): The training is asked to end after so many minutes (wall clock), too.

    Attributes:
        is_due (`bool`): Whether the training was asked to end.
        signal (`int`, *optional*): The signal that came, if one did.
    """

    def __init__(self, max_minutes: float | None = None):
        require(max_minutes is None or max_minutes > 0, "max_minutes", max_minutes, "a number above 0")
        self.max_minutes, self.is_due, self._start = max_minutes, False, 0.0
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequest:
        self._start = time.monotonic()
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
        too_long = self.max_minutes is not None and time.monotonic() - self._start > 60 * self.max_minutes
        self.is_due = self.is_due or too_long or self.signal is not None
        if accelerator.num_processes > 1:
            if self.is_due:
                accelerator.set_trigger()
            self.is_due = accelerator.check_trigger() or self.is_due
        return self.is_due


__all__ = ["StopRequest"]
