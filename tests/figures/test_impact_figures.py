"""Pictures of an impact and of the position: the right points at the right rows, legible for few and many."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations, pairwise

import pytest
import torch

from pan_callbacks.analysis.agreement import VARIANTS, Companions
from pan_callbacks.analysis.position import PositionReadout
from pan_callbacks.figures.impact import class_changes, class_name, impact_changes
from pan_callbacks.figures.position import position_by_depth
from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport
from tests.support.drawn import draws_without_warning, texts

pytestmark = pytest.mark.filterwarnings("error")


def classes(count: int, **changes) -> ClassChanges:
    shift = torch.linspace(-0.3, 0.2, count)
    values = {"shift": shift, "shift_low": shift - 0.02, "shift_high": shift + 0.03, "split_half": 0.83}
    same = {name: torch.zeros(count) for name in ("images", "change", "low", "high")}
    return ClassChanges(**same, **(values | changes))


def report(*modes: str, controls: int = 3, metric: str = "accuracy", count: int = 50, **changes) -> ImpactReport:
    """PANs lose 10 points and more, other neurons 1 and more."""
    values = {"kl": 0.5, "flips": 0.2, "classes": classes(count)} | changes
    arms = [Arm("baseline", "", 0, 0.8)]
    for row, mode in enumerate(modes):
        arms.append(Arm("pans", mode, 9, 0.7 - row / 100, None, (-0.15, -0.05), **values))
        arms += [Arm("control", mode, 9, 0.79 - draw / 100, draw, (-0.1, 0.1), **values) for draw in range(controls)]
    return ImpactReport(metric, 500, (*arms, Arm("padding", "neutral", 90, 0.6, None, (-0.3, -0.1), **values)))


def points(axes, marker: str) -> list[tuple[float, float]]:
    """Where the points of a marker are, by row."""
    drawn = [line for line in axes.lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def disjoint(figure, artists) -> bool:
    figure.canvas.draw()
    boxes = [artist.get_window_extent() for artist in artists]
    return all(not one.overlaps(other) for one, other in combinations(boxes, 2))


class TestImpactChanges:
    def test_pans_and_padding_have_a_point_in_each_row(self):
        figure = impact_changes(report("zero", "neutral"))
        assert [x for x, _ in points(figure.axes[0], "D")] == pytest.approx([-10, -11, -20])
        assert [round(y) for _, y in points(figure.axes[0], "D")] == [0, 1, 2]
        assert [x for x, _ in points(figure.axes[1], "D")] == [0.5] * 3
        assert [x for x, _ in points(figure.axes[2], "D")] == [20] * 3

    def test_every_draw_of_the_controls_has_one(self):
        drawn = points(impact_changes(report("zero", "neutral")).axes[0], "o")
        assert [x for x, _ in drawn] == pytest.approx([-1, -2, -3] * 2)
        assert [round(y) for _, y in drawn] == [0] * 3 + [1] * 3

    def test_rows_are_named(self):
        labels = impact_changes(report("zero", "neutral")).axes[0].get_yticklabels()
        assert [label.get_text() for label in labels] == ["PANs, zero", "PANs, neutral", "all padding neutral"]

    def test_intervals_are_drawn_of_accuracy(self):
        figure = impact_changes(report("zero"))
        ends = [segment[:, 0].tolist() for bar in figure.axes[0].collections for segment in bar.get_segments()]
        assert ends == [pytest.approx([-15, -5]), pytest.approx([-30, -10])]
        assert not figure.axes[1].collections

    def test_panels_of_what_was_not_measured_are_left_out(self):
        figure = impact_changes(report("zero", metric="MeanSquaredError", kl=None, flips=None, classes=None))
        assert [axes.get_title() for axes in figure.axes] == ["change of MeanSquaredError"]
        assert [x for x, _ in points(figure.axes[0], "D")] == pytest.approx([-0.1, -0.2])

    def test_without_labels_there_is_no_panel_of_accuracy(self):
        found = report("zero")
        arms = tuple(dataclasses.replace(arm, value=math.nan, interval=None) for arm in found.arms)
        figure = impact_changes(dataclasses.replace(found, arms=arms))
        assert [axes.get_title() for axes in figure.axes] == ["KL divergence (nats)", "flipped predictions (%)"]

    def test_the_legend_names_what_is_there(self):
        assert "as many other neurons" in texts(impact_changes(report("zero")))
        assert "as many other neurons" not in texts(impact_changes(report("zero", controls=0)))

    def test_the_title_has_the_images(self):
        assert "500 images" in texts(impact_changes(report("zero")))

    @pytest.mark.parametrize(
        "metric", ["accuracy", "MulticlassJaccardIndex", "AMetricThatIsCalledByAVeryLongNameIndeed"]
    )
    @pytest.mark.parametrize("modes", [("zero",), ("zero", "mean", "neutral")])
    def test_titles_do_not_overlap(self, metric, modes):
        figure = impact_changes(report(*modes, metric=metric))
        assert draws_without_warning(figure)
        assert disjoint(figure, [axes.title for axes in figure.axes])

    @pytest.mark.parametrize("changes", [{"kl": 0.0, "flips": 0.0}, {"kl": 40.0, "flips": 1.0}])
    def test_nothing_and_all_are_drawn(self, changes):
        assert draws_without_warning(impact_changes(report("zero", **changes)))

    def test_nothing_measured_is_said_in_words(self):
        figure = impact_changes(ImpactReport("accuracy", 3, (Arm("baseline", "", 0, 0.5),)))
        assert "nothing was measured" in texts(figure)


class TestClassChanges:
    def test_the_classes_that_move_most_are_shown_by_falling_change(self):
        figure = class_changes(report("zero", count=51), "zero", limit=5)
        shown = [x for x, _ in points(figure.axes[0], "o")]
        assert shown == pytest.approx([-26, -27, -28, -29, -30])
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
            f"class {i}" for i in (4, 3, 2, 1, 0)
        ]

    def test_each_has_its_interval(self):
        figure = class_changes(report("zero", count=3), "zero")
        ends = [segment[:, 0].tolist() for bar in figure.axes[0].collections for segment in bar.get_segments()]
        assert ends == [pytest.approx([100 * v - 2, 100 * v + 3], abs=1e-4) for v in (0.2, -0.05, -0.3)]

    def test_the_title_says_how_many_are_left_out(self):
        assert "5 of 50 classes" in texts(class_changes(report("zero"), "zero", limit=5))
        assert "all classes" in texts(class_changes(report("zero", count=5), "zero"))

    def test_the_title_has_the_split_half_correlation(self):
        assert "split-half correlation 0.83" in texts(class_changes(report("zero"), "zero"))
        two = report("zero", classes=classes(2, split_half=math.nan))
        assert "no split-half correlation" in texts(class_changes(two, "zero"))

    def test_names_are_those_of_the_report(self):
        named = dataclasses.replace(report("zero", count=3), class_names=("cat", "dog"))
        assert [class_name(named, i) for i in range(3)] == ["cat", "dog", "class 2"]

    @pytest.mark.parametrize("count", [1, 2, 1000])
    def test_long_names_stay_apart_and_inside(self, count):
        names = tuple(f"{i} is a class, with a very long name, of many synonyms, {i}" for i in range(count))
        found = dataclasses.replace(report("zero", count=count), class_names=names)
        figure = class_changes(found, "zero")
        assert draws_without_warning(figure)
        labels = figure.axes[0].get_yticklabels()
        assert disjoint(figure, labels)
        assert min(label.get_window_extent().x0 for label in labels) >= 0
        assert figure.axes[0].get_window_extent().width > 400

    def test_a_single_image_has_no_interval_and_is_drawn(self):
        nothing = torch.full((3,), math.nan)
        found = report("zero", classes=classes(3, shift_low=nothing, shift_high=nothing))
        assert draws_without_warning(class_changes(found, "zero"))

    def test_no_classifier_is_said_in_words(self):
        assert "no classifier" in texts(class_changes(report("zero", classes=None), "zero"))


def companions(layers: int, name: str = "conv{}", missing: bool = False) -> Companions:
    """Three read-outs of layers that know less and less, the variants 0.1 apart."""

    def readout(variant: int, i: int) -> PositionReadout:
        mean = 0.9 - variant / 10 - i / (2 * layers)
        return PositionReadout((mean - 0.05, mean, mean + 0.05), (0.1,) * 3, torch.zeros(3, 2))

    position = {
        variant: {name.format(i): readout(v, i) for i in range(layers - (missing and v > 0))}
        for v, variant in enumerate(VARIANTS)
    }
    return Companions(8, {}, position, {}, ())


class TestPositionByDepth:
    def test_each_variant_has_a_line_of_means(self):
        lines = position_by_depth(companions(5)).axes[0].lines
        assert [line.get_label() for line in lines] == list(VARIANTS)
        for variant, line in enumerate(lines):
            assert line.get_ydata() == pytest.approx([0.9 - variant / 10 - i / 10 for i in range(5)])

    def test_a_layer_that_a_variant_lacks_leaves_a_gap(self):
        lines = position_by_depth(companions(5, missing=True)).axes[0].lines
        assert [math.isnan(line.get_ydata()[-1]) for line in lines] == [False, True, True]

    def test_layers_are_named_up_to_twenty_four(self):
        labels = position_by_depth(companions(24)).axes[0].get_xticklabels()
        assert [label.get_text() for label in labels] == [f"conv{i}" for i in range(24)]

    def test_of_more_layers_some_are_named_at_their_place(self):
        axes = position_by_depth(companions(120)).axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == [f"conv{i}" for i in range(0, 120, 5)]
        assert axes.get_xticks().tolist() == list(range(0, 120, 5))

    def test_long_names_lose_what_they_share(self):
        labels = position_by_depth(companions(3, "backbone.encoder.a_long_name.{}.conv_dw")).axes[0].get_xticklabels()
        assert [label.get_text() for label in labels] == [f"…{i}.conv_dw" for i in range(3)]

    @pytest.mark.parametrize("layers", [1, 2, 24, 150])
    def test_names_are_as_far_apart_as_they_are_high(self, layers):
        figure = position_by_depth(companions(layers, "backbone.encoder.a_long_name.{}.depthwise_convolution"))
        assert draws_without_warning(figure)
        axes = figure.axes[0]
        places = [axes.transData.transform((x, 0))[0] for x in axes.get_xticks()]
        high = figure.dpi * axes.get_xticklabels()[0].get_fontsize() / 72 / math.sin(math.radians(35))
        assert all(b - a >= high for a, b in pairwise(places))

    def test_a_negative_correlation_is_not_cut_off(self):
        low = PositionReadout((-0.5,) * 3, (0.3,) * 3, torch.zeros(3, 2))
        figure = position_by_depth(Companions(8, {}, {variant: {"conv": low} for variant in VARIANTS}, {}, ()))
        assert figure.axes[0].get_ylim()[0] < -0.5

    def test_no_layer_is_said_in_words(self):
        empty = Companions(8, {}, dict.fromkeys(VARIANTS, {}), {}, ())
        assert "no layer was measured" in texts(position_by_depth(empty))
