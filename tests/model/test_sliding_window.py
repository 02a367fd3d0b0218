# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_models import blocky_images, tiny_config, tiny_model
from torch.nn.functional import interpolate

from algm_hf.inference.pixel_scores import best_averaged_classes, best_classes, resized_rows
from algm_hf.segmentation_loss import segmentation_loss, upsample_logits
from algm_hf.sliding_window import PixelScores, slide, window_starts


@pytest.mark.parametrize(
    "length, window, stride, starts",
    [
        (512, 512, 512, [0]),
        (300, 512, 512, [0]),
        (683, 512, 512, [0, 171]),
        (1024, 512, 512, [0, 512]),
        (1536, 768, 512, [0, 512, 768]),
        (640, 480, 320, [0, 160]),
        (9, 4, 1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_windows_start_at_the_stride_and_the_last_is_flush_with_the_border(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


def slide_model(window_size=32, window_stride=24, **overrides):
    return tiny_model(inference_mode="slide", window_size=window_size, window_stride=window_stride, **overrides)


def averaged_by_hand(model, image, window, stride):
    """Each window through the model alone, upsampled, summed and divided by how many windows see a pixel."""
    _, height, width = image.shape
    sums, counts = torch.zeros(5, height, width), torch.zeros(height, width)
    model.config.inference_mode = "whole"
    tops = sorted({*range(0, max(1, height - window), stride), max(0, height - window)})
    lefts = sorted({*range(0, max(1, width - window), stride), max(0, width - window)})
    for top in tops:
        for left in lefts:
            crop = image[None, :, top : top + window, left : left + window]
            logits = upsample_logits(model(crop).logits, crop.shape[-2:], 8)[0]
            sums[:, top : top + window, left : left + window] += logits
            counts[top : top + window, left : left + window] += 1
    model.config.inference_mode = "slide"
    return sums / counts


@pytest.mark.parametrize(
    "size, window, stride", [((32, 90), 32, 24), ((70, 81), 32, 32), ((40, 40), 64, 64), ((40, 44), 32, 7)]
)
@pytest.mark.parametrize("window_batch_size", [1, 3, 100])
@torch.no_grad()
def test_slide_averages_the_upsampled_logits_of_the_windows(size, window, stride, window_batch_size):
    model = slide_model(window, stride, window_batch_size=window_batch_size)
    images = blocky_images(2, *size)
    logits = model(images).logits
    assert logits.shape == (2, 5, *size)
    for index in range(2):
        expected = averaged_by_hand(model, images[index], window, stride)
        torch.testing.assert_close(logits[index], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_label_maps_in_bands_equal_the_argmax_of_the_averaged_logits():
    model, images = slide_model(), blocky_images(3, 75, 90)
    assert torch.equal(model.segment(images), model(images).logits.argmax(dim=1))


@torch.no_grad()
def test_slide_treats_images_of_different_sizes_as_it_treats_them_alone():
    model = slide_model()
    images, sizes = torch.zeros(2, 3, 64, 80), [(64, 40), (32, 80)]
    labels = torch.full((2, 64, 80), 255)
    for index, (height, width) in enumerate(sizes):
        images[index, :, :height, :width] = blocky_images(2, height, width, seed=index)[1]
        labels[index, :height, :width] = index
    together = model(images, image_sizes=torch.tensor(sizes), labels=labels, output_token_merging=True)
    assert together.grid_sizes.tolist() == [list(size) for size in sizes]
    pixel_logits = []
    for index, (height, width) in enumerate(sizes):
        alone = model(images[index : index + 1, :, :height, :width], output_token_merging=True)
        torch.testing.assert_close(together.logits[index, :, :height, :width], alone.logits[0], atol=1e-4, rtol=0)
        assert torch.equal(together.token_counts[index], alone.token_counts[0])
        pixel_logits.append(alone.logits)
    pixel_labels = [labels[i : i + 1, :h, :w] for i, (h, w) in enumerate(sizes)]
    torch.testing.assert_close(together.loss, segmentation_loss(pixel_logits, pixel_labels, 255))


@torch.no_grad()
def test_token_counts_of_an_image_are_summed_over_its_windows():
    model, images = slide_model(32, 32), blocky_images(3, 64, 96)
    counts = model(images, output_token_merging=True).token_counts
    model.config.inference_mode = "whole"
    for index in range(3):
        crops = [images[index, :, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)]
        assert torch.equal(counts[index], model(torch.stack(crops), output_token_merging=True).token_counts.sum(0))


@torch.no_grad()
@pytest.mark.parametrize("wanted", [False, True])
def test_windows_state_their_tokens_only_where_these_are_asked_for(wanted):
    model, stated = slide_model(), []
    model.algm.register_forward_hook(lambda module, inputs, output: stated.append("patch_to_token" in output))
    output = model(blocky_images(1, 64, 64), output_token_merging=wanted)
    assert set(stated) == {wanted} and (output.token_counts is not None) == wanted


@torch.no_grad()
def test_training_never_slides():
    model = slide_model(decoder_dropout_prob=0.0).train()
    assert model(blocky_images(1, 64, 64)).logits.shape == (1, 5, 8, 8)


def test_the_windows_of_all_images_are_packed_together():
    sizes, config = [], tiny_config(inference_mode="slide", window_size=32, window_stride=24, window_batch_size=4)

    def forward(windows):
        sizes.append(len(windows))
        return SimpleNamespace(logits=torch.zeros(len(windows), 2, 4, 4), token_counts=torch.ones(len(windows), 4))

    images = slide(forward, list(torch.zeros(3, 3, 32, 80)), config)
    assert sizes == [4, 4, 1]
    assert [image.scores.size for image in images] == [(32, 80)] * 3


@torch.no_grad()
def test_the_height_of_the_bands_changes_no_logit(monkeypatch):
    model, images = slide_model(), blocky_images(2, 75, 90)
    expected, label_maps = model(images).logits, model.segment(images)
    monkeypatch.setattr("algm_hf.sliding_window.BAND_ELEMENTS", 1)
    assert torch.equal(model(images).logits, expected)
    assert torch.equal(model.segment(images), label_maps)


@pytest.mark.parametrize("patch_size", [8, 7, 1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_pixel_scores_in_parts_are_those_of_all_rows_and_classes(patch_size, mirrored):
    torch.manual_seed(1)
    size, window, stride = (45, 38), 21, 14
    tops, lefts = [0, 14, 24], [0, 14, 17]
    side = math.ceil(window / patch_size)
    grids = [torch.randn(6, side, side) for _ in range(len(tops) * len(lefts))]
    sums, counts = torch.zeros(6, *size), torch.zeros(size)
    for index, grid in enumerate(grids):
        top, left = tops[index // len(lefts)], lefts[index % len(lefts)]
        pixels = interpolate(grid[None], scale_factor=patch_size, mode="bilinear", align_corners=False)[0]
        sums[:, top : top + window, left : left + window] += pixels[:, :window, :window]
        counts[top : top + window, left : left + window] += 1
    dense = (sums / counts).flip(-1) if mirrored else sums / counts
    scores = PixelScores(grids, size, window, stride, patch_size, mirrored)
    for first, stop in ((0, 45), (0, 1), (13, 30), (44, 45)):
        torch.testing.assert_close(scores.rows(first, stop), dense[:, first:stop], atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.rows(first, stop, torch.tensor([4, 1])), dense[[4, 1], first:stop])
    for target in ((45, 38), (100, 71), (20, 90), (45, 50), (91, 38)):
        resized = interpolate(dense[None], target, mode="bilinear", align_corners=False)[0]
        for first, stop in ((0, target[0]), (7, 19)):
            rows = resized_rows(scores, first, stop, target)
            torch.testing.assert_close(rows, resized[:, first:stop], atol=1e-4, rtol=0)
        for label_map in (best_classes(scores, target), best_averaged_classes([scores], target)):
            chosen = resized.gather(0, label_map[None])[0]
            assert (resized.amax(dim=0) - chosen).max() <= 1e-4, "the best class, but for ties"


def whole(model):
    model.config.inference_mode = "whole"
    return model


def with_hidden_states(model):
    model.config.output_hidden_states = True
    return model


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda model, images: model.train().segment(images),
            "training=True",
        ),
        (lambda model, images: model(images, output_hidden_states=True), "output_hidden_states=True"),
        (lambda model, images: whole(model).segment(images), "inference_mode='whole'"),
        (lambda model, images: model.segment([images[0], images[0, :, :24]]), r"\(24, 32\)"),
        (lambda model, images: with_hidden_states(model)(images), "output_hidden_states=True"),
    ],
)
def test_calls_that_make_no_sense_with_windows_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(slide_model(), blocky_images(1, 32, 32))


LARGE = """
import resource, torch
from algm_hf import AlgmConfig, AlgmForSemanticSegmentation
torch.set_num_threads(2)
config = AlgmConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=1, intermediate_size=64, image_size=512,
    patch_size=16, global_merge_layer=2, num_labels=150, inference_mode="slide", window_size=512, window_stride=512)
model = AlgmForSemanticSegmentation(config).eval()
image = torch.rand(1, 3, 4000, 6000)
model(image[:, :, :512, :512])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
label_map = model.segment(image)
assert label_map.shape == (1, 4000, 6000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_24_megapixel_image_with_150_classes_stays_under_the_documented_peak():
    result = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    peak = 1024 * int(result.stdout)
    documented = 4 * 150 / 16**2 * 4000 * 6000 + 0.6e9
    # The rest: the label map and the activations of one pack of windows.
    assert peak < documented + 0.8e9, f"{peak / 1e9:.2f} GB"
