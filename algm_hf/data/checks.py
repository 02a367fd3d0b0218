# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads every file of a data set once and says all that is wrong with it in one message; lists what was left out."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

from tqdm.auto import tqdm

from ..refusals import require
from .classes import IGNORE_INDEX, LabelMapping
from .rows import BadSampleError, RowReader


SHOWN = 5
MOST_THREADS = 16


class SkippedSamples:
    """The samples that were left out, in a temporary file: worker processes, started in any way, add to the list that
    the process that made it reads. The file goes with the object of that process.
    """

    def __init__(self):
        handle, self.path = tempfile.mkstemp(prefix="skipped_samples_", suffix=".jsonl")
        os.close(handle)
        weakref.finalize(self, _remove_in, os.getpid(), self.path)

    def add(self, line: str) -> bool:
        """Adds a line, once however often it comes (a stream is read once an epoch); returns whether it was new."""
        if line in self.lines():
            return False
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())  # one write: lines of several processes do not mix
        finally:
            os.close(handle)
        return True

    def lines(self) -> list[str]:
        """All lines so far, each once, in the order in which they came."""
        with open(self.path, encoding="utf-8") as file:
            return list(dict.fromkeys(json.loads(line) for line in file))


def _remove_in(process: int, path: str) -> None:
    if os.getpid() == process and os.path.exists(path):  # forked workers have the object, too
        os.remove(path)


def check_rows(
    rows: Sequence, reader: RowReader, where: str, num_threads: int | None = None
) -> tuple[dict[int, BadSampleError], Counter]:
    """Reads every row once, in threads (decoding releases the interpreter lock), with a progress bar.

    Args:
        rows (`datasets.Dataset` or `Sequence`): Rows as they are stored.
        reader ([`RowReader`]): Checks a row.
        where (`str`): What is read, for the progress bar.
        num_threads (`int`, *optional*): Defaults to the number of cores, at most 16.

    Returns:
        `tuple[dict[int, BadSampleError], Counter]`: What is wrong, by the row's index, and the number of pixels of
            each class and of 255 in the rows that are good.
    """

    def check(index: int) -> BadSampleError | Counter:
        try:
            return reader.check(rows[index])
        except BadSampleError as error:
            return error

    bad: dict[int, BadSampleError] = {}
    counts: Counter = Counter()
    with ThreadPool(num_threads or min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        results = pool.imap(check, range(len(rows)), chunksize=8)
        bar = tqdm(results, total=len(rows), desc=f"checking {where}", unit="file", disable=not _is_first_process())
        for index, result in enumerate(bar):
            if isinstance(result, BadSampleError):
                bad[index] = result
            else:
                counts.update(result)
    return bad, counts


def _is_first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def problem_report(problems: Sequence[BadSampleError], total: int, where: str, mapping: LabelMapping) -> str:
    """What is wrong with a split: counts over all of it, the first files of each kind, and what can be done.

    Args:
        problems (`Sequence[BadSampleError]`): At least one.
        total (`int`): Samples of the split.
        where (`str`): The split and its data set.
        mapping ([`LabelMapping`]): The expected labels.
    """
    kinds = Counter(problem.kind for problem in problems)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    lines = [f"{len(problems)} of {total} samples of {where} cannot be used: {listed}."]
    for kind, count in kinds.items():
        lines += [f"- {problem}" for problem in [each for each in problems if each.kind == kind][:SHOWN]]
        lines += [f"- and {count - SHOWN} more {kind}"] if count > SHOWN else []
    lines += _outside_values(problems, mapping)
    if len(problems) < total:
        lines.append("To leave them out and go on, pass skip_bad_samples (--skip_bad_samples); they are then listed.")
    return "\n".join(lines)


def _outside_values(problems: Sequence[BadSampleError], mapping: LabelMapping) -> list[str]:
    """All label values outside the classes with their pixels and files, and the arguments that make sense of them."""
    pixels: Counter = Counter()
    files: Counter = Counter()
    for problem in problems:
        pixels.update(problem.counts)
        files.update(problem.counts.keys())
    if not pixels:
        return []
    values = sorted(pixels)
    listed = ", ".join(f"{value} ({pixels[value]} pixels in {files[value]} files)" for value in values[: 4 * SHOWN])
    more = f" and {len(values) - 4 * SHOWN} more values" if len(values) > 4 * SHOWN else ""
    numbers = " ".join(str(value) for value in values[: 4 * SHOWN])
    lines = [
        f"Labels outside the classes ({mapping.expected()}): {listed}{more}. If they mean 'unlabelled', pass them as "
        f"ignore_labels (--ignore_labels {numbers})."
    ]
    if values == [mapping.num_labels]:
        lines.append(
            f"If the files store 0 for 'unlabelled' and 1 to {mapping.num_labels} for the classes, pass reduce_labels "
            "(--reduce_labels)."
        )
    return lines


def check_classes_found(counts: Counter, mapping: LabelMapping, where: str) -> None:
    """Refuses label maps without a class, and those of 0 and 255 alone, which are black-and-white masks.

    Args:
        counts (`Counter`): Pixels of each class and of 255, see [`check_rows`].
        mapping ([`LabelMapping`]): The expected labels.
        where (`str`): The split and its data set.

    Raises:
        `ValueError`: In these cases.
    """
    found = {label for label, count in counts.items() if count}
    expected = f"labels {mapping.expected()} ({mapping.num_labels} classes)"
    require(found - {IGNORE_INDEX}, where, "no labelled pixel", expected)
    is_mask = found == {0, IGNORE_INDEX} and mapping.stored_labels == (0, 1)
    expected = f"1 for class 1 of black-and-white masks; {IGNORE_INDEX} is ignored"
    require(not is_mask, where, f"only labels 0 and {IGNORE_INDEX}", expected)


def skip_line(name: str, problem: BadSampleError) -> str:
    """What tells a sample that is left out from all others: rows may store images under the same file name."""
    return str(problem) if name in str(problem) else f"{name}: {problem}"


__all__ = ["SkippedSamples", "check_classes_found", "check_rows", "problem_report", "skip_line"]
