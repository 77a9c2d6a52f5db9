"""Penalty and masks of convolutions in one and three dimensions, by brute force; transposed ones by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANError, masked, scan
from pan_callbacks.suppression.price import FLOOR
from tests.support import planted

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZE, KERNEL = 10, 3


def images(dims, n=4):
    return torch.randn(n, 2, *(SIZE,) * dims, generator=torch.Generator().manual_seed(dims)) + 0.5


def regions(dims):
    """Positions of every side: one axis at an end and the others inside; corners in the plane alone."""
    ends, inside = ([0], [SIZE - 1]), list(range(1, SIZE - 1))
    found = [[end if axis == at else inside for axis in range(dims)] for at in range(dims) for end in ends]
    return found + ([list(corner) for corner in itertools.product(ends, ends)] if dims == 2 else [])


def by_hand(conv, x, kind, dims):
    """The penalty of a layer with kernel 3, stride 1 and padding 1, position by position in float64."""
    conv, x = conv.double(), x.double()
    y = conv(x).detach().numpy()
    bare = getattr(F, f"conv{dims}d")
    neutral = bare(F.pad(x, (1, 1) * dims, "reflect"), conv.weight, conv.bias, groups=conv.groups).detach().numpy()
    conv.float()
    inner = np.arange(SIZE // 4, SIZE - SIZE // 4)

    def at(maps, where):
        return maps[np.ix_(range(len(maps)), *where)]

    total = 0.0
    for channel in range(y.shape[1]):
        reference = at(y[:, channel], [inner] * dims)
        for where in regions(dims):
            strip = at(y[:, channel], where)
            gaps = {
                "moments": (strip.mean() - reference.mean()) ** 2 + (strip.std() - reference.std()) ** 2,
                "effect": at(y[:, channel] - neutral[:, channel], where).mean() ** 2,
            }
            for name, gap in gaps.items():
                if kind in (name, "both"):
                    total += (0.2 if name == "moments" else 1) * np.log1p(gap / (reference.var() + FLOOR * gap))
    return total / y.shape[1]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["both", "effect", "moments"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_penalty_is_what_numpy_computes_position_by_position(dims, kind, groups):
    torch.manual_seed(0)
    net, x = nn.Sequential(PLAIN[dims](2, 4, KERNEL, padding=1, groups=groups)), images(dims)
    penalty = PaddingBiasPenalty(net, kind)
    net(x)
    value = penalty()
    value.backward()
    assert value.item() == pytest.approx(by_hand(net[0], x, kind, dims), rel=3e-4)
    assert net[0].weight.grad.isfinite().all()
    assert net[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_single_image_is_a_batch_of_one(dims):
    torch.manual_seed(0)
    net, x = nn.Sequential(PLAIN[dims](2, 4, KERNEL, padding=1)), images(dims, 1)
    penalty = PaddingBiasPenalty(net)
    net(x)
    batch = penalty()
    net(x[0])
    assert penalty() == batch > 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_planted_detectors_are_priced_and_the_others_are_not(dims):
    network = planted.line_or_solid(dims, size=24)
    images = planted.content_of(dims, 16, 24)
    for layer in ("first", "second"):
        channels = range(network.model.get_submodule(layer).out_channels)
        pans = {channel for name, channel in network.truth if name == layer}
        prices = {}
        for channel in channels:
            model = network.model.requires_grad_(True)
            penalty = PaddingBiasPenalty(model, "both", neurons={layer: [channel]})
            model(images)
            prices[channel] = penalty().item()
            penalty.detach()
        assert min(prices[channel] for channel in pans) > 5 * max(prices[c] for c in channels if c not in pans)


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
