"""Penalty and masks of convolutions in one and three dimensions, by brute force; transposed ones by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANError, masked, scan
from tests.support import planted
from tests.support.penalty_by_hand import by_hand

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZE, KERNEL = 10, 3


def images(dims, n=4):
    return torch.randn(n, 2, *(SIZE,) * dims, generator=torch.Generator().manual_seed(dims)) + 0.5


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"padding_mode": "replicate"}], ids=str
)
def test_the_penalty_is_what_numpy_computes_position_by_position(dims, groups, options):
    torch.manual_seed(0)
    net = nn.Sequential(PLAIN[dims](2, 4, KERNEL, **{"padding": 1, "groups": groups, **options}))
    rising = torch.linspace(0, 30, SIZE)  # so that a border that repeats it differs from one that reflects it
    x = images(dims, 20) * 0.3 + rising
    penalty = PaddingBiasPenalty(net)
    net(x)
    value = penalty()
    value.backward()
    expected = by_hand(net[0], x)
    assert value.item() == pytest.approx(expected.beyond.mean(), rel=1e-3)
    assert expected.beyond.max() > 1e-3
    if groups == 1:
        np.testing.assert_allclose(net[0].weight.grad, expected.gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_single_image_is_a_batch_of_one(dims):
    torch.manual_seed(0)
    net, x = nn.Sequential(PLAIN[dims](2, 4, KERNEL, padding=1)), images(dims, 1) + 2
    values = []
    for given in (x, x[0]):
        penalty = PaddingBiasPenalty(net)
        net(given)
        values.append(penalty())
        penalty.detach()
    assert values[0] == values[1]
    assert (values[0] > 0) == (dims > 1)  # three readings inside say nothing of a line


@pytest.mark.parametrize("dims", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_planted_detectors_are_priced_and_neither_others_nor_what_inherits_from_them(dims):
    network = planted.line_or_solid(dims, size=24)
    images = planted.content_of(dims, 16, 24)
    for layer in ("first", "second"):
        channels = range(network.model.get_submodule(layer).out_channels)
        pans = {channel for name, channel in network.truth if name == layer}
        prices = {}
        for channel in channels:
            model = network.model.requires_grad_(True)
            penalty = PaddingBiasPenalty(model, neurons={layer: [channel]})
            model(images)
            prices[channel] = penalty().item()
            penalty.detach()
        priced = pans if layer == "first" else set()  # the second layer has centre taps alone: it inherits
        assert {channel for channel, price in prices.items() if price > 0.01} == priced
        assert all(price == 0 for channel, price in prices.items() if channel not in priced)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["neutral", "zero", "mean"])
def test_masks_do_what_the_report_says(dims, mode):
    network, x = planted.line_or_solid(dims, size=24), planted.content_of(dims, 16, 24)
    report = scan(network.model, [x], progress=False)
    first, pans = network.model.first, report.neurons_by_layer()["first"]
    others = [channel for channel in range(first.out_channels) if channel not in pans]
    with torch.no_grad():
        plain = first(x)
        with masked(network.model, report, mode):
            found = first(x)
        expected = {
            "zero": torch.zeros_like(plain),
            "mean": report.layers["first"].mean.view(1, -1, *(1,) * dims).expand_as(plain),
            "neutral": getattr(F, f"conv{dims}d")(F.pad(x, (1, 1) * dims, "reflect"), first.weight, first.bias),
        }[mode]
    torch.testing.assert_close(found[:, pans], expected[:, pans])
    assert torch.equal(found[:, others], plain[:, others])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_are_refused_by_name_and_else_left_out(dims):
    net = nn.Sequential(PLAIN[dims](2, 4, 3, padding=1), TRANSPOSED[dims](4, 3, 3, padding=1))
    with pytest.raises(PANError, match=r"no padded convolution to penalise: layers='1' .*1: a transposed"):
        PaddingBiasPenalty(net, layers="1")
    with pytest.raises(PANError, match=r"layer '1' is a transposed convolution.*cannot be penalised"):
        PaddingBiasPenalty(net, neurons={"1": [0]})
    penalty = PaddingBiasPenalty(net)
    net(images(dims, 2))
    assert penalty.layers == ("0",)
    assert list(penalty.left_out()) == ["1"]
    assert penalty.left_out()["1"].startswith("a transposed convolution")
    penalty.detach()
    apart = nn.Sequential(PLAIN[dims](2, 4, 3, padding=1), TRANSPOSED[dims](4, 3, 2, stride=2))  # no windows overlap
    penalty = PaddingBiasPenalty(apart)
    apart(images(dims, 2))
    assert penalty.left_out() == {}
    report = scan(net, [images(dims, 8)], progress=False)
    with (
        pytest.raises(PANError, match=r"layer '1' is a transposed convolution"),
        masked(net, report, neurons={"1": [0]}),
    ):
        pass
