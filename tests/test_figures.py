"""Figures: the right values in the right cells, named, and drawable whatever the data."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pan_callbacks.figures import NeuronPicture, gallery, layer_sides, timeline
from pan_callbacks.padding import SIDES
from pan_callbacks.report import PAN, LayerReport, PANReport


def probe(epoch: int, pans: dict[str, dict[int, float]]) -> dict:
    count = sum(len(channels) for channels in pans.values())
    return {"epoch": epoch, "step": 10 * (epoch + 1), "count": count, "born": 0, "gone": 0, "pans": pans}


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(artist.get_text() for artist in figure.findobj(matplotlib.text.Text) if artist.get_visible())


def draws_without_warning(figure: Figure) -> bool:
    with io.BytesIO() as png:
        figure.savefig(png, format="png")
        return png.tell() > 1000


def measured(contrast: torch.Tensor) -> LayerReport:
    return LayerReport(contrast.shape[1], (3, 3), reference="crop", contrast=contrast, effect=contrast.clone())


def picture(side: str = "top", **changes) -> NeuronPicture:
    pan = PAN("layer1.conv1", 7, frozenset({side}), {"top": 0.1, side: -0.93}, {}, "nascent")
    values = {
        "kernel": torch.tensor([[-2.0, 0.0, 1.0]]),
        "activation": torch.arange(20.0).reshape(4, 5),
        "border": torch.zeros(30),
        "reference": torch.linspace(1, 3, 50),
    }
    return NeuronPicture(pan, **(values | changes))


pytestmark = pytest.mark.filterwarnings("error")


class TestTimeline:
    history = [
        probe(-1, {"stem": {}, "conv2": {5: -0.85}}),
        probe(0, {"stem": {9: 0.9}, "conv2": {5: -0.95}}),
        probe(1, {"stem": {9: 0.8, 2: -1.0}, "conv2": {}}),
    ]

    def test_cells_hold_the_signed_contrast_and_are_blank_where_the_neuron_is_no_pan(self):
        (image,) = timeline(self.history).axes[1].images
        expected = [[np.nan, 0.9, 0.8], [np.nan, np.nan, -1.0], [-0.85, -0.95, np.nan]]
        np.testing.assert_array_equal(image.get_array().filled(np.nan), expected)
        assert (image.norm.vmin, image.norm.vmax) == (-1, 1)

    def test_rows_follow_layers_in_order_then_birth(self):
        axes = timeline(self.history).axes[1]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "conv2"]
        assert [label.get_text() for label in axes.get_yticklabels(minor=True)] == ["9", "2", "5"]

    def test_the_network_before_training_is_labelled_start(self):
        labels = timeline(self.history).axes[1].get_xticklabels()
        assert [label.get_text() for label in labels] == ["start", "0", "1"]

    def test_the_curve_above_is_the_count(self):
        (line,) = timeline(self.history).axes[0].lines
        assert line.get_ydata().tolist() == [1, 2, 2]

    def test_beyond_the_limit_it_keeps_what_lasted_longest_and_was_strongest_and_says_so(self):
        history = [probe(0, {"a": {0: 0.8, 1: 0.9, 2: 0.85}}), probe(1, {"a": {0: 0.8}})]
        figure = timeline(history, limit=2)
        (image,) = figure.axes[1].images
        np.testing.assert_array_equal(image.get_array().filled(np.nan), [[0.8, 0.8], [0.9, np.nan]])
        assert "2 of 3" in figure.get_suptitle()

    def test_up_to_the_limit_the_title_speaks_of_none_left_out(self):
        assert " of " not in timeline(self.history, limit=3).get_suptitle()

    def test_limit_below_one_is_refused(self):
        with pytest.raises(ValueError, match="limit=0"):
            timeline(self.history, limit=0)

    @pytest.mark.parametrize(
        ("history", "sentence"),
        [([], "no probe yet"), ([probe(e, {"a": {}}) for e in range(3)], "no padding aware neuron in 3 probes")],
    )
    def test_nothing_to_draw_is_said_in_words(self, history, sentence):
        figure = timeline(history)
        assert sentence in texts(figure)
        assert draws_without_warning(figure)

    def test_a_single_probe_is_one_column(self):
        figure = timeline(self.history[:1])
        assert figure.axes[1].images[0].get_array().shape == (1, 1)
        assert draws_without_warning(figure)

    def test_labels_of_thin_layers_do_not_overlap(self):
        thin = {f"layer{i}": {0: 0.9} for i in range(40)}
        figure = timeline([probe(0, {"first": {c: 0.9 for c in range(60)}, **thin})])
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
        assert len(boxes) == 41
        assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))

    def test_epoch_labels_of_a_long_training_do_not_overlap(self):
        figure = timeline([probe(epoch, {"a": {0: 0.9}}) for epoch in range(-1, 300)])
        figure.canvas.draw()
        labels = figure.axes[1].get_xticklabels()
        boxes = [label.get_window_extent() for label in labels]
        assert labels[0].get_text() == "start"
        assert all(int(label.get_text()) % 5 == 0 for label in labels[1:])
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))

    def test_probes_need_not_come_every_epoch(self):
        figure = timeline([probe(epoch, {"a": {0: 0.9}}) for epoch in (-1, 4, 9, 14)])
        assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["start", "4", "9", "14"]


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


class TestGallery:
    def axes(self, *pictures: NeuronPicture) -> tuple[Figure, list]:
        figure = gallery(pictures)
        return figure, [part.axes[:3] for part in figure.subfigs]

    def test_a_row_shows_kernel_activation_and_both_distributions(self):
        _, [(kernel, activation, histogram)] = self.axes(picture())
        np.testing.assert_array_equal(kernel.images[0].get_array(), [[-2, 0, 1]])
        assert (kernel.images[0].norm.vmin, kernel.images[0].norm.vmax) == (-2, 2)
        np.testing.assert_array_equal(activation.images[0].get_array(), np.arange(20).reshape(4, 5))
        labels = [text.get_text() for text in histogram.get_legend().get_texts()]
        assert labels == ["top border", "reference"]

    def test_distributions_are_densities_on_common_bins(self):
        _, [(_, _, histogram)] = self.axes(picture())
        border, reference = [
            patch.get_data() for patch in histogram.patches if patch.get_label() in ("top border", "reference")
        ]
        np.testing.assert_array_equal(border.edges, reference.edges)
        assert (border.edges[0], border.edges[-1]) == (0, 3)
        for density in (border, reference):
            assert np.sum(density.values * np.diff(density.edges)) == pytest.approx(1)
        assert border.values[1:].sum() == 0
        assert reference.values[0] == 0

    def test_the_title_names_neuron_side_contrast_and_origin(self):
        figure, _ = self.axes(picture("bottom-left"))
        assert figure.subfigs[0].get_suptitle() == "layer1.conv1 · channel 7 · bottom-left · contrast -0.93 · nascent"

    @pytest.mark.parametrize("side", SIDES)
    def test_the_mark_lies_outside_the_map_on_the_strongest_side(self, side):
        _, [(_, activation, _)] = self.axes(picture(side))
        marks = [patch.get_bbox() for patch in activation.patches]
        height, width = 4, 5
        outside = {
            "top": lambda box: box.y1 == -0.5,
            "bottom": lambda box: box.y0 == height - 0.5,
            "left": lambda box: box.x1 == -0.5,
            "right": lambda box: box.x0 == width - 0.5,
        }
        edges = side.split("-")
        assert [outside[edge](mark) for edge, mark in zip(edges, marks, strict=True)] == [True] * len(edges)
        if len(edges) == 2:  # both parts touch the corner in which the edges meet
            corner_y, corner_x = (-0.5 if "top" in side else height - 0.5), (-0.5 if "left" in side else width - 0.5)
            assert corner_x in (marks[0].x0, marks[0].x1)
            assert corner_y in (marks[1].y0, marks[1].y1)

    def test_one_row_a_neuron(self):
        _, rows = self.axes(picture("top"), picture("left"), picture("right"))
        assert len(rows) == 3

    @pytest.mark.parametrize(
        "changes",
        [
            {"border": torch.zeros(3), "reference": torch.zeros(5)},
            {"border": torch.full((3,), 1e30), "reference": torch.full((5,), -1e30)},
            {"border": torch.tensor([math.nan, math.inf, 1.0]), "reference": torch.tensor([-math.inf, 2.0])},
            {"border": torch.tensor([]), "reference": torch.ones(4)},
            {"border": torch.tensor([math.nan]), "reference": torch.tensor([])},
            {"kernel": torch.zeros(3, 3), "activation": torch.ones(1, 1)},
            {"kernel": torch.full((5, 5), math.nan), "activation": torch.full((4, 4), math.inf)},
            {"kernel": torch.randn(7, 1), "activation": torch.randn(56, 112).bfloat16()},
            {"kernel": torch.randn(3, 3, requires_grad=True), "border": torch.randn(9).half()},
        ],
        ids=[
            "constant",
            "huge",
            "not finite",
            "empty",
            "no finite value",
            "flat",
            "maps not finite",
            "bfloat16",
            "with graph",
        ],
    )
    def test_degenerate_data_are_drawn_without_warning_and_without_nan(self, changes):
        figure, [(kernel, activation, _)] = self.axes(picture(**changes))
        assert draws_without_warning(figure)
        for axes in (kernel, activation):
            assert np.isfinite(axes.images[0].get_array()).all()

    def test_an_empty_gallery_says_so(self):
        figure = gallery([])
        assert "no padding aware neuron" in texts(figure)
        assert draws_without_warning(figure)


def test_figures_leave_rc_params_as_they_were():
    before = dict(matplotlib.rcParams)
    assert draws_without_warning(timeline(TestTimeline.history))
    assert draws_without_warning(gallery([picture()]))
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never():
    code = (
        "import sys; import pan_callbacks.figures as f; assert 'matplotlib' not in sys.modules; "
        "f.timeline([]).canvas.draw(); assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
