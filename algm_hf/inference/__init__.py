# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""From images to label maps at their own size, and the drawings of them."""
