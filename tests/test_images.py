from __future__ import annotations

import logging
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pan_callbacks.images import Preprocessing, class_indices, folder_images, pictures, read_image, sample_images
from pan_callbacks.layers import PANError

PLAIN = Preprocessing(32, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(32, mean=(0.0,), std=(1.0,), channels=1)


def photo(height: int = 60, width: int = 80, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth random picture, so that interpolation has something to do, (height, width, channels)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def save(path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Ten readable images, and three that are not, in two subfolders."""
    for i in range(10):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", photo(seed=i))
    (tmp_path / "a" / "text.png").write_text("not an image")
    (tmp_path / "a" / "empty.JPG").touch()
    save(tmp_path / "whole.jpg", photo(300, 300))
    (tmp_path / "b" / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    (tmp_path / "whole.jpg").unlink()
    return tmp_path


def images_of(source) -> torch.Tensor:
    return torch.cat([batch[0] for batch in source])


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


def test_unreadable_images_are_left_out_and_named(folder):
    source = folder_images(folder, PLAIN, batch_size=4)
    assert images_of(source).shape == (10, 3, 32, 32)
    assert len(source) == 13
    assert set(source.skipped) == {"a/text.png", "a/empty.JPG", "b/cut.jpg"}
    assert source.skipped["a/empty.JPG"] == "empty file"
    assert "truncated" in source.skipped["b/cut.jpg"]


def test_a_decompression_bomb_is_left_out(tmp_path, monkeypatch):
    save(tmp_path / "small.png", photo(10, 10))
    save(tmp_path / "bomb.png", photo(60, 80))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    source = folder_images(tmp_path, PLAIN)
    assert len(images_of(source)) == 1
    assert "decompression bomb" in source.skipped["bomb.png"]


def test_worker_processes_read_and_skip_the_same(folder):
    alone, helped = (folder_images(folder, PLAIN, batch_size=4, labelled=True, workers=n) for n in (0, 2))
    for one, two in zip(alone, helped, strict=True):
        assert all(map(torch.equal, one, two))
    assert helped.skipped == alone.skipped and len(alone.skipped) == 3


def test_each_pass_starts_with_nothing_skipped(folder):
    source = folder_images(folder, PLAIN, batch_size=4)
    images_of(source)
    (folder / "a" / "text.png").unlink()
    save(folder / "a" / "text.png", photo())
    images_of(source)
    assert set(source.skipped) == {"a/empty.JPG", "b/cut.jpg"}


def test_odd_images_cause_no_warning_and_no_log(tmp_path, monkeypatch, caplog):
    save(tmp_path / "large.png", photo(60, 80))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)  # a warning from here, an error from twice that
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        assert len(images_of(folder_images(tmp_path, PLAIN))) == 1
    assert not caplog.records


def test_two_passes_are_the_same(folder):
    source = folder_images(folder, PLAIN, batch_size=4)
    assert torch.equal(images_of(source), images_of(source))


def test_a_pass_leaves_the_random_state_alone(folder):
    state = torch.get_rng_state()
    images_of(folder_images(folder, PLAIN))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [2, 3])
def test_shards_hold_the_batches_of_the_whole_in_turn(folder, world):
    whole = folder_images(folder, PLAIN, batch_size=4)
    expected = [batch[0] for batch in whole]
    shards = [[batch[0] for batch in whole.shard(rank, world)] for rank in range(world)]
    found = [shards[i % world][i // world] for i in range(sum(map(len, shards)))]
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_a_shard_names_what_it_skipped_itself(folder):
    whole = folder_images(folder, PLAIN, batch_size=2)
    shards = [whole.shard(rank, 2) for rank in range(2)]
    for source in (whole, *shards):
        images_of(source)
    assert shards[0].skipped | shards[1].skipped == whole.skipped
    assert not shards[0].skipped.keys() & shards[1].skipped.keys()


def test_first_takes_the_first_images_in_the_same_batches():
    source = sample_images(10, PLAIN, batch_size=4)
    first = source.first(6)
    assert [len(batch[0]) for batch in first] == [4, 2] and len(first) == 6
    assert torch.equal(images_of(first), images_of(source)[:6])


def test_fewer_images_are_the_beginning_of_more(folder):
    few, many = (folder_images(folder, PLAIN, max_images=n) for n in (4, None))
    paths = [[source.dataset.paths[i] for batch in source.batches for i in batch] for source in (few, many)]
    assert paths[0] == paths[1][:4]
    assert paths[1] != sorted(paths[1]) and sorted(paths[1]) == many.dataset.paths


def test_another_seed_gives_another_order(folder):
    assert folder_images(folder, PLAIN).batches != folder_images(folder, PLAIN, seed=1).batches


def test_hidden_files_and_folders_are_not_looked_at(folder):
    save(folder / "a" / "._0.png", photo())
    save(folder / ".thumbnails" / "0.png", photo())
    assert len(folder_images(folder, PLAIN)) == 13


def test_a_link_that_leads_back_up_is_followed_once(folder):
    os.symlink(folder, folder / "a" / "again")
    assert len(folder_images(folder, PLAIN)) == 13


def test_images_without_labels_come_alone(folder):
    source = folder_images(folder, PLAIN)
    assert all(len(batch) == 1 for batch in source) and source.classes is None


def test_labels_are_those_of_torchvisions_image_folder(tmp_path):
    for i, name in enumerate(["cat", "dog", "dog", "eel"]):
        save(tmp_path / name / "deep" / f"{i}.png", photo(seed=i))
    theirs = ImageFolder(tmp_path, transforms.ToTensor())
    source = folder_images(tmp_path, PLAIN, labelled=True, outputs=3)
    expected = {os.path.relpath(path, tmp_path): label for path, label in theirs.samples}
    assert dict(zip(source.dataset.paths, source.dataset.labels, strict=True)) == expected
    assert source.classes == tuple(theirs.classes)
    (images, labels) = next(iter(source))
    order = [i for batch in source.batches for i in batch]
    assert labels.tolist() == [source.dataset.labels[i] for i in order] and labels.dtype == torch.int64


def test_as_many_classes_as_outputs_are_taken_in_sorted_order():
    assert class_indices(["b", "a", "10"], 3) == [2, 1, 0]


def test_class_names_that_are_outputs_are_those_outputs():
    assert class_indices(["10", "2"], 11) == [10, 2]


def test_wordnet_ids_are_imagenets_outputs():
    ids = ImageNetInfo("imagenet-1k").label_names()
    assert class_indices([ids[7], ids[999]], 1000) == [7, 999]


@pytest.mark.parametrize("names", [["cat", "dog"], ["0", "1000"], ["n01440764", "n99999999"]])
def test_classes_that_cannot_be_mapped_say_how_they_could_be(names):
    with pytest.raises(PANError, match=r"2 classes \(.*\) and the model 1000 outputs.*WordNet"):
        class_indices(names, 1000)


def test_a_class_folder_without_images_is_no_class(folder):
    (folder / "c").mkdir()
    with pytest.warns(UserWarning, match="without an image are no classes: c"):
        assert folder_images(folder, PLAIN, labelled=True).classes == ("a", "b")


def test_images_outside_the_class_folders_are_ignored_with_a_warning(folder):
    save(folder / "stray.png", photo())
    with pytest.warns(UserWarning, match="1 images directly in .* ignored"):
        assert len(folder_images(folder, PLAIN, labelled=True)) == 13


def test_labels_without_class_folders_are_refused(tmp_path):
    save(tmp_path / "x.png", photo())
    with pytest.raises(PANError, match="no subfolders with images"):
        folder_images(tmp_path, PLAIN, labelled=True)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PANError, match="nowhere"):
        folder_images(tmp_path / "nowhere", PLAIN)


def test_a_folder_without_images_says_what_is_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PANError, match=r"holds no images.*\.jpg.*\.webp"):
        folder_images(tmp_path, PLAIN)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_unreadable_images_names_one_and_why(tmp_path, workers):
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(PANError, match="none of the 2 images.*[xy].png: no image"):
        list(folder_images(tmp_path, PLAIN, batch_size=1, workers=workers))


def test_an_unreadable_shard_ends_without_an_error(tmp_path):
    for name in ("x.png", "y.png"):
        (tmp_path / name).touch()
    shard = folder_images(tmp_path, PLAIN, batch_size=1).shard(0, 2)
    assert list(shard) == [] and len(shard.skipped) == 1


def test_sample_images_are_the_same_every_time_and_differ_by_seed():
    first, again, other = (images_of(sample_images(3, PLAIN, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_sample_image_is_a_resized_crop_of_a_picture():
    source = sample_images(1, PLAIN)
    crop = source.dataset.boxes[0]
    height, width = crop.shape[-2:]
    assert any(
        torch.equal(crop[0], picture[:, top : top + height, left : left + width])
        for picture in pictures()
        for top, left in _places_of(crop[0], picture)
    )
    assert 32 <= height == width <= 64
    theirs = transforms.functional.resize(crop, [32, 32], antialias=True)
    torch.testing.assert_close(images_of(source), theirs)


def _places_of(crop: torch.Tensor, picture: torch.Tensor) -> list[tuple[int, int]]:
    """Where the crop's top left pixel occurs in a picture, and the crop still fits in."""
    rows, columns = picture.shape[1] - crop.shape[1] + 1, picture.shape[2] - crop.shape[2] + 1
    hits = (picture[:, : max(rows, 0), : max(columns, 0)] == crop[:, :1, :1]).all(0)
    return [tuple(place) for place in hits.nonzero().tolist()]


def test_grey_sample_images_weigh_the_colours():
    colour, grey = images_of(sample_images(2, PLAIN)), images_of(sample_images(2, GREY))
    expected = (colour * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(grey, expected)


def test_sample_images_may_be_other_than_square():
    assert images_of(sample_images(4, Preprocessing((24, 48)))).shape == (4, 3, 24, 48)


def test_sample_images_without_scikit_image_name_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(PANError, match="pip install scikit-image"):
        sample_images(1)


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"crop_share": 0.0}, {"channels": 2}, {"mean": (0.5,)}, {"interpolation": "nearest"}],
    ids=str,
)
def test_preprocessing_refuses_what_makes_no_sense(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Preprocessing(**arguments)
