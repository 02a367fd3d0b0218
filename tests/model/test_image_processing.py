# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Images and label maps of every kind become what a person expects, on both backends."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from algm_hf.image_processing_algm import AlgmImageProcessor, AlgmImageProcessorPil


EXIF_ORIENTATION = 0x0112
ROTATED_BY_90 = 6  # shown upright by rotating the stored pixels clockwise

BOTH_BACKENDS = pytest.mark.parametrize("processor_class", [AlgmImageProcessor, AlgmImageProcessorPil])
pytestmark = pytest.mark.filterwarnings("error")


def random_pixels(height=37, width=61, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def smooth_image(height, width):
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 127 + 127 * np.sin(x / 7)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def values_of(image, **settings):
    """The image as the processor reads it, `(height, width, channels)` in 0..255, without resizing."""
    processor = AlgmImageProcessor(patch_size=1, do_resize=False, do_normalize=False, **settings)
    pixel_values = processor(image, return_tensors="pt").pixel_values
    return (pixel_values * 255).permute(0, 2, 3, 1).numpy()


def read_values(image, **settings):
    return values_of(image, **settings)[0]


# Sizes


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ({"shortest_edge": 64}, (100, 200), (64, 128)),
        ({"shortest_edge": 64}, (200, 100), (128, 64)),
        ({"shortest_edge": 64}, (100, 133), (64, 80)),  # 85.12 is nearer to 80 than to 96
        ({"shortest_edge": 64}, (64, 88), (64, 96)),  # 88 lies halfway: up
        ({"shortest_edge": 70}, (140, 140), (64, 64)),
        ({"shortest_edge": 5}, (50, 500), (16, 48)),  # never less than one patch
        ({"shortest_edge": 16}, (20, 3000), (16, 2400)),  # a panorama
        ({"shortest_edge": 64, "longest_edge": 96}, (20, 3000), (16, 96)),
        ({"shortest_edge": 64, "longest_edge": 96}, (100, 110), (64, 64)),  # 70.4: the cap does not bind
        ({"shortest_edge": 64, "longest_edge": 90}, (100, 200), (48, 80)),  # 90 would round up beyond the cap
        ({"height": 60, "width": 100}, (31, 17), (64, 96)),
        ((48, 32), (31, 17), (48, 32)),
        (64, (100, 200), (64, 128)),
    ],
)
@BOTH_BACKENDS
def test_both_sides_become_whole_patches(processor_class, size, image_size, expected):
    processor = processor_class(size=size)
    label_map = np.zeros(image_size, dtype=np.uint8)
    inputs = processor(Image.new("RGB", image_size[::-1]), label_map, return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, *expected)
    assert inputs.labels.shape == (1, *expected)


def test_default_size_is_512_on_the_shorter_side():
    inputs = AlgmImageProcessor()(Image.new("RGB", (600, 450)), return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, 512, 688)  # 682.7 to whole patches


@BOTH_BACKENDS
def test_without_resizing_sizes_are_kept(processor_class):
    processor = processor_class(do_resize=False)
    assert processor(random_pixels(33, 65), return_tensors="pt").pixel_values.shape == (1, 3, 33, 65)
    with pytest.raises(ValueError, match=r"images\[1\].shape=\(15, 65\): .* 16 x 16"):
        processor([random_pixels(33, 65), random_pixels(15, 65)])


@BOTH_BACKENDS
def test_unequal_sizes_are_padded_and_told_to_the_model(processor_class):
    processor = processor_class(size=32)
    images = [random_pixels(40, 80), random_pixels(90, 40)]
    maps = [np.full((40, 80), 3), np.full((90, 40), 4)]
    batch = processor(images, maps, return_tensors="pt")
    assert batch.image_sizes.dtype == torch.int64
    assert batch.image_sizes.tolist() == [[32, 64], [80, 32]]  # 72 lies halfway: up
    assert batch.pixel_values.shape[-2:] == (batch.image_sizes[:, 0].max(), batch.image_sizes[:, 1].max())
    for i, (height, width) in enumerate(batch.image_sizes.tolist()):
        alone = processor(images[i], maps[i], return_tensors="pt")
        assert torch.equal(batch.pixel_values[i, :, :height, :width], alone.pixel_values[0])
        assert torch.equal(batch.labels[i, :height, :width], alone.labels[0])
        outside = torch.ones(batch.labels.shape[-2:], dtype=torch.bool)
        outside[:height, :width] = False
        assert (batch.pixel_values[i][:, outside] == 0).all()
        assert (batch.labels[i][outside] == 255).all()


@BOTH_BACKENDS
def test_equal_sizes_need_no_image_sizes(processor_class):
    batch = processor_class(size=32)([random_pixels(40, 80), random_pixels(20, 40)], return_tensors="pt")
    assert set(batch) == {"pixel_values"}


def test_without_return_tensors_each_backend_returns_its_own_unpadded_arrays():
    images, maps = [random_pixels(40, 80), random_pixels(80, 40)], [np.zeros((40, 80), int), np.zeros((80, 40), int)]
    for processor, kind in ((AlgmImageProcessor(size=32), torch.Tensor), (AlgmImageProcessorPil(size=32), np.ndarray)):
        batch = processor(images, maps)
        assert [type(p) for p in batch["pixel_values"] + batch["labels"]] == [kind] * 4
        assert [tuple(p.shape) for p in batch["pixel_values"]] == [(3, 32, 64), (3, 64, 32)]
        assert "image_sizes" not in batch


@BOTH_BACKENDS
def test_numpy_batches_hold_what_torch_batches_hold(processor_class):
    arguments = ([random_pixels(40, 80), random_pixels(80, 40)], [np.ones((40, 80), int), np.ones((80, 40), int)])
    as_torch, as_numpy = (processor_class(size=32)(*arguments, return_tensors=kind) for kind in ("pt", "np"))
    assert set(as_numpy) == {"pixel_values", "labels", "image_sizes"}
    for name, values in as_numpy.items():
        assert isinstance(values, np.ndarray)
        np.testing.assert_array_equal(values, as_torch[name].numpy())


# Values


def test_values_are_rescaled_and_normalised_per_channel():
    pixels = random_pixels(16, 16)
    processor = AlgmImageProcessor(size=16, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    inputs = processor(pixels, return_tensors="pt")
    assert inputs.pixel_values.dtype == torch.float32
    np.testing.assert_allclose(inputs.pixel_values[0].permute(1, 2, 0), expected, atol=1e-6)
    default = AlgmImageProcessor(size=16)(pixels, return_tensors="pt").pixel_values[0].permute(1, 2, 0)
    np.testing.assert_allclose(default, pixels / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("size", [16, 48, 160])
def test_backends_agree_within_one_grey_level(size):
    for image in (smooth_image(75, 131), Image.fromarray(random_pixels(75, 131))):
        with_pil, with_torchvision = (
            processor_class(size=size, do_normalize=False)(image, return_tensors="pt").pixel_values
            for processor_class in (AlgmImageProcessorPil, AlgmImageProcessor)
        )
        assert (with_pil - with_torchvision).abs().max() <= 1.01 / 255


def test_pil_backend_resamples_exactly_as_pil():
    image = Image.fromarray(random_pixels(75, 131))
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        inputs = AlgmImageProcessorPil(size={"height": 32, "width": 48}, do_normalize=False, resample=resample)(
            image, return_tensors="pt"
        )
        expected = np.asarray(image.resize((48, 32), resample)) / 255
        np.testing.assert_allclose(inputs.pixel_values[0].permute(1, 2, 0), expected, atol=1e-6)


@BOTH_BACKENDS
def test_floating_point_arrays_mean_the_same_image(processor_class):
    processor = processor_class(size=32)
    pixels = random_pixels()
    expected = processor(pixels, return_tensors="pt").pixel_values
    in_unit_range = pixels.astype(np.float32) / 255
    for same in (in_unit_range, in_unit_range.astype(np.float64), pixels.astype(np.float32), pixels.astype(np.int64)):
        for form in (same, torch.from_numpy(same), np.moveaxis(same, -1, 0)):
            values = processor(form, return_tensors="pt").pixel_values
            # Resampling rounds uint8 images to whole grey levels after each direction, and these not.
            assert (values - expected).abs().max() <= 1.01 / 127.5
    overshooting = in_unit_range * (1 + 1e-6)
    assert (processor(overshooting, return_tensors="pt").pixel_values - expected).abs().max() <= 1.01 / 127.5


@BOTH_BACKENDS
def test_without_rescaling_floating_point_values_are_kept(processor_class):
    values = torch.randn(3, 20, 30) * 300
    kept = processor_class(patch_size=1, do_resize=False, do_rescale=False, do_normalize=False)(
        values, return_tensors="pt"
    ).pixel_values
    assert torch.equal(kept[0], values)
    assert kept.data_ptr() != values.data_ptr()


def test_shapes_of_arrays():
    pixels = random_pixels(20, 30)
    for form in (
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):
        np.testing.assert_allclose(read_values(form), pixels, atol=1e-4)
    grey = pixels[..., 0]
    for form in (grey, grey[None], grey[..., None], torch.from_numpy(grey)):
        np.testing.assert_allclose(read_values(form), np.repeat(grey[..., None], 3, axis=-1), atol=1e-4)
    batch = np.stack([pixels, 255 - pixels])
    for form in (batch, list(batch), [[batch[0]], [batch[1]]], batch.transpose(0, 3, 1, 2), torch.from_numpy(batch)):
        np.testing.assert_allclose(values_of(form), batch, atol=1e-4)
    flipped = pixels[::-1, ::-1]
    flipped.flags.writeable = False
    np.testing.assert_allclose(read_values(flipped), flipped, atol=1e-4)
    half = torch.from_numpy(pixels).to(torch.bfloat16) / 255
    assert np.abs(read_values(half) - pixels).max() < 2


def test_small_arrays_follow_input_data_format():
    pixels = random_pixels(3, 8)  # (3, 8, 3): either order is possible
    np.testing.assert_allclose(read_values(pixels, input_data_format="channels_last"), pixels, atol=1e-4)
    as_first = read_values(pixels, input_data_format="channels_first")
    np.testing.assert_allclose(as_first, pixels.transpose(1, 2, 0), atol=1e-4)


# Modes of PIL


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_opaque_modes_become_what_pil_shows(mode):
    image = Image.fromarray(random_pixels()).convert(mode)
    np.testing.assert_allclose(read_values(image), np.asarray(image.convert("RGB")), atol=1e-4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_images_lie_on_white(mode):
    rgba = random_pixels(channels=4)
    rgba[:10, ..., 3], rgba[10:20, ..., 3] = 0, 255
    image = Image.fromarray(rgba)
    image = {
        "PA": lambda: image.convert("P").convert("PA"),
        "La": lambda: image.convert("LA").convert("La"),
    }.get(mode, lambda: image.convert(mode))()
    upright = image.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
    colours, alpha = np.asarray(upright)[..., :3].astype(float), np.asarray(upright)[..., 3:] / 255
    expected = colours * alpha + 255 * (1 - alpha)
    assert np.abs(read_values(image) - expected).max() <= 1
    if mode == "RGBA":
        for form in (rgba, rgba.transpose(2, 0, 1), rgba / 255, torch.from_numpy(rgba)):
            assert np.abs(read_values(form) - expected).max() <= 1
        faint = np.zeros((8, 8, 4), dtype=np.float32)  # transparent black is white, however dark its values
        np.testing.assert_allclose(read_values(faint), 255, atol=1e-3)


def test_palette_images_show_their_colours(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    np.testing.assert_allclose(read_values(palette), expected, atol=1e-4)
    path = tmp_path / "palette.png"
    palette.save(path, transparency=0)
    expected[0][0] = [255, 255, 255]
    for source in (path, str(path), Image.open(path)):
        np.testing.assert_allclose(read_values(source), expected, atol=1e-4)


def test_sixteen_bit_images_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    image.save(tmp_path / "deep.png")
    integers = Image.fromarray(values.astype(np.int32))
    assert integers.mode == "I"
    expected = np.repeat(values[..., None] / 257, 3, axis=-1)
    for source in (image, integers, tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), values):
        assert np.abs(read_values(source) - expected).max() <= 0.51
    assert np.abs(read_values(torch.from_numpy(values)) - expected).max() <= 0.51
    dark = Image.fromarray(np.full((4, 4), 200, dtype=np.int32))  # 32-bit integers that are 8-bit values
    np.testing.assert_allclose(read_values(dark), 200, atol=1e-4)
    np.testing.assert_allclose(read_values(np.array([[True, False]])), [[[255] * 3, [0] * 3]], atol=1e-4)


@BOTH_BACKENDS
def test_exif_orientation_is_applied_to_images_and_maps(processor_class, tmp_path):
    upright = smooth_image(48, 32)
    classes = np.arange(48 * 32).reshape(48, 32) // 400
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED_BY_90
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    stored_map = Image.fromarray(classes.astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)
    stored_map.save(tmp_path / "turned_map.png", exif=exif)
    processor = processor_class(do_resize=False)
    expected = processor(upright, classes, return_tensors="pt")
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        for label_map in (classes, tmp_path / "turned_map.png", Image.open(tmp_path / "turned_map.png")):
            inputs = processor(image, label_map, return_tensors="pt")
            assert torch.equal(inputs.pixel_values, expected.pixel_values)
            assert torch.equal(inputs.labels, expected.labels)
        with pytest.raises(ValueError, match=r"\(32, 48\): .*\(48, 32\).*EXIF"):
            processor(image, stored_map)


@BOTH_BACKENDS
def test_files_and_opened_images_are_the_same(processor_class, tmp_path):
    image = smooth_image(40, 60)
    for name in ("image.png", "image.jpg"):
        image.save(tmp_path / name)
        processor = processor_class(size=32)
        expected = processor(Image.open(tmp_path / name), return_tensors="pt").pixel_values
        for source in (tmp_path / name, str(tmp_path / name), [tmp_path / name]):
            assert torch.equal(processor(source, return_tensors="pt").pixel_values, expected)


def test_more_channels_pass_when_rgb_is_not_wanted():
    values = np.random.default_rng(0).integers(0, 256, (5, 32, 48), dtype=np.uint8)
    for processor_class in (AlgmImageProcessor, AlgmImageProcessorPil):
        processor = processor_class(size=16, do_convert_rgb=False, image_mean=[0.5] * 5, image_std=[0.5] * 5)
        assert processor(values, return_tensors="pt").pixel_values.shape == (1, 5, 16, 32)
        with pytest.raises(ValueError, match=r"images\[0\].shape=\(32, 48, 3\): expected 5 channels"):
            processor(random_pixels(32, 48))


# Label maps


def label_map_forms(classes, tmp_path):
    eight_bit = classes.astype(np.uint8)
    palette = Image.fromarray(eight_bit)
    palette.putpalette([v for i in range(256) for v in (255 - i, i * 7 % 256, 3)])
    assert palette.mode == "P"
    palette.save(tmp_path / "labels.png")
    return {
        "L": Image.fromarray(eight_bit),
        "P": palette,
        "I;16": Image.fromarray(classes.astype(np.uint16)),
        "I": Image.fromarray(classes.astype(np.int32)),
        "file": tmp_path / "labels.png",
        "uint8": eight_bit,
        "channel first": classes[None],
        "channel last": classes[..., None],
        "whole floats": classes.astype(np.float32),
        "torch": torch.from_numpy(classes),
        "torch uint8": torch.from_numpy(eight_bit),
        "list": [classes],
        "batch": classes[None, None],
    }


@BOTH_BACKENDS
def test_label_maps_of_every_kind_are_class_indices(processor_class, tmp_path):
    classes = np.random.default_rng(0).integers(0, 20, (40, 60))
    processor = processor_class(size=32)
    # The pixel whose centre is nearest, from first principles: 32 rows of 40 and 48 columns of 60.
    expected = classes[np.floor((np.arange(32) + 0.5) * 40 / 32).astype(int)][
        :, np.floor((np.arange(48) + 0.5) * 60 / 48).astype(int)
    ]
    for name, form in label_map_forms(classes, tmp_path).items():
        labels = processor(random_pixels(40, 60), form, return_tensors="pt").labels
        assert labels.dtype == torch.int64, name
        np.testing.assert_array_equal(labels[0], expected, err_msg=name)
    in_pil = np.asarray(Image.fromarray(classes.astype(np.uint8)).resize((48, 32), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(expected, in_pil)


def test_one_bit_maps_are_zero_and_one():
    mask = np.random.default_rng(0).integers(0, 2, (16, 16)).astype(bool)
    for form in (Image.fromarray(mask), mask, torch.from_numpy(mask)):
        labels = AlgmImageProcessor(size=16)(random_pixels(16, 16), form, return_tensors="pt").labels
        np.testing.assert_array_equal(labels[0], mask.astype(int))


@BOTH_BACKENDS
def test_images_and_maps_share_their_geometry(processor_class):
    classes = np.zeros((90, 150), dtype=np.uint8)
    classes[20:70, 30:110] = 1
    colours = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)
    inputs = processor_class(size=64, do_normalize=False)(colours[classes], classes, return_tensors="pt")
    inside = (inputs.pixel_values[0, 0] > 0.5).long()
    assert (inside != inputs.labels[0]).float().mean() < 0.002
    assert set(inputs.labels.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@BOTH_BACKENDS
def test_reducing_labels_shifts_them_and_leaves_the_callers_array_alone(processor_class, dtype):
    classes = np.array([[0, 1, 2], [254, 255, 7]], dtype=dtype)
    before = classes.copy()
    processor = processor_class(patch_size=1, do_resize=False, do_reduce_labels=True)
    labels = processor(np.zeros((2, 3), np.uint8), classes, return_tensors="pt").labels
    assert labels[0].tolist() == [[255, 0, 1], [253, 255, 6]]
    np.testing.assert_array_equal(classes, before)
    labels = processor(np.zeros((2, 3), np.uint8), classes, ignore_index=-100, return_tensors="pt").labels
    assert labels[0].tolist() == [[-100, 0, 1], [253, 254, 6]]
    kept = processor(np.zeros((2, 3), np.uint8), classes, do_reduce_labels=False, return_tensors="pt").labels
    assert kept[0].tolist() == before.tolist()


# Refusals


def nan_image(count):
    pixels = np.zeros((8, 8, 3), dtype=np.float32)
    pixels.reshape(-1, 3)[:count, 1] = np.nan
    return pixels


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((8, 8, 3)), nan_image(5)], r"images\[1\]='5 pixels with NaN or infinite values'"),
        (np.full((3, 8, 8), np.inf), r"images\[0\]='64 pixels with NaN"),
        (np.zeros((8, 8, 2), np.uint8), r"images\[0\].shape=\(8, 8, 2\): expected 1 or 3 or 4 channels"),
        (torch.zeros(5, 8, 8), r"images\[0\].shape=\(5, 8, 8\): expected 1 or 3 or 4 channels"),
        (np.zeros((0, 8, 3), np.uint8), r"images\[0\].shape=\(0, 8, 3\): expected at least one pixel"),
        (np.full((8, 8), -1.0), r"range\(images\[0\]\)=\(-1.0, -1.0\): .*do_rescale=False"),
        (np.full((8, 8), 300.0), r"range\(images\[0\]\)=\(300.0, 300.0\): expected 0 to 1 or 0 to 255"),
        (np.full((8, 8), 1.2), r"range\(images\[0\]\)=\(1.2.*: expected 0 to 1 or 0 to 255"),
        (np.full((8, 8), 256), r"range\(images\[0\]\)=\(256, 256\): expected 0 to 255"),
        (np.full((8, 8), 1j), r"images\[0\].dtype=.*complex128"),
        (np.zeros(8), r"images.shape=\(8,\)"),
        (np.zeros((1, 1, 3, 8, 8)), r"images.shape=\(1, 1, 3, 8, 8\)"),
        ([], r"images=\[\]"),
        (None, r"type\(images\)='NoneType'"),
        ([3], r"type\(images\)='int'"),
        ("no_such_file.png", r"no_such_file.png='no file': .* images\[0\]"),
        (Image.new("LAB", (8, 8)), r"images\[0\].mode='LAB'"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    for processor in (AlgmImageProcessor(size=16), AlgmImageProcessorPil(size=16)):
        with pytest.raises(ValueError, match=message):
            processor(images, return_tensors="pt")


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(random_pixels()).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "words.png").write_text("no image")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(whole.read_bytes()[:8] + header + whole.read_bytes()[33:])
    for name in ("cut.png", "words.png", "bomb.png"):
        with pytest.raises(ValueError, match=rf"{name}=.*: expected .* images\[1\]"):
            AlgmImageProcessor(size=16)([whole, tmp_path / name])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((8, 9), int), r"segmentation_maps\[0\].shape=\(8, 9\): expected \(8, 8\).* images\[0\]"),
        (np.zeros((8, 8, 3), np.uint8), r"segmentation_maps\[0\].shape=\(8, 8, 3\): .*colour map"),
        (np.zeros((21, 8, 8), np.uint8), r"segmentation_maps\[0\].shape=\(21, 8, 8\): .*one-hot"),
        (Image.new("RGB", (8, 8)), r"segmentation_maps\[0\].shape=\(8, 8, 3\): .*colour map"),
        (np.full((8, 8), 0.5), r"segmentation_maps\[0\].dtype=.*float64.*: expected integers"),
        (np.full((8, 8), np.nan), r"segmentation_maps\[0\].dtype=.*float64.*: expected integers"),
        ([np.zeros((8, 8), int)] * 2, r"len\(segmentation_maps\)=2: expected 1"),
        (np.zeros((2, 1, 8, 8), int), r"len\(segmentation_maps\)=2: expected 1"),
        ([], r"len\(segmentation_maps\)=0: expected 1"),
        ("no_such_file.png", r"no_such_file.png='no file': .* segmentation_maps\[0\]"),
        ("https://example.org/map.png", r"segmentation_maps\[0\]='https://example.org/map.png'"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        AlgmImageProcessor(size=16)(np.zeros((8, 8, 3), np.uint8), maps)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": {"longest_edge": 32}}, r"size=\{'longest_edge': 32\}: expected the keys"),
        ({"size": {"edge": 32}}, "size must have one of"),
        ({"size": 0}, r"size\['shortest_edge'\]=0"),
        ({"size": {"height": 32, "width": 31.5}}, r"size\['width'\]=31.5"),
        ({"size": {"shortest_edge": 32, "longest_edge": 16}}, "size=.*longest_edge of at least shortest_edge"),
        ({"patch_size": 0}, "patch_size=0: expected a whole number of pixels, at least 1"),
        ({"patch_size": 16.0}, "patch_size=16.0"),
        ({"ignore_index": "void"}, "ignore_index='void'"),
        ({"ignore_index": 0, "do_reduce_labels": True}, "ignore_index=0: expected with do_reduce_labels=True"),
        ({"do_resize": "yes"}, "do_resize='yes'"),
        ({"resample": 17}, "resample=17"),
        ({"rescale_factor": -1}, "rescale_factor=-1: expected finite positive numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std=\(0.5, 0.0, 0.5\): expected finite positive numbers"),
        ({"image_mean": ["a", "b", "c"]}, r"image_mean=\('a', 'b', 'c'\): expected finite numbers"),
        ({"image_mean": [0.5] * 4}, r"image_mean=\(0.5, 0.5, 0.5, 0.5\): .*3 for RGB"),
        ({"image_mean": [0.5] * 4, "do_convert_rgb": False}, r"image_mean=\(0.5, 0.5, 0.5, 0.5\): .* image_std"),
        ({"input_data_format": "sideways"}, "input_data_format='sideways'"),
    ],
)
@BOTH_BACKENDS
def test_settings_that_do_not_fit_are_refused_when_built_and_when_called(processor_class, setting, message):
    with pytest.raises(ValueError, match=message):
        processor_class(**setting)
    with pytest.raises(ValueError, match=message):
        processor_class()(Image.new("RGB", (32, 32)), **setting)


def test_settings_this_processor_does_not_have_are_refused():
    with pytest.raises(ValueError, match="do_center_crop=True"):
        AlgmImageProcessor(do_center_crop=True)
    with pytest.raises(ValueError, match="reduce_labels=True"):
        AlgmImageProcessor()(Image.new("RGB", (32, 32)), reduce_labels=True)


@BOTH_BACKENDS
def test_a_setting_given_at_a_call_holds_for_that_call_only(processor_class):
    processor = processor_class(size=32)
    image = random_pixels(64, 64)
    before = processor.to_dict()
    other = processor(image, size=64, patch_size=8, image_mean=0.0, image_std=1.0, return_tensors="pt")
    assert other.pixel_values.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(other.pixel_values[0].permute(1, 2, 0), image / 255, atol=1e-6)
    assert processor.to_dict() == before
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)
