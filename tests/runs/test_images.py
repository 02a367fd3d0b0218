# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from algm_hf.runs.images import find_images, read_rgb


def test_images_of_every_mode_are_read_upright_as_rgb(tmp_path):
    sideways, exif = Image.new("RGB", (30, 20), (200, 10, 10)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    assert read_rgb(tmp_path / "sideways.jpg").size == (20, 30)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "clear.png").getpixel((4, 4)) == (255, 255, 255)
    Image.fromarray(np.full((9, 9), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert read_rgb(tmp_path / "deep.png").getpixel((4, 4)) == (100, 100, 100)
    frames = [Image.new("P", (9, 9), color) for color in (0, 1)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_rgb(tmp_path / "moving.gif").mode == "RGB"


@pytest.mark.parametrize("content", [b"\xff\xd8 cut off", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg=.*: expected an image"):
        read_rgb(tmp_path / "broken.jpg")


def test_image_files_are_found_once_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    found = find_images([tmp_path / "b.png", tmp_path])
    assert [path.name for path in found] == ["b.png", "a.JPG"]


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images='.*nowhere'"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"images=\['.*'\]"):
        find_images([tmp_path])
