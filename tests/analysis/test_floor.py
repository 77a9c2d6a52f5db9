"""The floor of a count: none where padding is all there is, and random weights that are the same each time."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis import floor as module
from pan_callbacks.analysis.floor import MOST_IMAGES, NEUTRAL, RANDOM, Floor, floor, with_random_weights
from pan_callbacks.errors import PANError
from tests.support import planted
from tests.support.synthetic import small_net


def floor_of(net: nn.Module, images: torch.Tensor, **options) -> Floor:
    return floor(net, images.split(8), scan(net, [images], progress=False, **options))


@pytest.fixture(scope="module", params=["single", "chain"])
def found(request) -> Floor:
    made = planted.single(3) if request.param == "single" else planted.chain(3)
    return floor_of(made.model.eval(), planted.stationary(16, 32))


class TestPlanted:
    def test_nothing_remains_with_all_padding_neutral(self, found):
        assert found.neutral.count == 0
        assert found.neutral.neurons == found.own.neurons

    def test_the_model_has_its_own_count(self, found):
        assert found.own.count >= len(planted.RECIPES)

    def test_random_weights_are_measured_on_as_many_neurons(self, found):
        assert found.random.neurons == found.own.neurons


def test_it_is_what_a_scan_of_the_same_images_finds():
    """On the same images and settings, of a model that somebody masked or reset himself."""
    net, images = planted.chain(3).model.eval(), planted.stationary(16, 32)
    found = floor_of(net, images, layers=["first", "third"], threshold=0.7)
    anew = scan(with_random_weights(net), [images], layers=["first", "third"], threshold=0.7, progress=False)
    assert found.random.to_dict() == anew.to_dict()
    assert (found.random.threshold, found.random.reference) == (0.7, "crop")


def test_a_report_on_the_same_images_is_the_models_own_count():
    net, images = planted.single(3).model.eval(), planted.stationary(16, 32)
    report = scan(net, [images], progress=False)
    found = floor(net, [images], report)
    assert found.own is report
    assert found.summary().startswith("0 remain with all padding neutral (the floor); random weights")


def test_fewer_images_are_told_with_the_models_own_count_on_them(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 12)
    net, images = planted.single(3).model.eval(), planted.stationary(16, 32)
    found = floor_of(net, images)
    assert (found.images, found.known) == (12, 16)
    assert found.own.images == 12
    count = len(planted.RECIPES)
    assert f"On 12 of the images, {count} of the model's neurons" in found.summary()


def test_a_report_on_other_images_is_not_taken_for_the_models_own_count():
    net, images = planted.single(3).model.eval(), planted.stationary(16, 32)
    report = scan(net, [planted.stationary(16, 32, seed=9)], progress=False)
    found = floor(net, [images], report, same_images=False)
    assert found.own is not report
    assert found.summary().startswith("On 16 of the images")


def test_no_more_images_are_looked_at_than_are_told():
    assert floor_of(small_net(), torch.randn(MOST_IMAGES + 5, 3, 12, 12)).images == MOST_IMAGES


class TestRandomWeights:
    def test_of_one_seed_they_are_the_same_and_of_another_others(self):
        net = small_net()
        one, again, other = (with_random_weights(net, seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(one[key], again[key]) for key in one)
        assert not torch.equal(one["0.weight"], other["0.weight"])

    def test_model_and_random_states_are_left_as_they_were(self):
        net = small_net()
        before, state = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
        with_random_weights(net)
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)

    def test_batch_norm_is_that_of_a_new_network(self):
        net = small_net()
        net[1].running_mean.fill_(3)
        net[1].weight.data.fill_(2)
        made = with_random_weights(net)
        assert (made[1].running_mean == 0).all() and (made[1].running_var == 1).all() and (made[1].weight == 1).all()

    def test_what_nothing_resets_is_shuffled(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.gain = nn.Parameter(torch.arange(100.0))

            def forward(self, x):
                return x * self.gain[:1]

        net = nn.Sequential(nn.Conv2d(1, 2, 3), Scale())
        gain = with_random_weights(net)[1].gain
        assert not torch.equal(gain, net[1].gain)
        assert torch.equal(gain.sort().values, net[1].gain)

    def test_a_weight_that_is_computed_from_others_is_made_of_shuffled_ones(self):
        net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)))
        made = with_random_weights(net)
        assert not torch.equal(made[0].weight, net[0].weight)


class Stubborn(nn.Conv2d):
    def reset_parameters(self):
        if hasattr(self, "made"):
            raise RuntimeError("only\nonce")
        super().reset_parameters()
        self.made = True


class TestWhatCannotBeMeasured:
    def test_a_model_that_is_not_reset_gives_no_random_count_and_the_reason(self):
        found = floor_of(nn.Sequential(Stubborn(3, 4, 3, padding=1)).eval(), torch.randn(16, 3, 24, 24))
        assert found.random is None and found.neutral is not None
        assert found.reasons == {RANDOM: "RuntimeError: only once"}
        assert f"{RANDOM}: an unknown number." in found.summary()
        assert f"Not measured {RANDOM}: RuntimeError: only once." in found.summary()

    def test_a_model_that_cannot_be_copied_likewise(self):
        net = small_net()
        net[0].kept = torch.ones(2, requires_grad=True) * 2  # no leaf, which deepcopy refuses
        found = floor_of(net, torch.randn(16, 3, 24, 24))
        assert found.random is None and RANDOM in found.reasons

    def test_a_network_that_explodes_with_random_weights_is_not_counted_as_zero(self):
        class Wild(nn.Conv2d):
            def reset_parameters(self):
                nn.init.constant_(self.weight, torch.nan if hasattr(self, "made") else 0.1)
                nn.init.zeros_(self.bias)
                self.made = True

        found = floor_of(nn.Sequential(Wild(3, 4, 3, padding=1)).eval(), torch.rand(16, 3, 24, 24))
        assert found.random is None
        assert found.reasons[RANDOM] == "PANError: no layer was measured"

    def test_without_images_it_is_an_error_that_says_so(self):
        net = small_net()
        with pytest.raises(PANError, match="no images"):
            floor(net, [], scan(net, [torch.randn(8, 3, 24, 24)], progress=False))


def test_layers_whose_names_are_patterns_are_found():
    net = nn.Sequential(OrderedDict({"a[0]": nn.Conv2d(3, 4, 3, padding=1)})).eval()
    assert floor_of(net, torch.rand(16, 3, 24, 24)).reasons == {}


def test_as_plain_data_it_has_counts_with_their_intervals_and_by_layer():
    found = floor_of(planted.single(3).model.eval(), planted.stationary(16, 32))
    plain = found.to_dict()
    assert plain["counts"] == {"own": found.own.count, "neutral": 0, "random": found.random.count}
    assert tuple(plain["intervals"]["own"]) == found.own.interval
    assert plain["by_layer"]["neutral"] == {"conv": 0} and json.loads(json.dumps(plain))["images"] == 16
    assert NEUTRAL not in plain["reasons"]
