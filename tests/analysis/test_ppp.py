"""The pattern of padding: as computed by hand, and nothing where padding changes nothing."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.paired_maps import PairedLines, paired_lines
from pan_callbacks.analysis.ppp import PaddingPattern, padding_pattern
from tests.support import planted


def pattern_of(net: nn.Module, images: torch.Tensor, layer: str) -> PaddingPattern:
    net.eval()
    return padding_pattern(dict(paired_lines(net, [images], scan(net, [images], progress=False)))[layer])


def test_of_one_layer_it_is_what_is_computed_by_hand():
    """Images of one brightness each: a window of ones sums 6 pixels of 9 at an edge; no corner is read."""
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    conv.weight.data[1] *= -2
    brightness = torch.tensor([1.0, 2.0, 4.0, 5.0])
    found = pattern_of(nn.Sequential(conv), brightness.view(4, 1, 1, 1).expand(4, 1, 24, 24), "0")
    assert set(found.pattern) == {(edge, 0) for edge in ("top", "bottom", "left", "right")}
    for part in found.pattern.values():
        torch.testing.assert_close(part[:, 0], torch.full((8,), -3 * 3.0))
        torch.testing.assert_close(part[:, 1], torch.full((8,), 6 * 3.0))
    spread = 9 * np.std(brightness.numpy())
    assert found.size.tolist() == pytest.approx([9 / spread, 9 / spread])
    variance = 9 * np.var(brightness.numpy(), ddof=1)
    assert found.snr.tolist() == pytest.approx([(81 - variance / 4) / variance] * 2)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_of_a_network_that_reads_no_padding_it_is_nothing(mode):
    conv = planted.detectors(3, mode=mode, recipes=())
    found = pattern_of(nn.Sequential(OrderedDict(conv=conv)), planted.stationary(8, 32), "conv")
    assert all((part == 0).all() for part in found.pattern.values())
    assert (found.size == 0).all() and (found.snr == 0).all()


def test_of_detectors_it_is_their_answer_and_the_same_in_all_images():
    found = pattern_of(planted.single(3).model, planted.stationary(8, 32), "conv")
    for channel, recipe in enumerate(planted.RECIPES[:8]):
        for (edge, _), part in found.pattern.items():
            expected = torch.full((8,), planted.STRENGTH * recipe.get(edge, 0))
            torch.testing.assert_close(part[:, channel], expected, atol=1e-5, rtol=0)
    assert (found.snr[:8] > 1e6).all()
    assert (found.size[len(planted.RECIPES) :] == 0).all()


def test_differences_by_chance_are_mostly_taken_off():
    border, reference = (torch.randn(32, 8, 500, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = padding_pattern(PairedLines({("top", 0): border}, {("top", 0): reference}))
    assert found.snr.median() < 0.01  # 1/32 without
    assert found.snr.min() >= 0


def test_a_neuron_that_is_constant_inside_has_no_size_and_one_image_no_variance():
    border = torch.randn(1, 8, 1)
    found = padding_pattern(PairedLines({("top", 0): border}, {("top", 0): torch.ones(1, 8, 1)}))
    assert found.size.isnan().all() and found.snr.isnan().all()
