# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Other people's weights as ALGM models: Segmenter / ALGM releases, and plain ViTs of transformers and timm."""
