"""What is kept of a layer: taken out as it was put in, merged over processes, in 16 bits if need be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.exchange import packed, unpacked
from pan_callbacks.measurement.positions import Keep
from pan_callbacks.measurement.rows import Rows, alike
from pan_callbacks.reports.pans import GROUPS

LAYOUT = (("top", 2, 7), ("left", 2, 5), ("top-left", 1, 1))
ALL = Keep(2, 10**6)
HALF = Keep(2, 10**6, torch.float16)


def rows_of(images: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, 5, channels, generator=torch.Generator().manual_seed(seed))


def groups_of(images: int) -> torch.Tensor:
    return torch.arange(images) % GROUPS


def sorted_by_group(readings: torch.Tensor, groups: torch.Tensor) -> list[torch.Tensor]:
    return [readings[groups == group].sort(0).values for group in range(GROUPS)]


def same(one, other) -> bool:
    pairs = zip(sorted_by_group(*one), sorted_by_group(*other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("images", [1, 5, 40])
def test_a_side_is_taken_out_with_its_groups_as_it_was_put_in(images):
    rows, groups = rows_of(images), groups_of(images)
    kept = Rows(3, Code())
    for start in range(0, images, 7):
        part = slice(start, start + 7)
        kept.add(LAYOUT, rows[part].clone(), groups[part], ALL)
    for side, at in (("top", [0, 1]), ("left", [2, 3]), ("top-left", [4])):
        assert same(kept.sample([side]), (rows[:, at].flatten(0, 1), groups.repeat_interleave(len(at))))
    together = kept.sample(["top", "left"])
    assert torch.equal(together.readings, torch.cat([kept.sample([s]).readings for s in ("top", "left")], 1))
    assert alike(("top", "right", "left", "top-left"), [kept]) == [("top", "left"), ("top-left",)]


def test_readings_come_by_half_and_group_which_is_how_they_are_estimated():
    kept = Rows(3, Code())
    kept.add(LAYOUT, rows_of(50), groups_of(50), ALL)
    groups = kept.sample(["top"]).groups
    keys = (groups % 2) * GROUPS + groups
    assert bool((keys.diff() >= 0).all()) and kept.sample(["top"]).readings.T.is_contiguous()


def test_images_that_are_not_finite_are_no_readings():
    rows = rows_of(20)
    rows[[3, 8]] = torch.nan
    kept = Rows(3, Code())
    kept.add(LAYOUT, rows.clone(), groups_of(20), ALL)
    finite = [i for i in range(20) if i not in (3, 8)]
    assert same(kept.sample(["top-left"]), (rows[finite, 4], groups_of(20)[finite]))


def test_a_side_that_is_not_there_has_no_readings():
    assert Rows(3, Code()).sample(["top"]).readings.shape == (0, 3)
    assert Rows(3, Code()).sample(["top", "left"]).readings.shape == (0, 6)


@pytest.mark.parametrize("keep", [ALL, HALF])
def test_processes_together_keep_what_one_keeps(keep):
    rows, groups = rows_of(40), groups_of(40)
    other = (("top", 1, 1), ("left", 1, 1))  # of a map of another size
    codes = [Code() for _ in range(3)]
    alone, parts = Rows(3, Code()), [Rows(3, code) for code in codes]
    for i in range(0, 40, 4):
        layout, taken = (other, rows[i : i + 4, :2]) if i % 8 else (LAYOUT, rows[i : i + 4])
        for one in (alone, parts[i // 4 % 2]):  # the third sees nothing
            one.add(layout, taken.clone(), groups[i : i + 4], keep)
    merged, cpu = Rows(3, codes[0]), torch.device("cpu")
    for part, code in zip(parts, codes, strict=True):
        state = unpacked(packed({"rows": part.state(), "code": code.state()}))
        merged.merge(state["rows"], Code.of(state["code"], cpu), cpu)
    for side in ("top", "left", "top-left"):
        one, many = alone.sample([side]), merged.sample([side])
        if keep is ALL:
            assert same(one, many), side
        for a, b in zip(sorted_by_group(*one), sorted_by_group(*many), strict=True):
            assert torch.allclose(a, b, atol=4 * 2**-11 * 4), side  # no reading lies further out than four spreads


def test_layouts_that_were_thinned_to_different_degrees_are_made_equal():
    kept = Rows(1, Code())
    few = Keep(1000, 80)  # little room: what is kept at least, four rows of each group
    small = (("top", 2, 7),)
    kept.add(LAYOUT, torch.arange(1280.0).view(256, 5, 1) + 100, groups_of(256), few)
    kept.add(small, torch.arange(100.0).view(50, 2, 1), groups_of(50), few)
    sample = kept.sample(["top"])
    large = sum(1 for value in sample.readings.flatten().tolist() if value >= 100)
    # of 64 rows, each of which stands for four images, two readings; and as many of the other layout as stand for four
    assert large == 128 and 16 <= len(sample.readings) - large <= 48
    assert len(sample.groups.unique()) == GROUPS


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(0, 10**6))
def test_sixteen_bits_are_off_by_a_small_part_of_the_distance_from_the_mean(mean, spread, seed):
    rows = mean + spread * torch.randn(30, 5, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows.float()
    kept = Rows(1, Code())
    kept.add(LAYOUT, rows.clone(), torch.zeros(30, dtype=torch.long), HALF)
    found = kept.sample(["top"]).readings.flatten()
    true = rows[:, :2].flatten()
    centre = rows.double().mean()
    rounding = 2**-10 * (true - centre).abs() + 2**-22 * true.abs().max() + 1e-6 * spread
    assert bool(((found.double() - true.double()).abs() <= rounding).all())


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30, 1e30])
def test_constants_stay_constants_in_sixteen_bits(value):
    kept = Rows(1, Code())
    kept.add(LAYOUT, torch.full((20, 5, 1), value), groups_of(20), HALF)
    readings = kept.sample(["top"]).readings
    assert bool((readings == readings[0]).all()) and float(readings[0]) == pytest.approx(value)


def test_equal_readings_stay_equal_in_all_roles_and_processes():
    """A spike at 0 is half of the readings after a ReLU, and no difference between border and reference."""
    codes = [Code(), Code()]
    states = []
    for shift, code in enumerate(codes):
        border, reference = Rows(1, code), Rows(1, code)
        for seed, kept in enumerate((border, reference)):
            rows = (rows_of(40, 1, seed) + seed + shift).relu()
            kept.add(LAYOUT, rows, groups_of(40), HALF)
        states.append(unpacked(packed({"rows": [border.state(), reference.state()], "code": code.state()})))
    for number, seed in ((0, 0), (1, 1)):
        merged, cpu = Rows(1, codes[0]), torch.device("cpu")
        for state in states:
            merged.merge(state["rows"][number], Code.of(state["code"], cpu), cpu)
        values = merged.sample(["top"]).readings.flatten()
        silent = sum(int(((rows_of(40, 1, seed)[:, :2] + seed + shift) <= 0).sum()) for shift in (0, 1))
        smallest = values.sort().values[:silent]
        assert len(smallest.unique()) <= 2  # one for each code that it went through
