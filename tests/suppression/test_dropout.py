"""Padding that is dropped by chance: against two networks of which one pads neutrally, and one as it is."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, StdConv2d
from torch import nn
from torch.utils.checkpoint import checkpoint

from pan_callbacks import PaddingBiasPenalty, PANError, masked, padding_dropout
from tests.suppression.test_masks import report_of


def images(n=12, size=(9, 8), channels=4):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(n))


class Called(nn.Module):
    """Pads by a call."""

    def __init__(self, mode="constant"):
        super().__init__()
        self.conv, self.mode = nn.Conv2d(4, 5, 3), mode

    def forward(self, x):
        value = {"value": 0.5} if self.mode == "constant" else {}
        return self.conv(F.pad(x, (1, 2, 0, 1), mode=self.mode, **value))


def twin(layer):
    """The same layer with neutral padding, built by hand."""
    twin = copy.deepcopy(layer)
    if isinstance(layer, Called):
        twin.mode = "reflect"
    elif isinstance(layer, nn.Sequential):
        kind = {nn.ZeroPad2d: nn.ReflectionPad2d, nn.ConstantPad1d: nn.ReflectionPad1d}[type(layer[0])]
        twin[0] = kind(layer[0].padding)
    elif isinstance(layer, Conv2dSame):
        plain = nn.Conv2d(4, 5, 3, 2)
        plain.load_state_dict(layer.state_dict())
        twin = nn.Sequential(nn.ReflectionPad2d((0, 1, 1, 1)), plain)  # of a map of 9 by 8
    elif isinstance(layer, StdConv2d):
        twin.padding = (0, 0)
        twin = nn.Sequential(nn.ReflectionPad2d(1), twin)
    else:
        twin.padding_mode = "reflect"
    return twin


LAYERS = {
    "plain": lambda: nn.Conv2d(4, 5, 3, padding=1),
    "stride, groups": lambda: nn.Conv2d(4, 6, (5, 3), stride=2, padding=(2, 1), groups=2),
    "same, dilation": lambda: nn.Conv2d(4, 5, 3, padding="same", dilation=2),
    "TensorFlow's same": lambda: Conv2dSame(4, 5, 3, stride=2),
    "weight-standardised": lambda: StdConv2d(4, 5, 3, padding=1),
    "1-D": lambda: nn.Conv1d(4, 5, 3, padding=1),
    "3-D": lambda: nn.Conv3d(4, 5, 3, padding=1),
    "pad module": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 5, 3)),
    "pad module of another constant, 1-D": lambda: nn.Sequential(nn.ConstantPad1d(1, 3.0), nn.Conv1d(4, 5, 3)),
    "call of F.pad": Called,
}
SIZES = {"1-D": (11,), "3-D": (5, 6, 7), "pad module of another constant, 1-D": (11,)}


@pytest.mark.parametrize("name", LAYERS)
def test_each_image_has_its_own_padding_or_neutral_padding_and_both_occur(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    model, x = nn.Sequential(layer).train(), images(size=SIZES.get(name, (9, 8)))
    own, neutral = model(x), twin(layer)(x)
    with padding_dropout(model):
        first, second = model(x), model(x)
    is_own, is_neutral = [
        [torch.allclose(a, b, atol=1e-5) for a, b in zip(first, other, strict=True)] for other in (own, neutral)
    ]
    assert [a != b for a, b in zip(is_own, is_neutral, strict=True)] == [True] * len(x)
    assert any(is_own) and any(is_neutral)
    assert not torch.equal(first, second)  # drawn anew
    assert torch.equal(model(x), own) and not any(module._forward_hooks for module in model.modules())


def test_a_draw_per_call_is_the_same_for_all_images():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1)), images()
    own, neutral = model(x), twin(model[0])(x)
    seen = set()
    with padding_dropout(model, per="call"):
        for _ in range(12):
            found = model(x)
            seen.add((torch.allclose(found, own, atol=1e-5), torch.allclose(found, neutral, atol=1e-5)))
    assert seen == {(True, False), (False, True)}


@pytest.mark.parametrize("p", [0.0, 0.2, 0.9, 1.0])
def test_as_much_is_neutral_as_the_chance_says(p):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 2, 3, padding=1)), images(4000, (3, 3))
    own = model(x)
    with padding_dropout(model, p):
        changed = (model(x) != own).flatten(1).any(1).double().mean()
    assert abs(float(changed) - p) <= 5 * (p * (1 - p) / 4000) ** 0.5


def test_chances_come_from_the_global_random_state_and_nothing_is_drawn_where_nothing_is_left_to_chance():
    model, x = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3, padding=1)), images()
    with padding_dropout(model):
        torch.manual_seed(3)
        first = model(x)
        torch.manual_seed(3)
        again = model(x)
    assert torch.equal(first, again)
    for p, train in ((0.0, True), (1.0, True), (0.5, False)):
        model.train(train)
        with padding_dropout(model, p):
            torch.manual_seed(3)
            model(x)
            assert torch.equal(torch.rand(()), torch.rand((), generator=torch.Generator().manual_seed(3)))


def test_evaluation_is_as_it_was_and_a_layer_kept_in_evaluation_mode_as_well():
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)), images()
    own = model(x)
    with padding_dropout(model):
        assert torch.equal(model.eval()(x), own)
        model.train()[0].eval()
        with torch.no_grad():
            found = model(x)
        assert torch.equal(model[0](x), model[0].forward(x)) and not torch.equal(found, own)


def test_layers_are_chosen_by_globs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    x = images()
    with padding_dropout(model, 1.0, layers=["1"]):
        torch.testing.assert_close(model(x), twin(model[1])(model[0](x)))
    with pytest.raises(PANError, match="layers='stem' matches none"), padding_dropout(model, layers="stem"):
        pass


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")),
        nn.Sequential(nn.Conv2d(4, 2, 3), nn.Conv2d(2, 2, 1)),
        nn.Linear(3, 3),
    ],
)
def test_a_model_without_padding_of_constants_is_left_alone_and_that_is_said(model):
    with pytest.warns(UserWarning, match="padding_dropout has nothing to do"), padding_dropout(model):
        assert not any(module._forward_hooks for module in list(model.modules())[1:])


@pytest.mark.parametrize(("arguments", "match"), [((1.5,), "p=1.5"), ((-0.1,), "p=-0.1"), ((float("nan"),), "p=nan")])
def test_what_is_no_chance_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match), padding_dropout(nn.Conv2d(1, 1, 3), *arguments):
        pass
    with pytest.raises(ValueError, match="per='batch' is unknown"), padding_dropout(nn.Conv2d(1, 1, 3), per="batch"):
        pass


@pytest.mark.parametrize("first", ["plain", "pad module", "call of F.pad"])
def test_an_activation_checkpoint_has_the_same_draws_in_its_second_run(first):
    torch.manual_seed(0)
    model, x = nn.Sequential(LAYERS[first](), nn.Tanh(), nn.Conv2d(5, 2, 3, padding=1)), images()
    gradients = []
    with padding_dropout(model):
        for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
            torch.manual_seed(5)
            gradients.append(torch.autograd.grad(run(x).square().sum(), list(model.parameters())))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("mode", ["neutral", "zero"])
def test_a_masked_channel_stays_masked_in_any_order(mode, inside):
    torch.manual_seed(0)
    model, x, report = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1)), images(), report_of({"0": [1, 3]}, {"0": 5})
    with masked(model, report, mode):
        expected = model(x)
    contexts = [lambda: masked(model, report, mode), lambda: padding_dropout(model)]
    first, second = contexts if inside else contexts[::-1]
    with first(), second():
        found = model(x)
    torch.testing.assert_close(found[:, [1, 3]], expected[:, [1, 3]])
    assert (found[:, [0, 2, 4]] != expected[:, [0, 2, 4]]).any()


def penalty_of(model, x, dropped=None, before=True):
    """The penalty of the second layer in one forward, made before or after the padding of the first is dropped."""
    penalty = PaddingBiasPenalty(model, layers="1") if before else None
    with contextlib.nullcontext() if dropped is None else padding_dropout(model, dropped, layers="0"):
        penalty = penalty or PaddingBiasPenalty(model, layers="1")
        model(x)
        value = penalty().detach()
    penalty.detach()
    return float(value)


@pytest.mark.parametrize("before", [True, False])
def test_a_penalty_sees_what_the_network_sees_in_any_order(before):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1))
    x = images(size=(16, 16)) / 2 + 2
    expected = penalty_of(nn.Sequential(twin(model[0]), model[1]), x)
    assert expected > 0.01
    assert penalty_of(model, x, 1.0, before) == pytest.approx(expected, rel=1e-4)
    assert penalty_of(model, x, before=before) != pytest.approx(expected, rel=1e-2)


def test_a_penalty_of_the_layer_itself_is_the_same_in_any_order_and_goes_on():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1)), images(size=(16, 16)) / 2 + 2
    values = []
    for before in (True, False):
        penalty = PaddingBiasPenalty(model) if before else None
        with padding_dropout(model, 1.0):
            penalty = penalty or PaddingBiasPenalty(model)
            model(x)
            values.append(penalty().item())
        penalty.detach()
    assert values[0] == values[1] > 0.01  # the kernel still reads what it would read of the padding


@pytest.mark.parametrize("name", ["plain", "pad module"])
def test_compiled_networks_drop_their_padding_too_and_no_longer_afterwards(name):
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = LAYERS[name]()
    model, x = nn.Sequential(layer), images()
    own, neutral = model(x), twin(layer)(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    with padding_dropout(compiled):
        for _ in range(3):
            found = compiled(x)
        kinds = {
            (torch.allclose(a, b, atol=1e-5), torch.allclose(a, c, atol=1e-5))
            for a, b, c in zip(found, own, neutral, strict=True)
        }
    assert kinds == {(True, False), (False, True)}
    torch.testing.assert_close(compiled(x), own)


def test_what_is_padded_otherwise_each_time_is_followed():
    """A call of F.pad that makes the map a multiple of four."""

    class Fits(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 3, 3)

        def forward(self, x, mode="constant"):
            return self.conv(F.pad(x, (1, 1, 1, 1 + -x.shape[2] % 4), mode=mode))

    model = Fits()
    with padding_dropout(model, 1.0):
        found = {rows: model(images(size=(rows, 8))) for rows in (9, 8, 11)}
    for rows, output in found.items():
        torch.testing.assert_close(output, model(images(size=(rows, 8)), "reflect"))


def test_single_images_and_empty_batches_pass():
    model = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1))
    with padding_dropout(model, 1.0):
        torch.testing.assert_close(model(images()[0]), model(images())[0])
        assert model(images()[:0]).shape == (0, 5, 9, 8)


def test_a_copy_drops_and_can_be_pickled():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 5, 3)), images()
    own = model(x)
    with padding_dropout(model, 1.0):
        expected = model(x)
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for one in twins:
        torch.testing.assert_close(one(x), expected)
    assert not torch.allclose(expected, own)


def test_loops_that_call_parts_of_the_model_hold_no_more_than_a_few_maps():
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3), Called())
    with padding_dropout(model):
        for _ in range(300):
            model[2](images(1))
        hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
        trackers = [hook for hook in hooks if hasattr(hook, "_made")]
        assert trackers and all(len(tracker._made) <= 64 for tracker in trackers)
        model(images(1))
        assert not any(tracker._made for tracker in trackers)
