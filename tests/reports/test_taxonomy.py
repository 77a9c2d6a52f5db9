"""Types of padding aware neurons, of reports made up by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import PAN
from pan_callbacks.reports.taxonomy import PANType, counts, cross_table, place_of, type_of
from tests.support.synthetic import layer


def pan(**sides: float) -> PAN:
    contrast = {side.replace("_", "-"): value for side, value in sides.items()}
    return PAN("conv", 0, frozenset(contrast), contrast, {}, "nascent")


def random_report(seed: int) -> PANReport:
    """Layers of chance, some skipped, with contrasts of which about a tenth are over the threshold."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for i in range(7):
        contrast = (2 * torch.rand(len(SIDES), 40, generator=generator) - 1) * 0.85
        effect = torch.rand(len(SIDES), 40, generator=generator)
        options = {"kernel_size": ((3, 3), (5, 5), (1, 7))[i % 3], "stride": ((1, 1), (2, 2), (1, 2))[i % 3]}
        layers[f"conv{i}"] = layer(40, contrast=contrast, effect=effect, **options)
        layers[f"pointwise{i}"] = LayerReport(40, (1, 1), skipped="1×1 kernel")
    return PANReport(layers)


@pytest.mark.parametrize(
    ("sides", "family"),
    [
        *(({side.replace("-", "_"): 0.9}, side) for side in SIDES),
        ({"top": 0.9, "bottom": 0.9}, "several edges"),
        ({"top": 0.9, "left": 0.9, "top_left": 1.0}, "several edges"),
        ({"top": 0.9, "top_left": 0.9, "top_right": 0.9}, "top"),
        ({"left": 0.9, "top_right": 0.9}, "left"),
        ({"top_left": 0.9, "bottom_right": 0.9}, "several corners"),
    ],
)
def test_family_of_sides(sides, family):
    assert place_of(pan(**sides)) == family


@pytest.mark.parametrize(
    ("sides", "sign"),
    [
        ({"top": 0.9}, "excited"),
        ({"top": -0.9}, "inhibited"),
        ({"top": 0.9, "left": -0.9}, "mixed"),
        ({"top": 0.9, "top_left": -1.0}, "excited"),  # the corner is the edge's
        ({"left": 0.9, "top_right": -1.0}, "excited"),
        ({"top_left": -0.9, "bottom_left": -0.9}, "inhibited"),
    ],
)
def test_sign(sides, sign):
    assert pan(**sides).sign == sign


@pytest.mark.parametrize(
    ("layers", "thirds"),
    [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (6, [2, 2, 2]), (9, [3, 3, 3]), (10, [4, 3, 3])],
)
def test_depth_is_a_third_of_the_measured_layers(layers, thirds):
    measured = {f"conv{i}": layer(2, {0: {"top": 1.0}}) for i in range(layers)}
    found = Counter(type_of(p, PANReport(measured)).depth for p in PANReport(measured).pans)
    assert [found[name] for name in ("early", "middle", "late")] == thirds


def test_layers_that_were_left_out_have_no_depth():
    left_out = {f"pointwise{i}": LayerReport(4, (1, 1), skipped="1×1 kernel") for i in range(20)}
    report = PANReport({**left_out, "conv": layer(2, {0: {"top": 1.0}}), "later": layer(2), "last": layer(2)})
    assert type_of(report.pans[0], report).depth == "early"


def test_type_of_a_pan():
    line = layer(4, {2: {"left": -0.9}}, effect=0.1, kernel_size=(1, 7), stride=(1, 2))
    report = PANReport({"conv": line})
    assert type_of(report.pans[0], report) == PANType("left", "inhibited", "inherited", "early", "1×7", "1×2")


def test_a_stride_of_two_equal_numbers_is_one():
    report = PANReport({"conv": layer(4, {2: {"left": -0.9}}, stride=(2, 2))})
    assert type_of(report.pans[0], report).stride == "2"


@pytest.mark.parametrize("seed", range(3))
class TestCounts:
    def test_cross_table_sums_to_the_count(self, seed):
        report = random_report(seed)
        assert 0 < report.count == sum(cross_table(report).values())

    @pytest.mark.parametrize("by", PANType._fields)
    def test_counts_sum_to_the_count_in_each_dimension(self, seed, by):
        report = random_report(seed)
        assert sum(counts(report, by).values()) == report.count

    @pytest.mark.parametrize("by", PANType._fields)
    def test_counts_are_the_margins_of_the_cross_table(self, seed, by):
        report = random_report(seed)
        by_hand = Counter(getattr(type_of(p, report), by) for p in report.pans)
        assert counts(report, by) == dict(by_hand)

    def test_the_largest_comes_first(self, seed):
        values = list(counts(random_report(seed), "side").values())
        assert values == sorted(values, reverse=True)


def test_no_pans_no_types():
    report = PANReport({"conv": layer(4)})
    assert (cross_table(report), counts(report, "side")) == (Counter(), {})


def test_unknown_property_is_refused():
    with pytest.raises(ValueError, match="by='colour' is no property of a type; choose one of side, sign"):
        counts(PANReport({}), "colour")


@pytest.mark.parametrize("seed", range(3))
def test_a_neuron_of_one_side_has_one_sign(seed):
    kinds = [kind for kind in cross_table(random_report(seed)) if not kind.side.startswith("several")]
    assert kinds and not any(kind.sign == "mixed" for kind in kinds)
