# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures label maps and loss against interpolate + argmax and interpolate + cross-entropy, on the CPU.

    python scripts/benchmark_heads.py --output benchmarks/cpu_heads.json

Writes a JSON file with times (medians of runs in turns), growth of the peak memory (in processes of their own) and
whether both forms agree.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from transformers import HfArgumentParser

from algm_hf.benchmarking.heads import HeadBenchmarkArguments, measure_heads
from algm_hf.runs.provenance import describe_environment


def main() -> int:
    arguments: HeadBenchmarkArguments = HfArgumentParser(HeadBenchmarkArguments).parse_args_into_dataclasses()[0]
    results = {"command": shlex.join(["python", *sys.argv]), "arguments": asdict(arguments)}
    results["environment"] = describe_environment()
    measured = measure_heads(arguments, lambda text: print(text, file=sys.stderr, flush=True))
    results |= measured
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name, row in {**measured["label_maps"], "loss": measured["loss"]}.items():
        print(
            f"{name}: plain {row['plain_ms']:.1f} ms, ours {row['ours_ms']:.1f} ms ({row['speed_up']:.2f}x as fast); "
            f"peak memory {row['plain_peak_mib']:.0f} against {row['ours_peak_mib']:.0f} MiB"
        )
    print(f"The results are in {path}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
