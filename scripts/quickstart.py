# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates, saves, reloads and draws a small ALGM; `make demo` runs it.

Without arguments it draws street scenes (no download), trains a small model on them from scratch, token merging
switched on, evaluates it with merging off and on, and leaves in the output folder

    scenes/        the drawn images and label maps, in the layout that --data_dir takes
    model/         model, image processor and code, ready for from_pretrained, pipeline and the Hub
    demo.png       held-out images | truth | prediction | the tokens that were left
    results.md     mIoU, tokens and speed with merging on and off, at the same weights
    results.json   the same with settings, versions and scores per class

The saved folder is then loaded by `pipeline("image-segmentation", ..., trust_remote_code=True)` in a fresh process in
which this package cannot be imported, and has to give the same masks. Any folder of labelled images (images/train,
images/val, annotations/train, annotations/val, classes.txt) takes the place of the scenes:

    python scripts/quickstart.py --data_dir FOLDER --size 160 --max_minutes 10

Every step is that of scripts/train.py and scripts/evaluate_model.py, with smaller arguments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import HfArgumentParser, set_seed

from algm_hf.data.arguments import AugmentationArguments, DataArguments
from algm_hf.data.augmentation import augmented, build_augmentation
from algm_hf.data.drawn_scenes import DEFAULT_SIZE, SCENE_CLASSES, make_scene
from algm_hf.data.loading import SegmentationData, load_segmentation_data
from algm_hf.evaluation.metrics import SegmentationConfusion
from algm_hf.evaluation.report import results_text, save_results
from algm_hf.evaluation.run import EvaluationArguments, EvaluationRun
from algm_hf.inference.drawing import colorize, draw_tokens, panel
from algm_hf.refusals import require_integer
from algm_hf.runs.timing import time_settings
from algm_hf.training.arguments import ModelArguments, SegmentationTrainingArguments, parse_overrides
from algm_hf.training.initial_model import build_model
from algm_hf.training.stopping import StopRequest
from algm_hf.training.trainer import SegmentationTrainer


COLUMN_WIDTH = 384  # of demo.png, in pixels
HELD_OUT_SEED = 1_000_000  # scenes from here on are never trained on
TINY = {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2, "patch_size": 8}
TINY |= {"local_merge_layer": 1, "global_merge_layer": 3, "merge_threshold": 0.85}
TINY |= {"decoder_num_hidden_layers": 1, "decoder_dropout_prob": 0.0, "drop_path_rate": 0.0}

# Runs in the fresh process: argv holds the model folder, a folder of images and the file for the label maps.
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
    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder for model, demo.png and results."})
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
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of AlgmConfig, as of scripts/train.py: merge_threshold=0.9 hidden_size=128 ..."},
    )
    other_thresholds: list[float] = field(
        default_factory=lambda: [0.95, 0.75],
        metadata={"help": "Further thresholds to evaluate the same weights with."},
    )
    num_shown: int = field(default=5, metadata={"help": "Evaluation images in demo.png, evenly spread over the set."})
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads; without it OMP_NUM_THREADS, or else half of the usable cores."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, order of the images and mirroring."})


def set_threads(num_threads: int | None) -> None:
    """Limits the CPU threads. The tensors here are so small that a second thread gains a tenth on an idle machine,
    while on a busy one threads that wait for each other make every step many times slower."""
    if num_threads is None and "OMP_NUM_THREADS" not in os.environ:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_threads = max(1, usable // 2)
    if num_threads is not None:
        require_integer("num_threads", num_threads, 1)
        torch.set_num_threads(num_threads)


def draw_scenes(arguments: DemoArguments, folder: Path) -> Path:
    """Writes scenes as a folder that `--dataset folder` of the other scripts takes, too."""
    counts = {"train": (arguments.num_train_scenes, 0), "val": (arguments.num_eval_scenes, HELD_OUT_SEED)}
    print(f"Drawing {arguments.num_train_scenes} + {arguments.num_eval_scenes} scenes ...")
    shutil.rmtree(folder, ignore_errors=True)
    size = (arguments.size, round(arguments.size * DEFAULT_SIZE[1] / DEFAULT_SIZE[0]))
    for split, (count, first_seed) in counts.items():
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            image, labels = make_scene(first_seed + number, size)
            image.save(folder / "images" / split / f"{number:04d}.png")
            labels.save(folder / "annotations" / split / f"{number:04d}.png")
    (folder / "classes.txt").write_text("\n".join(SCENE_CLASSES) + "\n", encoding="utf-8")
    return folder


def build_trainer(arguments: DemoArguments, data: SegmentationData, scratch: str, stop: StopRequest):
    """A trainer of a small model with random weights, on whole images of the shape of the first one."""
    width, height = data.train[0]["image"].size
    crop = [round(side * arguments.size / min(height, width)) for side in (height, width)]
    # All images have about one size and every class its place: no random size, crop or colour.
    augmentation = AugmentationArguments(crop, arguments.size, [1.0, 1.0], 1.0, photometric_distortion=False)
    overrides = TINY | parse_overrides(arguments.config_overrides)
    model_arguments = ModelArguments("scratch:custom", config_overrides=overrides, eval_size=arguments.size)
    initial = build_model(model_arguments, augmentation.crop, data.id2label)
    settings = SegmentationTrainingArguments(
        output_dir=scratch,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=arguments.batch_size,
        optim="adamw_torch",
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, arguments.max_steps // 20),
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=max(1, arguments.max_steps // 10),
        eval_strategy="no",
        save_strategy="no",
        seed=arguments.seed,
    )
    rows = augmented(data.train, build_augmentation(augmentation, initial.processor), arguments.seed)
    print(f"{initial.model.num_parameters():,} parameters, {len(rows)} training images of {crop[0]} x {crop[1]}.")
    return SegmentationTrainer(initial.model, settings, initial.processor, rows, stop=stop)


def train(arguments: DemoArguments, data: SegmentationData, folder: Path) -> tuple[SegmentationTrainer, dict]:
    """Trains until the last step, the time limit or Ctrl-C, and saves model and processor in any case.

    Returns:
        `tuple`: the trainer, and the facts of the training.
    """
    stop, start = StopRequest(arguments.max_minutes), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_trainer(arguments, data, scratch, stop)
        try:
            with stop:
                trainer.train()
        finally:
            trainer.model.save_pretrained(folder)  # weights, config and code
            trainer.processing_class.save_pretrained(folder)
            print(f"Model and processor are in {folder}.")
    step = trainer.state.global_step
    if stop.signal is not None:
        print(f"\nInterrupted after step {step}; what is trained so far is kept.", file=sys.stderr)
        sys.exit(128 + stop.signal)  # what a shell expects
    if stop.is_due:
        print(f"max_minutes={arguments.max_minutes} ended the training after step {step}.")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = time.perf_counter() - start
    return trainer, {"steps": step, "seconds": seconds, "time_limit_reached": stop.is_due, "losses": losses}


def draw_results(evaluation: EvaluationRun, num_shown: int, path: Path) -> None:
    """Writes image | truth | prediction | tokens (not in windows) for evaluation images spread evenly over the set."""
    id2label, palette, rows = evaluation.data.id2label, evaluation.palette, evaluation.data.evaluation
    cells, captions, present = [], [], set()
    count = min(num_shown, len(rows))
    for row in rows.select([len(rows) * index // count for index in range(count)]):
        image, truth = row["image"], np.asarray(row["annotation"])
        (result,) = evaluation.predictor([image])
        confusion = SegmentationConfusion(len(id2label))
        confusion.update(result.label_map, truth)
        cells.append([image, colorize(truth, palette), colorize(result.label_map, palette)])
        captions.append(["", "", f"{100 * confusion.compute()['overall_accuracy']:.1f} % of pixels right"])
        tokens = draw_tokens(image, result, evaluation.model.config.patch_size, COLUMN_WIDTH)
        if tokens is not None:
            cells[-1][0] = image.resize(tokens.size, Image.Resampling.BICUBIC)
            cells[-1].append(tokens)
            kept = f"{len(np.unique(result.patch_to_token))} tokens for {result.patch_to_token.size} patches"
            captions[-1].append(kept)
        present |= set(np.unique(truth).tolist()) | set(np.unique(result.label_map).tolist())
    shown = [index for index in id2label if index in present]
    off, on = evaluation.results["settings"][:2]
    heading = (
        f"ALGM, held-out images: mIoU {on['mean_iou']:.3f} with {on['tokens_final']:.0f} tokens, "
        f"{off['mean_iou']:.3f} with all {off['tokens_final']:.0f}"
    )
    legend = ([id2label[index] for index in shown], [palette[index] for index in shown])
    titles = ["image", "truth", "prediction", "tokens left"][: len(cells[0])]
    panel(cells, titles, captions, legend, heading, COLUMN_WIDTH).save(path)


def check_reload(evaluation: EvaluationRun) -> int:
    """Compares this process's masks with those of a pipeline in a fresh process that has only the saved folder.

    Returns:
        `int`: Number of masks compared, all equal.

    Raises:
        `RuntimeError`: If the fresh process fails or a mask differs.
    """
    folder = Path(evaluation.arguments.model).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        images, answer = Path(scratch) / "images", Path(scratch) / "maps.npz"
        images.mkdir()
        expected = {}
        rows = evaluation.data.evaluation
        for index, row in enumerate(rows.select(range(min(4, len(rows))))):
            row["image"].save(images / f"{index}.png")
            expected[str(index)] = evaluation.predictor([row["image"]])[0].label_map
        # -I: neither this folder nor PYTHONPATH is on the child's path; the modules cache is its own.
        child = subprocess.run(
            [sys.executable, "-I", "-c", RELOAD, str(folder), str(images), str(answer)],
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


def main() -> None:
    arguments: DemoArguments = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()[0]
    folder = Path(arguments.output_dir)
    set_threads(arguments.num_threads)
    set_seed(arguments.seed)
    data_arguments = DataArguments(
        dataset="folder",
        data_dir=arguments.data_dir or str(draw_scenes(arguments, folder / "scenes")),
        ignore_labels=arguments.ignore_labels,
        max_train_samples=arguments.max_train_samples,
        max_eval_samples=arguments.max_eval_samples,
    )
    trained_with = (TINY | parse_overrides(arguments.config_overrides))["merge_threshold"]
    thresholds = list(dict.fromkeys([trained_with, *arguments.other_thresholds]))
    settings = EvaluationArguments(str(folder / "model"), str(folder), ["off", "on"], thresholds, batch_size=8)
    trainer, training = train(arguments, load_segmentation_data(data_arguments), folder / "model")
    evaluation = EvaluationRun(settings, data_arguments, trainer.accelerator)
    evaluation.results |= {"demo_arguments": asdict(arguments), "training": training}
    evaluation.run()
    images = [
        row["image"] for row in evaluation.data.evaluation.select(range(min(8, len(evaluation.data.evaluation))))
    ]
    seconds = time_settings(evaluation.model, evaluation.predictor.processor, images, evaluation.settings)
    times = {name: 1000 * value for name, value in seconds.items()}
    evaluation.results["milliseconds_per_image"] = times
    save_results(evaluation.results, folder)
    print(f"\n{results_text(evaluation.results)}\n")
    said = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
    print(f"Forward pass on a batch of {len(images)}, settings in turns, ms per image: {said}.")
    draw_results(evaluation, arguments.num_shown, folder / "demo.png")
    print(f"Look at {folder / 'demo.png'}.")
    same = check_reload(evaluation)
    print(f"Reloaded in a fresh process through pipeline(...) without this package: all {same} masks are equal.")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
