# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a data set and its training augmentation are told on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..refusals import require, require_integer, require_number
from .classes import IGNORE_INDEX


@dataclass
class DataArguments:
    """The data set."""

    dataset: str = field(
        metadata={
            "help": "ade20k, cityscapes, pascal_context_59, pascal_context_60, coco_stuff or camvid (official "
            "folders, see --data_dir), folder (images/SPLIT, annotations/SPLIT, classes.txt), or a data set of the "
            "Hub or a local folder for the datasets library."
        }
    )
    data_dir: str | None = field(default=None, metadata={"help": "Root of the official layout or generic folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub data set."})
    image_column: str = field(default="image", metadata={"help": "Column of the images (Hub and local data sets)."})
    label_column: str = field(
        default="annotation", metadata={"help": "Column of the label maps (Hub and local data sets)."}
    )
    id2label: str | None = field(
        default=None,
        metadata={
            "help": "JSON file of class names, a list or {number: name}, for data sets whose features do not name "
            "them and for folders without classes.txt."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    ignore_labels: list[int] = field(
        default_factory=list, metadata={"help": "Values in the label files that mean 'unlabelled', besides 255."}
    )
    reduce_labels: bool = field(
        default=False,
        metadata={"help": "Files store 0 for unlabelled and 1 to K for the K classes (ade20k knows this by itself)."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first so many training samples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use the first so many evaluation samples."})
    streaming: bool = field(
        default=False, metadata={"help": "Read sample by sample, without a check of the whole set before."}
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={
            "help": "With streaming, training samples come in random order out of a buffer of so many, filled in the "
            "order of the stream; 0 switches that off."
        },
    )
    skip_bad_samples: bool = field(
        default=False, metadata={"help": "Leave samples that cannot be used out and list them, instead of stopping."}
    )
    check_files: bool = field(
        default=True,
        metadata={"help": "Read every file once before anything else, to find those that cannot be used."},
    )

    def __post_init__(self):
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), 1)
        require_integer("shuffle_buffer_size", self.shuffle_buffer_size, 0)
        in_range = all(0 <= value <= 65535 for value in self.ignore_labels)
        require(in_range, "ignore_labels", self.ignore_labels, "values from 0 to 65535")
        knows = self.check_files or self.streaming or not self.skip_bad_samples
        require(
            knows, "skip_bad_samples", True, "check_files=True, by which bad samples are found before they are used"
        )


def check_augmentation(crop_size, base_size, ratio_range, max_category_ratio, flip_prob, ignore_index) -> None:
    """Refuses what [`SegmentationAugmentation`] cannot do."""
    is_pair = len(tuple(crop_size)) == 2 and min(crop_size) >= 1
    require(is_pair, "crop_size", crop_size, "height and width of at least 1 pixel")
    require(base_size is None or base_size >= 1, "base_size", base_size, "None or at least 1 pixel")
    rises = len(tuple(ratio_range)) == 2 and 0 < ratio_range[0] <= ratio_range[1]
    require(rises, "ratio_range", ratio_range, "two rising numbers above 0")
    require(0 < max_category_ratio <= 1, "max_category_ratio", max_category_ratio, "a number above 0 and up to 1")
    require_number("flip_prob", flip_prob, 0, 1)
    require_integer("ignore_index", ignore_index, 0, 255)  # label maps are 8-bit


@dataclass
class AugmentationArguments:
    """How training images are changed at random (Segmenter, ICCV 2021; ALGM, CVPR 2024, section 4.1)."""

    crop_size: list[int] = field(
        default_factory=lambda: [512], metadata={"help": "Side, or height and width, of a training crop in pixels."}
    )
    base_size: int | None = field(
        default=None,
        metadata={"help": "Shorter side in pixels that the random ratio multiplies; without it the image's own."},
    )
    ratio_range: list[float] = field(
        default_factory=lambda: [0.5, 2.0], metadata={"help": "Smallest and largest random ratio."}
    )
    max_category_ratio: float = field(
        default=0.75, metadata={"help": "Largest share of a crop that one class may fill, 0 to 1."}
    )
    flip_prob: float = field(default=0.5, metadata={"help": "Share of images mirrored left to right."})
    photometric_distortion: bool = field(
        default=True, metadata={"help": "Change brightness, contrast, saturation and hue at random."}
    )

    def __post_init__(self):
        require(len(self.crop_size) in (1, 2), "crop_size", self.crop_size, "one side, or height and width")
        check_augmentation(
            self.crop, self.base_size, self.ratio_range, self.max_category_ratio, self.flip_prob, IGNORE_INDEX
        )

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a training crop in pixels."""
        return self.crop_size[0], self.crop_size[-1]


__all__ = ["AugmentationArguments", "DataArguments", "check_augmentation"]
