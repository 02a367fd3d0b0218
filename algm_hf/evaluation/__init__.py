# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of label maps, and evaluation runs over a data set under several merge settings."""
