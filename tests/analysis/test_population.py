"""What the neurons of a layer say together: against scikit-learn, and on networks where it is known."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.paired_maps import PairedLines, paired_lines
from pan_callbacks.analysis.population import FOLDS, RIDGE, population_accuracy, predict
from tests.support import planted


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lines_at(border: torch.Tensor, reference: torch.Tensor) -> PairedLines:
    return PairedLines({("top", 0): border}, {("top", 0): reference})


def test_neurons_that_say_little_alone_may_say_border_together():
    """64 neurons whose padding adds less than a deviation of their content to each, all mixed from four channels."""
    conv = planted._conv(planted.CHANNELS, 64, 3)
    conv.weight[:, planted.CONTENT, 1, 1] = noise(64, 3)
    conv.weight[:, planted.ONES] = 0.01 * noise(64, 3, 3, seed=1)
    net, images = nn.Sequential(OrderedDict(conv=conv)).eval(), planted.stationary(16, 32)
    report = scan(net, [images], progress=False)
    assert report.contrast("conv")[:4].abs().max() < 0.5
    assert population_accuracy(dict(paired_lines(net, [images], report))["conv"]) > 0.95


def circular(stray: float) -> float:
    net = nn.Sequential(OrderedDict(conv=planted.detectors(3, mode="circular", stray=stray))).eval()
    images = planted.stationary(32, 32)
    return population_accuracy(dict(paired_lines(net, [images], scan(net, [images], progress=False)))["conv"])


def test_a_network_with_circular_padding_is_at_chance():
    assert circular(stray=0.0) == 0.5  # reads the same there as inside, so that one of each pair is told right
    assert abs(circular(stray=0.2) - 0.5) < 0.1  # reads other content, and nothing else


@pytest.mark.parametrize("channels", [5, 300])
def test_it_is_scikit_learns_classifier_in_its_folds(channels):
    """More channels than readings are as many equations the other way round."""
    shift = 0.4 * noise(channels, seed=3) / channels**0.5
    border, reference = noise(9, 8, channels, seed=1) + shift, noise(9, 8, channels, seed=2)
    x = torch.cat([border, reference]).numpy().astype(np.float64).reshape(-1, channels)
    y = np.repeat([1, -1], 9 * 8)
    part = np.tile(np.repeat(np.arange(9) % FOLDS, 8), 2)
    right = 0
    for train, test in GroupKFold(FOLDS).split(x, y, part):
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE * len(train)))
        right += (model.fit(x[train], y[train]).predict(x[test]) == y[test]).sum()
    assert population_accuracy(lines_at(border, reference)) == pytest.approx(right / len(y), abs=1e-9)


def test_a_constant_channel_has_no_say():
    border, reference = noise(4, 8, 2, seed=1), noise(4, 8, 2, seed=2)
    more = [torch.cat([one, torch.full_like(one[..., :1], 7)], 2) for one in (border, reference)]
    torch.testing.assert_close(predict(*more, more[0]), predict(border, reference, border))


def test_one_classifier_judges_both_sides_of_a_fold(monkeypatch):
    solved, solve = [], torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda *args: solved.append(1) or solve(*args))
    border, reference = noise(9, 8, 5, seed=1), noise(9, 8, 5, seed=2)
    population_accuracy(lines_at(border, reference))
    assert len(solved) == FOLDS
    together, apart = predict(border, reference, border, reference), predict(border, reference, reference)
    assert torch.equal(together[1], apart[0])


def test_images_are_held_out():
    """A pattern of each image's own that tells its border: nothing that other images share."""
    own = noise(8, 1, 40)
    assert population_accuracy(lines_at(own + 0.01 * noise(8, 8, 40, seed=1), -own + 0.01 * noise(8, 8, 40))) < 0.8


def test_one_image_has_no_others():
    assert np.isnan(population_accuracy(lines_at(noise(1, 8, 2), noise(1, 8, 2))))
