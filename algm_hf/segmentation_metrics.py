# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of semantic segmentation from one summed confusion matrix.

The names and definitions are those of `evaluate`'s `mean_iou` metric, which has to be fetched from the Hub before its
first use. Here counts are summed image by image, so memory does not grow with the number of images and the order and
grouping of the images change nothing.
"""

from __future__ import annotations

import numpy as np


class SegmentationConfusion:
    """Counts pixels per (true class, predicted class) over any number of images.

    Args:
        num_labels (`int`): Number of classes, at least 1.
        ignore_index (`int`, *optional*, defaults to 255): Pixels with this *true* label are left out.

    Attributes:
        matrix (`np.ndarray` of shape `(num_labels, num_labels)`, int64): Rows are true classes, columns predicted
            classes. Matrices of several processes can simply be added.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}, expected at least 1.")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_labels, num_labels), dtype=np.int64)

    def update(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        """Adds one image, or a batch of images of one size.

        Args:
            prediction (`np.ndarray` of integers): Predicted classes, 0 to `num_labels - 1`.
            reference (`np.ndarray` of integers, the same shape): True classes, 0 to `num_labels - 1`, or
                `ignore_index`.

        Raises:
            `ValueError`: If the shapes differ or a value is outside those ranges.
        """
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        if prediction.shape != reference.shape:
            raise ValueError(f"prediction has shape {prediction.shape}, expected the reference's {reference.shape}.")
        counted = reference != self.ignore_index
        true_class = reference[counted].astype(np.int64)
        predicted_class = prediction[counted].astype(np.int64)
        for name, values in (("prediction", predicted_class), ("reference", true_class)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_labels:
                wrong = values.min() if values.min() < 0 else values.max()
                also = f" or the ignore_index {self.ignore_index}" if name == "reference" else ""
                raise ValueError(
                    f"{name} holds the value {wrong}, expected 0 to {self.num_labels - 1} (num_labels is "
                    f"{self.num_labels}){also}."
                )
        pairs = np.bincount(true_class * self.num_labels + predicted_class, minlength=self.num_labels**2)
        self.matrix += pairs.reshape(self.num_labels, self.num_labels)

    def compute(self) -> dict:
        """Scores of everything added so far.

        Returns:
            `dict`: `mean_iou`, `mean_accuracy` and `overall_accuracy` (`float`, 0 to 1), `per_category_iou` and
                `per_category_accuracy`
            (`np.ndarray` of shape `(num_labels,)`). A class that is neither true nor predicted anywhere has IoU NaN,
            a class that is true nowhere has accuracy NaN; means leave NaN out and are NaN if nothing is left.
        """
        correct = np.diag(self.matrix).astype(np.float64)
        true_area, predicted_area = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        union = true_area + predicted_area - correct
        nowhere = np.full(self.num_labels, np.nan)
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


__all__ = ["SegmentationConfusion"]
