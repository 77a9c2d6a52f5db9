"""Lines at the border and the same pixels inside: where they lie, and what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis import paired_maps
from pan_callbacks.analysis.paired_maps import DISTANCES, MOST_IMAGES, NO_PAIRS, PairedLines, paired_lines
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.contrast import contrast
from tests.support import planted


def lines_of(net: nn.Module, *batches: torch.Tensor, reference: str = "crop") -> dict[str, PairedLines | str]:
    report = scan(net, batches, reference=reference, progress=False)
    return dict(paired_lines(net, batches, report))


class Pixels(nn.Sequential):
    """Hands the image on through a padded convolution that reads its centre alone."""

    def __init__(self, channels: int = 1) -> None:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.dirac_(conv.weight)
        super().__init__(conv)


@pytest.mark.parametrize("reference", ["crop", "zoom", "windows", "mirror"])
def test_both_roles_show_the_same_pixels_in_every_view(reference):
    images = torch.rand(4, 1, 48, 40, generator=torch.Generator().manual_seed(0))
    lines = lines_of(Pixels().eval(), images, reference=reference)["0"]
    assert lines.edges == ("top", "bottom", "left", "right")
    assert len(lines.border) == 4 * DISTANCES
    for line, border in lines.border.items():
        torch.testing.assert_close(border, lines.reference[line])
        assert border.shape == (4, paired_maps.POSITIONS, 1)


def test_distances_are_rows_and_columns_of_the_small_image():
    height, width, offset = 32, 40, 4
    ramp = torch.arange(height)[:, None] * 100.0 + torch.arange(width)[None, :]
    lines = lines_of(Pixels().eval(), ramp.expand(2, 1, height, width))["0"]
    for distance in range(DISTANCES):
        rows = {edge: lines.border[edge, distance][0, :, 0] // 100 for edge in ("top", "bottom")}
        cols = {edge: lines.border[edge, distance][0, :, 0] % 100 for edge in ("left", "right")}
        assert set(rows["top"].tolist()) == {offset + distance}
        assert set(rows["bottom"].tolist()) == {height - 1 - offset - distance}
        assert set(cols["left"].tolist()) == {offset + distance}
        assert set(cols["right"].tolist()) == {width - 1 - offset - distance}
        across = lines.border["top", distance][0, :, 0] % 100  # no closer to another edge
        assert across.min() == offset + max(1, distance)
        assert across.max() == width - 1 - offset - max(1, distance)


@pytest.mark.parametrize("dims", [1, 3])
def test_maps_of_other_dimensions_have_lines(dims):
    made = planted.line_or_solid(dims)
    lines = lines_of(made.model.eval(), planted.content_of(dims, 32 if dims == 1 else 4, 24))
    assert set(lines["first"].edges) == set(planted.edges_of(dims))
    channel = planted.recipes_of(dims).index({"left": 1})
    border, reference = lines["first"].border["left", 0], lines["first"].reference["left", 0]
    assert border[..., channel].min() > reference[..., channel].max()


def test_a_layer_compared_with_its_own_centre_has_no_pairs():
    net, images = planted.single(3).model.eval(), planted.stationary(4, 24)
    assert lines_of(net, images, reference="centre") == {"conv": NO_PAIRS}


def test_the_contrast_of_a_report_is_that_of_its_lines_where_all_is_read():
    """16 px crop to 12: the border of an edge is 10 positions, of which 8 are taken."""
    net, images = planted.single(3).model.eval(), planted.stationary(8, 16)
    report = scan(net, [images], progress=False)
    (_, lines), *_ = paired_lines(net, [images], report)
    for edge in lines.edges:
        found = contrast(lines.border[edge, 0].flatten(0, 1), lines.reference[edge, 0].flatten(0, 1))
        expected = report.contrast("conv")[report.sides.index(edge)]
        assert ((found.abs() > 0.8) == (expected.abs() > 0.8)).all()
        assert (found[len(planted.RECIPES) :] == 0).all()


def test_a_side_that_leftover_padding_leaves_without_border_has_no_lines():
    net, images = planted.single(3, stride=2, size=64).model.eval(), planted.stationary(4, 64)
    assert lines_of(net, images)["conv"].edges == ("top", "left")


def test_images_that_are_not_finite_are_left_out_of_both_roles():
    images = torch.rand(4, 1, 32, 32)
    images[2, 0, 16] = torch.nan
    lines = dict(paired_lines(Pixels().eval(), [images], scan(Pixels().eval(), [torch.rand(4, 1, 32, 32)])))["0"]
    assert lines.images == 3
    assert all(line.isfinite().all() for of in (lines.border, lines.reference) for line in of.values())


def test_no_more_images_are_read_than_are_meant_to_be_in_whatever_batches():
    images = torch.rand(MOST_IMAGES + 8, 1, 24, 24)
    once = lines_of(Pixels().eval(), images)["0"]
    parts = lines_of(Pixels().eval(), *images.split(7))["0"]
    assert once.images == parts.images == MOST_IMAGES
    assert all(torch.equal(once.border[line], parts.border[line]) for line in once.border)


def test_layers_that_memory_makes_wait_are_read_as_if_they_had_not(monkeypatch):
    made, images = planted.chain(3), planted.stationary(4, 32)
    runs, run = [], EntryCall.run
    monkeypatch.setattr(EntryCall, "run", lambda call: runs.append(1) or run(call))
    at_once = lines_of(made.model.eval(), images)
    few = len(runs)
    monkeypatch.setattr(paired_maps, "MOST_VALUES", 1)
    one_by_one = lines_of(made.model.eval(), images)
    assert len(runs) - few == few + 2 * 2  # the image and its crop, once more for each of two layers that wait
    assert list(at_once) == list(one_by_one) == ["first", "second", "third"]
    for name, lines in at_once.items():
        assert all(torch.equal(lines.border[line], one_by_one[name].border[line]) for line in lines.border)


def test_the_model_is_left_as_it_was():
    net, images = planted.chain(3).model.train(), planted.stationary(4, 32)
    report, state = scan(net, [images], progress=False), torch.get_rng_state()
    assert len(dict(paired_lines(net, [images], report))) == 3
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
