# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tiny_models import blocky_images, tiny_model
from training_runs import fresh_accelerate

from algm_hf import AlgmImageProcessor
from algm_hf.segmentation_evaluation import evaluate_segmentation
from algm_hf.segmentation_inference import SegmentationPredictor
from algm_hf.segmentation_trainer import (
    EvaluationSums,
    SegmentationTrainer,
    class_table,
    constant_mean_iou,
    predict_batch,
    scalar_metrics,
)
from algm_hf.segmentation_training import (
    SegmentationCollator,
    SegmentationTrainingTransform,
    StopRequest,
    TimeLimitCallback,
    TokenMeter,
    TrainingAndEvaluationCollator,
    TrainingClock,
    checkpoint_to_resume,
    checkpoints,
    numbered,
    remove_old_checkpoints,
)
from algm_hf.training_arguments import SegmentationTrainingArguments


def coloured_pair(height, width):
    """A picture whose red channel is ten times its label, in two by two blocks."""
    labels = np.random.default_rng(0).integers(0, 20, (height // 2, width // 2)).repeat(2, axis=0).repeat(2, axis=1)
    pixels = np.stack([labels * 10] * 3, axis=-1).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(labels.astype(np.uint8))


def transformed(crop_size, height=32, width=48, **settings):
    image, annotation = coloured_pair(height, width)
    processor = AlgmImageProcessor(do_resize=False, patch_size=8, image_mean=0.0, image_std=1.0)
    transform = SegmentationTrainingTransform(processor, crop_size, **settings)
    rows = transform({"image": [image] * 8, "annotation": [annotation] * 8})
    return list(zip(rows["pixel_values"], rows["labels"], strict=True)), np.asarray(annotation)


def test_crop_and_flip_move_image_and_labels_alike():
    torch.manual_seed(0)
    rows, annotation = transformed((16, 24))
    for pixels, labels in rows:
        assert pixels.shape == (3, 16, 24)
        assert labels.shape == (16, 24)
        assert torch.equal((pixels[0] * 25.5).round().long(), labels.long())
        assert set(labels.unique().tolist()) <= set(annotation.reshape(-1).tolist())
    assert not all(torch.equal(labels, rows[0][1]) for _, labels in rows)


def test_half_of_the_rows_are_mirrored_unless_flip_is_off():
    torch.manual_seed(0)
    rows, annotation = transformed((32, 48))
    straight, mirrored = torch.tensor(annotation).long(), torch.tensor(annotation[:, ::-1].copy()).long()
    ways = {("straight" if torch.equal(labels.long(), straight) else "mirrored") for _, labels in rows}
    assert all(torch.equal(labels.long(), straight) or torch.equal(labels.long(), mirrored) for _, labels in rows)
    assert ways == {"straight", "mirrored"}
    rows, _ = transformed((32, 48), flip=False)
    assert all(torch.equal(labels.long(), straight) for _, labels in rows)


def test_an_image_smaller_than_the_crop_is_padded_with_zero_and_ignored_labels():
    rows, annotation = transformed((40, 64), flip=False)
    for pixels, labels in rows:
        assert torch.equal(labels[:32, :48].long(), torch.tensor(annotation).long())
        assert (labels[32:] == 255).all()
        assert (labels[:, 48:] == 255).all()
        assert (pixels[:, 32:] == 0).all()
        assert (pixels[:, :, 48:] == 0).all()


def test_collator_stacks_and_refuses_labels_outside_the_classes():
    row = {"pixel_values": torch.zeros(3, 4, 6), "labels": torch.full((4, 6), 255)}
    batch = SegmentationCollator(num_labels=3)([row, row])
    assert batch["pixel_values"].shape == (2, 3, 4, 6)
    assert batch["labels"].shape == (2, 4, 6)
    assert batch["labels"].dtype == torch.int64
    with pytest.raises(ValueError, match="3"):
        SegmentationCollator(num_labels=3)([{**row, "labels": torch.full((4, 6), 3)}])


def test_time_limit_has_to_be_positive():
    with pytest.raises(ValueError, match="max_minutes is 0, expected more than 0"):
        TimeLimitCallback(0)


def labelled_rows(count, num_labels=5, height=40, width=48):
    """Pictures of different sizes with random squares of labels, one column of them ignored."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        labels = generator.integers(0, num_labels, (height // 8, width // 8 + number)).repeat(8, 0).repeat(8, 1)
        pixels = (labels[..., None] * 50 + generator.integers(0, 20, (*labels.shape, 3))).astype(np.uint8)
        labels[:, :8] = 255
        rows.append({"image": Image.fromarray(pixels), "annotation": Image.fromarray(labels.astype(np.uint8))})
    return rows


def trainer(folder, model, rows=None, evaluation=None, **settings):
    settings = {"max_steps": 1, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", **settings}
    arguments = SegmentationTrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, **settings)
    return SegmentationTrainer(model, arguments, AlgmImageProcessor(size=40, patch_size=8), rows, evaluation)


# Trainer


def test_accumulating_gives_the_loss_and_the_gradient_of_the_batch(tmp_path):
    """Four images at once, or one at a time: drop path and dropout off, every pixel labelled."""
    images = blocky_images(4, 32, 32)
    rows = [{"pixel_values": image, "labels": torch.randint(0, 5, (32, 32))} for image in images]
    logs = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        with fresh_accelerate():
            run = trainer(
                tmp_path,
                tiny_model(decoder_dropout_prob=0.0),
                rows,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                max_grad_norm=1e6,
            )
            run.train()
        logs.append(next(entry for entry in run.state.log_history if "loss" in entry))
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_evaluation_of_the_trainer_is_that_of_evaluate_segmentation(tmp_path, mode):
    model = tiny_model(inference_mode=mode, window_size=24, window_stride=16)
    rows = labelled_rows(5)
    with fresh_accelerate():
        run = trainer(tmp_path, model, evaluation=rows, per_device_eval_batch_size=2)
        metrics = run.evaluate()
    expected = evaluate_segmentation(model, run.processing_class, rows, batch_size=2)
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy", "num_images", "tokens_mean", "token_share"):
        assert metrics[f"eval_{name}"] == expected[name]
    assert np.array_equal(run.scores["per_category_iou"], expected["per_category_iou"], equal_nan=True)


def test_evaluation_reads_a_stream_and_leaves_the_random_numbers_alone(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(labelled_rows(3))

    model = tiny_model()
    with fresh_accelerate():
        run = trainer(tmp_path, model, evaluation=Stream(), dataloader_num_workers=1)
        before = torch.get_rng_state()
        metrics = run.evaluate()
        assert torch.equal(before, torch.get_rng_state())
    assert metrics["eval_num_images"] == 3
    assert metrics["eval_mean_iou"] == evaluate_segmentation(model, run.processing_class, labelled_rows(3))["mean_iou"]


def test_what_evaluation_keeps_does_not_grow_with_the_images():
    sums = EvaluationSums(3)
    for number in range(50):
        sums.update(
            torch.ones(2, 3, 3, dtype=torch.int64), torch.ones(2, 4), torch.tensor([2 * number, 2 * number + 1])
        )
    assert sums.matrix.shape == (3, 3)
    assert sums.tokens.shape == (4,)
    assert int(sums.matrix.sum()) == 100 * 9


def test_an_image_that_fills_the_last_batch_counts_once():
    model, rows = tiny_model(), labelled_rows(3)
    predictor = SegmentationPredictor(model, AlgmImageProcessor(size=40, patch_size=8))
    collate = TrainingAndEvaluationCollator(5)
    sums, once = EvaluationSums(5), EvaluationSums(5)
    for batch, seen in (([0, 1], -1), ([2, 0], -1)):  # what two processes get of three images
        found = collate([numbered(rows)[index] for index in batch])
        sums.update(*predict_batch(predictor, found, seen), found["index"])
    found = collate([numbered(rows)[index] for index in range(3)])
    once.update(*predict_batch(predictor, found, -1), found["index"])
    assert torch.equal(sums.matrix, once.matrix)
    assert scalar_metrics(sums.compute()) == scalar_metrics(once.compute())
    confusions, tokens = predict_batch(predictor, collate([numbered(rows)[0]]), seen=2)
    assert not confusions.any() and not tokens.any()


def test_an_empty_evaluation_set_is_refused():
    with pytest.raises(ValueError, match="the evaluation set is empty"):
        EvaluationSums(3).compute()


def test_constant_predictor_scores_the_share_of_the_largest_class():
    """60 of 100 pixels are class 1, class 2 does not occur: IoU 0.6, 0 and none."""
    assert constant_mean_iou(torch.tensor([[40, 0, 0], [30, 20, 10], [0, 0, 0]])) == pytest.approx(0.3)
    assert np.isnan(constant_mean_iou(torch.zeros(2, 2)))


def test_class_table_names_classes_and_holds_no_nan():
    scores = {"per_category_iou": np.array([0.5, np.nan]), "per_category_accuracy": np.array([1.0, np.nan])}
    table = class_table(scores, {0: "sky", 1: "car"})
    assert table == {"sky": {"iou": 0.5, "accuracy": 1.0}, "car": {"iou": None, "accuracy": None}}


# Tokens and time


@pytest.mark.parametrize("checkpointing", [False, True])
def test_token_meter_counts_what_the_model_reports_in_training_only(checkpointing):
    model, images = tiny_model(drop_path_rate=0.0).train(), blocky_images(3, 64, 64)
    meter = TokenMeter(model)
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    outputs = model(images, labels=torch.zeros(3, 64, 64, dtype=torch.int64), output_token_merging=True)
    outputs.loss.backward()
    expected = 100 * outputs.token_counts.double().mean().item() / 65
    assert meter.pop() == pytest.approx(expected)
    assert meter.pop() is None
    model.eval()(images)
    assert meter.pop() is None


def test_clock_tells_throughput_of_the_window_and_of_the_whole():
    clock = TrainingClock()
    assert clock.pop() == {}
    clock.add(images=8, data=1.0, step=3.0)
    assert clock.pop(num_processes=2) == {"images_per_second": 4.0, "data_wait_percent": 25.0}
    clock.add(images=8, data=0.0, step=4.0)
    assert clock.pop() == {"images_per_second": 2.0, "data_wait_percent": 0.0}
    assert clock.total()["images_per_second"] == 2.0
    assert clock.total()["step_images_per_second"] == pytest.approx(16 / 7, abs=1e-3)


# Stopping and resuming


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_interrupts(number):
    before = signal.getsignal(number)
    with fresh_accelerate():
        accelerator = Accelerator(cpu=True)
        with StopRequest() as stop:
            assert not stop.reached(accelerator)
            os.kill(os.getpid(), number)
            assert stop.reached(accelerator)
            assert stop.signal == number
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def checkpoint_folder(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "rng_state.pth").touch()
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if complete else '{"global_st')
    return path


def test_what_a_killed_training_left_unfinished_is_not_resumed(tmp_path):
    complete = [checkpoint_folder(tmp_path, step) for step in (2, 10)]
    unfinished = [checkpoint_folder(tmp_path, 11, complete=False), tmp_path / "checkpoint-12"]
    unfinished[1].mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints(tmp_path) == (complete, unfinished)
    for requested in ("last", "true", "True", "auto", str(complete[1])):
        assert checkpoint_to_resume(requested, tmp_path) == str(complete[1])
    with pytest.raises(ValueError, match="checkpoint-11 is no complete checkpoint"):
        checkpoint_to_resume(str(unfinished[0]), tmp_path)
    assert checkpoints(tmp_path, num_processes=2)[0] == []  # the second process's random state is not there


def test_nothing_to_resume_is_said_or_begun_anew(tmp_path):
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        checkpoint_to_resume("last", tmp_path)
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume(None, tmp_path / "new") is None
    checkpoint_folder(tmp_path, 3)
    with pytest.raises(ValueError, match="already holds checkpoint-3"):
        checkpoint_to_resume(None, tmp_path)


def test_the_last_checkpoints_and_the_best_one_are_kept(tmp_path):
    folders = [checkpoint_folder(tmp_path, step) for step in (1, 2, 3, 4)]
    remove_old_checkpoints(tmp_path, None)
    assert checkpoints(tmp_path)[0] == folders
    remove_old_checkpoints(tmp_path, 2, best=folders[0])
    assert checkpoints(tmp_path)[0] == [folders[0], folders[3]]
