#!/usr/bin/env python
# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Trains ALGM with a plain Accelerate loop: the same arguments, data and results as scripts/train.py, to be read from top
to bottom and changed where Trainer is in the way.

    python scripts/train_no_trainer.py scripts/recipes/ade20k_vit_small_patch16.yaml --data_dir ADEChallengeData2016
    accelerate launch --num_processes 4 --mixed_precision bf16 scripts/train_no_trainer.py RECIPE.yaml ...
"""

import contextlib
import json
import math
import sys
import time
from itertools import islice
from pathlib import Path

from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.utils import ProjectConfiguration
from huggingface_hub import HfApi
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainerState, get_scheduler, set_seed

from algm_hf import AlgmForSemanticSegmentation
from algm_hf.data.arguments import AugmentationArguments, DataArguments
from algm_hf.data.augmentation import augmented, build_augmentation
from algm_hf.data.loading import load_segmentation_data
from algm_hf.data.streams import EndlessStream
from algm_hf.evaluation.metrics import class_table, scalar_metrics
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import SegmentationPredictor
from algm_hf.publishing.card_facts import facts_from_folder
from algm_hf.publishing.model_card import render_card, write_card
from algm_hf.publishing.publication import prepare_publication
from algm_hf.publishing.upload import PublishingError, publish
from algm_hf.runs.command_line import field_names, parse_arguments, resume_command
from algm_hf.runs.compat import set_epoch
from algm_hf.runs.models import config_settings, unwrapped
from algm_hf.runs.provenance import save_run_arguments
from algm_hf.training.arguments import ModelArguments, SegmentationTrainingArguments
from algm_hf.training.checkpoints import STATE_NAME, checkpoint_to_resume, is_finished, remove_old_checkpoints
from algm_hf.training.collators import SegmentationCollator
from algm_hf.training.initial_model import build_model, check_model_arguments, shortened
from algm_hf.training.meters import TokenMeter, TrainingClock
from algm_hf.training.optimizer import build_optimizer, check_optimization
from algm_hf.training.sharding import bare_model, is_sharded, model_to_evaluate
from algm_hf.training.stopping import StopRequest


ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, SegmentationTrainingArguments)
# Of the many arguments of Trainer this loop follows these. Any other one is refused, not ignored.
FOLLOWED = set(
    "output_dir per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps learning_rate "
    "layer_decay lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 "
    "adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16 fp16 gradient_checkpointing "
    "activation_checkpointing logging_steps report_to run_name eval_strategy eval_steps save_strategy save_steps "
    "save_total_limit load_best_model_at_end metric_for_best_model greater_is_better seed data_seed use_cpu "
    "disable_tqdm dataloader_num_workers dataloader_drop_last dataloader_pin_memory "
    "dataloader_persistent_workers push_to_hub hub_model_id hub_token hub_private_repo hub_license "
    "resume_from_checkpoint remove_unused_columns do_eval do_train".split()
)


def read_arguments(argv):
    (model_args, data_args, augmentation_args, args), given = parse_arguments(ARGUMENTS, argv, __doc__)
    for name in sorted(given & field_names(SegmentationTrainingArguments) - FOLLOWED):
        raise ValueError(f"--{name} is not followed by train_no_trainer.py, expected without it; train.py takes it.")
    if args.save_strategy == "best":
        raise ValueError("--save_strategy is best, expected no, steps or epoch; train.py takes it.")
    return model_args, data_args, augmentation_args, args


def is_due(strategy, every, step, epoch_ended):
    """Whether to evaluate or save after this step."""
    return epoch_ended if strategy == "epoch" else strategy == "steps" and step % every == 0


def evaluate(accelerator, args, model, processor, rows):
    """Scores at the original size of the images, the same on any number of processes."""
    with model_to_evaluate(accelerator, model) as bare:
        scores = evaluate_predictor(
            SegmentationPredictor(bare, processor),
            rows,
            args.per_device_eval_batch_size,
            processor.ignore_index,
            accelerator=accelerator,
            num_workers=args.dataloader_num_workers,
        )
    model.train()
    return scores


def batches_of(loader, train_set, epoch, skipped):
    """The batches of an epoch without the first `skipped`; those of a stream never end."""
    if hasattr(train_set, "set_epoch"):
        train_set.set_epoch(epoch)
    set_epoch(loader, epoch)  # before and after batches are skipped: accelerate's versions differ
    part = skip_first_batches(loader, skipped) if skipped else loader
    set_epoch(part, epoch)
    return iter(part)


def save_model(accelerator, model, folder):
    """Weights, config and code."""
    weights = accelerator.get_state_dict(model)  # every process takes part
    if accelerator.is_main_process:
        bare_model(unwrapped(model).config).save_pretrained(folder, state_dict=weights)


def save_checkpoint(accelerator, args, model, processor, state):
    """A folder that loads alone, with all that a training needs to go on. Its state is written last: without it, the
    folder counts as unfinished."""
    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    accelerator.save_state(str(folder))
    if is_sharded(accelerator):  # what save_state wrote are the parts
        save_model(accelerator, model, folder)
    if accelerator.is_main_process:
        processor.save_pretrained(folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(folder)
        state.save_to_json(str(folder / STATE_NAME))
        kept = [each for each in (folder, state.best_model_checkpoint) if each is not None]
        remove_old_checkpoints(args.output_dir, args.save_total_limit, kept)
    accelerator.wait_for_everyone()
    return folder


def checkpoint_as_pretrained(accelerator):
    """Makes `accelerator.save_state` write weights with `save_pretrained`: with config and code, and once."""

    def save(models, weights, folder):
        while weights:  # none under FSDP, which saves its parts itself
            state = {name.removeprefix("module."): value for name, value in weights.pop().items()}
            if accelerator.is_main_process:
                bare_model(unwrapped(models[len(weights)]).config).save_pretrained(folder, state_dict=state)

    def load(models, folder):
        while models:
            weights = AlgmForSemanticSegmentation.from_pretrained(folder).state_dict()
            unwrapped(accelerator.unwrap_model(models.pop())).load_state_dict(weights)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def main():
    # 1. Arguments, and all that can be refused before the first step.
    stop = StopRequest()
    try:
        model_args, data_args, augmentation_args, args = read_arguments(sys.argv[1:])
        checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir, args.world_size)
        check_model_arguments(model_args, augmentation_args.crop)
        check_optimization(args)
        evaluates = args.eval_strategy != "no" or args.do_eval
        with args.main_process_first(desc="reading the data set"):
            splits = ("train", "evaluation") if evaluates else ("train",)
            data = load_segmentation_data(data_args, splits, shuffle_seed=args.data_seed)
        accelerator = Accelerator(
            mixed_precision="bf16" if args.bf16 else "fp16" if args.fp16 else None,  # None: as accelerate launch says
            cpu=args.use_cpu,
            log_with=args.report_to or None,
            project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir) / "runs")),
            dataloader_config=DataLoaderConfiguration(
                dispatch_batches=False, use_seedable_sampler=True, data_seed=args.data_seed
            ),
            step_scheduler_with_optimizer=False,
        )
        is_sharded(accelerator)  # refuses what does not work
        absent = set(args.report_to) - {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
        if absent:
            raise ValueError(f"--report_to {absent.pop()} cannot be used here, expected a tracker that is installed.")

        if args.push_to_hub and accelerator.is_main_process:
            hub, name = HfApi(token=args.hub_token), args.hub_model_id or Path(args.output_dir).resolve().name
            repository = hub.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id

        # 2. Model, data, optimizer.
        set_seed(args.seed)  # of the random weights
        initial = build_model(model_args, augmentation_args.crop, data.id2label)
        model, processor = initial.model, initial.processor
        if args.gradient_checkpointing or getattr(args, "activation_checkpointing", False):
            # The name in transformers now, or the one that it had before.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        tokens = TokenMeter(model)
        train_set = augmented(data.train, build_augmentation(augmentation_args, processor), args.seed)
        collate = SegmentationCollator(len(data.id2label), processor.ignore_index)
        is_stream = not hasattr(train_set, "__len__")
        train_set = EndlessStream(train_set) if is_stream else train_set
        shared = {"collate_fn": collate, "pin_memory": args.dataloader_pin_memory}
        workers = {
            "num_workers": args.dataloader_num_workers,
            "persistent_workers": args.dataloader_persistent_workers,
        }
        train_loader = DataLoader(
            train_set,
            args.per_device_train_batch_size,
            shuffle=None if is_stream else True,
            drop_last=args.dataloader_drop_last,
            **shared,
            **workers,
        )
        train_loader = accelerator.prepare(train_loader)
        if is_stream and args.max_steps <= 0:
            raise ValueError(f"--max_steps is {args.max_steps}, expected at least 1: a stream has no known length.")
    except (ValueError, OSError, ImportError, RuntimeError) as error:  # refused: one line, no traceback
        sys.exit(f"error: {' '.join(str(error).split())}")

    optimizer = build_optimizer(model, model.config.num_hidden_layers, args)
    model, optimizer = accelerator.prepare(model, optimizer)  # together, as FSDP 2 needs them
    batches_per_epoch = args.max_steps * args.gradient_accumulation_steps if is_stream else len(train_loader)
    steps_per_epoch = max(1, math.ceil(batches_per_epoch / args.gradient_accumulation_steps))
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    scheduler = accelerator.prepare(scheduler)
    checkpoint_as_pretrained(accelerator)

    # 3. Where to begin.
    state = TrainerState(max_steps=max_steps, num_train_epochs=math.ceil(max_steps / steps_per_epoch))
    set_seed(args.seed)  # of drop path and dropout
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
        if state.global_step > max_steps or (
            state.global_step == max_steps and is_finished(args.output_dir, max_steps)
        ):
            sys.exit(f"error: {checkpoint} has {state.global_step} of {max_steps} steps: nothing is left to train.")
    state.compute_steps(args, max_steps)  # shares of the training become numbers of steps
    say = print if accelerator.is_main_process else lambda *words, **how: None
    if accelerator.is_main_process:
        groups = {"model": model_args, "data": data_args, "augmentation": augmentation_args, "training": args}
        save_run_arguments(args.output_dir, **groups)
    if args.report_to:
        accelerator.init_trackers(args.run_name or "algm")
    say(f"{initial.model.num_parameters():,} parameters, {len(data.id2label)} classes, {max_steps} steps.")
    if initial.new_weights:
        say(f"New at random: {shortened(initial.new_weights)}.")

    def log(entry):
        entry = {"epoch": round(state.epoch, 4), **entry}
        state.log_history.append({**entry, "step": state.global_step})
        accelerator.log(entry, step=state.global_step)
        say({name: round(value, 5) for name, value in entry.items()})

    # 4. The loop.
    clock, loss_sum, steps_logged, scores = TrainingClock(), 0.0, 0, {}
    first_epoch, steps_done = divmod(state.global_step, steps_per_epoch)
    merging = {} if model_args.train_with_merging else {"use_token_merging": False}
    bar = tqdm(
        total=max_steps, initial=state.global_step, disable=args.disable_tqdm or not accelerator.is_main_process
    )
    model.train()
    start, first_step = time.perf_counter(), state.global_step
    with stop:
        # Without a step left it was killed between its last checkpoint and its results.
        last_epoch = math.ceil(max_steps / steps_per_epoch) if state.global_step < max_steps else first_epoch
        for epoch in range(first_epoch, last_epoch):
            begin = steps_done if epoch == first_epoch else 0
            if checkpoint is not None and not begin:  # before the loader draws its number for this epoch
                accelerator.load_state(checkpoint)
                checkpoint = None
            batches = batches_of(train_loader, train_set, epoch, begin * args.gradient_accumulation_steps)
            for step_of_epoch in range(begin, steps_per_epoch):
                waiting = time.perf_counter()
                group = list(islice(batches, args.gradient_accumulation_steps))
                if checkpoint is not None:  # after the loader has drawn the number that it drew before the checkpoint
                    accelerator.load_state(checkpoint)
                    checkpoint = None
                computing = time.perf_counter()
                for number, batch in enumerate(group):
                    is_complete = number == len(group) - 1
                    with contextlib.nullcontext() if is_complete else accelerator.no_sync(model):
                        with config_settings(unwrapped(model), **merging):
                            loss = model(**batch).loss / len(group)
                        accelerator.backward(loss)
                    loss_sum = loss_sum + loss.detach()
                if args.max_grad_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                learning_rate = scheduler.get_last_lr()[0]
                optimizer.step()
                if not accelerator.optimizer_step_was_skipped:
                    scheduler.step()
                optimizer.zero_grad()

                # After a step: log, evaluate, save, stop.
                state.global_step += 1
                state.epoch = epoch + (step_of_epoch + 1) / steps_per_epoch
                clock.add(
                    sum(len(batch["labels"]) for batch in group), computing - waiting, time.perf_counter() - computing
                )
                steps_logged += 1
                bar.update()
                is_last = state.global_step == max_steps
                epoch_ended = step_of_epoch + 1 == steps_per_epoch or is_last
                if state.global_step % state.logging_steps == 0:
                    loss = float(accelerator.reduce(loss_sum, reduction="mean")) / steps_logged
                    entry = {"loss": loss, "learning_rate": learning_rate, **clock.pop(accelerator.num_processes)}
                    log({**entry, "tokens_kept_percent": tokens.pop()})
                    loss_sum, steps_logged = 0.0, 0
                if data.evaluation is not None and is_due(
                    args.eval_strategy, state.eval_steps, state.global_step, epoch_ended
                ):
                    scores = evaluate(accelerator, args, model, processor, data.evaluation)
                    metrics = {f"eval_{name}": value for name, value in scalar_metrics(scores).items()}
                    log(metrics)
                    name = args.metric_for_best_model
                    value = metrics[name if name.startswith("eval_") else f"eval_{name}"]
                    sign = 1 if args.greater_is_better else -1
                    if state.best_metric is None or sign * value > sign * state.best_metric:
                        state.best_metric, state.best_global_step = value, state.global_step
                is_stopped = stop.reached(accelerator) and not is_last
                is_end = is_last and args.save_strategy == "steps"
                if (
                    is_stopped
                    or is_end
                    or is_due(args.save_strategy, state.save_steps, state.global_step, epoch_ended)
                ):
                    folder = save_checkpoint(accelerator, args, model, processor, state)
                if is_stopped:
                    say(f"\nInterrupted after step {state.global_step}; saved {folder}. Go on with:", file=sys.stderr)
                    say(f"    {resume_command(sys.argv)}", file=sys.stderr)
                    sys.exit(128 + stop.signal)  # what a shell expects
                if is_last:
                    break
    bar.close()
    if checkpoint is not None:
        accelerator.load_state(checkpoint)

    # 5. Results. The state, by which a training counts as finished, is written last.
    results = {"epoch": state.epoch, "train_runtime": time.perf_counter() - start}
    results["train_steps"] = state.global_step - first_step
    results |= {f"train_{name}": value for name, value in clock.total(accelerator.num_processes).items()}
    if args.load_best_model_at_end and state.best_global_step:
        accelerator.load_state(str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}"))
    save_model(accelerator, model, args.output_dir)
    if accelerator.is_main_process:
        processor.save_pretrained(args.output_dir)
    if data.evaluation is not None:
        scores = evaluate(accelerator, args, model, processor, data.evaluation)
        results |= {f"eval_{name}": value for name, value in scalar_metrics(scores).items()}
        say(
            f"mIoU {100 * scores['mean_iou']:.2f} % on {scores['num_images']} images; "
            f"always the most frequent class: {100 * scores['constant_mean_iou']:.2f} %."
        )
    if accelerator.is_main_process:
        folder = Path(args.output_dir)
        (folder / "all_results.json").write_text(json.dumps(results, indent=4) + "\n", encoding="utf-8")
        if scores:
            table = json.dumps(class_table(scores, data.id2label), indent=2)
            (folder / "scores_by_class.json").write_text(table + "\n", encoding="utf-8")
        state.save_to_json(str(folder / STATE_NAME))
        if data.skipped:
            print(f"{len(data.skipped)} samples were left out:", *data.skipped, sep="\n    ")
        if args.push_to_hub:
            try:
                card = render_card(facts_from_folder(folder, model_id=repository, license=args.hub_license))
                write_card(card, folder)
                publication = prepare_publication(folder, repository)
                publish(publication, repository, private=args.hub_private_repo, token=args.hub_token)
            except (ValueError, PublishingError) as error:  # the model is saved; scripts/push_to_hub.py can try again
                sys.exit(f"error: {error}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
