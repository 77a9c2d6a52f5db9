"""PaddingBiasPenalty against float64 position by position, and against networks whose answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANError, scan
from pan_callbacks.suppression.cap import MOST, WALL
from pan_callbacks.suppression.strength import GROWTH
from pan_callbacks.suppression.yardstick import MARGIN, shortest
from tests.support import planted
from tests.support.lightning_models import SmallModule
from tests.support.penalty_by_hand import by_hand


def images(n=6, channels=2, size=12, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def net(**kwargs):
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, **kwargs))


def penalty_of(model, x, **kwargs):
    penalty = PaddingBiasPenalty(model, **kwargs)
    model(x)
    value = penalty()
    penalty.detach()
    return value


@pytest.mark.parametrize("size", [8, 12, 19])
def test_value_and_gradient_are_those_computed_position_by_position(size):
    model, x = net(), images(size=size) + 2
    value = penalty_of(model, x)
    value.backward()
    hand = by_hand(model[0], x)
    assert value.item() == pytest.approx(hand.beyond.mean(), rel=1e-4)
    np.testing.assert_allclose(model[0].weight.grad.numpy(), hand.gradient, rtol=1e-3, atol=1e-3 * value.item())


def test_it_looks_at_max_images():
    model, x = net(), images(8) + 2
    found = penalty_of(model, x, max_images=3).item()
    assert found == pytest.approx(by_hand(model[0], x, 3).beyond.mean(), rel=1e-4)
    assert found != pytest.approx(by_hand(model[0], x, 8).beyond.mean(), rel=1e-4)


def test_a_step_along_the_gradient_that_is_as_long_as_the_distance_ends_at_the_margin():
    model, x = net(), images() + 2
    hand = by_hand(model[0], x)
    far = {channel: max(hand.distance, key=lambda side, c=channel: hand.distance[side][c]) for channel in range(5)}
    penalty_of(model, x).backward()
    gradient = model[0].weight.grad
    for channel, side in far.items():
        distance = hand.distance[side][channel]
        if distance == 0:
            assert not gradient[channel].any()
            continue
        way = gradient[channel] / gradient[channel].norm()
        moved = (model[0].weight[channel] - distance * way).detach().double().numpy()
        effect = abs((moved * hand.by_tap[side]).sum())
        assert effect == pytest.approx(hand.allowed[side][channel], rel=1e-3)


def test_it_is_exactly_zero_where_no_tap_reads_padding_and_for_reflected_padding():
    model = net(bias=False)
    model[0].weight.data[:] = 0
    model[0].weight.data[:, :, 1, 1] = torch.randint(-4, 5, (5, 2)).float()
    assert penalty_of(model, images() + 3).item() == 0
    assert penalty_of(net(padding_mode="reflect"), images() + 3).item() == 0
    assert penalty_of(net(), images() + 3).item() > 0.5


def test_a_neuron_within_the_margin_has_no_gradient_at_all():
    model, x = net(), images() + 0.8
    penalty_of(model, x).backward()
    hand = by_hand(model[0], x)
    within = np.max(list(hand.distance.values()), axis=0) == 0
    assert within.any() and not within.all()
    assert (model[0].weight.grad.abs().sum((1, 2, 3)) > 0).tolist() == (~within).tolist()


def test_the_gradient_grows_with_the_kernel():
    model, x = net(), images() + 2
    penalty_of(model, x).backward()
    plain = model[0].weight.grad.clone()
    gains = torch.tensor([1e-3, 0.25, 1.0, 7.0, 1e3]).view(-1, 1, 1, 1)
    with torch.no_grad():
        model[0].weight *= gains
        model[0].bias *= gains.flatten()
        model[0].weight.grad = None
    penalty = PaddingBiasPenalty(model)
    model(x)
    penalty().backward()
    # all but the floor of the margin, which is of the layer and not of the neuron, scales with the kernel
    grown = model[0].weight.grad
    assert torch.allclose(grown[2:4], plain[2:4] * gains[2:4], rtol=0.2)
    assert grown.isfinite().all()


def own_or_average(task):
    """Length of the task's gradient on each neuron, or the root of the mean square of them all if that is longer."""
    lengths = task.flatten(1).norm(dim=1).numpy()
    return np.maximum(lengths, np.sqrt((lengths**2).mean()))


def test_beside_a_task_no_neuron_is_drawn_further_than_its_distance_allows():
    model, x = net(), images() + 2
    task = torch.autograd.grad(0.01 * model(x).square().mean(), model[0].weight)[0]
    penalty = PaddingBiasPenalty(model)
    (0.01 * model(x).square().mean() + 100 * penalty()).backward()
    added, hand = (model[0].weight.grad - task).flatten(1).numpy(), by_hand(model[0], x)
    most = np.minimum((hand.beyond / WALL) ** 2, MOST)
    np.testing.assert_allclose(np.linalg.norm(added, axis=1), most * own_or_average(task), rtol=1e-2)
    direction = hand.gradient.reshape(5, -1)
    far = most > 0
    cosine = (
        (added * direction).sum(1)[far] / np.linalg.norm(added[far], axis=1) / np.linalg.norm(direction[far], axis=1)
    )
    np.testing.assert_allclose(cosine, 1, atol=1e-3)
    assert (most == MOST).any() and (most < MOST).any()


def test_near_its_margin_a_neuron_is_drawn_with_a_part_of_its_task():
    model = net()
    means = (images() + mean for mean in np.arange(0.5, 2, 0.02).tolist())
    near = ((x, beyond, i) for x in means for i, beyond in enumerate(by_hand(model[0], x).beyond / WALL))
    x, beyond, channel = next((x, beyond, i) for x, beyond, i in near if 0.3 < beyond < 0.8)
    task = torch.autograd.grad(0.01 * model(x).square().mean(), model[0].weight)[0].flatten(1)
    penalty = PaddingBiasPenalty(model)
    (0.01 * model(x).square().mean() + 1e4 * penalty()).backward()
    added = (model[0].weight.grad.flatten(1) - task)[channel].norm().item()
    assert added == pytest.approx(beyond**2 * own_or_average(task)[channel], rel=2e-2)


def test_a_light_penalty_is_not_shortened():
    model, x = net(), images() + 2
    penalty_of(model, x).backward()
    alone = model[0].weight.grad.clone()
    model[0].weight.grad = None
    task = torch.autograd.grad(model(x).square().mean(), model[0].weight)[0]
    weight = 0.02 * task.norm().item() / alone.norm().item()  # less than a neuron near its margin may have
    penalty = PaddingBiasPenalty(model)
    (model(x).square().mean() + weight * penalty()).backward()
    torch.testing.assert_close(model[0].weight.grad, task + weight * alone, rtol=1e-4, atol=1e-5)


def test_scaled_losses_have_scaled_gradients():
    model, x = net(), images() + 2
    found = []
    for scale in (1.0, 1024.0):
        penalty = PaddingBiasPenalty(model)
        model.zero_grad()
        (scale * (model(x).square().mean() + penalty())).backward()
        penalty.detach()
        found.append(model[0].weight.grad / scale)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_kernel_whose_task_died_is_left_alone():
    model, x = net(), images() + 2
    penalty = PaddingBiasPenalty(model)
    (model(x).square().mean() + penalty()).backward()
    model.zero_grad()
    (0 * model(x).sum() + penalty()).backward()
    assert not model[0].weight.grad.any()


def test_only_the_layers_own_kernel_has_a_gradient():
    model = nn.Sequential(*net(), nn.Conv2d(5, 3, 3, padding=1))
    x = (images() + 2).requires_grad_()
    penalty_of(model, x, layers="1").backward()
    assert model[1].weight.grad.any()
    assert x.grad is None and model[0].weight.grad is None and model[1].bias.grad is None


@pytest.mark.parametrize("content", ["zeros", "constant", "one dead channel", "huge", "tiny", "nan", "inf"])
def test_value_and_gradient_are_finite_whatever_the_images(content):
    model, x = net(), images()
    if content == "one dead channel":
        model[0].weight.data[1] = 0
    else:
        x = {
            "zeros": torch.zeros_like(x),
            "constant": torch.full_like(x, 3.0),
            "huge": x * 1e12,
            "tiny": x * 1e-12,
            "nan": x * torch.nan,
            "inf": x + torch.inf,
        }[content]
    value = penalty_of(model, x)
    value.backward()
    assert value.isfinite()
    assert model[0].weight.grad.isfinite().all()
    if content == "constant":  # nothing varies, so that any shift is as far off as can be
        assert value.item() == pytest.approx(99, abs=1.1)


def test_the_shortest_interval_is_that_of_all():
    generator = torch.Generator().manual_seed(0)
    readings = torch.randn(3, 41, generator=generator)
    for share in (0.2, MARGIN, 0.9):
        inside = -(-41 * share // 1)
        for row, found in zip(readings.tolist(), shortest(readings.sort(1).values, share).tolist(), strict=True):
            widths = [b - a for a in row for b in row if sum(a <= r <= b for r in row) >= inside]
            assert found == pytest.approx(min(widths))


def test_an_empty_selection_and_an_empty_batch_cost_nothing():
    model, x = net(), images() + 2
    penalty = PaddingBiasPenalty(model, neurons={})
    model(x)
    assert penalty().item() == 0
    penalty.set_neurons(model, {"0": [1]})
    model(x)
    assert penalty().item() > 0
    model(x[:0])
    assert penalty().item() == 0
    assert penalty_of(nn.Sequential(nn.Conv2d(2, 5, 3, padding=1)), x[..., :2, :2]).item() == 0


def test_an_image_that_is_in_no_batch_is_penalised_alike():
    model, x = net(), images(1) + 2
    assert penalty_of(model, x[0]).item() == pytest.approx(penalty_of(model, x).item())


def test_a_constructor_that_refuses_leaves_no_hooks():
    model = net()
    with pytest.raises(PANError):
        PaddingBiasPenalty(model, neurons={"0": [9]})
    assert not model[0]._forward_hooks
    with pytest.raises(PANError, match="layer '1' has no padding"):
        PaddingBiasPenalty(nn.Sequential(*net(), nn.Conv2d(5, 3, 1)), neurons={"1": [0]})


def test_a_computed_kernel_in_bfloat16_is_priced():
    standardised = nn.Sequential(StdConv2d(2, 5, 3, padding=1))
    x = images() + 2
    plain = penalty_of(standardised, x).item()
    assert penalty_of(standardised.bfloat16(), x.bfloat16()).item() == pytest.approx(plain, rel=0.1)


def test_it_is_computed_in_float32_under_bfloat16():
    model, x = net(), images() + 2
    plain = penalty_of(model, x).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty_of(model, x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plain, rel=0.05)
    value.backward()
    halved = penalty_of(net().bfloat16(), x.bfloat16())
    assert halved.item() == pytest.approx(plain, rel=0.1)


def test_planted_detectors_are_priced_and_distractors_are_not():
    truth = planted.single(3)
    x = planted.stationary(24, 32)
    detectors = sorted({channel for _, channel in truth.truth})
    distractors = [channel for _, channel in truth.distractors]
    truth.model.requires_grad_(True)
    high = penalty_of(truth.model, x, neurons={"conv": detectors}, max_images=24).item()
    low = penalty_of(truth.model, x, neurons={"conv": distractors}, max_images=24).item()
    assert high > 0.1
    assert low == 0


def test_descending_it_makes_padding_aware_neurons_forget_the_border():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    x = 2 + images(64, 1, 24)
    before = scan(model.eval(), [x], progress=False).count
    penalty = PaddingBiasPenalty(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        model(x[step % 4 :: 4])
        penalty().backward()
        optimizer.step()
    penalty.detach()
    assert before >= 2
    assert scan(model, [x], progress=False).count == 0


def test_every_n_steps_looks_in_every_nth_and_says_zero_in_between():
    model, x = net(), images() + 2
    plain = penalty_of(model, x).item()
    penalty = PaddingBiasPenalty(model, every_n_steps=3)
    values, lengths = [], []
    for _ in range(6):
        model.zero_grad()
        model(x)
        value = penalty()
        values.append(value.item())
        if value.requires_grad:
            value.backward()
            lengths.append(model[0].weight.grad.norm().item())
    assert values == pytest.approx([plain, 0, 0, plain, 0, 0])
    assert len(lengths) == 2 and 1.05 * lengths[0] < lengths[1] <= GROWTH * lengths[0] * (1 + 1e-6)


def test_a_layer_called_twice_counts_as_the_mean_of_its_calls():
    model, x, other = net(), images() + 2, images(seed=1) - 1
    one, two = (penalty_of(model, part).item() for part in (x, other))
    penalty = PaddingBiasPenalty(model)
    model(x), model(other)
    assert penalty().item() == pytest.approx((one + two) / 2)


def test_layers_and_neurons_choose_what_is_penalised():
    model = nn.Sequential(*net(), nn.Conv2d(5, 3, 3, padding=1))
    x = images() + 2
    parts = [penalty_of(model, x, layers=name).item() for name in "01"]
    assert penalty_of(model, x).item() == pytest.approx((5 * parts[0] + 3 * parts[1]) / 8)
    value = penalty_of(model, x, neurons={"0": [3]})
    value.backward()
    touched = model[0].weight.grad.abs().sum((1, 2, 3)) > 0
    assert touched.tolist() == [False, False, False, True, False]
    assert model[1].weight.grad is None


def test_pad_modules_and_computed_kernels_are_seen():
    torch.manual_seed(0)
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 5, 3))
    own = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1))
    own[0].load_state_dict(padded[1].state_dict())
    x = images() + 2
    assert penalty_of(padded, x).item() == pytest.approx(penalty_of(own, x).item(), rel=1e-5)
    standardised = nn.Sequential(StdConv2d(2, 5, 3, padding=1))
    value = penalty_of(standardised, x)
    value.backward()
    assert value > 0 and standardised[0].weight.grad.abs().sum() > 0


def test_it_keeps_no_maps():
    model = net()
    penalty = PaddingBiasPenalty(model, max_images=4)
    model(images(32, size=64))
    (view,) = [view for tap in penalty._taps.values() for view in tap.seen]
    kept = {name: value.untyped_storage().nbytes() for name, value in vars(view.measured).items()}
    by_side = 4 * 8 * 5
    assert kept.pop("by_tap") == 4 * 8 * 2 * 9 and kept.pop("shift") <= 3 * by_side  # one memory for the three
    assert set(kept) == {"allowed", "least"} and set(kept.values()) == {by_side}
    penalty()
    assert not penalty.collected


def test_models_with_hooks_are_copied_without_what_was_seen():
    model = net()
    penalty = PaddingBiasPenalty(model)
    model(images())
    copied = copy.deepcopy(model)
    copied(images())
    (tap,) = copied[0]._forward_hooks.values()
    assert tap.seen == [] and penalty.collected
    assert not list(penalty.parameters()) and not penalty.state_dict()


def test_evaluation_without_gradients_is_not_looked_at():
    model = net()
    penalty = PaddingBiasPenalty(model)
    with torch.no_grad():
        model(images())
    assert not penalty.collected
    with pytest.raises(PANError, match="no forward with gradients"):
        penalty()


def test_bad_arguments_are_named():
    for kwargs, match in (
        ({"max_images": 0}, "max_images=0"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
    ):
        with pytest.raises(ValueError, match=match):
            PaddingBiasPenalty(net(), **kwargs)
    with pytest.raises(PANError, match="this model has none"):
        PaddingBiasPenalty(nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(PANError, match="layers='1' selects none"):
        PaddingBiasPenalty(nn.Sequential(*net(), nn.Conv2d(5, 3, 1)), layers="1")
    with pytest.raises(PANError, match="matches none"):
        PaddingBiasPenalty(SmallModule(), layers="head.*")
    with pytest.raises(PANError, match="channel 9 of layer '0'"):
        PaddingBiasPenalty(net(), neurons={"0": [9]})
    with pytest.raises(PANError, match="layer 'stem' is not among"):
        PaddingBiasPenalty(net(), neurons={"stem": [0]})
