# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The page to try a model on in a browser, and the same page as a Hugging Face Space."""
