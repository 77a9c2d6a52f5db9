"""Layers that come, go, grow and shrink: whose births count, and which counts may be compared."""

from __future__ import annotations

import math

import pytest
import torch

from pan_callbacks.layers import Skip
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.entries import entry_of, missing_layers, scalars, why_missing
from pan_callbacks.reports.history import History
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from tests.reports.test_history import born_and_gone, layer, resumed

REASONS = [
    Skip.NOT_FINITE.because(),
    Skip.NEVER_CALLED.because(),
    Skip.NO_BORDER.because(height=2, width=2),
    Skip.TOO_FEW_READINGS.because(images="1 image"),
    Skip.NO_REFERENCE.because(tried="crop: too small"),
]


def left_out(reason: str | None = REASONS[0], channels: int = 1) -> LayerReport:
    return LayerReport(channels, (3, 3), skipped=reason)


def probed(*reports: dict[str, LayerReport]) -> History:
    """A history with one entry for each of these, from epoch -1 on."""
    history = History(0.8)
    for epoch, layers in enumerate(reports, start=-1):
        history.add(PANReport(layers), epoch, 10 * epoch)
    return history


def logged(history: History) -> dict[str, float]:
    return scalars(history.report, history.entries[-1])


# ---- births of layers that were not there


def test_standing_pans_of_a_layer_that_grew_are_not_born():
    history = probed({"a": layer(0.9)}, {"a": layer(0.9), "b": layer(0.95, 0.9, 0.0)})
    assert born_and_gone(history) == [(0, 0), (0, 0)]
    assert history.births == {"a": {0: -1}, "b": {0: 0, 1: 0}}


def test_a_layer_that_grew_has_births_from_its_second_measurement_on():
    history = probed(
        {"a": layer(0.9)}, {"a": layer(0.9), "b": layer(0.9, 0.0)}, {"a": layer(0.0), "b": layer(0.9, 0.9)}
    )
    assert born_and_gone(history)[-1] == (1, 1)


@pytest.mark.parametrize("contrast", [0.8, 0.82])
def test_a_pan_within_the_band_lives_from_the_first_measurement_of_its_layer_on(contrast):
    history = probed({"a": layer(0.0)}, {"a": layer(0.0), "b": layer(contrast)}, {"a": layer(0.0), "b": layer(0.9)})
    assert born_and_gone(history) == [(0, 0)] * 3 and history.births["b"] == {0: 0}


def test_channels_that_a_layer_grew_are_not_born_and_its_old_ones_are():
    history = probed({"a": layer(0.9, 0.0)}, {"a": layer(0.9, 0.95, 0.9, 0.81)})
    assert born_and_gone(history)[-1] == (1, 0)
    assert history.births == {"a": {0: -1, 1: 0, 2: 0, 3: 0}}


def test_a_layer_that_lost_channels_has_neither_births_nor_deaths():
    history = probed({"a": layer(0.0, 0.9, 0.9)}, {"a": layer(0.9, 0.0)}, {"a": layer(0.0, 0.9)})
    assert born_and_gone(history) == [(0, 0), (0, 0), (1, 1)]
    assert history.births == {"a": {1: 1}}


@pytest.mark.parametrize("between", [{}, {"b": left_out()}, {"b": left_out(REASONS[1])}])
def test_a_layer_that_was_missing_in_between_has_neither_births_nor_deaths(between):
    there = {"a": layer(0.0), "b": layer(0.9, 0.0)}
    history = probed(there, {"a": layer(0.0), **between}, {"a": layer(0.9), "b": layer(0.0, 0.9)})
    assert born_and_gone(history) == [(0, 0), (0, 0), (1, 0)]  # the one of a alone
    assert history.births == {"a": {0: 1}, "b": {1: 1}}


def test_of_a_measurement_that_failed_nobody_is_born_or_gone_and_the_next_is_compared_with_none():
    history = probed({"a": layer(0.9, 0.0)})
    history.add(PANReport({"a": layer(0.0, 0.9)}), 0, 0, failed=True)
    assert history.births == {"a": {0: -1}}
    history.add(PANReport({"a": layer(0.0, 0.9)}), 1, 0)
    assert born_and_gone(history) == [(0, 0)] * 3 and history.births == {"a": {1: 1}}


def test_an_epoch_that_is_measured_twice_forgets_the_channels_of_the_first_measurement():
    history = probed({"a": layer(0.0)}, {"a": layer(0.9, 0.9)})
    history.add(PANReport({"a": layer(0.9)}), 0, 0)
    history.add(PANReport({"a": layer(0.9, 0.9)}), 1, 0)
    assert born_and_gone(history) == [(0, 0), (1, 0), (0, 0)]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_growth_is_known_after_a_checkpoint(stop, tmp_path):
    steps = [{"a": layer(0.9)}, {"a": layer(0.9, 0.9)}, {"a": layer(0.9, 0.0), "b": layer(0.9)}, {"b": layer(0.0)}]
    history = resumed(probed(*steps[:stop]), tmp_path / "state.pt")
    for epoch, layers in enumerate(steps[stop:], start=stop - 1):
        history.add(PANReport(layers), epoch, 10 * epoch)
    whole = probed(*steps)
    assert (history.entries, history.births) == (whole.entries, whole.births)


def test_a_checkpoint_of_an_earlier_release_is_loaded():
    history = probed({"a": layer(0.9, 0.0)}, {"a": layer(0.9, 0.0)})
    state = {key: value for key, value in history.state_dict().items() if not key.startswith("channels")}
    twin = History(0.8)
    twin.load_state_dict(state)
    twin.add(PANReport({"a": layer(0.9, 0.9), "b": layer(0.9)}), 1, 10)
    assert born_and_gone(twin)[-1] == (1, 0)


# ---- counts that lack a layer


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.skip.name)
def test_a_count_that_lacks_a_layer_measured_before_is_nan(reason):
    history = probed({"a": layer(0.9), "b": layer(0.9, 0.95)}, {"a": layer(0.9), "b": left_out(reason, 2)})
    values = logged(history)
    whole = {f"pan/{key}" for key in ("count", "count_low", "count_high", "fraction", "born", "gone")}
    whole |= {f"pan/{key}" for key in ("nascent", "inherited", "both", "neither", "visible", "reads_padding")}
    whole |= (
        {"padding/reliance"}
        | {f"pan_side/{side}" for side in SIDES}
        | {"border_bias/mean", "pan_layer/b", "border_bias/b"}
    )
    assert {tag for tag, value in values.items() if math.isnan(value)} == whole
    assert values["pan_layer/a"] == 1 and values["border_bias/a"] == 0.25
    entry = history.entries[-1]
    assert entry["missing"] == ["b"] and entry["layers"]["a"] == 1
    for key in ("count", "fraction", "nascent", "inherited", "border_bias"):
        assert math.isnan(entry[key])
    assert all(math.isnan(count) for count in entry["sides"].values())


def test_a_count_that_lacks_a_layer_which_left_the_model_is_nan():
    history = probed({"a": layer(0.9), "b": layer(0.9)}, {"a": layer(0.9)})
    assert math.isnan(logged(history)["pan/count"]) and math.isnan(logged(history)["pan_layer/b"])


def test_a_layer_missing_for_several_epochs_is_missing_in_each_and_counts_again_when_it_returns():
    there, gone = {"a": layer(0.9), "b": layer(0.9)}, {"a": layer(0.9), "b": left_out()}
    history = probed(there, gone, gone, there)
    assert [entry.get("missing") for entry in history.entries] == [None, ["b"], ["b"], None]
    assert logged(history)["pan/count"] == 2


def test_a_dead_network_has_no_count_in_the_first_epoch_already():
    history = probed({"a": left_out(), "b": left_out()})
    assert math.isnan(logged(history)["pan/count"])
    assert math.isnan(scalars(history.report, entry_of(history.report, 0, 0))["pan/count"])


@pytest.mark.parametrize("reason", [*REASONS[1:], Skip.POINTWISE.because(), Skip.NO_PADDING.because()])
def test_a_layer_that_never_had_a_count_is_not_missing(reason):
    history = probed(*[{"a": layer(0.9), "b": left_out(reason)}] * 2)
    assert logged(history)["pan/count"] == 1 and "missing" not in history.entries[-1]


def test_a_measurement_that_ended_early_has_no_count():
    history = History(0.8)
    found = PANReport({"a": layer(0.9), "b": left_out(REASONS[1]), "c": left_out(Skip.POINTWISE.because())})
    entry = history.add(found, 0, 0, failed=True)
    assert entry["missing"] == ["a", "b"] and math.isnan(entry["count"])
    values = scalars(found, entry)
    assert math.isnan(values["pan/count"]) and math.isnan(values["pan_layer/a"]) and math.isnan(values["pan_layer/b"])


def test_a_validation_is_compared_with_the_layers_of_the_history():
    history = probed({"a": layer(0.9), "b": layer(0.9)})
    found = PANReport({"a": layer(0.9), "b": left_out(REASONS[1])})
    entry = entry_of(found, 0, 0, missing=missing_layers(found, history.known))
    assert math.isnan(scalars(found, entry)["pan/count"])
    assert scalars(found, entry_of(found, 0, 0))["pan/count"] == 1


def test_what_is_missing_is_said_in_a_sentence():
    history = probed({"a": layer(0.9), "b": layer(0.9), "c": layer(0.0)}, {"a": layer(0.9), "b": left_out(REASONS[1])})
    assert why_missing(history.report, history.entries[0]) is None
    said = why_missing(history.report, history.entries[1])
    assert "epoch 0 lacks 2 layers ('b', 'c'; b: never called)" in said and "NaN" in said


def test_the_layers_of_a_checkpoint_are_known(tmp_path):
    history = resumed(probed({"a": layer(0.9), "b": layer(0.9)}, {"a": layer(0.9), "b": left_out()}), tmp_path / "s.pt")
    history.add(PANReport({"a": layer(0.9)}), 1, 0)
    assert history.entries[-1]["missing"] == ["b"]


def test_no_entry_has_tensors(tmp_path):
    history = probed({"a": layer(0.9)}, {"a": left_out()})
    assert not any(isinstance(value, torch.Tensor) for entry in history.entries for value in entry.values())
