# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Images of results: label maps in the colours of their classes, the tokens that are left, panels with a legend."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..patch_grid import patch_grid
from ..refusals import require, require_number
from .palettes import IGNORE_COLOR, make_palette
from .predictor import SegmentedImage


DOTS_PER_INCH = 100


def _as_label_map(label_map) -> np.ndarray:
    labels = np.asarray(label_map)
    found = (labels.shape, str(labels.dtype))
    require(labels.ndim == 2 and labels.dtype.kind in "iub", "label_map", found, "(height, width) integers")
    return labels.astype(np.int64)


def colorize(label_map, palette: np.ndarray) -> Image.Image:
    """Paints each class in its colour; 255 and everything else outside the palette is black.

    Args:
        label_map (`np.ndarray`, `torch.Tensor` or `Image.Image`, `(height, width)`): Class of each pixel.
        palette (`np.ndarray` of shape `(num_labels, 3)`, uint8): See [`make_palette`].

    Returns:
        `Image.Image`: RGB, of the label map's size.
    """
    labels = _as_label_map(label_map)
    known = (labels >= 0) & (labels < len(palette))
    colors = np.concatenate([np.asarray(palette, dtype=np.uint8), np.array([IGNORE_COLOR], dtype=np.uint8)])
    return Image.fromarray(colors[np.where(known, labels, len(palette))])


def save_label_map(label_map, path: str | Path, palette: np.ndarray) -> None:
    """Writes a label map as PNG whose pixel values are the classes: 8-bit with a palette, or 16-bit grey beyond 256
    classes.

    Args:
        label_map (`np.ndarray`, `torch.Tensor` or `Image.Image`, `(height, width)`): Classes, 0 to 65535.
        path (`str` or `Path`): The file, by convention with the ending `.png`.
        palette (`np.ndarray` of shape `(num_labels, 3)`, uint8): See [`make_palette`]; decides between 8 and 16 bits.
    """
    labels = _as_label_map(label_map)
    most = 255 if len(palette) <= 256 else 65535
    for value in (labels.min(initial=0), labels.max(initial=0)):
        require(0 <= value <= most, "label_map", int(value), f"classes from 0 to {most}")
    if most == 65535:
        Image.fromarray(labels.astype(np.uint16)).save(path, format="PNG")
        return
    indexed = Image.fromarray(labels.astype(np.uint8))
    indexed.putpalette(np.asarray(palette, np.uint8).tobytes().ljust(3 * 256, b"\0"))
    indexed.save(path, format="PNG")


def _borders(cells: np.ndarray) -> np.ndarray:
    """True where a pixel differs from the one on its left or above it."""
    border = np.zeros(cells.shape, dtype=bool)
    border[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    border[1:, :] |= cells[1:, :] != cells[:-1, :]
    return border


def blend(image: Image.Image, label_map, palette: np.ndarray, alpha: float = 0.55) -> Image.Image:
    """Lays the class colours over an image, with a thin dark line between classes.

    Args:
        image (`Image.Image`): Any mode.
        label_map (`(height, width)` of the image's size): Class of each pixel; pixels outside the palette keep the
            image.
        palette (`np.ndarray` of shape `(num_labels, 3)`): See [`make_palette`].
        alpha (`float`, *optional*, defaults to 0.55): Weight of the class colours, 0 (image alone) to 1 (colours
            alone).

    Returns:
        `Image.Image`: RGB, of the image's size.
    """
    labels = _as_label_map(label_map)
    require_number("alpha", alpha, 0, 1)
    require(labels.shape == (image.height, image.width), "label_map", labels.shape, f"the size of {image.size}")
    image = image.convert("RGB")
    mixed = Image.blend(image, colorize(labels, palette), alpha)
    mixed.paste(image, mask=Image.fromarray((labels < 0) | (labels >= len(palette))))
    mixed.paste(Image.blend(mixed, Image.new("RGB", image.size), 0.6 * alpha), mask=Image.fromarray(_borders(labels)))
    return mixed


def overlay(
    image: Image.Image, label_map, id2label: Mapping[int, str], alpha: float = 0.55, palette: np.ndarray | None = None
) -> Image.Image:
    """[`blend`] with a legend below it that names the classes present and their share of the pixels, largest first.

    Returns:
        `Image.Image`: RGB; the image is its upper left part at its own size, the legend follows below.
    """
    palette = make_palette(id2label) if palette is None else palette
    labels = _as_label_map(label_map)
    blended = blend(image, labels, palette, alpha)
    classes, counts = np.unique(labels, return_counts=True)
    shares = {int(classes[i]): counts[i] / labels.size for i in np.argsort(-counts) if int(classes[i]) in id2label}
    names = [f"{id2label[i]} {f'{100 * share:.0f}' if share >= 0.005 else '<1'} %" for i, share in shares.items()]
    font_size = int(np.clip(blended.width / 45, 12, 40))
    legend = make_legend(names, [palette[index] for index in shares], blended.width, font_size)
    canvas = Image.new("RGB", (max(blended.width, legend.width), blended.height + legend.height), "white")
    canvas.paste(blended)
    canvas.paste(legend, (0, blended.height))
    return canvas


def token_map(
    image: Image.Image, patch_to_token, grid_size: tuple[int, int], patch_size: int, magnify: int = 1
) -> Image.Image:
    """Shows what the model kept: every final token fills all its patches with the mean colour of the pixels it stands
    for.

    Thin white lines separate patches of different tokens, so even regions appear as large tiles and detail as single
    patches.

    Args:
        image (`Image.Image`): At the size at which the model saw it, `height <= grid_height * patch_size` and likewise
            for the width (the model pads on the right and at the bottom).
        patch_to_token (`(grid_height * grid_width,)` integers): The token that stands for each patch, row by row.
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        patch_size (`int`): Side of a patch in pixels of `image`.
        magnify (`int`, *optional*, defaults to 1): The result is this many times larger; lines stay one pixel thin.

    Returns:
        `Image.Image`: RGB, `magnify` times the image's size.
    """
    grid_size, tokens = tuple(int(side) for side in grid_size), np.asarray(patch_to_token).astype(np.int64)
    covering = patch_grid((image.height, image.width), patch_size)
    require(grid_size == covering, "grid_size", grid_size, f"the {covering} patches of the image")
    require(tokens.size == np.prod(grid_size), "patch_to_token", tokens.shape, f"a token for each of {grid_size}")
    cells = tokens.reshape(grid_size).repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    cells = cells[: image.height, : image.width]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64).reshape(-1, 3)
    sums = np.stack([np.bincount(cells.reshape(-1), weights=channel) for channel in pixels.T], axis=-1)
    means = sums / np.maximum(np.bincount(cells.reshape(-1)), 1)[:, None]
    cells = cells.repeat(magnify, axis=0).repeat(magnify, axis=1)
    filled, lines = means[cells], _borders(cells)
    filled[lines] = 0.35 * filled[lines] + 0.65 * 255
    return Image.fromarray(filled.round().astype(np.uint8))


def draw_tokens(image: Image.Image, result: SegmentedImage, patch_size: int, shown_width: float) -> Image.Image | None:
    """The [`token_map`] of a result, enlarged by a whole number to about `shown_width` pixels.

    There is none (`None`) in windows, which merge on their own.

    Args:
        image (`Image.Image`): What was segmented.
        result ([`SegmentedImage`]): What came of it.
        patch_size (`int`): Of the model.
        shown_width (`float`): In pixels.
    """
    if result.patch_to_token is None:
        return None
    height, width = result.input_size
    seen = image.resize((width, height), Image.Resampling.BILINEAR)
    magnify = max(1, round(shown_width / width))
    return token_map(seen, result.patch_to_token, result.grid_size, patch_size, magnify)


def _add_legend(figure: Figure, names: Sequence[str], colors: Sequence[Sequence[int]], font_size: float) -> None:
    """Swatches with names below a figure, in as many rows as its width asks for; `font_size` in pixels."""
    entry = font_size * (0.58 * max(map(len, names), default=0) + 3.8)
    columns = max(1, int(figure.get_figwidth() * DOTS_PER_INCH / entry))
    swatches = [Patch(facecolor=np.asarray(color) / 255, edgecolor="black", linewidth=0.5) for color in colors]
    legend = figure.legend(
        swatches, ["name"] * len(names), ncols=columns, fontsize=72 * font_size / DOTS_PER_INCH, frameon=False,
        handlelength=1, handleheight=1, loc="upper left", bbox_to_anchor=(0, 0),
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)  # set late, for matplotlib leaves labels out that begin with "_"


def _rendered(figure: Figure) -> Image.Image:
    """Everything in a figure, without the empty space around it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return Image.open(buffer).convert("RGB")


def make_legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int, font_size: int = 14) -> Image.Image:
    """Swatches with names in rows of about `width` pixels, wider only if one entry does not fit.

    Returns:
        `Image.Image`: RGB.
    """
    figure = Figure(figsize=(width / DOTS_PER_INCH, 0.1))
    _add_legend(figure, names, colors, font_size)
    return _rendered(figure)


def panel(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    legend: tuple[Sequence[str], Sequence[Sequence[int]]] | None = None,
    heading: str = "",
    column_width: int = 384,
) -> Image.Image:
    """Sets images in a table with titles above, captions below each image and a legend at the foot.

    Args:
        rows (`Sequence[Sequence[Image.Image]]`): `len(titles)` images in each row.
        titles (`Sequence[str]`): One per column.
        captions (`Sequence[Sequence[str]]`, *optional*): One per image, an empty string for none.
        legend (`tuple`, *optional*): Names and colours for [`make_legend`].
        heading (`str`, *optional*): Text above everything.
        column_width (`int`, *optional*, defaults to 384): About the width of an image, in pixels.

    Returns:
        `Image.Image`: RGB.
    """
    captions = [[""] * len(titles) for _ in rows] if captions is None else captions
    require(rows and titles and len(captions) == len(rows), "captions", len(captions), f"{len(rows)} rows, 1 or more")
    for row, texts in zip(rows, captions, strict=True):
        require(len(row) == len(texts) == len(titles), "row", (len(row), len(texts)), f"{len(titles)} of both")
    heights = [max(column_width * image.height / image.width for image in row) for row in rows]
    gap, font_size = 12, max(13, column_width // 22)
    size = (len(titles) * (column_width + gap), sum(heights) + (2 * len(rows) + 4) * font_size)
    figure = Figure(figsize=(size[0] / DOTS_PER_INCH, size[1] / DOTS_PER_INCH), layout="compressed")
    figure.get_layout_engine().set(w_pad=gap / 2 / DOTS_PER_INCH, h_pad=gap / 2 / DOTS_PER_INCH, wspace=0, hspace=0)
    text = {"parse_math": False, "fontsize": 72 * font_size / DOTS_PER_INCH}
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for axis, image, caption in zip(axes.flat, sum(map(list, rows), []), sum(map(list, captions), []), strict=True):
        axis.imshow(image)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(caption, loc="left", color="dimgrey", **text)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, loc="left", **text)
    figure.suptitle(heading, x=0, ha="left", weight="bold", **text)
    if legend:
        _add_legend(figure, *legend, font_size)
    return _rendered(figure)


__all__ = ["blend", "colorize", "draw_tokens", "make_legend", "overlay", "panel", "save_label_map", "token_map"]
