"""Variants of the penalty: what they change, that it is put back, and what their page makes of runs."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.suppression import ideas
from benchmarks.suppression.networks import small_cnn
from benchmarks.suppression.variants import RESULTS, VARIANTS
from benchmarks.suppression.variants_page import text
from pan_callbacks import PaddingBiasPenalty
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.suppression import cap, strength, yardstick


def gradients(change=None, weight=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of a task, and what the penalty adds to it with a change."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))
    images = torch.rand(16, 1, 20, 20)
    task = torch.autograd.grad(net(images).square().mean(), net[0].weight)[0]
    with change() if change else torch.enable_grad():
        penalty = PaddingBiasPenalty(net, beside_task=True)
        (net(images).square().mean() + weight * penalty()).backward()
    return task, net[0].weight.grad - task


def test_what_a_variant_changes_is_put_back():
    def state():
        modules = [vars(module).copy() for module in (cap, yardstick, strength)]
        kinds = (yardstick.Yardstick, yardstick.Sample, cap.Cap, strength.Strength)
        return [*modules, *(dict(vars(kind)) for kind in kinds)]

    weights = (1.0, 1e-4)  # of a gradient that is capped, and of one that is not
    before, plain = state(), [gradients(weight=weight)[1] for weight in weights]
    changes = [change for variant in VARIANTS.values() for change in variant.changes]
    assert changes
    for change in changes:
        added = [gradients(change, weight)[1] for weight in weights]
        assert all(one.isfinite().all() for one in added) and state() == before
        assert any((one - other).abs().max() > 0.1 * other.abs().max() for one, other in zip(added, plain, strict=True))
    assert torch.equal(gradients()[1], plain[0])


def test_neurons_are_drawn_as_long_as_their_task_allows_or_all_together_as_the_whole_does():
    def lengths(change=None):
        task, added = (one.flatten(1).norm(dim=1) for one in gradients(change))
        average = task.square().mean().sqrt()
        return added / task.maximum(average), added.norm() / task.norm()

    assert lengths()[0].max() == pytest.approx(cap.MOST, rel=2e-2)  # of a difference, in 32 bits
    each, together = lengths(ideas.whole_kernel)
    assert each.max() > 1.05 * cap.MOST and together == pytest.approx(cap.MOST, rel=2e-2)


def test_what_is_inherited_counts_unless_it_is_left_out():
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(2)))
    with torch.no_grad():
        net[0].weight.fill_(1 / 9)  # darker at the border by a third
        net[1].weight.fill_(0.02)  # so is this, by a little: less than its spread inside
        net[1].weight[0, 0, 1, 1] = 1.0  # hands on what the first one knows
    images = torch.randn(16, 1, 20, 20, generator=torch.Generator().manual_seed(1)) + 4

    def price(change=nullcontext):
        with change():
            penalty = PaddingBiasPenalty(net, layers="1")
            net(images)
            value = penalty().item()
            penalty.detach()
        return value

    assert price() > 0.1 and price() > 8 * price(ideas.own_alone)


def test_a_projection_is_within_the_margin_of_the_same_images():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))
    images = torch.rand(16, 1, 20, 20)
    penalty = PaddingBiasPenalty(net, layers="0")
    projection = ideas.Projection(1.0)
    projection.penalty = PaddingBiasPenalty(net, layers="0")
    with ideas.own_alone():
        net(images)
        before = penalty().item()
        for _ in range(20):  # to the worst side each time, and readings vary less as kernels get shorter
            net(images)
            projection.on_train_batch_end()
            projection.penalty.begin(0)
        net(images)
        after = penalty().item()
    assert before > 1 and after < 1e-2 * before


def test_crop_pairs_find_how_the_border_of_a_crop_differs_from_the_same_pixels():
    torch.manual_seed(0)
    net, images = small_cnn(10), torch.randn(8, 1, 32, 32)
    net(images)  # so that the norms are not those of the beginning
    whole, crop = (ideas._mean_inputs(net, one) for one in (images, images[..., 4:-4, 4:-4]))
    convs = [module for module in net if isinstance(module, nn.Conv2d)]
    outputs = [{}, {}]
    for conv in convs:
        conv.register_forward_hook(lambda conv, args, output: outputs[conv.training].update({conv: output.mean(0)}))
    net.eval()(images)
    for conv in convs:
        conv.train()  # norms stay as they are
    net(images[..., 4:-4, 4:-4])
    for conv, offset in zip(convs[:4:2], (4, 2), strict=True):  # of stride 1, behind strides of 1 and 2
        by_tap = ideas._difference_by_tap(conv, crop[conv], whole[conv], offset)
        found = torch.einsum("sk,ok->so", by_tap[:, 0], conv.weight.flatten(1))
        height, width = outputs[1][conv].shape[1:]
        same = outputs[0][conv][:, offset : offset + height, offset : offset + width]
        borders = PaddedLayer(conv).geometry(height, width).borders.values()
        true = torch.stack([(outputs[1][conv] - same)[:, rows, columns].mean((1, 2)) for rows, columns in borders])
        assert true.abs().max() > 0.01
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-5)


def test_padding_with_the_mean_is_padding_with_the_mean():
    net = ideas.padded_with_the_mean(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)))
    x = torch.randn(8, 2, 9, 9) + torch.tensor([3.0, -1.0])[:, None, None]
    for _ in range(200):
        net(x)
    net.eval()
    mean = x.mean((0, 2, 3))
    torch.testing.assert_close(net[0].mean, mean, rtol=1e-4, atol=1e-5)
    padded = torch.stack([F.pad(x[:, c], (1, 1, 1, 1), value=float(mean[c])) for c in range(2)], 1)
    torch.testing.assert_close(net(x), F.conv2d(padded, net[0].weight, net[0].bias), rtol=1e-4, atol=1e-4)


def test_partial_convolutions_scale_with_the_share_of_taps_inside():
    plain = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(4, 2, 7, 7)
    before = plain(x) - plain.bias[:, None, None]
    after = ideas.partial_convolutions(nn.Sequential(plain))(x) - plain.bias[:, None, None]
    ratio = torch.ones(7, 7)
    ratio[[0, -1]] = ratio[:, [0, -1]] = 9 / 6
    for row in (0, -1):
        for column in (0, -1):
            ratio[row, column] = 9 / 4
    torch.testing.assert_close(after, before * ratio, rtol=1e-4, atol=1e-5)


def test_a_line_has_the_runs_that_have_a_plain_one_of_their_seed():
    def row(arm, seed, pans, right):
        return {"task": "digit", "arm": arm, "seed": seed, "commit": "abc", "pans": pans, "accuracy": {"digit": right}}

    rows = [row("none", 1, 10, 0.9), row("none", 2, 8, 0.95), row("margin 0.7", 2, 1, 0.945)]
    rows += [row("margin 0.7", 1, 2, 0.91), row("margin 0.7", 3, 0, 0.99)]
    before = [row("no longer there", 2, 5, 0.94)]
    page = text(rows, [("## Before", before)], list(VARIANTS))
    (line,) = (line for line in page.splitlines() if "margin 0.7" in line)
    assert line == "| digit | margin 0.7 | 1, 2 | 10 → 2, 8 → 1 | digit +1.00, -0.50 |"
    assert "| digit | no longer there | 2 | 8 → 5 | digit -1.00 |" in page.split("## Before")[1]
    assert "5 runs, at commit `abc`" in page.split("## Before")[0]


def test_all_runs_are_of_variants_that_there_are():
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert rows and {row["arm"] for row in rows} <= set(VARIANTS)
