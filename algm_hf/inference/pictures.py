# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of label maps and of merged tokens, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palettes import IGNORE_COLOR, make_palette


IGNORE_INDEX = 255
INK, PAPER = (32, 33, 36), (255, 255, 255)


def _as_label_map(label_map) -> np.ndarray:
    labels = np.asarray(label_map)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ValueError(
            f"label_map has shape {labels.shape} and type {labels.dtype}, expected (height, width) integers."
        )
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

    Raises:
        `ValueError`: If a value does not fit.
    """
    labels = _as_label_map(label_map)
    most = 255 if len(palette) <= 256 else 65535
    if labels.size and not 0 <= labels.min() <= labels.max() <= most:
        raise ValueError(f"label_map holds values from {labels.min()} to {labels.max()}, expected 0 to {most}.")
    if most == 65535:
        Image.fromarray(labels.astype(np.uint16)).save(path, format="PNG")
        return
    indexed = Image.fromarray(labels.astype(np.uint8)).convert("L")
    indexed.putpalette(
        np.concatenate([palette, np.zeros((256 - len(palette), 3), np.uint8)]).astype(np.uint8).tobytes()
    )
    indexed.save(path, format="PNG")


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def make_legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int, font_size: int = 14) -> Image.Image:
    """Swatches with names in as many rows as `width` asks for; wider than `width` only if one entry does not fit.

    Returns:
        `Image.Image`: RGB, at least `width` pixels wide.
    """
    font, swatch, gap = _font(font_size), font_size, max(4, font_size // 2)
    row_height = font_size + gap
    places, x, row, right = [], gap, 0, width
    for name in names:
        entry = swatch + gap + int(np.ceil(font.getlength(name)))
        if x > gap and x + entry + gap > width:
            x, row = gap, row + 1
        places.append((x, row * row_height + gap))
        x += entry + 2 * gap
        right = max(right, x - gap)
    legend = Image.new("RGB", (right, (row + 1) * row_height + gap), PAPER)
    draw = ImageDraw.Draw(legend)
    for name, color, (left, top) in zip(names, colors, places, strict=True):
        draw.rectangle(
            [left, top, left + swatch - 1, top + swatch - 1], fill=tuple(int(c) for c in color), outline=INK
        )
        draw.text((left + swatch + gap, top + swatch / 2), name, fill=INK, font=font, anchor="lm")
    return legend


def _present(labels: np.ndarray, id2label: Mapping[int, str]) -> list[tuple[int, float]]:
    """The classes of a label map and their share of its pixels, largest first."""
    values, counts = np.unique(labels, return_counts=True)
    shares = [(int(v), c / labels.size) for v, c in zip(values, counts, strict=True) if int(v) in id2label]
    return sorted(shares, key=lambda share: -share[1])


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

    Raises:
        `ValueError`: If the sizes differ or `alpha` is out of range.
    """
    labels = _as_label_map(label_map)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected a number from 0 to 1.")
    if labels.shape != (image.height, image.width):
        raise ValueError(
            f"label_map has shape {labels.shape}, expected the image's height and width "
            f"({image.height}, {image.width})."
        )
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    colors = np.asarray(colorize(labels, palette)).astype(np.float32)
    weight = np.where((labels >= 0) & (labels < len(palette)), alpha, 0.0)[:, :, None]
    mixed = pixels * (1 - weight) + colors * weight
    mixed[_borders(labels)] *= 1 - 0.6 * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))


def overlay(
    image: Image.Image, label_map, id2label: Mapping[int, str], alpha: float = 0.55, palette: np.ndarray | None = None
) -> Image.Image:
    """[`blend`] with a legend below it that names the classes present and their share of the pixels, largest first.

    Returns:
        `Image.Image`: RGB; the image is its upper left part at its own size, the legend follows below.

    Raises:
        `ValueError`: See [`blend`] and [`make_palette`].
    """
    palette = make_palette(id2label) if palette is None else palette
    labels = _as_label_map(label_map)
    blended = blend(image, labels, palette, alpha)
    present = _present(labels, id2label)
    names = [
        f"{id2label[index]} {100 * share:.0f} %" if share >= 0.005 else f"{id2label[index]} <1 %"
        for index, share in present
    ]
    font_size = int(np.clip(blended.width / 45, 12, 40))
    legend = make_legend(names, [palette[index] for index, _ in present], blended.width, font_size)
    canvas = Image.new("RGB", (max(blended.width, legend.width), blended.height + legend.height), PAPER)
    canvas.paste(blended, (0, 0))
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
        image (`Image.Image`): The picture at the size at which the model saw it, `height <= grid_height * patch_size`
            and likewise for the width (the model pads on the right and at the bottom).
        patch_to_token (`(grid_height * grid_width,)` integers): The token that stands for each patch, row by row.
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        patch_size (`int`): Side of a patch in pixels of `image`.
        magnify (`int`, *optional*, defaults to 1): The result is this many times larger; lines stay one pixel thin.

    Returns:
        `Image.Image`: RGB, `magnify` times the image's size.

    Raises:
        `ValueError`: If the number of patches or the image's size does not fit the grid.
    """
    grid_height, grid_width = (int(side) for side in grid_size)
    tokens = np.asarray(patch_to_token).reshape(-1).astype(np.int64)
    if tokens.size != grid_height * grid_width:
        raise ValueError(f"patch_to_token has {tokens.size} entries, expected {grid_height} x {grid_width} patches.")
    rows, columns = -(-image.height // patch_size), -(-image.width // patch_size)
    if (rows, columns) != (grid_height, grid_width):
        raise ValueError(
            f"image is {image.height} x {image.width} pixels, which is {rows} x {columns} patches of {patch_size}, "
            f"expected a grid of {grid_height} x {grid_width}."
        )
    cells = tokens.reshape(grid_height, grid_width).repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    cells = cells[: image.height, : image.width]
    pixels = np.asarray(image.convert("RGB")).astype(np.float64)
    flat, count = cells.reshape(-1), np.maximum(np.bincount(cells.reshape(-1)), 1)
    means = np.stack(
        [np.bincount(flat, weights=pixels[:, :, channel].reshape(-1)) / count for channel in range(3)], axis=-1
    )
    cells = cells.repeat(magnify, axis=0).repeat(magnify, axis=1)
    filled = means[cells]
    filled[_borders(cells)] = 0.35 * filled[_borders(cells)] + 0.65 * 255
    return Image.fromarray(filled.round().astype(np.uint8))


def panel(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    legend: tuple[Sequence[str], Sequence[Sequence[int]]] | None = None,
    heading: str = "",
    column_width: int = 384,
) -> Image.Image:
    """Sets pictures in a table with titles above, captions below each picture and a legend at the foot.

    Args:
        rows (`Sequence[Sequence[Image.Image]]`): Pictures, `len(titles)` in each row; all are brought to
            `column_width`.
        titles (`Sequence[str]`): One per column.
        captions (`Sequence[Sequence[str]]`, *optional*): One per picture, an empty string for none.
        legend (`tuple`, *optional*): Names and colours for [`make_legend`].
        heading (`str`, *optional*): Text above everything.
        column_width (`int`, *optional*, defaults to 384): In pixels.

    Returns:
        `Image.Image`: RGB.

    Raises:
        `ValueError`: If there is no row, or a row has another number of pictures or captions than there are titles.
    """
    captions = [[""] * len(titles) for _ in rows] if captions is None else captions
    if not rows or len(captions) != len(rows):
        raise ValueError(
            f"rows has {len(rows)} entries and captions {len(captions)}, expected the same number, at least 1."
        )
    for number, (row, texts) in enumerate(zip(rows, captions, strict=True)):
        if len(row) != len(titles) or len(texts) != len(titles):
            raise ValueError(
                f"row {number} has {len(row)} pictures and {len(texts)} captions, expected {len(titles)} each."
            )
    gap, size = 12, max(13, column_width // 22)
    rows = [[_to_width(picture, column_width) for picture in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in rows]
    caption_height = int(1.6 * size) if any(any(texts) for texts in captions) else 0
    width = gap + len(titles) * (column_width + gap)
    foot = make_legend(*legend, width=width, font_size=size) if legend else Image.new("RGB", (width, 1), PAPER)
    top = gap + (int(2.2 * size) if heading else 0) + int(1.8 * size)
    canvas = Image.new(
        "RGB", (max(width, foot.width), top + sum(heights) + len(rows) * (gap + caption_height) + foot.height), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    if heading:
        draw.text((gap, gap + size), heading, fill=INK, font=_font(int(1.25 * size)), anchor="lm")
    for column, title in enumerate(titles):
        draw.text(
            (gap + column * (column_width + gap), top - 0.9 * size),
            title,
            fill=INK,
            font=_font(int(1.1 * size)),
            anchor="lm",
        )
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for column, (picture, text) in enumerate(zip(row, texts, strict=True)):
            left = gap + column * (column_width + gap)
            canvas.paste(picture, (left, top))
            draw.text(
                (left, top + height + caption_height / 2), text, fill=(95, 97, 102), font=_font(size - 2), anchor="lm"
            )
        top += height + caption_height + gap
    canvas.paste(foot, (0, top))
    return canvas


def _to_width(picture: Image.Image, width: int) -> Image.Image:
    """Enlarges by whole pixels where that is exact (label maps stay crisp), else resamples."""
    height = max(1, round(picture.height * width / picture.width))
    exact = width % picture.width == 0
    return picture.convert("RGB").resize(
        (width, height), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS
    )


__all__ = ["blend", "colorize", "make_legend", "overlay", "panel", "save_label_map", "token_map"]
