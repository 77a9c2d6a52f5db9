"""The store of readings: exact below its capacity, bounded beyond, and off by no more than it says."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pan_callbacks.measurement.contrast import evenly
from pan_callbacks.measurement.readings import ReadingStore

CAPACITY = 16
batches_of_readings = st.lists(st.lists(st.integers(-9, 9), max_size=40), max_size=12)  # few values, so many ties


def column(values: list[int]) -> Tensor:
    """Readings of two channels, the second the negative of the first."""
    first = torch.tensor(values, dtype=torch.float32).reshape(-1, 1)
    return torch.cat([first, -first], 1)


def store_of(batches: list[list[int]], sample: int = 0, capacity: int = CAPACITY) -> ReadingStore:
    store = ReadingStore(2, capacity)
    for batch in batches:
        store.add(sample, column(batch))
    return store


def farthest(kept: Tensor, everything: Tensor) -> float:
    """Largest difference of two distribution functions over both channels, by brute force over all values."""
    if len(everything) == 0:
        return float(len(kept))
    found = 0.0
    for channel in range(2):
        for value in everything[:, channel].unique().tolist():
            shares = [float((readings[:, channel] <= value).double().mean()) for readings in (kept, everything)]
            found = max(found, abs(shares[0] - shares[1]))
    return found


def rows(readings: Tensor) -> list[list[float]]:
    return sorted(readings.tolist())


@given(batches_of_readings)
@settings(max_examples=200, deadline=None)
def test_below_the_capacity_everything_is_kept(batches):
    everything = [value for batch in batches for value in batch][:CAPACITY]
    store = store_of([everything[i : i + 5] for i in range(0, len(everything), 5)])
    assert rows(store.readings(0)) == rows(column(everything))
    assert store.weight(0) == 1 and store.error(0) == 0


@given(batches_of_readings)
@settings(max_examples=200, deadline=None)
def test_no_sample_is_larger_than_the_capacity_and_none_off_by_more_than_it_says(batches):
    store, everything = ReadingStore(2, CAPACITY), []
    for batch in batches:
        store.add(0, column(batch))
        everything += batch
        assert sum(map(len, store.values)) <= CAPACITY
    if everything:
        assert len(store.readings(0)) > 0
        assert farthest(store.readings(0), column(everything)) <= store.error(0) + 1e-9


@given(st.lists(batches_of_readings, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_merging_is_commutative_and_associative_within_the_stated_error(parts):
    everything = column([value for part in parts for batch in part for value in batch])
    for order in permutations(range(3)):
        left = ReadingStore(2, CAPACITY)
        for i in order:  # (a + b) + c
            left.merge(store_of(parts[i]))
        right, last = store_of(parts[order[1]]), store_of(parts[order[2]])  # a + (b + c)
        right.merge(last)
        first = store_of(parts[order[0]])
        first.merge(right)
        for store in (left, first):
            assert sum(map(len, store.values)) <= CAPACITY
            if len(everything):
                assert farthest(store.readings(0), everything) <= store.error(0) + 1e-9


@given(st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=2, max_size=3))
@settings(max_examples=100, deadline=None)
def test_merging_below_the_capacity_is_exact_in_any_order(parts):
    everything = column([value for part in parts for value in part])
    for order in permutations(parts):
        store = ReadingStore(2, CAPACITY)
        for part in order:
            store.merge(store_of([part]))
        assert rows(store.readings(0)) == rows(everything) and store.error(0) == 0


@given(batches_of_readings, batches_of_readings)
@settings(max_examples=100, deadline=None)
def test_a_store_made_of_two_concatenated_ones_has_what_both_have(one, other):
    stores = store_of(one), store_of(other)
    values = torch.cat([torch.empty(0, 2), *stores[0].values, *stores[1].values])
    heads = torch.cat([torch.empty(0, 4, dtype=torch.long), *stores[0].heads, *stores[1].heads])
    together = ReadingStore.of(2, CAPACITY, values, heads)
    everything = column([value for batch in (*one, *other) for value in batch])
    if len(together.readings(0)):
        assert farthest(together.readings(0), everything) <= together.error(0) + 1e-9
    if all(store.weight(0) == 1 for store in stores):
        assert rows(together.readings(0)) == rows(everything)


def test_the_error_is_small_where_it_counts():
    # of 100,000 readings, in batches as large as those of an edge, 256 to 512 are kept: off by no more than two of 256
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(50, 2000, 1, generator=generator)
    store = ReadingStore(1, 512)
    for batch in batches:
        store.add(0, batch)
    kept, everything = store.readings(0)[:, 0], batches.flatten().sort().values
    grid = torch.linspace(-3, 3, 301)
    shares = torch.searchsorted(kept.sort().values, grid) / len(kept)
    truth = torch.searchsorted(everything, grid) / len(everything)
    assert float((shares - truth).abs().max()) < 2 / 256
    assert 256 <= len(kept) <= 512


def test_samples_do_not_mix():
    store = store_of([[1, 2, 3]], sample=0)
    store.add(1, column([7] * 40))
    assert rows(store.readings(0)) == rows(column([1, 2, 3])) and store.weight(0) == 1
    assert set(store.readings(1)[:, 0].tolist()) == {7.0} and store.weight(1) > 1
    assert len(store.readings(2)) == 0


def test_a_store_goes_on_with_the_lists_of_another():
    store = store_of([list(range(9))] * 4)
    other = ReadingStore(2, CAPACITY, store.values, store.heads)
    assert torch.equal(other.readings(0), store.readings(0)) and other.error(0) == store.error(0) > 0


def test_readings_may_be_overwritten_by_whoever_added_them():
    store, readings = ReadingStore(2, CAPACITY), column([1, 2])
    store.add(0, readings)
    readings.zero_()
    assert rows(store.readings(0)) == rows(column([1, 2]))


@pytest.mark.parametrize("count", [3, 10, 100])
def test_numbers_spread_evenly_however_many_are_used(count):
    numbers = sorted(evenly(number, 0.3) for number in range(count))
    gaps = [b - a for a, b in zip(numbers, [*numbers[1:], numbers[0] + 1], strict=True)]
    assert max(gaps) < 2 / count and all(0 <= number < 1 for number in numbers)


@pytest.mark.parametrize("capacity", [4, 16, 64])
def test_a_sample_merged_from_many_small_stores_keeps_at_least_half_of_what_it_may(capacity):
    store, everything = ReadingStore(2, capacity), []
    for rank in range(300):
        values = [(7 * rank + i) % 19 - 9 for i in range(1 + rank % 3)]
        store.merge(store_of([values], capacity=capacity))
        everything += values
    kept = store.readings(0)
    assert capacity // 2 <= len(kept) <= capacity
    assert farthest(kept, column(everything)) <= store.error(0)
