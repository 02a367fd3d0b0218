# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with transformers' Trainer and with plain Accelerate: initial model, optimizer, batches, checkpoints."""
