# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from PIL import Image
from tiny_models import blocky_images, tiny_model
from training_runs import fresh_accelerate
from transformers import TrainerCallback

from algm_hf import AlgmImageProcessor
from algm_hf.data.streams import EndlessStream
from algm_hf.evaluation.metrics import class_table, constant_mean_iou
from algm_hf.evaluation.scoring import evaluate_predictor
from algm_hf.inference.predictor import SegmentationPredictor
from algm_hf.runs.compat import set_epoch
from algm_hf.training.arguments import SegmentationTrainingArguments
from algm_hf.training.checkpoints import checkpoint_to_resume, checkpoints, is_finished, remove_old_checkpoints
from algm_hf.training.collators import SegmentationCollator
from algm_hf.training.meters import TokenMeter, TrainingClock
from algm_hf.training.sharding import model_to_evaluate
from algm_hf.training.stopping import StopRequest
from algm_hf.training.trainer import SegmentationTrainer


def test_rows_are_stacked_and_labels_outside_the_classes_refused_before_or_in_the_step():
    row = {"pixel_values": torch.zeros(3, 16, 24), "labels": torch.full((16, 24), 255)}
    batch = SegmentationCollator(num_labels=3)([row, row])
    assert batch["pixel_values"].shape == (2, 3, 16, 24)
    assert batch["labels"].shape == (2, 16, 24)
    assert batch["labels"].dtype == torch.int64
    with pytest.raises(ValueError, match=r"labels=\[3\]"):  # by the collator where an accelerator runs the step
        tiny_model(num_labels=3)(**SegmentationCollator(num_labels=3)([{**row, "labels": torch.full((16, 24), 3)}]))


def test_a_time_limit_ends_the_training_after_the_step_and_has_to_be_positive():
    with fresh_accelerate():
        accelerator = Accelerator(cpu=True)
        for minutes, reached in ((1e-9, True), (60, False)):
            with StopRequest(minutes) as stop:
                assert stop.reached(accelerator) is reached
            assert (stop.is_due, stop.signal) == (reached, None)
    with pytest.raises(ValueError, match="max_minutes=0"):
        StopRequest(0)


def labelled_rows(count, num_labels=5, height=40, width=48):
    """Images of different sizes with random squares of labels, one column of them ignored."""
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


@pytest.mark.parametrize(
    ("mode", "settings"), [("whole", {"dataloader_drop_last": True}), ("slide", {}), ("whole", {"bf16": True})]
)
def test_evaluation_of_the_trainer_is_that_of_evaluate_predictor(tmp_path, mode, settings):
    """Five images in batches of two: the last batch counts even where those of training are dropped, and mixed
    precision is that of training alone."""
    model = tiny_model(inference_mode=mode, window_size=24, window_stride=16)
    rows = labelled_rows(5)
    with fresh_accelerate():
        run = trainer(tmp_path, model, evaluation=rows, per_device_eval_batch_size=2, **settings)
        metrics = run.evaluate()
    model.__dict__.pop("forward", None)  # accelerate's, in bfloat16
    expected = evaluate_predictor(SegmentationPredictor(model, run.processing_class), rows, batch_size=2)
    names = ("mean_iou", "mean_accuracy", "overall_accuracy", "num_images", "tokens_mean", "token_share")
    for name in (*names, "constant_mean_iou"):
        assert metrics[f"eval_{name}"] == expected[name]
    assert np.array_equal(run.scores["per_category_iou"], expected["per_category_iou"], equal_nan=True)


def test_evaluation_reads_a_stream_and_leaves_the_random_numbers_alone(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(labelled_rows(3))

    model = tiny_model()
    with fresh_accelerate():
        workers = {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 2}
        settings = {f"dataloader_{name}": value for name, value in workers.items()}
        run = trainer(tmp_path, model, evaluation=Stream(), **settings)
        before = torch.get_rng_state()
        metrics = run.evaluate()
        assert torch.equal(before, torch.get_rng_state())
    assert {name: getattr(run.args, name) for name in settings} == settings
    with pytest.raises(ValueError, match=r"predict does not give label maps, expected SegmentationPredictor"):
        run.predict(Stream())
    assert metrics["eval_num_images"] == 3
    assert (
        metrics["eval_mean_iou"]
        == evaluate_predictor(SegmentationPredictor(model, run.processing_class), labelled_rows(3))["mean_iou"]
    )


def test_a_compiled_model_is_evaluated_as_it_was_before(tmp_path):
    model = tiny_model()
    compiled = torch.compile(model, backend="eager")
    with fresh_accelerate(), model_to_evaluate(Accelerator(cpu=True), compiled) as evaluated:
        assert evaluated is model


def test_nothing_to_evaluate_is_refused(tmp_path):
    with fresh_accelerate():
        run = trainer(tmp_path, tiny_model())
        for rows, message in ((None, "eval_dataset=None"), ([], "rows=")):
            with pytest.raises(ValueError, match=message):
                run.evaluate(rows)


def test_several_evaluation_sets_are_scored_under_their_names_and_told_to_callbacks(tmp_path):
    told = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            told.append(metrics)

    with fresh_accelerate():
        sets = {"few": labelled_rows(1), "more": labelled_rows(2)}
        run = trainer(tmp_path, tiny_model(), evaluation=sets)
        run.add_callback(Listener())
        metrics = run.evaluate()
        assert (metrics["eval_few_num_images"], metrics["eval_more_num_images"]) == (1, 2)
        assert run.evaluate("few")["eval_mean_iou"] == metrics["eval_few_mean_iou"]
        assert run.evaluate(metric_key_prefix="test")["test_more_mean_iou"] == metrics["eval_more_mean_iou"]
    assert [len(each) for each in told] == [len(told[0])] * 5
    assert len(run.state.log_history) == 5


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
    with pytest.raises(ValueError, match="resume_from_checkpoint=.*checkpoint-11"):
        checkpoint_to_resume(str(unfinished[0]), tmp_path)


@pytest.mark.parametrize("requested", ["last", "auto", "checkpoint-2"])
def test_a_checkpoint_of_other_processes_is_refused_and_one_that_lacks_some_is_passed_over(requested, tmp_path):
    first = checkpoint_folder(tmp_path, 2)
    given = str(first) if requested.startswith("checkpoint") else requested
    with pytest.raises(ValueError, match="checkpoint-2='saved by 1': .* 2 processes"):
        checkpoint_to_resume(given, tmp_path, num_processes=2)
    (first / "rng_state.pth").rename(first / "rng_state_0.pth")
    (first / "rng_state_1.pth").touch()
    with pytest.raises(ValueError, match="='saved by 2': .* 1 processes"):
        checkpoint_to_resume(given, tmp_path)
    if requested in ("last", "auto"):
        checkpoint_folder(tmp_path, 3)  # killed before the second process had saved
    assert checkpoint_to_resume(given, tmp_path, num_processes=2) == str(first)


def test_going_on_from_before_the_last_checkpoint_is_refused_where_later_ones_lie(tmp_path):
    folders = [checkpoint_folder(tmp_path / "out", step) for step in (1, 2, 3)]
    with pytest.raises(ValueError, match="output_dir=.*checkpoint-2, checkpoint-3"):
        checkpoint_to_resume(str(folders[0]), tmp_path / "out")
    assert checkpoint_to_resume(str(folders[0]), tmp_path / "new") == str(folders[0])


def test_nothing_to_resume_is_said_or_begun_anew(tmp_path):
    with pytest.raises(ValueError, match="resume_from_checkpoint='last'"):
        checkpoint_to_resume("last", tmp_path)
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume(None, tmp_path / "new") is None
    checkpoint_folder(tmp_path, 3)
    with pytest.raises(ValueError, match="output_dir=.*checkpoint-3"):
        checkpoint_to_resume(None, tmp_path)


def test_a_training_is_finished_when_its_last_state_is_written(tmp_path):
    assert not is_finished(tmp_path, 3)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')
    assert is_finished(tmp_path, 3)
    assert not is_finished(tmp_path, 4)  # the results are those of a shorter run


def test_the_last_checkpoint_and_those_to_keep_are_never_removed(tmp_path):
    folders = [checkpoint_folder(tmp_path, step) for step in (1, 2, 3, 4)]
    remove_old_checkpoints(tmp_path, None)
    assert checkpoints(tmp_path)[0] == folders
    remove_old_checkpoints(tmp_path, 2, kept=[folders[0]])
    assert checkpoints(tmp_path)[0] == [folders[0], folders[3]]
    remove_old_checkpoints(tmp_path, 1, kept=[folders[0]])
    assert checkpoints(tmp_path)[0] == [folders[0], folders[3]]


def test_ctrl_c_on_the_last_step_of_an_epoch_keeps_its_evaluation(tmp_path):
    """Two steps are an epoch: the second is scored and the saved state knows it, the third is only saved."""
    images = blocky_images(4, 32, 32)
    rows = [{"pixel_values": image, "labels": torch.randint(0, 5, (32, 32))} for image in images]
    for step, scored in ((2, [2]), (3, [2])):
        folder = tmp_path / str(step)
        settings = {"max_steps": 6, "eval_strategy": "epoch", "save_strategy": "epoch"}
        with fresh_accelerate():
            run = trainer(folder, tiny_model(), rows, labelled_rows(1), per_device_train_batch_size=2, **settings)
            run.stop = StopAt(step, run)
            run.train()
        state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert (run.state.global_step, state["global_step"]) == (step, step)
        assert [entry["step"] for entry in state["log_history"] if "eval_mean_iou" in entry] == scored


class StopAt(StopRequest):
    """A signal that comes during a step."""

    def __init__(self, step, run):
        super().__init__()
        self.step, self.run = step, run

    def reached(self, accelerator):
        if self.run.state.global_step >= self.step:
            self.signal = signal.SIGINT
        return super().reached(accelerator)


# Epochs and passes


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_epoch_that_begins_in_its_middle_has_the_order_of_a_whole_one(num_processes):
    def loader():
        data = torch.utils.data.DataLoader(list(range(16)), 2, shuffle=True)
        settings = {"use_seedable_sampler": True, "data_seed": 7, "put_on_device": False}
        return prepare_data_loader(data, num_processes=num_processes, process_index=0, **settings)

    with fresh_accelerate():
        Accelerator(cpu=True)
        whole, resumed = loader(), loader()
        epochs = []
        for epoch in range(3):
            set_epoch(whole, epoch)
            epochs.append([batch.tolist() for batch in whole])
        assert len({str(order) for order in epochs}) == 3
        set_epoch(resumed, 1)
        part = skip_first_batches(resumed, 2)
        set_epoch(part, 1)
        assert [batch.tolist() for batch in part] == epochs[1][2:]
        set_epoch(resumed, 2)
        assert [batch.tolist() for batch in resumed] == epochs[2]


class Passes(torch.utils.data.IterableDataset):
    """Gives its pass and row numbers; of workers, the first two have the rows."""

    def __init__(self, count):
        self.count, self.epoch = count, torch.zeros(()).share_memory_()

    def set_epoch(self, epoch):
        self.epoch.fill_(epoch)

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        for number in range(self.count) if info is None else range(info.id, self.count if info.id < 2 else 0, 2):
            yield int(self.epoch), number


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 3])
def test_a_stream_begins_again_with_the_next_pass_in_every_worker(workers):
    rows = iter(torch.utils.data.DataLoader(EndlessStream(Passes(3)), batch_size=None, num_workers=workers))
    found = [tuple(next(rows)) for _ in range(9)]
    if workers == 0:
        assert found == [(epoch, number) for epoch in range(3) for number in range(3)]
    else:  # the second worker has one row, so it is ahead
        assert [row for row in found if row[1] != 1] == [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0)]
        assert [row for row in found if row[1] == 1] == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_stream_without_rows_is_refused():
    with pytest.raises(ValueError, match="training stream="):
        next(iter(EndlessStream(Passes(0))))
