"""Neurons that answer a border with another spread: found, though their contrast says nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.paired_maps import PairedLines, paired_lines
from pan_callbacks.analysis.spread import CHANGED, CONSTANT, in_halves, is_changed, is_constant, log_spread


def lines_at(edge: str, border: torch.Tensor, reference: torch.Tensor) -> PairedLines:
    return PairedLines({(edge, 0): border}, {(edge, 0): reference})


class TestPlanted:
    """Content is a difference of two channels, of mean zero; channel 0 reads it above, 1 in the middle, 2 both."""

    def measure(self):
        conv = nn.Conv2d(2, 3, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, 0.5)
        with torch.no_grad():
            difference = torch.tensor([1.0, -1.0])
            conv.weight[0, :, 0, 1] = difference
            conv.weight[1, :, 1, 1] = difference
            conv.weight[2, :, 1, 1], conv.weight[2, :, 0, 1] = difference, 3 * difference
        net, images = nn.Sequential(conv).eval(), torch.rand(16, 2, 32, 32, generator=torch.Generator().manual_seed(0))
        report = scan(net, [images], progress=False)
        return report, dict(paired_lines(net, [images], report))["0"]

    def test_a_neuron_that_is_constant_at_the_border_is_found_and_is_no_pan(self):
        report, lines = self.measure()
        spread = log_spread(lines)
        assert report.count == 0
        assert is_constant(in_halves(lines)).tolist() == [True, False, False]
        assert spread[lines.edges.index("top"), 0] == -torch.inf

    def test_one_that_loses_part_of_its_spread_changes_it(self):
        _, lines = self.measure()
        spread = log_spread(lines)
        assert is_changed(in_halves(lines)).tolist() == [True, False, True]
        assert abs(float(spread[lines.edges.index("top"), 2]) + np.log(10) / 2) < 0.05  # a tenth of the variance

    def test_nothing_changes_on_the_other_edges(self):
        _, lines = self.measure()
        others = log_spread(lines)[[lines.edges.index(edge) for edge in ("bottom", "left", "right")]]
        assert others.abs().max() < 1e-3


def test_it_is_the_ratio_of_numpys_deviations():
    generator = torch.Generator().manual_seed(0)
    border, reference = (torch.randn(5, 8, 4, generator=generator) * 7 + 3 for _ in range(2))
    expected = np.log(border.numpy().std((0, 1)) / reference.numpy().std((0, 1)))
    np.testing.assert_allclose(log_spread(lines_at("left", border, reference))[0].numpy(), expected, atol=1e-5)


def test_rounding_is_no_spread():
    border = 1000 * (1 + 1e-8 * torch.randn(4, 8, 1))
    spread = log_spread(lines_at("top", border, torch.randn(4, 8, 1)))
    assert spread[0, 0] == -torch.inf


def test_a_dead_neuron_is_neither():
    lines = lines_at("top", torch.ones(4, 8, 1), torch.ones(4, 8, 1))
    assert log_spread(lines).isnan().all()
    assert not is_constant(in_halves(lines)).any() and not is_changed(in_halves(lines)).any()


def test_what_one_image_alone_does_is_no_change():
    """A neuron that seldom fires: once, on one image, in one of the two roles."""
    border = 0.1 * torch.randn(8, 8, 1, generator=torch.Generator().manual_seed(0))
    reference = border.clone()
    reference[3, 2] = 50.0
    lines = lines_at("top", border, reference)
    assert log_spread(lines).abs() > np.log(CHANGED)
    assert not is_changed(in_halves(lines)).any() and not is_constant(in_halves(lines)).any()


def test_the_thresholds_are_those_that_are_told():
    constant = torch.tensor([[np.log(CONSTANT) - 1e-6, np.log(CONSTANT) + 1e-6]]).expand(2, 1, 2)
    changed = torch.tensor([[np.log(CHANGED) + 1e-6, 1e-6 - np.log(CHANGED)]]).expand(2, 1, 2)
    assert is_constant(constant).tolist() == is_changed(changed).tolist() == [True, False]
