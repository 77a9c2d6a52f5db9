"""Pictures of a model: the right numbers at the right layers, legible for small and for large models."""

from __future__ import annotations

import math
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch

from pan_callbacks.analysis.kernels import KernelSymmetry, kernel_asymmetry
from pan_callbacks.figures.model import depth_share, kernel_asymmetries, layer_sides, leftover_padding
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from tests.support.drawn import draws_without_warning, texts


def measured(contrast: torch.Tensor) -> LayerReport:
    return LayerReport(contrast.shape[1], (3, 3), reference="crop", contrast=contrast, effect=contrast.clone())


pytestmark = pytest.mark.filterwarnings("error")


class TestLayerSides:
    def report(self) -> PANReport:
        first = torch.zeros(8, 4)
        first[0] = torch.tensor([0.9, -0.8, 0.79, 1.0])
        first[3, 1] = -0.95
        second = torch.full((8, 16), math.nan)
        second[1] = 0.5
        layers = {
            "stem": measured(first),
            "down": measured(second),
            "fc": LayerReport(10, (1, 1), skipped="1×1 kernel"),
        }
        return PANReport(layers)

    def test_cells_count_pans_by_side_of_measured_layers_alone(self):
        axes = layer_sides(self.report()).axes[0]
        counts = axes.images[0].get_array()
        assert counts.shape == (2, 8)
        assert counts[0].tolist() == [3, 0, 0, 1, 0, 0, 0, 0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "down"]
        assert [label.get_text().replace("\n", "") for label in axes.get_xticklabels()] == list(SIDES)

    def test_sides_without_a_border_are_masked_and_explained(self):
        figure = layer_sides(self.report())
        masked = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
        assert masked[1].tolist() == [side != "bottom" for side in SIDES]
        assert not masked[0].any()
        assert "no border" in texts(figure)

    def test_no_legend_where_every_side_has_a_border(self):
        assert "no border" not in texts(layer_sides(PANReport({"conv": measured(torch.zeros(8, 4))})))

    def test_numbers_stand_in_the_cells_that_have_a_border(self):
        numbers = {text.get_position(): text.get_text() for text in layer_sides(self.report()).axes[0].texts}
        assert [numbers[0, 0], numbers[3, 0], numbers[1, 1]] == ["3", "1", "0"]
        assert (0, 1) not in numbers

    def test_a_neuron_on_two_sides_counts_once_in_its_layer(self):
        assert "3 of 4" in texts(layer_sides(self.report()))

    def test_a_hundred_layers_with_long_names_stay_legible(self):
        layers = {f"backbone.encoder.a_block_with_a_long_name.{i}.conv": measured(torch.ones(8, 4)) for i in range(100)}
        figure = layer_sides(PANReport(layers))
        figure.canvas.draw()
        labels = figure.axes[0].get_yticklabels()
        boxes = [label.get_window_extent() for label in labels]
        assert len(labels) == 100
        assert all(
            len(label.get_text()) <= 34 and label.get_text().endswith(f".{i}.conv") for i, label in enumerate(labels)
        )
        assert all(label.get_fontsize() >= 8 for label in labels)
        assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
        assert figure.axes[0].get_window_extent().width > 450

    def test_no_measured_layer_is_said_in_words(self):
        figure = layer_sides(PANReport({"fc": LayerReport(10, (1, 1), skipped="1×1 kernel")}))
        assert "no layer was measured" in texts(figure)
        assert draws_without_warning(figure)


def long_name(i: int) -> str:
    return f"backbone.encoder.a_block_with_a_long_name.{i}.depthwise_convolution"


def disjoint(artists) -> bool:
    """Whether no artist touches the one after it."""
    boxes = [artist.get_window_extent() for artist in artists]
    return all(not one.overlaps(other) for one, other in pairwise(boxes))


class TestDepthShare:
    def layer(self, channels: int, nascent: int, inherited: int = 0) -> LayerReport:
        contrast, effect = torch.zeros(8, channels), torch.zeros(8, channels)
        contrast[0, : nascent + inherited] = 0.9
        effect[0, :nascent] = 1.0
        return LayerReport(channels, (3, 3), reference="crop", contrast=contrast, effect=effect)

    def heights(self, figure) -> list[list[float]]:
        return [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]

    def numbers(self, figure) -> list[str]:
        return [text.get_text() for text in figure.axes[0].texts]

    def test_nascent_and_inherited_shares_are_stacked(self):
        figure = depth_share(PANReport({"a": self.layer(10, 2, 1), "b": self.layer(40, 0, 4)}))
        assert self.heights(figure) == [pytest.approx([20, 0]), pytest.approx([10, 10])]
        assert [bar.get_y() for bar in figure.axes[0].containers[1]] == pytest.approx([20, 0])

    def test_numbers_stand_above(self):
        figure = depth_share(PANReport({"a": self.layer(10, 2, 1), "b": self.layer(40, 0, 4)}))
        assert self.numbers(figure) == ["3", "of 10", "4", "of 40"]
        assert "nascent (2)" in texts(figure)
        assert "inherited (5)" in texts(figure)

    def test_up_to_sixteen_layers_are_named(self):
        figure = depth_share(PANReport({f"layer{i}": self.layer(8, 1) for i in range(16)}))
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [f"layer{i}" for i in range(16)]

    def test_more_are_put_into_ten_groups_of_about_as_many_layers(self):
        figure = depth_share(PANReport({f"layer{i}": self.layer(8, i == 20) for i in range(25)}))
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert (labels[0], labels[4], labels[5], labels[-1]) == ("1–3", "13–15", "16–17", "24–25")
        assert self.heights(figure)[0] == pytest.approx([0] * 7 + [100 / 16] + [0] * 2)  # layer 21 of 20–21

    def test_a_group_of_one_layer_has_one_number(self):
        figure = depth_share(PANReport({f"layer{i}": self.layer(8, 1) for i in range(17)}))
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-4:] == ["13–14", "15", "16", "17"]

    def test_layers_that_were_left_out_have_no_bar(self):
        figure = depth_share(PANReport({"fc": LayerReport(10, (1, 1), skipped="1×1 kernel"), "a": self.layer(10, 1)}))
        assert self.numbers(figure) == ["1", "of 10"]

    def test_numbers_of_sixteen_large_layers_do_not_overlap(self):
        figure = depth_share(PANReport({long_name(i): self.layer(1024, 100) for i in range(16)}))
        figure.canvas.draw()
        assert disjoint(figure.axes[0].texts[1::2])

    def test_long_names_lose_what_they_share(self):
        figure = depth_share(PANReport({long_name(i): self.layer(8, 1) for i in range(3)}))
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels == [f"…{i}.depthwise_convolution" for i in range(3)]

    @pytest.mark.parametrize("layers", [1, 2, 150])
    def test_no_pans_are_said_in_words(self, layers):
        figure = depth_share(PANReport({f"layer{i}": measured(torch.zeros(8, 4)) for i in range(layers)}))
        assert f"no padding aware neuron among {4 * layers}" in texts(figure)
        assert draws_without_warning(figure)

    def test_contrasts_that_could_not_be_had_are_no_pans(self):
        figure = depth_share(PANReport({"a": measured(torch.full((8, 4), math.nan))}))
        assert self.numbers(figure)[:2] == ["0", "of 4"]

    def test_no_measured_layer_is_said_in_words(self):
        assert "no layer was measured" in texts(depth_share(PANReport({})))


class TestLeftoverPadding:
    def strided(self, rows: int, cols: int, stride: tuple[int, int] = (2, 2), **changes) -> LayerReport:
        values = {"output_size": (7, 9), "leftover": (rows, cols), "stride": stride, "skipped": "map of 7×9"}
        return LayerReport(8, (3, 3), **(values | changes))

    def report(self) -> PANReport:
        return PANReport(
            {
                "stem": self.strided(1, 0),
                "plain": self.strided(0, 0, stride=(1, 1)),
                "unpadded": self.strided(0, 0, output_size=None, leftover=None),
                "patch": self.strided(3, 2, stride=(4, 4)),
            }
        )

    def test_strided_padded_layers_have_their_leftover_rows_and_columns(self):
        figure = leftover_padding(self.report())
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stem", "patch"]
        drawn = [list(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata())]
        assert drawn == [[1, 3], [0, 2]]

    def test_stride_and_output_size_stand_beside(self):
        assert "stride 4, output 7×9" in texts(leftover_padding(self.report()))
        uneven = PANReport({"conv": self.strided(1, 0, stride=(1, 2))})
        assert "stride 1×2, output 7×9" in texts(leftover_padding(uneven))

    def test_the_title_names_the_next_size_without_any(self):
        assert "next input size without any is 225×257" in leftover_padding(self.report(), (225, 257)).get_suptitle()

    def test_the_title_says_that_no_such_size_was_found(self):
        assert "no larger input size without any was found" in leftover_padding(self.report()).get_suptitle()

    def test_the_title_says_that_this_size_has_none_whatever_the_next(self):
        report = PANReport({"stem": self.strided(0, 0)})
        assert "this input size has none" in leftover_padding(report, (65, 65)).get_suptitle()

    def test_no_strided_layer_is_said_in_words(self):
        figure = leftover_padding(PANReport({"plain": self.strided(0, 0, stride=(1, 1))}))
        assert "no padded layer has a stride above 1" in texts(figure)

    @pytest.mark.parametrize("layers", [1, 41, 150])
    def test_labels_do_not_overlap(self, layers):
        figure = leftover_padding(PANReport({long_name(i): self.strided(i % 2, i % 3) for i in range(layers)}))
        assert draws_without_warning(figure)
        assert disjoint(figure.axes[0].get_yticklabels())


class TestKernelAsymmetries:
    def asymmetries(self, *kernels: torch.Tensor) -> dict[str, KernelSymmetry]:
        return {long_name(i): KernelSymmetry(k, *kernel_asymmetry(k)) for i, k in enumerate(kernels)}

    def panels(self, figure) -> list:
        return [axes for axes in figure.axes if axes.images]

    def test_each_kernel_is_drawn_in_its_own_scale(self):
        kernels = torch.randn(3, 3), 1e-4 * torch.randn(5, 5)
        for axes, kernel in zip(self.panels(kernel_asymmetries(self.asymmetries(*kernels))), kernels, strict=True):
            np.testing.assert_allclose(axes.images[0].get_array(), kernel / kernel.abs().max(), rtol=1e-6)
            assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (-1, 1)

    def test_both_asymmetries_stand_below(self):
        (axes,) = self.panels(kernel_asymmetries({"conv": KernelSymmetry(torch.ones(3, 3), 0.25, 0.5)}))
        assert axes.get_xlabel() == "vertical 0.25\nhorizontal 0.50"
        assert axes.get_title() == "conv"

    def test_beyond_the_limit_the_most_asymmetric_stay_in_the_model_s_order_and_the_title_says_so(self):
        values = {"a": (0.1, 0.3), "b": (0.2, 0.2), "c": (0.0, 0.0), "d": (0.9, 0.0), "e": (math.nan, math.nan)}
        found = {name: KernelSymmetry(torch.ones(3, 3), *pair) for name, pair in values.items()}
        figure = kernel_asymmetries(found, limit=2)
        assert [axes.get_title() for axes in self.panels(figure)] == ["a", "d"]
        assert "2 of 5 layers, the most asymmetric" in figure.get_suptitle()

    def test_up_to_the_limit_the_title_speaks_of_none_left_out(self):
        assert " of " not in kernel_asymmetries(self.asymmetries(*torch.randn(3, 3, 3)), limit=3).get_suptitle()

    @pytest.mark.parametrize(
        "kernels",
        [
            [torch.randn(1, 7)],
            [torch.randn(7, 1), torch.randn(1, 2)],
            [torch.zeros(3, 3), torch.full((3, 3), math.nan), torch.full((3, 3), math.inf)],
            list(torch.randn(5, 31, 31)),
            list(torch.randn(150, 3, 3)),
        ],
        ids=["flat", "thin", "no finite value", "large", "many"],
    )
    def test_whatever_the_kernels_they_are_drawn_without_warning(self, kernels):
        figure = kernel_asymmetries(self.asymmetries(*kernels))
        assert draws_without_warning(figure)
        assert len(self.panels(figure)) == min(24, len(kernels))
        assert all(np.isfinite(axes.images[0].get_array()).all() for axes in self.panels(figure))

    def test_titles_do_not_overlap(self):
        figure = kernel_asymmetries(self.asymmetries(*torch.randn(24, 3, 3)))
        figure.canvas.draw()
        assert disjoint(axes.title for axes in self.panels(figure))

    def test_no_kernel_is_said_in_words(self):
        assert "no measured layer has a kernel of more than one tap" in texts(kernel_asymmetries({}))

    def test_limit_below_one_is_refused(self):
        with pytest.raises(ValueError, match="limit=0"):
            kernel_asymmetries({}, limit=0)


def test_figures_leave_rc_params_as_they_were():
    before = dict(matplotlib.rcParams)
    report = TestLayerSides().report()
    for figure in (layer_sides(report), depth_share(report), leftover_padding(report), kernel_asymmetries({})):
        assert draws_without_warning(figure)
    assert dict(matplotlib.rcParams) == before
