"""The interval of the count, and what else is counted, from reports made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pan_callbacks.measurement.findings import _draws
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.counts import interval, readers
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import LEAST_SHIFT, T_QUANTILES


def layer(tops: torch.Tensor, **fields) -> LayerReport:
    """A layer that has these contrasts at the top and no other border."""
    contrast = torch.full((8, len(tops)), math.nan)
    contrast[0] = tops
    known = {"groups": (16,) * 8, "clusters": (64,) * 8, "images": 64}
    return LayerReport(len(tops), (3, 3), contrast=contrast, **known | fields)


def test_quantiles_are_those_of_student():
    expected = [stats.t.ppf(0.975, freedom) for freedom in range(1, len(T_QUANTILES) + 1)]
    assert pytest.approx(expected, abs=1e-4) == T_QUANTILES


def test_an_interval_is_student_s_and_reaches_further_down_by_what_draws_have_more():
    draws = (10, 14, 12, 16)  # of mean 13, and deviation sqrt(5)
    low, high = interval([layer(torch.ones(10), draws=draws), layer(torch.zeros(30), draws=(0, 0, 0, 0))], 0.8)
    reach = stats.t.ppf(0.975, 15) * math.sqrt(5)
    assert (low, high) == (math.floor(10 - 3 - reach), math.ceil(10 + reach))
    fewer = tuple(draw - 6 for draw in draws)  # than the images: then it is no excess
    low, high = interval([layer(torch.ones(10), draws=fewer), layer(torch.zeros(30), draws=(0, 0, 0, 0))], 0.8)
    assert (low, high) == (math.floor(10 - reach), math.ceil(10 + reach))


def test_an_interval_holds_the_count_and_no_more_than_there_are():
    assert interval([layer(torch.ones(5), draws=(5, 5))], 0.8) == (5, 5)
    assert interval([layer(torch.tensor([1.0, 0.0]), draws=(2, 2))], 0.8) == (0, 1)
    assert interval([layer(torch.tensor([1.0, 0.0]), draws=(0, 4))], 0.8) == (0, 2)


@pytest.mark.parametrize(
    "fields", [{"draws": ()}, {"groups": (1,) * 8, "draws": (5, 5)}, {"groups": (), "draws": (5, 5)}]
)
def test_of_one_layer_whose_error_nobody_knows_there_is_no_interval(fields):
    found = interval([layer(torch.ones(5), draws=(5, 5)), layer(torch.ones(5), **fields)], 0.8)
    assert all(map(math.isnan, found))


def test_of_no_layer_the_count_is_zero_for_sure():
    assert interval([], 0.8) == (0, 0) == PANReport({}).interval


def test_draws_of_contrasts_without_an_error_are_the_count():
    contrast = torch.tensor([[0.9, 0.81, 0.79]] * 8)
    draws = _draws(contrast, torch.zeros(8, 16, 3), torch.ones(8, 3), 0.8)
    assert draws == (2,) * 32


def test_draws_scatter_as_normal_draws_with_the_same_errors_do():
    generator = torch.Generator().manual_seed(0)
    contrast = torch.full((8, 4000), math.nan)
    contrast[0] = torch.rand(4000, generator=generator) * 0.4 + 0.6
    deviations = torch.zeros(8, 16, 4000)
    deviations[0] = 0.01 * torch.randn(16, 4000, generator=generator) + 0.005  # partly common to all
    draws = torch.tensor(_draws(contrast, deviations, torch.ones(8, 4000), 0.8), dtype=torch.float64)
    weights = torch.randn(2000, 16, generator=generator, dtype=torch.float64)
    made_up = ((contrast[0].double() + weights @ deviations[0].double()) >= 0.8).sum(1).double()
    assert abs(float(draws.mean() - made_up.mean())) < 3 * float(made_up.std()) / 32**0.5
    assert 0.6 < float(draws.std() / made_up.std()) < 1.6


def test_readers_are_those_of_a_consistent_sign_and_a_difference_that_counts():
    consistency, shift = torch.full((8, 4), math.nan), torch.full((8, 4), 1.0)
    consistency[0] = torch.tensor([0.95, -0.9, 0.5, 1.0])
    shift[0, 3] = LEAST_SHIFT / 2
    line = layer(torch.zeros(4), consistency=consistency, shift=shift)
    assert readers([line, layer(torch.ones(2))], 0.8) == 2  # of the other layer no pixels were paired
    assert math.isnan(readers([layer(torch.ones(2))], 0.8))


def test_a_side_on_which_next_to_nothing_differs_makes_no_pan():
    shift = torch.full((8, 3), math.nan)
    shift[0] = torch.tensor([LEAST_SHIFT * 0.99, -LEAST_SHIFT * 1.01, math.nan])
    report = PANReport({"conv": layer(torch.ones(3), shift=shift)})
    assert [pan.channel for pan in report.pans] == [1, 2]
    assert report.hits("conv")[0].tolist() == [False, True, True]
    assert report.contrast("conv")[0].tolist() == [1.0, 1.0, 1.0]


def test_a_corner_beside_an_edge_that_makes_no_pan_for_its_smallness_is_none_of_its_own():
    contrast, shift = torch.full((8, 1), 0.95), torch.full((8, 1), 1.0)
    shift[:4] = 0.0  # of all edges
    line = LayerReport(1, (3, 3), contrast=contrast, shift=shift)
    assert PANReport({"conv": line}).count == 0


def test_a_pan_is_certain_where_its_interval_is_over_the_threshold():
    error = torch.zeros(8, 4)
    error[0] = torch.tensor([0.001, 0.05, 0.0, math.nan])
    pans = PANReport({"conv": layer(torch.tensor([0.85, 0.85, 1.0, 1.0]), error=error)}).pans
    assert [pan.certain for pan in pans] == [True, False, True, False]
    reach = stats.t.ppf(0.975, 15) * math.hypot(0.001, 0.85 / 128)
    assert pans[0].interval["top"] == pytest.approx((0.85 - reach, 0.85 + reach), abs=1e-4)
    assert pans[2].interval["top"] == pytest.approx((1 - 3 / 64, 1.0))  # the rule of three
    assert pans[3].interval == {}


def test_an_inhibited_neuron_has_an_interval_below_zero():
    error = torch.full((8, 1), 0.01)
    (pan,) = PANReport({"conv": layer(torch.tensor([-0.9]), error=error)}).pans
    low, high = pan.interval["top"]
    assert -1 <= low < -0.9 < high < -0.8 and pan.certain


@pytest.mark.parametrize("clusters, certain", [(14, False), (16, True)])
def test_few_images_that_agree_are_certain_of_no_more_than_three_in_so_many(clusters, certain):
    line = layer(torch.ones(1), error=torch.zeros(8, 1), clusters=(clusters,) * 8)
    assert PANReport({"conv": line}).pans[0].certain is certain


def test_a_corner_is_certain_only_if_its_edges_stay_quiet_for_certain():
    contrast, error = torch.full((8, 2), 0.1), torch.full((8, 2), 0.01)
    contrast[SIDES.index("top-left")] = 0.95
    error[SIDES.index("top")] = torch.tensor([0.01, 0.2])
    pans = PANReport(
        {"conv": LayerReport(2, (3, 3), contrast=contrast, error=error, groups=(16,) * 8, clusters=(64,) * 8)}
    ).pans
    assert [pan.certain for pan in pans] == [True, False]


def test_what_follows_decides_whether_a_pan_is_visible():
    after = torch.full((8, 3), math.nan)
    after[0] = torch.tensor([0.9, 0.5, math.nan])
    report = PANReport({"conv": layer(torch.ones(3), after=after)})
    assert [pan.visible for pan in report.pans] == [True, False, None] and math.isnan(report.visible)
    report = PANReport({"conv": layer(torch.ones(3)[:2], after=after[:, :2])})
    assert report.visible == 1
