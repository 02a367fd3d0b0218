# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A page to try a checkpoint on: images, sliders, and what merging tokens changes. Needs gradio (extra `app`)."""

from __future__ import annotations

import html
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.themes.utils.fonts import LocalFont
from gradio.utils import get_upload_folder
from PIL import Image

from ..inference.drawing import save_label_map
from ..inference.palettes import make_palette
from .segmenter import FORMATS, MAX_FILE_BYTES, MAX_PIXELS, DemoSegmenter, MergeSettings, read_upload
from .views import SAMPLE_SEEDS, make_views, name_at, sample_scene


logger = logging.getLogger(__name__)

STYLE = Path(__file__).with_name("style.css")
TITLE = "ALGM: segmentation with merged tokens"
INTRODUCTION = (
    "A Vision Transformer cuts an image into patches and spends the same work on each. ALGM merges patches that look "
    "alike: less work, nearly the same segmentation. Choose an image, move the sliders and see what changes."
)
CLICK_HINT = "Click or tap the image to name the class at a point."
NO_TOKEN_MAP = "This model works in overlapping windows, which merge one by one: there is no one token map."
KEPT_SECONDS = 3600  # what visitors sent and got is deleted after about this time; `LIMITS` says so
MAX_SESSIONS = 50  # a session holds an image, up to 75 MB of memory; the one unused for longest goes first
LIMITS = (
    f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}, at most {MAX_FILE_BYTES // 2**20} MB and "
    f"{MAX_PIXELS // 10**6} million pixels. Images go to this server only and are deleted after about an hour."
)

NamedImage = tuple[Image.Image, str]  # an image and the stem of its name


class DemoPage:
    """The functions behind the page, one for each thing a person can do.

    They keep nothing of a visitor here: their image and its label map are in the state of their own session.

    Args:
        segmenter ([`DemoSegmenter`]): The model.
    """

    def __init__(self, segmenter: DemoSegmenter):
        self.segmenter = segmenter
        self.id2label = dict(segmenter.model.config.id2label)

    def choose_sample(self, threshold: float, local_layer: float, global_layer: float, event: gr.SelectData) -> list:
        """Takes the sample that was clicked on."""
        return self.respond(lambda: self._sample(event.index), threshold, local_layer, global_layer)

    def upload(self, path: str, threshold: float, local_layer: float, global_layer: float) -> list:
        """Takes a file that was sent and empties the field for the next one."""

        def read() -> NamedImage:
            return read_upload(path), Path(path).stem

        return [*self.respond(read, threshold, local_layer, global_layer), None]

    def change_settings(
        self, chosen: NamedImage | None, threshold: float, local_layer: float, global_layer: float
    ) -> list:
        """Runs the image on the page once more; a visitor without one gets the first sample."""
        return self.respond(lambda: chosen or self._sample(0), threshold, local_layer, global_layer)

    def name_point(self, label_map, event: gr.SelectData) -> str:
        """Names the class where the image was clicked."""
        return CLICK_HINT if label_map is None else name_at(label_map, event.index, self.id2label)

    def respond(
        self, source: Callable[[], NamedImage], threshold: float, local_layer: float, global_layer: float
    ) -> list:
        """Segments what `source` returns. What goes wrong ends as a message; everything else on the page stays.

        Args:
            source (`Callable[[], NamedImage]`): May refuse with a `ValueError`.
            threshold, local_layer, global_layer (`float`): See [`MergeSettings.from_controls`].

        Returns:
            `list`: Values for the outputs of [`build_app`], in their order.
        """
        try:
            return self._segment(*source(), MergeSettings.from_controls(threshold, local_layer, global_layer))
        except ValueError as error:
            text = str(error)
        except Exception:  # a visitor sees words; whoever runs the server sees why
            logger.exception("A request to the demo page failed.")
            text = "Something went wrong on the server; its log says what. Another image may work."
        return [*[gr.skip()] * 8, f'<p class="algm-alert" role="alert">{html.escape(text)}</p>']

    def _sample(self, index: int) -> NamedImage:
        return sample_scene(index), f"sample_{index + 1}"

    def _segment(self, image: Image.Image, stem: str, settings: MergeSettings) -> list:
        comparison = self.segmenter.compare(image, settings)
        views = make_views(image, comparison, self.id2label, self.segmenter.model.config.patch_size)
        segmentation = gr.AnnotatedImage((views.image, views.masks), color_map=views.colors)
        file = write_label_map(comparison.merged.label_map, self.id2label, stem)
        return [
            (image, stem), views.label_map, views.image, segmentation, views.tokens, views.numbers,
            gr.DownloadButton(value=file, interactive=True),
            CLICK_HINT if views.tokens is not None else f"{CLICK_HINT} {NO_TOKEN_MAP}", "",
        ]  # fmt: skip


def write_label_map(label_map: np.ndarray, id2label: Mapping[int, str], stem: str) -> str:
    """Writes an indexed PNG at the image's own size where gradio deletes it in time; `stem` is part of its name."""
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stem)[:60] or "image"
    path = Path(tempfile.mkdtemp(dir=cache)) / f"{safe}_labels.png"
    save_label_map(label_map, path, make_palette(id2label))
    return str(path)


def describe_model(segmenter: DemoSegmenter) -> str:
    """One line of HTML: which model runs here."""
    model, config = segmenter.model, segmenter.model.config
    name = f"<strong>{html.escape(segmenter.name)}</strong>, " if segmenter.name else ""
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return (
        f'<p class="algm-note">Model: {name}{millions:.1f} million weights, {config.num_hidden_layers} layers, '
        f"patches of {config.patch_size} x {config.patch_size} pixels, {config.num_labels} classes, on "
        f"{model.device.type}.</p>"
    )


def _image(label: str, alt: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, alt_text=alt, elem_id=name, type="pil", format="png", interactive=False, min_width=280,
        buttons=["fullscreen"],
    )  # fmt: skip


def _slider(*values: float, **options) -> gr.Slider:
    """A slider whose value is checked where the settings are: what is typed beside it gets an answer on the page."""
    slider = gr.Slider(*values, interactive=True, buttons=["reset"], **options)
    slider.preprocess = lambda value: value  # gradio's own check answers with an error in place of every image
    return slider


def _take_no_address(component: gr.components.Component) -> None:
    """Refuses addresses in requests that no page made: gradio would fetch them from this server."""
    move = component.async_move_resource_to_block_cache

    async def move_files_only(path: str | Path | None) -> str | None:
        if path is not None and re.match(r"\s*[a-z][a-z0-9+.-]+:/", str(path), flags=re.IGNORECASE):
            raise gr.Error("A file is an address, expected one that was sent.", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_files_only


def _sliders(page: DemoPage) -> list[gr.Slider]:
    settings = page.segmenter.defaults
    layers = page.segmenter.model.config.num_hidden_layers
    return [
        _slider(
            min(0.0, settings.merge_threshold), 1, settings.merge_threshold, step=0.005, label="Threshold tau",
            info="Neighbouring patches merge from this mean cosine similarity on. Lower merges more.",
            elem_id="threshold",
        ),
        _slider(
            0, layers, settings.local_merge_layer or 0, step=1, label="Layer of the local merge",
            info="In it, windows of similar neighbours become one token. 0 is off.", elem_id="local-layer",
        ),
        _slider(
            0, layers, settings.global_merge_layer or 0, step=1, label="Layer of the global merge",
            info="In it, similar tokens of the whole image merge. 0 is off.", elem_id="global-layer",
        ),
    ]  # fmt: skip


def build_app(segmenter: DemoSegmenter) -> gr.Blocks:
    """Lays out the page and connects it.

    Args:
        segmenter ([`DemoSegmenter`]): The model to try. A page has one; visitors cannot name another.

    Returns:
        `gr.Blocks`: For [`launch_app`].
    """
    page = DemoPage(segmenter)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as app:
        chosen, label_map = gr.State(time_to_live=KEPT_SECONDS), gr.State(time_to_live=KEPT_SECONDS)
        gr.HTML(f"<h1>{TITLE}</h1><p>{INTRODUCTION}</p>{describe_model(segmenter)}", elem_id="about")
        with gr.Row():
            with gr.Column(min_width=280):
                samples = gr.Gallery(
                    [sample_scene(index) for index in range(len(SAMPLE_SEEDS))], label="Choose a sample", columns=6,
                    object_fit="cover", height="auto", allow_preview=False, interactive=False, buttons=[],
                    elem_id="samples", format="jpeg",
                )  # fmt: skip
                file = gr.File(label="or send an image", file_types=["image"], height=140, elem_id="upload")
                gr.HTML(f'<p class="algm-note">{LIMITS}</p>', elem_id="upload-limits")
            with gr.Column(min_width=280):
                sliders = _sliders(page)
        message = gr.HTML(elem_id="message")
        with gr.Row():
            shown = _image("Image", "the image that was chosen", "image")
            segmentation = gr.AnnotatedImage(
                label="Segmentation", elem_id="segmentation", min_width=280, buttons=["fullscreen"]
            )
            tokens = _image("Tokens", "the final tokens, each filled with its mean colour", "tokens")
        with gr.Row():
            with gr.Column(min_width=280):
                point = gr.Markdown(CLICK_HINT, elem_id="point")
                download = gr.DownloadButton(
                    "Download the label map (indexed PNG)", interactive=False, elem_id="download"
                )
            numbers = gr.Markdown(elem_id="numbers", container=True)

        for component in (file, *sliders):  # all that takes data from requests
            _take_no_address(component)
        outputs = [chosen, label_map, shown, segmentation, tokens, numbers, download, point, message]
        common = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        samples.select(page.choose_sample, sliders, outputs, show_progress_on=[segmentation, tokens], **common)
        file.upload(page.upload, [file, *sliders], [*outputs, file], show_progress_on=[segmentation, tokens], **common)
        gr.on(
            [app.load, *(slider.change for slider in sliders)], page.change_settings, [chosen, *sliders], outputs,
            trigger_mode="always_last", show_progress_on=[segmentation, tokens], **common,
        )  # fmt: skip
        shown.select(page.name_point, label_map, point, show_progress="hidden", api_visibility="private")
    return app


def _theme() -> gr.themes.Base:
    """Gradio's default with secondary text dark enough to read on white, and light enough on black.

    Of the fonts that gradio brings along (nothing is fetched from elsewhere) the half-bold ones lack most letters.
    """
    fonts = [LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"]
    subdued = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    info = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    return gr.themes.Default(font=fonts).set(**subdued, **info)


def launch_app(app: gr.Blocks, host: str | None = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Serves the page.

    Args:
        app (`gr.Blocks`): See [`build_app`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Address to listen on. `None` leaves it to gradio's
            environment variable `GRADIO_SERVER_NAME`, which a Hugging Face Space sets, and is loopback without it.
        port (`int`, *optional*): Gradio's choice, from 7860 on, if unset.
        block (`bool`, *optional*, defaults to `True`): Whether to return only when the server ends.

    Returns:
        `str`: Address of the page.
    """
    app.queue(max_size=32)
    _, url, _ = app.launch(
        server_name=host, server_port=port, prevent_thread_lock=not block, share=False, show_error=False,
        max_file_size=MAX_FILE_BYTES, footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False,
        state_session_capacity=MAX_SESSIONS, mcp_server=False, pwa=False, inbrowser=False,
        quiet=not block, css_paths=STYLE, theme=_theme(),
    )  # fmt: skip
    return url


__all__ = ["DemoPage", "build_app", "describe_model", "launch_app", "write_label_map"]
