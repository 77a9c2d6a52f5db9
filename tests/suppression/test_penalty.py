"""PaddingBiasPenalty against numpy, and against networks whose answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANError, scan
from pan_callbacks.suppression.price import FLOOR, price
from tests.support import planted
from tests.support.lightning_models import SmallModule

KINDS = ("moments", "effect", "both")


def images(n=6, channels=2, size=12, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def net(**kwargs):
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, **kwargs))


def penalty_of(model, x, kind, **kwargs):
    penalty = PaddingBiasPenalty(model, kind, **kwargs)
    model(x)
    value = penalty()
    penalty.detach()
    return value


def by_numpy(conv: nn.Conv2d, x: torch.Tensor, kind: str, images: int = 16) -> float:
    """The penalty of one 3×3 stride-1 layer, in float64, position by position."""
    y = conv(x).detach().double().numpy()[:images]
    reflected = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    neutral = torch.conv2d(torch.from_numpy(reflected), conv.weight, conv.bias).detach().double().numpy()
    effect = conv(x).detach().double().numpy() - neutral  # of all images
    n = y.shape[2]
    inner = np.arange(n // 4, n - n // 4)[:: max(1, -(-(n - 2 * (n // 4)) // 8))]
    reference = y[:, :, inner][..., inner]
    edge, inside = [0], list(range(1, n - 1))
    far = [n - 1]
    sides = [(edge, inside), (far, inside), (inside, edge), (inside, far)]
    sides += [(edge, edge), (edge, far), (far, edge), (far, far)]
    total = 0.0
    for channel in range(y.shape[1]):
        mean, variance = reference[:, channel].mean(), reference[:, channel].var()
        for rows, cols in sides:
            strip = y[:, channel][:, rows][..., cols]
            gaps = {
                "moments": (strip.mean() - mean) ** 2 + (strip.std() - variance**0.5) ** 2,
                "effect": effect[:, channel][:, rows][..., cols].mean() ** 2,
            }
            for name, gap in gaps.items():
                if kind in (name, "both"):
                    total += (0.2 if name == "moments" else 1) * np.log1p(gap / (variance + FLOOR * gap))
    return total / y.shape[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 12, 19])
def test_the_value_is_what_numpy_computes_position_by_position(kind, size):
    model, x = net(), images(size=size) + 0.5
    assert penalty_of(model, x, kind).item() == pytest.approx(by_numpy(model[0], x, kind), rel=2e-4)


def test_moments_look_at_max_images_and_the_effect_at_all():
    model, x = net(), images(8) + 0.5
    found = penalty_of(model, x, "moments", max_images=3).item()
    assert found == pytest.approx(by_numpy(model[0], x, "moments", 3), rel=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exactly_zero_where_the_border_behaves_like_the_reference(kind):
    model = net(bias=False)
    model[0].weight.data[:] = 0
    model[0].weight.data[:, :, 1, 1] = torch.randint(-4, 5, (5, 2))  # a centre tap never reads padding
    constant = torch.randint(-4, 5, (6, 2, 1, 1)).float().expand(6, 2, 12, 12)
    assert penalty_of(model, constant, kind).item() == 0


def test_the_effect_is_exactly_zero_for_reflected_padding_whatever_the_content():
    assert penalty_of(net(padding_mode="reflect"), images() + 3, "effect").item() == 0
    assert penalty_of(net(), images() + 3, "effect").item() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_at_every_gain_of_a_channel(kind):
    model, x = net(), images() + 0.5
    plain = penalty_of(model, x, kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= torch.tensor([1e-2, 0.25, 1.0, 7.0, 1e4]).view(-1, *[1] * (parameter.ndim - 1))
    assert penalty_of(model, x, kind).item() == pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_value_by_finite_differences(kind):
    model, x = net(), images() + 0.5
    penalty_of(model, x, kind).backward()
    gradient = model[0].weight.grad
    torch.manual_seed(1)
    for _ in range(3):
        direction = torch.randn_like(gradient)
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            moved[0].weight.data += sign * 1e-3 * direction
            values.append(penalty_of(moved, x, kind).item())
        slope = (values[0] - values[1]) / 2e-3
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ["zeros", "constant", "one dead channel", "huge", "tiny"])
def test_gradients_are_finite_where_channels_are_constant(kind, content):
    model, x = net(), images()
    if content == "zeros":
        x = torch.zeros_like(x)
    elif content == "constant":
        x = torch.full_like(x, 3.0)
    elif content == "one dead channel":
        model[0].weight.data[1] = 0
    else:
        x = x * (1e12 if content == "huge" else 1e-12)
    value = penalty_of(model, x, kind)
    value.backward()
    assert value.isfinite()
    assert model[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [1e-6, 1e-9, 1e-20, 1e-22, 1e-30])
def test_a_filter_that_is_all_but_dead_gets_no_more_of_the_gradient_than_the_others(kind, gain):
    model, x = net(), images() + 0.5
    with torch.no_grad():
        model[0].weight[2] *= gain
        model[0].bias[2] *= gain
    penalty_of(model, x, kind).backward()
    size = model[0].weight.grad.flatten(1).norm(dim=1)
    assert size.isfinite().all()
    assert size[2] <= size.max() and size.max() < 100


def test_an_empty_selection_and_an_empty_batch_cost_nothing():
    model, x = net(), images()
    penalty = PaddingBiasPenalty(model, neurons={})
    model(x)
    assert penalty().item() == 0
    penalty.set_neurons(model, {"0": [1]})
    model(x)
    assert penalty().item() > 0
    model(x[:0])
    assert penalty().item() == 0
    assert penalty_of(nn.Sequential(nn.Conv2d(2, 5, 3, padding=1)), x[..., :2, :2], "both").item() == 0


def test_an_image_that_is_in_no_batch_is_penalised_alike():
    model, x = net(), images(1) + 0.5
    assert penalty_of(model, x[0], "both").item() == pytest.approx(penalty_of(model, x, "both").item())


def test_a_constructor_that_refuses_leaves_no_hooks():
    model = net()
    with pytest.raises(PANError):
        PaddingBiasPenalty(model, neurons={"0": [9]})
    assert not model[0]._forward_hooks
    with pytest.raises(PANError, match="layer '1' has no padding"):
        PaddingBiasPenalty(nn.Sequential(*net(), nn.Conv2d(5, 3, 1)), neurons={"1": [0]})


def test_a_computed_kernel_in_bfloat16_is_priced():
    standardised = nn.Sequential(StdConv2d(2, 5, 3, padding=1))
    x = images() + 0.5
    plain = penalty_of(standardised, x, "effect").item()
    assert penalty_of(standardised.bfloat16(), x.bfloat16(), "effect").item() == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_computed_in_float32_under_bfloat16(kind):
    model, x = net(), images() + 0.5
    plain = penalty_of(model, x, kind).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty_of(model, x, kind)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plain, rel=0.05)
    value.backward()
    halved = penalty_of(net().bfloat16(), x.bfloat16(), kind)
    assert halved.item() == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_detectors_are_priced_and_distractors_are_not(kind):
    truth = planted.single(3)
    x = planted.stationary(24, 32)
    detectors = sorted({channel for _, channel in truth.truth})
    distractors = [channel for _, channel in truth.distractors]
    truth.model.requires_grad_(True)
    high = penalty_of(truth.model, x, kind, neurons={"conv": detectors}, max_images=24).item()
    low = penalty_of(truth.model, x, kind, neurons={"conv": distractors}, max_images=24).item()
    assert high > 3
    assert low < 0.3  # chance, of moments
    if kind == "effect":
        assert low == 0


@pytest.mark.parametrize("kind", KINDS)
def test_descending_it_makes_padding_aware_neurons_forget_the_border(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    x = 2 + images(64, 1, 24)
    before = scan(model.eval(), [x], progress=False).count
    penalty = PaddingBiasPenalty(model, kind)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        model(x[step % 4 :: 4])
        penalty().backward()
        optimizer.step()
    penalty.detach()
    assert before >= 2
    assert scan(model, [x], progress=False).count == 0


def test_every_n_steps_counts_n_times_and_says_zero_in_between():
    model, x = net(), images() + 0.5
    plain = penalty_of(model, x, "moments").item()
    penalty = PaddingBiasPenalty(model, "moments", every_n_steps=3)
    values = []
    for _ in range(6):
        model(x)
        values.append(penalty().item())
    assert values == pytest.approx([3 * plain, 0, 0, 3 * plain, 0, 0])


def test_a_layer_called_twice_counts_as_the_mean_of_its_calls():
    model, x, other = net(), images() + 0.5, images(seed=1) - 1
    one, two = (penalty_of(model, part, "both").item() for part in (x, other))
    penalty = PaddingBiasPenalty(model, "both")
    model(x), model(other)
    assert penalty().item() == pytest.approx((one + two) / 2)


def test_layers_and_neurons_choose_what_is_penalised():
    model = nn.Sequential(*net(), nn.Conv2d(5, 3, 3, padding=1))
    x = images() + 0.5
    parts = [penalty_of(model, x, "both", layers=name).item() for name in "01"]
    assert penalty_of(model, x, "both").item() == pytest.approx(sum(parts))
    value = penalty_of(model, x, "both", neurons={"0": [3]})
    value.backward()
    touched = model[0].weight.grad.abs().sum((1, 2, 3)) > 0
    assert touched.tolist() == [False, False, False, True, False]
    assert model[1].weight.grad is None


def test_pad_modules_and_computed_kernels_are_seen():
    torch.manual_seed(0)
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 5, 3))
    own = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1))
    own[0].load_state_dict(padded[1].state_dict())
    x = images() + 0.5
    for kind in KINDS:
        assert penalty_of(padded, x, kind).item() == pytest.approx(penalty_of(own, x, kind).item(), rel=1e-5)
    standardised = nn.Sequential(StdConv2d(2, 5, 3, padding=1))
    value = penalty_of(standardised, x, "effect")
    value.backward()
    assert value > 0 and standardised[0].weight.grad.abs().sum() > 0


def test_it_keeps_strips_and_no_maps():
    model = net()
    penalty = PaddingBiasPenalty(model, "moments", max_images=4)
    model(images(32, size=64))
    views = [view for tap in penalty._taps.values() for view in tap.seen]
    kept = sum(t.untyped_storage().nbytes() for v in views for t in (v.reference, *v.strips.values()))
    assert kept == 4 * 4 * 5 * (8 * 8 + 4 * 62 + 4)
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


def test_the_price_is_log_of_one_plus_the_ratio():
    gap, variance = torch.tensor([0.0, 0.0, 1.0, 4.0, 1.0]), torch.tensor([0.0, 2.0, 2.0, 1.0, 0.0])
    expected = torch.tensor([0, 0, np.log(1.5), np.log(5), np.log1p(1 / FLOOR)], dtype=torch.float32)
    torch.testing.assert_close(price(gap, variance), expected, rtol=1e-3, atol=0)


def test_bad_arguments_are_named():
    for kwargs, match in (
        ({"kind": "all"}, "kind='all' is unknown; choose one of both, effect, moments"),
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
