# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Mean IoU as a module of `evaluate`: the inputs and outputs of its own `mean_iou`, without storing label maps.

`evaluate.load(<this folder>)` needs no network. What is kept is how often each pair of a reference value and a
predicted value occurs, on the device of the label maps; the memory is that of the pairs, not of the images.
"""

from collections.abc import Mapping

import datasets
import evaluate
import numpy as np
import torch

from algm_hf.evaluation.metrics import as_label_tensor, check_classes, confusion_scores
from algm_hf.refusals import require, require_integer


DESCRIPTION = """
IoU of a class: the pixels that are of this class and predicted as it, divided by those that are one or the other. The
mean over the classes of all images together is the usual score of semantic segmentation.
"""

INPUTS = """
Args:
    predictions (`list` or array of label maps): Predicted classes, each map `(height, width)` of integers.
    references (`list` or array of label maps): True classes, of the same shapes.
    num_labels (`int`): Number of classes.
    ignore_index (`int`): Reference value of pixels that are left out, compared after `label_map` and `reduce_labels`.
    nan_to_num (`float`, *optional*): Replaces NaN in the results, after the means were taken without them.
    label_map (`dict`, *optional*): Old to new reference values. All are replaced at once: `{1: 2, 2: 1}` swaps two
        classes. (`evaluate`'s own module replaces one after the other, which makes both of them 1 and changes the
        caller's arrays.)
    reduce_labels (`bool`, *optional*, defaults to `False`): For raw labels in which 0 is no class: 0 becomes 255 and
        every other reference value is lowered by one. Labels that an image processor with `do_reduce_labels=True` or
        a loader has made are final: leave it `False`.

Returns:
    `dict`: `mean_iou`, `mean_accuracy`, `overall_accuracy` (`float`), `per_category_iou`, `per_category_accuracy`
        (arrays `(num_labels,)`); NaN for a class that occurs nowhere.

Raises:
    `ValueError`: If shapes differ, a reference that counts or a prediction for it is outside the classes, nothing was
        added, or `reduce_labels=True` meets the value 255: raw labels have no need of it, reduced ones hold it where
        they are ignored. (A second reduction of labels without any ignored pixel cannot be told from a first.)

Example:
    >>> metric = evaluate.load("algm_hf/evaluation/mean_iou")
    >>> metric.add(prediction=[[0, 1], [1, 1]], reference=[[0, 1], [0, 255]])
    >>> metric.compute(num_labels=2, ignore_index=255)["per_category_iou"]
    array([0.5, 0.5])
"""

# Values are counted in a table up to this size, beyond it they are sorted.
MAX_TABLE = 2**22
BASE = 2**16  # values are below it: the features are uint16


class MeanIoU(evaluate.Metric):
    """See `INPUTS`; `add`, `add_batch` and `compute` as in any metric of `evaluate`."""

    def __init__(self, *args, num_process: int = 1, **kwargs):
        expected = "1, as no files are kept; algm_hf.evaluation.scoring.evaluate_predictor sums over processes"
        require(num_process == 1, "num_process", num_process, expected)
        super().__init__(*args, num_process=num_process, **kwargs)
        self._forget()

    def _info(self):
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": maps, "references": maps}),
            reference_urls=["https://arxiv.org/abs/2406.09936"],
        )

    def __len__(self) -> int:
        """Label maps added since the last `compute`."""
        return self._num_maps

    # No `super()` without arguments in the next three: evaluate copies their code to another function.
    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one predicted label map `(height, width)` and its reference."""
        _refuse_unknown(kwargs)
        self._count(prediction, reference)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds as many predicted label maps as references, of any sizes."""
        _refuse_unknown(kwargs)
        found, wanted = (None if maps is None else len(maps) for maps in (predictions, references))
        require(None is not found == wanted, "predictions", found, f"as many label maps as references, {wanted}")
        for prediction, reference in zip(predictions, references, strict=True):
            self._count(prediction, reference)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """The scores of all that was added, together with what is given here; the metric is empty afterwards."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        require(self._num_maps, "predictions", None, "label maps here or before, in `add` or `add_batch`")
        scores = self._compute(**kwargs)
        self._forget()
        return scores

    def _compute(
        self,
        num_labels: int,
        ignore_index: int,
        nan_to_num: float | None = None,
        label_map: Mapping[int, int] | None = None,
        reduce_labels: bool = False,
    ):
        """Scores of the pairs counted so far."""
        require_integer("num_labels", num_labels, 1)
        reference, prediction = self._pairs // BASE, self._pairs % BASE
        reference = _replaced(reference, label_map or {})
        if reduce_labels:
            reference = _reduced(reference)
        counted = reference != ignore_index
        reference, prediction, counts = reference[counted], prediction[counted], self._counts[counted]
        check_classes("references", reference, num_labels, ignore_index)
        check_classes("predictions", prediction, num_labels)
        matrix = counts.new_zeros(num_labels * num_labels)
        matrix.index_add_(0, reference * num_labels + prediction, counts)
        scores = confusion_scores(matrix.view(num_labels, num_labels))
        if nan_to_num is None:
            return scores
        return {name: np.nan_to_num(value, nan=nan_to_num) for name, value in scores.items()}

    def _count(self, prediction, reference) -> None:
        """Adds the pairs of one map."""
        prediction = as_label_tensor("predictions", prediction)
        reference = as_label_tensor("references", reference).to(prediction.device)
        shape, wanted = tuple(prediction.shape), tuple(reference.shape)
        require(shape == wanted and len(shape) == 2, "predictions", shape, f"(height, width) of references, {wanted}")
        check_classes("predictions", prediction, BASE)
        check_classes("references", reference, BASE)
        pairs, counts = _distinct_pairs(reference.flatten(), prediction.flatten())
        known = self._pairs.to(pairs.device)
        self._pairs, place = torch.cat((known, pairs)).unique(return_inverse=True)
        counts = torch.cat((self._counts.to(pairs.device), counts))
        self._counts = counts.new_zeros(len(self._pairs)).index_add_(0, place, counts)
        self._num_maps += 1

    def _forget(self) -> None:
        # Distinct `BASE * reference + prediction` in ascending order, and how often each was seen.
        self._pairs = torch.zeros(0, dtype=torch.int64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._num_maps = 0


def _refuse_unknown(inputs: Mapping) -> None:
    require(not inputs, "inputs", sorted(inputs), "predictions and references only")


def _distinct_pairs(reference: torch.Tensor, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct `BASE * reference + prediction` of two tensors `(num_pixels,)` and the number of each."""
    if not reference.numel():
        return reference, reference
    width = int(prediction.max()) + 1
    if (int(reference.max()) + 1) * width > MAX_TABLE:
        return (BASE * reference + prediction).unique(return_counts=True)
    counts = torch.bincount(reference * width + prediction)
    pairs = counts.nonzero().flatten()
    return BASE * (pairs // width) + pairs % width, counts[pairs]


def _replaced(reference: torch.Tensor, label_map: Mapping[int, int]) -> torch.Tensor:
    """Reference values with all of `label_map` replaced at once."""
    replaced = reference.clone()
    for old, new in label_map.items():
        replaced[reference == int(old)] = int(new)
    return replaced


def _reduced(reference: torch.Tensor) -> torch.Tensor:
    """Reference values with 0 made 255 and the others lowered by one."""
    reduced_before = bool((reference == 255).any())
    require(not reduced_before, "reduce_labels", True, "False for references that hold 255: they were reduced already")
    return torch.where(reference == 0, 255, reference - 1)
