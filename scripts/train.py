#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Trains ALGM with transformers' Trainer. Arguments come from a YAML or JSON file, the command line, or both (it wins):

    python scripts/train.py scripts/recipes/ade20k_vit_small_patch16.yaml --data_dir ADEChallengeData2016
    python scripts/train.py --dataset folder --data_dir FOLDER --init_from scratch:ti --crop_size 256 --max_steps 1000
    accelerate launch --num_processes 4 scripts/train.py RECIPE.yaml ...

The output folder then holds the model (loads alone with trust_remote_code=True), checkpoints, training_arguments.json,
all_results.json and scores_by_class.json. Ctrl-C leaves a checkpoint; --resume_from_checkpoint last goes on with it.
"""

import json
import signal
import sys
from pathlib import Path

import torch

from algm_hf.data.augmentation import augmentation_speed, augmented
from algm_hf.evaluation.metrics import class_table
from algm_hf.publishing.trainer_mixin import PublishingMixin
from algm_hf.publishing.upload import PublishingError
from algm_hf.runs.command_line import resume_command
from algm_hf.training.checkpoints import is_finished
from algm_hf.training.initial_model import shortened
from algm_hf.training.start import prepare_training
from algm_hf.training.stopping import StopRequest
from algm_hf.training.trainer import NothingLeftToTrain, SegmentationTrainer


class PublishingTrainer(PublishingMixin, SegmentationTrainer):
    """A trainer whose `push_to_hub` publishes in one commit, with a card of what was recorded."""


def set_up(argv: list[str], stop: StopRequest):
    """Everything before the first step. Whatever does not fit is refused here, by a `ValueError`."""
    start = prepare_training(argv, __doc__)
    args, initial = start.arguments, start.initial
    trainer = PublishingTrainer(
        model=initial.model,
        args=args,
        processing_class=initial.processor,
        train_dataset=augmented(start.data.train, start.augmentation, args.seed),
        eval_dataset=start.data.evaluation,
        train_with_merging=start.model_arguments.train_with_merging,
        stop=stop,
    )
    trainer.card_facts, trainer.replace_card = {"license": args.hub_license}, args.hub_replace_card
    if trainer.is_world_process_zero():
        changes = start.save_arguments()
        print(f"{initial.model.num_parameters():,} parameters, {len(start.data.id2label)} classes.")
        if initial.new_weights:
            print(f"New at random: {shortened(initial.new_weights)}.")
        for name, (before, now) in changes.items() if start.checkpoint else ():
            print(f"Other than in the run that this one goes on with: {name} {before} -> {now}.")
    return trainer, start


def feeding_speed(augmentation, rows) -> dict[str, float]:
    """How fast one core augments; of a stream it is not measured, which would read it."""
    if not hasattr(rows, "__len__"):
        return {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # as in a worker process
        return {"augmentation_images_per_second_per_core": round(augmentation_speed(augmentation, rows), 2)}
    finally:
        torch.set_num_threads(threads)


def report_training(trainer: SegmentationTrainer, metrics: dict, speed: dict[str, float]) -> None:
    metrics = {**metrics, **trainer.clock.total(trainer.args.world_size), **speed}
    metrics = {name if name.startswith("train_") else f"train_{name}": value for name, value in metrics.items()}
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    step, core = metrics.get("train_step_images_per_second"), speed.get("augmentation_images_per_second_per_core")
    if step and core and trainer.is_world_process_zero():
        print(
            f"Augmentation {core:.1f} images/s on one core, training step {step:.1f} images/s: "
            f"{step / core:.2f} cores keep it fed (--dataloader_num_workers)."
        )


def report_evaluation(trainer: SegmentationTrainer, id2label: dict[int, str]) -> None:
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        table = class_table(trainer.scores, id2label)
        path = Path(trainer.args.output_dir) / "scores_by_class.json"
        path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        print(
            f"mIoU {100 * trainer.scores['mean_iou']:.2f} % on {trainer.scores['num_images']} images; "
            f"always the most frequent class: {100 * trainer.scores['constant_mean_iou']:.2f} %."
        )


def write_results(trainer: SegmentationTrainer, data, metrics: dict, speed: dict[str, float]) -> None:
    """Model, scores and, last of all, the state by which a training counts as finished."""
    # The best one with --load_best_model_at_end. Internal: the public call would already push, without the scores.
    trainer.save_model(_internal_call=True)
    if metrics:
        report_training(trainer, metrics, speed)
    if data.evaluation is not None:
        report_evaluation(trainer, data.id2label)
    trainer.save_state()


def main() -> None:
    stop = StopRequest()
    try:
        trainer, start = set_up(sys.argv[1:], stop)
    except (ValueError, OSError, ImportError, RuntimeError) as error:  # refused: one line, no traceback
        sys.exit(f"error: {' '.join(str(error).split())}")
    data = start.data
    speed = feeding_speed(start.augmentation, data.train)
    try:
        with stop:
            metrics = trainer.train(resume_from_checkpoint=start.checkpoint).metrics
    except NothingLeftToTrain as error:
        step = trainer.state.global_step
        if step > trainer.state.max_steps or is_finished(trainer.args.output_dir, step):
            sys.exit(f"error: {error}")
        trainer.load_best_weights()  # it was killed between its last checkpoint and its results
        metrics, speed = {}, {}
    if stop.is_due and trainer.state.global_step < trainer.state.max_steps:
        if trainer.is_world_process_zero():
            folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
            print(
                f"\nInterrupted after step {trainer.state.global_step}; saved {folder}. Go on with:", file=sys.stderr
            )
            print(f"    {resume_command(sys.argv)}", file=sys.stderr)
        sys.exit(128 + (stop.signal or signal.SIGINT))  # what a shell expects
    write_results(trainer, data, metrics, speed)
    if data.skipped and trainer.is_world_process_zero():
        print(f"{len(data.skipped)} samples were left out:", *data.skipped, sep="\n    ")
    if trainer.args.push_to_hub:
        try:
            trainer.push_to_hub()
        except (ValueError, PublishingError) as error:  # the model is saved; scripts/push_to_hub.py can try again
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
