from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from pan_callbacks.sources.preprocessing import Preprocessing, read_image
from tests.support.photos import photo, save

PLAIN = Preprocessing(32, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(32, mean=(0.0,), std=(1.0,), channels=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(60, 80), (81, 57), (200, 200)])
def test_an_8_bit_image_is_read_as_torchvision_reads_it(tmp_path, shape, interpolation):
    save(tmp_path / "x.png", photo(*shape))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    theirs = transforms.Compose(
        [
            transforms.Resize(40, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    ours = read_image(tmp_path / "x.png", Preprocessing(32, mean, std, interpolation, crop_share=0.8))
    torch.testing.assert_close(ours, theirs(Image.open(tmp_path / "x.png")), rtol=0, atol=1e-6)


SHAPES = [(300, 400), (401, 299), (224, 224), (50, 61), (500, 1200), (97, 240)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "crop_share", "interpolation", "crop_mode"),
    [
        (224, 0.95, "bicubic", "center"),
        (224, 0.875, "bilinear", "center"),
        (160, 0.95, "bilinear", "center"),
        (224, 0.95, "bicubic", "squash"),
        (224, 0.9, "bilinear", "border"),
        (224, 1.0, "lanczos", "squash"),
        ((128, 192), 0.9, "bicubic", "center"),
    ],
)
def test_images_are_bit_for_bit_what_timm_makes_of_them(tmp_path, shape, size, crop_share, interpolation, crop_mode):
    save(tmp_path / "x.png", photo(*shape))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = create_transform(
        (3, *size) if isinstance(size, tuple) else (3, size, size),
        is_training=False,
        interpolation=interpolation,
        mean=mean,
        std=std,
        crop_pct=crop_share,
        crop_mode=crop_mode,
    )
    ours = Preprocessing(size, mean, std, interpolation, crop_share, crop_mode=crop_mode)
    assert torch.equal(read_image(tmp_path / "x.png", ours), theirs(Image.open(tmp_path / "x.png")))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("crop", "resize"), [(224, 232), (224, 256), (384, 384), (299, 342)])
def test_images_are_bit_for_bit_what_torchvision_makes_of_them(tmp_path, shape, crop, resize):
    save(tmp_path / "x.png", photo(*shape))
    theirs = ImageClassification(crop_size=crop, resize_size=resize, interpolation=InterpolationMode.BILINEAR)
    ours = Preprocessing(crop, crop_share=crop / resize, resize=resize)
    assert torch.equal(read_image(tmp_path / "x.png", ours), theirs(Image.open(tmp_path / "x.png")))


def test_of_an_image_that_would_not_fit_into_memory_the_middle_alone_is_resized(tmp_path, monkeypatch):
    array = np.zeros((4, 4000, 3), np.uint8)
    array[:, 1900:2100] = 255
    save(tmp_path / "x.png", array)
    whole = read_image(tmp_path / "x.png", PLAIN)
    monkeypatch.setattr("pan_callbacks.sources.preprocessing.MOST_PIXELS", 10_000)
    seen = []
    monkeypatch.setattr(Image.Image, "resize", spied(Image.Image.resize, seen))
    assert torch.equal(read_image(tmp_path / "x.png", PLAIN), whole) and whole.min() == 1
    assert max(height * width for width, height in seen) <= 10_000


def spied(resize, seen):
    """PIL's resize, which also notes the sizes asked for."""

    def noting(image, size, *more, **options):
        seen.append(tuple(size))
        return resize(image, size, *more, **options)

    return noting


def test_a_preprocessing_goes_to_workers_also_after_it_was_used(tmp_path):
    save(tmp_path / "x.png", photo(40, 50))
    before = read_image(tmp_path / "x.png", PLAIN)
    assert torch.equal(read_image(tmp_path / "x.png", pickle.loads(pickle.dumps(PLAIN))), before)


def test_another_size_keeps_the_share_that_is_cropped():
    theirs = Preprocessing(224, crop_share=224 / 232, resize=232)
    assert theirs.at(448) == Preprocessing(448, crop_share=224 / 232)


def test_a_size_that_is_not_square_is_covered_and_cropped(tmp_path):
    save(tmp_path / "x.png", photo(64, 160))
    ours = read_image(tmp_path / "x.png", Preprocessing((32, 48), (0.0,) * 3, (1.0,) * 3))
    theirs = transforms.CenterCrop((32, 48))(transforms.Resize((32, 80))(Image.open(tmp_path / "x.png")))
    torch.testing.assert_close(ours, transforms.ToTensor()(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("preprocessing", [PLAIN, GREY], ids=["3 channels", "1 channel"])
def test_16_bits_read_like_the_same_picture_in_8(tmp_path, preprocessing):
    grey = photo(channels=1)[..., 0]
    save(tmp_path / "8.png", grey)
    save(tmp_path / "16.png", grey.astype(np.uint16) * 257)
    assert Image.open(tmp_path / "16.png").mode == "I;16"
    ours = read_image(tmp_path / "16.png", preprocessing)
    assert ours.shape == (preprocessing.channels, 32, 32)
    torch.testing.assert_close(ours, read_image(tmp_path / "8.png", preprocessing), rtol=0, atol=1 / 255)


@pytest.mark.parametrize(
    "values", [lambda g: g / 255, lambda g: g.astype(np.int32) * 257], ids=["float 0 to 1", "32 bits, 16 in use"]
)
def test_floats_and_32_bit_integers_keep_their_range(tmp_path, values):
    grey = photo(channels=1)[..., 0]
    save(tmp_path / "8.png", grey)
    array = values(grey)
    save(tmp_path / "x.tif", array.astype(np.float32) if array.dtype.kind == "f" else array)
    expected = read_image(tmp_path / "8.png", PLAIN)
    torch.testing.assert_close(read_image(tmp_path / "x.tif", PLAIN), expected, rtol=0, atol=1 / 255)


def test_floats_beyond_1_are_scaled_by_their_own_range(tmp_path):
    ramp = np.linspace(-50, 150, 32, dtype=np.float32)[None].repeat(32, 0)
    save(tmp_path / "x.tif", ramp)
    expected = torch.linspace(0, 1, 32).expand(3, 32, 32)
    torch.testing.assert_close(read_image(tmp_path / "x.tif", PLAIN), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1"])
def test_other_modes_read_as_their_rgb_conversion(tmp_path, mode):
    image = Image.fromarray(photo(32, 32)).convert(mode)
    image.save(tmp_path / "x.png")
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(tmp_path / "x.png", PLAIN), expected, rtol=0, atol=1e-6)


def test_alpha_is_dropped_whatever_it_says(tmp_path):
    opaque, array = photo(32, 32), np.zeros((32, 32, 4), np.uint8)
    array[..., :3] = opaque
    save(tmp_path / "clear.png", array)
    save(tmp_path / "opaque.png", opaque)
    assert torch.equal(read_image(tmp_path / "clear.png", PLAIN), read_image(tmp_path / "opaque.png", PLAIN))


def test_a_cmyk_jpeg_has_the_colours_it_was_made_from(tmp_path):
    red = Image.new("RGB", (40, 40), (200, 30, 20))
    red.convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    found = read_image(tmp_path / "x.jpg", PLAIN).mean((1, 2)) * 255
    assert (found - torch.tensor([200.0, 30.0, 20.0])).abs().max() < 6


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    array = photo(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    save(tmp_path / "turned.png", array, exif=exif)
    save(tmp_path / "upright.png", np.rot90(array, -1).copy())
    assert torch.equal(read_image(tmp_path / "turned.png", PLAIN), read_image(tmp_path / "upright.png", PLAIN))


def test_grey_weighs_colours_as_pil_does(tmp_path):
    array = photo(32, 32)
    save(tmp_path / "x.png", array)
    expected = (array @ np.array([0.299, 0.587, 0.114])) / 255
    found = read_image(tmp_path / "x.png", GREY)[0].double()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1 / 255)


def test_one_pixel_fills_the_image(tmp_path):
    save(tmp_path / "x.png", np.array([[[255, 0, 51]]], np.uint8))
    expected = torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(read_image(tmp_path / "x.png", PLAIN), expected)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
def test_a_very_long_image_shows_its_middle(tmp_path, shape):
    array = np.zeros((*shape, 3), np.uint8)
    array.reshape(-1, 3)[9_990:10_010] = 255
    save(tmp_path / "x.png", array)
    assert read_image(tmp_path / "x.png", PLAIN).min() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"crop_share": 0.0},
        {"channels": 2},
        {"mean": (0.5,)},
        {"interpolation": "smooth"},
        {"crop_mode": "corner"},
    ],
    ids=str,
)
def test_preprocessing_refuses_what_makes_no_sense(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Preprocessing(**arguments)
