# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Image processor of ALGM: images and label maps in, tensors out, and logits back to label maps.

Everything an image goes through except the resampling is shared by both backends: `AlgmImageProcessor` resamples with
torchvision where it is installed and with PIL where it is not, `AlgmImageProcessorPil` always with PIL.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    torch_pil_interpolation_mapping,
)
from transformers.processing_utils import Unpack
from transformers.utils import TensorType
from transformers.utils.import_utils import is_torchvision_available

from .image_inputs import flatten_images, read_image, read_label_maps
from .label_maps import blockwise_argmax, resize_scores, upsampled_argmax
from .patch_grid import patch_grid
from .refusals import require, require_choice


if is_torchvision_available():
    from transformers.image_processing_backends import TorchvisionBackend


_SIZE_KEYS = ({"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"height", "width"})
_FLAGS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels")
# Fields other image processors have and this one does not: silently storing them would promise a crop never made.
_UNSUPPORTED = ("do_center_crop", "crop_size", "do_pad", "pad_size", "default_to_square")


class AlgmImageProcessorKwargs(TypedDict, total=False):
    """Settings of [`AlgmImageProcessor`], where each is explained; accepted when it is built and at every call."""

    do_resize: bool | None
    size: int | list[int] | tuple[int, ...] | dict[str, int] | None
    resample: PILImageResampling | int | None
    patch_size: int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    do_convert_rgb: bool | None
    do_reduce_labels: bool | None
    ignore_index: int | None
    input_data_format: str | ChannelDimension | None
    device: str | torch.device | None
    return_tensors: str | TensorType | None


class AlgmBatchFeature(BatchFeature):
    """
    [`BatchFeature`] whose images transformers' segmentation pipeline can batch although their sizes differ.

    The pipeline concatenates tensors, which needs equal sizes, and leaves lists as they are, which the model accepts.
    It is the one caller that stores a `target_size` beside the images; from then on `pixel_values` is a list.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "target_size" and isinstance(self.data.get("pixel_values"), torch.Tensor):
            self.data["pixel_values"] = list(self.data["pixel_values"])
        super().__setitem__(key, value)


class _AlgmImageProcessingMixin:
    """
    What both backends share; a backend adds `resize` and `backend`. Their other methods are not used: `process_image`
    reads transparency, 16 bits and EXIF orientation otherwise in each version, and `rescale_and_normalize` stands in
    one backend only.
    """

    valid_kwargs = AlgmImageProcessorKwargs
    model_input_names = ["pixel_values"]

    do_resize = True
    size = {"shortest_edge": 512}
    default_to_square = False
    resample = PILImageResampling.BILINEAR
    patch_size = 16
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_convert_rgb = True
    do_reduce_labels = False
    ignore_index = 255

    def __init__(self, **kwargs: Unpack[AlgmImageProcessorKwargs]):
        for name in _UNSUPPORTED:
            require(not kwargs.get(name), name, kwargs.get(name), "none; `size` sets the size")
        super().__init__(**kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        """Bring settings to one form and check them, when the processor is built and at every call."""
        if isinstance(kwargs.get("device"), torch.device):
            kwargs["device"] = str(kwargs["device"])  # JSON
        resample = kwargs["resample"]
        resample = torch_pil_interpolation_mapping.get(resample, resample)
        is_filter = not isinstance(resample, bool) and resample in list(PILImageResampling)
        require(is_filter, "resample", resample, f"one of {[int(f) for f in PILImageResampling]}")
        kwargs["resample"] = PILImageResampling(resample)
        kwargs = super()._standardize_kwargs(**kwargs, default_to_square=self.default_to_square)
        for name in ("crop_size", "pad_size"):
            kwargs.pop(name, None)  # added by transformers
        _check_settings(**kwargs)
        return kwargs

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[AlgmImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Turn images, and optionally their label maps, into what the model takes.

        Args:
            images (`ImageInput`):
                An image, a batch of equal size (one array of 4 dimensions), or a (nested) list of images. An image
                is a PIL image of any mode, a file (`str` or `Path`), or a numpy array or torch tensor of shape
                `(height, width)`, `(height, width, channels)` or `(channels, height, width)` with 1, 3 or 4 channels.
                The EXIF orientation is applied. 16-bit values are divided by 257. Floating point arrays are read as
                0..1 if no value exceeds 1, else as 0..255.
            segmentation_maps (`ImageInput`, *optional*):
                One map of integer class indices per image, `(height, width)`: PIL (palette indices, not colours),
                file, numpy or torch; several of equal size may be one array `(batch_size, height, width)`.
            kwargs ([`AlgmImageProcessorKwargs`], *optional*):
                Settings for this call only; see the class.

        Returns:
            [`BatchFeature`]: With `return_tensors`:

            - **pixel_values** float32 `(batch_size, num_channels, height, width)`. Images of different sizes are
              padded with zeros, after normalisation, on the right and at the bottom.
            - **image_sizes** int64 `(batch_size, 2)`, height and width before padding; only when sizes differ.
            - **labels** int64 `(batch_size, height, width)`, padded with `ignore_index`; only with maps.

            Without it, lists of unpadded arrays (torch with torchvision, numpy with PIL) and no `image_sizes`.

        Raises:
            `ValueError`: For a setting, image or label map that does not fit; the message names the field, the
            position in the list, the value and what was expected.
        """
        settings = self._settings_for_call(kwargs)
        return self._preprocess_image_like_inputs(images, segmentation_maps, **settings)

    def _settings_for_call(self, overrides: dict[str, Any]) -> dict[str, Any]:
        names = list(self.valid_kwargs.__annotations__)
        for name in sorted(set(overrides) - set(names)):
            require(False, name, overrides[name], f"one of the settings {names}")
        settings = {name: getattr(self, name, None) for name in names}
        settings.update({name: value for name, value in overrides.items() if value is not None})
        return self._standardize_kwargs(**settings)

    def _preprocess_image_like_inputs(
        self, images, segmentation_maps, device=None, return_tensors=None, **settings
    ) -> BatchFeature:
        flat = flatten_images(images)
        arrays = [read_image(image, i, **settings) for i, image in enumerate(flat)]
        sizes = [_target_size(*array.shape[-2:], index=i, **settings) for i, array in enumerate(arrays)]
        if device is None and isinstance(flat[0], torch.Tensor):
            device = flat[0].device
        features = {
            "pixel_values": [
                self._transform(a, size, device=device, **settings) for a, size in zip(arrays, sizes, strict=True)
            ]
        }
        if segmentation_maps is not None:
            maps = read_label_maps(segmentation_maps, flat, [array.shape[-2:] for array in arrays])
            features["labels"] = [
                torch.from_numpy(_prepare_labels(m, size, **settings)).to(device)
                for m, size in zip(maps, sizes, strict=True)
            ]
        if return_tensors is None:
            if self.backend == "pil":
                features = {name: [value.cpu().numpy() for value in values] for name, values in features.items()}
            return AlgmBatchFeature(features)
        batch = _collate(features, sizes, settings["ignore_index"])
        if TensorType(return_tensors) == TensorType.NUMPY:
            batch = {name: value.cpu().numpy() for name, value in batch.items()}
        return AlgmBatchFeature(batch, tensor_type=return_tensors)

    def _transform(
        self,
        array: np.ndarray,
        target_size: tuple[int, int],
        resample: PILImageResampling,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        device: str | torch.device | None,
        **kwargs,
    ) -> torch.Tensor:
        """Resize `(channels, height, width)` to `target_size`, rescale and normalise; float32 on `device`."""
        on_torchvision = self.backend == "torchvision"
        pixels = torch.from_numpy(array).to(device) if on_torchvision else array
        if array.shape[-2:] != target_size:
            pixels = self.resize(pixels, SizeDict(height=target_size[0], width=target_size[1]), resample=resample)
        pixels = pixels if on_torchvision else torch.from_numpy(pixels).to(device)
        pixels = pixels.to(torch.float32)
        if do_rescale:
            pixels = pixels * rescale_factor
        if do_normalize:
            mean, std = (torch.as_tensor(v, dtype=torch.float32, device=device) for v in (image_mean, image_std))
            pixels = (pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
        return pixels

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
        input_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        r"""
        Turn logits into label maps: exactly the argmax over the classes of the bilinearly upsampled logits, ties to
        the lowest class, without upsampling them all (see `label_maps.py`).

        Args:
            outputs ([`AlgmSemanticSegmenterOutput`] or any mapping or object with a `logits` field):
                `logits` `(batch_size, num_labels, rows, columns)` of patches or of pixels; `grid_sizes`
                `(batch_size, 2)`, if there and not `None`, tells the rows and columns that belong to each image.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(batch_size, 2)`, *optional*):
                Height and width in pixels of each map. Unset: `input_sizes`, or else the resolution of the logits.
            input_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(batch_size, 2)`, *optional*):
                Height and width in pixels at which the model saw each image. Needed where these are no multiples of
                `patch_size`, because the logits then cover padding too. Unset: the target size if `do_resize` is
                `False` and the target has as many patches as the logits, else no padding is assumed.

        Returns:
            `list[torch.Tensor]`: One int64 map of class indices `(height, width)` per image, on the logits' device.

        Raises:
            `ValueError`: If logits are missing, not 4-dimensional or not finite, or if sizes do not fit.
        """
        logits = _field(outputs, "logits")
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else None
        expected = "(batch_size, num_labels, rows, columns)"
        require(shape is not None and len(shape) == 4, "outputs.logits.shape", shape, expected)
        batch_size = logits.shape[0]
        targets = _check_sizes("target_sizes", target_sizes, batch_size)
        inputs = _check_sizes("input_sizes", input_sizes, batch_size)
        grids = _check_sizes("outputs.grid_sizes", _field(outputs, "grid_sizes"), batch_size)
        maps = []
        for i, scores in enumerate(logits.detach()):
            if grids[i] is not None:
                scores = scores[:, : grids[i][0], : grids[i][1]]
            require(torch.isfinite(scores).all(), f"outputs.logits[{i}]", "NaN or infinite", "finite scores")
            plan = self._upsampling_plan(scores.shape[-2:], targets[i], inputs[i])
            maps.append(_label_map(scores, *plan))
        return maps

    def _upsampling_plan(
        self, grid: tuple[int, int], target: tuple[int, int] | None, input_size: tuple[int, int] | None
    ) -> tuple[tuple[int, int] | None, tuple[int, int] | None, tuple[int, int]]:
        """The sizes `(padded, cropped, final)` to go through; the first two are `None` without padding to remove."""
        grid = tuple(grid)
        if (
            input_size is None
            and target is not None
            and not self.do_resize
            and patch_grid(target, self.patch_size) == grid
        ):
            input_size = target
        if input_size is None or input_size == grid:  # logits of an unpadded image, or one for each pixel
            return None, None, target or grid
        expected = f"the size at which the model saw the image, {grid} patches of {self.patch_size} pixels"
        require(patch_grid(input_size, self.patch_size) == grid, "input_sizes", input_size, expected)
        padded = tuple(side * self.patch_size for side in grid)
        if padded == input_size:
            return None, None, target or input_size
        return padded, input_size, target or input_size

    def to_dict(self) -> dict[str, Any]:
        """The settings as saved in `preprocessor_config.json`, with both backends in `auto_map`."""
        output = super().to_dict()
        if self._auto_class is not None and type(self) in (AlgmImageProcessor, AlgmImageProcessorPil):
            module = type(self).__module__.rsplit(".", 1)[-1]
            # AutoImageProcessor reads a pair as (PIL, torchvision).
            references = [f"{module}.{cls.__name__}" for cls in (AlgmImageProcessorPil, AlgmImageProcessor)]
            output["auto_map"] = {**output.get("auto_map", {}), self._auto_class: references}
        return output


class _AlgmPilBackend(PilBackend):
    """transformers' PIL backend, resizing channel by channel so that floating point images keep their precision."""

    def resize(self, image: np.ndarray, size: SizeDict, resample=None, **kwargs) -> np.ndarray:
        """Resize `(channels, height, width)`, uint8 or float32, to `size.height` x `size.width`."""
        resample = PILImageResampling.BILINEAR if resample is None else resample
        channels = [Image.fromarray(c).resize((size.width, size.height), resample=resample) for c in image]
        return np.stack([np.asarray(channel) for channel in channels])


if is_torchvision_available():
    _DefaultBackend = TorchvisionBackend
else:
    _DefaultBackend = _AlgmPilBackend


class AlgmImageProcessor(_AlgmImageProcessingMixin, _DefaultBackend):
    r"""
    Image processor of ALGM (paper: "ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation
    with Plain Vision Transformers", CVPR 2024, arXiv 2406.09936). It resizes the shorter side to `size` with both
    sides in whole patches, normalises, treats label maps alike and turns logits back into label maps. It resamples
    with torchvision, or with PIL where torchvision is not installed; the two differ by at most about 1/255 before
    normalisation.

    Args:
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether to resize. With `False` sizes are kept and the model pads to whole patches.
        size (`int`, `tuple[int, int]` or `dict[str, int]`, *optional*, defaults to `{"shortest_edge": 512}`):
            Size in pixels: an `int` or `{"shortest_edge"}` for the shorter side with the aspect ratio kept,
            `{"shortest_edge", "longest_edge"}` with a cap on the longer side, `(height, width)` or
            `{"height", "width"}` for a fixed size. Both sides are rounded to whole patches, at least one.
        resample (`PILImageResampling` or `int`, *optional*, defaults to `PILImageResampling.BILINEAR`):
            Filter for the image. Label maps are always resampled with the nearest neighbour.
        patch_size (`int`, *optional*, defaults to 16):
            Side of a patch in pixels, as in the model's config; at least 1.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to multiply 0..255 values by `rescale_factor`. With `False` floating point values are kept.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`):
            Factor for values in 0..255; positive.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`.
        image_mean (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Mean per channel, in the unit left by rescaling.
        image_std (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Standard deviation per channel, in the unit left by rescaling; positive.
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether to make three channels of greyscale and transparent images (on white).
        do_reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether label 0 becomes `ignore_index` and every other label is lowered by one.
        ignore_index (`int`, *optional*, defaults to 255):
            Label of pixels without a class; also fills the padding of label maps.
        input_data_format (`str` or `ChannelDimension`, *optional*):
            `"channels_first"` or `"channels_last"`, for arrays whose shape leaves it open.
        device (`str` or `torch.device`, *optional*):
            Where the returned tensors live. With torchvision the resampling happens there too.
        return_tensors (`str` or `TensorType`, *optional*):
            `"pt"` or `"np"` for one array per field; unset for lists of unpadded arrays.

    Raises:
        `ValueError`: For a setting outside its range; the message names it.

    Example:

    ```python
    >>> processor = AlgmImageProcessor(size=512)
    >>> inputs = processor(image, segmentation_maps=label_map, return_tensors="pt")
    >>> outputs = model(**inputs)
    >>> label_maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])
    ```
    """


class AlgmImageProcessorPil(_AlgmImageProcessingMixin, _AlgmPilBackend):
    """[`AlgmImageProcessor`] that resamples with PIL even where torchvision is installed; same settings."""


def _check_settings(
    size: SizeDict,
    patch_size: int,
    rescale_factor: float,
    image_mean: float | tuple[float, ...],
    image_std: float | tuple[float, ...],
    ignore_index: int,
    input_data_format: str | ChannelDimension | None = None,
    **flags,
) -> None:
    """Refuse settings that no call could honour."""
    for name in _FLAGS:
        require(isinstance(flags[name], (bool, np.bool_)), name, flags[name], "True or False")
    sides = dict(size)
    require(set(sides) in _SIZE_KEYS, "size", sides, f"the keys {' or '.join(str(sorted(k)) for k in _SIZE_KEYS)}")
    for name, value in {"patch_size": patch_size, **{f"size[{key!r}]": value for key, value in sides.items()}}.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(is_whole and value >= 1, name, value, "a whole number of pixels, at least 1")
    in_order = size.longest_edge is None or size.longest_edge >= size.shortest_edge
    require(in_order, "size", sides, "longest_edge of at least shortest_edge")
    is_integer = isinstance(ignore_index, Integral) and not isinstance(ignore_index, bool)
    require(is_integer, "ignore_index", ignore_index, "an integer")
    is_class = flags["do_reduce_labels"] and ignore_index == 0
    require(
        not is_class, "ignore_index", ignore_index, "with do_reduce_labels=True a value that is no class afterwards"
    )
    for name, given in {"rescale_factor": rescale_factor, "image_std": image_std, "image_mean": image_mean}.items():
        values, is_mean = np.atleast_1d(given), name == "image_mean"
        valid = values.ndim == 1 and values.dtype.kind in "iuf" and np.isfinite(values).all()
        valid = valid and (is_mean or (values > 0).all())
        require(valid, name, given, f"finite {'' if is_mean else 'positive '}numbers")
    num_means, num_stds = np.size(image_mean), np.size(image_std)
    expected = f"1 value, or as many as channels (3 for RGB) and as image_std={image_std}"
    fits = 1 in (num_means, num_stds) or num_means == num_stds
    fits = fits and (not flags["do_convert_rgb"] or {num_means, num_stds} <= {1, 3})
    require(fits, "image_mean", image_mean, expected)
    if input_data_format is not None:
        require_choice("input_data_format", input_data_format, ("channels_first", "channels_last"))


def _round_to_patches(numerator: int, denominator: int, patch_size: int) -> int:
    """`numerator / denominator` pixels to the nearest multiple of the patch (half goes up), at least one patch."""
    patches = (2 * numerator + denominator * patch_size) // (2 * denominator * patch_size)
    return max(patches, 1) * patch_size


def _target_size(
    height: int, width: int, index: int, do_resize: bool, size: SizeDict, patch_size: int, **kwargs
) -> tuple[int, int]:
    """Height and width in pixels an image is resized to, in exact integer arithmetic."""
    if not do_resize:
        expected = f"at least one patch of {patch_size} x {patch_size} pixels with do_resize=False"
        require(min(height, width) >= patch_size, f"images[{index}].shape", (height, width), expected)
        return height, width
    if size.height is not None:
        return _round_to_patches(size.height, 1, patch_size), _round_to_patches(size.width, 1, patch_size)
    edge, reference = size.shortest_edge, min(height, width)
    cap = size.longest_edge
    if cap is not None and max(height, width) * edge > cap * reference:
        edge, reference = cap, max(height, width)
    sides = [_round_to_patches(side * edge, reference, patch_size) for side in (height, width)]
    if cap is not None:
        # Rounding up must not cross a cap that is no multiple of the patch.
        sides = [min(side, max(cap // patch_size, 1) * patch_size) for side in sides]
    return sides[0], sides[1]


def _prepare_labels(
    labels: np.ndarray, target_size: tuple[int, int], do_reduce_labels: bool, ignore_index: int, **kwargs
) -> np.ndarray:
    """Reduce labels if asked for and pick the nearest neighbour of each pixel centre."""
    if do_reduce_labels:
        void = (labels == 0) | (labels == ignore_index)
        labels = np.where(void, ignore_index, labels - 1)
    # Pixel i of n covers the centre (2 i + 1) / 2n; integers keep both backends and every size exact.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(target_size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _collate(
    features: dict[str, list[torch.Tensor]], sizes: list[tuple[int, int]], ignore_index: int
) -> dict[str, torch.Tensor]:
    """Pad on the right and at the bottom to the largest height and width, and stack."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    batch = {}
    for name, values in features.items():
        fill = ignore_index if name == "labels" else 0
        batch[name] = torch.stack(
            [torch.nn.functional.pad(v, (0, width - v.shape[-1], 0, height - v.shape[-2]), value=fill) for v in values]
        )
    if len(set(sizes)) > 1:
        batch["image_sizes"] = torch.tensor(sizes, dtype=torch.int64, device=batch["pixel_values"].device)
    return batch


def _field(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _check_sizes(field: str, sizes: Any, batch_size: int) -> list[tuple[int, int] | None]:
    """`batch_size` pairs of positive integers, or as many `None` when there are no sizes."""
    if sizes is None:
        return [None] * batch_size
    require(len(sizes) == batch_size, f"len({field})", len(sizes), f"{batch_size}, (height, width) of each image")
    sizes = [size.tolist() if isinstance(size, (torch.Tensor, np.ndarray)) else size for size in sizes]
    for index, size in enumerate(sizes):
        valid = np.size(size) == 2 and all(side == int(side) and side >= 1 for side in size)
        require(valid, f"{field}[{index}]", size, "two positive integers (height, width)")
    return [(int(height), int(width)) for height, width in sizes]


def _label_map(
    scores: torch.Tensor, padded: tuple | None, cropped: tuple | None, final: tuple[int, int]
) -> torch.Tensor:
    """Argmax over the classes of `(num_labels, rows, columns)`, upsampled by way of these sizes."""
    if padded is None:
        return upsampled_argmax(scores, final)
    if cropped == final:
        return upsampled_argmax(scores, padded)[: final[0], : final[1]]
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores

    def resize(block: torch.Tensor) -> torch.Tensor:
        return resize_scores(resize_scores(block, padded)[:, : cropped[0], : cropped[1]], final)

    return blockwise_argmax(scores, resize, max(height * width for height, width in (padded, final)))


__all__ = ["AlgmBatchFeature", "AlgmImageProcessor", "AlgmImageProcessorKwargs", "AlgmImageProcessorPil"]
