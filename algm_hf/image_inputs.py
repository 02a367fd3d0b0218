# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reading images and label maps, whatever they come as, into plain arrays.

An image becomes `(channels, height, width)`, uint8 or float32 with values in 0..255 (float32 as given with
`do_rescale=False`); a label map becomes int64 `(height, width)`. Sizes are always (height, width) in pixels. What does
not fit is refused with a `ValueError`.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format, load_image

from .refusals import require


# 65535 / 255: the factor between 16-bit and 8-bit intensities.
SIXTEEN_TO_EIGHT_BIT = 257
# How far rounding may carry a floating point image out of 0..1 (and, times 255, out of 0..255).
FLOAT_TOLERANCE = 1e-3

# PIL raises all of these for damaged files, whose numbers it trusts, and NumPy for lists that are no images.
READ_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, struct.error)
READ_ERRORS += (zlib.error, Image.DecompressionBombError)

ADDRESSES = ("http://", "https://", "data:image/")

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def flatten_images(images: Any) -> list[Any]:
    """
    A flat list of single images, never empty, of one image, a batch in one array of 4 dimensions, or (nested) lists of
    either; each a PIL image, a file, or an array or tensor of 2 or 3 dimensions.
    """
    flat = _flatten(images, "images", batch_ndim=4)
    require(flat, "images", images, "at least one image")
    return flat


def _flatten(inputs: Any, field: str, batch_ndim: int) -> list[Any]:
    if isinstance(inputs, (list, tuple)):
        return [single for item in inputs for single in _flatten(item, field, batch_ndim=4)]
    if isinstance(inputs, (str, Path, Image.Image)):
        return [inputs]
    is_array, kind = isinstance(inputs, (np.ndarray, torch.Tensor)), type(inputs).__name__
    require(is_array, f"type({field})", kind, "PIL images, files, numpy arrays or torch tensors")
    if inputs.ndim == batch_ndim:
        return list(inputs)
    require(inputs.ndim in (2, 3), f"{field}.shape", tuple(inputs.shape), "2 or 3 dimensions each")
    return [inputs]


def read_image(
    image: Any,
    index: int,
    do_convert_rgb: bool,
    do_rescale: bool,
    do_normalize: bool,
    image_mean: float | Sequence[float],
    image_std: float | Sequence[float],
    input_data_format: str | ChannelDimension | None = None,
    **kwargs,
) -> np.ndarray:
    """
    Read one image as [`flatten_images`] gives it; see the processor for the settings.

    Args:
        index: its position, for messages.
        do_convert_rgb: whether to return three channels, transparency laid on white. Otherwise an image that is to be
            normalised must have as many channels as `image_mean` and `image_std` have values.
        do_rescale: whether floating point values mean intensities, to be brought to 0..255; else they are kept.
    """
    name = f"images[{index}]"
    expected = (1, 3, 4)
    num_statistics = max(np.size(image_mean), np.size(image_std))
    if not do_convert_rgb and do_normalize and num_statistics > 1:
        expected = (num_statistics,)
    image = _open(image, name)
    if isinstance(image, Image.Image):
        pixels = _pixels_of_pil(image, name, do_convert_rgb)
        input_data_format = ChannelDimension.LAST
    else:
        pixels = to_numpy(image)
    pixels = _channels_first(pixels, name, expected, input_data_format)
    pixels, white = _to_byte_range(pixels, name, do_rescale)
    pixels = _to_rgb(pixels, white) if do_convert_rgb else pixels
    return np.require(pixels, requirements=["C_CONTIGUOUS", "WRITEABLE"])  # torch.from_numpy warns or fails otherwise


def unrotated_size(image: Any) -> tuple[int, int] | None:
    """Height and width in pixels of a PIL image or file before its EXIF orientation is applied; `None` for arrays."""
    if isinstance(image, (str, Path)) and os.path.isfile(image):
        with Image.open(image) as opened:
            return opened.height, opened.width
    return (image.height, image.width) if isinstance(image, Image.Image) else None


def to_numpy(array: np.ndarray | torch.Tensor) -> np.ndarray:
    """A numpy array with the values of `array`, of any shape, copied only where numpy cannot share them."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    return array


def _open(source: Any, name: str) -> Any:
    """Open a file or address; anything else passes. PIL reads every file, so both backends see the same image."""
    if not isinstance(source, (str, Path)):
        return source
    if str(source).startswith(ADDRESSES):
        return load_image(str(source))
    require(os.path.isfile(source), str(source), "no file", f"an image file for {name}")
    try:
        with Image.open(source) as opened:
            opened.load()
    except READ_ERRORS as error:
        raise ValueError(f"{source}={str(error)!r}: expected an image that PIL can read for {name}") from error
    return opened


def _pixels_of_pil(image: Image.Image, name: str, do_convert_rgb: bool) -> np.ndarray:
    """Values of a PIL image, upright, `(height, width[, channels])`; without palette, and RGB if asked for."""
    file_format = image.format  # lost by exif_transpose
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        # 16-bit PNG files have opened as 32-bit integers; only such a file can be 16-bit with values up to 255.
        values = np.asarray(image)
        sixteen_bit = file_format == "PNG" or values.max(initial=0) > 255
        fits = values.min(initial=0) >= 0 and values.max(initial=0) <= 65535
        return values.astype(np.uint16) if sixteen_bit and fits else values
    if image.mode == "F":
        return np.asarray(image)
    require(image.mode != "LAB", f"{name}.mode", image.mode, "a mode that PIL converts to RGB")
    transparent = image.mode in _ALPHA_MODES or image.info.get("transparency") is not None
    if not do_convert_rgb:
        if image.mode in ("P", "PA"):  # indices are no intensities
            image = image.convert("RGBA" if transparent else "RGB")
        return np.asarray(image.convert("L") if image.mode == "1" else image)
    if transparent:
        # As transformers' convert_to_rgb does in its newest version; older ones drop the alpha channel.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def _channels_first(
    pixels: np.ndarray, name: str, expected: tuple[int, ...], input_data_format: str | ChannelDimension | None
) -> np.ndarray:
    """View as `(channels, height, width)`; `(height, width)` is one channel."""
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels, input_data_format = pixels[None], ChannelDimension.FIRST
    elif input_data_format is None and (shape[0] in expected or shape[-1] in expected):
        input_data_format = infer_channel_dimension_format(pixels, num_channels=expected)
    if input_data_format == ChannelDimension.LAST:
        pixels = np.moveaxis(pixels, -1, 0)
    counts = " or ".join(str(count) for count in expected)
    layouts = f"{counts} channels as (channels, height, width) or (height, width, channels)"
    require(pixels.shape[0] in expected and input_data_format is not None, f"{name}.shape", shape, layouts)
    require(pixels.size > 0, f"{name}.shape", shape, "at least one pixel")
    return pixels


def _to_byte_range(pixels: np.ndarray, name: str, do_rescale: bool) -> tuple[np.ndarray, float]:
    """Values as uint8, or float32 in 0..255 (as given without `do_rescale`), and the value of white."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255, 255
    if pixels.dtype == np.uint8:
        return pixels, 255
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + SIXTEEN_TO_EIGHT_BIT // 2) // SIXTEEN_TO_EIGHT_BIT).astype(np.uint8), 255
    low, high = pixels.min(), pixels.max()
    if np.issubdtype(pixels.dtype, np.integer):
        in_range = 0 <= low and high <= 255
        require(in_range, f"range({name})", (int(low), int(high)), "0 to 255, or uint16 for 16 bits")
        return pixels.astype(np.uint8), 255
    is_float = np.issubdtype(pixels.dtype, np.floating)
    require(is_float, f"{name}.dtype", pixels.dtype, "integers, floating point numbers or booleans")
    return _float_to_byte_range(pixels, name, do_rescale)


def _float_to_byte_range(pixels: np.ndarray, name: str, do_rescale: bool) -> tuple[np.ndarray, float]:
    broken = np.count_nonzero(~np.isfinite(pixels).all(axis=0))
    require(broken == 0, name, f"{broken} pixels with NaN or infinite values", "finite numbers")
    pixels = pixels.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    white = 1.0 if high <= 1 + FLOAT_TOLERANCE else 255.0
    if not do_rescale:
        return pixels, white
    # A maximum between 1 and 2 is an overshooting 0..1 image rather than a black 0..255 one: ask, do not guess.
    in_range = low >= -FLOAT_TOLERANCE * white and high <= white * (1 + FLOAT_TOLERANCE)
    expected = "0 to 1 or 0 to 255; with do_rescale=False (and do_normalize=False) values are taken as they are"
    require(in_range and not 1 + FLOAT_TOLERANCE < high < 2, f"range({name})", (low, high), expected)
    return np.clip(pixels, 0, white) * (255 / white), 255.0


def _to_rgb(pixels: np.ndarray, white: float) -> np.ndarray:
    """Three channels from 1 (repeated), 3 (unchanged) or 4 (laid on white by the fourth)."""
    if pixels.shape[0] == 1:
        return np.repeat(pixels, 3, axis=0)
    if pixels.shape[0] == 4:
        alpha = pixels[3:] / np.float32(white)
        mixed = alpha * pixels[:3] + (1 - alpha) * np.float32(white)
        pixels = mixed.round().astype(np.uint8) if pixels.dtype == np.uint8 else mixed.astype(np.float32)
    return pixels


def read_label_maps(segmentation_maps: Any, images: list[Any], sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """
    Read the label maps of images, given as they came and with their upright sizes: one map, a list of maps, or an
    array `(batch_size, height, width)`. They never share memory with the input.
    """
    stacked = isinstance(segmentation_maps, (np.ndarray, torch.Tensor)) and (
        segmentation_maps.ndim == 3 and segmentation_maps.shape[0] == len(images)
    )
    flat = _flatten(segmentation_maps, "segmentation_maps", batch_ndim=3 if stacked else 4)
    require(len(flat) == len(images), "len(segmentation_maps)", len(flat), f"{len(images)}, one for each image")
    labels = []
    for index, (label_map, image, size) in enumerate(zip(flat, images, sizes, strict=True)):
        labels.append(_read_label_map(label_map, f"segmentation_maps[{index}]"))
        _check_map_size(labels[-1].shape, size, image, index)
    return labels


def _read_label_map(label_map: Any, name: str) -> np.ndarray:
    is_address = isinstance(label_map, str) and label_map.startswith(ADDRESSES)
    require(not is_address, name, label_map, "a file; addresses are read as colours")
    label_map = _open(label_map, name)
    if isinstance(label_map, Image.Image):
        values = np.asarray(ImageOps.exif_transpose(label_map))  # of a palette image: the indices
    else:
        values = to_numpy(label_map)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[..., 0] if values.shape[-1] == 1 else values[0]
    expected = "one class index per pixel, (height, width); of a colour map look them up, of a one-hot map take argmax"
    require(values.ndim == 2, f"{name}.shape", values.shape, expected)
    is_whole = values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all()
    )
    require(is_whole, f"{name}.dtype", values.dtype, "integers")
    return values.astype(np.int64)


def _check_map_size(size: tuple[int, int], image_size: tuple[int, int], image: Any, index: int) -> None:
    expected = f"{tuple(image_size)}, the height and width of images[{index}]"
    if size != image_size and unrotated_size(image) == size:
        expected += (
            "; the map fits before the EXIF orientation of the image is applied: rotate it, or strip the orientation "
            "if the pixels are upright already"
        )
    require(size == image_size, f"segmentation_maps[{index}].shape", size, expected)


__all__ = ["READ_ERRORS", "flatten_images", "read_image", "read_label_maps", "to_numpy", "unrotated_size"]
