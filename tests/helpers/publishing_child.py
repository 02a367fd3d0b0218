# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
What `test_publishing.py` runs in processes of their own, where the environment names the stand-in as the Hub.

    publishing_child.py push FOLDER REPORT         the script, `push_model_to_hub` and two Trainers
    publishing_child.py scenarios FILE REPORT      the script once for each entry, with its arguments and token
"""

import contextlib
import io
import json
import os
import runpy
import sys
import time
from pathlib import Path

import torch
from huggingface_hub import HfApi
from places import ROOT
from tiny_models import blocky_images
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, Trainer, TrainingArguments

from algm_hf import AlgmForSemanticSegmentation, push_model_to_hub
from algm_hf.publishing.trainer_mixin import PublishingMixin


COMMIT = HfApi.create_commit
SCRIPT = str(ROOT / "scripts" / "push_to_hub.py")


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"pixel_values": blocky_images(2, 32, 32)[index], "labels": torch.full((32, 32), index)}


class PublishingTrainer(PublishingMixin, Trainer):
    card_facts = {"license": "mit"}


def interrupted_commit(*arguments, **options):
    """Ctrl-C after the commit, before its answer is used."""
    COMMIT(*arguments, **options)
    raise KeyboardInterrupt


def run_script(arguments, token=None, interrupt=False):
    """Runs the script in this process, which has its imports already."""
    HfApi.create_commit = interrupted_commit if interrupt else COMMIT
    if token is not None:
        os.environ["HF_TOKEN"] = token
    sys.argv = [SCRIPT, *arguments]
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as stop:  # as the interpreter ends: a message goes to standard error, with exit code 1
            code = stop.code if isinstance(stop.code, int) else 1
            errors.write("" if isinstance(stop.code, int) else f"{stop.code}\n")
    return {"code": code, "output": output.getvalue(), "errors": errors.getvalue()}


def push_with_model(folder):
    repo_id = "someone/algm-from-model"
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    # README: publish
    commit = push_model_to_hub(model, repo_id, processor=processor, license="apache-2.0", private=True)
    model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, trust_remote_code=True, revision=commit.oid)
    # README: end
    assert isinstance(model, AlgmForSemanticSegmentation)
    return commit.oid


def push_with_trainer(kind, folder, output_dir, repo_id):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    args = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=1,
        learning_rate=0.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        push_to_hub=True,
        hub_model_id=repo_id,
    )
    trainer = kind(model=model, args=args, train_dataset=Pairs(), processing_class=processor)
    trainer.train()
    commit = trainer.push_to_hub(blocking=kind is Trainer)
    return (commit if kind is Trainer else commit.result()).oid


def push(folder, report):
    commits = {"someone/algm-from-model": push_with_model(folder)}
    for kind, repo_id in ((Trainer, "someone/algm-from-trainer"), (PublishingTrainer, "someone/algm-trained")):
        commits[repo_id] = push_with_trainer(kind, folder, Path(report).parent / repo_id, repo_id)
    script = [
        run_script(["--model", str(folder), "--repo_id", "someone/algm-from-script", "--license", "mit", *more])
        for more in ([], ["--revision", "v2"])
    ]
    by_hand = run_script(["--model", str(folder), "--repo_id", "someone/algm-by-hand", "--license", "mit"])
    found = {"commits": commits, "script": script, "by_hand": by_hand}
    Path(report).write_text(json.dumps(found), encoding="utf-8")


def scenarios(file, report):
    time.sleep = lambda seconds: None  # between the client's retries
    found = [run_script(**scenario) for scenario in json.loads(Path(file).read_text(encoding="utf-8"))]
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    {"push": push, "scenarios": scenarios}[sys.argv[1]](*sys.argv[2:])
