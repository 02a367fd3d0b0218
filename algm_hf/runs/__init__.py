# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What every run of a script shares: command line, files, clocks, tables, and what a result is recorded with."""
