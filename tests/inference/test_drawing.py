# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from algm_hf.inference.drawing import blend, colorize, make_legend, overlay, panel, save_label_map, token_map
from algm_hf.inference.files import output_names
from algm_hf.inference.palettes import make_palette


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
    with pytest.raises(ValueError, match=r"id2label=\[0, 2\]"):
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
    with pytest.raises(ValueError, match="label_map=256"):
        save_label_map(np.array([[0, 256]]), tmp_path / "labels.png", palette)
    with pytest.raises(ValueError, match=r"label_map=\(\(2,\), 'int64'\)"):
        save_label_map(np.array([0, 1]), tmp_path / "labels.png", palette)
    with pytest.raises(ValueError, match="label_map=.*float64"):
        save_label_map(np.array([[0.5]]), tmp_path / "labels.png", palette)


def test_blend_at_alpha_zero_is_the_image_and_ignored_pixels_always_are():
    image, labels = noise(8, 10), np.zeros((8, 10), dtype=int)
    assert np.array_equal(np.asarray(blend(image, labels, make_palette(ID2LABEL), alpha=0)), np.asarray(image))
    labels[:] = 255
    assert np.array_equal(np.asarray(blend(image, labels, make_palette(ID2LABEL), alpha=1)), np.asarray(image))


def test_overlay_keeps_the_image_size_and_adds_a_legend_below():
    image, labels = noise(120, 400), np.zeros((120, 400), dtype=int)
    labels[:, 200:] = 2
    drawn = overlay(image, labels, ID2LABEL)
    assert drawn.width == 400
    assert drawn.height > 120
    assert np.array_equal(np.asarray(drawn)[:120], np.asarray(blend(image, labels, make_palette(ID2LABEL))))
    legend = {tuple(color) for color in np.asarray(drawn)[120:].reshape(-1, 3).tolist()}
    palette = make_palette(ID2LABEL)
    assert tuple(palette[0]) in legend
    assert tuple(palette[2]) in legend
    assert tuple(palette[1]) not in legend  # not in the label map


def test_overlay_widens_rather_than_cutting_a_name_off():
    drawn = overlay(noise(10, 20), np.zeros((10, 20), dtype=int), {0: "a name that is far wider than the image"})
    assert drawn.width > 100


def test_overlay_refuses_sizes_and_alpha_that_do_not_fit():
    with pytest.raises(ValueError, match=r"label_map=\(4, 5\)"):
        overlay(noise(8, 10), np.zeros((4, 5), dtype=int), ID2LABEL)
    with pytest.raises(ValueError, match="alpha=2"):
        overlay(noise(4, 5), np.zeros((4, 5), dtype=int), ID2LABEL, alpha=2)


def test_a_legend_breaks_into_rows_and_shows_names_as_they_are():
    colors = [(1, 2, 3)] * 6
    assert make_legend(["building"] * 6, colors, 1000).height < make_legend(["building"] * 6, colors, 200).height
    # Neither left out, as matplotlib does with its own labels, nor read as a formula.
    odd = make_legend(["_back$ground$_"], colors[:1], 400)
    assert odd.width > make_legend(["_"], colors[:1], 400).width + 60


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
    drawn = token_map(noise(13, 21), np.arange(6), (2, 3), 8, magnify=3)
    assert drawn.size == (63, 39)


def test_token_map_refuses_a_grid_that_does_not_fit():
    with pytest.raises(ValueError, match=r"patch_to_token=\(5,\)"):
        token_map(noise(16, 24), np.arange(5), (2, 3), 8)
    with pytest.raises(ValueError, match=r"grid_size=\(2, 3\)"):
        token_map(noise(16, 32), np.arange(6), (2, 3), 8)


def test_panel_sets_every_image_at_about_the_column_width():
    red, blue = Image.new("RGB", (20, 10), (250, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 250))
    drawn = panel([[red, blue], [blue, red]], ["left", "right"], heading="two by two", column_width=100)
    pixels = np.asarray(drawn).reshape(-1, 3)
    assert drawn.width >= 200
    for color in ((250, 0, 0), (0, 0, 250)):
        assert (pixels == color).all(axis=1).sum() == pytest.approx(2 * 100 * 50, rel=0.1)


def test_panel_refuses_rows_that_do_not_match_the_titles():
    with pytest.raises(ValueError, match=r"row=\(1, 2\)"):
        panel([[noise(4, 4)]], ["left", "right"])
    with pytest.raises(ValueError, match="captions=0"):
        panel([], ["left"])


def test_results_of_files_of_one_name_do_not_overwrite_each_other():
    paths = [Path(name) for name in ("a.png", "b.jpg", "x/a.jpg", "a.gif")]
    assert output_names(paths) == ["a", "b", "a_2", "a_3"]
