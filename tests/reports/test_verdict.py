"""What is advised follows from the numbers, case by case and at the limits of each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats

from pan_callbacks.reports.estimate import Estimate, estimate, share_of
from pan_callbacks.reports.reliance import Reliance
from pan_callbacks.reports.verdict import MOST_IMAGES, Decision, Evidence, decide

LIMIT = 0.01
BEYOND = math.nextafter(LIMIT, 1)
SMALL, LARGE, OPEN = (0.0, LIMIT), (BEYOND, 0.5), (0.0, BEYOND)
#: Changes of accuracy: at worst a loss of the limit, surely more, and neither.
FREE, COSTLY, UNSURE = (-LIMIT, 0.3), (-0.3, -BEYOND), (-BEYOND, 0.3)


def between(ends: tuple[float, float]) -> Estimate:
    return Estimate(sum(ends) / 2, *ends)


def rests(moved: tuple[float, float], flips: tuple[float, float] | None = None, distance="total variation") -> Reliance:
    middle = None if flips is None else sum(flips) / 2
    return Reliance(distance, sum(moved) / 2, moved, middle, flips, 400)


def evidence(moved=SMALL, flips=SMALL, padding=None, pans=None, pans_flips=None, visible=0, remain=0) -> Evidence:
    return Evidence(
        images=400,
        neurons=100,
        pans=Estimate(5, 2, 8),
        surely_visible=visible,
        floor=Estimate(1, 0, 2),
        floor_visible=remain,
        reliance=rests(moved, flips),
        padding_change=None if padding is None else between(padding),
        pans_change=None if pans is None else between(pans),
        pans_flips=None if pans_flips is None else between(pans_flips),
        tolerance=LIMIT,
    )


def told(found: Decision) -> tuple[str, str, bool]:
    return found.verdict, found.blind, found.decided


class TestDecision:
    def test_answers_that_do_not_move_keep_the_network(self):
        assert told(decide(evidence())) == ("keep", "", True)

    @pytest.mark.parametrize("padding", [FREE, COSTLY, UNSURE])
    def test_answers_that_do_not_move_keep_it_whatever_accuracy_does(self, padding):
        assert told(decide(evidence(padding=padding))) == ("keep", "", True)

    @pytest.mark.parametrize(("visible", "remain", "blind"), [(3, 2, "pans"), (2, 2, ""), (0, 0, "")])
    def test_pans_are_blinded_if_more_are_seen_than_remain_without_padding(self, visible, remain, blind):
        found = decide(evidence(pans_flips=SMALL, visible=visible, remain=remain))
        assert (found.verdict, found.blind) == ("blind" if blind else "keep", blind)

    @pytest.mark.parametrize("pans_flips", [LARGE, OPEN, None])
    def test_pans_whose_blinding_is_not_known_to_be_free_are_kept(self, pans_flips):
        assert told(decide(evidence(pans_flips=pans_flips, visible=3))) == ("keep", "", True)

    @pytest.mark.parametrize("moved", [LARGE, OPEN, SMALL])
    @pytest.mark.parametrize("flips", [LARGE, OPEN])
    def test_all_padding_is_blinded_if_that_costs_no_accuracy(self, moved, flips):
        assert told(decide(evidence(moved, flips, padding=FREE))) == ("blind", "padding", True)

    @pytest.mark.parametrize("flips", [LARGE, OPEN])
    def test_a_network_that_loses_accuracy_is_trained_anew(self, flips):
        assert told(decide(evidence(LARGE, flips, padding=COSTLY))) == ("retrain", "", True)

    def test_free_pans_do_not_save_a_network_that_loses_accuracy_without_padding(self):
        assert told(decide(evidence(LARGE, LARGE, COSTLY, FREE, visible=3))) == ("retrain", "", True)

    @pytest.mark.parametrize(
        ("flips", "expected"),
        [(SMALL, ("blind", "padding", True)), (LARGE, ("retrain", "", True)), (OPEN, ("keep", "", False))],
    )
    def test_without_labels_classes_that_change_decide(self, flips, expected):
        assert told(decide(evidence(LARGE, flips))) == expected

    @pytest.mark.parametrize("flips", [LARGE, OPEN])
    @pytest.mark.parametrize(
        ("pans", "visible", "expected"),
        [
            (FREE, 3, ("blind", "pans", True)),
            (FREE, 0, ("keep", "", False)),
            (UNSURE, 3, ("keep", "", False)),
            (COSTLY, 3, ("keep", "", False)),
        ],
    )
    def test_free_pans_are_blinded_while_all_padding_is_open(self, flips, pans, visible, expected):
        found = decide(evidence(LARGE, flips, UNSURE, pans, visible=visible))
        assert told(found) == expected and found.images > 400

    @pytest.mark.parametrize(
        ("moved", "expected"),
        [(SMALL, ("keep", "", True)), (LARGE, ("retrain", "", True)), (OPEN, ("keep", "", False))],
    )
    def test_where_there_are_no_classes_the_distance_decides(self, moved, expected):
        found = decide(replace(evidence(), reliance=rests(moved, distance="relative change")))
        assert told(found) == expected

    @pytest.mark.parametrize("none", [True, False])
    def test_nothing_measured_is_decided_if_there_is_nothing_to_measure(self, none):
        found = decide(Evidence(images=0, unpadded="no convolution", without_padding=none))
        assert told(found) == ("keep", "", none)

    def test_a_single_image_decides_nothing(self):
        alone = Reliance("total variation", 0.0, None, 0.0, None, 1)
        assert told(decide(replace(evidence(), images=1, reliance=alone))) == ("keep", "", False)

    @pytest.mark.parametrize("tolerance", [0.3, 0.5])
    def test_another_tolerance_decides_otherwise(self, tolerance):
        found = decide(replace(evidence(LARGE, LARGE), tolerance=tolerance))
        assert told(found) == (("keep", "", False) if tolerance == 0.3 else ("keep", "", True))


class TestImagesThatWouldDecide:
    def test_so_many_decide(self):
        """Of so many images the same share has an interval below the limit, of a tenth fewer it has not."""
        of_200 = Reliance("total variation", 0.0, (0.0, 0.0), 0.002, ends(share_of(0.002, 200)), 200)
        found = decide(replace(evidence(), images=200, reliance=of_200))
        assert not found.decided
        assert share_of(0.002, found.images).high <= LIMIT < share_of(0.002, 0.9 * found.images).high

    def test_a_loss_of_accuracy_needs_the_square_of_what_is_missing(self):
        wide = Estimate(0.0, -0.02, 0.02)
        assert decide(replace(evidence(LARGE, LARGE), padding_change=wide)).images == 1600

    def test_a_number_at_the_limit_is_decided_by_none(self):
        at = Estimate(-LIMIT, -0.05, 0.03)
        assert decide(replace(evidence(LARGE, LARGE), padding_change=at)).images is None
        near = Estimate(-0.0099, -0.05, 0.03)
        assert MOST_IMAGES < 400 * (0.0401 / 0.0001) ** 2
        assert decide(replace(evidence(LARGE, LARGE), padding_change=near)).images is None

    def test_nothing_decided_needs_no_more(self):
        assert decide(evidence()).images is None


def ends(one: Estimate) -> tuple[float, float]:
    return one.low, one.high


class TestEstimate:
    @pytest.mark.parametrize(("part", "count"), [(0, 7), (1, 30), (9, 20), (30, 30)])
    def test_a_share_has_wilsons_interval(self, part, count):
        wilson = stats.binomtest(part, count).proportion_ci(method="wilson")
        assert ends(share_of(part / count, count)) == pytest.approx((wilson.low, wilson.high))

    def test_nobody_knows_without_an_interval(self):
        alone = Estimate(0.0)
        assert alone.at_most(0.5) is None and alone.at_least(-0.5) is None
        assert alone.images_to_decide(0.5, 1) == math.inf

    def test_a_wider_interval_stays_among_changes(self):
        assert Estimate(0.5, 0.4, 0.7).widened(2) == Estimate(0.5, pytest.approx(0.3), pytest.approx(0.9))
        assert Estimate(0.5, 0.4, 0.7).widened(100) == Estimate(0.5, -1.0, 1.0)

    @pytest.mark.parametrize("value", [[1, 0], [0.5, 0.6, 0.7], "x", [None, True, 1], None])
    def test_what_is_none_is_refused_with_its_place(self, value):
        with pytest.raises(ValueError, match=r"evidence\.floor"):
            estimate(value, "evidence.floor")
