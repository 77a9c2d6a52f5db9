"""A neuron on a card: what the picture says, and that nothing in the readings keeps it from being drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pan_callbacks.figures.portrait import portrait
from tests.figures.test_gallery import picture
from tests.support.drawn import draws_without_warning, texts

pytestmark = pytest.mark.filterwarnings("error")


def test_it_names_the_neuron_its_rank_and_its_contrast():
    said = texts(
        portrait(picture("left", padding_taps=([], [0]), where="measured on enlarged images"), 2, "epoch 3")
    ).splitlines()
    assert {"layer1.conv1, channel 7", "epoch 3, number 2: contrast -0.93 left, nascent"} <= set(said)
    assert {"kernel", "mean map", "border", "reference", "framed: reads padding", "on enlarged images"} <= set(said)


def test_border_and_reference_are_densities_on_the_bins_of_the_gallery():
    distributions = portrait(picture(), 1, "epoch 0").axes[2]
    border, reference = (patch.get_data() for patch in distributions.patches)
    np.testing.assert_array_equal(border.edges, reference.edges)
    assert (border.edges[0], border.edges[-1], len(border.edges)) == (0, 3, 41)
    assert np.sum(reference.values * np.diff(reference.edges)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("border", "reference"),
    [
        ([1.0, 1.0], [1.0]),
        ([1.0], [1.0 + 4e-16]),  # of a network in double precision: bins between them would have no width
        ([1e30], [-1e30]),
        ([float("nan")], [float("inf")]),
        ([], []),
    ],
)
def test_readings_of_any_kind_are_drawn(border, reference):
    samples = {"border": border, "reference": reference}
    doubles = {name: torch.tensor(values, dtype=torch.float64) for name, values in samples.items()}
    assert draws_without_warning(portrait(picture(**doubles), 1, "now"))
