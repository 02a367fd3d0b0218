# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Model cards: the committed ones, and what is rendered from the facts that a training and an evaluation record."""

import copy
import json
import re
import runpy
import shlex
import sys

import pytest
import yaml
from hub_stand_in import metadata_errors
from huggingface_hub import ModelCard
from places import ROOT
from tiny_models import tiny_model
from transformers import HfArgumentParser

from algm_hf import AlgmImageProcessor
from algm_hf.data.arguments import AugmentationArguments, DataArguments
from algm_hf.publishing.card_facts import CardFacts, facts_from_folder, read_facts
from algm_hf.publishing.model_card import check_card, render_card
from algm_hf.training.arguments import ModelArguments, SegmentationTrainingArguments


CARDS = ROOT / "model_cards"
FACTS = sorted((CARDS / "facts").glob("*.json"))
SCRIPT = ROOT / "scripts" / "render_model_cards.py"

# ALGM (CVPR 2024), tables of ADE20K, Pascal-Context and Cityscapes: mIoU, images/s and GFLOPs without and with ALGM.
PUBLISHED = {
    "algm_vit_tiny_patch16_ade20k": ((38.1, 287, 12.8), (38.9, 388, 8.4), 0.90, 5),
    "algm_vit_small_patch16_ade20k": ((45.3, 134, 38.6), (46.4, 192, 26.3), 0.88, 5),
    "algm_vit_base_patch16_ade20k": ((48.5, 51, 130), (49.4, 73, 91), 0.94, 5),
    "algm_vit_large_patch16_ade20k": ((51.8, 10, 672), (52.7, 16, 438), 0.95, 7),
    "algm_vit_small_patch16_pascal_context": ((53.0, 172, 32.1), (53.2, 217, 24.6), 0.88, 5),
    "algm_vit_small_patch16_cityscapes": ((76.5, 41, 116), (76.9, 65, 76), 0.955, 5),
}


def metadata(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL).group(1))


def table_rows(text, heading):
    """Cells of the first table below a heading, its header included."""
    lines = text.split(f"\n## {heading}", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


# --- the committed cards ---------------------------------------------------------------------------------------------


def test_every_published_checkpoint_has_a_card():
    assert set(PUBLISHED) <= {path.stem for path in FACTS}
    index = (CARDS / "README.md").read_text(encoding="utf-8")
    cards = {path.stem for path in CARDS.glob("*.md")} - {"README"}
    assert cards == {path.stem for path in FACTS} == set(re.findall(r"\]\((\w+)\.md\)", index))


@pytest.mark.parametrize("facts", FACTS, ids=lambda path: path.stem)
def test_a_committed_card_is_what_its_facts_render(facts):
    assert (CARDS / f"{facts.stem}.md").read_text(encoding="utf-8") == str(render_card(read_facts(facts)))


@pytest.mark.parametrize("facts", FACTS, ids=lambda path: path.stem)
def test_a_committed_card_validates(facts):
    text = (CARDS / f"{facts.stem}.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert check_card(card) == [] and metadata_errors(text) == []
    assert str(ModelCard(str(card))) == text, "reading and writing it changes nothing"
    data = metadata(text)
    assert data["datasets"] and data["metrics"] == ["mean_iou"]
    for result in data["model-index"][0]["results"]:
        assert all(metric["type"] == "mean_iou" and 0 < metric["value"] < 100 for metric in result["metrics"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_card_gives_the_figures_of_the_paper_and_says_whose_they_are(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    without, with_algm, tau, layer = PUBLISHED[name]
    header, first, second = table_rows(text, "Results")
    assert header == ["token merging", "mIoU", "images/s", "GFLOPs"]
    assert [float(cell) for cell in first[1:]] == list(without) and first[0] == "without ALGM"
    assert [float(cell) for cell in second[1:]] == list(with_algm) and second[0] == f"on, tau {tau:g}"
    result = metadata(text)["model-index"][0]["results"][0]
    assert [metric["value"] for metric in result["metrics"]] == [with_algm[0]], "the baseline has other weights"
    assert result["source"]["url"].endswith("2406.09936") and "the authors of ALGM" in result["source"]["name"]
    assert "Neither the weights nor the figures are this project's" in text
    model = dict(table_rows(text, "Model")[1:])
    assert model["global merge after the attention of layer"] == str(layer) and model["threshold tau"] == f"{tau:g}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_card_converts_into_the_folder_that_it_loads(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    folder = re.search(r'model_id = "(.*)"', text).group(1)
    assert f"--output_dir {folder}\n" in text and "." not in folder
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, name, "exec")


def test_the_card_of_the_model_trained_here_says_how_to_repeat_it_and_what_was_measured():
    text = (CARDS / "algm_vit_tiny_patch8_camvid.md").read_text(encoding="utf-8")
    facts = json.loads((CARDS / "facts" / "algm_vit_tiny_patch8_camvid.json").read_text(encoding="utf-8"))
    assert "## Results by class: token merging on, tau 0.85\n" in text
    by_class = [scores["iou"] for scores in facts["classes"].values()]
    rows = {row["name"]: row["mean_iou"] for row in facts["evaluations"][0]["rows"]}
    assert sum(by_class) / len(by_class) == pytest.approx(rows[facts["classes_setting"]], abs=1e-9)
    assert re.search(r'^model_id = ".*"  # the folder that holds your own copy: the weights are not', text, re.M)
    (command,) = re.findall(r"^python scripts/train.py (.*)$", text, re.M)
    kinds = (ModelArguments, DataArguments, AugmentationArguments, SegmentationTrainingArguments)
    parser = HfArgumentParser(kinds)
    model, data, augmentation, training = parser.parse_args_into_dataclasses(shlex.split(command))
    assert (data.dataset, model.config_overrides["hidden_size"], augmentation.crop_size) == ("camvid", 64, [160])
    assert training.max_steps == facts["training"]["steps"]


# --- facts -----------------------------------------------------------------------------------------------------------

MINIMAL = {"title": "A model", "model_id": "me/model"}
EVALUATION = {
    "dataset": "Streets",
    "dataset_id": "me/streets",
    "split": "validation",
    "setting": "single scale, whole images",
    "measured_by": "this project",
    "rows": [{"name": "off", "mean_iou": 0.5}, {"name": "on, tau 0.8", "mean_iou": 0.49876, "tokens_mean": 120.04}],
}


def test_what_nobody_recorded_is_left_out():
    text = str(render_card(CardFacts(**MINIMAL)))
    for words in ("## Results", "## Training", "## Provenance", "## Get it", "None", "nan", "model-index", "license:"):
        assert words not in text
    assert "\n\n\n" not in text and text.endswith("```\n")
    text = str(render_card(CardFacts(**MINIMAL, evaluations=[EVALUATION])))
    header, *rows = table_rows(text, "Results: Streets, validation")
    assert header == ["token merging", "mIoU", "tokens, mean of layers"], "no column without a figure"
    assert rows == [["off", "50", "-"], ["on, tau 0.8", "49.88", "120.0"]]
    assert "Speed:" not in text


def test_every_score_is_in_the_model_index_with_data_set_split_and_setting():
    card = render_card(CardFacts(**MINIMAL, license="mit", evaluations=[EVALUATION]))
    assert check_card(card) == []
    (result,) = metadata(str(card))["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "Streets",
        "type": "me/streets",
        "config": "single scale, whole images",
        "split": "validation",
    }
    found = {metric["name"].rpartition("merging ")[2]: metric["value"] for metric in result["metrics"]}
    assert found == {"off": 50.0, "on, tau 0.8": 49.88}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": "mit"}, "'licence'"),
        ({"evaluations": [{"dataset": "x"}]}, "'dataset_id'"),
        ({"evaluations": [EVALUATION | {"rows": [{"mean_iou": 0.5}]}]}, "'name'"),
        ({"evaluations": [EVALUATION | {"rows": [{"name": "on", "miou": 0.5}]}]}, "'miou'"),
        ({"evaluations": [EVALUATION | {"rows": [{"name": "on", "mean_iou": 50}]}]}, "mean_iou of 'on'=50"),
    ],
)
def test_facts_that_make_no_sense_are_refused(changes, message, tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps(MINIMAL | changes))
    with pytest.raises(ValueError, match=message):
        read_facts(tmp_path / "facts.json")


def test_files_that_hold_no_facts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="missing.json cannot be read as JSON"):
        read_facts(tmp_path / "missing.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list.json=\[\]"):
        read_facts(tmp_path / "list.json")
    (tmp_path / "facts.json").write_text(json.dumps(MINIMAL))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="results.json: no 'environment'"):
        read_facts(tmp_path / "facts.json", tmp_path / "results.json")


# --- what a training and an evaluation leave behind ------------------------------------------------------------------

ARGUMENTS = {
    "model": {
        "init_from": "timm/vit_tiny_patch16_384",
        "init_revision": "main",
        "train_with_merging": True,
    },
    "data": {
        "dataset": "camvid",
        "data_dir": "secret/place",
        "train_split": "train",
        "eval_split": "val",
    },
    "augmentation": {"crop_size": [352], "ratio_range": [0.5, 2.0]},
    "training": {
        "output_dir": "secret/output",
        "max_steps": -1,
        "num_train_epochs": 64.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 0.001,
        "lr_scheduler_type": "polynomial",
        "weight_decay": 0.0,
        "seed": 42,
    },
}
RESULTS = {
    "command": "python scripts/evaluate_model.py --data_dir secret/place",
    "arguments": {"batch_size": 4, "scales": [1.0], "flip": False},
    "data_arguments": {"dataset": "camvid", "eval_split": "val"},
    "environment": {"device": "cpu", "device_name": "x86_64", "dtype": "float32", "versions": {}},
    "model": {
        "image_size": {"shortest_edge": 352},
        "inference_mode": "slide",
        "window_size": 352,
        "window_stride": None,
    },
    "settings": [
        {
            "name": "off",
            "use_token_merging": False,
            "mean_iou": 0.6123,
            "images_per_second": 3.5,
            "tokens_mean": 785.0,
        },
        {"name": "tau 0.88", "use_token_merging": True, "mean_iou": 0.6101, "images_per_second": 4.25},
    ],
}
RESULTS["settings"][1]["tokens_mean"] = 512.5
for row in RESULTS["settings"]:
    row |= {"num_images": 101, "mean_accuracy": 0.7, "overall_accuracy": 0.9, "tokens_final": 400.0}


@pytest.fixture
def folder(tmp_path):
    """What `scripts/train.py` leaves behind."""
    folder = tmp_path / "trained"
    tiny_model(id2label=dict(enumerate(["sky", "road", "tree", "car", "person"]))).save_pretrained(folder)
    AlgmImageProcessor(size={"shortest_edge": 64}, patch_size=8).save_pretrained(folder)
    run = {"command": "python scripts/train.py", "arguments": ARGUMENTS, "versions": {"torch": "2.11.0"}}
    (folder / "training_arguments.json").write_text(json.dumps({"runs": [{"arguments": {}}, run]}))
    scores = {"eval_mean_iou": 0.6101, "eval_num_images": 101, "eval_tokens_mean": 512.5, "train_loss": 0.3}
    (folder / "all_results.json").write_text(json.dumps(scores))
    by_class = {"sky": {"iou": 0.9, "accuracy": 0.95}, "person": {"iou": None, "accuracy": None}}
    (folder / "scores_by_class.json").write_text(json.dumps(by_class))
    return folder


def test_a_training_folder_renders_a_card_that_validates(folder):
    card = render_card(facts_from_folder(folder, model_id="me/streets", license="mit"))
    text = str(card)
    assert check_card(card) == [] and metadata_errors(text) == []
    data = metadata(text)
    assert data["base_model"] == "timm/vit_tiny_patch16_384" and data["datasets"] == ["camvid"]
    assert table_rows(text, "Results: CamVid, val") == [
        ["token merging", "mIoU", "tokens, mean of layers"],
        ["on, tau 0.6", "61.01", "512.5"],
    ]
    assert "Measured by this project: 101 images, single scale, whole images" in text
    training = dict(table_rows(text, "Training")[1:])
    assert training["optimizer"] == "sgd momentum=0.9" and training["epochs"] == "64" and training["seed"] == "42"
    assert training["start"] == "timm/vit_tiny_patch16_384" and "steps" not in training
    assert training["drop path"] == "0", "as config.json says"
    model = tiny_model()
    assert dict(table_rows(text, "Model")[1:])["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert table_rows(text, "Results by class")[1:] == [["sky", "90", "95"], ["person", "-", "-"]]
    assert "Versions: torch 2.11.0." in text


def test_a_card_names_no_path_of_a_machine(folder, tmp_path):
    (folder / "results.json").write_text(json.dumps(RESULTS))
    assert "secret" not in str(render_card(facts_from_folder(folder)))
    arguments = copy.deepcopy(ARGUMENTS)
    arguments["data"] |= {"dataset": "folder", "data_dir": str(tmp_path / "streets")}
    arguments["model"]["init_from"] = str(tmp_path / "weights")
    (folder / "training_arguments.json").write_text(json.dumps({"runs": [{"arguments": arguments}]}))
    (folder / "results.json").unlink()
    card = render_card(facts_from_folder(folder))
    assert str(tmp_path) not in str(card) and "Results: streets, val" in str(card)
    assert card.data.base_model is None and card.data.datasets is None, "a folder is nothing on the Hub"


def test_relative_folders_are_no_repositories_wherever_the_card_is_rendered(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where neither of the folders is
    for data in ({"dataset": "folder", "data_dir": "data/streets"}, {"dataset": "data/streets"}):
        arguments = copy.deepcopy(ARGUMENTS)
        arguments["data"] |= {"data_dir": None} | data
        arguments["model"] |= {"init_from": "outputs/mine", "init_revision": None}
        (folder / "training_arguments.json").write_text(json.dumps({"runs": [{"arguments": arguments}]}))
        card = render_card(facts_from_folder(folder))
        assert card.data.base_model is None and card.data.datasets is None
        assert "outputs/mine" not in str(card) and "data/streets" not in str(card)
        assert "Results: streets, val" in str(card)


def test_a_recorded_revision_tells_a_repository(folder):
    arguments = copy.deepcopy(ARGUMENTS)
    arguments["data"] |= {"dataset": "me/streets", "data_dir": None, "revision": "main"}
    (folder / "training_arguments.json").write_text(json.dumps({"runs": [{"arguments": arguments}]}))
    card = render_card(facts_from_folder(folder))
    assert card.data.base_model == "timm/vit_tiny_patch16_384" and card.data.datasets == ["me/streets"]


def test_an_evaluation_gives_the_table_of_merging_off_and_on(folder, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    facts = facts_from_folder(folder, tmp_path / "results.json", license="mit")
    text = str(render_card(facts))
    header, off, on = table_rows(text, "Results: CamVid, val")
    found = dict(zip(header, on, strict=True))
    assert off[0] == "off" and found["token merging"] == "on, tau 0.88"
    assert (found["mIoU"], found["images/s"], found["tokens, mean of layers"]) == ("61.01", "4.25", "512.5")
    assert "single scale, shorter side 352, windows of 352 with stride 352" in text
    assert "Speed: x86_64 (cpu), float32, batches of 4." in text
    values = [metric["value"] for metric in metadata(text)["model-index"][0]["results"][0]["metrics"]]
    assert values == [61.23, 61.01]


def test_scores_of_another_model_are_refused(folder, tmp_path):
    other = RESULTS | {"model": RESULTS["model"] | {"hidden_size": 384}}
    (tmp_path / "results.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="results.json: hidden_size=384: expected 32"):
        facts_from_folder(folder, tmp_path / "results.json")


# --- checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda card: card.data.pop("library_name"), "library_name=None"),
        (lambda card: setattr(card.data, "pipeline_tag", "image-to-image"), "pipeline_tag='image-to-image'"),
        (lambda card: setattr(card.data, "license", None), "license=None"),
        (lambda card: setattr(card.data, "license", "other"), "license='other': expected license_name"),
        (lambda card: setattr(card.data, "base_model", "../weights"), "base_model='../weights'"),
        (lambda card: setattr(card.data, "metrics", None), "metrics=[]: expected 'mean_iou'"),
        (lambda card: setattr(card.data.eval_results[0], "dataset_split", None), "'Streets'=(None, "),
        (lambda card: setattr(card.data.eval_results[0], "metric_value", 123), "'Streets'=123"),
        (lambda card: setattr(card, "text", card.text.replace("revision=", "")), "text='without revision='"),
        (lambda card: setattr(card, "text", card.text + "[More Information Needed]"), "'[More Information Needed]'"),
    ],
)
def test_the_check_of_a_card_names_what_is_wrong(change, problem):
    card = render_card(CardFacts(**MINIMAL, license="mit", evaluations=[EVALUATION]))
    assert check_card(card) == []
    change(card)
    (found,) = check_card(card)
    assert problem in found


# --- the script ------------------------------------------------------------------------------------------------------


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_the_script_renders_one_card(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    common = ["--facts", folder, "--evaluation", tmp_path / "results.json", "--model_id", "me/streets"]
    assert run_script(monkeypatch, *common, "--license", "mit", "--output", tmp_path / "card.md") == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert check_card(ModelCard(text)) == [] and 'model_id = "me/streets"' in text
    assert run_script(monkeypatch, *common) == 1
    captured = capsys.readouterr()
    assert "license=None" in captured.err and "# streets" in captured.out


def test_the_script_refuses_options_without_facts(monkeypatch):
    assert "--license='mit': expected --facts" in run_script(monkeypatch, "--license", "mit")
