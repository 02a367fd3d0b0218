# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What `scripts/evaluate_model.py` does: one checkpoint on one data set under several merge settings, in any number of
processes, each setting's results written as soon as they are there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from ..configuration_algm import MERGE_THRESHOLD_RANGE
from ..data.arguments import DataArguments
from ..data.classes import IGNORE_INDEX
from ..data.loading import SegmentationData, load_segmentation_data
from ..inference.palettes import make_palette
from ..inference.predictor import PAPER_SCALES, SegmentationPredictor
from ..refusals import require, require_choice, require_integer, require_number
from ..runs.command_line import redacted
from ..runs.models import config_settings
from ..runs.provenance import describe_environment
from .error_images import WorstImages, save_prediction
from .metrics import SegmentationConfusion, compute_metric, load_metric
from .report import save_results
from .scoring import EvaluatedImage, evaluate_predictor


MODEL_FACTS = ("num_labels", "patch_size", "local_merge_layer", "global_merge_layer", "decoder_type")
MODEL_FACTS += ("inference_mode", "window_size", "window_stride")


@dataclass
class EvaluationArguments:
    """What is evaluated and how."""

    model: str = field(
        metadata={"help": "Folder of a saved model and processor, or its name on the Hugging Face Hub."}
    )
    output_dir: str = field(metadata={"help": "Folder for the results; it is made if it does not exist."})
    merging: list[str] = field(
        default_factory=list,
        metadata={"help": "off, on, or both: with these settings one after the other. Unset: as the checkpoint says."},
    )
    merge_thresholds: list[float] = field(
        default_factory=list,
        metadata={"help": "Thresholds tau, -1 to 1, one after the other. Unset: the checkpoint's own."},
    )
    scales: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={
            "help": "Sizes at which the image is seen, averaged; the paper's multi-scale test is "
            f"{' '.join(f'{scale:g}' for scale in PAPER_SCALES)} with --flip."
        },
    )
    flip: bool = field(default=False, metadata={"help": "Average with the mirror image."})
    inference_mode: str | None = field(
        default=None, metadata={"help": "whole or slide. Unset: as the checkpoint says."}
    )
    window_size: int | None = field(
        default=None,
        metadata={"help": "Side of a window in pixels, and unless --image_size is given the image's shorter side."},
    )
    window_stride: int | None = field(default=None, metadata={"help": "Distance between two windows in pixels."})
    image_size: int | None = field(
        default=None, metadata={"help": "Shorter side of the image at scale 1, in pixels. Unset: the processor's."}
    )
    batch_size: int = field(default=1, metadata={"help": "Images per forward pass; sizes may differ."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read images ahead."})
    dtype: str = field(default="float32", metadata={"help": "float32, float16 or bfloat16."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is an accelerator."})
    metric: str | None = field(
        default=None,
        metadata={
            "help": "A metric of the evaluate library, by name or path, that is computed beside the built-in scores "
            "(which are those of the packaged algm_hf/evaluation/mean_iou). Needs one process."
        },
    )
    save_predictions: bool = field(
        default=False, metadata={"help": "Write every label map as PNG in the colours of the classes."}
    )
    error_images: int = field(
        default=0, metadata={"help": "Draw image, truth, prediction and errors of so many of the worst images."}
    )
    plot: bool = field(default=True, metadata={"help": "Draw the curve of several settings."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the checkpoint's own copy of the model code instead of this package's."}
    )

    def __post_init__(self):
        for name, lowest in {"batch_size": 1, "num_workers": 0, "error_images": 0, "image_size": 1}.items():
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), lowest)
        require_choice("dtype", self.dtype, ("float32", "float16", "bfloat16"))
        for choice in self.merging:
            require_choice("merging", choice, ("on", "off"))
        for threshold in self.merge_thresholds:
            require_number("merge_thresholds", threshold, *MERGE_THRESHOLD_RANGE)
        unused = self.merge_thresholds and self.merging == ["off"]
        require(not unused, "merging", self.merging, "on among the values, with merge_thresholds")


def merge_settings(arguments: EvaluationArguments, config) -> dict[str, dict]:
    """The settings to evaluate, by name: fields of the config, off before on, thresholds as they were given."""
    merging = arguments.merging or (["on"] if arguments.merge_thresholds or config.use_token_merging else ["off"])
    settings: dict[str, dict] = {"off": {"use_token_merging": False}} if "off" in merging else {}
    if "on" in merging:
        for threshold in arguments.merge_thresholds or [config.merge_threshold]:
            settings[f"tau {threshold:g}"] = {"use_token_merging": True, "merge_threshold": threshold}
    return settings


def load_segmenter(arguments: EvaluationArguments, device: torch.device):
    """The model in evaluation mode on the device and its processor, with what the arguments override.

    Returns:
        `tuple`: [`AlgmForSemanticSegmentation`] and [`AlgmImageProcessor`].
    """
    source = {"revision": arguments.model_revision, "trust_remote_code": arguments.trust_remote_code}
    shorter_side = arguments.image_size or arguments.window_size
    size = {} if shorter_side is None else {"size": {"shortest_edge": shorter_side}}
    processor = AutoImageProcessor.from_pretrained(arguments.model, **source, **size)
    model = AutoModelForSemanticSegmentation.from_pretrained(arguments.model, dtype=arguments.dtype, **source)
    for name in ("inference_mode", "window_size", "window_stride"):
        if getattr(arguments, name) is not None:
            setattr(model.config, name, getattr(arguments, name))
    model.config.validate_call_settings()
    return model.to(device).eval(), processor


def check_same_classes(id2label: Mapping[int, str], model_labels: Mapping[int, str]) -> None:
    """Refuses a data set whose classes are not those of the model.

    Raises:
        `ValueError`: If there are more or fewer of them, or one that both know has another place.
    """
    count = len(model_labels)
    require(len(id2label) == count, "classes of the data set", len(id2label), f"as many as the model has, {count}")
    ours = {int(index): name for index, name in model_labels.items()}
    for index, name in id2label.items():
        places = [place for place, other in ours.items() if other == name]
        expected = f"{ours[index]!r} as in the model, whose class {places[:1]} is {name!r}"
        require(not places or index in places, f"class {index} of the data set", name, expected)


class EvaluationRun:
    """
    Evaluates the settings one after the other.

    Args:
        arguments ([`EvaluationArguments`])
        data_arguments ([`DataArguments`])
        accelerator (`accelerate.Accelerator`): Of all processes; the first one writes.

    Attributes:
        results (`dict`): What is written to `results.json`: the command, arguments, environment, model and data, and
            under `settings` one entry for each setting that is done.
        settings (`dict[str, dict]`): The settings to evaluate, by name.
        data ([`SegmentationData`]): The evaluation rows and class names.
    """

    def __init__(self, arguments: EvaluationArguments, data_arguments: DataArguments, accelerator):
        is_one = arguments.metric is None or accelerator.num_processes == 1
        require(
            is_one, "metric", arguments.metric, "None in several processes, over which the built-in scores are summed"
        )
        self.arguments, self.accelerator = arguments, accelerator
        self.metric = None if arguments.metric is None else load_metric(arguments.metric)
        self.model, processor = load_segmenter(arguments, accelerator.device)
        self.data: SegmentationData = load_segmentation_data(data_arguments, ("evaluation",))
        check_same_classes(self.data.id2label, self.model.config.id2label)
        self.predictor = SegmentationPredictor(self.model, processor, arguments.scales, arguments.flip)
        self.settings = merge_settings(arguments, self.model.config)
        self.palette = self.data.palette or make_palette(self.data.id2label)
        self.folder = Path(arguments.output_dir)
        self.results = {
            "command": shlex.join(["python", *redacted(sys.argv)]),
            "arguments": asdict(arguments),
            "data_arguments": asdict(data_arguments),
            "environment": {**describe_environment(self.model), "processes": accelerator.num_processes},
            "model": {name: getattr(self.model.config, name) for name in MODEL_FACTS}
            | {"parameters": self.model.num_parameters(), "image_size": dict(processor.size)},
            "classes": list(self.data.id2label.values()),
            "settings": [],
            "skipped": self.data.skipped,
        }

    def run(self) -> None:
        """Evaluates and writes every setting."""
        for name, fields in self.settings.items():
            with config_settings(self.model, **fields):
                self._warm_up()
                scores = self._evaluate(name)
            settings = [*self.results["settings"], {"name": name, **fields, **scores}]
            results = {**self.results, "settings": settings, "skipped": list(self.data.skipped)}
            if self.accelerator.is_main_process:
                save_results(results, self.folder, self.arguments.plot)
            self.results = results  # done is what is written: an interruption in between says one less

    def _warm_up(self) -> None:
        """One batch that no clock sees: what is only done once is no property of the setting."""
        rows = list(islice(self.data.evaluation, self.arguments.batch_size))
        if rows:
            self.predictor([row["image"] for row in rows])

    def _evaluate(self, name: str) -> dict:
        arguments = self.arguments
        worst = WorstImages(arguments.error_images)
        total = None
        if hasattr(self.data.evaluation, "__len__"):
            total = -(-len(self.data.evaluation) // self.accelerator.num_processes)
        with tqdm(total=total, desc=name, unit="image", disable=not self.accelerator.is_main_process) as bar:

            def progress(count: int, running: SegmentationConfusion) -> None:
                bar.set_postfix_str(f"mIoU {running.compute()['mean_iou']:.4f}", refresh=False)
                bar.update(count)

            scores = evaluate_predictor(
                self.predictor,
                self.data.evaluation,
                arguments.batch_size,
                IGNORE_INDEX,
                progress,
                on_image=self._on_image(name, worst),
                accelerator=self.accelerator,
                num_workers=arguments.num_workers,
            )
        worst.draw(self.folder / "errors" / folder_name(name), self.data.id2label, self.palette, self.accelerator)
        if self.metric is not None:
            scores["metric"] = compute_metric(self.metric, self.model.config.num_labels, IGNORE_INDEX)
        return scores

    def _on_image(self, name: str, worst: WorstImages) -> Callable:
        """What is done with every image of a setting beside counting it."""
        predictions = self.folder / "predictions" / folder_name(name)

        def on_image(image: EvaluatedImage) -> None:
            worst.add(image)
            if self.arguments.save_predictions:
                save_prediction(image, predictions, self.data.id2label, self.palette)
            if self.metric is not None:
                # Arrays: the features of evaluate's metrics take no images.
                self.metric.add(prediction=image.result.label_map, reference=np.asarray(image.row["annotation"]))

        return on_image


def folder_name(setting: str) -> str:
    """The folder of a setting: `tau_0.88` for `tau 0.88`."""
    return setting.replace(" ", "_")


__all__ = [
    "EvaluationArguments",
    "EvaluationRun",
    "check_same_classes",
    "folder_name",
    "load_segmenter",
    "merge_settings",
]
