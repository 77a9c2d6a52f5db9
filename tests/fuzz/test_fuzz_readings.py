"""Stores of readings, filled and merged in any order: bounded, and no further off than they say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pan_callbacks.measurement.contrast import contrast
from pan_callbacks.measurement.readings import ReadingStore
from tests.support.fuzzing import fuzzed

SAMPLES = 3


class Filled:
    """A store, and all that was ever put into it."""

    def __init__(self, capacity: int) -> None:
        self.store, self.everything = ReadingStore(1, capacity), [np.empty(0, np.float32) for _ in range(SAMPLES)]

    def add(self, sample: int, values: np.ndarray) -> None:
        self.store.add(sample, torch.from_numpy(values)[:, None])
        self.everything[sample] = np.concatenate([self.everything[sample], values])

    def merge(self, other: Filled) -> None:
        self.store.merge(other.store)
        self.everything = [np.concatenate(pair) for pair in zip(self.everything, other.everything, strict=True)]

    def sent(self, capacity: int) -> Filled:
        """What another process makes of it."""
        values = torch.cat([torch.empty(0, 1), *self.store.values])
        heads = torch.cat([torch.empty(0, 4, dtype=torch.long), *self.store.heads])
        there = Filled(capacity)
        there.store, there.everything = ReadingStore.of(1, capacity, values, heads), self.everything
        return there

    def off(self, sample: int) -> float:
        """Largest difference of the distribution functions of what is kept and of everything."""
        kept, everything = np.sort(self.store.readings(sample)[:, 0].numpy()), np.sort(self.everything[sample])
        grid = np.unique(everything)
        shares = (np.searchsorted(values, grid, side="right") / len(values) for values in (kept, everything))
        return float(np.abs(np.subtract(*shares)).max())


@st.composite
def filled(draw: st.DrawFn) -> Filled:
    """A store after up to 25 batches, mergers and journeys to another process."""
    capacity = draw(st.sampled_from([4, 5, 8, 16, 64]))
    stores = [Filled(capacity) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(1, 25))):
        which, what = draw(st.integers(0, len(stores) - 1)), draw(st.sampled_from(["add"] * 6 + ["merge", "send"]))
        if what == "add":
            rng = np.random.default_rng(draw(st.integers(0, 999)))
            count, kind = draw(st.integers(0, 5) | st.integers(0, 90)), draw(st.sampled_from(["ties", "normal", "one"]))
            values = {"ties": rng.integers(-4, 5, count), "normal": rng.normal(size=count), "one": np.full(count, 7)}
            stores[which].add(draw(st.integers(0, SAMPLES - 1)), values[kind].astype(np.float32))
        elif what == "send":
            stores[which] = stores[which].sent(capacity)
        elif len(stores) > 1:
            other = stores.pop(draw(st.integers(0, len(stores) - 1)))
            stores[draw(st.integers(0, len(stores) - 1))].merge(other)
    for other in stores[1:]:
        stores[0].merge(other)
    return stores[0]


@fuzzed(filled(), examples=150)
def test_a_store_is_bounded_and_no_further_off_than_it_says(filled):
    for sample, everything in enumerate(filled.everything):
        kept = filled.store.readings(sample)
        assert len(kept) <= len(everything)
        if filled.store.weight(sample) == 1:  # then nothing was dropped
            assert torch.equal(kept[:, 0].sort().values, torch.from_numpy(np.sort(everything)))
            assert filled.store.error(sample) == 0
        if len(everything):
            assert len(kept) > 0 and filled.off(sample) <= filled.store.error(sample) + 1e-9
            assert set(kept[:, 0].tolist()) <= set(everything.tolist())


@fuzzed(filled(), examples=100)
def test_the_contrast_of_two_samples_is_the_exact_one_within_what_both_say(filled):
    border, reference = (filled.store.readings(sample) for sample in (0, 1))
    exact = [torch.from_numpy(values)[:, None] for values in filled.everything[:2]]
    found = contrast(border, reference)
    if not len(exact[0]) or not len(exact[1]):
        assert bool(found.isnan().all())
        return
    truth = exact_ks(*exact)
    error = filled.store.error(0) + filled.store.error(1)
    assert abs(abs(float(found)) - truth) <= error + 1e-6


def exact_ks(border: Tensor, reference: Tensor) -> float:
    """The two-sample statistic as scipy has it, without its sign."""
    return float(stats.ks_2samp(border[:, 0].numpy(), reference[:, 0].numpy(), method="asymp").statistic)


@fuzzed(filled(), filled(), examples=60)
def test_merging_leaves_the_other_store_as_it_was(one, other):
    before = [other.store.readings(sample).clone() for sample in range(SAMPLES)]
    weights = [other.store.weight(sample) for sample in range(SAMPLES)]
    one.store.merge(other.store)
    assert all(torch.equal(other.store.readings(sample), kept) for sample, kept in enumerate(before))
    assert weights == [other.store.weight(sample) for sample in range(SAMPLES)]
