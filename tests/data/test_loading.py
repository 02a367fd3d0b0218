# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import gc
import io
import json
import pickle
import re
import struct
import zlib
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_files import SIZE, build_layout, labels_of, load, write_image, write_labels
from torch.utils.data import DataLoader
from transformers import HfArgumentParser

from algm_hf.data.arguments import DataArguments
from algm_hf.data.augmentation import AugmentedDataset, AugmentedIterableDataset, SegmentationAugmentation
from algm_hf.data.classes import LabelMapping, read_id2label
from algm_hf.data.layouts import LAYOUTS
from algm_hf.data.loading import load_segmentation_data
from algm_hf.data.rows import BadSampleError, RowReader


@pytest.fixture
def folder(tmp_path):
    """Three classes; five training pairs and two validation pairs."""
    root = tmp_path / "set"
    root.mkdir()
    (root / "classes.txt").write_text("sky\ntree\nroad\n")
    for split, stems in (("train", "abcde"), ("val", "vw")):
        for number, stem in enumerate(stems):
            write_image(root / f"images/{split}/{stem}.jpg", number)
            write_labels(root / f"annotations/{split}/{stem}.png", [0, 1, 2, 255, number % 3, 0])
    return root


def test_generic_folder(folder):
    data = load("folder", folder)
    assert data.id2label == {0: "sky", 1: "tree", 2: "road"} and data.palette is None and data.skipped == []
    assert len(data.train) == 5 and len(data.evaluation) == 2
    assert data.train["name"][:2] == ["a", "b"]
    assert labels_of(data.train[4]) == [0, 1, 2, 255, 1, 0]
    with Image.open(folder / "images/train/c.jpg") as image:
        assert np.array_equal(np.asarray(data.train[2]["image"]), np.asarray(image))


def test_only_the_splits_asked_for_are_loaded(folder):
    (folder / "images/train/a.jpg").write_bytes(b"broken")
    data = load("folder", folder, ["evaluation"])
    assert data.train is None and len(data.evaluation) == 2
    with pytest.raises(ValueError, match="splits='test'"):
        load("folder", folder, ["test"])
    with pytest.raises(ValueError, match="splits="):
        load("folder", folder, [])


def test_labels_may_be_reduced_and_ignored_at_once(folder):
    for path in (folder / "annotations").glob("*/*.png"):
        write_labels(path, [0, 1, 2, 3, 7, 255])
    data = load("folder", folder, reduce_labels=True, ignore_labels=[7])
    assert labels_of(data.train[0]) == [255, 0, 1, 2, 255, 255]


def test_16_bit_and_palette_label_maps_and_images_of_every_kind(folder):
    write_labels(folder / "annotations/train/a.png", [0, 1, 2, 300, 2, 2])
    indexed = Image.fromarray(np.array([[0, 1, 2, 2, 1, 0]] * 4, dtype=np.uint8)).convert("P")
    indexed.putpalette([9, 9, 9, 10, 20, 30, 200, 100, 50])
    indexed.save(folder / "annotations/train/b.png")
    Image.new("L", SIZE, 77).save(folder / "images/train/c.jpg")
    (folder / "images/train/d.jpg").unlink()
    Image.new("RGBA", SIZE, (10, 20, 30, 0)).save(folder / "images/train/d.png")
    (folder / "images/train/e.jpg").unlink()
    Image.fromarray(np.full((4, 6), 257 * 90, dtype=np.uint16)).save(folder / "images/train/e.png")
    rows = list(load("folder", folder, ignore_labels=[300]).train)
    assert labels_of(rows[0]) == [0, 1, 2, 255, 2, 2] and labels_of(rows[1]) == [0, 1, 2, 2, 1, 0]
    assert [row["image"].getpixel((0, 0)) for row in rows[2:]] == [(77,) * 3, (255,) * 3, (90,) * 3]
    assert {row["image"].mode for row in rows} == {"RGB"}


def test_exif_rotation_is_followed(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    write_image(folder / "images/train/a.jpg", size=(4, 6), exif=exif)
    for streaming in (False, True):
        row = next(iter(load("folder", folder, streaming=streaming).train))
        assert row["image"].size == row["annotation"].size == SIZE


def test_the_first_samples_can_be_asked_for(folder):
    for streaming in (False, True):
        data = load("folder", folder, max_train_samples=2, max_eval_samples=9, streaming=streaming)
        assert [row["name"] for row in data.train] == ["a", "b"] and [row["name"] for row in data.evaluation] == [
            *"vw"
        ]


def test_loaded_rows_can_be_selected_shuffled_and_batched(folder):
    train = load("folder", folder).train
    assert [row["name"] for row in train.select([3, 1])] == ["d", "b"]
    assert sorted(row["name"] for row in train.shuffle(seed=1)) == [*"abcde"]
    assert [image.size for image in train[:3]["image"]] == [SIZE] * 3


def test_rows_feed_the_augmentation_in_workers(folder):
    augmentation = SegmentationAugmentation((8, 8), 4)
    train = AugmentedDataset(load("folder", folder).train, augmentation, seed=0)
    batches = list(DataLoader(train, batch_size=5, num_workers=2))
    assert torch.equal(batches[0]["pixel_values"], torch.stack([train[index]["pixel_values"] for index in range(5)]))
    stream = AugmentedIterableDataset(load("folder", folder, streaming=True).train, augmentation, seed=0)
    alone = list(stream)
    together = [row for batch in DataLoader(stream, batch_size=None, num_workers=2) for row in [batch]]
    key = [row["pixel_values"].numpy().tobytes() for row in alone]
    assert len(together) == 5 and Counter(row["pixel_values"].numpy().tobytes() for row in together) == Counter(key)


def test_class_names_of_a_folder_may_come_from_json(folder):
    names = folder / "names.json"
    names.write_text('["a", "b", "c", "d"]')
    assert load("folder", folder, id2label=str(names)).id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    (folder / "classes.txt").unlink()
    assert len(load("folder", folder, id2label=str(names)).id2label) == 4
    with pytest.raises(ValueError, match=r"classes\.txt='missing'"):
        load("folder", folder)


# Bad samples

OUTSIDE = [0, 1, 2, 3, 3, 9]


def spoil(folder, kind):
    """Makes training samples unusable and returns their stems."""
    if kind == "partner":
        (folder / "annotations/train/b.png").unlink()
    elif kind == "image":
        (folder / "images/train/b.jpg").write_bytes(b"no image")
    elif kind == "truncated":
        path = folder / "images/train/b.jpg"
        write_image(path, size=(60, 40))
        write_labels(folder / "annotations/train/b.png", [0] * 60, 40)
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "label map":
        (folder / "annotations/train/b.png").write_bytes(b"")
    elif kind == "size":
        write_image(folder / "images/train/b.jpg", size=(4, 6))
    elif kind == "colours":
        write_image(folder / "annotations/train/b.png")
    elif kind == "values":
        write_labels(folder / "annotations/train/b.png", OUTSIDE)


MESSAGES = {
    "partner": r"images/train/b\.jpg has no partner of the same name in .*annotations/train\.",
    "image": r"images/train/b\.jpg cannot be read as an image: ",
    "truncated": r"images/train/b\.jpg cannot be read as an image: .*truncated",
    "label map": r"annotations/train/b\.png cannot be read as an image: ",
    "size": r"annotations/train/b\.png is 6 x 4 pixels \(width x height\), expected the 4 x 6 of .*train/b\.jpg",
    "colours": r"annotations/train/b\.png is an image of mode RGB, expected one channel of class numbers",
    "values": r"annotations/train/b\.png holds the label\(s\) 3 9 in 8 4 pixels, expected 0 to 2 \(3 classes\)",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_bad_sample_stops_the_loading(folder, kind):
    spoil(folder, kind)
    message = rf"1 of 5 samples of split train of .* cannot be used: 1 [\w ]+\.\n- .*{MESSAGES[kind]}"
    with pytest.raises(ValueError, match=message) as caught:
        load("folder", folder)
    assert "--skip_bad_samples" in str(caught.value)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_bad_sample_can_be_skipped_and_is_listed(folder, kind):
    spoil(folder, kind)
    data = load("folder", folder, skip_bad_samples=True)
    assert [row["name"] for row in data.train] == [*"acde"] and len(data.evaluation) == 2
    assert len(data.skipped) == 1 and re.search(MESSAGES[kind], data.skipped[0])


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind != "partner"])
def test_without_the_check_a_bad_sample_raises_when_it_is_read(folder, kind):
    spoil(folder, kind)
    train = load("folder", folder, check_files=False).train
    assert train[0]["name"] == "a"
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        train[1]


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind != "partner"])
def test_a_stream_stops_at_a_bad_sample_or_skips_and_lists_it(folder, kind):
    spoil(folder, kind)
    stream = iter(load("folder", folder, streaming=True).train)
    assert next(stream)["name"] == "a"
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        next(stream)
    data = load("folder", folder, streaming=True, skip_bad_samples=True)
    assert data.skipped == []
    for _ in range(2):
        assert [row["name"] for row in data.train] == [*"acde"]
    assert len(data.skipped) == 1 and re.search(MESSAGES[kind], data.skipped[0])


def test_what_the_workers_of_a_stream_leave_out_is_listed_in_this_process(folder):
    spoil(folder, "values")
    (folder / "images/train/e.jpg").write_bytes(b"no image")
    data = load("folder", folder, streaming=True, skip_bad_samples=True)
    loader = DataLoader(data.train, batch_size=None, num_workers=2)
    for _ in range(2):
        assert sorted(row["name"] for row in loader) == [*"acd"]
    assert len(data.skipped) == 2 and {line.split(" ")[0][-5:] for line in data.skipped} == {"b.png", "e.jpg"}
    pickle.loads(pickle.dumps(data.skipped_samples)).add("from a worker that was spawned")
    assert data.skipped[2:] == ["from a worker that was spawned"]
    path = Path(data.skipped_samples.path)
    assert path.is_file()
    del data, loader
    gc.collect()
    assert not path.exists()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def stored_rows(folder, paths, bad=(), streaming=True):
    """A Parquet file of one row for each path, `None` for no path; it is read as a data set without names."""
    rows = []
    for number, path in enumerate(paths):
        stored = {"bytes": png(np.full((4, 6, 3), number, dtype=np.uint8)), "path": path}
        value = 9 if number in bad else 1
        labels = {"bytes": png(np.full((4, 6), value, np.uint8)), "path": path and "labels.png"}
        rows.append({"image": stored, "annotation": labels})
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    folder.mkdir()
    for part in range(2):
        content = {key: [row[key] for row in rows[part::2]] for key in features}
        datasets.Dataset.from_dict(content, features).to_parquet(str(folder / f"train-{part}.parquet"))
    (folder.parent / "names.json").write_text('["a", "b"]')
    return load(
        str(folder),
        splits=["train"],
        streaming=streaming,
        skip_bad_samples=True,
        id2label=f"{folder.parent}/names.json",
    )


def test_rows_of_a_stream_have_the_same_names_of_their_own_however_many_workers_read_it(tmp_path):
    data = stored_rows(tmp_path / "rows", ["x/one.png", "y/one.png", "two.png", None, None, None])
    names = sorted(row["name"] for row in data.train)
    assert len(set(names)) == 6
    assert [name.rsplit("-", 1)[0] for name in names] == ["one", "one", "train", "train", "train", "two"]
    for num_workers in (1, 2):
        loader = DataLoader(data.train, batch_size=None, num_workers=num_workers)
        assert sorted(row["name"] for row in loader) == names


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("path", ["image.png", None])
def test_every_bad_row_is_listed_whatever_files_rows_are_stored_under(tmp_path, path, streaming):
    data = stored_rows(tmp_path / "rows", [path] * 4, bad=(1, 2, 3), streaming=streaming)
    assert len(list(data.train)) == 1
    assert len(data.skipped) == 3 and all("holds the label(s) 9" in line for line in data.skipped)


def test_a_stream_of_a_folder_misses_partners_before_it_starts(folder):
    spoil(folder, "partner")
    with pytest.raises(ValueError, match=MESSAGES["partner"]):
        load("folder", folder, streaming=True)
    data = load("folder", folder, streaming=True, skip_bad_samples=True)
    assert len(data.skipped) == 1 and [row["name"] for row in data.train] == [*"acde"]


def test_counts_are_those_of_the_whole_split_and_the_first_files_are_named(folder):
    for number in range(7):
        write_image(folder / f"images/train/x{number}.jpg")
        write_labels(folder / f"annotations/train/x{number}.png", [0, 3, 3, 0, 0, 40] if number else OUTSIDE)
    spoil(folder, "size")
    spoil(folder, "partner")
    (folder / "images/train/e.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="9 of 12 samples") as caught:
        load("folder", folder)
    text = str(caught.value)
    assert "1 without partner, 1 unreadable, 7 with labels outside the classes." in text
    assert text.count("\n- ") == 1 + 1 + 6 and "- and 2 more with labels outside the classes" in text
    # x0 has 2 x 4 pixels of 3 and 4 of 9; each of the six others 8 of 3 and 4 of 40
    assert "3 (56 pixels in 7 files), 9 (4 pixels in 1 files), 40 (24 pixels in 6 files)" in text
    assert "--ignore_labels 3 9 40)" in text
    data = load("folder", folder, skip_bad_samples=True)
    assert len(data.train) == 3 and len(data.skipped) == 9


def test_the_count_of_classes_as_label_suggests_to_reduce(folder):
    write_labels(folder / "annotations/train/a.png", [1, 2, 3, 1, 1, 1])
    with pytest.raises(ValueError, match=r"0 for 'unlabelled' and 1 to 3 for the classes, pass reduce_labels"):
        load("folder", folder)


def test_a_split_without_a_good_sample_is_refused(folder):
    for stem in "abcde":
        write_labels(folder / f"annotations/train/{stem}.png", OUTSIDE)
    with pytest.raises(ValueError, match="split train of .*no usable sample"):
        load("folder", folder, skip_bad_samples=True)


def test_label_maps_without_a_class_and_black_and_white_masks_are_refused(folder):
    for stem in "abcde":
        write_labels(folder / f"annotations/train/{stem}.png", [255] * 6)
    with pytest.raises(ValueError, match="split train of .*no labelled pixel.* 0 to 2"):
        load("folder", folder)
    for path in (folder / "annotations").glob("*/*.png"):
        write_labels(path, [0, 0, 255, 255, 0, 0])
    assert len(load("folder", folder).train) == 5
    (folder / "classes.txt").write_text("background\nobject\n")
    with pytest.raises(ValueError, match="only labels 0 and 255"):
        load("folder", folder)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("column", ["image", "annotation"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_damaged_files_are_bad_samples_wherever_the_damage_is(column, format):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB" if column == "image" else "L", SIZE, 1).save(buffer, format=format, exif=exif)
    good, reader = buffer.getvalue(), RowReader(LabelMapping([0, 1]))
    pair = {"image": Image.new("RGB", (4, 6)), "annotation": Image.new("L", (4, 6), 1), "name": "a"}
    damaged = [
        good[:place] + bytes([good[place] ^ bits]) + good[place + 1 :]
        for place in range(min(len(good), 200))
        for bits in (1, 128, 255)
    ]
    damaged += [good[:place] for place in range(len(good))]
    refusals = 0
    for content in damaged:
        row = {**pair, column: {"bytes": content, "path": "some.file"}}
        for read in (reader.check, reader.read):
            try:
                read(row)
            except BadSampleError as error:
                assert "some.file" in str(error)
                refusals += 1
    assert refusals > len(damaged) / 4


def test_a_png_of_a_broken_header_and_lists_of_different_lengths_are_bad_samples():
    reader, stored = RowReader(LabelMapping([0, 1])), Image.new("RGB", SIZE)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s5s", 5, b"IHDR", b"\0" * 5)
    broken = header + struct.pack(">I", zlib.crc32(header[-9:]))
    ragged = [[0, 1, 0], [0, 1]]
    for row in ({"image": {"bytes": broken, "path": "b.png"}, "annotation": Image.new("L", SIZE)},
                {"image": stored, "annotation": ragged}):  # fmt: skip
        for read in (reader.check, reader.read):
            with pytest.raises(BadSampleError, match=r"(b\.png|the label map of a) cannot be read as an image"):
                read({**row, "name": "a"})


# Data sets of the datasets library


def stored_dataset(count=4, names=("sky", "tree", "road"), label="annotation", stored=(0, 1, 2, 255, 1, 0)):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)) for _ in range(count)]
    labels = [Image.fromarray(np.array([np.roll(stored, index)] * 4, dtype=np.uint8)) for index in range(count)]
    features = {"image": datasets.Image(), label: datasets.Image(), "scene": datasets.ClassLabel(names=["in", "out"])}
    columns = {"image": images, label: labels, "scene": [0] * count}
    if names:
        features["present"] = datasets.Sequence(datasets.ClassLabel(names=list(names)))
        columns["present"] = [[0, 1]] * count
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_a_local_data_set_with_class_names_in_its_features(tmp_path, kind, streaming):
    rows, path = stored_dataset(), tmp_path / "rows"
    if kind == "saved":
        datasets.DatasetDict({"train": rows, "val": rows.select([1])}).save_to_disk(str(path))
    else:
        path.mkdir()
        rows.to_parquet(str(path / "train.parquet"))
        rows.select([1]).to_parquet(str(path / "validation.parquet"))
    data = load(str(path), streaming=streaming)
    assert data.id2label == {0: "sky", 1: "tree", 2: "road"}
    train, evaluation = list(data.train), list(data.evaluation)
    assert [labels_of(row) for row in train] == [np.roll([0, 1, 2, 255, 1, 0], index).tolist() for index in range(4)]
    assert set(train[0]) == {"image", "annotation", "name"} and len({row["name"] for row in train}) == 4
    for index, row in enumerate(train):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(rows[index]["image"]))
    assert labels_of(evaluation[0]) == labels_of(train[1]) and len(evaluation) == 1


def test_an_image_folder_with_label_maps_in_its_metadata(tmp_path):
    for split in ("train", "validation"):
        lines = []
        for stem in "ab":
            write_image(tmp_path / f"rows/{split}/{stem}.png")
            write_labels(tmp_path / f"rows/{split}/labels/{stem}.png", [0, 1, 1, 0, 255, 1])
            lines.append({"file_name": f"{stem}.png", "annotation_file_name": f"labels/{stem}.png"})
        text = "\n".join(json.dumps(line) for line in lines)
        (tmp_path / f"rows/{split}/metadata.jsonl").write_text(text + "\n")
    (tmp_path / "names.json").write_text('{"0": "sky", "1": "tree"}')
    data = load(str(tmp_path / "rows"), id2label=str(tmp_path / "names.json"))
    assert data.id2label == {0: "sky", 1: "tree"} and len(data.train) == 2
    assert labels_of(data.train[1]) == [0, 1, 1, 0, 255, 1]


def test_a_stream_may_tell_its_features_while_it_is_read_only(tmp_path):
    write_image(tmp_path / "one.png")
    line = {"image": str(tmp_path / "one.png"), "annotation": [[0, 1, 1, 0, 255, 1]] * 4}
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/train.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "names.json").write_text('["sky", "tree"]')
    options = {"id2label": str(tmp_path / "names.json"), "splits": ["train"]}
    for streaming in (False, True):
        row = next(iter(load(str(tmp_path / "rows"), streaming=streaming, **options).train))
        assert labels_of(row) == [0, 1, 1, 0, 255, 1] and row["image"].size == SIZE
    with pytest.raises(ValueError, match="id2label=None"):
        load(str(tmp_path / "rows"), streaming=True, splits=["train"])


def test_columns_are_found_by_name(tmp_path):
    rows = stored_dataset(label="label").rename_column("image", "pixel_values")
    rows.save_to_disk(str(tmp_path / "usual"))
    assert len(load(str(tmp_path / "usual"), splits=["train"]).train) == 4
    rows = rows.rename_columns({"pixel_values": "photo", "label": "classes"})
    rows.save_to_disk(str(tmp_path / "own"))
    data = load(str(tmp_path / "own"), splits=["train"], image_column="photo", label_column="classes")
    assert labels_of(data.train[0]) == [0, 1, 2, 255, 1, 0]
    with pytest.raises(ValueError, match=r"image_column='image': expected one of .*'classes', 'photo'"):
        load(str(tmp_path / "own"), splits=["train"])
    with pytest.raises(ValueError, match="label_column='mask'"):
        load(str(tmp_path / "own"), splits=["train"], image_column="photo", label_column="mask")


def test_label_maps_may_be_arrays_that_name_their_classes(tmp_path):
    label = datasets.Sequence(datasets.Sequence(datasets.ClassLabel(names=["unlabelled", "a", "b"])))
    features = datasets.Features({"image": datasets.Image(), "annotation": label})
    columns = {"image": [Image.new("RGB", SIZE)] * 2, "annotation": [[[0, 1, 2, 0, 1, 2]] * 4] * 2}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "rows"))
    data = load(str(tmp_path / "rows"), splits=["train"], reduce_labels=True)
    assert data.id2label == {0: "a", 1: "b"} and labels_of(data.train[0]) == [255, 0, 1, 255, 0, 1]
    assert load(str(tmp_path / "rows"), splits=["train"]).id2label == {0: "unlabelled", 1: "a", 2: "b"}


def test_a_bad_row_of_a_stored_data_set_is_named_by_its_position(tmp_path):
    rows = stored_dataset(stored=(0, 1, 2, 3, 1, 0))
    rows.save_to_disk(str(tmp_path / "rows"))
    with pytest.raises(ValueError, match=r"4 of 4 .*\n- the label map of train-000000 holds the label\(s\) 3 in 4"):
        load(str(tmp_path / "rows"), splits=["train"])
    with pytest.raises(ValueError, match=r"the label map of train-000000 holds the label\(s\) 3"):
        next(iter(load(str(tmp_path / "rows"), splits=["train"], streaming=True).train))
    assert len(load(str(tmp_path / "rows"), splits=["train"], ignore_labels=[3]).train) == 4


def test_images_stay_encoded_until_they_are_used(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", SIZE).save(buffer, format="PNG")
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    good = {"bytes": buffer.getvalue(), "path": None}
    columns = {"image": [good, {"bytes": b"broken", "path": "second.jpg"}], "annotation": [good, good]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "rows"))
    (tmp_path / "names.json").write_text('["a", "b"]')
    with pytest.raises(ValueError, match="second.jpg cannot be read as an image"):
        load(str(tmp_path / "rows"), splits=["train"], id2label=str(tmp_path / "names.json"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it is NoneType"),
        ({"bytes": b"", "path": ""}, ""),
    ],
)
@pytest.mark.parametrize("column", ["image", "annotation"])
def test_a_row_without_content_is_refused_or_skipped(tmp_path, column, value, reason):
    rows = stored_dataset(count=3)
    for key in ("image", "annotation"):
        rows = rows.cast_column(key, datasets.Image(decode=False))
    content = {key: [row[key] for row in rows] for key in rows.features}
    content[column][1] = value
    datasets.Dataset.from_dict(content, features=rows.features).save_to_disk(str(tmp_path / "rows"))
    with pytest.raises(ValueError, match=rf"1 of 3 samples [\s\S]*cannot be read as an image: .*{reason}"):
        load(str(tmp_path / "rows"), splits=["train"])
    data = load(str(tmp_path / "rows"), splits=["train"], skip_bad_samples=True)
    assert [row["name"] for row in data.train] == ["train-000000", "train-000002"] and len(data.skipped) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"names\.json=.\[\]"),
        ("{", "names.json"),
        ('{"1": "a"}', r"names\.json=\['1'\]"),
        ('["a", 2]', "names.json=.*expected a JSON list"),
        ('["a", "b", "a"]', r"names\.json=\['a'\]"),
    ],
)
def test_files_of_class_names_are_checked(tmp_path, text, message):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_id2label(tmp_path / "names.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("sky\n\nroad\n", "line 2"), ("sky\nroad\nsky\n", "'sky'"), ("a\n" * 256, "'a'")],
)
def test_the_file_of_class_names_of_a_folder_is_checked(folder, text, message):
    (folder / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.txt.*{message}"):
        load("folder", folder)


def test_files_that_are_no_images_do_no_harm_and_a_split_without_images_is_named(folder):
    for name in (".DS_Store", "notes.txt"):
        (folder / "images/train" / name).write_text("x")
    assert len(load("folder", folder, ["train"]).train) == 5
    for path in (*folder.glob("images/val/*"), *folder.glob("annotations/val/*")):
        path.unlink()
    with pytest.raises(ValueError, match="images/val"):
        load("folder", folder, ["evaluation"])


def test_class_names_are_read_in_the_order_of_their_numbers(tmp_path):
    content = {str(number): f"class {number}" for number in reversed(range(12))}
    (tmp_path / "names.json").write_text(json.dumps(content))
    assert read_id2label(tmp_path / "names.json") == [f"class {number}" for number in range(12)]


# Arguments


def refused(message, dataset, folder=None, **kwargs):
    with pytest.raises(ValueError, match=message):
        load(dataset, folder, **kwargs)


def test_arguments_that_do_not_fit_are_refused(folder, tmp_path):
    refused("data_dir=None", "ade20k")
    refused("data_dir=.*nowhere.*'cityscapes'", "cityscapes", tmp_path / "nowhere")
    refused("leftImg8bit='missing'", "cityscapes", folder)
    refused("gtFine='missing'", "cityscapes", make_folder(tmp_path / "half/leftImg8bit").parent)
    refused("images='missing'.*ADEChallengeData2016/images", "ade20k", tmp_path)
    refused(r"split='training': expected one of \['train', 'val'\]", "ade20k", folder)
    refused(r"split='dev': expected one of \['train', 'val'\]", "folder", folder, eval_split="dev")
    refused("revision='main'", "folder", folder, revision="main")
    refused("dataset=.*: expected 'folder', with data_dir", str(folder))
    refused("max_train_samples=0", "folder", folder, max_train_samples=0)
    refused(r"ignore_labels=\[-1\]", "folder", folder, ignore_labels=[-1])
    unknown = {"skip_bad_samples": True, "check_files": False}
    refused("skip_bad_samples=True: expected check_files=True", "folder", folder, **unknown)
    assert load("folder", folder, streaming=True, **unknown).skipped == []
    for layout in LAYOUTS:
        build_layout(tmp_path / layout, layout, {"train": {"a": [1] * 6}})
    train = ["train"]
    refused("reduce_labels=True", "ade20k", tmp_path / "ade20k", splits=train, reduce_labels=True)
    refused("id2label='x.json'", "camvid", tmp_path / "camvid", splits=train, id2label="x.json")


def make_folder(path):
    path.mkdir(parents=True)
    return path


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    refused("dataset='no-such/data set'.*split 'train'", "no-such/data set")
    stored_dataset(names=None).save_to_disk(str(tmp_path / "rows"))
    refused("id2label=None", str(tmp_path / "rows"), splits=["train"])
    refused(r"split='validation': expected one of \['train'\]", str(tmp_path / "rows"))
    refused("data_dir=.*was written by save_to_disk", str(tmp_path / "rows"), tmp_path)


def test_both_names_of_the_validation_split_are_refused(folder):
    (folder / "images/validation").mkdir()
    refused(r"images=\['validation', 'val'\]", "folder", folder)


def test_arguments_are_parsed_from_a_command_line(folder):
    parser = HfArgumentParser(DataArguments)
    command = f"--dataset folder --data_dir {folder} --ignore_labels 3 9 --check_files false --max_eval_samples 1"
    arguments = parser.parse_args_into_dataclasses(command.split())[0]
    assert arguments.ignore_labels == [3, 9] and arguments.check_files is False and arguments.reduce_labels is False
    write_labels(folder / "annotations/train/a.png", OUTSIDE)
    data = load_segmentation_data(arguments)
    assert labels_of(data.train[0]) == [0, 1, 2, 255, 255, 255] and len(data.evaluation) == 1


@pytest.mark.parametrize(
    ("stored", "ignored", "message"),
    [
        ([], [], "num_labels=0"),
        (range(256), [], "num_labels=256"),
        ([1, 1], [], r"stored_labels=\[1\]"),
        ([0, 1], [70000], "stored label=70000"),
    ],
)
def test_a_mapping_is_checked(stored, ignored, message):
    with pytest.raises(ValueError, match=message):
        LabelMapping(stored, ignored)


def test_loading_prints_nothing_on_standard_output(folder, capsys):
    load("folder", folder)
    assert capsys.readouterr().out == ""
