#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Trains ALGM with a plain Accelerate loop, to be copied and changed where transformers' Trainer is in the way. It takes
the recipes of scripts/train.py and those of its arguments that are listed below.

    python scripts/train_no_trainer.py scripts/recipes/ade20k_vit_small_patch16.yaml --data_dir ADEChallengeData2016
    accelerate launch --num_processes 4 --mixed_precision bf16 scripts/train_no_trainer.py RECIPE.yaml ...

The output folder holds the model (the best one with --load_best_model_at_end), its scores and accelerate's
checkpoints. Ctrl-C leaves one, --resume_from_checkpoint last goes on with it. scripts/push_to_hub.py publishes.
"""

import json
import math
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainerState, get_scheduler, set_seed

from algm_hf import AlgmForSemanticSegmentation
from algm_hf.data.augmentation import augmented
from algm_hf.data.streams import EndlessStream
from algm_hf.evaluation.metrics import class_table, scalar_metrics
from algm_hf.refusals import require
from algm_hf.runs.command_line import resume_command
from algm_hf.runs.compat import set_epoch
from algm_hf.runs.models import config_settings, unwrapped
from algm_hf.training.checkpoints import STATE_NAME, is_finished, remove_old_checkpoints
from algm_hf.training.collators import SegmentationCollator
from algm_hf.training.evaluation import evaluate_in_training
from algm_hf.training.meters import TokenMeter
from algm_hf.training.optimizer import build_optimizer
from algm_hf.training.sharding import bare_model, is_sharded
from algm_hf.training.start import prepare_training
from algm_hf.training.stopping import StopRequest


# Of the many arguments of Trainer this loop follows these. Any other one is refused, not ignored.
FOLLOWED = set(
    "output_dir per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps learning_rate "
    "layer_decay lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 "
    "adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16 fp16 logging_steps report_to run_name "
    "eval_strategy eval_steps save_strategy save_steps save_total_limit load_best_model_at_end metric_for_best_model "
    "gradient_checkpointing seed data_seed use_cpu disable_tqdm dataloader_num_workers resume_from_checkpoint "
    "do_eval do_train".split()
)


def is_due(strategy, every, step, epoch_ended):
    """Whether to evaluate or save after this step."""
    return epoch_ended if strategy == "epoch" else strategy == "steps" and step % every == 0


def save_model(accelerator, args, model, processor):
    """Weights, config, code and image processor: a folder that loads alone."""
    weights = accelerator.get_state_dict(model)  # every process takes part
    if accelerator.is_main_process:
        bare_model(unwrapped(model).config).save_pretrained(args.output_dir, state_dict=weights)
        processor.save_pretrained(args.output_dir)
    accelerator.wait_for_everyone()


def save_checkpoint(accelerator, args, state):
    """All that a training needs to go on. Its state is written last: without it, the folder counts as unfinished."""
    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state.save_to_json(str(folder / STATE_NAME))
        remove_old_checkpoints(args.output_dir, args.save_total_limit)
    return folder


def main():
    # 1. Arguments, data and model: all that can be refused before the first step.
    try:
        start = prepare_training(sys.argv[1:], __doc__, FOLLOWED)
        args, data, checkpoint = start.arguments, start.data, start.checkpoint
        require(args.save_strategy != "best", "save_strategy", "best", "no, steps or epoch")
        accelerator = Accelerator(
            mixed_precision="bf16" if args.bf16 else "fp16" if args.fp16 else None,  # None: as accelerate launch says
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            cpu=args.use_cpu,
            log_with=args.report_to or None,
            project_dir=args.output_dir,
            dataloader_config=DataLoaderConfiguration(
                dispatch_batches=False, use_seedable_sampler=True, data_seed=args.data_seed
            ),
        )
        is_sharded(accelerator)  # refuses what does not work
        found = len(accelerator.log_with)
        require(found == len(args.report_to), "report_to", args.report_to, "trackers that are installed")
    except (ValueError, OSError, ImportError, RuntimeError) as error:  # refused: one line, no traceback
        sys.exit(f"error: {' '.join(str(error).split())}")
    model, processor = start.initial.model, start.initial.processor

    # 2. Batches, optimizer, schedule.
    is_stream = start.data_arguments.streaming
    train_set = augmented(data.train, start.augmentation, args.seed)
    train_set = EndlessStream(train_set) if is_stream else train_set
    loader = DataLoader(
        train_set,
        args.per_device_train_batch_size,
        shuffle=None if is_stream else True,
        collate_fn=SegmentationCollator(len(data.id2label), processor.ignore_index),
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator(),  # not the global one: a resumed training draws the same random numbers
    )
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = TokenMeter(model)
    optimizer = build_optimizer(model, model.config.num_hidden_layers, args)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accumulation = args.gradient_accumulation_steps
    steps_per_epoch = args.max_steps if is_stream else math.ceil(len(loader) / accumulation)
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    warmup = args.get_warmup_steps(max_steps)
    settings = {"scheduler_specific_kwargs": args.lr_scheduler_kwargs}
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, max_steps, **settings)
    accelerator.register_for_checkpointing(scheduler)  # not prepared, which would step it once for each process

    # 3. Where to begin.
    set_seed(args.seed)  # of drop path and dropout
    state = TrainerState(max_steps=max_steps)
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
        if state.global_step > max_steps or is_finished(args.output_dir, max_steps):
            sys.exit(f"error: {checkpoint} has {state.global_step} of {max_steps} steps: nothing is left to train.")
        accelerator.load_state(checkpoint)
        if not (Path(args.output_dir) / "config.json").is_file():
            state.best_metric = None  # the best model lies elsewhere
    state.compute_steps(args, max_steps)  # shares of the training become numbers of steps
    if accelerator.is_main_process:
        start.save_arguments()
    accelerator.init_trackers(args.run_name or "algm")
    accelerator.print(f"{start.initial.model.num_parameters():,} parameters, {len(data.id2label)} classes.")

    def log(entry):
        state.log_history.append({"epoch": round(state.epoch, 4), **entry, "step": state.global_step})
        accelerator.log(entry, step=state.global_step)
        accelerator.print(state.log_history[-1])

    # 4. The loop.
    merging = {} if start.model_arguments.train_with_merging else {"use_token_merging": False}
    silent = args.disable_tqdm or not accelerator.is_main_process
    losses, metric = [], "eval_" + (args.metric_for_best_model or "mean_iou").removeprefix("eval_")
    model.train()
    with StopRequest() as stop, tqdm(total=max_steps, initial=state.global_step, disable=silent) as bar:
        while state.global_step < max_steps:
            epoch, steps_done = divmod(state.global_step, steps_per_epoch)
            if not is_stream:  # a stream counts its passes itself
                train_set.set_epoch(epoch)
            set_epoch(loader, epoch)
            batches = skip_first_batches(loader, steps_done * accumulation) if steps_done else loader
            set_epoch(batches, epoch)
            for batch in batches:
                with accelerator.accumulate(model), config_settings(unwrapped(model), **merging):
                    loss = model(**batch).loss
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and args.max_grad_norm > 0:
                        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.detach())
                if not accelerator.sync_gradients:
                    continue

                state.global_step += 1
                state.epoch = state.global_step / steps_per_epoch
                is_last = state.global_step == max_steps
                epoch_ended = is_last or state.global_step % steps_per_epoch == 0
                if state.global_step % state.logging_steps == 0:
                    mean = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
                    rate = scheduler.get_last_lr()[0]
                    log({"loss": mean, "learning_rate": rate, "tokens_kept_percent": tokens.pop()})
                    losses = []
                if not accelerator.optimizer_step_was_skipped:
                    scheduler.step()
                bar.update()
                if data.evaluation and is_due(args.eval_strategy, state.eval_steps, state.global_step, epoch_ended):
                    scores = evaluate_in_training(accelerator, args, model, processor, data.evaluation)
                    model.train()
                    log({f"eval_{name}": value for name, value in scalar_metrics(scores).items()})
                    value = state.log_history[-1][metric]
                    if args.load_best_model_at_end and (state.best_metric is None or value > state.best_metric):
                        state.best_metric = value
                        save_model(accelerator, args, model, processor)
                is_stopped = stop.reached(accelerator) and not is_last
                if is_stopped or is_due(args.save_strategy, state.save_steps, state.global_step, epoch_ended):
                    folder = save_checkpoint(accelerator, args, state)
                if is_stopped:
                    said = f"\nInterrupted after step {state.global_step}; saved {folder}. Go on with:"
                    accelerator.print(said, f"    {resume_command(sys.argv)}", sep="\n", file=sys.stderr)
                    sys.exit(128 + (stop.signal or signal.SIGINT))  # what a shell expects
                if is_last:
                    break

    # 5. Results of the saved model. The state, by which a training counts as finished, is written last.
    if not args.load_best_model_at_end or state.best_metric is None:
        save_model(accelerator, args, model, processor)
    results = {"epoch": state.epoch}
    if data.evaluation:
        attention = {"attn_implementation": start.model_arguments.attn_implementation}
        saved = AlgmForSemanticSegmentation.from_pretrained(args.output_dir, **attention)
        scores = evaluate_in_training(accelerator, args, saved.to(accelerator.device), processor, data.evaluation)
        results |= {f"eval_{name}": value for name, value in scalar_metrics(scores).items()}
        accelerator.print(f"mIoU {100 * scores['mean_iou']:.2f} % on {scores['num_images']} images.")
    if accelerator.is_main_process:
        folder = Path(args.output_dir)
        (folder / "all_results.json").write_text(json.dumps(results, indent=4) + "\n", encoding="utf-8")
        if data.evaluation:
            table = json.dumps(class_table(scores, data.id2label), indent=2)
            (folder / "scores_by_class.json").write_text(table + "\n", encoding="utf-8")
        state.save_to_json(str(folder / STATE_NAME))
        if data.skipped:
            print(f"{len(data.skipped)} samples were left out:", *data.skipped, sep="\n    ")
    accelerator.end_training()


if __name__ == "__main__":
    main()
