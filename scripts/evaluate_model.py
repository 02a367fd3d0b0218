# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on a labelled data set at the images' own size, with token merging as it stands or several ways.

    python scripts/evaluate_model.py --model FOLDER_OR_REPO --dataset ade20k --data_dir ADEChallengeData2016 \\
        --merging off on --merge_thresholds 0.8 0.88 0.94 --output_dir outputs/evaluation

On several processes, with the same numbers: `accelerate launch --multi_gpu --num_processes 2 scripts/evaluate_model.py
...` (on CPUs too; accelerate's own `--cpu` starts one process whatever the number). Windows or whole images as the
checkpoint says, or as --inference_mode, --window_size and --window_stride do; the paper's multi-scale test is --scales
0.5 0.75 1 1.25 1.5 1.75 --flip.

The output folder receives results.json (everything, with the command), results.md (the tables that are printed),
curve.csv and curve.png (speed and quality of the settings), predictions/ with --save_predictions and errors/ with
--error_images. They are written again after every setting: Ctrl-C loses the one that was running. The exit code is
1 after an error, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from transformers import HfArgumentParser

import algm_hf  # noqa: F401  registers the Auto classes: local checkpoints need no --trust_remote_code
from algm_hf.data.arguments import DataArguments
from algm_hf.evaluation.report import results_text
from algm_hf.evaluation.run import EvaluationArguments, EvaluationRun


def main() -> int:
    parser = HfArgumentParser((EvaluationArguments, DataArguments))
    arguments, data_arguments = parser.parse_args_into_dataclasses()
    # Told so, accelerate lets several processes work together on CPUs.
    accelerator = Accelerator(cpu=arguments.cpu or not torch.accelerator.is_available())
    evaluation = EvaluationRun(arguments, data_arguments, accelerator)
    interrupted = False
    try:
        evaluation.run()
    except KeyboardInterrupt:
        interrupted = True
    done = evaluation.results["settings"]
    if accelerator.is_main_process:
        if done:
            print(f"\n{results_text(evaluation.results)}\n\nThe results are in {arguments.output_dir}.")
        if interrupted:
            print(f"Interrupted: {len(done)} of {len(evaluation.settings)} settings are done.", file=sys.stderr)
    if interrupted:
        return 130
    accelerator.end_training()  # leaves the group of processes
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:  # such as a model that is not there: one line, no traceback
        sys.exit(f"error: {' '.join(str(error).split())}")
