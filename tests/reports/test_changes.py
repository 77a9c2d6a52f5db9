"""Which neurons came, went, and changed between two reports, by loops and by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.changes import Changes, changes_between
from pan_callbacks.reports.pan_report import PANReport
from tests.support.synthetic import layer

GROUPS, CLUSTERS = 16, 64


def report(top: np.ndarray, error: float | np.ndarray = 0.03, name: str = "conv", **options) -> PANReport:
    """One layer whose neurons have these contrasts at the top, all known to this error."""
    pans = {channel: {"top": float(value)} for channel, value in enumerate(top)}
    errors = torch.zeros(len(SIDES), len(top)) + torch.as_tensor(error, dtype=torch.float32)
    sure = {"error": errors, "groups": (GROUPS,) * 8, "clusters": (CLUSTERS,) * 8}
    return PANReport({name: layer(len(top), pans, **sure)}, **options)


def half(contrast: float, error: float) -> float:
    """Half of the 95 % interval, as docs/statistics.md has it."""
    return stats.t.ppf(0.975, GROUPS - 1) * np.hypot(error, contrast / (2 * CLUSTERS))


def test_each_kind_by_a_loop():
    random = np.random.default_rng(0)
    first, second = (random.uniform(0.5, 1.0, 200) for _ in "ab")
    expected: dict[str, set[int]] = {"came": set(), "went": set(), "changed": set()}
    unsure = 0
    for channel, (a, b) in enumerate(zip(first, second, strict=True)):
        wide_a, wide_b = half(a, 0.02), half(b, 0.02)
        if a + wide_a < 0.8 <= b - wide_b:
            expected["came"].add(channel)
        elif b + wide_b < 0.8 <= a - wide_a:
            expected["went"].add(channel)
        elif (a >= 0.8) != (b >= 0.8):
            unsure += 1
        elif a >= 0.8 and abs(a - b) > wide_a + wide_b:
            expected["changed"].add(channel)
    found = changes_between(report(first, 0.02), report(second, 0.02))
    assert {kind: {one.channel for one in found.of(kind)} for kind in expected} == expected
    assert (found.unsure, found.compared) == (unsure, 200)
    assert unsure > 10 and min(map(len, expected.values())) > 3


def test_of_what_is_the_same_hardly_any_changes():
    random = np.random.default_rng(1)
    truth = random.uniform(0.7, 0.95, 4000)
    seen = (np.clip(truth + random.normal(0, 0.02, 4000), 0, 1) for _ in "ab")
    found = changes_between(*(report(one, 0.02) for one in seen))
    assert len(found.neurons) <= 8 and found.unsure > 100


def test_the_side_is_where_it_is_a_pan_or_where_it_changed_most():
    before = PANReport({"a": _sure({0: {"top": 0.1}, 1: {"left": -0.95}, 2: {"top": 0.95, "left": 0.99}})})
    after = PANReport({"a": _sure({0: {"top": 0.2, "right": 0.9}, 1: {"left": -0.1}, 2: {"top": 0.9, "left": -0.9}})})
    found = changes_between(before, after)
    assert [(one.channel, one.kind, one.side) for one in found.neurons] == [
        (0, "came", "right"),
        (1, "went", "left"),
        (2, "changed", "left"),
    ]
    one = found.neurons[1]
    assert (one.before, one.after) == pytest.approx((-0.95, -0.1))
    assert one.width_before == pytest.approx(half(0.95, 0.01), rel=1e-3)


def _sure(pans):
    line = layer(3, pans)
    return layer(3, pans, error=torch.full_like(line.contrast, 0.01), groups=(GROUPS,) * 8, clusters=(CLUSTERS,) * 8)


def test_without_intervals_nothing_is_sure():
    unknown = [PANReport({"a": layer(1, {0: {"top": top}})}) for top in (0.0, 1.0)]
    found = changes_between(*unknown)
    assert (found.neurons, found.unsure) == ((), 1)


def test_layers_that_are_not_in_both_are_named():
    found = changes_between(report(np.ones(4)), report(np.ones(4), name="other"))
    assert (found.compared, found.apart) == (0, ("conv", "other"))
    assert found.summary() == "no layer is in both: neurons cannot be compared"
    assert changes_between(report(np.ones(4)), report(np.ones(5))).apart == ("conv",)


def test_the_summary_and_the_table_by_hand():
    found = changes_between(report(np.array([0.1, 0.9, 0.78])), report(np.array([0.9, 0.9, 0.81])))
    assert found.summary() == (
        "1 PANs came, 0 went, 0 changed beyond their intervals; "
        "1 are PANs in one of the two alone, within their intervals"
    )
    widths = half(0.1, 0.03), half(0.9, 0.03)
    assert found.table().rows == (("came", "conv", "0", "top", f"+0.10 ± {widths[0]:.2f}", f"+0.90 ± {widths[1]:.2f}"),)


def test_nothing_compared_has_an_empty_table():
    assert Changes((), 0, 0).table().rows == ()
