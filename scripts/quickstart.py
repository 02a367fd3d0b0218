# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates, saves, reloads and pictures a small ALGM; `make demo` runs it.

Without arguments it draws street scenes (no download), trains a small model on them from scratch with
`transformers.Trainer`, token merging switched on, and leaves in the output folder

    model/         model, image processor and code, ready for from_pretrained, pipeline and the Hub
    picture.png    held-out images | truth | prediction | the tokens that were left
    results.md     mIoU, tokens and time with merging on and off, at the same weights
    results.json   the same with settings, versions and scores per class

The saved folder is then loaded by `pipeline("image-segmentation", ..., trust_remote_code=True)` in a fresh process in
which this package cannot be imported, and has to give the same masks. Any folder of labelled images (see
algm_hf/data/folder.py) takes the place of the scenes:

    python scripts/quickstart.py --data_dir FOLDER --size 160 --max_minutes 10
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from algm_hf import AlgmConfig, AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.data.augmentation import SegmentationTrainingTransform
from algm_hf.data.drawn_scenes import DEFAULT_SIZE, SCENE_CLASSES, scene_dataset
from algm_hf.data.folder import load_segmentation_folder
from algm_hf.evaluation.metrics import SegmentationConfusion
from algm_hf.evaluation.scoring import evaluate_segmentation
from algm_hf.inference.drawing import colorize, panel, token_map
from algm_hf.inference.palettes import make_palette
from algm_hf.inference.predictor import segment_images
from algm_hf.runs.models import config_settings
from algm_hf.runs.provenance import describe_environment
from algm_hf.runs.tables import markdown_table
from algm_hf.runs.timing import time_settings
from algm_hf.training.collators import SegmentationCollator
from algm_hf.training.stopping import TimeLimitCallback


HELD_OUT_SEED = 1_000_000  # scenes from here on are never trained on

# Runs in the fresh process: argv holds the model folder, a folder of pictures and the file for the label maps.
RELOAD = """
import sys
sys.modules["algm_hf"] = None  # importing the package now fails: the code in the folder has to do
from pathlib import Path
import numpy as np
from transformers import pipeline
segmenter = pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)
maps = {}
for path in sorted(Path(sys.argv[2]).glob("*.png")):
    segments = segmenter(str(path))
    label_map = np.full(np.asarray(segments[0]["mask"]).shape, -1)
    for segment in segments:
        label_map[np.asarray(segment["mask"]) > 0] = segmenter.model.config.label2id[segment["label"]]
    maps[path.stem] = label_map
assert type(segmenter.model).__module__.startswith("transformers_modules"), type(segmenter.model).__module__
np.savez(sys.argv[3], **maps)
"""


@dataclass
class DemoArguments:
    """Data, model and training; the defaults draw scenes and take about three minutes on two cores."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with images/<split>, annotations/<split> and classes.txt; without it, scenes are drawn."
        },
    )
    ignore_labels: list[int] = field(
        default_factory=list, metadata={"help": "Label values of --data_dir that mean 'unlabelled', such as 11."}
    )
    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder for model, picture and results."})
    size: int = field(
        default=128, metadata={"help": "Shorter side of the images in pixels, for training and evaluation."}
    )
    num_train_scenes: int = field(default=480, metadata={"help": "Scenes to train on, if scenes are drawn."})
    num_eval_scenes: int = field(default=60, metadata={"help": "Scenes to evaluate on, if scenes are drawn."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many training images."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only so many evaluation images."})
    max_steps: int = field(default=1400, metadata={"help": "Training steps, one batch each."})
    max_minutes: float = field(default=10.0, metadata={"help": "Training ends after so many minutes in any case."})
    batch_size: int = field(default=4, metadata={"help": "Images per training step."})
    learning_rate: float = field(
        default=1.5e-3, metadata={"help": "Highest learning rate of AdamW; cosine decay to 0."}
    )
    hidden_size: int = field(default=64, metadata={"help": "Channels of a token."})
    num_hidden_layers: int = field(default=5, metadata={"help": "Encoder layers."})
    patch_size: int = field(default=8, metadata={"help": "Side of a patch in pixels."})
    local_merge_layer: int = field(default=1, metadata={"help": "Layer of the local merge, counted from 1."})
    global_merge_layer: int = field(default=3, metadata={"help": "Layer of the global merge, counted from 1."})
    merge_threshold: float = field(default=0.85, metadata={"help": "Threshold tau, -1 to 1; lower merges more."})
    other_thresholds: list[float] = field(
        default_factory=lambda: [0.95, 0.75],
        metadata={"help": "Further thresholds to evaluate the same weights with."},
    )
    num_pictured: int = field(
        default=5, metadata={"help": "Evaluation images in the picture, evenly spread over the set."}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads; without it OMP_NUM_THREADS, or else half of the usable cores."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, order of the images and mirroring."})


@dataclass
class DemoData:
    """Labelled images and their classes."""

    train: datasets.Dataset
    evaluation: datasets.Dataset
    id2label: dict[int, str]
    name: str


def set_threads(num_threads: int | None) -> None:
    """Limits the CPU threads. The tensors here are so small that a second thread gains a tenth on an idle machine,
    while on a busy one threads that wait for each other make every step many times slower."""
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"--num_threads is {num_threads}, expected at least 1.")
    if num_threads is None and "OMP_NUM_THREADS" not in os.environ:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_threads = max(1, usable // 2)
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def load_data(arguments: DemoArguments) -> DemoData:
    """Draws scenes or reads `--data_dir`, and cuts both sets to the sizes asked for."""
    if arguments.data_dir is None:
        print(f"Drawing {arguments.num_train_scenes} + {arguments.num_eval_scenes} scenes ...")
        width = round(arguments.size * DEFAULT_SIZE[1] / DEFAULT_SIZE[0])
        sizes = [(arguments.size, width)]
        train = scene_dataset(arguments.num_train_scenes, seed=0, sizes=sizes)
        evaluation = scene_dataset(arguments.num_eval_scenes, seed=HELD_OUT_SEED, sizes=sizes)
        data = DemoData(train, evaluation, dict(enumerate(SCENE_CLASSES)), "drawn scenes")
    else:
        splits, id2label = load_segmentation_folder(arguments.data_dir, arguments.ignore_labels)
        for split in ("train", "validation"):
            if split not in splits:
                raise ValueError(
                    f"--data_dir {arguments.data_dir} has the splits {sorted(splits)}, expected one {split!r}."
                )
        data = DemoData(splits["train"], splits["validation"], id2label, Path(arguments.data_dir).resolve().name)
    data.train = _first(data.train, arguments.max_train_samples, "--max_train_samples")
    data.evaluation = _first(data.evaluation, arguments.max_eval_samples, "--max_eval_samples")
    return data


def _first(dataset: datasets.Dataset, limit: int | None, name: str) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise ValueError(f"{name} is {limit}, expected at least 1.")
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def build_model(
    arguments: DemoArguments, data: DemoData
) -> tuple[AlgmForSemanticSegmentation, AlgmImageProcessor, tuple[int, int]]:
    """A small model with random weights, its processor, and the size of the crops to train on."""
    processor = AlgmImageProcessor(size=arguments.size, patch_size=arguments.patch_size)
    first = processor([data.train[0]["image"]], return_tensors="pt")["pixel_values"]
    crop_size = tuple(first.shape[-2:])
    config = AlgmConfig(
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=max(1, arguments.hidden_size // 32),
        intermediate_size=4 * arguments.hidden_size,
        image_size=list(crop_size),
        patch_size=arguments.patch_size,
        local_merge_layer=arguments.local_merge_layer,
        global_merge_layer=arguments.global_merge_layer,
        merge_threshold=arguments.merge_threshold,
        decoder_num_hidden_layers=1,
        decoder_dropout_prob=0.0,
        id2label=data.id2label,
        label2id={name: index for index, name in data.id2label.items()},
    )
    return AlgmForSemanticSegmentation(config), processor, crop_size


def train(arguments: DemoArguments, data: DemoData, model, processor, crop_size: tuple[int, int]) -> dict:
    """Trains with `Trainer`, saves model and processor whatever happens, and returns the facts of the training."""
    folder = Path(arguments.output_dir)
    limit = TimeLimitCallback(arguments.max_minutes)
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            max_steps=arguments.max_steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, arguments.max_steps // 20),
            weight_decay=0.01,
            logging_steps=max(1, arguments.max_steps // 10),
            save_strategy="no",  # saved below, once and in any case
            report_to="none",
            remove_unused_columns=False,  # the transform needs the pictures, which the model does not take
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=arguments.seed,
        )
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=data.train.with_transform(SegmentationTrainingTransform(processor, crop_size)),
            data_collator=SegmentationCollator(len(data.id2label), processor.ignore_index),
            processing_class=processor,
            callbacks=[limit],
        )
        start, interrupted = time.perf_counter(), False
        try:
            trainer.train()
        except KeyboardInterrupt:
            interrupted = True
            print(
                f"\nInterrupted after step {trainer.state.global_step}; what is trained so far is kept.",
                file=sys.stderr,
            )
        finally:
            model.save_pretrained(folder / "model")  # weights, config and code
            processor.save_pretrained(folder / "model")
            print(f"Model and processor are in {folder / 'model'}.")
    if limit.reached:
        print(f"--max_minutes {arguments.max_minutes} ended the training after step {trainer.state.global_step}.")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "seconds": time.perf_counter() - start,
        "interrupted": interrupted,
        "time_limit_reached": limit.reached,
        "losses": losses,
    }


def evaluate(arguments: DemoArguments, data: DemoData, model, processor) -> list[dict]:
    """Scores, tokens and times of the same weights: without merging, at the trained threshold and at further ones."""
    model.eval()
    settings = {"off": {"use_token_merging": False}}
    for threshold in dict.fromkeys([arguments.merge_threshold, *arguments.other_thresholds]):
        settings[f"on, tau {threshold:g}"] = {"use_token_merging": True, "merge_threshold": threshold}
    results = []
    with tqdm(total=len(settings) * len(data.evaluation), unit="image", desc="evaluating") as bar:
        for name, fields in settings.items():
            with config_settings(model, **fields):
                scores = evaluate_segmentation(model, processor, data.evaluation, progress=bar.update)
            results.append({"merging": name, **fields, **scores})
    timed = [row["image"] for row in data.evaluation.select(range(min(8, len(data.evaluation))))]
    singles = [time_settings(model, processor, [image], settings) for image in timed]
    batch = time_settings(model, processor, timed, settings)
    for result in results:
        result["seconds_alone"] = float(np.median([seconds[result["merging"]] for seconds in singles]))
        result["seconds_in_batch"] = batch[result["merging"]]
        result["timed_batch_size"] = len(timed)
        result["tokens_unmerged"] = results[0]["tokens_final"]
    return results


def results_table(results: list[dict]) -> str:
    """One row per setting: mIoU, pixel accuracy, tokens and time per image."""
    batch = results[0]["timed_batch_size"]
    header = ["merging", "mIoU", "pixel accuracy", "tokens, mean of layers", "tokens, last layer"]
    header += ["ms per image, alone", f"ms per image, batch of {batch}"]
    rows = []
    for result in results:
        row = [result["merging"], f"{result['mean_iou']:.3f}", f"{result['overall_accuracy']:.3f}"]
        for key in ("tokens_mean", "tokens_final"):
            row.append(f"{result[key]:.0f} ({100 * result[key] / result['tokens_unmerged']:.0f} %)")
        rows.append(row + [f"{1000 * result[key]:.1f}" for key in ("seconds_alone", "seconds_in_batch")])
    return markdown_table(header, rows)


def classes_table(id2label: dict[int, str], results: list[dict]) -> str:
    """IoU of each class under each setting."""
    rows = [
        [name, *(f"{result['per_category_iou'][index]:.3f}" for result in results)] for index, name in id2label.items()
    ]
    return markdown_table(["IoU", *(result["merging"] for result in results)], rows)


def draw_picture(arguments: DemoArguments, data: DemoData, model, processor, results: list[dict]) -> Path:
    """Writes image | truth | prediction | tokens for evaluation images spread evenly over the set."""
    palette = make_palette(data.id2label)
    rows, captions, present, column_width = [], [], set(), 0
    count = min(arguments.num_pictured, len(data.evaluation))
    for row in data.evaluation.select([len(data.evaluation) * index // count for index in range(count)]):
        image, truth = row["image"].convert("RGB"), np.asarray(row["annotation"])
        result = segment_images(model, processor, [image])[0]
        confusion = SegmentationConfusion(len(data.id2label))
        confusion.update(result.label_map, truth)
        height, width = result.input_size
        magnify = max(1, round(384 / width))
        column_width = column_width or magnify * width
        tokens = token_map(
            image.resize((width, height)), result.patch_to_token, result.grid_size, arguments.patch_size, magnify
        )
        enlarged = image.resize((magnify * width, magnify * height), Image.Resampling.BICUBIC)
        rows.append([enlarged, colorize(truth, palette), colorize(result.label_map, palette), tokens])
        patches = result.grid_size[0] * result.grid_size[1]
        kept = len(np.unique(result.patch_to_token))
        accuracy = confusion.compute()["overall_accuracy"]
        captions.append(["", "", f"{100 * accuracy:.1f} % of pixels right", f"{kept} tokens for {patches} patches"])
        present |= set(np.unique(truth).tolist()) | set(np.unique(result.label_map).tolist())
    shown = [index for index in data.id2label if index in present]
    off, on = results[:2]
    heading = (
        f"ALGM on {data.name}, held out: mIoU {on['mean_iou']:.3f} with {on['tokens_final']:.0f} tokens, "
        f"{off['mean_iou']:.3f} with all {off['tokens_final']:.0f}"
    )
    legend = ([data.id2label[index] for index in shown], [palette[index] for index in shown])
    path = Path(arguments.output_dir) / "picture.png"
    panel(rows, ["image", "truth", "prediction", "tokens left"], captions, legend, heading, column_width).save(path)
    return path


def check_reload(arguments: DemoArguments, data: DemoData, model, processor) -> int:
    """Compares this process's masks with those of a pipeline in a fresh process that has only the saved folder.

    Returns:
        `int`: Number of masks compared, all equal.

    Raises:
        `RuntimeError`: If the fresh process fails or a mask differs.
    """
    folder = (Path(arguments.output_dir) / "model").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        pictures, answer = Path(scratch) / "pictures", Path(scratch) / "maps.npz"
        pictures.mkdir()
        expected = {}
        for index, row in enumerate(data.evaluation.select(range(min(4, len(data.evaluation))))):
            image = row["image"].convert("RGB")
            image.save(pictures / f"{index}.png")
            expected[str(index)] = segment_images(model, processor, [image])[0].label_map
        # -I: neither this folder nor PYTHONPATH is on the child's path; the modules cache is its own.
        child = subprocess.run(
            [sys.executable, "-I", "-c", RELOAD, str(folder), str(pictures), str(answer)],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": str(Path(scratch) / "modules"),
                "OMP_NUM_THREADS": str(torch.get_num_threads()),  # the same order of summation as here
            },
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if child.returncode:
            raise RuntimeError(f"the fresh process could not load {folder}:\n{child.stderr}")
        found = np.load(answer)
        different = [name for name in expected if not np.array_equal(expected[name], found[name])]
    if different:
        raise RuntimeError(f"the fresh process gives other masks for the evaluation images {', '.join(different)}.")
    return len(expected)


def write_results(arguments: DemoArguments, data: DemoData, training: dict, results: list[dict], model) -> str:
    """Writes results.md and results.json and returns the Markdown."""
    where, folder = describe_environment(model), Path(arguments.output_dir)
    count = results[0]["num_images"]
    text = "\n\n".join(
        [
            f"# ALGM on {data.name}",
            f"{training['steps']} steps of {arguments.batch_size} images in {training['seconds']:.0f} s, from random "
            f"weights, merging on (tau {arguments.merge_threshold:g}). Evaluated on {count} held-out images, every "
            "row with the same weights.",
            results_table(results),
            f"Tokens include the class token. Time: median forward pass, {where['device_name']} ({where['device']}),"
            f" {where['threads']} threads, {where['dtype']}, attention {where['attention']}; in turns.",
            classes_table(data.id2label, results),
        ]
    )
    saved = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "arguments": asdict(arguments),
        "environment": where,
        "training": training,
        "classes": list(data.id2label.values()),
        "results": [_jsonable(result) for result in results],
    }
    (folder / "results.md").write_text(text + "\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    return text


def _jsonable(result: dict) -> dict:
    """Arrays become lists and NaN, which JSON does not know, becomes null."""
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in result.items()}
    clean = {
        key: [None if v != v else v for v in value] if isinstance(value, list) else value
        for key, value in plain.items()
    }
    return {key: None if value != value else value for key, value in clean.items()}


def main() -> None:
    arguments: DemoArguments = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()[0]
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    set_threads(arguments.num_threads)
    set_seed(arguments.seed)
    data = load_data(arguments)
    model, processor, crop_size = build_model(arguments, data)
    print(
        f"{model.num_parameters():,} parameters, {len(data.train)} training images at {crop_size[0]} x {crop_size[1]}."
    )
    training = train(arguments, data, model, processor, crop_size)
    if training["interrupted"]:
        sys.exit(130)  # what a shell expects after Ctrl-C
    results = evaluate(arguments, data, model, processor)
    print("\n" + write_results(arguments, data, training, results, model) + "\n")
    print(f"Picture: {draw_picture(arguments, data, model, processor, results)}")
    same = check_reload(arguments, data, model, processor)
    print(f"Reloaded in a fresh process through pipeline(...) without this package: all {same} masks are equal.")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
