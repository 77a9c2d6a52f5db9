"""Pictures that say where everything stands: they are drawn once, and nothing leaves them or covers its neighbour."""

from __future__ import annotations

import io

import matplotlib.axes
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pan_callbacks.analysis.portraits import NeuronPicture
from pan_callbacks.figures.gallery import gallery
from pan_callbacks.figures.model import depth_share, layer_sides
from pan_callbacks.figures.style import new_figure, pixels, widest
from pan_callbacks.figures.timeline import timeline
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import PAN

LONG = "backbone.encoder.a_block_with_a_very_long_name.{}.depthwise_convolution"


def report(layers: int, channels: int = 4) -> PANReport:
    """Layers with long names; two have no border on the right."""
    contrast = torch.ones(8, channels)
    contrast[1, 1:] = -0.1
    without = contrast.clone()
    without[3] = torch.nan
    lines = [
        LayerReport(channels, (3, 3), reference="crop", contrast=without if number < 2 else contrast)
        for number in range(layers)
    ]
    return PANReport({LONG.format(number): line for number, line in enumerate(lines)})


def history(epochs: int, layers: int, channels: int) -> list[dict]:
    pans = {LONG.format(layer): dict.fromkeys(range(1000, 1000 + channels), 0.9) for layer in range(layers)}
    return [{"epoch": epoch - 1, "count": layers * channels, "pans": pans} for epoch in range(epochs)]


def picture(examples: int = 0, scale: float = 1.0, shape: tuple[int, int] = (14, 14)) -> NeuronPicture:
    pan = PAN(LONG.format(7), 1234, frozenset({"top"}), {"top": -1.0}, {}, "inherited")
    noise = torch.Generator().manual_seed(0)
    return NeuronPicture(
        pan,
        kernel=scale * torch.randn(5, 5, generator=noise),
        activation=scale * torch.randn(shape, generator=noise),
        border=scale * torch.randn(500, generator=noise),
        reference=scale * (3 + torch.randn(500, generator=noise)),
        padding_taps=([0, 1], []),
        examples=tuple((torch.rand(3, 40, 40), scale * torch.randn(shape)) for _ in range(examples)),
    )


FIGURES = {
    "few layers": lambda: layer_sides(report(3)),
    "many layers": lambda: layer_sides(report(50, 2048)),
    "hundred layers": lambda: layer_sides(report(100)),
    "short timeline": lambda: timeline(history(2, 3, 1)),
    "named rows": lambda: timeline(history(9, 15, 3)),
    "joined rows": lambda: timeline(history(40, 8, 40)),
    "no neuron": lambda: timeline(history(3, 2, 0)),
    "gallery": lambda: gallery([picture(), picture(scale=1e-3)]),
    "large numbers": lambda: gallery([picture(scale=12345.0)]),
    "examples": lambda: gallery([picture(examples=5), picture(examples=1)]),
    "rows": lambda: gallery([picture(shape=(1, 56))]),
}


@pytest.fixture(scope="module", params=FIGURES)
def placed(request) -> Figure:
    """A figure that is drawn, once for all tests, which do but look where things are."""
    figure = FIGURES[request.param]()
    figure.canvas.draw()
    return figure


def all_axes(figure: Figure) -> list:
    return figure.findobj(matplotlib.axes.Axes)


def test_nothing_leaves_the_picture(placed):
    box, size = placed.get_tightbbox(), placed.get_size_inches()
    assert (box.x0 >= 0, box.y0 >= 0, box.x1 <= size[0], box.y1 <= size[1]) == (True,) * 4, (box, size)


def test_no_axes_cover_other_axes(placed):
    places = [axes.get_window_extent() for axes in all_axes(placed)]
    for number, one in enumerate(places):
        for other in places[number + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 0.5 or down <= 0.5


def test_names_at_the_left_stand_beside_their_axes(placed):
    for axes in all_axes(placed):
        left = axes.get_window_extent().x0
        if axes.yaxis.get_ticks_position() != "right":
            assert all(label.get_window_extent().x1 <= left + 1 for label in axes.get_yticklabels() if label.get_text())


@pytest.mark.parametrize("draw", [FIGURES["few layers"], FIGURES["gallery"], lambda: depth_share(report(3))])
@pytest.mark.parametrize("dpi", [None, 200])
def test_pixels_are_those_that_matplotlib_saves_and_drawn_once(draw, dpi, monkeypatch):
    figure, drawn, original = draw(), [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: drawn.append(1) or original(self, renderer))
    found = pixels(figure, dpi)
    assert len(drawn) == 1
    assert figure.dpi == 100
    file = io.BytesIO()
    draw().savefig(file, format="png", dpi=dpi or 100)
    np.testing.assert_array_equal(found, np.array(Image.open(file).convert("RGB")))


def test_the_widest_line_is_as_wide_as_matplotlib_draws_it():
    figure = new_figure(8, 2, placed=True)
    lines = ["short", "a line that is longer", "mid"]
    drawn = [figure.text(0.1, 0.5, line, fontsize=8).get_window_extent().width / 100 for line in lines]
    assert widest(figure, lines, 8) == pytest.approx(max(drawn), abs=0.02)
    assert widest(figure, [], 8) == 0


def test_all_pictures_of_a_large_network_take_less_than_a_megabyte():
    """What an epoch adds to an event file at most: all rows, long names, noise in place of data."""
    noise = torch.Generator().manual_seed(0)
    lines = {
        LONG.format(i): LayerReport(
            99, (3, 3), reference="crop", contrast=torch.rand(8, 99, generator=noise) * 1.25 - 0.25
        )
        for i in range(60)
    }
    pans = [
        {
            "epoch": n,
            "count": 999,
            "pans": {LONG.format(i): {c: float(torch.rand(()) * 2 - 1) for c in range(9)} for i in range(20)},
        }
        for n in range(40)
    ]
    figures = layer_sides(PANReport(lines)), timeline(pans), gallery([picture(shape=(56, 56))] * 6)
    total = 0
    for figure in figures:
        file = io.BytesIO()
        Image.fromarray(pixels(figure)).save(file, format="png")
        total += file.tell()
    assert total < 1_000_000
