"""What masking is said to do is what it does: on networks whose answer depends on known neurons alone."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PANError, impact, masked, scan
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.suppression.masks import MODES
from pan_callbacks.suppression.targets import draw_controls, padded_channels
from tests.support import planted
from tests.support.synthetic import labelled, layer, report_on, small_net

RECIPES = planted.EDGE_RECIPES[:4]  # the top and the bottom, excited and inhibited
PANS = {"conv": (0, 1, 2, 3)}
SIGNS = torch.tensor([sum(recipe.values()) for recipe in RECIPES])


class BorderHead(nn.Module):
    """Says class 1 where the detectors answer at the border, and reads no other channel."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inside = maps[:, :4, 8:-8].mean((2, 3))
        border = torch.stack([maps[:, i, 0 if "top" in RECIPES[i] else -1].mean(1) for i in range(4)], 1)
        seen = ((border - inside) * SIGNS).mean(1) / planted.STRENGTH
        return 10 * torch.stack([1 - 2 * seen, 2 * seen - 1], 1)


class ContentHead(nn.Module):
    """Tells images by the distractors alone."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return 20 * maps[:, 4:].mean((2, 3))


def network(head: nn.Module) -> nn.Sequential:
    conv = planted.detectors(3, recipes=RECIPES)
    return nn.Sequential(OrderedDict(conv=conv, head=head)).eval()


def told_by_the_border(count: int = 24) -> list:
    """Images whose class is whether the channel of ones, which the detectors look at, is there."""
    images = planted.stationary(count, 32)
    labels = torch.arange(count) % 4 % 3 % 2  # 0, 1, 0, 0: a quarter is of class 1
    images[:, planted.ONES] *= labels[:, None, None]
    return [(images, labels)]


@pytest.fixture(scope="module")
def border():
    net = network(BorderHead())
    report = scan(net, [planted.stationary(32, 32)], progress=False)
    assert report.neurons_by_layer() == {"conv": [0, 1, 2, 3]}
    return impact(net, told_by_the_border(), report, mode=MODES, controls=3, progress=False)


@pytest.fixture(scope="module")
def content():
    net = network(ContentHead())
    images = planted.stationary(24, 32)
    labels = net(images).argmax(1)
    return impact(net, [(images, labels)], report_on(net, PANS), mode=MODES, controls=2, progress=False)


class TestAnswerOfPlantedNeuronsAlone:
    def test_the_network_as_it_is_is_right(self, border):
        assert border.baseline.value == 1.0

    @pytest.mark.parametrize("mode", MODES)
    def test_without_them_it_always_says_the_same(self, border, mode):
        arm = border.arm("pans", mode)
        assert (arm.value, arm.flips) == (0.75, 0.25)
        assert arm.classes.change.tolist() == [0.0, -1.0]

    @pytest.mark.parametrize("mode", MODES)
    def test_other_neurons_change_nothing_at_all(self, border, mode):
        assert [(arm.value, arm.kl, arm.flips) for arm in border.controls(mode)] == [(1.0, 0.0, 0.0)] * 3

    def test_without_any_padding_it_always_says_the_same(self, border):
        arm = border.arm("padding", "neutral")
        assert (arm.value, arm.flips, arm.neurons) == (0.75, 0.25, 4 + planted.DISTRACTORS)

    def test_as_many_others_are_masked(self, border):
        assert {arm.neurons for arm in border.arms if arm.kind in ("pans", "control")} == {4}


class TestAnswerOfOtherNeuronsAlone:
    @pytest.mark.parametrize("mode", MODES)
    def test_masked_pans_change_nothing_at_all(self, content, mode):
        arm = content.arm("pans", mode)
        assert (arm.value, arm.kl, arm.flips) == (1.0, 0.0, 0.0)

    def test_masked_controls_do(self, content):
        assert all(arm.kl > 0.1 for arm in content.controls("zero"))

    def test_what_reads_no_padding_does_not_miss_it(self, content):
        assert content.arm("padding", "neutral").kl == pytest.approx(0, abs=1e-8)


class TestControls:
    REPORT = PANReport({"a": layer(64, {i: {"top": 1.0} for i in (3, 5, 8)}), "b": layer(32, {0: {"left": -1.0}})})

    @pytest.mark.parametrize("seed", range(20))
    def test_they_are_no_pans_and_as_many_per_layer(self, seed):
        drawn = draw_controls(self.REPORT, seed)
        assert {name: len(set(channels)) for name, channels in drawn.items()} == {"a": 3, "b": 1}
        assert not set(drawn["a"]) & {3, 5, 8}
        assert drawn["b"] != [0]

    def test_the_same_seed_draws_the_same(self):
        assert draw_controls(self.REPORT, 7) == draw_controls(self.REPORT, 7)

    def test_draws_differ(self):
        assert len({tuple(draw_controls(self.REPORT, seed)["a"]) for seed in range(20)}) > 15

    def test_every_other_neuron_is_drawn_as_often(self):
        report = PANReport({"a": layer(6, {0: {"top": 1.0}, 1: {"top": 1.0}})})
        counts = torch.zeros(6)
        for seed in range(400):
            counts[draw_controls(report, seed)["a"]] += 1
        assert counts[:2].tolist() == [0, 0]
        assert counts[2:].min() > 160  # of 200, standard deviation 10

    def test_a_layer_with_more_pans_than_others_has_fewer_and_a_note_says_so(self):
        net = small_net()
        found = impact(net, labelled(4, 4), report_on(net, {"0": (0, 1, 2, 3, 4)}), controls=1, progress=False)
        assert found.arm("control", "neutral").neurons == 3
        assert "controls are 2 neurons fewer than PANs" in found.notes[0]

    def test_another_seed_masks_others(self):
        net = small_net()
        report = report_on(net, {"0": (0, 1), "3": (2,)})
        kl = {
            impact(net, labelled(8, 8), report, "zero", 1, seed, progress=False).arm("control", "zero").kl
            for seed in (0, 0, 1)
        }
        assert len(kl) == 2


@pytest.mark.parametrize("size", [12, 3])
def test_padding_arm_is_the_network_with_reflect_padding_built_by_hand(size):
    net, batches = small_net(), labelled(40, 16, size=size)
    reflected = copy.deepcopy(net)
    for conv in (reflected[0], reflected[3]):
        conv.padding_mode = "reflect"
    arm = impact(net, batches, report_on(net, {"0": (1,)}), controls=0, progress=False).arm("padding", "neutral")
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    with torch.no_grad():
        before, after = net(images).double().softmax(1), reflected(images).double().softmax(1)
    kl = F.kl_div(after.log(), before, reduction="batchmean")
    assert arm.kl == pytest.approx(float(kl), rel=1e-4)
    assert arm.flips == pytest.approx(float((before.argmax(1) != after.argmax(1)).double().mean()))
    assert arm.flips > 0
    assert arm.value == pytest.approx(float((after.argmax(1) == labels).double().mean()))


def test_padding_arm_leaves_layers_without_padding_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    assert padded_channels(net, report_on(net, {})) == {"0": [0, 1, 2, 3]}


@pytest.mark.parametrize("mode", MODES)
def test_arms_are_what_masked_makes_of_the_model(mode):
    net, ((images, _),) = small_net(), labelled(16, 16)
    report = report_on(net, {"0": (0, 5), "3": (2,)})
    arm = impact(net, [images], report, mode, controls=0, progress=False).arm("pans", mode)
    with torch.no_grad():
        before = net(images).double()
        with masked(net, report, mode):
            after = net(images).double()
    kl = F.kl_div(after.log_softmax(1), before.log_softmax(1), reduction="batchmean", log_target=True)
    assert arm.kl == pytest.approx(float(kl), abs=1e-8)


class TestModelIsLeftAsItWas:
    def parts(self, net: nn.Module) -> tuple:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
        return (
            hooks,
            [m.training for m in net.modules()],
            torch.get_rng_state().tolist(),
            [p.grad for p in net.parameters()],
        )

    def net(self) -> nn.Module:
        net = small_net().train()
        net[0].eval()
        return net

    def test_afterwards(self):
        net = self.net()
        weights, parts = copy.deepcopy(net.state_dict()), self.parts(net)
        impact(net, labelled(8, 4), report_on(net, {"0": (0,)}), MODES, progress=False)
        assert self.parts(net) == parts
        assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())

    @pytest.mark.parametrize("forwards", [1, 3, 9])
    def test_after_an_exception_in_a_forward(self, forwards):
        net = self.net()
        parts, calls = self.parts(net), []

        class Fails(nn.Module):
            def forward(self, x):
                calls.append(x)
                assert len(calls) < forwards, "enough"
                return x

        net.append(Fails())
        with pytest.raises(AssertionError, match="enough"):
            impact(net, labelled(8, 4), report_on(net, {"0": (0,)}), progress=False)
        del net[-1]
        assert self.parts(net) == parts

    def test_after_an_exception_in_the_batches(self):
        def batches():
            yield from labelled(4, 4)
            raise OSError("disk gone")

        net = self.net()
        parts = self.parts(net)
        with pytest.raises(OSError, match="disk gone"):
            impact(net, batches(), report_on(net, {"0": (0,)}), progress=False)
        assert self.parts(net) == parts

    def test_a_hook_of_somebody_else_stays_and_works(self):
        net, calls = small_net(), []
        net[0].register_forward_hook(lambda *_: calls.append(1))
        impact(net, labelled(4, 4), report_on(net, {"0": (0,)}), controls=0, progress=False)
        assert len(calls) == 3


class TestWhatItCannotDo:
    def test_report_of_another_model(self):
        report = report_on(nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3))), {"stem": (0,)})
        with pytest.raises(PANError, match="made for another model: layer 'stem'"):
            impact(small_net(), labelled(4, 4), report, progress=False)

    def test_report_of_a_wider_model(self):
        report = report_on(nn.Sequential(nn.Conv2d(3, 64, 3)), {"0": (40,)})
        with pytest.raises(PANError, match="channel 40 of layer '0', which has 8 channels"):
            impact(small_net(), labelled(4, 4), report, progress=False)

    @pytest.mark.parametrize("label", [-1, 5])
    def test_labels_out_of_range(self, label):
        batches = labelled(4, 4)
        batches[0][1][2] = label
        with pytest.raises(PANError, match=f"{label}.* for a model of 5 classes"):
            impact(small_net(), batches, report_on(small_net(), {"0": (0,)}), progress=False)

    def test_no_batches(self):
        with pytest.raises(PANError, match="batches is empty"):
            impact(small_net(), [], report_on(small_net(), {"0": (0,)}), progress=False)

    def test_batches_without_images(self):
        with pytest.raises(PANError, match="batches holds no images: a str"):
            impact(small_net(), ["images"], report_on(small_net(), {"0": (0,)}), progress=False)

    @pytest.mark.parametrize("labels", [[0, 1, 2, 3], torch.tensor([0, 1]), "none"])
    def test_labels_that_are_not_one_for_each_image(self, labels):
        with pytest.raises(PANError, match="4 images need a tensor of as many labels, not a "):
            impact(small_net(), [(labelled(4, 4)[0][0], labels)], report_on(small_net(), {"0": (0,)}), progress=False)

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match="mode='nought' is unknown"):
            impact(small_net(), labelled(4, 4), report_on(small_net(), {"0": (0,)}), ("zero", "nought"))

    def test_controls_below_zero(self):
        with pytest.raises(ValueError, match="controls=-1"):
            impact(small_net(), labelled(4, 4), report_on(small_net(), {"0": (0,)}), controls=-1)

    def test_answers_that_are_not_numbers_are_no_predictions(self):
        net = small_net()
        report = report_on(net, {"0": (0,)})
        report.layers["0"].mean[0] = torch.nan
        with pytest.raises(PANError, match="the masked model answers with NaN"):
            impact(net, labelled(4, 4), report, "mean", controls=0, progress=False)


def test_a_report_without_pans_masks_nothing_and_says_so():
    found = impact(small_net(), labelled(8, 4), report_on(small_net(), {}), controls=2, progress=False)
    assert "the report has no PANs: nothing was masked" in found.notes
    assert [(arm.neurons, arm.kl) for arm in found.arms if arm.kind in ("pans", "control")] == [(0, 0.0)] * 3


def test_an_empty_batch_adds_nothing():
    net, batches = small_net(), labelled(8, 4)
    empty = (torch.zeros(0, 3, 12, 12), torch.zeros(0, dtype=torch.long))
    found = [impact(net, b, report_on(net, {"0": (0,)}), progress=False) for b in (batches, [*batches, empty])]
    assert found[0].to_dict() == found[1].to_dict()


def test_layers_that_the_report_left_out_do_not_need_to_be_there():
    net = small_net()
    report = report_on(net, {"0": (0,)})
    layers = {**report.layers, "gone": LayerReport(4, (1, 1), skipped="1×1 kernel")}
    assert impact(net, labelled(4, 4), PANReport(layers), controls=0, progress=False).images == 4
