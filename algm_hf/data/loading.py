# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads a data set for semantic segmentation, checks it, and brings its labels to the classes `0` to `K - 1` and 255.

Sources are the layouts of `layouts.py`, a generic folder, and every data set that `datasets` loads from
the Hub or a local folder. Images and label maps stay where they are and are decoded, checked and mapped row by row
when they are used; labels are final then, nothing after this module may reduce or map them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from ..refusals import require, require_choice
from .arguments import DataArguments
from .checks import SkippedSamples, check_classes_found, check_rows, problem_report, skip_line
from .classes import ClassTable, LabelMapping, read_class_table, read_classes, read_id2label
from .layouts import LAYOUTS, VALIDATION_NAMES, list_folder
from .rows import BadSampleError, RowReader
from .streams import StreamReader, as_stream


SPLITS = ("train", "evaluation")
IMAGE_COLUMNS = ("image", "pixel_values")
LABEL_COLUMNS = ("annotation", "label", "labels", "mask")


@dataclass
class SegmentationData:
    """What [`load_segmentation_data`] returns.

    Attributes:
        train, evaluation (`datasets.Dataset` or `datasets.IterableDataset`, *optional*): Rows with `image` (PIL, RGB,
            upright), `annotation` (PIL, mode `L`, of the same size, classes `0` to `K - 1`, 255 ignored) and `name`.
            A map-style data set decodes in its transform: wrap it, do not replace the transform.
        id2label (`dict[int, str]`): Class names.
        palette (`list[tuple[int, int, int]]`, *optional*): The data set's own colour of each class, 0 to 255.
        skipped_samples ([`SkippedSamples`]): What was left out. The workers of a stream add to it while they read.
    """

    train: datasets.Dataset | datasets.IterableDataset | None
    evaluation: datasets.Dataset | datasets.IterableDataset | None
    id2label: dict[int, str]
    palette: list[tuple[int, int, int]] | None = None
    skipped_samples: SkippedSamples = field(default_factory=SkippedSamples, repr=False)

    @property
    def skipped(self) -> list[str]:
        """One line per sample that was left out so far: file and reason. A stream is read in several processes: this
        holds what this process and its workers met; where every rank of a distributed run reads for itself, each
        logs its own as warnings.
        """
        return self.skipped_samples.lines()


@dataclass
class _Source:
    """Rows of one split as they are stored, with what is wrong so far and the class names that came with them."""

    rows: datasets.Dataset | datasets.IterableDataset
    where: str
    problems: list[BadSampleError] = field(default_factory=list)
    stores_classes: bool = False
    class_names: list[str] | None = None
    shuffle_seed: int | None = None


def load_segmentation_data(
    arguments: DataArguments, splits: Sequence[str] = SPLITS, shuffle_seed: int | None = None
) -> SegmentationData:
    """Loads the splits that are asked for.

    Unless `streaming` or `check_files=False`, every file is read once: whatever cannot be used stops here, with counts
    over the whole split, or is left out and listed with `skip_bad_samples`. Without that check a bad row raises (or is
    left out of a stream) when it is read. With `max_*_samples` the first rows are taken, then checked.

    Args:
        arguments ([`DataArguments`]): What to load.
        splits (`Sequence[str]`, *optional*, defaults to both): `"train"`, `"evaluation"`.
        shuffle_seed (`int`, *optional*): Shuffles a stream of training samples with this seed, as
            `shuffle_buffer_size` says; in another order after each `set_epoch`, in the same one for the same epoch.

    Returns:
        [`SegmentationData`]: The splits, `None` where not asked for.

    Raises:
        `ValueError`: If an argument does not fit, class names are missing, or a file cannot be used; in one message
            with the first files by name and the counts of all.
    """
    require(splits, "splits", splits, " or ".join(map(repr, SPLITS)))
    for split in splits:
        require_choice("splits", split, SPLITS)
    sources = {split: _load_source(arguments, split) for split in splits}
    table = _class_table(arguments, list(sources.values()))
    data = SegmentationData(None, None, dict(enumerate(table.classes)), table.palette)
    for split, source in sources.items():
        reader = RowReader(_mapping(arguments, table, source))
        prepare = _prepare_stream if arguments.streaming else _prepare_rows
        source.shuffle_seed = shuffle_seed if split == "train" else None
        setattr(data, split, prepare(arguments, split, source, reader, data.skipped_samples))
    return data


def _split_name(arguments: DataArguments, split: str) -> str:
    return arguments.train_split if split == "train" else arguments.eval_split


def _row_name(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def _is_layout(arguments: DataArguments) -> bool:
    return arguments.dataset in LAYOUTS or arguments.dataset == "folder"


def _load_source(arguments: DataArguments, split: str) -> _Source:
    limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
    name = _split_name(arguments, split)
    return _load_layout(arguments, name, limit) if _is_layout(arguments) else _load_columns(arguments, name, limit)


def _load_layout(arguments: DataArguments, name: str, limit: int | None) -> _Source:
    path = Path(arguments.data_dir or "")
    is_given = arguments.data_dir is not None and path.is_dir()
    require(is_given, "data_dir", arguments.data_dir, f"the root folder of {arguments.dataset!r}")
    _refuse_given(arguments, ("dataset_config", "revision"), "is a folder")
    listing = LAYOUTS.get(arguments.dataset, list_folder)(path, name)
    pairs = listing.pairs[:limit]
    columns = {
        "image": [str(image) for _, image, _ in pairs],
        "annotation": [str(annotation) for _, _, annotation in pairs],
        "name": [stem for stem, _, _ in pairs],
    }
    stored = datasets.Image(decode=False)
    features = datasets.Features({"image": stored, "annotation": stored, "name": datasets.Value("string")})
    rows = datasets.Dataset.from_dict(columns, features)
    return _Source(rows, f"split {name} of {path}", listing.problems, listing.stores_classes)


def _refuse_given(arguments: DataArguments, options: Sequence[str], reason: str) -> None:
    for option in options:
        value = getattr(arguments, option)
        require(not value, option, value, f"it not to be given: data set {arguments.dataset!r} {reason}")


def _load_columns(arguments: DataArguments, name: str, limit: int | None) -> _Source:
    """Loads a data set of the Hub or a local folder; its images and label maps stay encoded."""
    rows = _load_dataset(arguments, name)
    columns = rows.column_names or list(next(iter(rows)))
    image = _column(columns, arguments.image_column, IMAGE_COLUMNS, "image_column")
    label = _column(columns, arguments.label_column, LABEL_COLUMNS, "label_column")
    names = _names_in_features(rows.features, label)
    for column in (image, label):
        if rows.features is not None and isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    rows = rows.select_columns([image, label])
    renamed = {old: new for old, new in ((image, "image"), (label, "annotation")) if old != new}
    rows = rows.rename_columns(renamed) if renamed else rows
    if isinstance(rows, datasets.Dataset):
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        rows = rows.add_column("name", [_row_name(name, index) for index in range(len(rows))])
    elif limit is not None:
        rows = rows.take(limit)
    return _Source(rows, f"split {name} of {arguments.dataset}", class_names=names)


def _load_dataset(arguments: DataArguments, name: str) -> datasets.Dataset | datasets.IterableDataset:
    """Loads a split of a Hub data set or local folder; `validation` may be called `val` there."""
    path = Path(arguments.dataset)
    if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return _load_saved(arguments, path, name)
    require(not (path / "classes.txt").is_file(), "dataset", str(path), f"'folder', with data_dir {path}")
    reasons = []
    for attempt in VALIDATION_NAMES if name == "validation" else (name,):
        try:
            return datasets.load_dataset(
                arguments.dataset,
                arguments.dataset_config,
                data_dir=arguments.data_dir,
                revision=arguments.revision,
                split=attempt,
                streaming=arguments.streaming,
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reasons.append(error)
    raise ValueError(
        f"dataset={arguments.dataset!r}: expected a data set of the Hub or a local folder with split {name!r} "
        f"({reasons[0]}), or {', '.join(sorted(LAYOUTS))} or folder"
    ) from reasons[0]


def _load_saved(arguments: DataArguments, path: Path, name: str) -> datasets.Dataset:
    """Loads a split of what `save_to_disk` wrote."""
    _refuse_given(arguments, ("dataset_config", "revision", "data_dir"), "was written by save_to_disk")
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        saved = {str(saved.split or "train"): saved}
    names = [each for each in (VALIDATION_NAMES if name == "validation" else (name,)) if each in saved]
    require(names, "split", name, f"one of {sorted(saved)} of {path}")
    return saved[names[0]]  # a stream begins behind the names of its rows


def _column(columns: Sequence[str], wanted: str, usual: Sequence[str], option: str) -> str:
    """The column that is asked for; where that is the default (the first usual name), the first usual one there is."""
    for name in usual if wanted == usual[0] else (wanted,):
        if name in columns:
            return name
    raise ValueError(f"{option}={wanted!r}: expected one of the data set's columns {sorted(columns)}")


def _class_labels(feature) -> list[list[str]]:
    """Class names of every `ClassLabel` inside a feature."""
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names]
    if isinstance(feature, Mapping):
        return [names for each in feature.values() for names in _class_labels(each)]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return [] if inner is None else _class_labels(inner)


def _names_in_features(features: datasets.Features | None, label: str) -> list[str] | None:
    """Class names in the features: those of the label column, else the only list of class labels there is.

    A `ClassLabel` that is no list says what the whole image shows, not what its pixels can be.
    """
    if features is None:
        return None
    inside = _class_labels(features[label])
    others = [feature for name, feature in features.items() if not isinstance(feature, datasets.ClassLabel)]
    found = inside or [names for feature in others for names in _class_labels(feature)]
    return found[0] if len(found) == 1 else None


def _class_table(arguments: DataArguments, sources: list[_Source]) -> ClassTable:
    """The classes of the data set, and where they are stored."""
    if arguments.dataset in LAYOUTS:
        _refuse_given(arguments, ("id2label", "reduce_labels"), "knows its classes and how they are stored")
        return read_class_table(arguments.dataset)
    named = [source.class_names for source in sources if source.class_names is not None]
    if arguments.id2label is not None:
        classes = read_id2label(arguments.id2label)
    elif arguments.dataset == "folder":
        classes = list(read_classes(Path(arguments.data_dir) / "classes.txt").values())
    elif named:
        is_one = all(names == named[0] for names in named)
        require(is_one, "dataset", arguments.dataset, "splits that name the same classes")
        classes = named[0][1:] if arguments.reduce_labels else named[0]  # names of stored values, the first is 0
    else:
        raise ValueError(
            f"id2label=None: expected a JSON file of the classes, which {arguments.dataset!r} does not name"
        )
    first = 1 if arguments.reduce_labels else 0
    return ClassTable(classes, list(range(first, first + len(classes))), [0] if arguments.reduce_labels else [])


def _mapping(arguments: DataArguments, table: ClassTable, source: _Source) -> LabelMapping:
    if source.stores_classes:
        return LabelMapping(range(len(table.classes)), arguments.ignore_labels)
    return LabelMapping(table.stored_labels, [*table.ignored_labels, *arguments.ignore_labels])


def _prepare_rows(
    arguments: DataArguments, split: str, source: _Source, reader: RowReader, skipped: SkippedSamples
) -> datasets.Dataset:
    """Checks a map-style split and lets its rows be read when they are used."""
    bad: dict[int, BadSampleError] = {}
    if arguments.check_files:
        bad, counts = check_rows(source.rows, reader, source.where)
    good = [index for index in range(len(source.rows)) if index not in bad]
    _settle(arguments, source, bad, reader, skipped)
    require(good, source.where, "no usable sample", "at least one")
    if arguments.check_files:
        check_classes_found(counts, reader.mapping, source.where)
    rows = source.rows if len(good) == len(source.rows) else source.rows.select(good)
    return rows.with_transform(reader)


def _prepare_stream(
    arguments: DataArguments, split: str, source: _Source, reader: RowReader, skipped: SkippedSamples
) -> datasets.IterableDataset:
    """Lets the rows of a stream be read and checked as they come."""
    rows = source.rows
    if isinstance(rows, datasets.Dataset):
        _settle(arguments, source, {}, reader, skipped)
        require(len(rows), source.where, "no usable sample", "at least one")
        rows = as_stream(rows)
    if source.shuffle_seed is not None and arguments.shuffle_buffer_size:
        # Before images are decoded, so that the buffer stays small.
        rows = rows.shuffle(seed=source.shuffle_seed, buffer_size=arguments.shuffle_buffer_size)
    read = StreamReader(reader, _split_name(arguments, split), skipped if arguments.skip_bad_samples else None)
    return rows.map(read, batched=True, batch_size=1)


def _settle(
    arguments: DataArguments,
    source: _Source,
    bad: Mapping[int, BadSampleError],
    reader: RowReader,
    skipped: SkippedSamples,
) -> None:
    """Stops at problems, of the source and of rows by their index, or lists them where they are to be skipped."""
    problems = [*source.problems, *bad.values()]
    if problems and not arguments.skip_bad_samples:
        total = len(source.rows) + len(source.problems)
        raise ValueError(problem_report(problems, total, source.where, reader.mapping))
    for problem in source.problems:
        skipped.add(str(problem))
    for index, problem in bad.items():
        skipped.add(skip_line(source.rows[index]["name"], problem))


__all__ = ["SegmentationData", "load_segmentation_data"]
