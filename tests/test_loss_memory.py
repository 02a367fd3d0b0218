# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Memory of the loss, and by hand its time:
`PYTHONPATH=. python tests/test_loss_memory.py {plain,banded}` prints the growth of the peak memory of a process in MB,
`PYTHONPATH=. python tests/test_loss_memory.py time` the medians of both in seconds, taken in turns.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from algm_hf.segmentation_loss import segmentation_loss


ROOT = Path(__file__).resolve().parents[1]


def train_step(name, num_labels, side, batch_size=1):
    """Loss and gradient of random logits on a grid of patches of 16 pixels; `plain` is torch on all pixels."""
    torch.manual_seed(0)
    logits = torch.randn(batch_size, num_labels, side // 16, side // 16, requires_grad=True)
    labels = torch.randint(0, num_labels, (batch_size, side, side))

    def step():
        logits.grad = None
        if name == "plain":
            pixels = torch.nn.functional.interpolate(logits, (side, side), mode="bilinear")
            torch.nn.functional.cross_entropy(pixels, labels, ignore_index=255).backward()
        else:
            segmentation_loss([logits], [labels], 255, None, 16).backward()

    return step


def peak_growth(name):
    import resource

    train_step(name, 3, 64)()  # what a first call loads is not the loss's
    step = train_step(name, 150, 512)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def medians(batch_size, repeats=15):
    steps = {name: train_step(name, 150, 512, batch_size) for name in ("plain", "banded")}
    seconds = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_the_loss_takes_a_third_of_the_memory_of_all_pixels_or_less():
    def growth(name):
        command, environment = [sys.executable, __file__, name], {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
        return float(child.stdout)

    assert growth("plain") >= 3 * growth("banded")


if __name__ == "__main__":
    if sys.argv[1] == "time":
        for batch_size in (1, 4):
            sys.stdout.write(f"batch size {batch_size}: {medians(batch_size)}\n")
    else:
        sys.stdout.write(f"{peak_growth(sys.argv[1])}\n")
