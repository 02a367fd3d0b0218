# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures time, FLOPs and memory of a model with token merging off and on, beside plain and other models.

    python scripts/benchmark.py --model s --resolutions 512 --batch_sizes 1 8 --output benchmarks/cpu_s.json

Needs torch, transformers, numpy and pillow, and no network unless a Hub name is given; without an installed package:
`PYTHONPATH=. python scripts/benchmark.py ...`. It writes a JSON file with everything it measured and the command, a
Markdown table and, where matplotlib is installed, a plot, all under the name given by --output. The files are written
again after every resolution and batch size: Ctrl-C loses the one that was running. The exit code is 1 if a row could
not be measured, 130 after Ctrl-C.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.benchmarking.bench import run_benchmark
from algm_hf.benchmarking.inputs import BenchmarkArguments
from algm_hf.benchmarking.report import benchmark_table, explain_table, plot_results, save_results


def progress(text: str) -> None:
    """One line that is written over on a terminal; in a log, the beginnings only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif "turn" not in text:
        print(text, file=sys.stderr, flush=True)


def main() -> int:
    arguments: BenchmarkArguments = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()[0]
    path = Path(arguments.output)
    head = {"command": shlex.join(["python", *sys.argv]), "arguments": asdict(arguments)}
    measured: dict = {"configurations": []}

    def save(results: dict) -> None:
        measured.update(head | results)
        save_results(measured, path)

    interrupted = False
    try:
        run_benchmark(arguments, save, progress)
    except KeyboardInterrupt:
        interrupted = True
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    done = measured["configurations"]
    if done:
        print(f"{benchmark_table(done)}\n\n{explain_table(measured)}\n")
        if arguments.plot and find_spec("matplotlib"):
            plot_results(measured, path.with_suffix(".png"))
        elif arguments.plot:
            print("no plot: matplotlib is not installed.", file=sys.stderr)
        print(f"The results are in {path}, the table beside it.")
    if interrupted:
        total = len(arguments.resolutions) * len(arguments.batch_sizes)
        print(f"Interrupted: {len(done)} of {total} configurations were measured.", file=sys.stderr)
        return 130
    return 1 if any(record["skipped"] for record in done) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
