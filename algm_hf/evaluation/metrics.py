# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of semantic segmentation from one summed confusion matrix.

The names and definitions are those of `evaluate`'s `mean_iou` metric, which has to be fetched from the Hub before its
first use. Here counts are summed image by image, so memory does not grow with the number of images and the order and
grouping of the images change nothing. `mean_iou/mean_iou.py` offers the same as a module of `evaluate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..refusals import require, require_integer


# What `evaluate.load` takes for the metric that this package ships.
MEAN_IOU_PATH = str(Path(__file__).resolve().parent / "mean_iou")


def as_label_tensor(name: str, values: Any) -> Tensor:
    """Label maps of any kind as an integer tensor, where they are.

    Args:
        name (`str`): What a refusal calls them.
        values (`Tensor`, `np.ndarray`, `Image.Image` or nested lists): Integers of any type and shape.

    Returns:
        `Tensor` of the same shape, int64; on the device of a tensor, else on the CPU.

    Raises:
        `ValueError`: If the values are no integers or no regular array.
    """
    if isinstance(values, Tensor):
        kind = "f" if values.dtype.is_floating_point or values.dtype.is_complex else "i"
    else:
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ValueError(
                f"{name}={type(values).__name__}: expected a regular array of integers ({error})"
            ) from error
        kind = values.dtype.kind
        kind = "i" if values.size == 0 and kind == "f" else kind  # an empty list has no type of its own
    require(kind in "iub", name, values.dtype, "integers")
    # int64 on the numpy side: torch does not take every unsigned type.
    return values.long() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.int64))


def image_confusion(label_map: Any, annotation: Any, num_labels: int, ignore_index: int = 255) -> Tensor:
    """Counts the pixels of one image, or of a batch of images of one size, per (true class, predicted class).

    Args:
        label_map (`Tensor`, `np.ndarray`, `Image.Image` or nested lists of integers): Predicted classes, 0 to
            `num_labels - 1`.
        annotation (the same, of the same shape): True classes, 0 to `num_labels - 1`, or `ignore_index`.
        num_labels (`int`): Number of classes, at least 1.
        ignore_index (`int`, *optional*, defaults to 255): Pixels with this *true* label are left out.

    Returns:
        `Tensor` of shape `(num_labels, num_labels)`, int64, on the device of `label_map`: Rows are true classes,
        columns predicted classes.

    Raises:
        `ValueError`: If the shapes differ or a value is outside those ranges.
    """
    prediction = as_label_tensor("prediction", label_map)
    reference = as_label_tensor("reference", annotation).to(prediction.device)
    shape = tuple(prediction.shape)
    require(shape == tuple(reference.shape), "prediction", shape, f"the reference's shape {tuple(reference.shape)}")
    counted = reference != ignore_index
    true_class, predicted_class = reference[counted], prediction[counted]
    for name, values in (("prediction", predicted_class), ("reference", true_class)):
        check_classes(name, values, num_labels, ignore_index if name == "reference" else None)
    pairs = torch.bincount(true_class * num_labels + predicted_class, minlength=num_labels**2)
    return pairs.view(num_labels, num_labels)


def check_classes(name: str, values: Tensor, num_labels: int, ignore_index: int | None = None) -> None:
    """Refuses a tensor of integers that holds anything but classes.

    Args:
        name (`str`): What the message calls it.
        values (`Tensor` of any shape, integers)
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*): What else the caller lets through, for the message.

    Raises:
        `ValueError`: Naming the lowest (if negative) or the highest value.
    """
    if not values.numel():
        return
    lowest, highest = (int(value) for value in torch.aminmax(values))
    also = "" if ignore_index is None else f" or the ignore_index {ignore_index}"
    expected = f"values from 0 to {num_labels - 1} (num_labels={num_labels}){also}"
    require(0 <= lowest and highest < num_labels, name, lowest if lowest < 0 else highest, expected)


class SegmentationConfusion:
    """Counts pixels per (true class, predicted class) over any number of images.

    Args:
        num_labels (`int`): Number of classes, at least 1.
        ignore_index (`int`, *optional*, defaults to 255): Pixels with this *true* label are left out.
        device (`str` or `torch.device`, *optional*, defaults to the CPU): Where the counts are.

    Attributes:
        matrix (`Tensor` of shape `(num_labels, num_labels)`, int64): Rows are true classes, columns predicted
            classes. Matrices of several processes can simply be added.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, device: str | torch.device = "cpu"):
        require_integer("num_labels", num_labels, 1)
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=device)

    def update(self, prediction: Any, reference: Any) -> Tensor:
        """Adds one image, or a batch of images of one size, and returns its own counts; see [`image_confusion`].

        Raises:
            `ValueError`: If the shapes differ or a value is neither a class nor, as a true one, `ignore_index`.
        """
        counts = image_confusion(prediction, reference, self.num_labels, self.ignore_index)
        self.matrix += counts.to(self.matrix.device)
        return counts

    def compute(self) -> dict:
        """Scores of everything added so far; see [`confusion_scores`]."""
        return confusion_scores(self.matrix)


def confusion_scores(matrix: Tensor) -> dict:
    """Scores of a confusion matrix.

    Args:
        matrix (`Tensor` of shape `(num_labels, num_labels)`, int64): Pixels; rows are true classes, columns predicted
            classes.

    Returns:
        `dict`: `mean_iou`, `mean_accuracy` and `overall_accuracy` (`float`, 0 to 1), `per_category_iou` and
            `per_category_accuracy` (`np.ndarray` of shape `(num_labels,)`, float64). A class that is neither true nor
            predicted anywhere has IoU NaN, a class that is true nowhere has accuracy NaN; means leave NaN out and are
            NaN if nothing is left.
    """
    counts = matrix.cpu().numpy()
    correct = np.diag(counts).astype(np.float64)
    true_area, predicted_area = counts.sum(axis=1), counts.sum(axis=0)
    union = true_area + predicted_area - correct
    nowhere = np.full(len(counts), np.nan)
    iou = np.divide(correct, union, out=nowhere.copy(), where=union > 0)
    accuracy = np.divide(correct, true_area, out=nowhere.copy(), where=true_area > 0)
    total = true_area.sum()
    return {
        "mean_iou": _mean_without_nan(iou),
        "mean_accuracy": _mean_without_nan(accuracy),
        "overall_accuracy": float(correct.sum() / total) if total else float("nan"),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def _mean_without_nan(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def load_metric(name_or_path: str | None = None):
    """A metric of `evaluate` to which label maps can be added.

    Args:
        name_or_path (`str`, *optional*): What `evaluate.load` takes: a name on the Hub such as `mean_iou`, or a folder
            or file. Unset: the metric that this package ships, which needs no network.

    Returns:
        `evaluate.EvaluationModule`: With `add(prediction=..., reference=...)`.

    Raises:
        `ValueError`: In one line, if it cannot be loaded.
    """
    import evaluate  # seconds to import, and needed here only

    hidden = not hasattr(evaluate, "load")
    require(not hidden, "evaluate", evaluate.__file__, "the library of this name, which another folder hides")
    try:
        return evaluate.load(MEAN_IOU_PATH if name_or_path is None else name_or_path)
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"metric={name_or_path!r}: expected a name that the Hub or its cache knows, or a path such as "
            f"{MEAN_IOU_PATH} ({reason})"
        ) from error


def compute_metric(metric, num_labels: int, ignore_index: int = 255) -> dict:
    """`metric.compute` with those of `num_labels`, `ignore_index` and `reduce_labels=False` that it takes.

    Args:
        metric (`evaluate.EvaluationModule`): To which predictions and final labels were added; it is empty after.
        num_labels, ignore_index (`int`): See [`SegmentationConfusion`].

    Returns:
        `dict`: What the metric returns.
    """
    offered: Mapping[str, Any] = {"num_labels": num_labels, "ignore_index": ignore_index, "reduce_labels": False}
    parameters = inspect.signature(metric._compute).parameters.values()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    return metric.compute(**{name: value for name, value in offered.items() if takes_all or name in names})


def constant_mean_iou(matrix: Tensor) -> float:
    """The mIoU of a predictor that says the most frequent class everywhere: what any training has to beat.

    Args:
        matrix (`Tensor` of shape `(num_labels, num_labels)`): Pixels; rows are true classes.

    Returns:
        `float`: 0 to 1; NaN without a labelled pixel.
    """
    areas = matrix.sum(dim=1).double()
    present = int((areas > 0).sum())
    # The class itself has its share of the area as IoU, the other classes that occur 0.
    return float(areas.max() / areas.sum() / present) if present else float("nan")


def scalar_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are single numbers: what a log takes."""
    return {name: value for name, value in scores.items() if not isinstance(value, np.ndarray)}


def class_table(scores: Mapping[str, Any], id2label: Mapping[int, str]) -> dict[str, dict[str, float | None]]:
    """IoU and accuracy of each class by name, `None` where there is none; ready for JSON."""
    pairs = zip(scores["per_category_iou"].tolist(), scores["per_category_accuracy"].tolist(), strict=True)
    values = [{"iou": iou, "accuracy": accuracy} for iou, accuracy in pairs]
    return {
        id2label[index]: {key: None if value != value else value for key, value in entry.items()}
        for index, entry in enumerate(values)
    }


__all__ = [
    "MEAN_IOU_PATH",
    "SegmentationConfusion",
    "as_label_tensor",
    "check_classes",
    "class_table",
    "compute_metric",
    "confusion_scores",
    "constant_mean_iou",
    "image_confusion",
    "load_metric",
    "scalar_metrics",
]
