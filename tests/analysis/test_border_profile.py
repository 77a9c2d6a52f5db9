"""Contrast by distance from the border: where a filter reads padding and no farther."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from scipy import stats
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.border_profile import contrast_by_distance, inwards
from pan_callbacks.analysis.paired_maps import PairedLines, paired_lines
from tests.support import planted

EDGES = ("top", "bottom", "left", "right")


def profile(reach: int, kernel: int = 5) -> torch.Tensor:
    net, images = nn.Sequential(OrderedDict(conv=planted.detectors(kernel, reach))).eval(), planted.stationary(8, 48)
    lines = dict(paired_lines(net, [images], scan(net, [images], progress=False)))["conv"]
    assert lines.edges == EDGES
    return contrast_by_distance(lines)


@pytest.mark.parametrize("reach", [1, 2])
def test_a_filter_whose_tap_reads_padding_in_so_many_rows_has_contrast_in_as_many(reach):
    found = profile(reach)
    for channel, recipe in enumerate(planted.RECIPES[:8]):
        (edge, sign), *_ = recipe.items()
        own = found[EDGES.index(edge), :, channel]
        assert own[:reach].tolist() == [sign] * reach
        assert own[reach:].tolist() == [0.0] * (4 - reach)


def test_the_edge_of_a_filter_is_followed_inwards():
    found = inwards(profile(2))
    assert found[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found[:, len(planted.RECIPES) :].abs().max() == 0  # distractors


def test_it_is_scipys_statistic():
    generator = torch.Generator().manual_seed(0)
    border = {("left", d): torch.randn(6, 8, 3, generator=generator) for d in range(4)}
    reference = {("left", d): torch.randn(6, 8, 3, generator=generator) + 0.3 * d for d in range(4)}
    found = contrast_by_distance(PairedLines(border, reference))
    for distance in range(4):
        for channel in range(3):
            one, other = (of["left", distance][..., channel].flatten() for of in (border, reference))
            assert abs(found[0, distance, channel]) == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-6)


def test_lines_that_a_small_map_has_not_are_nan():
    net, images = planted.single(3).model.eval(), planted.stationary(8, 8)
    report = scan(net, [images], progress=False)
    lines = dict(paired_lines(net, [images], report))["conv"]
    assert contrast_by_distance(lines).isnan().any(2).any(0).tolist()[0] is False
    assert contrast_by_distance(lines)[:, 3].isnan().all()
