# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from algm_hf.inference.palettes import make_palette
from algm_hf.inference.pictures import blend, colorize, make_legend, overlay, panel, save_label_map, token_map


ID2LABEL = {0: "sky", 1: "road", 2: "unicorn"}


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_palette_is_repeatable_and_its_colours_are_distinct():
    id2label = {index: f"class {index}" for index in range(150)}
    palette = make_palette(id2label)
    assert palette.shape == (150, 3)
    assert palette.dtype == np.uint8
    assert len({tuple(color) for color in palette.tolist()}) == 150
    assert (0, 0, 0) not in {tuple(color) for color in palette.tolist()}
    assert np.array_equal(palette, make_palette(id2label))


def test_palette_does_not_depend_on_the_order_or_type_of_the_keys():
    assert np.array_equal(make_palette({"2": "unicorn", "0": "sky", "1": "road"}), make_palette(ID2LABEL))


def test_palette_refuses_gaps_between_classes():
    with pytest.raises(ValueError, match=r"keys \[0, 2\], expected 0 to 1"):
        make_palette({0: "sky", 2: "road"})


def test_colorize_paints_classes_and_leaves_ignored_pixels_black():
    palette = make_palette(ID2LABEL)
    painted = np.asarray(colorize(np.array([[0, 1], [2, 255]]), palette))
    assert np.array_equal(painted[0, 0], palette[0])
    assert np.array_equal(painted[0, 1], palette[1])
    assert np.array_equal(painted[1, 0], palette[2])
    assert painted[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("num_labels", "mode"), [(3, "P"), (256, "P"), (300, "I;16")])
def test_label_map_survives_the_png(tmp_path, num_labels, mode):
    labels = np.arange(12).reshape(3, 4) * (num_labels - 1) // 11
    path = tmp_path / "labels.png"
    save_label_map(labels, path, make_palette({index: str(index) for index in range(num_labels)}))
    with Image.open(path) as saved:
        assert saved.mode == mode
        assert np.array_equal(np.asarray(saved), labels)


def test_label_map_png_shows_the_palette(tmp_path):
    palette = make_palette(ID2LABEL)
    save_label_map(np.array([[0, 1, 2]]), tmp_path / "labels.png", palette)
    with Image.open(tmp_path / "labels.png") as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB"))[0], palette)


def test_label_map_refuses_values_and_shapes_that_do_not_fit(tmp_path):
    palette = make_palette(ID2LABEL)
    with pytest.raises(ValueError, match="from 0 to 256, expected 0 to 255"):
        save_label_map(np.array([[0, 256]]), tmp_path / "labels.png", palette)
    with pytest.raises(ValueError, match=r"shape \(2,\) .* expected \(height, width\) integers"):
        save_label_map(np.array([0, 1]), tmp_path / "labels.png", palette)
    with pytest.raises(ValueError, match="type float64"):
        save_label_map(np.array([[0.5]]), tmp_path / "labels.png", palette)


def test_blend_at_alpha_zero_is_the_image_and_ignored_pixels_always_are():
    image, labels = noise(8, 10), np.zeros((8, 10), dtype=int)
    assert np.array_equal(np.asarray(blend(image, labels, make_palette(ID2LABEL), alpha=0)), np.asarray(image))
    labels[:] = 255
    assert np.array_equal(np.asarray(blend(image, labels, make_palette(ID2LABEL), alpha=1)), np.asarray(image))


def test_overlay_keeps_the_image_size_and_adds_a_legend_below():
    image, labels = noise(120, 400), np.zeros((120, 400), dtype=int)
    labels[:, 200:] = 2
    picture = overlay(image, labels, ID2LABEL)
    assert picture.width == 400
    assert picture.height > 120
    assert np.array_equal(np.asarray(picture)[:120], np.asarray(blend(image, labels, make_palette(ID2LABEL))))
    legend = {tuple(color) for color in np.asarray(picture)[120:].reshape(-1, 3).tolist()}
    palette = make_palette(ID2LABEL)
    assert tuple(palette[0]) in legend
    assert tuple(palette[2]) in legend
    assert tuple(palette[1]) not in legend  # not in the label map


def test_overlay_widens_rather_than_cutting_a_name_off():
    picture = overlay(noise(10, 20), np.zeros((10, 20), dtype=int), {0: "a name that is far wider than the image"})
    assert picture.width > 100


def test_overlay_refuses_sizes_and_alpha_that_do_not_fit():
    with pytest.raises(ValueError, match=r"label_map has shape \(4, 5\), expected .* \(8, 10\)"):
        overlay(noise(8, 10), np.zeros((4, 5), dtype=int), ID2LABEL)
    with pytest.raises(ValueError, match="alpha is 2, expected a number from 0 to 1"):
        overlay(noise(4, 5), np.zeros((4, 5), dtype=int), ID2LABEL, alpha=2)


def test_legend_breaks_into_rows():
    names, colors = ["building"] * 6, [(1, 2, 3)] * 6
    assert make_legend(names, colors, width=1000).height < make_legend(names, colors, width=200).height


def test_token_map_fills_patches_of_one_token_with_its_mean_colour():
    patch, tokens = 8, np.array([[5, 5, 2], [5, 1, 2]])
    image = noise(16, 24)
    filled = np.asarray(token_map(image, tokens.reshape(-1), (2, 3), patch)).astype(int)
    pixels = np.asarray(image).astype(np.float64)
    cells = tokens.repeat(patch, axis=0).repeat(patch, axis=1)
    for token in (1, 2, 5):
        mean = pixels[cells == token].mean(axis=0).round().astype(int)
        for row, column in zip(*np.where(tokens == token), strict=True):
            inside = filled[row * patch + 1 : (row + 1) * patch, column * patch + 1 : (column + 1) * patch]
            assert np.abs(inside - mean).max() <= 1
    # a line between different tokens, none inside a token
    assert (filled[4, 16] > filled[4, 17]).all()
    assert np.array_equal(filled[4, 8], filled[4, 9])


def test_token_map_crops_the_padding_and_magnifies():
    picture = token_map(noise(13, 21), np.arange(6), (2, 3), 8, magnify=3)
    assert picture.size == (63, 39)


def test_token_map_refuses_a_grid_that_does_not_fit():
    with pytest.raises(ValueError, match="patch_to_token has 5 entries, expected 2 x 3 patches"):
        token_map(noise(16, 24), np.arange(5), (2, 3), 8)
    with pytest.raises(
        ValueError, match="image is 16 x 32 pixels, which is 2 x 4 patches of 8, expected a grid of 2 x 3"
    ):
        token_map(noise(16, 32), np.arange(6), (2, 3), 8)


def test_panel_sets_every_picture_at_the_column_width():
    red, blue = Image.new("RGB", (20, 10), (250, 0, 0)), Image.new("RGB", (50, 50), (0, 0, 250))
    picture = panel([[red, blue], [blue, red]], ["left", "right"], heading="two by two", column_width=100)
    pixels = np.asarray(picture).reshape(-1, 3)
    assert picture.width >= 200
    assert (pixels == (250, 0, 0)).all(axis=1).sum() == 2 * 100 * 50
    assert (pixels == (0, 0, 250)).all(axis=1).sum() == 2 * 100 * 100


def test_panel_refuses_rows_that_do_not_match_the_titles():
    with pytest.raises(ValueError, match="row 0 has 1 pictures and 2 captions, expected 2 each"):
        panel([[noise(4, 4)]], ["left", "right"])
    with pytest.raises(ValueError, match="expected the same number, at least 1"):
        panel([], ["left"])
