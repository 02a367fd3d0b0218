# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training of a segmentation model needs around the model: transform, collators, clocks, checkpoints."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import TrainerCallback

from .segmentation_inference import unwrapped
from .segmentation_loss import check_labels


STATE_NAME = "trainer_state.json"  # the last file of a checkpoint to be written


class SegmentationTrainingTransform:
    """Prepares rows of a segmentation data set for training:
    `dataset.set_transform(SegmentationTrainingTransform(processor))`.

    The image processor resizes and normalises image and label map; then both are cropped at the same random place
    (padded on the right and at the bottom where they are smaller: the image with 0, the labels with the ignore index)
    and mirrored together.

    Args:
        processor ([`AlgmImageProcessor`]): Decides size and normalisation.
        crop_size (`tuple[int, int]`): Height and width in pixels of what comes out, so that rows can be stacked.
        flip (`bool`, *optional*, defaults to `True`): Whether half of the rows are mirrored left to right.
    """

    def __init__(self, processor, crop_size: tuple[int, int], flip: bool = True):
        self.processor = processor
        self.crop_size = tuple(crop_size)
        self.fill = {tv_tensors.Image: 0.0, tv_tensors.Mask: processor.ignore_index}
        self.augment = v2.Compose([v2.RandomCrop(self.crop_size), v2.RandomHorizontalFlip(p=0.5 if flip else 0.0)])

    def __call__(self, rows: Mapping[str, Sequence]) -> dict[str, list[torch.Tensor]]:
        """Columns `image` and `annotation` to `pixel_values` `(channels, *crop_size)` and `labels` `crop_size`."""
        prepared = self.processor(rows["image"], segmentation_maps=rows["annotation"])
        pairs = [
            self._augment(torch.as_tensor(pixels), torch.as_tensor(labels))
            for pixels, labels in zip(prepared["pixel_values"], prepared["labels"], strict=True)
        ]
        return {"pixel_values": [pixels for pixels, _ in pairs], "labels": [labels for _, labels in pairs]}

    def _augment(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = [max(wanted - side, 0) for wanted, side in zip(self.crop_size, labels.shape, strict=True)]
        image, mask = tv_tensors.Image(pixels), tv_tensors.Mask(labels)
        if any(missing):
            image, mask = v2.Pad([0, 0, missing[1], missing[0]], fill=self.fill)(image, mask)
        image, mask = self.augment(image, mask)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


class SegmentationCollator:
    """Stacks rows of [`SegmentationTrainingTransform`] and checks the labels, here where they still are on the CPU.

    Args:
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that do not count.

    Raises:
        `ValueError`: When called with a label that is neither a class nor `ignore_index`.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels = num_labels
        self.ignore_index = ignore_index

    def __call__(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        labels = torch.stack([row["labels"] for row in rows]).long()
        check_labels(labels, self.num_labels, self.ignore_index)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


class TimeLimitCallback(TrainerCallback):
    """Ends a training after the step in which `max_minutes` (wall clock) are over.

    Args:
        max_minutes (`float`): More than 0.

    Attributes:
        reached (`bool`): Whether the limit ended the training.
    """

    def __init__(self, max_minutes: float):
        if not max_minutes > 0:
            raise ValueError(f"max_minutes is {max_minutes}, expected more than 0.")
        self.max_minutes = max_minutes
        self.reached = False
        self._start = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self._start > 60 * self.max_minutes and state.global_step < state.max_steps:
            self.reached = control.should_training_stop = True


class TrainingAndEvaluationCollator:
    """One collator for both: augmented rows become tensors, rows to evaluate stay pictures of their own size.

    Args:
        num_labels, ignore_index: See [`SegmentationCollator`].
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.stack = SegmentationCollator(num_labels, ignore_index)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`pixel_values` `(batch_size, 3, height, width)` and `labels` `(batch_size, height, width)`; or the lists
        `image` and `annotation` and the tensor `index` `(batch_size,)`."""
        if "pixel_values" in rows[0]:
            return self.stack(rows)
        batch: dict[str, Any] = {name: [row[name] for row in rows] for name in ("image", "annotation")}
        return {**batch, "index": torch.tensor([row["index"] for row in rows])}


class NumberedRows(torch.utils.data.Dataset):
    """Rows to evaluate, each with its place as `index`, by which a row that is read twice is counted once.

    Args:
        rows (`Sequence`): Rows `{"image", "annotation"}`.
    """

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"image": row["image"], "annotation": row["annotation"], "index": index}


class NumberedStream(torch.utils.data.IterableDataset):
    """[`NumberedRows`] of a stream; to be read without worker processes, which would number their own parts.

    Args:
        rows (`Iterable`): Rows `{"image", "annotation"}`.
    """

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for index, row in enumerate(self.rows):
            yield {"image": row["image"], "annotation": row["annotation"], "index": index}


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
            if row is None:
                raise ValueError("the training stream holds no sample that can be used, expected at least one.")


def set_epoch(loader, epoch: int) -> None:
    """Tells an accelerate data loader its epoch, and the sampler however deep it is wrapped: accelerate does not reach
    it on several processes, and older versions nowhere once batches are skipped.

    Args:
        loader (`DataLoader`): Before batches are skipped.
        epoch (`int`): Counted from 0.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        inner = getattr(sampler, "batch_sampler", None)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner


def numbered(rows) -> NumberedRows | NumberedStream:
    """Rows with their numbers, whichever kind they are."""
    return NumberedRows(rows) if hasattr(rows, "__len__") else NumberedStream(rows)


class TokenMeter:
    """Which share of the tokens the forward passes of a training keep. It adds up Python integers that every forward
    pass has anyway, so it costs nothing.

    Args:
        model ([`AlgmForSemanticSegmentation`]): Watched from now on, in training mode only.
    """

    def __init__(self, model: nn.Module):
        self._kept = self._unmerged = 0
        self._layers = list(unwrapped(model).algm.layers)
        for layer in self._layers:
            layer.register_forward_hook(self._count)

    def _count(self, layer: nn.Module, inputs: tuple, output) -> None:
        if not layer.training:
            return
        self._kept += sum(output.lengths)
        if layer is self._layers[0]:
            self._unmerged += sum(inputs[0].lengths) * len(self._layers)

    def pop(self) -> float | None:
        """Percent of the tokens kept since the last call, mean over layers and images, special tokens counted; `None`
        without a forward pass."""
        percent = 100 * self._kept / self._unmerged if self._unmerged else None
        self._kept = self._unmerged = 0
        return percent


class TrainingClock:
    """Times the parts of training steps: waiting for data, and computing. Evaluation and saving are not part of it."""

    def __init__(self):
        self._window = {"images": 0, "data": 0.0, "step": 0.0}
        self._total = dict(self._window)

    def add(self, images: int = 0, data: float = 0.0, step: float = 0.0) -> None:
        """Adds images of this process, and seconds spent waiting for data and computing."""
        for name, value in (("images", images), ("data", data), ("step", step)):
            self._window[name] += value
            self._total[name] += value

    def pop(self, num_processes: int = 1) -> dict[str, float]:
        """Throughput since the last call: `images_per_second` of all processes and `data_wait_percent`."""
        speed = self._speed(self._window, num_processes)
        self._window = {"images": 0, "data": 0.0, "step": 0.0}
        speed.pop("step_images_per_second", None)
        return speed

    def total(self, num_processes: int = 1) -> dict[str, float]:
        """The same for the whole training, and `step_images_per_second`, the speed if data were always there."""
        return self._speed(self._total, num_processes)

    @staticmethod
    def _speed(parts: Mapping[str, float], num_processes: int) -> dict[str, float]:
        seconds, images = parts["data"] + parts["step"], parts["images"] * num_processes
        if not images or not parts["step"]:
            return {}
        return {
            "images_per_second": round(images / seconds, 3),
            "step_images_per_second": round(images / parts["step"], 3),
            "data_wait_percent": round(100 * parts["data"] / seconds, 2),
        }


class StopRequest:
    """Turns Ctrl-C (SIGINT) and SIGTERM, which clusters send before they take a machine, into a request that a
    training meets after the step it is in, so that what it saves is whole. A second signal interrupts at once.

    Use it as a context manager around the training, in the main thread.

    Attributes:
        signal (`int`, *optional*): The signal that came.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # a worker process that reads data: the main process decides
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def reached(self, accelerator) -> bool:
        """Whether to stop now: the same answer in every process, as soon as one was asked to."""
        if accelerator.num_processes > 1:
            if self.signal is not None:
                accelerator.set_trigger()
            if accelerator.check_trigger():
                self.signal = self.signal or signal.SIGINT
        return self.signal is not None


def checkpoints(output_dir: str | Path) -> tuple[list[Path], list[Path]]:
    """The folders `checkpoint-<step>` in a folder, by their step.

    Args:
        output_dir (`str` or `Path`): Where a training writes.

    Returns:
        `tuple[list[Path], list[Path]]`: those that are complete, and those that a killed training left unfinished.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    complete, unfinished = [], []
    for folder in sorted(folders, key=_step_of):
        try:
            json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
            (complete if _saved_processes(folder) else unfinished).append(folder)
        except (OSError, ValueError):
            unfinished.append(folder)
    return complete, unfinished


def _step_of(folder: Path) -> int:
    return int(folder.name[11:])


def _saved_processes(folder: Path) -> int:
    """How many processes have saved their random state in a checkpoint."""
    return len(list(folder.glob("rng_state*.pth"))) + len(list(folder.glob("random_states_*.pkl")))


def checkpoint_to_resume(requested: str | None, output_dir: str | Path, num_processes: int = 1) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        requested (`str`, *optional*): A folder; `"last"` or `"true"`; `"auto"`; `None` or `"false"` to begin anew.
        output_dir (`str` or `Path`): Where the training writes.
        num_processes (`int`, *optional*, defaults to 1): Processes of the training; a checkpoint of fewer or more
            cannot be gone on with, as they would see other images.

    Returns:
        `str` or `None`: The folder, or `None` to begin anew.

    Raises:
        `ValueError`: If there is no such complete checkpoint, it comes from another number of processes, or the
            training would mix with another one.
    """
    complete, unfinished = checkpoints(output_dir)
    choice = (requested or "false").lower()
    if choice == "false":
        if complete or unfinished:
            raise ValueError(
                f"--output_dir {output_dir} already holds {(complete + unfinished)[-1].name}, expected a folder "
                "without checkpoints; go on with that training with --resume_from_checkpoint last."
            )
        return None
    if choice in ("last", "true", "auto"):
        if not complete and choice != "auto":
            raise ValueError(
                f"--resume_from_checkpoint {requested}: {output_dir} holds no complete checkpoint, expected at least "
                "one (auto begins anew where there is none)."
            )
        return str(_last_of(complete, num_processes)) if complete else None
    folder = Path(requested)
    if folder not in checkpoints(folder.parent)[0]:
        raise ValueError(f"--resume_from_checkpoint {requested} is no complete checkpoint, expected such a folder.")
    later = [path.name for path in complete if _step_of(path) > _step_of(folder)]
    if later:
        raise ValueError(
            f"--resume_from_checkpoint {requested}: --output_dir {output_dir} holds the later {', '.join(later)}, "
            "expected another folder, or one from which they were removed."
        )
    _last_of([folder], num_processes)  # refuses those of other numbers of processes
    return requested


def _last_of(complete: Sequence[Path], num_processes: int) -> Path:
    """The last checkpoint that as many processes have saved; one in which some are missing was left unfinished."""
    fitting = [folder for folder in complete if _saved_processes(folder) == num_processes]
    if not fitting:
        raise ValueError(
            f"{complete[-1]} was saved by {_saved_processes(complete[-1])} processes and this training has "
            f"{num_processes}, expected as many; another number can only begin a new training (--init_from)."
        )
    return fitting[-1]


def is_finished(output_dir: str | Path, step: int) -> bool:
    """Whether the results of a training that ended after `step` steps are there: its state is written last."""
    try:
        state = json.loads((Path(output_dir) / STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step", -1) >= step


def remove_old_checkpoints(output_dir: str | Path, limit: int | None, kept: Sequence[str | Path] = ()) -> None:
    """Removes the oldest checkpoints beyond `limit` (none, if `None` or 0), never the last one or one of `kept`."""
    complete, _ = checkpoints(output_dir)
    if not limit:
        return
    spared = {folder.resolve() for folder in (*complete[-1:], *map(Path, kept))}
    removable = [folder for folder in complete if folder.resolve() not in spared]
    for folder in removable[: max(0, len(complete) - limit)]:
        shutil.rmtree(folder)


__all__ = [
    "EndlessStream",
    "NumberedRows",
    "NumberedStream",
    "SegmentationCollator",
    "SegmentationTrainingTransform",
    "StopRequest",
    "TimeLimitCallback",
    "TokenMeter",
    "TrainingAndEvaluationCollator",
    "TrainingClock",
    "checkpoint_to_resume",
    "checkpoints",
    "is_finished",
    "numbered",
    "remove_old_checkpoints",
    "set_epoch",
]
