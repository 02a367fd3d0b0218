# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the demo page computes: images that people send are read, segmented with and without merging and compared.

Nothing here knows of a user interface. Every refusal is a `ValueError` whose text is shown to the person as it is.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from ..configuration_algm import AlgmConfig
from ..image_processing_algm import AlgmImageProcessor
from ..inference.predictor import SegmentedImage, segment_images
from ..modeling_algm import AlgmForSemanticSegmentation
from ..refusals import require, require_choice
from ..runs.images import upright_rgb
from ..runs.models import config_settings
from ..runs.timing import time_settings


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # what Pillow may try on a stranger's file
MAX_FILE_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 25_000_000
DAMAGED = "'damaged': expected pixels that can be read"
MAX_PATCHES = 16_384  # 2048 x 2048 pixels in patches of 16
MAX_ASPECT = 8  # a longer strip, with its shorter side brought to the model's size, would be many times a square
TIMED_RUNS = 5
TIME_BUDGET = 3.0

PLAIN = {"use_token_merging": False}


@dataclass(frozen=True)
class MergeSettings:
    """Where and how much to merge, for one request.

    Attributes:
        merge_threshold (`float`): Tau, -1 to 1; lower merges more.
        local_merge_layer (`int`, *optional*): Layer, counted from 1, of the local merge; `None` switches it off.
        global_merge_layer (`int`, *optional*): The same for the global merge.
    """

    merge_threshold: float
    local_merge_layer: int | None
    global_merge_layer: int | None

    @classmethod
    def from_controls(cls, merge_threshold: float, local_layer: float, global_layer: float) -> MergeSettings:
        """Reads three sliders, of which those of the layers say 0 for off; the model's config checks the rest."""
        layers = {"local_merge_layer": local_layer, "global_merge_layer": global_layer}
        for name, layer in layers.items():
            require(layer is not None and layer >= 0 and layer == int(layer), name, layer, "a whole number, 0 for off")
        return cls(merge_threshold, *(int(layer) or None for layer in layers.values()))

    def as_config(self) -> dict:
        """The fields of `model.config` that these settings are."""
        return {"use_token_merging": True, **asdict(self)}


@dataclass
class Comparison:
    """One image with and without merging at the same weights.

    Attributes:
        merged, plain ([`SegmentedImage`]): The results.
        seconds_merged, seconds_plain (`float`): Median time of a forward pass.
        timed_runs (`int`): How many runs of each the medians are of.
    """

    merged: SegmentedImage
    plain: SegmentedImage
    seconds_merged: float
    seconds_plain: float
    timed_runs: int

    @property
    def agreement(self) -> float:
        """Share of pixels, 0 to 1, that have the same class in both label maps."""
        return float((self.merged.label_map == self.plain.label_map).mean())


class DemoSegmenter:
    """A loaded model with merge settings of its own for each request.

    Requests have to come one after another, as the page's queue sends them: the settings live in `model.config` while
    a request runs. Those of the checkpoint are back in place after each, also after a failure.

    Args:
        model ([`AlgmForSemanticSegmentation`]): On any device; put into evaluation mode.
        processor ([`AlgmImageProcessor`]): The model's processor.
        name (`str`, *optional*): What to call the model on the page.
        time_budget (`float`, *optional*, defaults to 3.0): Seconds that the timed runs of a request may take together,
            about; at least one run of each kind is made.
    """

    def __init__(
        self,
        model: AlgmForSemanticSegmentation,
        processor: AlgmImageProcessor,
        name: str = "",
        time_budget: float = TIME_BUDGET,
    ):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.time_budget = time_budget

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        revision: str = "main",
        device: str = "auto",
        dtype: str = "float32",
        name: str | None = None,
    ) -> DemoSegmenter:
        """Loads a checkpoint with this package's own code, and from safetensors only: nothing in it can run.

        Args:
            model (`str`): Folder of a saved model and processor, or a name on the Hub.
            revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit on the Hub.
            device (`str`, *optional*, defaults to `"auto"`): `auto` takes cuda where there is one.
            dtype (`str`, *optional*, defaults to `"float32"`): float32, float16 or bfloat16.
            name (`str`, *optional*): What to call it on the page. Unset: the folder's or the Hub's name.

        Raises:
            `ValueError`: If the checkpoint cannot be loaded.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        source = {"revision": revision, "trust_remote_code": False}
        try:
            kind = AlgmConfig.get_config_dict(model, revision=revision)[0].get("model_type")
            require_choice(f"--model {model}: model_type", kind, [AlgmConfig.model_type])
            processor = AlgmImageProcessor.from_pretrained(model, **source)
            loaded, report = AlgmForSemanticSegmentation.from_pretrained(
                model, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
            )
        except OSError as error:  # transformers' word for "not there", on disk or on the Hub
            raise ValueError(f"--model {model}: {error}") from error
        missing = sorted(report["missing_keys"])
        require(not missing, f"--model {model}: missing weights", missing, "none")
        name = name or (Path(model).resolve().name if Path(model).is_dir() else model)
        return cls(loaded.to(device), processor, name)

    @property
    def defaults(self) -> MergeSettings:
        """The settings of the checkpoint; with its merging switched off, both layers are."""
        config = self.model.config
        layers = (config.local_merge_layer, config.global_merge_layer)
        return MergeSettings(config.merge_threshold, *(layers if config.use_token_merging else (None, None)))

    def check_size(self, image: Image.Image) -> None:
        """Refuses an image that is too small, too long or too large for the model."""
        patch = self.model.config.patch_size
        short, long = sorted(image.size)
        size = f"{image.width} x {image.height} pixels"
        require(short >= patch, "image", size, f"at least {patch} x {patch}")
        require(long <= MAX_ASPECT * short, "image", size, f"one side at most {MAX_ASPECT} times the other")
        if not self.processor.do_resize:
            side = int(MAX_PATCHES**0.5) * patch
            is_small = image.width * image.height <= MAX_PATCHES * patch**2
            require(is_small, "image", size, f"at most about {side} x {side}, as this model takes it as it is")

    def compare(self, image: Image.Image, settings: MergeSettings) -> Comparison:
        """Segments an image with `settings` and without merging, and times both in turns.

        Args:
            image (`Image.Image`): RGB.
            settings ([`MergeSettings`]): For this call alone.

        Returns:
            [`Comparison`]

        Raises:
            `ValueError`: If the image or a setting does not fit the model.
        """
        self.check_size(image)
        start = time.perf_counter()
        merged = self._segment(image, settings.as_config())
        plain = self._segment(image, PLAIN)
        # These two runs warmed everything up, and tell how many more the budget allows.
        runs = int(self.time_budget / (time.perf_counter() - start))
        runs = min(max(runs, 1), TIMED_RUNS)
        kinds = {"merged": settings.as_config(), "plain": PLAIN}
        seconds = time_settings(self.model, self.processor, [image], kinds, repeats=runs, warmup=0)
        return Comparison(merged, plain, seconds["merged"], seconds["plain"], runs)

    def _segment(self, image: Image.Image, fields: dict) -> SegmentedImage:
        with config_settings(self.model, **fields):
            self.model.config.validate_call_settings()
            (result,) = segment_images(self.model, self.processor, [image])
        return result


def read_upload(path: str | Path) -> Image.Image:
    """Reads a stranger's image: size first, pixels only if they are not too many.

    Args:
        path (`str` or `Path`): A file of any content.

    Returns:
        `Image.Image`: RGB, turned as its EXIF tag says, transparency laid on white; the first frame of several.

    Raises:
        `ValueError`: If it is no image, of another format, damaged or too large; the text names the file.
    """
    path = Path(path)
    require(path.stat().st_size <= MAX_FILE_BYTES, path.name, "too large", f"at most {MAX_FILE_BYTES // 2**20} MB")
    pixels = f"at most {MAX_PIXELS // 10**6} million pixels"
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"{path.name}='too large': expected {pixels}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path.name}='no image': expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    except Exception as error:  # a decoder that meets nonsense raises nearly anything
        raise ValueError(f"{path.name}={DAMAGED}") from error
    with image:
        require(image.width * image.height <= MAX_PIXELS, path.name, f"{image.width} x {image.height}", pixels)
        try:
            return upright_rgb(image)
        except Exception as error:
            raise ValueError(f"{path.name}={DAMAGED}") from error


__all__ = ["Comparison", "DemoSegmenter", "MergeSettings", "read_upload"]
