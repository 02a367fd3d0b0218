# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The demo page in a real browser: headless Chromium, driven by Playwright, against a server of this process.

Skipped only where gradio, playwright or Chromium is missing; `CHROMIUM` names another executable. With
`APP_SCREENSHOT=docs/app.jpg APP_MODEL=outputs/demo/model APP_NAME="demo model"`, a screenshot of that model is
kept.
"""

import io
import os
import re
import shutil
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from algm_hf import AlgmForSemanticSegmentation, AlgmImageProcessor
from algm_hf.app.segmenter import MAX_FILE_BYTES, DemoSegmenter
from algm_hf.data.drawn_scenes import make_scene


gradio = pytest.importorskip("gradio", reason="the page needs gradio, which the extra `app` installs")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; the extra `app` has it")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium; Debian's is installed by `apt-get install chromium`", allow_module_level=True)

from gradio.route_utils import delete_files_created_by_app  # noqa: E402 - only where it is installed

from algm_hf.app.page import DemoPage, build_app, launch_app  # noqa: E402


LOOPBACK = re.compile(r"127\.[\d.]+|localhost|::1|None|")  # nothing at all is this machine too
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 30_000  # milliseconds; a request takes a fraction of a second, a loaded machine longer

contacted: list[str] = []  # hosts that this process, the server among it, looked up or connected to


def _note_contacts(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo":
        contacted.append(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        contacted.append(str(arguments[1][0]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "tiny"
    tiny_model().save_pretrained(folder)
    AlgmImageProcessor(size=64, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def site(checkpoint, tmp_path_factory):
    """The address of a running page."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("cache"))
    sys.addaudithook(_note_contacts)
    model, name = os.environ.get("APP_MODEL", str(checkpoint)), os.environ.get("APP_NAME")
    segmenter = DemoSegmenter.from_pretrained(model, device="cpu", name=name)
    if "APP_MODEL" not in os.environ:
        segmenter.time_budget = 0.3
    app = build_app(segmenter)
    yield launch_app(app, port=None, block=False), app
    app.close(verbose=False)
    os.environ.pop("GRADIO_TEMP_DIR")
    if before is not None:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        with driver.chromium.launch(executable_path=CHROMIUM, args=options) as browser:
            yield browser


@pytest.fixture
def visit(site, browser):
    """Opens the page in a fresh session; in the end, nothing but this machine has been asked for anything."""
    url, _ = site
    requests, contexts = [], []

    def open_page(viewport=DESKTOP):
        context = browser.new_context(viewport=viewport, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("#numbers strong")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requests
    outside = [url for url in requests if urlsplit(url).scheme not in ("data", "blob")]
    hosts = {str(urlsplit(url).hostname) for url in outside} | set(contacted)
    assert [host for host in hosts if not LOOPBACK.fullmatch(host)] == []


TOKENS = "Number(document.querySelectorAll('#numbers strong')[1].innerText.replace(',', ''))"


def tokens(page, plain: bool = False) -> int:
    return int(page.locator("#numbers strong").nth(2 if plain else 1).inner_text().replace(",", ""))


def wait_for_tokens(page, comparison: str, number: int) -> None:
    page.wait_for_function(f"number => {TOKENS} {comparison} number", arg=number)


def address(page, name: str) -> str:
    return page.locator(f"#{name} img").last.get_attribute("src")


def pixels(page, name: str) -> np.ndarray:
    """The pixels of an image on the page, `(height, width, 3)`."""
    return np.asarray(Image.open(io.BytesIO(page.request.get(address(page, name)).body())).convert("RGB"))


def wait_for_other_image(page, name: str, before: str) -> None:
    page.wait_for_function(
        "([name, before]) => [...document.querySelectorAll(`#${name} img`)].at(-1)?.src !== before",
        arg=[name, before],
    )


def set_slider(page, name: str, value: float) -> None:
    """Types into the number beside a slider, and leaves it."""
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def upload(page, name: str, content: bytes) -> None:
    kind = {"png": "image/png", "jpg": "image/jpeg"}[name.rsplit(".", 1)[-1]]
    page.set_input_files("#upload input[type=file]", {"name": name, "mimeType": kind, "buffer": content})


def post_file(url: str, path: Path) -> int:
    """The status a server answers with to a file sent without the page."""
    head = f'--end\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + b"\r\n--end--\r\n"
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=end"})
    status = connection.getresponse().status
    connection.close()
    return status


def jpeg_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_visitor_sees_a_result_and_may_choose_another_sample(visit):
    page = visit()
    assert page.title().startswith("ALGM")
    before = {name: address(page, name) for name in ("image", "segmentation", "tokens")}
    page.click("#samples button >> nth=2")
    for name, old in before.items():
        wait_for_other_image(page, name, old)
    legend = page.locator("#segmentation .legend")
    shares = [float(share) for share in re.findall(r"([\d.]+) %", legend.inner_text())]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert page.locator("#segmentation img.mask").count() == len(shares) == legend.locator("button").count()
    legend.locator("button").first.hover()
    page.wait_for_selector("#segmentation img.mask.active")
    assert page.locator("#message p").count() == 0


def test_lower_tau_leaves_fewer_tokens_and_another_token_map(visit):
    page = visit()
    before = tokens(page)
    set_slider(page, "threshold", 0.99)
    wait_for_tokens(page, "!==", before)
    many, before, unmerged = tokens(page), address(page, "tokens"), tokens(page, plain=True)
    set_slider(page, "threshold", 0.1)
    wait_for_other_image(page, "tokens", before)
    wait_for_tokens(page, "<", many)
    assert tokens(page, plain=True) == unmerged
    assert tokens(page) < many <= unmerged
    assert re.search(r"Time of a forward pass\s+[\d.]+ ms\s+[\d.]+ ms", page.inner_text("#numbers"))


def test_layers_act_and_a_contradiction_is_explained_in_words(visit):
    page = visit()
    before = tokens(page)
    set_slider(page, "local-layer", 0)
    wait_for_tokens(page, "!==", before)
    kept = address(page, "segmentation")
    set_slider(page, "local-layer", 4)
    alert = page.wait_for_selector("[role=alert]")
    assert "local_merge_layer=4: expected a layer before global_merge_layer=3" in alert.inner_text()
    assert address(page, "segmentation") == kept
    set_slider(page, "global-layer", 0)
    page.wait_for_selector("[role=alert]", state="detached")
    field = page.locator("#local-layer input[type=number]")
    for typed, words in (("77", "expected None or an integer in 1.."), ("", "=None"), ("1.5", "=1.5")):
        field.fill(typed)
        page.locator("[role=alert]").get_by_text(words).wait_for()
    assert page.get_by_text("Error", exact=True).count() == 0


def test_a_sent_image_is_segmented_named_and_downloaded_at_its_own_size(visit, checkpoint):
    page = visit()
    image = make_scene(7, (90, 150))[0]
    before = address(page, "image")
    upload(page, "my street.jpg", jpeg_of(image))
    wait_for_other_image(page, "image", before)
    assert pixels(page, "image").shape == (6 * 90, 6 * 150, 3)
    page.wait_for_function("() => !document.querySelector('#download').disabled")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "my_street_labels.png"
    with Image.open(download.value.path()) as labels:
        assert labels.mode == "P"
        label_map = np.asarray(labels)
    assert label_map.shape == (90, 150)
    if "APP_MODEL" not in os.environ:
        sent = Image.open(io.BytesIO(jpeg_of(image)))
        model, processor = (
            AlgmForSemanticSegmentation.from_pretrained(checkpoint).eval(),
            AlgmImageProcessor.from_pretrained(checkpoint),
        )
        outputs = model(**processor(sent, return_tensors="pt"))
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(90, 150)])[0]
        assert np.array_equal(label_map, expected.numpy())
    box = page.locator("#image img").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => document.querySelector('#point').innerText.includes('Class')")
    assert int(re.search(r"Class (\d+)", page.inner_text("#point")).group(1)) in label_map[40:50, 70:80]


def test_files_that_are_no_good_images_end_in_words_and_the_page_goes_on(visit):
    page = visit()
    before = address(page, "image")
    dot = io.BytesIO()
    Image.new("RGB", (3, 3)).save(dot, "PNG")
    for name, content, words in (
        ("notes.png", b"milk, bread", "notes.png='no image'"),
        ("cut.jpg", jpeg_of(make_scene(1, (64, 96))[0])[:900], "cut.jpg='damaged'"),
        ("dot.png", dot.getvalue(), "image='3 x 3 pixels'"),
    ):
        upload(page, name, content)
        page.locator("[role=alert]").get_by_text(words).wait_for()
        assert "Traceback" not in page.inner_text("body")
        assert address(page, "image") == before
    page.click("#samples button >> nth=1")
    wait_for_other_image(page, "image", before)
    page.wait_for_selector("[role=alert]", state="detached")


def test_files_over_the_limit_are_refused_by_the_page_and_by_the_server(visit, site, tmp_path):
    page = visit()
    before = address(page, "image")
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(b"\0" * (MAX_FILE_BYTES + 1))
    page.set_input_files("#upload input[type=file]", heavy)
    page.get_by_text("exceed the maximum allowed size of 20").first.wait_for()
    assert "heavy.png" in page.inner_text("body")
    assert address(page, "image") == before
    assert post_file(site[0], heavy) == 413
    page.locator("#upload").get_by_role("button").first.click()
    upload(page, "good.jpg", jpeg_of(make_scene(2, (80, 96))[0]))
    wait_for_other_image(page, "image", before)


def test_everything_is_reached_and_moved_with_the_keyboard(visit):
    page = visit()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(
            """() => {
                const element = document.activeElement, style = getComputedStyle(element);
                const place = element.closest('#samples, #upload, #threshold, #local-layer, #global-layer, #download');
                const visible = style.outlineStyle !== 'none' || style.boxShadow !== 'none';
                return [place ? place.id : '', element.type || '', visible];
            }"""
        ))  # fmt: skip
    places = {place for place, _, _ in reached}
    assert {"samples", "upload", "threshold", "local-layer", "global-layer", "download"} <= places
    assert all(visible for place, _, visible in reached if place)

    before = tokens(page)
    page.focus("#threshold input[type=range]")
    value = float(page.input_value("#threshold input[type=range]"))
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    wait_for_tokens(page, "<", before)
    assert float(page.input_value("#threshold input[type=range]")) == pytest.approx(value - 30 * 0.005)

    old = address(page, "image")
    page.focus("#samples button >> nth=3")
    page.keyboard.press("Enter")
    wait_for_other_image(page, "image", old)


def test_a_phone_shows_everything_without_scrolling_sideways(visit):
    page = visit(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for name in (
        "samples",
        "upload",
        "threshold",
        "image",
        "segmentation",
        "tokens",
        "numbers",
        "download",
    ):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("image", "segmentation", "tokens")]
    assert min(box["width"] for box in boxes) > 300
    assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]


def test_visitors_at_the_same_time_do_not_see_each_others_settings(visit):
    first, second = visit(), visit()
    common = tokens(second)
    for _ in range(3):
        image = address(second, "image")
        set_slider(first, "threshold", 0.0)
        second.click("#samples button >> nth=1")  # while the first one's request runs
        wait_for_tokens(first, "<", common)
        wait_for_other_image(second, "image", image)
        image, few = address(second, "image"), tokens(first)
        set_slider(first, "threshold", 0.99)
        second.click("#samples button >> nth=0")
        wait_for_other_image(second, "image", image)
        wait_for_tokens(second, "===", common)
        wait_for_tokens(first, ">", few)


def test_samples_outlive_the_cleaning_of_visitors_images_and_label_maps(visit, site):
    page = visit()
    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(cache.rglob("*_labels.png"))
    delete_files_created_by_app(site[1], age=None)
    assert not list(cache.rglob("*_labels.png"))
    sources = page.eval_on_selector_all("#samples img", "images => images.map(image => image.src)")
    assert len(sources) == 6
    assert {page.request.get(source).status for source in sources} == {200}
    assert page.request.get(address(page, "image")).status != 200


def test_what_goes_wrong_inside_is_logged_and_not_shown(caplog, checkpoint):
    page = DemoPage(DemoSegmenter.from_pretrained(str(checkpoint), device="cpu"))

    def fail():
        raise RuntimeError("secret of the server")

    *kept, message = page.respond(fail, 0.5, 1, 3)
    assert all(value == gradio.skip() for value in kept)
    assert 'role="alert"' in message
    assert "Something went wrong on the server" in message
    assert "secret" not in message
    assert "secret of the server" in caplog.text


def test_messages_cannot_bring_markup_of_their_own(checkpoint):
    page = DemoPage(DemoSegmenter.from_pretrained(str(checkpoint), device="cpu"))

    def fail():
        raise ValueError("<img src=x onerror=alert(1)>.png='no image'")

    assert "<img" not in page.respond(fail, 0.5, 1, 3)[-1]


def test_the_images_stand_side_by_side(visit, tmp_path):
    page = visit()
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("image", "segmentation", "tokens")]
    assert {round(box["y"]) for box in boxes} == {round(boxes[0]["y"])}
    page.wait_for_timeout(500)
    path = os.environ.get("APP_SCREENSHOT", str(tmp_path / "app.jpg"))
    page.screenshot(path=path, full_page=True, type="jpeg", quality=80)
    assert 10_000 < os.path.getsize(path) < 200_000
