# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Any data set as checked rows with final labels, and those rows augmented for training. Drawn scenes for trying
things out."""
