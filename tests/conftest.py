# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
What every test runs under: no network, no cache but its own, few threads, a fixed seed.

The environment is set when this file is read, before anything imports transformers, and child processes inherit it.
"""

import os
import random
import shutil
import signal
import tempfile


# A shell starts what runs in the background with Ctrl-C ignored; scripts that a test interrupts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
NUM_THREADS = 1 if IS_XDIST_WORKER else 2

# A cache of this run alone: code of saved models is copied into it, and one run's copy must not serve another.
HF_HOME = tempfile.mkdtemp(prefix="algm-hf-tests-")
os.environ["HF_HOME"] = HF_HOME
for variable in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
    os.environ.pop(variable, None)  # each would overrule HF_HOME
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)

import numpy as np  # noqa: E402 - after the environment
import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(NUM_THREADS)


@pytest.fixture(autouse=True)
def fixed_seed():
    """A test's random numbers depend neither on the order of the tests nor on the process that runs it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_unconfigure():
    shutil.rmtree(HF_HOME, ignore_errors=True)
