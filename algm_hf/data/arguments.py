# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a data set and its training augmentation are told on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    image_column: str = field(default="image", metadata={"help": "Column of the pictures (Hub and local data sets)."})
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
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1.")
        if self.shuffle_buffer_size < 0:
            raise ValueError(f"shuffle_buffer_size is {self.shuffle_buffer_size}, expected at least 0.")
        for value in self.ignore_labels:
            if not 0 <= value <= 65535:
                raise ValueError(f"ignore_labels holds {value}, expected values from 0 to 65535.")
        if self.skip_bad_samples and not self.check_files and not self.streaming:
            raise ValueError(
                "skip_bad_samples is True with check_files False, expected check_files True: without the check nobody "
                "knows which samples to leave out before they are used."
            )


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
        if len(self.crop_size) not in (1, 2) or min(self.crop_size) < 1:
            raise ValueError(f"--crop_size is {self.crop_size}, expected one side or height and width, at least 1.")
        if len(self.ratio_range) != 2 or not 0 < self.ratio_range[0] <= self.ratio_range[1]:
            raise ValueError(f"--ratio_range is {self.ratio_range}, expected two rising numbers above 0.")
        if self.base_size is not None and self.base_size < 1:
            raise ValueError(f"--base_size is {self.base_size}, expected at least 1.")
        for name, low in (("max_category_ratio", "above 0, up to"), ("flip_prob", "from 0 to")):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 0 and low.startswith("above")):
                raise ValueError(f"--{name} is {value}, expected a number {low} 1.")

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a training crop in pixels."""
        return self.crop_size[0], self.crop_size[-1]


__all__ = ["AugmentationArguments", "DataArguments"]
