# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets that are read while they are used: rows of a stream, pass after pass."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping

import datasets
import torch
from transformers.utils import logging

from ..refusals import require
from .checks import SkippedSamples, skip_line
from .rows import BadSampleError, RowReader, content_name


logger = logging.get_logger(__name__)

STREAM_SHARDS = 64  # a streamed folder can be read by this many workers


class StreamReader:
    """[`RowReader`] for `IterableDataset.map(..., batched=True, batch_size=1)`: no row comes out of a bad one."""

    def __init__(self, reader: RowReader, split: str, skipped: SkippedSamples | None):
        self.reader = reader
        self.split = split
        self.skipped = skipped

    def __call__(self, columns: Mapping[str, list]) -> dict[str, list]:
        row = {key: values[0] for key, values in columns.items()}
        if "name" not in row:  # workers read different parts of a stream: no number would be that of one row
            row["name"] = content_name(row, self.split)
        try:
            return {key: [value] for key, value in self.reader.read(row).items()}
        except BadSampleError as error:
            if self.skipped is None:
                raise
            line = skip_line(row["name"], error)
            if self.skipped.add(line):
                logger.warning(f"Left out: {line}")
            return {key: [] for key in row}


def as_stream(rows: datasets.Dataset) -> datasets.IterableDataset:
    """The rows as a stream that several workers can read."""
    return rows.to_iterable_dataset(num_shards=max(1, min(len(rows), STREAM_SHARDS)))


class EndlessStream(torch.utils.data.IterableDataset):
    """A stream pass after pass, so that a place in it is the number of rows before it, whichever pass it lies in.

    Args:
        stream ([`AugmentedIterableDataset`]): Its `set_epoch` gets the number of the pass, from 0.

    Raises:
        `ValueError`: When a pass gives no row.
    """

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        in_worker = torch.utils.data.get_worker_info() is not None
        # Workers are not in the same pass all the time, and would share the number of it.
        stream = copy.deepcopy(self.stream) if in_worker else self.stream
        for epoch in itertools.count():
            stream.set_epoch(epoch)
            row = None
            for row in stream:
                yield row
            if row is None and in_worker:
                return  # there are more workers than parts
            require(row is not None, "training stream", None, "at least one usable sample")


__all__ = ["EndlessStream", "StreamReader", "as_stream"]
