"""The report of an impact: intervals that cover what they say, tables, and files."""

from __future__ import annotations

import copy
import json
import math
import statistics

import numpy as np
import pytest
import torch
from scipy import stats

from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport, spread
from pan_callbacks.suppression.predictions import paired_interval, shift_interval

DRAWS = 4000


def classes(count: int = 3, **changes) -> ClassChanges:
    images = torch.arange(count)
    values = torch.linspace(-0.3, 0.7, 6 * count).view(6, count)
    values[:3, 0] = math.nan  # a class without images
    return ClassChanges(images, *values, **{"split_half": 0.5, **changes})


def report() -> ImpactReport:
    arms = (
        Arm("baseline", "", 0, 0.75, kl=0.0, flips=0.0, classes=classes()),
        Arm("pans", "zero", 4, 0.5, None, (-0.4, -0.1), 0.25, 0.5, classes()),
        Arm("control", "zero", 4, 0.74, 0, (-0.1, 0.1), 0.01, 0.02, classes()),
        Arm("control", "zero", 4, 0.76, 1, (-0.1, 0.1), 0.03, 0.04, classes()),
        Arm("pans", "mean", 4, 0.7, None, (-0.1, 0.0), 0.2, 0.1, classes()),
        Arm("control", "mean", 4, 0.75, 0, (-0.1, 0.1), 0.02, 0.02, classes()),
        Arm("control", "mean", 4, 0.75, 1, (-0.1, 0.1), 0.02, 0.02, classes()),
        Arm("padding", "neutral", 30, 0.25, None, (-0.6, -0.3), 1.5, 0.75, classes(split_half=math.nan)),
    )
    return ImpactReport("accuracy", 400, arms, ("cat", "dog", "<b>"), ("a note",))


class TestPairedInterval:
    @pytest.mark.parametrize(
        ("images", "lost", "gained"), [(1, 0, 0), (1, 1, 0), (10, 3, 1), (200, 0, 0), (1000, 40, 77)]
    )
    def test_is_the_formula_of_bonett_and_price(self, images, lost, gained):
        p12, p21 = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
        error = stats.norm.ppf(0.975) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (images + 2))
        ends = max(-1, p12 - p21 - error), min(1, p12 - p21 + error)
        assert [float(end) for end in paired_interval(*map(torch.tensor, (images, lost, gained)))] == pytest.approx(
            ends
        )

    @pytest.mark.parametrize("images", [10, 20, 50, 100, 200])
    @pytest.mark.parametrize("shares", [(0.02, 0.01), (0.1, 0.1), (0.3, 0.05), (0.45, 0.45), (0.0, 0.6)])
    def test_covers_the_truth(self, images, shares):
        counts = np.random.default_rng(0).multinomial(images, [*shares, 1 - sum(shares)], DRAWS)
        lost, gained = torch.from_numpy(counts[:, 0]), torch.from_numpy(counts[:, 1])
        low, high = paired_interval(torch.full_like(lost, images), lost, gained)
        truth = shares[1] - shares[0]
        assert float(((low <= truth) & (truth <= high)).double().mean()) >= 0.92

    def test_is_finite_and_wide_on_one_image(self):
        low, high = paired_interval(torch.tensor(1), torch.tensor(0), torch.tensor(0))
        assert float(high - low) > 1.5

    def test_is_not_a_number_without_images(self):
        assert all(end.isnan() for end in paired_interval(*[torch.tensor(0)] * 3))

    def test_lost_and_gained_are_not_confused(self):
        low, high = paired_interval(torch.tensor(100), torch.tensor(30), torch.tensor(0))
        assert low < high < 0


class TestShiftInterval:
    @pytest.mark.parametrize("images", [20, 50, 200])
    @pytest.mark.parametrize("law", [lambda r, n: r.normal(0.1, 0.3, n), lambda r, n: r.uniform(-0.8, 1.0, n)])
    def test_covers_the_truth(self, images, law):
        values = torch.from_numpy(law(np.random.default_rng(0), (images, DRAWS)))
        low, high = shift_interval(images, values.sum(0), values.square().sum(0))
        assert 0.92 <= float(((low <= 0.1) & (high >= 0.1)).double().mean()) <= 0.97

    def test_is_mean_and_standard_error(self):
        values = [0.1, -0.2, 0.4, 0.05]
        error = stats.norm.ppf(0.975) * statistics.stdev(values) / 2
        ends = shift_interval(4, torch.tensor([sum(values)]), torch.tensor([sum(v * v for v in values)]))
        assert [float(end) for end in ends] == pytest.approx([statistics.fmean(values) + s * error for s in (-1, 1)])

    @pytest.mark.parametrize("images", [0, 1])
    def test_is_not_a_number_on_fewer_than_two_images(self, images):
        assert all(end.isnan().all() for end in shift_interval(images, torch.ones(3), torch.ones(3)))


class TestArms:
    def test_of_a_kind_and_mode(self):
        assert report().arm("pans", "mean").value == 0.7

    def test_baseline(self):
        assert report().baseline.kind == "baseline"

    def test_every_draw_of_a_control(self):
        assert [arm.value for arm in report().controls("zero")] == [0.74, 0.76]

    def test_modes(self):
        assert report().modes == ("zero", "mean")

    def test_change_against_the_baseline(self):
        assert report().change(report().arm("pans", "zero")) == -0.25

    def test_an_arm_that_was_not_measured_is_named_with_those_that_were(self):
        with pytest.raises(KeyError, match="no arm 'pans' with mode 'neutral' .* modes zero, mean"):
            report().arm("pans", "neutral")


class TestTable:
    def row(self, name: str, found: ImpactReport | None = None) -> tuple:
        return next(row for row in (found or report()).rows() if row[0].startswith(name))

    def test_row_of_masked_pans(self):
        row = ("PANs masked, zero", "4", "50.00%", "-25.00% [-40.00%, -10.00%]", "0.2500", "50.0%")
        assert self.row("PANs masked, zero") == row

    def test_row_of_the_model_as_it_is(self):
        assert self.row("as it is") == ("as it is", "0", "75.00%", "", "", "")

    def test_draws_of_a_control_are_one_row_of_means_and_deviations(self):
        row = self.row("as many others, zero")
        assert row == (
            "as many others, zero (2 draws)",
            "4",
            "75.00%",
            "+0.00% ± 1.41%",
            "0.0200 ± 0.0141",
            "3.0% ± 1.4%",
        )

    def test_every_arm_has_its_row(self):
        assert [row[0].split(",")[0] for row in report().rows()] == [
            *["as it is", "PANs masked", "as many others"],
            *["PANs masked", "as many others", "all padding neutral"],
        ]

    def test_another_metric_is_no_percentage(self):
        found = ImpactReport("MeanSquaredError", 9, (Arm("baseline", "", 0, 2.0), Arm("pans", "zero", 3, 2.5)))
        assert self.row("PANs", found) == ("PANs masked, zero", "3", "2.5", "+0.5", "-", "-")

    def test_what_is_not_known_is_a_dash(self):
        found = ImpactReport(
            "accuracy", 9, (Arm("baseline", "", 0, math.nan), Arm("pans", "zero", 3, math.nan, kl=0.5))
        )
        assert self.row("PANs", found)[2:5] == ("-", "-", "0.5000")

    def test_summary_has_the_images_every_row_and_the_notes(self):
        lines = report().summary().splitlines()
        assert lines[0] == "400 images"
        assert len(lines) == 1 + 1 + 6 + 1
        assert lines[-1] == "a note"

    def test_spread_is_mean_and_standard_deviation(self):
        values = [0.1, 0.4, 0.7]
        assert spread(values, "{:+.2f}") == f"{statistics.fmean(values):+.2f} ± {statistics.stdev(values):.2f}"
        assert spread([0.1], "{:.1f}") == "0.1"

    @pytest.mark.parametrize("values", [[], [None, 1.0], [math.nan, 1.0]])
    def test_spread_of_what_is_missing_is_a_dash(self, values):
        assert spread(values, "{:.1f}") == "-"


class TestFiles:
    def test_a_report_is_read_as_it_was_written(self, tmp_path):
        report().save(tmp_path / "impact.json")
        found = ImpactReport.load(tmp_path / "impact.json")
        assert (found.metric, found.images, found.class_names, found.notes) == (
            "accuracy",
            400,
            ("cat", "dog", "<b>"),
            ("a note",),
        )
        for arm, expected in zip(found.arms, report().arms, strict=True):
            assert {k: v for k, v in vars(arm).items() if k != "classes"} == {
                k: v for k, v in vars(expected).items() if k != "classes"
            }
            for name, value in vars(expected.classes).items():
                torch.testing.assert_close(getattr(arm.classes, name), value, rtol=0, atol=0, equal_nan=True)

    def test_what_is_unknown_stays_unknown(self, tmp_path):
        arms = (Arm("baseline", "", 0, math.nan), Arm("pans", "zero", 1, math.nan))
        ImpactReport("accuracy", 3, arms).save(tmp_path / "impact.json")
        arm = ImpactReport.load(tmp_path / "impact.json").arm("pans", "zero")
        assert math.isnan(arm.value)
        assert (arm.draw, arm.interval, arm.kl, arm.flips, arm.classes) == (None,) * 5

    def test_it_is_json_that_any_reader_reads(self, tmp_path):
        report().save(tmp_path / "impact.json")
        text = (tmp_path / "impact.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["schema"] == "pan_callbacks.impact"

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "pan_callbacks.report"}'])
    def test_what_is_no_report_is_refused_by_name(self, tmp_path, content):
        (tmp_path / "other.json").write_bytes(content)
        with pytest.raises(ValueError, match="other.json"):
            ImpactReport.load(tmp_path / "other.json")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data.pop("arms"),
            lambda data: data.pop("notes"),
            lambda data: data.update(arms=None),
            lambda data: data.update(arms=["ab"]),
            lambda data: data.update(arms=[3]),
            lambda data: data.update(notes=3),
            lambda data: data.update(class_names=3),
            lambda data: data["arms"][1].pop("value"),
            lambda data: data["arms"][1].pop("kind"),
            lambda data: data["arms"][1].update(more=1),
            lambda data: data["arms"][1].update(interval=3),
            lambda data: data["arms"][1].update(classes=[1]),
            lambda data: data["arms"][1].update(classes={}),
            lambda data: data["arms"][1]["classes"].update(images=[None]),
            lambda data: data["arms"][1]["classes"].update(change="no"),
            lambda data: data["arms"][1]["classes"].update(change=[[1], [1, 2]]),
            lambda data: data["arms"][1]["classes"].update(split_half=[]),
            lambda data: data["arms"][1]["classes"].update(more=[1]),
        ],
    )
    def test_a_damaged_report_is_a_value_error(self, damage):
        data = copy.deepcopy(report().to_dict())
        damage(data)
        with pytest.raises(ValueError):  # noqa: PT011
            ImpactReport.from_dict(data)

    @pytest.mark.parametrize("version", [2, "1", None])
    def test_another_version_is_refused(self, version):
        with pytest.raises(ValueError, match="schema version"):
            ImpactReport.from_dict({**report().to_dict(), "version": version})
