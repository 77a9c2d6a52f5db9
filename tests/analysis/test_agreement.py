"""Companion measures: counts by hand, rank correlations against scipy, and cases where they must agree."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

import pytest
import torch
from scipy import stats
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.agreement import (
    VARIANTS,
    _by_layer,
    _by_neuron,
    _flip_agreements,
    _position_agreements,
    _spearman,
    companions,
    leftover_counts,
)
from pan_callbacks.analysis.position import PositionReadout
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from tests.support.synthetic import labelled, layer, report_on, small_net

TOP, BOTTOM, LEFT, RIGHT = range(4)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestLeftoverCounts:
    def test_by_hand(self):
        pans = {
            0: {"top": 0.9},
            1: {"top": -0.9, "bottom": 1.0},
            2: {"left": 0.8},
            3: {"right": 0.79},
            4: {"right": 0.9},
        }
        report = PANReport(
            {
                "both": layer(8, pans, stride=(2, 2), leftover=(1, 0)),  # rows with leftover: 2 top, 1 bottom
                "none": layer(8, {0: {"bottom": 1.0}}, stride=(2, 2), leftover=(0, 0)),
                "rows": layer(8, {0: {"left": 1.0}}, stride=(3, 1), leftover=(2, 0)),  # columns have no stride
                "plain": layer(8, pans, stride=(1, 1), leftover=(0, 0)),
                "unknown": layer(8, pans, stride=(2, 2), leftover=None),
                "skipped": LayerReport(8, (3, 3), stride=(2, 2), leftover=(1, 1), skipped="map of 2×2"),
            }
        )
        assert leftover_counts(report) == {"leftover": (2, 2, 1), "none": (3, 1, 2)}

    def test_a_side_without_a_border_has_no_pans(self):
        contrast = torch.full((len(SIDES), 4), math.nan)
        contrast[TOP] = 1.0
        report = PANReport({"conv": layer(4, contrast=contrast, stride=(2, 2), leftover=(1, 1))})
        assert leftover_counts(report) == {"leftover": (2, 4, 0), "none": (0, 0, 0)}


class TestSpearman:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_that_of_scipy_with_and_without_ties(self, seed):
        a = randn(40, seed=seed)
        for b in (a + randn(40, seed=99), (a + randn(40, seed=99)).round()):
            assert _spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-5)

    @pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [2.0, 2.0, 2.0]])
    def test_too_few_or_constant_values_have_none(self, values):
        assert math.isnan(_spearman(torch.tensor(values), torch.arange(len(values)).float()))


class TestByNeuron:
    def report(self) -> PANReport:
        return PANReport({"a": layer(30, contrast=randn(8, 30).tanh()), "b": layer(10, contrast=randn(8, 10).tanh())})

    def test_is_the_mean_within_layers_weighted_by_their_neurons(self):
        report, values = self.report(), {"a": randn(30, seed=1), "b": 100 + randn(10, seed=2)}
        found = _by_neuron(report, values, (TOP, LEFT), "measure", "source")
        rho = [
            stats.spearmanr(values[name], report.contrast(name)[[TOP, LEFT]].abs().amax(0)).statistic for name in "ab"
        ]
        assert found.spearman == pytest.approx((30 * rho[0] + 10 * rho[1]) / 40, abs=1e-5)
        assert (found.cases, found.against) == (40, "|contrast| of top, left, neurons")

    def test_neurons_without_a_value_do_not_count(self):
        report, values = self.report(), {"a": randn(30, seed=1)}
        values["a"][:5] = math.nan
        found = _by_neuron(report, values, (TOP,), "measure", "source")
        expected = stats.spearmanr(values["a"][5:], report.contrast("a")[TOP, 5:].abs()).statistic
        assert (found.cases, found.spearman) == (25, pytest.approx(expected, abs=1e-5))

    def test_without_any_value_there_is_no_correlation(self):
        found = _by_neuron(self.report(), {"a": torch.full((30,), math.nan)}, (TOP,), "measure", "source")
        assert found.cases == 0
        assert math.isnan(found.spearman)


class TestAgreement:
    """A measure that is the contrast agrees, its opposite does not, whichever sides it is of."""

    @pytest.mark.parametrize("sign", [1, -1])
    def test_flip_of_rows_and_columns(self, sign):
        contrast = torch.zeros(8, 20)
        contrast[TOP], contrast[RIGHT] = torch.linspace(0, 1, 20), torch.linspace(-1, 0, 20)
        flip = {"conv": sign * torch.stack([contrast[RIGHT].abs(), contrast[TOP]])}
        found = _flip_agreements(PANReport({"conv": layer(20, contrast=contrast)}), flip)
        assert [agreement.spearman for agreement in found] == [pytest.approx(sign)] * 2

    @pytest.mark.parametrize("sign", [1, -1])
    def test_share_of_pans_by_layer(self, sign):
        report = PANReport({f"conv{n}": layer(10, {i: {"top": 1.0} for i in range(n)}) for n in range(5)})
        found = _by_layer(report, {f"conv{n}": sign * n**3 for n in range(5)}, "measure", "source")
        assert (found.cases, found.spearman) == (5, pytest.approx(sign))

    def test_position_that_padding_adds(self):
        def readouts(values) -> dict[str, PositionReadout]:
            return {f"conv{n}": PositionReadout((v,) * 3, (0.1,) * 3, randn(3, 10)) for n, v in enumerate(values)}

        report = PANReport({f"conv{n}": layer(10, {i: {"top": 1.0} for i in range(n)}) for n in range(4)})
        position = {VARIANTS[0]: readouts([0.5, 0.5, 0.6, 0.7]), VARIANTS[-1]: readouts([0.5, 0.4, 0.3, 0.2])}
        found = _position_agreements(report, position)[-1]
        assert (found.measure, found.spearman) == ("position that padding adds", pytest.approx(1.0))


@pytest.fixture(scope="module")
def measured():
    net, images = small_net(), [images for images, _ in labelled(24, 8, size=24)]
    report = report_on(net, {"0": (0, 1)})
    return companions(net, images, report)


class TestCompanions:
    def test_every_layer_has_every_measure(self, measured):
        assert measured.images == 24
        assert {name: tuple(scores.shape) for name, scores in measured.flip.items()} == {"0": (2, 8), "3": (2, 8)}
        assert {variant: list(found) for variant, found in measured.position.items()} == dict.fromkeys(
            VARIANTS, ["0", "3"]
        )

    def test_agreements_name_what_is_compared(self, measured):
        assert [agreement.measure for agreement in measured.agreements] == [
            "flip score, horizontal",
            "flip score, vertical",
            "correlation with the row",
            "correlation with the column",
            "correlation with the centre",
            "position that padding adds",
            "asymmetry of the mean kernel",
        ]

    def test_they_are_written_as_json(self, measured):
        data = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
        assert data["flip"]["3"] == measured.flip["3"].tolist()
        assert data["position"][VARIANTS[1]]["0"]["spearman"] == list(measured.position[VARIANTS[1]]["0"].spearman)
        assert len(data["agreements"]) == len(measured.agreements)

    def test_masked_pans_and_neutral_padding_change_the_position_of_their_layers(self, measured):
        own, masked, neutral = (measured.position[variant]["0"].by_neuron for variant in VARIANTS)
        changed = ((own - masked).abs() > 1e-5).any(0).tolist()
        assert changed == [channel < 2 for channel in range(8)]
        assert ((own - neutral).abs() > 1e-5).any(0).all()

    def test_batches_may_be_read_once(self, measured):
        net = small_net()
        found = companions(net, (images for images, _ in labelled(24, 8, size=24)), report_on(net, {"0": (0, 1)}))
        assert found.to_dict() == measured.to_dict()

    def test_the_model_is_left_as_it_was(self):
        net = small_net().train()
        companions(net, [labelled(8, 8)[0][0]], report_on(net, {"0": (0,)}))
        assert all(module.training for module in net.modules())
        assert not any(module._forward_hooks for module in net.modules())

    @pytest.mark.filterwarnings("error")
    def test_without_pans_nothing_is_masked_and_nothing_warned(self):
        net = small_net()
        found = companions(net, [labelled(8, 8)[0][0]], report_on(net, {}))
        assert found.position[VARIANTS[1]]["0"].spearman == found.position[VARIANTS[0]]["0"].spearman


def test_contrast_agrees_with_position_where_border_detectors_differ_in_strength():
    """Channels sum their window with growing weight against noise of their own: what the padding does grows along."""
    conv = nn.Conv2d(2, 12, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    conv.weight.data[:, 0, 0, 1] = torch.linspace(0, 1, 12)  # reads the row above, of a channel of ones
    conv.weight.data[:, 1, 1, 1] = 1.0
    net = nn.Sequential(OrderedDict(conv=conv)).eval()
    images = torch.cat([torch.ones(32, 1, 24, 24), randn(32, 1, 24, 24)], 1)
    found = companions(net, [images], scan(net, [images], progress=False))
    row = next(agreement for agreement in found.agreements if agreement.measure == "correlation with the row")
    assert row.spearman > 0.9
