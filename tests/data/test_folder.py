# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from algm_hf.data.classes import read_classes
from algm_hf.data.folder import load_segmentation_folder


@pytest.fixture
def folder(tmp_path):
    """Three classes; two training pairs and one validation pair of 6 x 4 pixels."""
    (tmp_path / "classes.txt").write_text("sky\ntall tree\nroad\n")
    for split, stems in (("train", ("a", "b.1")), ("val", ("c",))):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for stem in stems:
            Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "images" / split / f"{stem}.jpg")
            save_labels(tmp_path / "annotations" / split / f"{stem}.png", [[0, 1, 2, 255, 0, 0]] * 4)
    return tmp_path


def save_labels(path, values):
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def test_pairs_classes_and_split_names(folder):
    dataset, id2label = load_segmentation_folder(folder)
    assert id2label == {0: "sky", 1: "tall tree", 2: "road"}
    assert {name: len(split) for name, split in dataset.items()} == {"train": 2, "validation": 1}
    row = dataset["train"][1]
    assert row["image"].size == row["annotation"].size == (6, 4)
    assert np.asarray(row["annotation"])[0].tolist() == [0, 1, 2, 255, 0, 0]


def test_the_split_may_be_called_validation(folder):
    for kind in ("images", "annotations"):
        (folder / kind / "val").rename(folder / kind / "validation")
    assert set(load_segmentation_folder(str(folder))[0]) == {"train", "validation"}


def test_both_validation_names_are_refused(folder):
    (folder / "images" / "validation").mkdir()
    with pytest.raises(ValueError, match="both validation and val"):
        load_segmentation_folder(folder)


def test_ignored_labels_become_255_and_only_those(folder):
    save_labels(folder / "annotations/train/a.png", [[0, 1, 2, 3, 255, 7]] * 4)
    dataset, id2label = load_segmentation_folder(folder, ignore_labels=[3, 7])
    assert np.asarray(dataset["train"][0]["annotation"])[0].tolist() == [0, 1, 2, 255, 255, 255]
    assert len(id2label) == 3


def test_labels_outside_the_classes_are_refused_with_the_way_out(folder):
    save_labels(folder / "annotations/train/a.png", [[0, 1, 2, 3, 255, 7]] * 4)
    with pytest.raises(
        ValueError,
        match=r"a\.png holds the label\(s\) 3 7 in 4 4 pixels, expected 0 to 2 [\s\S]*--ignore_labels 3 7\)",
    ):
        load_segmentation_folder(folder)


def test_palette_and_16_bit_label_maps_keep_their_values(folder):
    indexed = Image.fromarray(np.full((4, 6), 2, dtype=np.uint8)).convert("P")
    indexed.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    indexed.save(folder / "annotations/train/a.png")
    Image.fromarray(np.full((4, 6), 300, dtype=np.uint16)).save(folder / "annotations/val/c.png")
    dataset, _ = load_segmentation_folder(folder, ignore_labels={300})
    assert np.unique(np.asarray(dataset["train"][0]["annotation"])).tolist() == [2]
    assert np.unique(np.asarray(dataset["validation"][0]["annotation"])).tolist() == [255]


def test_coloured_label_maps_are_refused(folder):
    Image.new("RGB", (6, 4)).save(folder / "annotations/train/a.png")
    with pytest.raises(ValueError, match=r"a\.png is an image of mode RGB, expected one channel"):
        load_segmentation_folder(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "annotations/train/a.png",
            r"1 of 2 samples .*train.* 1 without partner\.\n- .*images/train/a\.jpg has no partner .*annotations",
        ),
        (
            "images/train/a.jpg",
            r"1 of 2 samples .*train.* 1 without partner\.\n- .*annotations/train/a\.png has no partner .*images",
        ),
        ("classes.txt", r"classes\.txt does not exist"),
    ],
)
def test_a_missing_file_is_named(folder, file, message):
    (folder / file).unlink()
    with pytest.raises(ValueError, match=message):
        load_segmentation_folder(folder)


def test_an_empty_split_is_named(folder):
    (folder / "images/val/c.jpg").unlink()
    (folder / "annotations/val/c.png").unlink()
    with pytest.raises(ValueError, match=r"images/val holds no images"):
        load_segmentation_folder(folder)


def test_a_split_without_annotations_is_named(folder):
    (folder / "annotations/val/c.png").unlink()
    (folder / "annotations/val").rmdir()
    with pytest.raises(ValueError, match=r"annotations/val does not exist"):
        load_segmentation_folder(folder)


def test_a_size_that_differs_is_refused_but_an_exif_rotation_is_followed(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    Image.new("RGB", (4, 6)).save(folder / "images/train/a.jpg", exif=exif)
    assert load_segmentation_folder(folder)[0]["train"][0]["image"].size == (6, 4)
    Image.new("RGB", (4, 6)).save(folder / "images/train/a.jpg")
    with pytest.raises(ValueError, match=r"a\.png is 6 x 4 pixels .* expected the 4 x 6 of .*a\.jpg"):
        load_segmentation_folder(folder)


@pytest.mark.parametrize("file", ["images/train/a.jpg", "annotations/train/a.png"])
def test_a_broken_file_is_named(folder, file):
    (folder / file).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"a\.(jpg|png).* cannot be read as an image"):
        load_segmentation_folder(folder)


def test_other_files_beside_the_images_do_no_harm(folder):
    for name in (".DS_Store", "notes.txt"):
        (folder / "images/train" / name).write_text("x")
    assert len(load_segmentation_folder(folder)[0]["train"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("sky\n\nroad\n", "line 2 is empty"), ("sky\nroad\nsky\n", "'sky' on lines 1 and 3")],
)
def test_classes_file_is_checked(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_a_path_that_is_no_segmentation_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        load_segmentation_folder(tmp_path / "nowhere")
    (tmp_path / "classes.txt").write_text("sky\n")
    with pytest.raises(ValueError, match="images does not exist"):
        load_segmentation_folder(tmp_path)
