"""Segmentation and detection of digits that the border may cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from examples import detection, segmentation
from examples.cut_digits import arms, cut_digits
from examples.data import PLACED_MEAN, PLACED_STD, mnist_digits
from pan_callbacks import scan

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = 32


@pytest.fixture(scope="module")
def pictures():
    """All that 200 pictures are made of, both sets together."""
    return tuple(torch.cat(parts) for parts in zip(*(one.tensors for one in cut_digits(200, SIZE)), strict=True))


class TestCutDigits:
    def test_digits_reach_over_the_border_and_never_by_more_than_half(self, pictures):
        centres = pictures[2]
        assert centres.min() > -2 and centres.max() < SIZE + 2  # the centre of the ink is not that of its square
        near = torch.minimum(centres, SIZE - centres).amin(1) < 6
        assert 0.3 < near.float().mean() < 0.8

    def test_what_the_pixels_show_is_the_digit_and_brighter(self, pictures):
        images, shown, _ = pictures
        assert all(len(set(one.unique().tolist()) - {10}) <= 1 for one in shown)
        brightness = images[:, 0] * PLACED_STD + PLACED_MEAN
        assert brightness[shown != 10].mean() > brightness[shown == 10].mean() + 0.3

    def test_the_centre_is_that_of_the_pixels_where_nothing_is_cut_off(self, pictures):
        _, shown, centres = pictures
        inside = ((centres > 9) & (centres < SIZE - 9)).all(1)
        across = torch.arange(SIZE) + 0.5
        for mask, centre in zip((shown != 10)[inside].float(), centres[inside], strict=True):
            found = torch.stack([(mask.sum(axis) * across).sum() / mask.sum() for axis in (1, 0)])
            assert (found - centre).abs().max() < 1

    def test_the_two_sets_share_no_digit_and_all_classes_come(self):
        train, val = cut_digits(100)
        assert (len(train), len(val)) == (80, 20)
        assert set(train.tensors[1].unique().tolist()) == set(range(11))
        assert train.tensors[0].shape == (80, 1, 40, 40) and len(mnist_digits()[1]) == 5000


def test_every_arm_is_the_network_as_it_is_but_for_its_padding():
    torch.manual_seed(0)
    net, images = segmentation.UNet(width=4).eval(), torch.randn(16, 1, 16, 16)
    report = scan(net, [images], progress=False)
    assert report.count
    with torch.no_grad():
        plain = net(images)
        found = {name: arm(images) for name, arm in arms(net, report, images)}
        again = net(images)
    assert torch.equal(plain, found["as it is"]) and torch.equal(plain, again)
    moved = {name: (answers - plain).abs().amax((0, 1)) > 0 for name, answers in found.items()}
    assert moved["PANs neutral"].any() and moved["all padding neutral"].any()
    assert all(torch.isfinite(answers).all() for answers in found.values())


@pytest.mark.parametrize("example", [segmentation, detection], ids=lambda module: module.__name__)
def test_it_runs_and_prints_what_it_returns(example, capsys):
    found = example.main(count=60, epochs=1)
    rows = re.findall(r"^(.{24}) +(\d+\.\d{3}) +(\d+\.\d{3})$", capsys.readouterr().out, re.MULTILINE)
    assert [name.strip() for name, *_ in rows] == list(found)
    assert [(float(border), float(inside)) for _, border, inside in rows] == [
        pytest.approx(pair, abs=6e-4) for pair in found.values()
    ]


def test_what_a_perfect_detector_answers_is_no_error():
    centres = torch.tensor([[3.2, 30.9], [0.1, 17.5]])
    answers = torch.full((2, 3, 10, 10), -9.0)
    for number, (row, column) in enumerate((centres / detection.STRIDE).tolist()):
        cell = (number, slice(None), int(row), int(column))
        answers[cell] = torch.tensor([9.0, row % 1, column % 1])
    assert torch.allclose(detection.centres_of(answers), centres, atol=1e-4)
    assert detection.loss_of(answers, centres) < 1e-4


@pytest.mark.parametrize("name", ["segmentation", "detection", "cut_digits"])
def test_they_stay_under_a_hundred_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 100
