"""Convolutions that pad in a forward of their own are measured, masked and penalised as those that are padded."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANReport, mask_permanently, masked, scan
from pan_callbacks.layers import CalledPad, Skip
from pan_callbacks.measurement.pads import find_pad
from tests.support import planted

IMAGES, SIZE = 32, 24


class Calls(nn.Conv2d):
    """Calls F.pad and the forward of its base class."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class CallsBoth(nn.Conv2d):
    """Calls F.pad and F.conv2d, as EfficientNet-PyTorch's layers do."""

    def forward(self, x):
        x = F.pad(x, [1, 1])
        return F.conv2d(F.pad(x, [0, 0, 1, 1]), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Holds(nn.Conv2d):
    """Holds a pad module."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d(1)

    def forward(self, x):
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride, self.padding)


class Doubles(nn.Conv2d):
    """Pads something else than what it is given."""

    def forward(self, x):
        return super().forward(F.pad(2 * x, (1, 1, 1, 1)))


KINDS = [Calls, CallsBoth, Holds]


def network(kind: type[nn.Conv2d] | None = None) -> planted.Planted:
    """A planted network whose layers pad as they do by themselves, or in their forward."""
    found = planted.line_or_solid(2, size=SIZE)
    for name in ("first", "second") if kind else ():
        own = getattr(found.model, name)
        conv = kind(own.in_channels, own.out_channels, 3, bias=own.bias is not None)
        conv.load_state_dict(own.state_dict(), strict=False)
        setattr(found.model, name, conv)
    return found


def quiet(model: nn.Module) -> PANReport:
    return scan(model, [planted.content_of(2, IMAGES, SIZE)], progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_measured_as_if_they_were_padded(kind):
    own, inside = quiet(network().model), quiet(network(kind).model)
    assert {line.pad for line in inside.layers.values()} == {"F.pad((1, 1, 1, 1), 'constant', 0.0) in its forward"}
    for name in own.layers:
        assert torch.equal(own.contrast(name).nan_to_num(9), inside.contrast(name).nan_to_num(9))
        assert torch.equal(own.effect(name).nan_to_num(9), inside.effect(name).nan_to_num(9))
    assert own.count > 0 and own.pans == inside.pans


@pytest.mark.parametrize("mode", ["neutral", "mean", "zero"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_layers_that_are_padded(kind, mode, tmp_path):
    own, inside, images = network().model, network(kind).model, planted.content_of(2, 4, SIZE, seed=1)
    quiet(inside).save(tmp_path / "pans.json")
    report = PANReport.load(tmp_path / "pans.json")
    with torch.no_grad(), masked(own, quiet(own), mode), masked(inside, report, mode):
        expected, found = own(images), inside(images)
        assert torch.equal(expected, found)
    for_good = mask_permanently(inside, report, mode)
    with torch.no_grad():
        assert torch.equal(for_good(images), expected) and not torch.equal(network().model(images), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_that_of_layers_that_are_padded(kind):
    images, values = planted.content_of(2, 4, SIZE, seed=1), []
    for made in (network(), network(kind)):
        model = copy.deepcopy(made.model).requires_grad_()
        penalty = PaddingBiasPenalty(model)
        model(images)
        value = penalty()
        value.backward()
        values.append((value.detach(), model.first.weight.grad.clone()))
    assert values[0][0] > 0
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)


def test_a_layer_that_pads_what_it_made_of_its_input_says_so():
    report = quiet(network(Doubles).model)
    assert report.neurons == 0
    for line in report.layers.values():
        assert line.skip is Skip.UNKNOWN_PAD and "of what its forward makes of its input" in line.skipped


def test_a_pad_before_a_layer_that_convolves_something_else_is_none_of_its_own():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3)

        def forward(self, x):
            padded = F.pad(x, (1, 1, 1, 1))
            return self.conv(x).mean() + self.other(padded).mean()

    report = quiet(Branches())
    assert report.layers["conv"].skip is Skip.NO_PADDING
    assert report.layers["other"].pad == "F.pad((1, 1, 1, 1), 'constant', 0.0)"


def test_its_name_in_a_report_leads_back_to_it():
    pad = CalledPad((1, 2, 0, 1), "reflect", 0.0, inside=True)
    assert find_pad({}, str(pad)) == pad


class Scales(nn.Conv2d):
    def forward(self, x, by):
        return super().forward(x) * by


class Pairs(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), 3


@pytest.mark.parametrize(
    ("kind", "use", "skip", "words"),
    [
        (Scales, lambda conv, x: conv(x, 2.0), Skip.NO_KERNEL, "missing 1 required positional argument: 'by'"),
        (Pairs, lambda conv, x: conv(x)[0], Skip.NO_MAP, "takes or gives something else than one map"),
        (nn.Conv2d, lambda conv, x: torch.vmap(conv)(x), None, None),
    ],
)
def test_a_forward_of_ones_own_that_is_no_convolution_leaves_out_its_layer_alone(kind, use, skip, words):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), kind(4, 4, 3, padding=1)

        def forward(self, x):
            return use(self.second, self.first(x))

    report = quiet(Net())
    assert report.layers["first"].reference == "crop"
    # of such a network nobody knows what it would answer without padding, which is said
    (note,) = report.notes
    assert note.startswith("how far the answers rely on padding is not known: ")
    if skip is not None:
        line = report.layers["second"]
        assert line.skip is skip and words in line.skipped
