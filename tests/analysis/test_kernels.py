"""Kernels: their mean, their mirror images, and the taps that read padding."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, StdConv2d, StdConv2dSame
from torch import nn

from pan_callbacks import PANError, PANReport, scan
from pan_callbacks.analysis.kernels import (
    effective_kernel,
    kernel_asymmetry,
    mean_kernel,
    model_asymmetries,
    padding_taps,
)
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.padding import SIDES, Axis, Geometry
from pan_callbacks.reports.layer_report import LayerReport


class TestMeanKernel:
    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_it_is_the_mean_over_all_kernels_of_the_layer(self, groups):
        conv = nn.Conv2d(4, 8, (3, 5), groups=groups)
        kernels = conv.weight.detach().double().numpy().reshape(-1, 3, 5)
        np.testing.assert_allclose(mean_kernel(conv).numpy(), np.mean(kernels, axis=0), atol=1e-6)

    def test_half_precision_is_summed_in_single(self):
        conv = nn.Conv2d(64, 64, 3)
        rounded = conv.weight.detach().bfloat16()
        torch.testing.assert_close(mean_kernel(conv.bfloat16()), rounded.float().mean((0, 1)))

    def test_a_weight_made_in_the_forward_can_be_given(self):
        weight = torch.ones(2, 1, 3, 3)
        assert torch.equal(mean_kernel(nn.Conv2d(1, 2, 3), weight), torch.ones(3, 3))


class TestAsymmetry:
    def test_a_kernel_that_equals_its_mirror_images_has_none(self):
        half = torch.randn(5, 2)
        kernel = torch.cat([half, torch.randn(5, 1), half.flip(1)], 1)
        assert kernel_asymmetry(kernel + kernel.flip(0)) == pytest.approx((0, 0), abs=1e-7)

    def test_a_kernel_with_nothing_but_one_side_is_asymmetric_in_full(self):
        kernel = torch.zeros(3, 3)
        kernel[0] = torch.tensor([1.0, 2.0, 1.0])
        assert kernel_asymmetry(kernel) == (1, 0)
        assert kernel_asymmetry(kernel.T) == (0, 1)

    def test_a_derivative_is_opposite_to_its_mirror_image(self):
        assert kernel_asymmetry(torch.tensor([[-1.0, 0.0, 1.0]]).repeat(3, 1)) == (0, 1)

    def test_it_is_the_share_of_what_differs(self):
        assert kernel_asymmetry(torch.tensor([[3.0], [1.0]])) == ((2 + 2) / (4 + 4), 0)

    def test_it_knows_no_scale_and_no_sign(self):
        kernel = torch.randn(5, 5)
        assert kernel_asymmetry(-1e-6 * kernel) == pytest.approx(kernel_asymmetry(kernel))

    def test_it_stays_between_zero_and_one(self):
        values = [value for _ in range(50) for value in kernel_asymmetry(torch.randn(3, 5))]
        assert 0 < min(values) < max(values) <= 1

    def test_a_kernel_of_zeros_is_symmetric(self):
        assert kernel_asymmetry(torch.zeros(3, 3)) == (0, 0)

    def test_a_kernel_that_holds_nan_has_no_asymmetry(self):
        assert all(map(math.isnan, kernel_asymmetry(torch.full((3, 3), math.nan))))


class TestModelAsymmetries:
    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, (1, 5), padding="same")
        )

    def report(self, model: nn.Module) -> PANReport:
        return scan(model, [torch.rand(8, 3, 24, 24)], progress=False)

    def test_it_names_the_measured_layers_of_more_than_one_tap_in_the_model_s_order(self):
        model = self.model()
        assert list(model_asymmetries(model, self.report(model))) == ["0", "3"]

    def test_each_has_its_mean_kernel_and_the_asymmetries_of_it(self):
        model = self.model()
        found = model_asymmetries(model, self.report(model))["0"]
        assert torch.equal(found.mean_kernel, model[0].weight.detach().mean((0, 1)))
        assert (found.vertical, found.horizontal) == kernel_asymmetry(found.mean_kernel)

    def test_parametrised_layers_are_left_as_they_were(self):
        model = self.model()
        report = self.report(model)
        nn.utils.parametrizations.spectral_norm(model[0])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert list(model_asymmetries(model.train(), report)) == ["0", "3"]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model[0].training

    def test_a_report_of_another_model_is_refused(self):
        report = PANReport({"stem": LayerReport(4, (3, 3), reference="crop", contrast=torch.zeros(8, 4))})
        with pytest.raises(PANError, match="another model: layer 'stem'"):
            model_asymmetries(self.model(), report)


class TestPaddingTaps:
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize(
        ("kernel", "stride", "dilation", "padding"),
        [(3, 1, 1, 1), (5, 1, 1, 2), (5, 2, 1, 2), (3, 1, 2, 2), (7, 2, 1, 1)],
    )
    def test_they_are_the_taps_whose_change_alone_changes_the_border_when_the_padding_is_all_there_is(
        self, side, kernel, stride, dilation, padding
    ):
        """On an input of zeros in a padding of ones, a tap counts at an output just where it reads the padding."""
        height, width = 17, 19
        conv = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
        geometry = PaddedLayer(conv).geometry(height, width)
        border = geometry.border(side)
        frame = F.pad(torch.zeros(1, 1, height, width), [padding] * 4, value=1.0)
        middle = kernel // 2  # reads no padding on the other axis, or else in a corner
        reads = torch.zeros(kernel, kernel, dtype=torch.bool)
        for row, col in product(range(kernel), range(kernel)) if border else ():
            tap = torch.zeros(1, 1, kernel, kernel)
            tap[0, 0, row, col] = 1.0
            reads[row, col] = F.conv2d(frame, tap, stride=stride, dilation=dilation)[0, 0][border].any()
        rows, cols = padding_taps(geometry, side)
        expected = torch.zeros(kernel, kernel, dtype=torch.bool)
        expected[rows] = True
        expected[:, cols] = True
        assert torch.equal(reads, expected)
        assert not expected[middle, middle]

    def test_a_side_that_no_window_reaches_has_none(self):
        axis = Axis(size=8, kernel=3, stride=2, before=1, after=1)
        assert padding_taps(Geometry(axis, axis), "bottom") == ([], [])
        assert padding_taps(Geometry(axis, axis), "bottom-left") == ([], [])

    def test_a_flat_kernel_reads_padding_along_its_own_axis_alone(self):
        geometry = Geometry(Axis(8, 1), Axis(8, 5, before=2, after=2))
        assert padding_taps(geometry, "right") == ([], [3, 4])
        assert padding_taps(geometry, "top") == ([], [])


def standardised(weight: torch.Tensor) -> torch.Tensor:
    """Each filter with mean 0 and deviation 1, by hand."""
    mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True, correction=0)
    return (weight - mean) / std


class TestEffectiveKernel:
    """Layers that standardise their weight are shown as they convolve."""

    @pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame])
    @pytest.mark.parametrize("options", [{"padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2, "padding": 1}])
    def test_it_is_standardised(self, kind, options):
        if kind is StdConv2dSame:
            options = {key: value for key, value in options.items() if key != "padding"}
        conv = kind(4, 6, 3, **options)
        torch.testing.assert_close(effective_kernel(conv), standardised(conv.weight.detach()), rtol=1e-3, atol=1e-3)

    def test_asymmetries_are_those_of_the_kernel_that_was_measured(self):
        conv = ScaledStdConv2d(1, 2, 3, padding=1)
        with torch.no_grad():  # as it is stored both filters look down, by different amounts; standardised they cancel
            conv.weight[0, 0], conv.weight[1, 0] = torch.arange(9.0).view(3, 3), -5 * torch.arange(9.0).view(3, 3)
        net = nn.Sequential(conv).eval()
        report = scan(net, [torch.rand(16, 1, 16, 16)], progress=False)
        found = model_asymmetries(net, report)["0"]
        assert found.mean_kernel.abs().max() < 1e-5 * effective_kernel(conv).abs().max()
        assert mean_kernel(conv).abs().max() > 1

    def test_the_model_is_left_as_it_was(self):
        conv = StdConv2d(3, 4, 3, padding=1)
        before = {name: value.clone() for name, value in conv.state_dict().items()}
        effective_kernel(conv)
        assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())
