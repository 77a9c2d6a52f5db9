"""The study: its images say of position what they are said to; its page follows from its runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.study import tasks
from benchmarks.study.experiments import patch_movement
from benchmarks.study.measures import OneLabel, accuracy, census, movement, probabilities, removal
from pan_callbacks import PANReport, scan
from pan_callbacks.reports.layer_report import LayerReport

SEED = 3


def block_rows_and_columns(image: torch.Tensor, channel: int) -> tuple[list[int], list[int]]:
    bright = image[channel] == 1
    return bright.any(1).nonzero().flatten().tolist(), bright.any(0).nonzero().flatten().tolist()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_order_of_the_colours_is_the_class_and_the_half_goes_with_it(swapped):
    images, labels = tasks.red_green(40, SEED, swapped)
    for image, label in zip(images, labels.tolist(), strict=True):
        (red_rows, red), (green_rows, green) = (block_rows_and_columns(image, channel) for channel in (0, 1))
        assert red_rows == green_rows and len(red_rows) == len(red) == len(green) == tasks.BLOCK
        assert (red[-1] < green[0]) == (label == 0) and (green[-1] < red[0]) == (label == 1)
        lower = red_rows[0] >= tasks.SIZE // 2
        assert lower == (label == 1) ^ swapped and (lower or red_rows[-1] < tasks.SIZE // 2)


def test_both_classes_are_as_frequent_and_blocks_are_everywhere_along_the_image():
    images, labels = tasks.red_green(400, SEED)
    assert labels.bincount().tolist() == [200, 200]
    columns = (images[:, :2] == 1).any(2).any(1).sum(0)
    assert (columns > 0).all()


def test_nothing_but_the_position_distinguishes_similar_and_swapped_images():
    similar, swapped = (tasks.red_green(20, SEED, exchanged)[0] for exchanged in (False, True))
    blocks = [(images[:, :2] == 1).sum((1, 2, 3)) for images in (similar, swapped)]
    assert torch.equal(*blocks)
    assert torch.equal(*((images[:, :2] == 1).any(2) for images in (similar, swapped)))  # the same columns


def where_the_digit_is(images: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    return (images - empty).abs() > 1e-6


def test_digits_near_the_border_touch_it_within_a_pixel_and_central_ones_do_not(monkeypatch):
    drawn = []
    monkeypatch.setattr(tasks, "scene", lambda digits, tops, lefts, size, seed: drawn.append((tops, lefts)))
    tasks.near_and_central(torch.arange(200), SEED)
    near, central = (torch.stack(place) for place in drawn)
    last = tasks.SIZE - tasks.DIGIT
    assert (torch.minimum(near, last - near).min(0).values <= tasks.NEAR).all()
    assert (torch.minimum(central, last - central).min(0).values >= 5).all()
    assert near.min() >= 0 and near.max() <= last


def test_a_scene_has_the_digit_where_it_is_asked_for_and_a_photograph_elsewhere():
    digits = torch.tensor([0, 4000])
    one, other = (
        tasks.scene(digits, torch.tensor(tops), torch.tensor([0, 16]), tasks.SIZE, SEED) for tops in ([0, 0], [16, 16])
    )
    changed = (one - other).abs() > 0
    assert changed[0, :, :16].any() and not changed[0, :, 16:].any()
    assert changed[1, :, 16:].any() and not changed[1, :, :16].any()


def test_windows_show_the_same_world_from_beside():
    world = torch.arange(12.0 * 12).reshape(1, 12, 12)
    middle, up, down, left, right = tasks.windows(world, shift=2, room=3)
    assert middle.shape == (1, 6, 6)
    assert torch.equal(middle[:, :-2], up[:, 2:]) and torch.equal(middle[:, 2:], down[:, :-2])
    assert torch.equal(middle[..., :-2], left[..., 2:]) and torch.equal(middle[..., 2:], right[..., :-2])


@pytest.mark.parametrize("noise", [False, True])
def test_a_patch_is_at_the_border_or_inside_and_never_on_the_digit(noise):
    digits = torch.arange(0, 5000, 250)
    sets = tasks.patched(digits, SEED, noise)
    digit = where_the_digit_is(
        sets.plain,
        tasks.PHOTO_BRIGHTNESS * tasks.photo_pieces(len(digits), tasks.SIZE, torch.Generator().manual_seed(SEED)),
    )
    at_border, inside = (where_the_digit_is(images, sets.plain) for images in (sets.border, sets.interior))
    assert not (inside & digit).any() and not (at_border & digit).any()
    frame = torch.ones(tasks.SIZE, tasks.SIZE, dtype=torch.bool)
    frame[tasks.STRIP[0] : -tasks.STRIP[0], tasks.STRIP[0] : -tasks.STRIP[0]] = False
    assert not (at_border & ~frame).any()
    assert at_border[:, [0, -1]].flatten(1).any(1).logical_or(at_border[:, :, [0, -1]].flatten(1).any(1)).all()
    frame = torch.zeros(tasks.SIZE, tasks.SIZE, dtype=torch.bool)
    frame[: tasks.INWARD] = True
    touched = [inside[i] & turned for i, turned in enumerate((frame, frame.flip(0), frame.T, frame.T.flip(1)))]
    assert not torch.stack(touched).any()


class Centre(nn.Module):
    """Sees the middle of an image and nothing else."""

    def forward(self, images):
        middle = images[..., 12:20, 12:20].mean((1, 2, 3))
        return torch.stack((middle, 1 - middle), 1)


class Edge(nn.Module):
    """Sees the outermost pixels and nothing else."""

    def forward(self, images):
        rows, columns = images[..., [0, -1], :].mean((1, 2, 3)), images[..., [0, -1]].mean((1, 2, 3))
        return torch.stack((10 * (rows + columns), torch.ones(len(images))), 1)


@pytest.mark.parametrize(("net", "still", "moves"), [(Centre(), "border", None), (Edge(), "interior", "border")])
def test_a_network_moves_just_where_it_looks(net, still, moves):
    images = torch.zeros(16, 1, 32, 32)
    sets = tasks.patch(images, torch.arange(16) % 4, SEED, tasks.STRIP, tasks.INWARD, noise=False)
    found = patch_movement(net, "strip", sets)
    assert found[f"strip/{still}/tv"] == 0 == found[f"strip/{still}/flips"]
    if moves:
        assert found[f"strip/{moves}/tv"] > 0.1


def test_movement_is_total_variation_and_flips():
    before, after = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    found = movement(before, after)
    assert found["tv"] == pytest.approx((0.7 + 0.1) / 2) and found["flips"] == 0.5


def test_one_label_has_its_own_logits_alone():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(probabilities(OneLabel(net, 2, 3), images), net(images)[:, 2:].softmax(1).detach())


def test_a_census_sorts_every_pan_once_by_each_kind():
    contrast = torch.zeros(8, 4)
    contrast[0, 0], contrast[:2, 1], contrast[4, 2] = 0.9, -0.9, 0.95  # one edge, two edges, a corner, none
    effect = torch.zeros(8, 4)
    effect[0, 0] = 2.0
    layers = {
        "first": LayerReport(4, (3, 3), contrast=contrast, effect=effect),
        "second": LayerReport(4, (3, 3), contrast=torch.zeros(8, 4), effect=effect),
        "pointwise": LayerReport(4, (1, 1), skipped="1×1 kernel"),
        "third": LayerReport(4, (3, 3), contrast=contrast.clamp(min=0), effect=effect),
    }
    found = census(PANReport(layers))
    assert found["pans"] == 5 and found["neurons"] == 12
    assert (found["nascent"], found["inherited"]) == (2, 3)
    assert (found["excited"], found["inhibited"]) == (4, 1)
    assert (found["early"], found["middle"], found["late"]) == (3, 0, 2)
    assert (found["one edge"], found["several edges"], found["corner"]) == (2, 1, 2)


def test_what_the_head_does_not_read_is_removed_for_nothing():
    conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)  # two that sum their window, which the border darkens, and a copy
    conv.weight.data[:2], conv.weight.data[2] = 1, 0
    conv.weight.data[2, 0, 1, 1] = 1
    head = nn.Linear(3, 2)
    head.weight.data[:], head.bias.data[:] = torch.tensor([[0.0, 1, 0], [0, 0, 0]]), torch.tensor([0.0, 5.0])
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    images = 1 + torch.rand(16, 1, 16, 16) / 10
    report = scan(net, [images], progress=False)
    labels = torch.zeros(16, dtype=torch.long)
    assert report.neurons_by_layer() == {"0": [0, 1]} and accuracy(net, images, labels) == 1
    found = removal(net, images, labels, report)
    assert found["all/zero/change"] == -1 and found["all/zero/control"] == 0
    assert found["alone/pans"] == 0.5 and found["alone/control"] == 1
