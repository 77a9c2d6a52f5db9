"""The penalty of layers that a call of F.pad feeds is that of the same layers after a pad module."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import pad as framed_by_torch
from torch.utils.checkpoint import checkpoint

from pan_callbacks import PaddingBiasPenalty, PANError, scan
from tests.support import planted

IMAGES = torch.randn(6, 2, 12, 12, generator=torch.Generator().manual_seed(0)) / 2 + 2
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PADS = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}


def around(x, value=0.0):
    return F.pad(x, (1, 1) * (x.ndim - 2), value=value)


class Net(nn.Module):
    """Two convolutions, each behind what pads."""

    def __init__(self, first, second, dims=2):
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = PLAIN[dims](2, 4, 3), PLAIN[dims](4, 3, 3)
        self.first, self.second = first, second

    def forward(self, x):
        return self.two(self.second(F.relu(self.one(self.first(x)))))


class Calling(Net):
    """Pads in its forward."""

    def __init__(self, dims=2):
        super().__init__(None, None, dims)

    def forward(self, x):
        sides = (1, 1) * len(self.one.kernel_size)
        return self.two(F.pad(F.relu(self.one(F.pad(x, sides))), sides))


class ByMethod(Calling):
    def prepared(self, x):
        return torch.constant_pad_nd(x, (1, 1, 1, 1), 0)

    def forward(self, x):
        return self.two(self.prepared(F.relu(self.one(self.prepared(x)))))


class ByFunction(Calling):
    def forward(self, x):
        return self.two(around(F.relu(self.one(around(x)))))


class ByAnotherName(Calling):
    def forward(self, x):
        return self.two(framed_by_torch(F.relu(self.one(framed_by_torch(x, [1] * 4))), [1] * 4))


class Padder:
    """No module."""

    def framed(self, x):
        return F.pad(x, (1, 1, 1, 1))

    __call__ = framed


class ByObject(Calling):
    def __init__(self):
        super().__init__()
        self.padder = Padder()

    def forward(self, x):
        return self.two(self.padder.framed(F.relu(self.one(Padder()(x)))))


class Inside(nn.Module):
    """Pads for layers of modules within."""

    def __init__(self):
        super().__init__()
        net = Calling()
        self.one, self.two = nn.Sequential(net.one, nn.ReLU()), nn.Sequential(nn.Sequential(net.two))

    def forward(self, x):
        return self.two(F.pad(self.one(F.pad(x, (1,) * 4)), (1,) * 4))


class Checkpointed(Calling):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class BySizes(Calling):
    """Pads as much as makes the map a multiple of four, and two."""

    def forward(self, x):
        rows = -x.shape[-2] % 4 + 2
        return self.two(F.pad(F.relu(self.one(F.pad(x, (1, 1, rows, 1)))), (1,) * 4))


def penalised(net, x=IMAGES, call=None, **kwargs):
    penalty = PaddingBiasPenalty(net, **kwargs)
    loss = (net if call is None else call)(x).square().mean()
    left, value = penalty.left_out(), penalty.take(loss)
    penalty.detach()
    (loss + value).backward()
    return value, {name.replace("0.", ""): p.grad for name, p in net.named_parameters()}, left


def assert_penalised_alike(one, other, **kwargs):
    assert penalty_alike(one, other, **kwargs) > 0.01


def penalty_alike(one, other, **kwargs):
    value, gradients, left = penalised(one, **kwargs)
    expected, wanted, _ = penalised(other, **kwargs)
    assert torch.equal(value, expected)
    assert gradients.keys() == wanted.keys()
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)
    assert left == {}
    assert torch.overrides._get_current_function_mode_stack() == []
    return value


def with_modules(pad=nn.ZeroPad2d, *args):
    return Net(pad(1, *args), pad(1, *args))


@pytest.mark.parametrize("net", [Calling, ByMethod, ByFunction, ByAnotherName, ByObject, Inside, Checkpointed])
def test_it_is_the_penalty_of_the_same_network_with_pad_modules(net):
    assert_penalised_alike(net(), with_modules())


PARTS = {
    "a lambda": lambda x: F.pad(x, (1, 1, 1, 1)),
    "a partial": functools.partial(F.pad, pad=(1, 1, 1, 1)),
    "a function": around,
    "an object": Padder(),
    "in two steps": lambda x: F.pad(F.pad(x, (1, 1)), (0, 0, 1, 1)),
    "a call and a module": lambda x: nn.ZeroPad2d((1, 1, 0, 0))(F.pad(x, (0, 0, 1, 1))),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_function_on_the_module_is_seen(part):
    assert_penalised_alike(Net(PARTS[part], PARTS[part]), with_modules())


def test_a_forward_put_on_the_instance_is_seen():
    net = Calling()
    net.forward = lambda x: net.two(around(F.relu(net.one(around(x)))))
    assert_penalised_alike(net, with_modules())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_in_one_two_and_three_dimensions(dims):
    images = torch.randn(4, 2, *(9,) * dims, generator=torch.Generator().manual_seed(0)) / 2 + 2
    assert_penalised_alike(Calling(dims), Net(PADS[dims](1, 0.0), PADS[dims](1, 0.0), dims), x=images)


def test_a_constant_other_than_zero():
    ones = functools.partial(around, value=1.0)
    assert_penalised_alike(Net(ones, ones), with_modules(nn.ConstantPad2d, 1.0))


@pytest.mark.parametrize(
    "mode, module",
    [("reflect", nn.ReflectionPad2d), ("replicate", nn.ReplicationPad2d), ("circular", nn.CircularPad2d)],
)
def test_other_modes(mode, module):
    pad = functools.partial(F.pad, pad=(1, 1, 1, 1), mode=mode)
    x = IMAGES + torch.linspace(0, 30, 12)
    value = penalty_alike(Net(pad, pad), with_modules(module), x=x)
    assert value == 0 if mode == "reflect" else value > 0.01  # which is neutral


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: torch.vmap(net)(x),
        lambda net, x: torch.func.functional_call(net, dict(net.named_parameters()), (x,)),
        lambda net, x: net(x[0]),
    ],
)
def test_under_vmap_under_functional_call_and_on_a_single_image(call):
    value, _, left = penalised(one := ByMethod(), call=functools.partial(call, one))
    expected, _, _ = penalised(other := with_modules(), call=functools.partial(call, other))
    assert torch.equal(value, expected)
    assert value > 0.01
    assert left == {}


@pytest.mark.parametrize("rows", [9, 10, 12])
def test_padding_that_depends_on_the_size_of_the_image(rows):
    top = -rows % 4 + 2
    expected = Net(nn.ZeroPad2d((1, 1, top, 1)), nn.ZeroPad2d(1))
    assert_penalised_alike(BySizes(), expected, x=IMAGES[:, :, :rows])


def test_a_network_is_trained_out_of_a_border_that_f_pad_teaches():
    network = planted.line_or_solid(2, size=24, padding=0).model.requires_grad_(True)
    images = planted.content_of(2, 16, 24)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            return self.net(F.pad(x, (1, 1, 1, 1)))

    model = Padded()
    before = scan(model, [images], progress=False)
    assert before.neurons_by_layer()["net.first"]
    penalty = PaddingBiasPenalty(model, layers="net.first", neurons=before.neurons_by_layer())
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(images)
        penalty().backward()
        optimizer.step()
    penalty.detach()
    after = scan(model, [images], progress=False)
    assert len(after.neurons_by_layer().get("net.first", [])) < len(before.neurons_by_layer()["net.first"]) / 2


def test_a_convolution_that_pads_as_well_is_penalised_for_its_own_padding():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, padding=1)
    plain, _, _ = penalised(nn.Sequential(conv), x=F.pad(IMAGES, (1,) * 4))
    by_module, _, left = penalised(nn.Sequential(nn.ZeroPad2d(1), conv))
    assert (left, by_module) == ({}, plain)


def test_what_f_pad_does_to_channels_is_no_border():
    class Wider(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.two(F.pad(self.one(x), (0, 0, 0, 0, 0, 1)))

    _, _, left = penalised(Wider())
    assert left == {"two": "no padding"}


def test_hooks_are_on_modules_that_call_it_alone_and_come_off_again_and_off_copies():
    model = nn.Sequential(Calling(), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), nn.ZeroPad2d(1))
    penalty = PaddingBiasPenalty(model)
    assert [len(module._forward_pre_hooks) for module in (model, model[0], model[1], model[2])] == [0, 1, 0, 0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(nn.Sequential(model[1], model[2])))):
        other(IMAGES if len(other) == 3 else IMAGES[:, :1].expand(-1, 3, -1, -1))
    penalty.detach()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_nothing_is_watched_where_the_step_is_not_due_nor_after_an_error():
    modes = []

    class Asking(Calling):
        def forward(self, x):
            modes.append(len(torch.overrides._get_current_function_mode_stack()))
            return super().forward(around(x))

    net = Asking()
    penalty = PaddingBiasPenalty(net, every_n_steps=2)
    for _ in range(4):
        net(IMAGES)
        penalty()
    assert modes == [1, 0, 1, 0]
    with pytest.raises(RuntimeError):
        net(IMAGES[:, :1])
    assert torch.overrides._get_current_function_mode_stack() == []
    net(IMAGES)
    assert penalty.left_out() == {}


def test_a_module_that_comes_later_is_followed():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))
    penalty = PaddingBiasPenalty(model)
    model.append(Calling())
    penalty.follow(model)
    penalty.begin(0)
    model(IMAGES)
    assert penalty.left_out() == {}
    assert {name for name in penalty.layers if penalty.holds(name)} == {"0", "1.one", "1.two"}


def test_neurons_of_a_layer_whose_padding_is_not_seen_are_refused_also_if_layers_selects_it():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, padding=1))
    for layers in (None, "*"):
        with pytest.raises(PANError, match=r"layer '0' has no padding.* F\.pad .* use nn\.ZeroPad2d"):
            PaddingBiasPenalty(model, layers=layers, neurons={"0": [0]})
    PaddingBiasPenalty(model, layers="1", neurons={"0": [0]}).detach()


@pytest.mark.parametrize("compiled", ["whole", "part"])
def test_compiled_code_in_which_f_pad_is_not_seen_names_the_layers(compiled):
    torch._dynamo.reset()
    net = Calling()
    if compiled == "part":
        net.two.compile(backend="eager")
    penalty = PaddingBiasPenalty(net)
    model = net if compiled == "part" else torch.compile(net, backend="eager")
    model(IMAGES)
    left = penalty.left_out()
    assert left
    assert {why for why in left.values()} == {
        "no padding that is seen: a call of F.pad in code that runs compiled is not; use nn.ZeroPad2d"
    }
    torch._dynamo.reset()
