"""Who was born and who is gone, epoch by epoch, from contrasts made by hand."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from scipy import stats

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.entries import scalars as tags_and_values
from pan_callbacks.reports.history import History
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.reliance import Reliance

NAN = math.nan


def layer(*tops: float, effect: float = 0.0, border_bias: float = 0.25, **sides: float) -> LayerReport:
    """A layer with these contrasts at the top, and the same one in every channel at other sides."""
    contrast = torch.zeros(8, len(tops))
    contrast[0] = torch.tensor(tops)
    for side, value in sides.items():
        contrast[SIDES.index(side.replace("_", "-"))] = value
    effects = torch.full((8, len(tops)), effect)
    return LayerReport(len(tops), (3, 3), contrast=contrast, effect=effects, border_bias=border_bias, images=64)


def report(*tops: float, **kwargs) -> PANReport:
    return PANReport({"conv": layer(*tops, **kwargs)})


def grown(*epochs: float | tuple[float, ...], threshold: float = 0.8) -> History:
    """A history with one entry for each of these contrasts, from epoch -1 on."""
    history = History(threshold)
    for epoch, tops in enumerate(epochs, start=-1):
        tops = tops if isinstance(tops, tuple) else (tops,)
        history.add(PANReport({"conv": layer(*tops)}, threshold), epoch, 10 * epoch)
    return history


def born_and_gone(history: History) -> list[tuple[int, int]]:
    return [(entry["born"], entry["gone"]) for entry in history.entries]


# ---- born and gone


@pytest.mark.parametrize("first", [0.0, 0.9])
def test_nobody_is_born_or_gone_in_the_first_entry(first):
    assert born_and_gone(grown(first)) == [(0, 0)]


def test_a_pan_of_the_first_entry_has_that_epoch_of_birth():
    assert grown(0.81).births == {"conv": {0: -1}}


def test_a_contrast_that_rises_well_over_the_threshold_is_a_birth():
    assert born_and_gone(grown(0.1, 0.9)) == [(0, 0), (1, 0)]


def test_a_contrast_that_falls_well_below_the_threshold_is_gone():
    assert born_and_gone(grown(0.9, 0.7)) == [(0, 0), (0, 1)]


def test_a_pan_that_is_gone_has_no_birth():
    assert grown(0.9, 0.7).births == {"conv": {}}


def sure(*tops: float, error: float, groups: int = 16) -> PANReport:
    """A report whose contrasts have a standard error."""
    errors = torch.full((8, len(tops)), error)
    return PANReport(
        {"conv": dataclasses.replace(layer(*tops), error=errors, groups=(groups,) * 8, clusters=(64,) * 8)}
    )


@pytest.mark.parametrize("error, groups", [(0.01, 16), (0.03, 16), (0.03, 3)])
def test_a_neuron_is_born_and_gone_beyond_half_of_its_own_interval(error, groups):
    half = stats.t.ppf(0.975, groups - 1) * error
    history = History(0.8)
    for epoch, top in enumerate((0.5, 0.8 + 0.9 * half, 0.8 + 1.1 * half, 0.8 - 0.9 * half, 0.8 - 1.1 * half)):
        history.add(sure(top, error=error, groups=groups), epoch, 0)
    assert born_and_gone(history) == [(0, 0), (0, 0), (1, 0), (0, 0), (0, 1)]


def test_what_is_certain_in_few_images_is_born_at_once():
    history = History(0.8)
    for epoch, top in enumerate((0.5, 1.0)):  # all images agree: the rule of three is of images that were not seen
        history.add(sure(top, error=0.0), epoch, 0)
    assert born_and_gone(history) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("start", [0.78, 0.82])
def test_a_contrast_that_wobbles_about_the_threshold_is_neither_born_nor_gone(start):
    assert born_and_gone(grown(start, *[0.82, 0.78] * 5)) == [(0, 0)] * 11


def test_a_contrast_that_wobbles_is_counted_all_the_same():
    assert [entry["count"] for entry in grown(0.78, 0.82, 0.78).entries] == [0, 1, 0]


def test_a_pan_that_sinks_into_the_band_and_returns_keeps_its_birth():
    history = grown(0.0, 0.95, 0.77, 0.95)
    assert history.births == {"conv": {0: 0}} and sum(entry["born"] for entry in history.entries) == 1


def test_a_neuron_that_creeps_through_the_band_is_born_when_it_leaves_it():
    assert born_and_gone(grown(0.7, 0.78, 0.82, 0.86)) == [(0, 0), (0, 0), (0, 0), (1, 0)]


def test_a_pan_that_creeps_through_the_band_is_gone_when_it_leaves_it():
    assert born_and_gone(grown(0.9, 0.84, 0.76, 0.74)) == [(0, 0), (0, 0), (0, 0), (0, 1)]


def test_a_pan_that_returns_is_born_again():
    history = grown(0.0, 0.9, 0.1, 0.9)
    assert born_and_gone(history)[1:] == [(1, 0), (0, 1), (1, 0)] and history.births == {"conv": {0: 2}}


def test_channels_are_told_apart():
    assert born_and_gone(grown((0.9, 0.0, 0.9), (0.0, 0.9, 0.9))) == [(0, 0), (1, 1)]


def test_a_pan_that_changes_sides_lives_on():
    history = History(0.8)
    history.add(report(0.9), 0, 0)
    assert history.add(report(0.0, left=-0.9), 1, 1)["gone"] == 0


def test_a_side_that_loses_its_border_takes_its_pans_along():
    history = History(0.8)
    history.add(report(0.9), 0, 0)
    assert history.add(report(NAN), 1, 1)["gone"] == 1


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.95, 0.98])
def test_the_band_leaves_room_for_births_and_deaths_at_any_threshold(threshold):
    assert born_and_gone(grown(0.0, 1.0, 0.0, threshold=threshold))[1:] == [(1, 0), (0, 1)]


def test_births_less_deaths_is_the_change_of_the_number_alive():
    contrasts = torch.rand(12, 30, generator=torch.Generator().manual_seed(0))
    history = History(0.8)
    alive = []
    for epoch, tops in enumerate(contrasts.tolist()):
        history.add(report(*tops), epoch, epoch)
        alive.append(len(history.births["conv"]))
    changes = [after - before for before, after in zip(alive, alive[1:], strict=False)]
    assert [born - gone for born, gone in born_and_gone(history)[1:]] == changes


@pytest.mark.parametrize("edge", [0.1, 0.36, 0.39])
def test_a_neuron_that_is_a_pan_in_its_corner_is_not_gone(edge):
    history = History(0.8)
    history.add(report(0.1, top_left=0.9), 0, 0)
    entry = history.add(report(edge, top_left=0.82), 1, 1)
    assert (entry["count"], entry["gone"]) == (1, 0)


@pytest.mark.parametrize("edge", [0.41, 0.42, 0.5])
def test_a_neuron_that_is_no_pan_because_of_a_weak_edge_is_not_born(edge):
    history = History(0.8)
    history.add(report(0.1), 0, 0)
    entry = history.add(report(edge, top_left=0.95), 1, 1)
    assert (entry["count"], entry["born"]) == (0, 0)


@pytest.mark.parametrize("corner", [0.78, 0.82, 0.9])
def test_a_pan_in_its_corner_survives_edges_that_wobble_about_half_of_the_threshold(corner):
    history = History(0.8)
    history.add(report(0.1, top_left=0.9), 0, 0)
    found = [history.add(report(edge, top_left=corner), epoch, 0) for epoch, edge in enumerate((0.38, 0.41, 0.1), 1)]
    assert [(entry["born"], entry["gone"]) for entry in found] == [(0, 0)] * 3


def test_a_pan_in_its_corner_is_gone_when_an_edge_that_meets_there_becomes_strong():
    history = History(0.8)
    history.add(report(0.1, top_left=0.9), 0, 0)
    assert history.add(report(0.6, top_left=0.9), 1, 1)["gone"] == 1


# ---- layers that come and go


def test_a_layer_that_was_not_measured_keeps_its_births():
    history = History(0.8)
    history.add(report(0.9), 0, 0)
    skipped = PANReport({"conv": LayerReport(1, (3, 3), skipped="NaN or infinite activations")})
    assert history.add(skipped, 1, 1)["gone"] == 0 and history.births == {"conv": {0: 0}}


def test_a_layer_that_is_missing_from_a_report_keeps_its_births():
    history = History(0.8)
    history.add(report(0.9), 0, 0)
    history.add(PANReport({}), 1, 1)
    assert history.births == {"conv": {0: 0}}


def test_a_pan_is_not_born_again_when_its_layer_is_measured_again():
    history = History(0.8)
    history.add(report(0.9), 0, 0)
    history.add(PANReport({}), 1, 1)
    assert history.add(report(0.9), 2, 2)["born"] == 0


def test_layers_are_told_apart():
    history = History(0.8)
    history.add(PANReport({"a": layer(0.9), "b": layer(0.0)}), 0, 0)
    history.add(PANReport({"a": layer(0.0), "b": layer(0.9)}), 1, 1)
    assert history.births == {"a": {}, "b": {0: 1}}


# ---- entries


def test_an_entry_has_the_figures_of_its_report():
    found = PANReport({"a": layer(0.9, 0.95, 0.0, effect=2.0), "b": layer(-0.85, border_bias=0.75)})
    entry = History(0.8).add(found, 3, 120)
    assert entry == {
        "epoch": 3,
        "step": 120,
        "count": 3,
        "fraction": 0.75,
        "nascent": 2,
        "inherited": 1,
        "both": 0,
        "neither": 0,
        "born": 0,
        "gone": 0,
        "border_bias": 0.5,
        "sides": dict.fromkeys(SIDES, 0) | {"top": 3},
        "layers": {"a": 2, "b": 1},
        "pans": {
            "a": {0: pytest.approx(0.9), 1: pytest.approx(0.95)},
            "b": {0: pytest.approx(-0.85)},
        },
    }


def test_add_returns_the_entry_it_keeps():
    history = History(0.8)
    assert history.add(report(0.9), 0, 0) is history.entries[-1]


def test_an_entry_of_the_same_epoch_is_replaced():
    history = grown(0.0, 0.0)
    history.add(report(0.9), 0, 7)
    assert [(entry["epoch"], entry["count"]) for entry in history.entries] == [(-1, 0), (0, 1)]


@pytest.mark.parametrize("tried", [0.0, 0.82, 0.9])
@pytest.mark.parametrize("before", [0.0, 0.9])
@pytest.mark.parametrize("final", [0.0, 0.82, 0.9])
def test_an_epoch_that_is_measured_twice_is_compared_with_the_epoch_before(before, tried, final):
    twice = grown(before, tried)
    twice.add(report(final), 0, 0)
    assert born_and_gone(twice) == born_and_gone(grown(before, final))


@pytest.mark.parametrize("tried, final", [(0.9, 0.0), (0.0, 0.9), (0.9, 0.82)])
def test_an_epoch_that_is_measured_twice_leaves_the_births_of_the_second_measurement(tried, final):
    twice = grown(0.0, tried)
    twice.add(report(final), 0, 0)
    assert twice.births == grown(0.0, final).births


@pytest.mark.parametrize("tried, final", [(0.9, 0.0), (0.0, 0.9)])
def test_nobody_is_born_or_gone_when_the_first_epoch_is_measured_twice(tried, final):
    history = grown(tried)
    history.add(report(final), -1, 0)
    assert born_and_gone(history) == [(0, 0)]


# ---- in a checkpoint


def through_a_file(state: dict, path) -> dict:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def resumed(history: History, path) -> History:
    twin = History(history.threshold)
    twin.load_state_dict(through_a_file(history.state_dict(), path))
    return twin


LONG = [(0.0, 0.9, 0.78), (0.9, 0.9, 0.82), (0.82, 0.7, 0.9), (0.78, 0.9, 0.7), (0.9, 0.6, 0.9), (0.1, 0.9, 0.82)]


def test_a_history_survives_a_checkpoint(tmp_path):
    history = grown(*LONG)
    twin = resumed(history, tmp_path / "state.pt")
    assert (twin.entries, twin.births) == (history.entries, history.births)


@pytest.mark.parametrize("stop", range(len(LONG) + 1))
def test_a_history_goes_on_after_a_checkpoint_as_if_nothing_had_happened(stop, tmp_path):
    history = resumed(grown(*LONG[:stop]), tmp_path / "state.pt")
    for epoch, tops in enumerate(LONG[stop:], start=stop - 1):
        history.add(report(*tops), epoch, 10 * epoch)
    whole = grown(*LONG)
    assert (history.entries, history.births) == (whole.entries, whole.births)


def test_a_history_goes_on_when_the_epoch_of_the_checkpoint_is_measured_again(tmp_path):
    history = resumed(grown(*LONG[:3]), tmp_path / "state.pt")
    history.add(report(*LONG[2]), 1, 10)
    assert (history.entries, history.births) == (grown(*LONG[:3]).entries, grown(*LONG[:3]).births)


def test_channels_and_epochs_are_still_numbers_after_a_checkpoint(tmp_path):
    births = resumed(grown(0.0, 0.9), tmp_path / "state.pt").births
    assert births == {"conv": {0: 0}}


def test_a_state_does_not_change_when_the_history_goes_on():
    history = grown(0.0, 0.9)
    state = history.state_dict()
    before = copy.deepcopy(state)
    history.add(report(0.1), 1, 10)
    assert state == before


def test_a_loaded_history_does_not_change_the_state_it_came_from():
    state = grown(0.0, 0.9).state_dict()
    before, twin = copy.deepcopy(state), History(0.8)
    twin.load_state_dict(state)
    twin.add(report(0.1), 1, 10)
    assert state == before


# ---- what is logged


def scalars(found: PANReport) -> dict[str, float]:
    history = History(found.threshold)
    return tags_and_values(found, history.add(found, 0, 0))


def test_tags_are_those_of_the_documentation():
    found = PANReport({"stem": layer(0.9), "body.0": layer(0.0)})
    expected = {
        f"pan/{key}" for key in ("count", "fraction", "nascent", "inherited", "both", "neither", "born", "gone")
    }
    expected |= {f"pan/{key}" for key in ("both", "neither", "count_low", "count_high", "visible", "reads_padding")}
    expected |= {"padding/reliance"} | {f"pan_side/{side}" for side in SIDES}
    expected |= {"pan_layer/stem", "pan_layer/body.0"}
    expected |= {"border_bias/mean", "border_bias/stem", "border_bias/body.0"}
    assert set(scalars(found)) == expected


@pytest.mark.parametrize(
    "tag, value",
    [
        ("pan/count", 3),
        ("pan/fraction", 0.75),
        ("pan/nascent", 2),
        ("pan/inherited", 1),
        ("pan/born", 0),
        ("pan/gone", 0),
        ("pan_side/top", 3),
        ("pan_side/bottom-right", 0),
        ("pan_layer/a", 2),
        ("pan_layer/b", 1),
        ("border_bias/mean", 0.5),
        ("border_bias/a", 0.25),
        ("border_bias/b", 0.75),
    ],
)
def test_scalars_have_the_figures_of_the_report(tag, value):
    found = PANReport({"a": layer(0.9, 0.95, 0.0, effect=2.0), "b": layer(-0.85, border_bias=0.75)})
    assert scalars(found)[tag] == value


def test_scalars_are_floats():
    assert {type(value) for value in scalars(report(0.9)).values()} == {float}


def test_what_is_not_known_of_a_layer_is_not_logged_and_of_the_network_is_nan():
    found = PANReport({"a": layer(NAN, border_bias=NAN), "b": layer(0.9)})
    unknown = {tag for tag, value in scalars(found).items() if math.isnan(value)}
    assert unknown == {"pan/count_low", "pan/count_high", "pan/visible", "pan/reads_padding", "padding/reliance"}


def test_reliance_is_logged_beside_the_count_and_flips_only_of_classes():
    lines = {"a": layer(0.9)}
    of_classes = PANReport(lines, reliance=Reliance("total variation", 0.125, None, 0.25, None, 8))
    of_numbers = PANReport(lines, reliance=Reliance("relative change", 0.5, None, None, None, 8))
    assert (scalars(of_classes)["padding/reliance"], scalars(of_classes)["padding/flips"]) == (0.125, 0.25)
    assert scalars(of_numbers)["padding/reliance"] == 0.5 and "padding/flips" not in scalars(of_numbers)
    entry = History(0.8).add(of_classes, 0, 0)
    assert (entry["reliance"], entry["flips"], entry["distance"]) == (0.125, 0.25, "total variation")


def test_a_border_bias_that_is_missing_is_not_logged():
    assert "border_bias/conv" not in scalars(report(0.9, border_bias=NAN))


def test_layers_that_were_left_out_are_not_logged():
    found = PANReport({"conv": layer(0.9), "head": LayerReport(4, (1, 1), skipped="1×1 kernel")})
    assert not any("head" in tag for tag in scalars(found))


def test_an_empty_report_logs_zero_pans():
    assert scalars(PANReport({}))["pan/count"] == 0
