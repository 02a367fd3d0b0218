# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishing: huggingface_hub's real client against a stand-in for the Hub on the loopback interface."""

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stand_in import TOKEN, Failure, HubStandIn
from PIL import Image
from places import HELPERS, ROOT
from safetensors.torch import load_file, save_file
from saved_models import CHILD_PREAMBLE, NAMES, flat_image, label_map
from tiny_models import blocky_images, tiny_model
from transformers import AutoImageProcessor, PreTrainedModel, Trainer, TrainingArguments

from algm_hf import AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.publishing.publication import check_repo_id, prepare_publication
from algm_hf.publishing.trainer_mixin import PublishingMixin
from algm_hf.publishing.upload import push_model_to_hub


CHILD = HELPERS / "publishing_child.py"
SCRIPT = ROOT / "scripts" / "push_to_hub.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("published") / "model"
    tiny_model(id2label=NAMES).save_pretrained(folder)
    AlgmImageProcessor(size={"shortest_edge": 64}, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def run_child(environment, cwd, *command):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = inherited | environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr
    return result


# --- end to end ------------------------------------------------------------------------------------------------------

LOAD = """
import contextlib, io, json, re
import numpy
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
commits, images, found = json.loads(sys.argv[1]), torch.load(sys.argv[2], weights_only=True), {}
for repo_id, commit in commits.items():
    pinned = {"trust_remote_code": True, "revision": commit}
    model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, **pinned).eval()
    processor = AutoImageProcessor.from_pretrained(repo_id, **pinned)
    assert "transformers_modules" in type(model).__module__ and "transformers_modules" in type(processor).__module__
    with torch.no_grad():
        logits = model(images).logits
        inputs = processor(Image.open("street.jpg"), return_tensors="pt")
        segmented = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(70, 90)])[0]
    segmenter = pipeline("image-segmentation", model=repo_id, **pinned)
    assert "transformers_modules" in type(segmenter.image_processor).__module__
    masks = [(entry["label"], entry["mask"]) for entry in segmenter("street.jpg")]
    found[repo_id] = {"logits": logits, "segmented": segmented,
        "masks": torch.stack([torch.from_numpy(numpy.array(mask)) for _, mask in masks]),
        "names": [name for name, _ in masks]}
    card = open(hf_hub_download(repo_id, "README.md", revision=commit), encoding="utf-8").read()
    if "## Use it" in card and "script" not in repo_id:  # the example runs as the card prints it
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(re.search(r"```python\\n(.*?)```", card, re.DOTALL).group(1), {})
        found[repo_id]["printed"] = output.getvalue()
assert "algm_hf" not in sys.modules
torch.save(found, sys.argv[3])
"""


@pytest.fixture(scope="module")
def published(folder, tmp_path_factory):
    """Everything pushed by one process and loaded again by another one that has no cache and not this package."""
    work = tmp_path_factory.mktemp("hub")
    flat_image(90, 70, seed=1).save(work / "street.jpg")
    torch.save(blocky_images(2, 64, 72), work / "images.pt")
    with HubStandIn() as hub:
        stale = dict.fromkeys(("model-00001-of-00002.safetensors", "pytorch_model.bin", "training_args.bin"), b"old")
        hub.create("someone/algm-from-script", files=stale | {"notes.txt": b"mine"})
        hub.create("someone/algm-by-hand", files={"README.md": b"# Mine, by hand\n"})
        run_child(hub.environment(work / "push"), work, CHILD, "push", folder, work / "report.json")
        report = json.loads((work / "report.json").read_text())
        commits = report["commits"] | {"someone/algm-from-script": hub.head("someone/algm-from-script")}
        repository = hub.repositories["someone/algm-from-script"]
        newer = hub.files("someone/algm-from-script") | {"modeling_algm.py": b"raise RuntimeError('not what I read')"}
        repository.commit("main", newer, "code that nobody has read")
        code = CHILD_PREAMBLE + LOAD
        arguments = [json.dumps(commits), work / "images.pt", work / "found.pt"]
        run_child(hub.environment(work / "load"), work, "-c", code, *arguments)
        yield hub, report, commits, torch.load(work / "found.pt", weights_only=True), work


REPOSITORIES = ("algm-from-script", "algm-from-model", "algm-from-trainer", "algm-trained")


@pytest.mark.parametrize("name", REPOSITORIES)
def test_what_was_pushed_gives_equal_logits_where_this_package_is_not_installed(published, folder, name):
    _, _, _, found, _ = published
    with torch.no_grad():
        expected = AlgmForSemanticSegmentation.from_pretrained(folder).eval()(blocky_images(2, 64, 72)).logits
    torch.testing.assert_close(found[f"someone/{name}"]["logits"], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_pipeline_of_what_was_pushed_gives_equal_label_maps(published, folder, name):
    _, _, _, found, work = published
    found = found[f"someone/{name}"]
    masks = [
        {"label": label, "mask": Image.fromarray(mask.numpy().astype(np.uint8))}
        for label, mask in zip(found["names"], found["masks"], strict=True)
    ]
    model = AlgmForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(Image.open(work / "street.jpg"), return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(70, 90)])[0]
    assert torch.equal(label_map(masks), expected.cpu()) and torch.equal(found["segmented"], expected)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_push_is_one_commit_with_weights_config_code_processor_and_card(published, folder, name):
    hub, _, commits, _, _ = published
    files = hub.files(f"someone/{name}", commits[f"someone/{name}"])
    expected = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
    expected |= {path.name for path in folder.glob("*.py")}
    assert expected <= set(files)
    assert load_file(folder / "model.safetensors").keys() == json_header(files["model.safetensors"]).keys() - {
        "__metadata__"
    }
    extra = set(files) - expected - {".gitattributes"}
    if name == "algm-from-trainer":  # transformers' own upload of the output folder
        assert extra == {"training_args.bin"}
    else:
        assert extra <= {"notes.txt"}, "what is nobody's weights stays, and nothing comes along"


def json_header(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_a_push_is_one_commit_and_takes_away_weights_that_could_be_loaded_in_its_place(published):
    hub, _, _, _, _ = published
    messages = list(hub.repositories["someone/algm-from-script"].messages.values())
    assert messages == ["initial commit", "Upload model", "code that nobody has read"]
    assert list(hub.repositories["someone/algm-from-model"].messages.values()) == ["initial commit", "Upload model"]
    left = hub.files("someone/algm-from-script")
    assert "notes.txt" in left and not any(name.endswith((".bin", "-of-00002.safetensors")) for name in left)


def test_the_script_reports_the_commit_and_makes_the_branch(published):
    hub, report, commits, _, _ = published
    first, second = report["script"]
    assert first["code"] == second["code"] == 0, first["errors"] + second["errors"]
    assert commits["someone/algm-from-script"] in first["output"]
    assert set(hub.repositories["someone/algm-from-script"].branches) == {"main", "v2"}
    assert hub.repositories["someone/algm-from-model"].private


def test_the_example_of_a_card_runs_as_it_is_printed(published):
    _, _, _, found, _ = published
    for name in ("algm-from-model", "algm-trained"):
        lines = found[f"someone/{name}"]["printed"].splitlines()
        classes = set(re.findall(r"'(\w+)'", lines[0]))
        assert lines[0].startswith("classes:") and classes and classes <= set(NAMES.values())
        counts = json.loads(lines[1].removeprefix("tokens after each layer: "))
        assert len(counts) == 4 and counts[0] >= counts[-1]


def test_a_pushed_card_names_the_repository_and_its_licence(published):
    hub, _, commits, _, _ = published
    for name, licence in (("algm-from-script", "mit"), ("algm-from-model", "apache-2.0"), ("algm-trained", "mit")):
        card = hub.files(f"someone/{name}", commits[f"someone/{name}"])["README.md"].decode()
        assert f'model_id = "someone/{name}"' in card and f"\nlicense: {licence}\n" in card


def test_a_card_by_hand_on_the_hub_is_not_replaced_by_a_rendered_one(published):
    hub, report, *_ = published
    assert report["by_hand"]["code"] == 0, report["by_hand"]["errors"]
    files = hub.files("someone/algm-by-hand")
    assert files["README.md"] == b"# Mine, by hand\n" and "model.safetensors" in files
    assert "README.md of someone/algm-by-hand stays as it is" in report["by_hand"]["errors"]


def test_the_client_asked_for_nothing_that_the_stand_in_does_not_know(published):
    hub, *_ = published
    # Files that are not there are asked for by name; anything else would be an endpoint that is missing here.
    assert [request for request in hub.unknown if "/resolve/" not in request] == []


def test_the_script_pins_nothing_to_a_branch_that_moves(published):
    hub, *_ = published
    loads = [path for _, path in hub.requests if path.startswith("/someone/algm-from-script/resolve/")]
    assert loads and not any("/resolve/main/" in path for path in loads)


# --- failures --------------------------------------------------------------------------------------------------------

NEW_COMMIT = "But 'main' has a new commit, [0-9a-f]{40}"
SCENARIOS = {
    "cut": (
        Failure("PUT", "/lfs/someone/cut/", None),
        {},
        r"Upload to someone/cut: .*Nothing was published on 'main'\.$",
    ),
    "token": (None, {"token": "hf_expired"}, r"401 .*Invalid credentials.*Nothing was published"),
    "elsewhere": (None, {"repo_id": "other/elsewhere"}, r"403 .*the rights to create.*Nothing was published"),
    "conflict": (
        Failure("POST", "/api/models/someone/conflict/commit/", 409, "The branch is being rewritten"),
        {},
        r"409 .*The branch is being rewritten.* Nothing was published on 'main'",
    ),
    "invalid": (
        Failure("POST", "/api/models/someone/invalid/commit/", 400, "The branch takes no such file"),
        {},
        r"Upload to someone/invalid: .*The branch takes no such file.* Nothing was published on 'main'",
    ),
    "overtaken": (
        Failure("POST", "/api/models/someone/overtaken/commit/", 412, "A commit has happened since"),
        {},
        r"412 .*A commit has happened since.* Nothing was published on 'main'",
    ),
    "card": (None, {"license": "My Licence"}, r"README\.md=.*license.* must be one of.*nothing was published"),
    "down": (
        Failure("POST", "/api/models/someone/down/preupload/", 503, "down"),
        {},
        r"503 .*down.* Nothing was published",
    ),
    "answerless": (Failure("POST", "/api/models/someone/answerless/commit/", None, after=True), {}, NEW_COMMIT),
    "late": (
        Failure("POST", "/api/models/someone/late/commit/", 500, "storage hiccup", after=True),
        {},
        "storage hiccup.*" + NEW_COMMIT,
    ),
    "first": (
        Failure("PUT", "/lfs/someone/first/", 503, "storage is down"),
        {},
        r"Nothing was published on 'main'\. What was created stays: the empty repository someone/first\.",
    ),
    "ctrl_c": (None, {"interrupt": True}, "Interrupted. " + NEW_COMMIT),
    "public": (None, {"more": ["--private"]}, "private=True: expected False, as someone/public exists and is public"),
    "branch": (
        Failure("PUT", "/lfs/someone/branch/", 403, "storage is full"),
        {"more": ["--revision", "v2"]},
        r"403 .*storage is full.*Nothing was published on 'v2'\. What was created stays: the empty repository "
        r"someone/branch and the branch 'v2'\.",
    ),
}


@pytest.fixture(scope="module")
def failed(folder, tmp_path_factory):
    """Every scenario in a process of its own kind: its result, and what the repository held before and after."""
    work, entries, before = tmp_path_factory.mktemp("failures"), [], {}
    with HubStandIn() as hub:
        for name, (failure, changes, _) in SCENARIOS.items():
            repo_id = changes.get("repo_id", f"someone/{name}")
            arguments = ["--model", str(folder), "--repo_id", repo_id, "--license", changes.get("license", "mit")]
            entries.append({"arguments": arguments + changes.get("more", []), "token": changes.get("token", TOKEN)})
            entries[-1]["interrupt"] = changes.get("interrupt", False)
            hub.failures += [failure] if failure else []
            if name in ("cut", "conflict", "invalid", "overtaken", "answerless", "late", "ctrl_c", "public", "down"):
                hub.create(repo_id, files={"model.safetensors": b"before"})
                before[name] = hub.head(repo_id)
        (work / "scenarios.json").write_text(json.dumps(entries))
        run_child(hub.environment(work), work, CHILD, "scenarios", work / "scenarios.json", work / "report.json")
        results = dict(zip(SCENARIOS, json.loads((work / "report.json").read_text()), strict=True))
        yield hub, results, before


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failed_push_ends_in_one_clear_message(failed, name):
    _, results, _ = failed
    assert results[name]["code"] == (130 if name == "ctrl_c" else 1) and "Traceback" not in results[name]["errors"]
    errors = [line for line in results[name]["errors"].splitlines() if line.startswith(("error: ", "Interrupted"))]
    assert len(errors) == 1 and re.search(SCENARIOS[name][2], errors[0]), results[name]["errors"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failed_push_publishes_nothing(failed, name):
    hub, _, before = failed
    repository = hub.repositories.get(f"someone/{name}")
    if name in ("answerless", "late", "ctrl_c"):  # all of it, and the message says so
        assert {"model.safetensors", "README.md"} <= set(hub.files(f"someone/{name}"))
        assert len(repository.commits) == 2
    elif name in before:
        assert repository.branches == {"main": before[name]} and len(repository.commits) == 1
        assert hub.files(f"someone/{name}")["model.safetensors"] == b"before"
    elif name == "first":
        assert len(repository.commits) == 1 and set(repository.branches) == {"main"}
    elif name == "branch":
        assert len(repository.commits) == 1 and set(repository.branches) == {"main", "v2"}
    else:
        assert repository is None, "not even an empty repository"


# --- without the network ---------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_dry_run_lists_files_sizes_and_card_checks_and_uses_no_network(copy, monkeypatch, capsys, no_network):
    (copy / "training_args.bin").write_bytes(b"pickle")
    (copy / "checkpoint-5").mkdir()
    (copy / "leftover.py").write_text("")
    run_script(monkeypatch, "--model", copy, "--repo_id", "me/algm-streets", "--license", "mit", "--dry_run")
    output = capsys.readouterr().out
    sizes = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ *([\d,]+)  (\S+)$", output, re.M)}
    for path in copy.iterdir():
        if path.name in ("training_args.bin", "leftover.py", "checkpoint-5"):
            assert path.name not in sizes
        else:
            assert sizes[path.name] == path.stat().st_size
    assert "training_args.bin: can run code when it is read" in output and "checkpoint-5/: a folder" in output
    assert "leftover.py: no code that the model needs" in output
    assert "its checks pass" in output and "nothing was sent to me/algm-streets" in output


def test_a_card_without_a_licence_is_not_published(folder, monkeypatch, capsys, no_network):
    with pytest.raises(SystemExit, match="^error: README.md: license=None.*Nothing was published"):
        run_script(monkeypatch, "--model", folder, "--repo_id", "me/algm-streets")
    assert "its checks fail:\n    license=None" in capsys.readouterr().out


def test_the_card_of_the_folder_is_kept(copy):
    rendered = prepare_publication(copy, "me/streets", license="mit")
    rendered.card.text += "\nA sentence by hand.\n"
    rendered.card.save(copy / "README.md")
    again = prepare_publication(copy, "me/streets")
    assert rendered.is_rendered and not again.is_rendered and again.replaces_card
    assert str(again.card).endswith("A sentence by hand.\n") and again.problems == []
    with pytest.raises(ValueError, match="license='mit': expected nothing"):
        prepare_publication(copy, "me/streets", license="mit")
    replaced = prepare_publication(copy, "me/streets", replace_card=True, license="mit")
    assert replaced.replaces_card and "by hand" not in str(replaced.card)


def test_images_that_the_card_shows_travel_with_it(copy):
    card = prepare_publication(copy, "me/streets", license="mit").card
    card.text += "\n![streets](streets.png)\n"
    card.save(copy / "README.md")
    (copy / "streets.png").write_bytes(b"png")
    (copy / "other.png").write_bytes(b"png")
    publication = prepare_publication(copy, "me/streets")
    assert "streets.png" in publication.files and "other.png" in publication.left_out


def test_weights_in_several_files_are_published_with_their_index(copy):
    (copy / "model.safetensors").unlink()
    tiny_model(id2label=NAMES).save_pretrained(copy, max_shard_size="100KB")
    files = prepare_publication(copy, "me/streets").files
    shards = {path.name for path in copy.glob("model-*.safetensors")}
    assert len(shards) > 1 and shards | {"model.safetensors.index.json"} <= set(files)
    next(iter(copy.glob("model-*.safetensors"))).unlink()
    with pytest.raises(ValueError, match="index.json: weight_map='model-"):
        prepare_publication(copy, "me/streets")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("algm.layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_bad_numbers(folder):
    weights = {name: value * float("nan") for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


SPOILED = {
    "half a file": (cut_short, "copy: expected complete weights"),
    "pickle": (as_pickle, "weights in .*='pytorch_model.bin'"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json cannot be read"),
    "other model": (lambda f: edit_json(f / "config.json", model_type="vit"), "model_type='vit'"),
    "no code": (lambda f: (f / "token_merging.py").unlink(), "token_merging.py='missing'"),
    "no entry": (lambda f: edit_json(f / "config.json", auto_map={}), "AutoConfig of auto_map=None"),
    "code elsewhere": (
        lambda f: edit_json(f / "preprocessor_config.json", auto_map={"AutoImageProcessor": "me/x--file.Class"}),
        "AutoImageProcessor of auto_map='me/x--file.Class'",
    ),
    "missing weight": (without_a_weight, "weights={'missing': .'algm.layernorm.weight'.}"),
    "not finite": (with_bad_numbers, "logits='not finite'"),
    "patches": (lambda f: edit_json(f / "preprocessor_config.json", patch_size=16), "patch_size=16: expected 8"),
    "two weights": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "weights in .*='model.safetensors, model.safetensors.index.json'",
    ),
    "card": (lambda f: (f / "README.md").write_text("---\nlicense: [\n---\n"), "README.md: expected metadata"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_incomplete_folder_is_refused(copy, name):
    spoil, message = SPOILED[name]
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        prepare_publication(copy, "me/streets")


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder=.*nowhere'"):
        prepare_publication(tmp_path / "nowhere", "me/streets")


@pytest.mark.parametrize("repo_id", ["me/algm-1.0", "a/b/c", "me/a b"])
def test_names_that_would_not_load_are_refused(folder, repo_id):
    with pytest.raises(ValueError, match=f"repo_id='{repo_id}'"):
        check_repo_id(repo_id)
    with pytest.raises(ValueError, match=f"repo_id='{repo_id}'"):
        prepare_publication(folder, repo_id)


def test_a_model_without_a_processor_is_not_pushed():
    with pytest.raises(ValueError, match="processor=None"):
        push_model_to_hub(tiny_model(), "me/streets")


def test_the_models_own_push_is_that_of_transformers_with_and_without_this_package():
    assert AlgmForSemanticSegmentation.push_to_hub is PreTrainedModel.push_to_hub


def test_offline_a_push_says_so(folder):
    model = AlgmForSemanticSegmentation.from_pretrained(folder)  # the processor lies beside it
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE is set"):
        push_model_to_hub(model, "me/streets", license="mit")


def test_a_model_whose_card_has_problems_is_not_pushed_unless_asked_for(folder):
    model = AlgmForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ValueError, match="README.md: license=None.*Nothing was published"):
        push_model_to_hub(model, "me/streets")
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE is set"):  # as far as it gets here
        push_model_to_hub(model, "me/streets", allow_card_problems=True)


def test_a_trainer_refuses_facts_beside_a_card_of_the_folder_unless_it_is_to_be_replaced(folder, tmp_path):
    class PublishingTrainer(PublishingMixin, Trainer):
        card_facts = {"license": "mit"}

    prepare_publication(folder, "me/streets", license="mit").card.save(tmp_path / "README.md")
    args = TrainingArguments(output_dir=str(tmp_path), hub_model_id="me/streets", report_to="none", use_cpu=True)
    model = AlgmForSemanticSegmentation.from_pretrained(folder)
    trainer = PublishingTrainer(model, args, processing_class=AutoImageProcessor.from_pretrained(folder))
    with pytest.raises(ValueError, match="license='mit': expected nothing, as .*README.md exists"):
        trainer.push_to_hub()
    trainer.replace_card = True
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE is set"):  # as far as it gets here
        trainer.push_to_hub()
