# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
from hashlib import sha256

import pytest
from segmentation_files import SIZE, build_layout, labels_of, load, write_image, write_labels
from torchvision.datasets import Cityscapes
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from algm_hf.data.classes import read_class_table
from algm_hf.data.layouts import LAYOUTS


NUM_CLASSES = {
    "ade20k": 150,
    "camvid": 11,
    "cityscapes": 19,
    "coco_stuff": 171,
    "pascal_context_59": 59,
    "pascal_context_60": 60,
}


# Class files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_files_have_every_class_once(layout):
    table, count = read_class_table(layout), NUM_CLASSES[layout]
    assert len(table.classes) == len(set(table.classes)) == len(set(table.stored_labels)) == count
    assert all(name.strip() == name and name for name in table.classes)
    assert not set(table.stored_labels) & set(table.ignored_labels)
    if table.palette is not None:
        assert len(set(table.palette)) == count
        assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in table.palette)


def test_cityscapes_ids_names_and_colours_are_those_torchvision_knows():
    known = [each for each in Cityscapes.classes if each.id >= 0]
    used = sorted((each for each in known if 0 <= each.train_id < 255), key=lambda each: each.train_id)
    table = read_class_table("cityscapes")
    assert table.classes == [each.name for each in used]
    assert table.stored_labels == [each.id for each in used]
    assert table.palette == [each.color for each in used]
    assert sorted(table.stored_labels + table.ignored_labels) == sorted(each.id for each in known)


def test_coco_things_and_their_numbers_are_those_torchvision_knows():
    categories = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]  # by COCO's id, from 1; absent ones N/A
    things = [(number - 1, name) for number, name in enumerate(categories) if name not in ("__background__", "N/A")]
    table = read_class_table("coco_stuff")
    assert list(zip(table.stored_labels, table.classes, strict=True))[:80] == things
    assert table.stored_labels[80:] == list(range(91, 182))
    assert table.classes[80:] == sorted(table.classes[80:])
    assert sorted(table.stored_labels + table.ignored_labels) == list(range(182))


@pytest.mark.parametrize(
    ("layout", "digest"),
    [
        ("ade20k", "f9dbd8a75a0722c971d8c82db76dc205e06cb422d98153f4e5bbf90408ef5438"),
        ("pascal_context_59", "cd808465f06a16169edc25580073f0eda347e64f06cc1c2e24acd0b237f6497d"),
    ],
)
def test_no_two_names_are_swapped(layout, digest):
    names = "\n".join(read_class_table(layout).classes)
    assert sha256(names.encode()).hexdigest() == digest, "compared with the release by hand: compare again"


def test_pascal_context_59_is_in_alphabetical_order():
    names = read_class_table("pascal_context_59").classes
    assert names == sorted(names)


def test_pascal_context_60_is_59_behind_the_background():
    with_background, without = read_class_table("pascal_context_60"), read_class_table("pascal_context_59")
    assert with_background.classes == ["background", *without.classes]
    assert with_background.stored_labels == list(range(60)) and without.stored_labels == list(range(1, 60))
    assert without.ignored_labels == [0]


@pytest.mark.parametrize(
    ("layout", "stored", "classes"),
    [
        ("ade20k", [0, 1, 2, 150, 13, 255], [None, "wall", "building", "flag", "person", None]),
        ("cityscapes", [7, 26, 33, 0, 24, 255], ["road", "car", "bicycle", None, "person", None]),
        ("pascal_context_59", [0, 1, 59, 36, 7, 255], [None, "aeroplane", "wood", "mouse", "bird", None]),
        ("pascal_context_60", [0, 1, 59, 36, 7, 255], ["background", "aeroplane", "wood", "mouse", "bird", None]),
        ("coco_stuff", [0, 12, 181, 89, 91, 255], ["person", "stop sign", "wood", "toothbrush", "banner", None]),
        ("camvid", [0, 3, 10, 11, 8, 255], ["sky", "road", "bicyclist", None, "car", None]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_stored_values_become_the_right_classes(tmp_path, layout, stored, classes, streaming):
    build_layout(tmp_path, layout, {"train": {"a": stored}, "validation": {"b": stored, "c": stored}})
    data = load(layout, tmp_path, streaming=streaming)
    assert list(data.id2label) == list(range(NUM_CLASSES[layout]))
    train, evaluation = list(data.train), list(data.evaluation)
    assert [row["name"] for row in train] == ["a"] and [row["name"] for row in evaluation] == ["b", "c"]
    assert [data.id2label.get(label) for label in labels_of(train[0])] == classes
    assert all(label in data.id2label or label == 255 for label in labels_of(train[0]))
    assert train[0]["image"].mode == "RGB" and train[0]["image"].size == train[0]["annotation"].size == SIZE


# Layouts


def test_layouts_may_be_named_by_the_folder_above_or_itself(tmp_path):
    build_layout(tmp_path / "a", "ade20k", {"train": {"x": [1] * 6}})
    assert len(load("ade20k", tmp_path / "a/ADEChallengeData2016", ["train"]).train) == 1
    build_layout(tmp_path / "b/VOCdevkit/VOC2010", "pascal_context_59", {"train": {"x": [1] * 6}})
    assert len(load("pascal_context_59", tmp_path / "b", ["train"]).train) == 1


def test_pascal_context_takes_the_names_of_its_split_file_alone(tmp_path):
    build_layout(tmp_path, "pascal_context_59", {"train": {"a": [1] * 6, "c": [3] * 6}, "validation": {"b": [2] * 6}})
    data = load("pascal_context_59", tmp_path)
    assert [row["name"] for row in data.train] == ["a", "c"] and [row["name"] for row in data.evaluation] == ["b"]
    (tmp_path / "JPEGImages/c.jpg").unlink()
    with pytest.raises(ValueError, match=r"JPEGImages/c\.jpg does not exist, but .*train\.txt names it"):
        load("pascal_context_59", tmp_path)


def test_what_the_release_of_pascal_context_lacks_is_said_with_the_conversion_that_makes_it(tmp_path):
    build_layout(tmp_path, "pascal_context_59", {"train": {"a": [1] * 6}})
    with pytest.raises(ValueError, match=r"val\.txt='missing': .*pascal_context\.py makes the label maps and"):
        load("pascal_context_59", tmp_path)
    (tmp_path / "SegmentationClassContext").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"SegmentationClassContext='missing': .*pascal_context\.py"):
        load("pascal_context_59", tmp_path, ["train"])


def test_cityscapes_reads_every_city_and_train_ids_where_there_are_no_ids(tmp_path):
    for city in ("ulm", "bonn"):
        write_image(tmp_path / f"leftImg8bit/train/{city}/{city}_1_leftImg8bit.png")
        write_labels(tmp_path / f"gtFine/train/{city}/{city}_1_gtFine_labelTrainIds.png", [0, 1, 18, 255, 7, 7])
        write_labels(tmp_path / f"gtFine/train/{city}/{city}_1_gtFine_instanceIds.png", [26001] * 6)
    data = load("cityscapes", tmp_path, ["train"])
    assert [row["name"] for row in data.train] == ["bonn_1", "ulm_1"]
    assert labels_of(data.train[0]) == [0, 1, 18, 255, 7, 7]
    for city in ("ulm", "bonn"):
        write_labels(tmp_path / f"gtFine/train/{city}/{city}_1_gtFine_labelIds.png", [7, 7, 7, 0, 33, 8])
    assert labels_of(load("cityscapes", tmp_path, ["train"]).train[0]) == [0, 0, 0, 255, 18, 1]


def test_coco_stuff_prefers_converted_label_maps(tmp_path):
    build_layout(tmp_path, "coco_stuff", {"train": {"a": [91] * 6}})
    assert labels_of(load("coco_stuff", tmp_path, ["train"]).train[0]) == [80] * 6
    write_labels(tmp_path / "annotations/train2017/a_labelTrainIds.png", [170, 80, 0, 255, 1, 2])
    assert labels_of(load("coco_stuff", tmp_path, ["train"]).train[0]) == [170, 80, 0, 255, 1, 2]


def test_camvid_comes_in_two_layouts(tmp_path):
    for split in ("train", "val", "test"):
        write_image(tmp_path / split / f"{split}_1.png")
        write_labels(tmp_path / f"{split}annot" / f"{split}_1.png", [0, 11, 10, 1, 2, 3])
    data = load("camvid", tmp_path)
    assert data.train[0]["name"] == "train_1" and data.evaluation[0]["name"] == "val_1"
    assert labels_of(data.train[0]) == [0, 255, 10, 1, 2, 3]
    assert data.palette[3] == (128, 64, 128)
    assert load("camvid", tmp_path, eval_split="test").evaluation[0]["name"] == "test_1"
    with pytest.raises(ValueError, match="trainval='missing'"):
        load("camvid", tmp_path, train_split="trainval")
