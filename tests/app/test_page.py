# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo page without a browser: what each control does, what is refused, and in which words."""

import asyncio
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from tiny_models import tiny_model

from algm_hf import AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.app.segmenter import Comparison, DemoSegmenter, MergeSettings, read_upload
from algm_hf.app.space import export_space
from algm_hf.app.views import make_views, name_at, named_shares, number_text, sample_scene
from algm_hf.data.drawn_scenes import make_scene
from algm_hf.inference.predictor import SegmentedImage


NAMES = {0: "sky", 1: "road", 2: "tree", 3: "car", 4: "<b>person & dog</b>"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app") / "tiny"
    tiny_model(id2label=NAMES, label2id={name: label for label, name in NAMES.items()}).save_pretrained(folder)
    AlgmImageProcessor(size=64, patch_size=8).save_pretrained(folder)
    return folder


def load(folder) -> DemoSegmenter:
    """A model that does not spend the test's time on timing."""
    segmenter = DemoSegmenter.from_pretrained(str(folder), device="cpu")
    segmenter.time_budget = 0.0
    return segmenter


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def scene():
    return make_scene(3, (72, 112))[0]


def settings_of(config) -> dict:
    names = ("use_token_merging", "merge_threshold", "local_merge_layer", "global_merge_layer")
    return {name: getattr(config, name) for name in names}


def segment_alone(checkpoint, image, **settings) -> tuple[np.ndarray, list[int]]:
    """Label map and token counts from a freshly loaded model that nobody else uses."""
    model = AlgmForSemanticSegmentation.from_pretrained(checkpoint, **settings).eval()
    processor = AlgmImageProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        outputs = model(**processor(image, return_tensors="pt"), output_token_merging=True)
    sizes = [(image.height, image.width)]
    (label_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    return label_map.numpy(), outputs.token_counts[0].tolist()


# Controls


def test_layer_zero_switches_a_merge_off():
    assert MergeSettings.from_controls(0.9, 0, 3) == MergeSettings(0.9, None, 3)
    assert MergeSettings.from_controls(0.9, 2.0, 0) == MergeSettings(0.9, 2, None)
    assert MergeSettings.from_controls(0.9, 0, 0).as_config()["use_token_merging"] is True


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ((0.9, -1, 3), "local_merge_layer=-1"),
        ((0.9, 1.5, 3), "local_merge_layer=1.5"),
        ((0.9, 1, None), "global_merge_layer=None"),
        ((None, 1, 3), "merge_threshold=None"),
        ((1.5, 1, 3), "merge_threshold=1.5"),
        ((float("nan"), 1, 3), "merge_threshold=nan"),
        ((0.5, 1, 9), "global_merge_layer=9"),
        ((0.9, 3, 3), "local_merge_layer=3: expected a layer before global_merge_layer=3"),
    ],
)
def test_controls_that_make_no_sense_are_refused_and_leave_the_checkpoints_settings(
    segmenter, scene, controls, message
):
    before = settings_of(segmenter.model.config)
    with pytest.raises(ValueError, match=message):
        segmenter.compare(scene, MergeSettings.from_controls(*controls))
    assert settings_of(segmenter.model.config) == before


@pytest.mark.parametrize(
    "settings", [MergeSettings(0.4, 1, 3), MergeSettings(0.9, 2, None), MergeSettings(0.7, None, 2)]
)
def test_comparison_equals_two_models_loaded_with_these_settings(checkpoint, segmenter, scene, settings):
    comparison = segmenter.compare(scene, settings)
    merged, merged_counts = segment_alone(
        checkpoint,
        scene,
        merge_threshold=settings.merge_threshold,
        local_merge_layer=settings.local_merge_layer,
        global_merge_layer=settings.global_merge_layer,
    )
    plain, plain_counts = segment_alone(checkpoint, scene, use_token_merging=False)
    assert np.array_equal(comparison.merged.label_map, merged)
    assert np.array_equal(comparison.plain.label_map, plain)
    assert comparison.merged.token_counts == merged_counts
    assert comparison.plain.token_counts == plain_counts
    same = sum(int(a == b) for a, b in zip(merged.ravel().tolist(), plain.ravel().tolist(), strict=True))
    assert comparison.agreement == pytest.approx(same / (scene.width * scene.height))
    assert comparison.seconds_merged > 0
    assert comparison.seconds_plain > 0


def test_a_lower_threshold_leaves_fewer_tokens_and_both_layers_off_leaves_all(segmenter, scene):
    counts = [
        segmenter.compare(scene, MergeSettings(tau, 1, None)).merged.token_counts[-1] for tau in (-1.0, 0.5, 0.8, 1.0)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    off = segmenter.compare(scene, MergeSettings(0.0, None, None))
    assert off.merged.token_counts == off.plain.token_counts
    assert off.agreement == 1


def test_time_is_a_median_of_more_runs_where_the_budget_allows(segmenter, scene):
    patient = DemoSegmenter(segmenter.model, segmenter.processor, time_budget=1000.0)
    assert segmenter.compare(scene, segmenter.defaults).timed_runs == 1
    assert patient.compare(scene, segmenter.defaults).timed_runs == 5


def test_sliders_start_where_the_checkpoint_is(segmenter):
    assert segmenter.defaults == MergeSettings(0.6, 1, 3)
    assert DemoSegmenter(tiny_model(use_token_merging=False), segmenter.processor).defaults == MergeSettings(
        0.6, None, None
    )


# Images that are sent


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are missing."""
    chunks = b""
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    make_scene(1, (64, 96))[0].save(buffer, "JPEG")
    return buffer.getvalue()[:700]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"milk, bread", "^notes.png='no image': expected PNG, JPEG, WEBP, GIF, BMP or TIFF$"),
        ("empty.jpg", b"", "^empty.jpg='no image'"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^drawing.svg='no image'"),
        ("other.ppm", b"P6 2 1 255 abcdef", "^other.ppm='no image'"),
        ("cut.jpg", truncated_jpeg(), "^cut.jpg='damaged'"),
        ("cut.png", png_of_size(64, 64), "^cut.png='damaged'"),
        ("many.png", png_of_size(9000, 9000), "^many.png='9000 x 9000': expected at most 25 million pixels"),
        ("bomb.png", png_of_size(60000, 60000), "^bomb.png='too large'"),
        ("heavy.png", b"0" * (20 * 1024 * 1024 + 1), "^heavy.png='too large': expected at most 20 MB"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_image_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_upload(tmp_path / name)


def test_images_of_every_mode_are_read_as_rgb_and_upright(tmp_path):
    sideways = Image.new("RGB", (30, 20), (200, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    assert read_upload(tmp_path / "sideways.jpg").size == (20, 30)

    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_upload(tmp_path / "clear.png").getpixel((4, 4)) == (255, 255, 255)

    Image.fromarray(np.full((9, 9), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert read_upload(tmp_path / "deep.png").getpixel((4, 4)) == (100, 100, 100)

    frames = [Image.new("P", (9, 9), color) for color in (0, 1)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_upload(tmp_path / "moving.gif").mode == "RGB"


@pytest.mark.parametrize(
    ("size", "message"),
    [((40, 7), "image='40 x 7 pixels': expected at least 8 x 8"), ((700, 40), "image='700 x 40 pixels'")],
)
def test_images_the_model_cannot_take_are_refused(segmenter, size, message):
    with pytest.raises(ValueError, match=message):
        segmenter.compare(Image.new("RGB", size), segmenter.defaults)


def test_a_model_that_takes_images_as_they_are_is_not_given_huge_ones(segmenter):
    keeps_size = DemoSegmenter(segmenter.model, AlgmImageProcessor(do_resize=False, patch_size=8))
    with pytest.raises(ValueError, match="image='1200 x 1200 pixels': expected at most about 1024 x 1024"):
        keeps_size.compare(Image.new("RGB", (1200, 1200)), segmenter.defaults)


# What is shown


def comparison_of(merged: np.ndarray, plain: np.ndarray, seconds: tuple[float, float] = (0.01, 0.02)) -> Comparison:
    results = [
        SegmentedImage(labels, (16, 16), counts, (2, 2), np.array([0, 0, 1, 2]))
        for labels, counts in ((merged, [5, 4]), (plain, [5, 5]))
    ]
    return Comparison(*results, *seconds, timed_runs=3)


def test_every_class_is_named_once_with_its_share():
    labels = np.array([[1, 1, 1, 4], [1, 1, 1, 4], [1, 1, 0, 0], [1, 1, 1, 0]])
    assert list(named_shares(labels, NAMES).values()) == ["road 68.8 %", "sky 18.8 %", "<b>person & dog</b> 12.5 %"]


def test_numbers_are_never_better_than_what_was_measured():
    labels = np.zeros((100, 100), np.int64)
    nearly = labels.copy()
    nearly[0, 0] = 1
    assert "**99.9 %** of" in number_text(comparison_of(nearly, labels))
    assert "**100 %** of" in number_text(comparison_of(labels, labels))
    text = number_text(comparison_of(labels, labels, seconds=(0.03, 0.02)))
    assert re.search(r"\| +20.0 ms \| +30.0 ms \| +\+50 % \|", text)
    assert re.search(r"\| +5 \| +4 \| +−20 % \|", text)
    assert "median of 3 runs each" in text


def test_shown_images_have_one_size_and_the_token_map_shows_the_merge(segmenter, scene):
    views = [make_views(scene, segmenter.compare(scene, MergeSettings(tau, 1, 3)), NAMES, 8) for tau in (0.2, 0.99)]
    for view in views:
        assert view.image.size == view.label_map.shape[::-1] == (9 * 112, 9 * 72)
        shares = [float(name.split()[-2].removeprefix("<")) for _, name in view.masks]
        assert sum(shares) == pytest.approx(100, abs=0.5) and shares == sorted(shares, reverse=True)
        opaque = sum((mask > 0).astype(int) for mask, _ in view.masks)
        assert (opaque == 1).all(), "every pixel has one class"
        assert set(view.colors) == {name for _, name in view.masks}
    assert views[0].tokens.size == views[1].tokens.size
    assert np.asarray(views[0].tokens).tobytes() != np.asarray(views[1].tokens).tobytes()
    photo = scene.resize((2240, 1440))
    large = make_views(photo, segmenter.compare(photo, segmenter.defaults), NAMES, 8)
    assert large.image.size == (1024, 658)


def test_of_very_many_classes_every_pixel_is_painted(scene):
    labels = np.sqrt(np.arange(scene.height * scene.width)).astype(np.int64).reshape(scene.height, scene.width)
    names = {label: f"class {label}" for label in range(labels.max() + 1)}
    views = make_views(scene, comparison_of(labels, labels), names, 8)
    assert (sum((mask > 0).astype(int) for mask, _ in views.masks) == 1).all()
    *listed, (smaller, name) = views.masks
    assert name.startswith(f"smaller classes ({len(names) - len(listed)}) ")
    # Class k has 2 k + 1 pixels, the last one fewer, so the smaller ones are those below the largest 40.
    assert (views.label_map[smaller > 0] < min(views.label_map[mask > 0].min() for mask, _ in listed)).all()
    assert set(views.colors) == {name for _, name in views.masks}


def test_windows_have_no_token_map_and_everything_else(checkpoint, scene):
    windows = load(checkpoint)
    windows.model.config.window_size, windows.model.config.inference_mode = 32, "slide"
    views = make_views(scene, windows.compare(scene, windows.defaults), NAMES, 8)
    assert views.tokens is None
    assert views.masks and views.numbers


def test_a_click_names_the_class_under_it_and_never_leaves_the_image():
    labels = np.array([[0, 1, 2], [3, 3, 4]], np.uint16)
    assert name_at(labels, (1.7, 0.2), NAMES) == "Class 1: road"
    assert name_at(labels, (99, 99), NAMES) == "Class 4: <b>person & dog</b>"
    assert name_at(labels, (-3, 0), NAMES) == "Class 0: sky"


def test_downloaded_label_map_holds_the_classes_and_lies_where_gradio_deletes_it(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs gradio, which the extra `app` installs")
    from algm_hf.app.page import write_label_map

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    labels = np.array([[0, 1, 2], [3, 3, 4]])
    path = Path(write_label_map(labels, NAMES, "../my street/1"))
    assert path.name == "___my_street_1_labels.png" and path.is_relative_to(tmp_path / "cache")
    with Image.open(path) as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), labels)


@pytest.mark.parametrize("place", ["file", "slider"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.png", "HTTPS://example.org/a.png"])
def test_an_address_in_the_place_of_a_file_is_not_fetched(segmenter, monkeypatch, address, place):
    pytest.importorskip("gradio", reason="the page needs gradio, which the extra `app` installs")
    import gradio
    from gradio import processing_utils

    from algm_hf.app.page import build_app

    async def fetch(*arguments, **options):
        raise AssertionError("the server fetched an address")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    app = build_app(segmenter)
    upload = next(function for function in app.fns.values() if function.name == "upload")
    crafted = {"path": address, "meta": {"_type": "gradio.FileData"}}
    inputs = [crafted, 0.5, 1, 3] if place == "file" else [None, crafted, 1, 3]
    with pytest.raises(gradio.Error, match="A file is an address, expected one that was sent"):
        asyncio.run(app.preprocess_data(upload, inputs, None))


def test_samples_are_counted():
    with pytest.raises(ValueError, match="sample=6"):
        sample_scene(6)


# Which models are served


def test_code_in_a_checkpoint_is_never_run(checkpoint, tmp_path, scene):
    folder = tmp_path / "hostile"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    segmenter = load(folder)
    assert segmenter.compare(scene, segmenter.defaults).plain.token_counts[-1] > 1
    assert not (tmp_path / "ran").exists()


def test_models_that_would_not_be_what_they_seem_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="--model .*nowhere"):
        DemoSegmenter.from_pretrained(str(tmp_path / "nowhere"))
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}))
    with pytest.raises(ValueError, match="missing weights=.'"):
        DemoSegmenter.from_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "segformer"}))
    with pytest.raises(ValueError, match="model_type='segformer'"):
        DemoSegmenter.from_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        DemoSegmenter.from_pretrained(str(folder))


# The script and the Space


def run_script(*arguments, **environment):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, str(ROOT / "scripts" / "app.py"), *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def test_script_without_gradio_says_what_to_install(checkpoint, tmp_path):
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(name='gradio')\n")
    done = run_script("--model", checkpoint, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == 'error: the page needs gradio: pip install -e ".[app]"'


def test_space_holds_the_page_the_package_and_weights_but_no_code_of_the_model(checkpoint, tmp_path):
    space = tmp_path / "space"
    done = run_script("--model", checkpoint, "--export_space", space)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"README.md", "app.py", "requirements.txt", "algm_hf/app/page.py", "algm_hf/modeling_algm.py"} <= files
    assert {file for file in files if file.startswith("model/")} == {
        "model/config.json",
        "model/preprocessor_config.json",
        "model/model.safetensors",
    }
    card = (space / "README.md").read_text()
    assert card.startswith("---\n")
    for line in ("sdk: gradio", "app_file: app.py", "license: apache-2.0", "title: ALGM token merging"):
        assert f"\n{line}\n" in card
    assert re.search(r"^sdk_version: ['\"]?\d+\.\d+\.\d+", card, flags=re.MULTILINE)
    assert len(re.search(r"short_description: (.*)", card).group(1)) <= 60  # the Hub's limit
    names = {line.split(">")[0] for line in (space / "requirements.txt").read_text().split()}
    assert {"torch", "transformers", "huggingface-hub", "safetensors", "pillow", "numpy", "datasets"} <= names
    assert not {"gradio", "pytest", "ruff"} & names  # the card names gradio, tools are not needed


def test_space_of_a_hub_model_names_it_and_refuses_what_is_none(tmp_path):
    files = export_space(tmp_path / "space", "user/algm-small", revision="abc123")
    assert not any(file.startswith("model/") for file in files)
    app = (tmp_path / "space" / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert "MODEL = 'user/algm-small'\nREVISION = 'abc123'\n" in app
    assert "\nmodels:\n- user/algm-small\n" in (tmp_path / "space" / "README.md").read_text()
    with pytest.raises(ValueError, match="--export_space=.*space"):
        export_space(tmp_path / "space", "user/algm-small")
    with pytest.raises(ValueError, match="--model='no such folder'"):
        export_space(tmp_path / "other", "no such folder")
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match="--model=.*config.json, preprocessor_config.json, model.safetensors"):
        export_space(tmp_path / "other", str(tmp_path / "half"))
    assert not (tmp_path / "other").exists()


def fetch_when_it_answers(url: str, process: subprocess.Popen) -> str | None:
    """What a server that is starting has to say; `None` if it ends, or says nothing for a minute and a half."""
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:  # nobody listens yet
            time.sleep(0.3)
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(command, folder, log_file, port, **environment) -> str:
    """Runs a server until it has told its configuration."""
    variables = os.environ | {"GRADIO_TEMP_DIR": str(folder / "cache")} | environment
    with open(log_file, "w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            page = fetch_when_it_answers(f"http://127.0.0.1:{port}/config", process)
            with socket.socket() as outside, pytest.raises(OSError, match="refused|timed out|assign|unreachable"):
                outside.settimeout(2)
                outside.connect(("127.0.0.2", port))  # the same machine by another address
        finally:
            process.terminate()
            process.wait(30)
        log.seek(0)
        assert page, log.read()
    return page


def test_space_serves_its_page_in_a_process_that_has_only_its_files(checkpoint, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio, which the extra `app` installs")
    export_space(tmp_path / "space", str(checkpoint), name="a tiny one")
    code = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_path('app.py', run_name='__main__')"
    command, port = [sys.executable, "-I", "-c", code], free_port()  # -I: without PYTHONPATH
    page = serve(command, tmp_path / "space", tmp_path / "log", port, GRADIO_SERVER_PORT=str(port))
    assert "a tiny one" in page
    assert '"analytics_enabled":false' in page.replace(" ", "")


def test_script_serves_the_page_to_this_machine_alone(checkpoint, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio, which the extra `app` installs")
    port = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "app.py"), "--model", str(checkpoint), "--port", str(port)]
    page = serve(command, tmp_path, tmp_path / "log", port, PYTHONPATH=str(ROOT))
    assert "Threshold tau" in page
    assert f"<strong>{checkpoint.name}</strong>" in page.replace("\\u003c", "<").replace("\\u003e", ">")
