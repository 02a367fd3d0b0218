# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training augmentation of ALGM (CVPR 2024), which is that of Segmenter (ICCV 2021), on torchvision's transforms v2.

Random resize, random crop in which no class fills too much, horizontal flip, photometric distortion, normalisation,
padding. Image and label map travel together as `tv_tensors`, so every geometric step is the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from ..image_processing_algm import AlgmImageProcessor
from ..refusals import require, require_integer
from .arguments import AugmentationArguments, check_augmentation
from .classes import IGNORE_INDEX


CROP_ATTEMPTS = 10  # crops that are drawn at most until no class fills too much; the last one is taken as it is
MAX_ASPECT_RATIO = 4  # the longer side is at most this many times the side asked for, as in 2048 x 512 for ADE20K


class RandomRatioResize(v2.Transform):
    """Resizes so that the shorter side is `base_size` times a random ratio; the aspect ratio is kept.

    The longer side is limited to `4 * base_size * ratio`, so that a panorama does not fill the memory. Label maps take
    the value of the nearest pixel centre.

    Args:
        base_size (`int`, *optional*): In pixels; the shorter side of the image itself when `None`.
        ratio_range (`tuple[float, float]`): Smallest and largest ratio, drawn uniformly.
    """

    def __init__(self, base_size: int | None, ratio_range: tuple[float, float]):
        super().__init__()
        self.base_size = base_size
        self.ratio_range = ratio_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the ratio; `flat_inputs` holds the image `(channels, height, width)` and its label map."""
        height, width = functional.get_size(flat_inputs[0])
        ratio = float(torch.empty(()).uniform_(*self.ratio_range))
        shorter = max(1, round((self.base_size or min(height, width)) * ratio))
        shorter = min(shorter, max(1, int(MAX_ASPECT_RATIO * shorter * min(height, width) / max(height, width))))
        scale = shorter / min(height, width)
        return {"size": [shorter if side == min(height, width) else round(side * scale) for side in (height, width)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes the image `(channels, height, width)` bilinearly and the label map `(height, width)` to `size`."""
        if isinstance(inpt, tv_tensors.Mask):
            # "nearest" of torchvision's masks reads half a pixel beside what the image's filter reads.
            plain = inpt.as_subclass(torch.Tensor)[None]
            resized = functional.resize(plain, params["size"], interpolation=InterpolationMode.NEAREST_EXACT)
            return tv_tensors.wrap(resized[0], like=inpt)
        return functional.resize(inpt, params["size"], antialias=True)


class RandomCategoryCrop(v2.Transform):
    """Cuts a random window in which no class fills more than `max_category_ratio` of the labelled pixels.

    At most 10 windows are drawn, the last one is taken as it is. A window without any labelled pixel is drawn again
    too. A side that is shorter than the window is kept whole.

    Args:
        size (`tuple[int, int]`): Height and width in pixels.
        max_category_ratio (`float`): More than 0; 1 accepts every window.
        ignore_index (`int`): Label of pixels that do not count.
    """

    def __init__(self, size: tuple[int, int], max_category_ratio: float, ignore_index: int = IGNORE_INDEX):
        super().__init__()
        self.size = size
        self.max_category_ratio = max_category_ratio
        self.ignore_index = ignore_index

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the window with torchvision's `RandomCrop`; `flat_inputs` holds an image and a mask of one size."""
        size = functional.get_size(flat_inputs[0])
        mask = next(each for each in flat_inputs if isinstance(each, tv_tensors.Mask)).as_subclass(torch.Tensor)
        window = tuple(min(side, wanted) for side, wanted in zip(size, self.size, strict=True))
        crop = v2.RandomCrop(window)
        attempts = 1 if self.max_category_ratio >= 1 or list(window) == list(size) else CROP_ATTEMPTS
        for attempt in range(attempts):
            params = crop.make_params(flat_inputs)
            place = {name: params[name] for name in ("top", "left", "height", "width")}
            if attempt == attempts - 1 or self._is_varied(functional.crop(mask, **place)):
                return place
        raise AssertionError("unreachable: the last attempt returns")

    def _is_varied(self, labels: torch.Tensor) -> bool:
        counts = torch.bincount(labels.flatten(), minlength=self.ignore_index + 1)
        counts[self.ignore_index] = 0
        total = int(counts.sum())
        return total > 0 and int(counts.max()) <= self.max_category_ratio * total

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cuts the window out of an image `(channels, height, width)` or label map `(height, width)`."""
        return functional.crop(inpt, **params)


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Torchvision's random brightness, contrast, saturation and hue, each in half of the images, in the ranges of
    Segmenter's pipeline: contrast and saturation times 0.5 to 1.5, hue +-36 degrees (+-18 on OpenCV's scale of 180).
    Brightness is multiplied here, by 0.875 to 1.125, where that pipeline adds up to 32 of 255. Channels are not
    swapped: no red turns into blue."""

    def __init__(self):
        super().__init__(brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the factors for an image `(channels, height, width)`."""
        return super().make_params(flat_inputs) | {"channel_permutation": None}


class SegmentationAugmentation:
    """Prepares an image and its label map for training, with random numbers of torch's global generator.

    Args:
        crop_size (`tuple[int, int]`): Height and width in pixels of what comes out.
        base_size (`int`, *optional*): Side in pixels to which ratio 1 brings the shorter side of an image. `None`
            takes the image's own size.
        ratio_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`): Range of the random ratio.
        max_category_ratio (`float`, *optional*, defaults to 0.75): Share of the labelled pixels of a crop that one
            class may fill, above 0 to 1 (1 accepts every crop). At most 10 crops are drawn, the last one is taken.
        flip_prob (`float`, *optional*, defaults to 0.5): Share of the images that are mirrored left to right.
        photometric_distortion (`bool`, *optional*, defaults to `True`): Whether brightness, contrast, saturation and
            hue change.
        image_mean, image_std (`Sequence[float]`, *optional*, default to 0.5): Subtracted from and divided into each
            channel of intensities 0 to 1.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that do not count, 0 to 255.

    Raises:
        `ValueError`: If an argument is out of its range.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        base_size: int | None = None,
        ratio_range: tuple[float, float] = (0.5, 2.0),
        max_category_ratio: float = 0.75,
        flip_prob: float = 0.5,
        photometric_distortion: bool = True,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        ignore_index: int = IGNORE_INDEX,
    ):
        check_augmentation(crop_size, base_size, ratio_range, max_category_ratio, flip_prob, ignore_index)
        self.crop_size = tuple(crop_size)
        self.ignore_index = ignore_index
        self.geometry = v2.Compose(
            [
                RandomRatioResize(base_size, tuple(ratio_range)),
                RandomCategoryCrop(self.crop_size, max_category_ratio, ignore_index),
                v2.RandomHorizontalFlip(flip_prob),
            ]
        )
        colors = [PhotometricDistortion()] if photometric_distortion else []
        scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(image_mean), list(image_std))]
        self.colors = v2.Compose([*colors, *scale])
        self.fill = {tv_tensors.Image: 0.0, tv_tensors.Mask: ignore_index}

    def __call__(self, image: Image.Image, annotation: Image.Image) -> dict[str, torch.Tensor]:
        """Augments one pair.

        Args:
            image (`Image.Image`): Any mode, converted to RGB.
            annotation (`Image.Image`): One channel of class numbers, of the image's size.

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values`, float32 of shape `(3, *crop_size)`, normalised; `labels`, int64
                of shape `crop_size`. What lies beyond the image, on the right and at the bottom, is 0 and
                `ignore_index`.

        Raises:
            `ValueError`: If the sizes differ or the label map has several channels.
        """
        require(len(annotation.getbands()) == 1, "annotation", annotation.mode, "an image of one channel")
        require(image.size == annotation.size, "annotation", annotation.size, f"the size of the image, {image.size}")
        pixels = tv_tensors.Image(image.convert("RGB"))
        labels = tv_tensors.Mask(torch.from_numpy(np.array(annotation)))
        pixels, labels = self.geometry(pixels, labels)
        pixels, labels = self._pad(self.colors(pixels), labels)
        return {"pixel_values": pixels.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor).long()}

    def _pad(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = [wanted - side for wanted, side in zip(self.crop_size, labels.shape, strict=True)]
        if not any(missing):
            return pixels, labels
        return v2.Pad([0, 0, missing[1], missing[0]], fill=self.fill)(pixels, labels)


class _SharedEpoch:
    """A number that worker processes which outlive an epoch see changing."""

    def __init__(self):
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        self._value.fill_(int(epoch))

    def get(self) -> int:
        return int(self._value)


def _augment_seeded(augmentation, row: Mapping[str, Any], entropy: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Augments a row with a generator state that `entropy` alone decides; the global state is put back."""
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(state)  # torch.manual_seed would reseed every accelerator too
        return augmentation(row["image"], row["annotation"])


class _SeededAugmentation:
    """What map-style data sets and streams have in common: rows, how they are augmented, and the epoch."""

    def __init__(self, rows, augmentation, seed: int):
        require_integer("seed", seed, 0)
        self.rows = rows
        self.augmentation = augmentation
        self.seed = seed
        self._epoch = _SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0; workers that are already running follow."""
        self._epoch.set(epoch)


class AugmentedDataset(_SeededAugmentation, Dataset):
    """Rows of a segmentation data set, augmented when they are read; its items go to the collator.

    Row `i` of epoch `e` depends on `seed`, `e` and `i` alone: not on the number of workers or processes, on what was
    read before, or on the global random state, which stays as it was. A resumed training sees what it would have seen.

    Args:
        rows (`Sequence`): Rows `{"image", "annotation"}` of PIL images.
        augmentation ([`SegmentationAugmentation`]): Or anything called in the same way.
        seed (`int`): At least 0.

    Raises:
        `ValueError`: If `seed` is negative.
    """

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """`pixel_values` of shape `(3, height, width)` and `labels` of shape `(height, width)` of one row."""
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} rows")
        entropy = (self.seed, self._epoch.get(), index)
        return _augment_seeded(self.augmentation, self.rows[int(index)], entropy)


class AugmentedIterableDataset(_SeededAugmentation, IterableDataset):
    """The same for a stream. As a stream numbers no rows, a row's image takes the place of its index: the result
    depends on `seed`, the epoch and the image, whichever worker or process reads it.

    Args:
        rows (`Iterable`): A stream of rows `{"image", "annotation"}`; its own `set_epoch`, if any, is called too.
        augmentation ([`SegmentationAugmentation`]): Or anything called in the same way.
        seed (`int`): At least 0.

    Raises:
        `ValueError`: If `seed` is negative.
    """

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0, for the stream as well; workers that are already running follow."""
        super().set_epoch(epoch)
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yields `pixel_values` of shape `(3, height, width)` and `labels` of shape `(height, width)`."""
        for row in self.rows:
            entropy = (self.seed, self._epoch.get(), crc32(row["image"].tobytes()))
            yield _augment_seeded(self.augmentation, row, entropy)


def augmentation_speed(augmentation: SegmentationAugmentation, rows, count: int = 16, seed: int = 0) -> float:
    """Measures how many images a second one process augments, with as many threads as torch has now.

    Args:
        augmentation ([`SegmentationAugmentation`]): What is timed.
        rows (`Sequence`): A map-style data set; reading and decoding its rows counts too.
        count (`int`, *optional*, defaults to 16): Rows that are timed, after one that is not; they repeat if needed.
        seed (`int`, *optional*, defaults to 0): Of the augmentation.

    Returns:
        `float`: Images a second.

    Raises:
        `ValueError`: If there is no row or `count` is below 1.
    """
    require_integer("count", count, 1)
    require(len(rows), "rows", rows, "at least one")
    augmented = AugmentedDataset(rows, augmentation, seed)
    augmented[0]
    start = time.perf_counter()
    for number in range(count):
        augmented[number % len(augmented)]
    return count / (time.perf_counter() - start)


def build_augmentation(arguments: AugmentationArguments, processor: AlgmImageProcessor) -> SegmentationAugmentation:
    """The training augmentation, normalised as `processor` does.

    Raises:
        `ValueError`: If an argument is out of its range.
    """
    return SegmentationAugmentation(
        crop_size=arguments.crop,
        base_size=arguments.base_size,
        ratio_range=tuple(arguments.ratio_range),
        max_category_ratio=arguments.max_category_ratio,
        flip_prob=arguments.flip_prob,
        photometric_distortion=arguments.photometric_distortion,
        image_mean=_per_channel(processor.image_mean),
        image_std=_per_channel(processor.image_std),
        ignore_index=processor.ignore_index,
    )


def _per_channel(value: float | Sequence[float]) -> list[float]:
    return [value] * 3 if isinstance(value, (int, float)) else list(value)


def augmented(rows, augmentation: SegmentationAugmentation, seed: int) -> AugmentedDataset | AugmentedIterableDataset:
    """Rows or a stream of rows, augmented when they are read: what comes depends on `seed`, epoch and row alone."""
    kind = AugmentedDataset if hasattr(rows, "__len__") else AugmentedIterableDataset
    return kind(rows, augmentation, seed)


__all__ = [
    "AugmentedDataset",
    "AugmentedIterableDataset",
    "PhotometricDistortion",
    "RandomCategoryCrop",
    "RandomRatioResize",
    "SegmentationAugmentation",
    "augmentation_speed",
    "augmented",
    "build_augmentation",
]
