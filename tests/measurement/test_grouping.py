"""Which images belong together, and what becomes of a count if they do, are alike, or are few."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from pan_callbacks import PANError, scan
from pan_callbacks._runtime import Shard
from pan_callbacks.measurement.grouping import Grouping, Number, found
from pan_callbacks.reports.pans import GROUPS
from tests.support import planted

IMAGES = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def dealt(grouping: Grouping, sizes: list[int], names: list | None = None) -> list[int]:
    found, before = [], 0
    for visit, size in enumerate(sizes):
        part = None if names is None else names[before : before + size]
        grouping.expect(None if part is None else lambda part=part: part)
        first = grouping.first(visit, size, before)
        found += grouping.of(IMAGES[before : before + size], "", first).tolist()
        before += size
    return found


@pytest.mark.parametrize("sizes", [[64], [1] * 64, [10] * 6, [7, 9, 48]])
def test_images_of_their_own_are_dealt_out_evenly(sizes):
    counts = Counter(dealt(Grouping(Shard()), sizes))
    assert len(counts) == GROUPS and max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("world", [2, 3])
def test_processes_that_deal_out_single_images_group_them_as_one_does(world):
    alone = dealt(Grouping(Shard()), [48])
    for rank in range(world):
        grouping = Grouping(Shard(rank, world))
        mine = grouping.of(IMAGES[: 48 // world], "", 0).tolist()
        assert mine == alone[rank::world]


def test_processes_that_deal_out_whole_batches_group_them_as_one_does():
    alone = dealt(Grouping(Shard(0, 1, 45, batch=10)), [10, 10, 10, 10, 5])
    ranks = [Grouping(Shard(rank, 2, 45, batch=10)) for rank in (0, 1)]
    together = []
    for number, size in enumerate([10, 10, 10, 10, 5]):
        first = ranks[number % 2].first(number, size, 0)
        together += ranks[number % 2].of(IMAGES[10 * number : 10 * number + size], "", first).tolist()
    assert together == alone == [i % GROUPS for i in range(45)]


def test_images_of_one_name_are_in_one_group_and_names_are_dealt_out_evenly():
    names = [f"patient {i * i % 20}" for i in range(64)]
    groups = dealt(Grouping(Shard()), [10, 54], names)
    by_name = {name: {g for g, n in zip(groups, names, strict=True) if n == name} for name in names}
    assert all(len(found) == 1 for found in by_name.values())
    assert len(set().union(*by_name.values())) == min(GROUPS, len(by_name))


def test_names_are_in_the_same_group_in_every_process():
    names = [f"patient {i}" for i in range(16)]
    first, second = (Grouping(Shard(rank, 2)) for rank in (0, 1))
    assert dealt(first, [16], names) == dealt(second, [16], names[::-1])[::-1]


def test_numbers_that_are_agreed_upon_are_taken_as_they_are():
    assert dealt(Grouping(Shard(1, 2)), [4], [Number(n) for n in (3, 16, 17, 3)]) == [3, 0, 1, 3]


def test_an_image_that_is_there_again_is_in_the_group_that_it_was_in():
    grouping = Grouping(Shard())
    again = torch.cat([IMAGES[:13]] * 4)[torch.randperm(52, generator=torch.Generator().manual_seed(0))]
    groups = grouping.of(again, "", 0).tolist()
    by_image = {(float(image.sum()), group) for image, group in zip(again, groups, strict=True)}
    assert len(by_image) == 13 and len(set(groups)) > 8
    assert (found([grouping.state()]).passed, found([grouping.state()]).distinct) == (52, 13)


@pytest.mark.parametrize("nothing", [None, float("nan"), np.nan])
def test_nan_is_no_name(nothing):
    grouping = Grouping(Shard())
    grouping.expect(lambda: ["a"] * 7 + [nothing])
    with pytest.raises(PANError, match="groups names 7 images"):
        grouping.of(IMAGES[:8], "", 0)


@pytest.mark.parametrize(
    "given", [np.arange(8), torch.arange(8), [torch.tensor(n) for n in range(8)], iter("abcdefgh")]
)
def test_names_come_in_whatever_holds_them(given):
    grouping = Grouping(Shard())
    grouping.expect(lambda: given)
    assert grouping.of(IMAGES[:8], "", 0).tolist() == list(range(8))


@pytest.mark.parametrize("given", [3, torch.tensor(3), [["a"]] * 8, torch.zeros(8, 2)])
def test_what_names_nothing_is_an_error_that_says_so(given):
    grouping = Grouping(Shard())
    grouping.expect(lambda: given)
    with pytest.raises(PANError, match="groups is no list of a text or number for each image"):
        grouping.of(IMAGES[:8], "", 0)


def test_names_for_some_batches_only_are_an_error():
    grouping = Grouping(Shard())
    grouping.expect(lambda: ["a"] * 8)
    grouping.of(IMAGES[:8], "", 0)
    grouping.expect(lambda: None)
    with pytest.raises(PANError, match="some batches only"):
        grouping.of(IMAGES[8:16], "", 8)


def test_names_of_images_that_did_not_enter_are_an_error():
    grouping = Grouping(Shard())
    grouping.expect(lambda: list(range(16)))
    grouping.of(IMAGES[1:16:2], "", 0)  # whose names are these?
    with pytest.raises(PANError, match="names 16 images of a batch, of which 8 entered"):
        found([grouping.state()])


@pytest.mark.parametrize("names", [["a"] * 7, ["a"] * 9, ["a", None] * 4])
def test_names_for_some_images_only_are_an_error_that_says_so(names):
    grouping = Grouping(Shard())
    grouping.expect(lambda: names)
    with pytest.raises(PANError, match="give every image the name of its group, or no groups at all"):
        grouping.of(IMAGES[:8], "", 0)
        found([grouping.state()])


def test_a_batch_that_enters_in_parts_or_twice_has_its_names_each_time():
    names = list("aabbccdd")
    grouping = Grouping(Shard())
    grouping.expect(lambda: names)
    parts = [grouping.of(IMAGES[i : i + 2], "net", i).tolist() for i in (0, 2, 4, 6, 0, 2)]
    assert parts == [[0, 0], [1, 1], [2, 2], [3, 3], [0, 0], [1, 1]]


# ---- in a scan


def detectors():
    return planted.single(3).model


def content(count: int) -> torch.Tensor:
    return planted.stationary(count, 64)


def quiet(*batches: torch.Tensor, **kwargs):
    return scan(detectors(), batches, progress=False, **kwargs)


def test_groups_make_intervals_as_wide_as_their_number_makes_them():
    noisy = torch.nn.Sequential(torch.nn.Conv2d(4, 32, 3, padding=1))
    torch.nn.init.normal_(noisy[0].weight, generator=torch.Generator().manual_seed(0))
    images = content(12).repeat_interleave(8, 0) + 0.01 * torch.randn(96, 4, 64, 64)
    names = [number // 8 for number in range(96)]
    alone = scan(noisy, [images], progress=False).layers["0"]
    by_list, by_function = (
        scan(noisy, [images], progress=False, groups=groups).layers["0"] for groups in (names, lambda batch: names)
    )
    assert (max(alone.clusters), max(by_list.clusters), set(by_list.groups)) == (96, 12, {12})
    assert torch.equal(by_list.error.nan_to_num(), by_function.error.nan_to_num())
    assert float(by_list.error.nanmean()) > 1.3 * float(alone.error.nanmean())


@pytest.mark.parametrize("groups", [["a"] * 15, [*"abcdefghijklmno", None], lambda batch: ["a"]])
def test_a_scan_with_names_for_some_images_only_stops_with_a_clear_error(groups):
    with pytest.raises(PANError, match=r"of the 16 images from number 0 on: give every image the name of its group"):
        quiet(content(16), groups=groups)


def test_images_that_all_belong_together_give_no_interval_and_say_so():
    report = quiet(content(16), groups=["one"] * 16)
    assert report.count == len(planted.single(3).truth)
    assert all(map(math.isnan, report.interval)) and not any(pan.certain or pan.interval for pan in report.pans)
    assert any("all images belong together" in note for note in report.notes)
    assert "How sure that is nobody knows" in report.summary()


def test_images_that_are_all_the_same_give_no_interval_and_say_so():
    report = quiet(content(1).repeat(32, 1, 1, 1))
    assert report.count == len(planted.single(3).truth)
    assert all(map(math.isnan, report.interval)) and not any(pan.certain for pan in report.pans)
    assert any("all images are the same" in note for note in report.notes)


def test_images_that_are_there_twice_count_once():
    once, twice = quiet(content(32)), quiet(content(32).repeat(2, 1, 1, 1))
    assert (max(once.layers["conv"].clusters), max(twice.layers["conv"].clusters)) == (32, 32)
    assert any("only 32 of 64 images are different" in note for note in twice.notes)


def test_one_image_gives_a_count_and_says_that_nobody_knows_how_sure_it_is():
    report = quiet(content(1))
    assert report.count > 0 and all(map(math.isnan, report.interval))
    assert {pan.certain for pan in report.pans} == {False}
    assert any("1 image was probed" in note and "no interval is known" in note for note in report.notes)


def test_two_images_know_next_to_nothing():
    report = quiet(content(2))
    low, high = report.interval
    assert not math.isnan(low) and not any(pan.certain for pan in report.pans)


def test_planted_neurons_are_certain_and_their_number_is_known_exactly():
    report = quiet(content(32))
    assert report.interval == (report.count, report.count) == (len(planted.single(3).truth),) * 2
    assert all(pan.certain for pan in report.pans)


def test_batches_of_any_size_give_the_same_figures():
    images = content(40)
    whole, parts = quiet(images), quiet(*images.split(7))
    for name in whole.layers:
        assert torch.equal(whole.contrast(name).nan_to_num(9), parts.contrast(name).nan_to_num(9))
        assert torch.equal(whole.layers[name].error.nan_to_num(9), parts.layers[name].error.nan_to_num(9))


def test_a_side_that_one_image_alone_has_readings_of_has_no_interval_and_the_others_have_theirs():
    """At a stride of two, images of an even size have no far border; one of an odd size has."""
    network = planted.single(3, stride=2, size=65)
    report = scan(network.model, [content(24), planted.stationary(1, 65)], progress=False)
    line = report.layers["conv"]
    near, far = planted.SIDES.index("top"), planted.SIDES.index("bottom")
    assert not line.half_width[near].isnan().any() and line.half_width[far].isnan().all()
    pans = {pan.channel: pan for pan in report.pans}
    assert {side for pan in pans.values() for side in pan.interval} == {"top", "left", "top-left"}
    assert pans[0].certain  # the top, excited
    assert not any(pan.certain for pan in pans.values() if pan.sides <= {"bottom", "bottom-left", "bottom-right"})
