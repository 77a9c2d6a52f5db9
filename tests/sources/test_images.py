from __future__ import annotations

import logging
import os
import signal
import warnings

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pan_callbacks.errors import PANError
from pan_callbacks.sources.images import ImageSource, class_indices, folder_images
from pan_callbacks.sources.preprocessing import Preprocessing
from pan_callbacks.sources.sample import pictures, sample_images
from tests.support.photos import photo, save

PLAIN = Preprocessing(32, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(32, mean=(0.0,), std=(1.0,), channels=1)


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


class InterruptedImages:
    """The process that reads an image gets the signal of Ctrl-C, as every process in a terminal does."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGINT)
        return torch.full((1,), index), None


def test_worker_processes_leave_ctrl_c_to_the_process_that_they_work_for():
    source = ImageSource(InterruptedImages(), [[0, 1], [2, 3]], "interrupted", 2, workers=2)
    assert images_of(source).flatten().tolist() == [0, 1, 2, 3]


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
