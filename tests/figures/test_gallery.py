"""Pictures of neurons: what is gathered of them, and what is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from timm.layers import StdConv2d
from torch import nn

from pan_callbacks.analysis.portraits import NeuronPicture, by_type, displayed, neuron_pictures
from pan_callbacks.figures.gallery import gallery
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import PAN
from tests.support.drawn import draws_without_warning, texts


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
        ("taps", "boxes"),
        [
            (([0], []), [(-0.5, -0.5, 5, 1)]),
            (([3, 4], []), [(-0.5, 2.5, 5, 2)]),
            (([], [0, 1]), [(-0.5, -0.5, 2, 5)]),
            (([0], [4]), [(-0.5, -0.5, 5, 1), (3.5, -0.5, 1, 5)]),
            (([], []), []),
        ],
        ids=["row", "two rows", "two columns", "corner", "none"],
    )
    def test_taps_that_read_padding_are_outlined(self, taps, boxes):
        figure, [(kernel, _, _)] = self.axes(picture(kernel=torch.randn(5, 5), padding_taps=taps))
        assert [patch.get_bbox().bounds for patch in kernel.patches] == boxes
        assert ("reads the padding" in texts(figure)) == bool(boxes)

    def test_examples_stand_beside_their_images_in_one_scale(self):
        examples = tuple((torch.full((3, 8, 8), 0.1 * n), torch.full((4, 5), 10.0 * n)) for n in range(3))
        (top, below) = gallery([picture(examples=examples)]).subfigs[0].subfigs
        assert len(top.axes) == 5  # three panels, two bars
        shown = [axes.images[0] for axes in below.axes[:6]]
        for n, (image, activation) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
            assert image.get_array().shape == (8, 8, 3)
            assert image.get_array()[0, 0, 0] == pytest.approx(0.1 * n)
            assert (activation.get_array() == 10 * n).all()
        assert {(image.norm.vmin, image.norm.vmax) for image in shown[1::2]} == {(0, 20)}

    def test_a_freak_value_in_one_example_does_not_take_all_the_colours(self):
        maps = [torch.linspace(0, 19, 1000).reshape(20, 50) for _ in range(3)]
        maps[1][7, 7] = 1e6
        examples = tuple((torch.zeros(3, 8, 8), values) for values in maps)
        (_, below) = gallery([picture(examples=examples)]).subfigs[0].subfigs
        assert below.axes[1].images[0].norm.vmax < 20

    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_any_number_of_examples_is_drawn(self, count):
        figure = gallery([picture(examples=((torch.rand(3, 30, 20), torch.randn(1, 9)),) * count)])
        assert sum(len(axes.images) for axes in figure.subfigs[0].subfigs[1].axes) == 2 * count
        assert draws_without_warning(figure)

    def test_pictures_with_and_without_examples_share_a_gallery(self):
        plain, rich = picture("top"), picture("left", examples=((torch.rand(3, 8, 8), torch.randn(4, 4)),))
        figure = gallery([plain, rich])
        assert [len(part.subfigs) for part in figure.subfigs] == [0, 2]
        assert draws_without_warning(figure)

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
            {"examples": ((torch.full((3, 4, 4), math.nan), torch.full((4, 4), math.nan)),)},
            {"examples": ((torch.full((3, 4, 4), 9.0), torch.ones(1, 1)),)},
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
            "examples not finite",
            "flat examples",
        ],
    )
    def test_degenerate_data_are_drawn_without_warning_and_without_nan(self, changes):
        figure = gallery([picture(**changes)])
        (part,) = figure.subfigs
        kernel, activation = (part.subfigs[0] if part.subfigs else part).axes[:2]
        assert draws_without_warning(figure)
        for axes in (kernel, activation):
            assert np.isfinite(axes.images[0].get_array()).all()

    def test_an_empty_gallery_says_so(self):
        figure = gallery([])
        assert "no padding aware neuron" in texts(figure)
        assert draws_without_warning(figure)


class TestNeuronPictures:
    """On a layer whose first channel answers the top padding and whose second the right padding."""

    def setup_method(self):
        conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        with torch.no_grad():
            conv.weight.mul_(0.05)
            conv.weight[0, 0, 0, 1], conv.weight[1, 0, 1, 2] = 1.0, -1.0
        self.model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)).eval()
        self.images = 5 + torch.rand(12, 1, 16, 20, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.output = conv(self.images)
        self.measurement = Measurement(self.model, Settings(reference="centre"))
        self.measurement.start()
        with quietly(self.model):
            self.model(self.images)
        self.report = self.measurement.report()

    def pictures(self, **kwargs) -> dict[int, NeuronPicture]:
        return {pic.pan.channel: pic for pic in neuron_pictures(self.measurement, self.report, **kwargs)}

    def test_the_taps_are_those_that_read_the_padding_of_the_strongest_side(self):
        found = self.pictures()
        assert (found[0].pan.strongest, found[1].pan.strongest) == ("top", "right")
        assert (found[0].padding_taps, found[1].padding_taps) == (([0], []), ([], [2]))

    def test_the_map_is_the_mean_over_the_images(self):
        torch.testing.assert_close(self.pictures()[0].activation, self.output[:, 0].mean(0))

    def test_there_are_no_examples_unless_asked_for(self):
        assert self.pictures()[0].examples == ()

    def test_examples_are_the_first_images_with_what_the_neuron_answers_before_it_is_overwritten(self):
        for channel, found in self.pictures(examples=3).items():
            assert len(found.examples) == 3
            for (image, activation), own, output in zip(found.examples, self.images, self.output, strict=False):
                assert torch.equal(image, displayed(own))
                torch.testing.assert_close(activation, output[channel])

    def test_there_are_as_many_examples_as_images_at_most(self):
        assert len(self.pictures(examples=100)[0].examples) == 12

    def test_the_neurons_that_are_asked_for_come_in_that_order(self):
        pans = [pan for channel in (1, 0) for pan in self.report.pans if pan.channel == channel]
        found = neuron_pictures(self.measurement, self.report, limit=1, pans=pans)
        assert [pic.pan for pic in found] == pans

    def test_the_kernel_is_the_one_that_a_weight_standardised_layer_convolves_with(self):
        conv = StdConv2d(1, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            conv.weight[0] = torch.tensor([[9.0, 9.0, 9.0], [1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
        net = nn.Sequential(conv).eval()
        measurement = Measurement(net, Settings(reference="centre"))
        measurement.start()
        with torch.no_grad():
            net(self.images)
        report, weight = measurement.report(), conv.weight.detach()
        mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True, correction=0)
        standardised = ((weight - mean) / std).mean(1)
        assert report.count
        for picture in neuron_pictures(measurement, report):
            torch.testing.assert_close(picture.kernel, standardised[picture.pan.channel], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("reference", "words"),
        [
            ("crop", "in the middle of the images"),
            ("zoom", "measured on enlarged images"),
            ("windows", "measured on enlarged images, a window"),
            ("mirror", ""),
            ("centre", ""),
        ],
    )
    def test_map_and_histogram_are_of_the_same_inputs_and_the_figure_says_which(self, reference, words):
        measurement = Measurement(self.model, Settings(reference=reference))
        measurement.start()
        with quietly(self.model):
            self.model(self.images)
        pans = [pan for pan in measurement.report().pans if pan.channel < 2]
        found = neuron_pictures(measurement, measurement.report(), examples=len(self.images), pans=pans)
        assert len(found) == 2
        for picture in found:
            maps = torch.stack([activation for _, activation in picture.examples])
            assert [image.shape[1:] for image, _ in picture.examples] == [maps.shape[1:]] * len(self.images)
            torch.testing.assert_close(picture.activation, maps.mean(0))
            line = {"top": maps[:, 0], "right": maps[:, :, -1]}[picture.pan.strongest]
            nearest = (picture.border[:, None] - line.reshape(1, -1)).abs().amin(1)
            assert float(nearest.max()) < 1e-5
            assert picture.where == words
        assert words in texts(gallery([replace(found[0], examples=())]))

    def test_a_head_of_fixed_size_does_not_hinder_pictures_of_smaller_images(self):
        model = nn.Sequential(self.model[0], nn.Flatten(), nn.Linear(3 * 16 * 20, 2)).eval()
        measurement = Measurement(model, Settings(reference="crop"))
        measurement.start()
        with quietly(model):
            model(self.images)
        report = measurement.report()
        assert report.layers["0"].reference == "crop"
        assert len(neuron_pictures(measurement, report)) == report.count >= 2

    def test_they_can_be_drawn(self):
        assert draws_without_warning(gallery(self.pictures(examples=3).values()))


class TestByType:
    def report(self, *rows: tuple[str, float, float]) -> PANReport:
        """A layer with one neuron a row: side, contrast, padding effect."""
        contrast, effect = torch.zeros(8, len(rows)), torch.zeros(8, len(rows))
        for channel, (side, value, reads) in enumerate(rows):
            contrast[SIDES.index(side), channel] = value
            effect[SIDES.index(side), channel] = reads
        return PANReport({"conv": LayerReport(len(rows), (3, 3), reference="crop", contrast=contrast, effect=effect)})

    rows = (
        ("left", 1.0, 1.0),
        ("top", 0.85, 1.0),
        ("top", 0.9, 1.0),
        ("top", -0.95, 1.0),
        ("top", 0.99, 0.0),
        ("top", 0.81, 0.0),
        ("top", 0.82, 1.0),
    )

    def channels(self, **kwargs) -> list[int]:
        return [pan.channel for pan in by_type(self.report(*self.rows), **kwargs)]

    def test_there_is_the_strongest_of_each_side_sign_and_origin_the_most_frequent_type_first(self):
        assert self.channels() == [2, 4, 0, 3]

    def test_more_of_a_type_follow_one_another(self):
        assert self.channels(per_type=2) == [2, 1, 4, 5, 0, 3]

    def test_the_limit_holds(self):
        assert self.channels(limit=2) == [2, 4]

    def test_a_report_without_pans_has_no_types(self):
        assert by_type(self.report(("top", 0.1, 0.0))) == []


class TestDisplayed:
    def test_it_undoes_any_scale_and_offset_and_keeps_the_colours(self):
        image = torch.rand(3, 40, 50)
        torch.testing.assert_close(displayed(image * 0.3 - 7), displayed(image), atol=1e-5, rtol=0)

    def test_it_stretches_from_the_first_to_the_last_percentile_of_all_channels(self):
        image = torch.randn(3, 40, 50)
        low, high = np.percentile(image.numpy(), (1, 99), method="nearest")
        np.testing.assert_allclose(displayed(image), np.clip((image.numpy() - low) / (high - low), 0, 1), atol=1e-5)

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_other_than_three_channels_are_grey(self, channels):
        shown = displayed(torch.randn(channels, 8, 9))
        assert shown.shape == (3, 8, 9)
        assert torch.equal(shown[0], shown[2])

    @pytest.mark.parametrize("value", [0.0, 7.0, math.nan, math.inf])
    def test_an_image_of_one_value_is_one_shade(self, value):
        assert displayed(torch.full((3, 4, 4), value)).unique().tolist() == [0.0]

    def test_what_is_not_finite_does_not_spoil_the_rest(self):
        image = torch.rand(3, 40, 50)
        broken = image.clone()
        broken[0, 0, 0], broken[1, 0, 0] = math.inf, math.nan
        assert displayed(broken).isfinite().all()
        torch.testing.assert_close(displayed(broken)[:, 1:], displayed(image)[:, 1:], atol=0.01, rtol=0)
