"""Pictures of what goes beyond the contrast: the right numbers, also where there are few or none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pan_callbacks.analysis.beyond import Beyond, BeyondLayer
from pan_callbacks.figures.beyond import contrast_inwards, together_by_depth
from tests.support.drawn import draws_without_warning, texts

pytestmark = pytest.mark.filterwarnings("error")


def layer(contrast: list[list[float]], pans: list[bool], population: float = 0.9, snr: float = 2.0) -> BeyondLayer:
    """A layer with one edge; contrasts by neuron and distance."""
    values, none = torch.tensor(contrast).T[None], torch.zeros(len(pans), dtype=torch.bool)
    sizes = torch.arange(len(pans)).float()
    spread = torch.zeros(1, len(pans))
    return BeyondLayer(
        8, ("top",), torch.tensor(pans), values, spread, none, none, population, sizes, torch.full_like(sizes, snr)
    )


def found(**layers: BeyondLayer) -> Beyond:
    return Beyond(0.8, layers, {})


PROFILE = [[0.9, 0.5, 0.2, 0.1], [-1.0, 0.6, 0.3, 0.1], [0.3, 0.2, 0.1, 0.0]]


def lines(axes) -> list[list[float]]:
    return [[float(y) for y in line.get_ydata()] for line in axes.lines]


def test_pans_and_others_are_followed_inwards():
    figure = contrast_inwards(found(a=layer(PROFILE[:2], [True, True]), b=layer(PROFILE[2:], [False])))
    pans, upper, others, _, threshold = lines(figure.axes[0])
    assert pans == pytest.approx(PROFILE[0])  # of two, the lower
    assert upper == pytest.approx([1.0, 0.6, 0.3, 0.1])
    assert others == pytest.approx(PROFILE[2])
    assert threshold == [0.8, 0.8]
    assert {"PANs (2): median", "other neurons (1): median"} <= set(texts(figure).splitlines())


def test_without_pans_the_others_are_drawn():
    figure = contrast_inwards(found(a=layer(PROFILE, [False] * 3)))
    assert np.isnan(lines(figure.axes[0])[0]).all()
    assert "PANs (0): median" in texts(figure)
    assert draws_without_warning(figure)


def test_layers_are_drawn_in_their_order_with_their_medians():
    figure = together_by_depth(found(b=layer(PROFILE, [True] * 3), a=layer(PROFILE, [True] * 3, 0.5, 0.25)))
    above, below = figure.axes
    assert lines(above)[0] == [90.0, 50.0]
    assert lines(below) == [[1.0, 1.0], [2.0, 0.25]]
    assert [label.get_text() for label in below.get_xticklabels()] == ["b", "a"]


def test_what_is_not_known_leaves_a_gap():
    figure = together_by_depth(found(a=layer(PROFILE, [True] * 3, math.nan, math.inf), b=layer(PROFILE, [True] * 3)))
    assert math.isnan(lines(figure.axes[0])[0][0])
    assert draws_without_warning(figure)


@pytest.mark.parametrize("draw", [contrast_inwards, together_by_depth])
@pytest.mark.parametrize("count", [0, 1, 90])
def test_any_number_of_layers_is_drawn(draw, count):
    one = layer(PROFILE, [True, False, False])
    figure = draw(found(**{f"features.stage{i}.conv_depthwise": one for i in range(count)}))
    assert draws_without_warning(figure)
    assert ("no layer" in texts(figure)) == (count == 0)
