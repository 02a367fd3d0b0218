# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Time, FLOPs and memory with merging off and on, beside other models, from arguments to tables and plots."""
