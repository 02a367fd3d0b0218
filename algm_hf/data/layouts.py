# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Where well-known segmentation data sets keep their files: as they are unpacked, but for what is converted (*).

```
ade20k             ADEChallengeData2016/{images,annotations}/{training,validation}/NAME.{jpg,png}
cityscapes         leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png, gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png
                   (or _gtFine_labelTrainIds.png (*) where a split has no _labelIds.png)
pascal_context_*   VOC2010/JPEGImages/NAME.jpg, VOC2010/SegmentationClassContext/NAME.png (*),
                   VOC2010/ImageSets/SegmentationContext/{train,val}.txt (*)
coco_stuff         images/{train2017,val2017}/NAME.jpg, annotations/{train2017,val2017}/NAME_labelTrainIds.png (*)
                   (or NAME.png, the stuffthingmaps as they are unpacked)
camvid             images/{train,val}, annotations/{train,val}, or {train,val,test} and {train,val,test}annot
folder             images/SPLIT, annotations/SPLIT, classes.txt
```

(*) Made from the release: `_gtFine_labelTrainIds.png` by `csCreateTrainIdLabelImgs` of the package cityscapesScripts;
Pascal-Context's masks and split files from its `trainval_merged.json` by `pascal_context.py`, COCO-Stuff's
`_labelTrainIds.png` from the stuffthingmaps by `coco_stuff164k.py`, both of MMSegmentation's dataset converters.

Class names, the values stored in the label maps and, where the release defines them, colours are the JSON files in
`class_tables`. A split is called `train` or `validation` here; any other name is taken as the name of its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..refusals import require
from .rows import BadSampleError


VALIDATION_NAMES = ("validation", "val")
PASCAL_CONVERSION = (
    "The release holds neither: MMSegmentation's dataset converter pascal_context.py makes the label maps and the "
    "split files from its trainval_merged.json."
)


@dataclass
class Listing:
    """The files of one split.

    Attributes:
        pairs (`list[tuple[str, Path, Path]]`): Name, image and label map, sorted by name.
        problems (`list[BadSampleError]`): Files without partner.
        stores_classes (`bool`): Whether these label maps hold `0` to `num_labels - 1` and 255 whatever the table says.
    """

    pairs: list[tuple[str, Path, Path]]
    problems: list[BadSampleError]
    stores_classes: bool = False


def image_files(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their name without extension; hidden files and other formats are passed over.

    Raises:
        `ValueError`: If the folder is missing or holds two image files of one stem.
    """
    require(folder.is_dir(), folder, "missing", "a folder of images")
    formats = Image.registered_extensions()
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in formats or not path.is_file():
            continue
        same = files.get(path.stem, path)
        require(same is path, path, same.name, "one file of a stem")
        files[path.stem] = path
    return files


def pair_files(images: dict[str, Path], annotations: dict[str, Path], where: tuple[Path, Path]) -> Listing:
    """Pairs images and label maps by name.

    Args:
        images, annotations (`dict[str, Path]`): Files by name.
        where (`tuple[Path, Path]`): Their folders, for messages.

    Raises:
        `ValueError`: If there is no file at all.
    """
    require(images or annotations, where[0], "no images", "at least one")
    problems = []
    for present, absent, lacking in ((images, annotations, where[1]), (annotations, images, where[0])):
        for name in sorted(present.keys() - absent.keys()):
            problems.append(_alone(present[name], lacking))
    pairs = [(name, images[name], annotations[name]) for name in sorted(images.keys() & annotations.keys())]
    return Listing(pairs, problems)


def _alone(path: Path, lacking: Path) -> BadSampleError:
    return BadSampleError(f"{path} has no partner of the same name in {lacking}.", "without partner")


def _root(path: Path, *parents: str, marker: str) -> Path:
    """The folder at or below `path` that holds `marker`."""
    tried = [path, *(path / parent for parent in parents)]
    for root in tried:
        if (root / marker).is_dir():
            return root
    others = "".join(f" or {root / marker}" for root in tried[1:])
    raise ValueError(f"{path / marker}='missing': expected this folder of the data set{others}")


def _folder_of_split(parent: Path, split: str, **names: str) -> str:
    """The folder of a split below `parent`, whose name may differ: `names` gives it for `train` and `validation`."""
    found = sorted(each.name for each in parent.iterdir() if each.is_dir() and not each.name.startswith("."))
    candidates = [names.get(split, split)]
    if split == "validation" and split not in names:
        candidates = [name for name in VALIDATION_NAMES if name in found] or ["val"]
        require(len(candidates) == 1, parent, candidates, "one of them")
    require(candidates[0] in found, "split", candidates[0], f"one of {found} in {parent}")
    return candidates[0]


def _two_trees(images: Path, annotations: Path, folder: str) -> Listing:
    return pair_files(
        image_files(images / folder), image_files(annotations / folder), (images / folder, annotations / folder)
    )


def list_folder(path: Path, split: str) -> Listing:
    """Lists a split of a generic folder.

    Raises:
        `ValueError`: Naming the folder that is missing or empty.
    """
    images = _root(path, marker="images") / "images"
    _root(path, marker="annotations")
    return _two_trees(images, path / "annotations", _folder_of_split(images, split))


def list_ade20k(path: Path, split: str) -> Listing:
    """Lists a split of ADE20K as [`list_folder`] does, with the same `Raises`."""
    root = _root(path, "ADEChallengeData2016", marker="images")
    folder = _folder_of_split(root / "images", split, train="training", validation="validation")
    return _two_trees(root / "images", root / "annotations", folder)


def _without_suffix(paths: Iterable[Path], suffix: str) -> dict[str, Path]:
    return {path.name.removesuffix(suffix): path for path in sorted(paths) if not path.name.startswith(".")}


def list_cityscapes(path: Path, split: str) -> Listing:
    """Lists a split of Cityscapes as [`list_folder`] does, with the same `Raises`."""
    images, annotations = _root(path, marker="leftImg8bit") / "leftImg8bit", _root(path, marker="gtFine") / "gtFine"
    folder = _folder_of_split(images, split, train="train", validation="val")
    found = _without_suffix((images / folder).glob("*/*_leftImg8bit.png"), "_leftImg8bit.png")
    labels = _without_suffix((annotations / folder).glob("*/*_gtFine_labelIds.png"), "_gtFine_labelIds.png")
    train_ids = {}
    if not labels:
        suffix = "_gtFine_labelTrainIds.png"
        labels = train_ids = _without_suffix((annotations / folder).glob(f"*/*{suffix}"), suffix)
    listing = pair_files(found, labels, (images / folder, annotations / folder))
    listing.stores_classes = bool(train_ids)
    return listing


def list_pascal_context(path: Path, split: str) -> Listing:
    """Lists a split of Pascal-Context: the names that its split file holds.

    Raises:
        `ValueError`: Naming the folder or split file that is missing or empty.
    """
    root = _root(path, "VOC2010", "VOCdevkit/VOC2010", marker="JPEGImages")
    labels = root / "SegmentationClassContext"
    require(labels.is_dir(), labels, "missing", f"the label maps. {PASCAL_CONVERSION}")
    file = root / "ImageSets" / "SegmentationContext" / f"{'val' if split == 'validation' else split}.txt"
    require(file.is_file(), file, "missing", f"a text file with one image name a line. {PASCAL_CONVERSION}")
    names = list(dict.fromkeys(file.read_text(encoding="utf-8").split()))
    require(names, file, "empty", "one image name a line")
    pairs, problems = [], []
    for name in sorted(names):
        pair = (root / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png")
        missing = [each for each in pair if not each.is_file()]
        pairs += [] if missing else [(name, *pair)]
        problems += [
            BadSampleError(f"{each} does not exist, but {file} names it.", "without partner") for each in missing[:1]
        ]
    return Listing(pairs, problems)


def list_coco_stuff(path: Path, split: str) -> Listing:
    """Lists a split of COCO-Stuff 164k as [`list_folder`] does, with the same `Raises`."""
    images, annotations = _root(path, marker="images") / "images", _root(path, marker="annotations") / "annotations"
    folder = _folder_of_split(images, split, train="train2017", validation="val2017")
    labels = image_files(annotations / folder)
    suffix = "_labelTrainIds"
    converted = {name.removesuffix(suffix): file for name, file in labels.items() if name.endswith(suffix)}
    listing = pair_files(image_files(images / folder), converted or labels, (images / folder, annotations / folder))
    listing.stores_classes = bool(converted)
    return listing


def list_camvid(path: Path, split: str) -> Listing:
    """Lists a split of CamVid in either of its layouts.

    Raises:
        `ValueError`: Naming the folder that is missing or empty.
    """
    if (path / "images").is_dir():
        return list_folder(path, split)
    folder = "val" if split == "validation" else split
    for name in (folder, f"{folder}annot"):
        require((path / name).is_dir(), path / name, "missing", "this folder of CamVid, or images and annotations")
    return pair_files(
        image_files(path / folder), image_files(path / f"{folder}annot"), (path / folder, path / f"{folder}annot")
    )


LAYOUTS: dict[str, Callable[[Path, str], Listing]] = {
    "ade20k": list_ade20k,
    "camvid": list_camvid,
    "cityscapes": list_cityscapes,
    "coco_stuff": list_coco_stuff,
    "pascal_context_59": list_pascal_context,
    "pascal_context_60": list_pascal_context,
}


__all__ = [
    "LAYOUTS",
    "VALIDATION_NAMES",
    "Listing",
    "image_files",
    "list_ade20k",
    "list_camvid",
    "list_cityscapes",
    "list_coco_stuff",
    "list_folder",
    "list_pascal_context",
    "pair_files",
]
