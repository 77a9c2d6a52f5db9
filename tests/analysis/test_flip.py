"""Flip scores against loops over images, and on kernels that are known to be symmetric."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from torch import nn

from pan_callbacks import PANError
from pan_callbacks.analysis.flip import FLIPS, flip_scores
from tests.support.synthetic import small_net


def noise(count: int = 10, size: int = 9, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def conv(mode: str = "zeros", **options) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(3, 6, 3, padding=1, padding_mode=mode, **options).eval()


@torch.no_grad()
def by_hand(layers: list[nn.Module], images: torch.Tensor) -> list[list[float]]:
    """Scores of the last of the layers, one image after the other."""

    def pooled(image: torch.Tensor, channel: int) -> float:
        x = image[None]
        for layer in layers:
            x = layer(x)
        return statistics.fmean(x[0, channel].flatten().tolist())

    scores = []
    for dim in (2, 1):  # of one image: from left to right, then from top to bottom
        row = []
        for channel in range(layers[-1].out_channels):
            own = [pooled(image, channel) for image in images]
            moved = [abs(pooled(image.flip(dim), channel) - value) for image, value in zip(images, own, strict=True)]
            row.append(statistics.fmean(moved) / statistics.stdev(own))
        scores.append(row)
    return scores


@pytest.mark.parametrize("batch", [10, 4, 1])
def test_scores_are_those_of_a_loop(batch):
    net = nn.Sequential(conv()).eval()
    found = flip_scores(net, noise().split(batch), ["0"])["0"]
    torch.testing.assert_close(found, torch.tensor(by_hand([net[0]], noise())), rtol=1e-4, atol=1e-5)


def test_scores_of_a_deep_layer_are_those_of_a_loop():
    net = small_net()
    found = flip_scores(net, noise(size=12).split(5), ["3"])["3"]
    torch.testing.assert_close(found, torch.tensor(by_hand(list(net[:4]), noise(size=12))), rtol=1e-3, atol=1e-4)


def test_rows_are_horizontal_and_vertical():
    net = nn.Sequential(conv()).eval()
    nn.init.zeros_(net[0].weight)
    net[0].weight.data[:, 0, 1] = torch.tensor([1.0, 0.0, 0.0])  # looks to the left: the last column is never seen
    scores = flip_scores(net, [noise()], ["0"])["0"]
    assert FLIPS == ("horizontal", "vertical")
    assert scores[0].min() > 0.01
    torch.testing.assert_close(scores[1], torch.zeros(6), atol=1e-5, rtol=0)


def test_a_symmetric_kernel_under_circular_padding_scores_zero():
    net = nn.Sequential(conv("circular")).eval()
    weight = net[0].weight.data
    net[0].weight.data = weight + weight.flip(2) + weight.flip(3) + weight.flip(2, 3)
    torch.testing.assert_close(flip_scores(net, [noise()], ["0"])["0"], torch.zeros(2, 6), atol=1e-5, rtol=0)


def test_one_layer_of_any_kernel_under_circular_padding_scores_zero():
    """Pooling a circular convolution forgets the order of its taps; only padding brings it back."""
    net = nn.Sequential(conv("circular")).eval()
    torch.testing.assert_close(flip_scores(net, [noise()], ["0"])["0"], torch.zeros(2, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gain", [-3.0, 1e-3, 1e4])
def test_gain_and_bias_do_not_matter(gain):
    net = nn.Sequential(conv()).eval()
    expected = flip_scores(net, [noise()], ["0"])["0"]
    net[0].weight.data *= gain
    net[0].bias.data += 5 * gain
    torch.testing.assert_close(flip_scores(net, [noise()], ["0"])["0"], expected, rtol=1e-3, atol=1e-5)


def test_a_constant_neuron_has_no_score():
    net = nn.Sequential(conv()).eval()
    nn.init.zeros_(net[0].weight[2:3])
    assert flip_scores(net, [noise()], ["0"])["0"].isnan().any(0).tolist() == [channel == 2 for channel in range(6)]


def test_one_image_has_no_score():
    assert flip_scores(nn.Sequential(conv()).eval(), [noise(1)], ["0"])["0"].isnan().all()


def test_layers_come_in_the_order_asked_for():
    assert list(flip_scores(small_net(), [noise(4)], ["3", "0"])) == ["3", "0"]


def test_no_layers_no_scores():
    assert flip_scores(small_net(), [noise(4)], []) == {}


def test_unknown_layer_is_an_error():
    with pytest.raises(PANError, match="layers='stem' matches none"):
        flip_scores(small_net(), [noise(4)], ["stem"])


def test_the_model_is_left_as_it_was():
    net = small_net().train()
    net[0].eval()
    before, modes, state = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    flip_scores(net, [noise()], ["0", "3"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
