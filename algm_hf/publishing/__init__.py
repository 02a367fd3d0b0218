# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Model cards from recorded facts, and one commit on the Hub that carries a checked folder or nothing."""
