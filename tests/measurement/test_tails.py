"""A tail makes of a convolution's readings what the next layer gets at the same positions, or says where it ends."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pan_callbacks.layers import convolutions, dimensions
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.shadow import Shadow
from pan_callbacks.measurement.tail import Tail
from pan_callbacks.measurement.tails import tails, weights_of

C = 5


def images(axes: int = 2, channels: int = 1, size: int = 9) -> Tensor:
    return torch.randn(2, channels, *(size,) * axes, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, something behind it, another convolution."""

    def __init__(self, between, axes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.first, self.second = kind(1, C, 3, padding=1), kind(C, 2, 1)
        self.between, self.axes = between, axes
        if isinstance(between, nn.Module):
            stirred(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def stirred(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with normalisations that do something: negative weights among them."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.affine:
            for tensor, start in ((module.weight.data, 0.0), (module.bias.data, 0.0)):
                tensor.copy_(start + torch.randn(tensor.shape, generator=generator))
            if module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model.eval()


def probes_of(model: nn.Module) -> Probes:
    probes = Probes(convolutions(model), {})
    probes.attach()
    return probes


def found(model: nn.Module, x: Tensor | None = None, **options) -> dict[tuple[str, int], Tail]:
    """The tails of a model, whose hooks are taken off again."""
    probes = probes_of(model)
    try:
        return tails(
            EntryCall("", model, (images(getattr(model, "axes", 2)) if x is None else x,), {}), probes, **options
        )
    finally:
        probes.detach()


def flat(x: Tensor, axes: int = 2) -> Tensor:
    """The readings of all positions of the images (images and positions, channels)."""
    return x.detach().float().flatten(-axes).movedim(-2, -1).flatten(0, -2)


def passed(model: nn.Module, layer: str, follower: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Readings of what a layer gives, and of what another gets, in one forward of the images."""
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    axes = dimensions(modules[layer])
    handles = [
        modules[layer].register_forward_hook(lambda _, args, output: seen.update(given=flat(output.clone(), axes))),
        modules[follower].register_forward_pre_hook(lambda _, args: seen.update(got=flat(args[0].clone(), axes))),
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen["given"], seen["got"]


def assert_gives(tail: Tail, given: Tensor, got: Tensor) -> None:
    before = given.clone()
    made = tail(given)
    assert made.dtype == torch.float32 and made.shape == given.shape and not made.requires_grad
    torch.testing.assert_close(made, got, rtol=1e-5, atol=1e-5)
    assert torch.equal(given, before), "the readings were written into"
    some = torch.arange(len(given) - 1, 0, -3)
    torch.testing.assert_close(tail(given[some]), got[some], rtol=1e-5, atol=1e-5)


def prelu() -> nn.Module:
    made = nn.PReLU(C)
    made.weight.data = torch.linspace(-1, 2, C)
    return made


def swish(x):
    return x * torch.sigmoid(x)


def in_place_swish(x):
    return x.mul_(x.sigmoid())


def hand_written_hardswish(x):
    return x * F.relu6(x + 3) / 6


def shifted(x):
    x += 1
    x *= 2
    return 3 - x


MODULES = {
    "norm and relu": (lambda: nn.Sequential(nn.BatchNorm2d(C), nn.ReLU()), ("batch_norm", "relu")),
    "norm without weights": (lambda: nn.BatchNorm2d(C, affine=False), ("batch_norm",)),
    "norm and relu in place": (lambda: nn.Sequential(nn.BatchNorm2d(C), nn.ReLU(True)), ("batch_norm", "relu")),
    "relu in place": (lambda: nn.ReLU(inplace=True), ("relu",)),
    "relu6": (nn.ReLU6, ("hardtanh",)),
    "silu in place": (lambda: nn.SiLU(inplace=True), ("silu",)),
    "hardswish": (nn.Hardswish, ("hardswish",)),
    "gelu": (nn.GELU, ("gelu",)),
    "gelu with tanh": (lambda: nn.GELU("tanh"), ("gelu",)),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), ("leaky_relu",)),
    "prelu": (prelu, ("prelu",)),
    "sigmoid": (nn.Sigmoid, ("sigmoid",)),
    "softplus": (nn.Softplus, ("softplus",)),
    "dropout that does nothing": (lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), ("relu", "dropout")),
    "nothing": (nn.Identity, ()),
}
FUNCTIONS = {
    "relu": (F.relu, ("relu",)),
    "relu_": (F.relu_, ("relu",)),
    "method in place": (lambda x: x.relu_(), ("relu",)),
    "result of a method in place left lying": (lambda x: (x.relu_(), x)[1], ("relu",)),
    "clamp": (lambda x: x.clamp(min=-0.1, max=0.2), ("clamp",)),
    "copies": (lambda x: F.relu(x.contiguous().clone().detach().data), ("relu",)),
    "looks": (lambda x: F.relu(x) if x.shape[0] and x.is_floating_point() and len(x) else x, ("relu",)),
    "swish": (swish, ("sigmoid", "mul")),
    "swish in place": (in_place_swish, ("sigmoid", "mul")),
    "hardswish": (hand_written_hardswish, ("add", "relu6", "mul", "div")),
    "relu after swish": (lambda x: F.relu(swish(x)), ("sigmoid", "mul", "relu")),
    "arithmetic in place": (shifted, ("add", "mul", "rsub")),
    "made and not used": (lambda x: (torch.exp(x), F.relu(x))[1], ("relu",)),
    "with itself": (lambda x: x + x, ("add",)),
    "a constant for each channel": (lambda x: x * torch.arange(C).view(1, C, 1, 1), ("mul",)),
    "choice": (lambda x: torch.where(x > 0, x, x * 0.1), ("gt", "mul", "where")),
    "mask": (lambda x: x * (x > 0), ("gt", "mul")),
    "keywords": (lambda x: F.leaky_relu(input=x, negative_slope=0.3), ("leaky_relu",)),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_follow(case):
    make, names = MODULES[case]
    model = Net(make())
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends) == (names, "conv2d")
    assert_gives(tail, *passed(model, "first", "second", images()))


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_that_follow(case):
    function, names = FUNCTIONS[case]
    model = Net(function).eval()
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends) == (names, "conv2d")
    assert_gives(tail, *passed(model, "first", "second", images()))


def test_a_negative_weight_of_a_norm_turns_the_order_of_readings_around():
    model = Net(nn.BatchNorm2d(C))
    model.between.weight.data = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.0])
    readings = torch.tensor([[0.0], [1.0]]).expand(2, C)
    low, high = found(model)["first", 0](readings)
    assert (high - low).sign().tolist() == [1, -1, 1, -1, 0]


@pytest.mark.parametrize("axes", [1, 3])
def test_one_and_three_dimensions(axes):
    norm = (nn.BatchNorm1d, None, nn.BatchNorm3d)[axes - 1]
    model = Net(nn.Sequential(norm(C), prelu()), axes)
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends, tail.axes) == (("batch_norm", "prelu"), f"conv{axes}d", axes)
    assert_gives(tail, *passed(model, "first", "second", images(axes)))


@pytest.mark.parametrize("axes", [1, 2])
def test_a_layer_that_is_called_with_a_single_image(axes):
    class Single(Net):
        def forward(self, x):
            return self.second(F.relu(self.first(x[0])))

    model = Single(None, axes)
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends) == (("relu",), f"conv{axes}d")
    assert_gives(tail, *passed(model, "first", "second", images(axes)))


def test_a_large_map_is_looked_at_in_some_places_and_repeated_everywhere():
    model = Net(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU()))
    x = images(size=70)
    assert_gives(found(model, x)["first", 0], *passed(model, "first", "second", x))


ENDS = {
    "group norm": (nn.GroupNorm(1, C), "group_norm: not elementwise"),
    "instance norm": (nn.InstanceNorm2d(C), "instance_norm: not elementwise"),
    "norm over all": (nn.LayerNorm([C, 9, 9]), "layer_norm: not elementwise"),
    "softmax over channels": (nn.Softmax(1), "softmax: not elementwise"),
    "neighbouring channels": (nn.LocalResponseNorm(3, alpha=1.0), "local_response_norm: not elementwise"),
    "length over channels": (F.normalize, "normalize: not elementwise"),
    "norm in training": (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm: not elementwise"),
    "dropout": (F.dropout, "dropout: random"),
    "dropout that hardly ever drops": (lambda x: F.dropout(x, 1e-6), "dropout: random"),
    "dropout of channels": (F.dropout2d, "dropout2d: random"),
    "other place": (lambda x: x.flip(-1), "flip: not elementwise"),
    "other channel": (lambda x: x.roll(1, 1), "roll: not elementwise"),
    "own number for each place": (lambda x: x * torch.rand(1, 1, 9, 9), "mul"),
    "a map of weights": (lambda x: x * torch.ones(1, 1, 9, 9), "mul: not elementwise"),
    "the mean": (lambda x: x - x.mean((2, 3), keepdim=True), "several consumers"),
    "pool": (lambda x: F.avg_pool2d(x, 3, 1, 1), "avg_pool2d"),
    "smaller": (lambda x: F.max_pool2d(x, 2), "max_pool2d"),
    "laid out anew": (lambda x: F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), "permute, then gelu"),
    "rows for columns": (lambda x: x.transpose(2, 3), "transpose, then conv2d"),
    "flat": (lambda x: F.relu(x.flatten(1)).view(-1, C, 9, 9), "flatten, then relu"),
    "pad": (lambda x: F.pad(x, (1, 1)), "pad"),
    "part": (lambda x: x[:, :, 1:], "getitem"),
    "written into": (lambda x: (x.__setitem__((0, 0), 1.0), x)[1], "setitem: not elementwise"),
    "numbers": (lambda x: torch.from_numpy(x.detach().numpy() * 2), "nothing that could be watched"),
}


@pytest.mark.parametrize("case", ENDS)
def test_where_it_ends(case):
    between, ends = ENDS[case]
    assert_ends(Net(between).eval(), ends)


def assert_ends(model: nn.Module, ends: str, names: tuple[str, ...] = (), site: tuple[str, int] = ("first", 0)) -> Tail:
    tail = found(model)[site]
    assert (tail.names, tail.ends) == (names, ends)
    readings = torch.randn(4, C)
    assert names or torch.equal(tail(readings), readings)
    return tail


@pytest.mark.parametrize("case", ["group norm", "softmax over channels", "norm over all", "norm in training"])
def test_what_is_elementwise_on_a_single_position_alone_is_not_taken_for_it(case):
    between = {"norm over all": nn.LayerNorm([C, 1, 1])}.get(case, ENDS[case][0])
    tail = found(Net(between).eval(), images(size=1))
    assert tail["first", 0].names == ()


def test_a_map_that_is_the_same_everywhere_shows_nothing():
    model = Net(F.relu)
    nn.init.zeros_(model.first.weight)
    assert_ends(model, "relu: cannot be checked on a map that is the same everywhere")


def test_a_norm_in_training_mode():
    model = Net(nn.BatchNorm2d(C)).train()
    assert_ends(model, "batch_norm: not elementwise")


def test_what_comes_before_the_end_is_kept():
    assert_ends(Net(lambda x: F.dropout(F.relu(x))), "dropout: random", ("relu",))
    assert_ends(Net(lambda x: F.group_norm(F.relu(x), 1)), "group_norm: not elementwise", ("relu",))


def test_nothing_follows_the_last():
    model = Net(F.relu)
    assert_ends(model, "the end", site=("second", 0))
    model = nn.Sequential(nn.Conv2d(1, C, 3), nn.BatchNorm2d(C), nn.Tanh())
    assert_ends(stirred(model), "the end", ("batch_norm", "tanh"), ("0", 0))


class Residual(nn.Module):
    def __init__(self, add) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.first, self.norm = nn.Conv2d(1, C, 1), nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.add = add
        stirred(self)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return F.relu(self.add(self.norm(self.first(x)), x))


def in_place_add(x, y):
    x += y
    return x


@pytest.mark.parametrize(
    ("add", "ends"),
    [
        (lambda x, y: x + y, "add"),
        (in_place_add, "add"),
        (lambda x, y: y + x, "add"),
        (lambda x, y: torch.cat([y, x], 1), "cat"),
        (lambda x, y: x * y.mean((2, 3), keepdim=True), "mul"),
        (lambda x, y: x * float(y.shape[0]) if y.ndim == 9 else y.mul(x), "mul"),
    ],
)
def test_it_ends_before_what_adds_another_map(add, ends):
    model = Residual(add)
    tail = assert_ends(model, ends, ("batch_norm",))
    given, _ = passed(model, "first", "norm", images())
    assert_gives(tail, given, flat(model.norm(given[:, :, None, None]), 2))
    assert_ends(model, "several consumers", ("relu",), ("stem", 0))


def test_two_branches():
    class Branches(Net):
        def forward(self, x):
            x = F.relu(self.first(x))
            return self.second(F.relu(x + 1)) + self.second(F.relu(x - 1))

    assert_ends(Branches(None), "several consumers", ("relu",))


def test_two_branches_that_do_not_meet_and_one_of_them_returned():
    class Returns(Net):
        def forward(self, x):
            x = self.first(x)
            return {"features": [x], "out": self.second(F.relu(x))}

    assert_ends(Returns(None), "several consumers")


def test_a_layer_that_is_called_twice_has_two_tails():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.norm, self.second = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.Conv2d(C, C, 1)
            stirred(self)

        def forward(self, x):
            return self.second(self.norm(self.first(F.silu(self.first(x)))))

    model, x = Twice(), images(channels=C)
    both = found(model, x)
    assert {site: (tail.names, tail.ends) for site, tail in both.items()} == {
        ("first", 0): (("silu",), "conv2d"),
        ("first", 1): (("batch_norm",), "conv2d"),
        ("second", 0): ((), "the end"),
    }
    assert_gives(both["first", 1], *passed(model, "first", "second", x))
    readings = torch.randn(7, C)
    torch.testing.assert_close(both["first", 0](readings), readings * readings.sigmoid())
    assert found(model, x, sites=[("first", 1)]).keys() == {("first", 1)}
    assert found(model, x, sites=[("first", 9)])["first", 9].ends == "not called"


class Pads(nn.Conv2d):
    """Pads in its forward, and scales what it gives."""

    def forward(self, x):
        return 2 * super().forward(F.pad(x, (1, 1, 1, 1)))


def test_a_layer_with_a_forward_of_its_own_counts_by_what_it_gives():
    model = Net(F.relu)
    model.first = Pads(1, C, 3)
    tail = found(model)["first", 0]
    assert tail.names == ("relu",)
    assert_gives(tail, *passed(model, "first", "second", images()))
    model.second = Pads(C, 2, 3)
    assert_ends(model, "pad", ("relu",))


def test_what_a_hook_before_ours_gives_is_what_is_followed():
    model = Net(nn.ReLU())
    model.first.register_forward_hook(lambda module, args, output: output * 3 - 1)
    tail = found(model)["first", 0]
    assert tail.names == ("relu",)
    assert_gives(tail, *passed(model, "first", "second", images()))


def test_a_hook_behind_ours_is_followed():
    model = Net(nn.ReLU())
    probes = probes_of(model)
    model.first.register_forward_hook(lambda module, args, output: output * 3)
    assert tails(EntryCall("", model, (images(),), {}), probes)["first", 0].names == ("mul", "relu")


def test_a_map_that_is_written_into_behind_our_back():
    class Behind(Net):
        def forward(self, x):
            x = self.first(x)
            x.detach().numpy()[:] += 1
            return self.second(F.relu(x))

    assert_ends(Behind(None).requires_grad_(False), "written into by what could not be watched")


def test_a_map_that_is_written_into_by_another_name():
    class Alias(Net):
        def forward(self, x):
            x = self.first(x)
            x.data.relu_()
            return self.second(x)

    assert found(Alias(None))["first", 0].ends == "written into by what could not be watched"


# --- networks of libraries


def chain_of(model: nn.Module, layer: str, x: Tensor, behind: list[str]) -> tuple[Tensor, Tensor]:
    """Readings of what a layer gives, and of what modules behind it make of that, called one after another."""
    modules, seen = dict(model.named_modules()), []
    handle = modules[layer].register_forward_hook(lambda _, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model(x)
        handle.remove()
        made = seen[0]
        for name in behind:
            made = modules[name](made.clone())
    return flat(seen[0]), flat(made)


def test_every_depthwise_layer_of_an_efficientnet():
    model = stirred(timm.create_model("tf_efficientnet_lite0", exportable=False))
    x, depthwise = (
        images(channels=3, size=64),
        [n for n, m in convolutions(model).items() if getattr(m, "groups", 1) > 1],
    )
    every = found(model, x)
    assert len(depthwise) == 16
    assert {every[name, 0].names for name in depthwise} == {("batch_norm", "hardtanh")}
    assert {every[name, 0].ends for name in depthwise} == {"conv2d"}
    name = depthwise[2]
    assert_gives(every[name, 0], *chain_of(model, name, x, [name.replace("conv_dw", "bn2")]))
    linear = [tail for (name, _), tail in every.items() if name.endswith("conv_pwl")]
    assert {tail.names for tail in linear} == {("batch_norm",)}
    assert "add" in {tail.ends for tail in linear}


def test_a_resnet_of_timm():
    model, x = stirred(timm.create_model("resnet10t")), images(channels=3, size=64)
    every = found(model, x)
    assert (every["layer1.0.conv1", 0].names, every["layer1.0.conv1", 0].ends) == (("batch_norm", "relu"), "conv2d")
    assert (every["layer1.0.conv2", 0].names, every["layer1.0.conv2", 0].ends) == (("batch_norm",), "add")
    given = chain_of(model, "layer1.0.conv1", x, ["layer1.0.bn1", "layer1.0.act1"])
    assert_gives(every["layer1.0.conv1", 0], *given)


def test_a_mobilenet():
    model, x = stirred(timm.create_model("mobilenetv3_small_050")), images(channels=3, size=64)
    every = found(model, x)
    assert (every["conv_stem", 0].names, every["conv_stem", 0].ends) == (("batch_norm", "hardswish"), "conv2d")
    assert_gives(every["conv_stem", 0], *chain_of(model, "conv_stem", x, ["bn1"]))
    gated = every["blocks.0.0.conv_dw", 0]  # squeeze and excite: a mean of the map, and the map
    assert (gated.names, gated.ends) == (("batch_norm", "relu"), "several consumers")


def test_a_convnext():
    model = timm.create_model("convnext_atto").eval()
    every = found(model, images(channels=3, size=64))
    depthwise = {tail.ends for (name, _), tail in every.items() if name.endswith("conv_dw")}
    assert {tail.names for (name, _), tail in every.items() if name.endswith("conv_dw")} == {()}
    assert depthwise == {"permute, then layer_norm"}
    assert every["stages.0.blocks.0.mlp.fc1", 0].names == ("gelu", "dropout")


def test_a_resnet_of_torchvision():
    model, x = stirred(torchvision.models.resnet18()), images(channels=3, size=64)
    every = found(model, x)
    assert (every["conv1", 0].names, every["conv1", 0].ends) == (("batch_norm", "relu"), "max_pool2d")
    block = every["layer1.0.conv2", 0]
    assert (block.names, block.ends) == (("batch_norm",), "add")
    assert_gives(block, *chain_of(model, "layer1.0.conv2", x, ["layer1.0.bn2"]))
    assert_gives(every["conv1", 0], *passed(model, "conv1", "maxpool", x))


def test_a_densenet():
    model, x = stirred(torchvision.models.densenet121()), images(channels=3, size=64)
    every = found(model, x)
    inner = every["features.denseblock1.denselayer2.conv1", 0]
    assert (inner.names, inner.ends) == (("batch_norm", "relu"), "conv2d")
    assert every["features.denseblock4.denselayer16.conv2", 0].ends == "cat"
    assert every["features.denseblock1.denselayer2.conv2", 0].ends == "several consumers"
    start = "features.denseblock1.denselayer2."
    assert_gives(inner, *passed(model, f"{start}conv1", f"{start}conv2", x))


# --- what cannot be watched


def test_scripted_functions_and_modules_are_not_seen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU()).eval())
        whole = torch.jit.script(nn.Sequential(nn.Conv2d(1, C, 3), nn.ReLU()))
    assert_ends(Net(scripted), "nothing that could be watched")
    assert_ends(Net(lambda x: scripted(F.relu(x))), "nothing that could be watched")
    assert_ends(Net(lambda x: (F.relu(x), scripted(x))[1]), "nothing that could be watched")
    assert tails(EntryCall("", whole, (images(),), {}), Probes({}, {})) == {}


def test_a_gate_that_nobody_saw_being_made_is_no_constant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gate = torch.jit.script(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid()))
    assert_ends(Net(lambda x: x * gate(x)), "mul")
    assert_ends(Net(lambda x: x * torch.from_numpy(x.detach().numpy().mean((2, 3), keepdims=True))), "mul")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x


def test_a_function_with_a_gradient_of_its_own():
    model = Net(lambda x: F.relu(Doubled.apply(x)))
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends) == (("mul", "relu"), "conv2d")
    assert_gives(tail, *passed(model, "first", "second", images()))


def test_a_compiled_module_is_not_watched():
    model = Net(torch.compile(nn.ReLU(), backend="eager"))
    assert_ends(model, "compiled code cannot be watched")


def test_a_compiled_function_is_watched_as_it_is_written_and_not_compiled_anew():
    graphs: list[object] = []

    def counted(graph, example):
        graphs.append(graph)
        return graph.forward

    model = Net(torch.compile(lambda x: F.relu(x) + 1, backend=counted))
    given, got = passed(model, "first", "second", images())
    tail = found(model)["first", 0]
    assert (tail.names, tail.ends) == (("relu", "add"), "conv2d")
    assert_gives(tail, given, got)
    passed(model, "first", "second", images())
    assert len(graphs) == 1


def test_probes_may_say_that_nothing_is_to_be_watched():
    model = Net(F.relu)
    probes = probes_of(model)
    probes.watched = False
    tail = tails(EntryCall("", model, (images(),), {}), probes)["first", 0]
    assert (tail.names, tail.ends) == ((), "compiled code cannot be watched")


def test_a_forward_that_fails_is_no_error_of_ours():
    def fails(x):
        raise ValueError("not today")

    assert_ends(Net(fails), "the forward cannot be watched: not today")


# --- precision, and what is left behind


def test_autocast_and_halves_are_repeated_in_float32():
    class Cast(Net):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model = Cast(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU()))
    tail = found(model)["first", 0]
    assert tail.names == ("batch_norm", "relu")
    given, got = passed(model, "first", "second", images())
    torch.testing.assert_close(tail(given), got, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tail(given), tail(given.bfloat16()))
    half = Net(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU())).bfloat16()
    tail = found(half, images().bfloat16())["first", 0]
    assert tail.names == ("batch_norm", "relu") and tail(given).dtype == torch.float32


def test_it_stays_what_it_was_when_weights_change():
    model = Net(nn.Sequential(nn.BatchNorm2d(C), prelu()))
    tail = found(model)["first", 0]
    given, got = passed(model, "first", "second", images())
    with torch.no_grad():
        for tensor in (*model.between.parameters(), *model.between.buffers()):
            tensor.fill_(7)
    assert_gives(tail, given, got)


def test_it_keeps_no_map_alive():
    kept: list[weakref.ref] = []

    class Remembering(Net):
        def forward(self, x):
            x = self.first(x)
            y = self.between(x)
            kept.extend([weakref.ref(x), weakref.ref(y)])
            return self.second(y)

    model = Remembering(nn.Sequential(nn.BatchNorm2d(C), nn.Hardswish(), nn.Sigmoid()))
    every = found(model, images(size=64))
    gc.collect()
    assert len(kept) == 2 and [ref() for ref in kept] == [None, None]
    tensors = [constant.value for step in every["first", 0].steps for constant in step.constants]
    assert max(x.numel() for x in tensors) == C


def test_maps_are_let_go_of_while_the_forward_runs():
    alive: list[bool] = []

    class Long(Net):
        def forward(self, x):
            x = self.first(x)
            first = weakref.ref(x)
            for _ in range(8):
                x = F.leaky_relu(x)
            alive.append(first() is not None)
            return self.second(x)

    assert len(found(Long(None))["first", 0].steps) == 8
    assert alive == [False]


def test_random_states_images_and_buffers_stay_as_they_were():
    model = Net(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU(True)))
    model.between.append(nn.Dropout().train())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, random = images(), torch.get_rng_state()
    tail = found(model, x)["first", 0]
    tail(torch.randn(3, C, generator=torch.Generator().manual_seed(1)))
    assert tail.ends == "dropout: random"
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, images())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.first.weight.grad is None and model.first.weight.requires_grad


def test_it_works_in_a_copy_and_under_inference_mode():
    model = Net(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU()))
    with torch.inference_mode():
        shadow = Shadow(model, convolutions(model))
        with shadow.running():
            tail = tails(shadow.call(EntryCall("", model, (images(),), {})), shadow.probes)["first", 0]
    assert tail.names == ("batch_norm", "relu")
    assert_gives(tail, *passed(model, "first", "second", images()))


def test_no_readings():
    tail = found(Net(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU())))["first", 0]
    assert tail(torch.empty(0, C)).shape == (0, C)


# ---- in the next epoch


class Gain(nn.Module):
    """Computes what it multiplies with."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(C))

    def forward(self, x):
        return x * (2 * self.gain)[:, None, None]


class Looks(nn.Module):
    """Takes a number out of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return F.leaky_relu(x, self.slope.item())


def trained(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in weights_of(model).values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@pytest.mark.parametrize(
    ("between", "lasting"),
    [
        (nn.Sequential(nn.BatchNorm2d(C), nn.ReLU6()), True),
        (nn.PReLU(C), True),
        (nn.ReLU(), True),
        (Gain(), False),
        (Looks(), False),
    ],
)
def test_a_tail_with_new_weights_is_the_one_that_is_found_anew(between, lasting):
    model = Net(between).eval()
    before = found(model, images())["first", 0]
    assert before.known and before.steps and before.lasting is lasting
    trained(model)
    anew, readings = found(model, images())["first", 0], torch.randn(64, C)
    if lasting:
        kept = before.of(weights_of(model))
        assert torch.equal(kept(readings), anew(readings)) and kept.names == anew.names
        assert all(step.constants == [] for step in kept.steps) or not torch.equal(before(readings), anew(readings))
    else:
        assert not torch.allclose(before(readings), anew(readings))


def test_on_maps_it_is_what_it_is_on_readings():
    tail = found(Net(nn.Sequential(nn.BatchNorm2d(C), nn.Hardswish())), images())["first", 0]
    maps = torch.randn(3, C, 7)
    each = torch.stack([tail(maps[:, :, i]) for i in range(7)], 2)
    torch.testing.assert_close(tail.on_maps(maps), each)


class Slope(nn.Module):
    """Multiplies with a number of its own, no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = 1.0

    def forward(self, x):
        return x * self.slope if self.slope == 1 else F.leaky_relu(x, self.slope)


def _pruned(net: nn.Sequential) -> None:
    nn.utils.prune.l1_unstructured(net[1], "weight", 0.5)  # its weight is no parameter any more


def _annealed(net: nn.Sequential) -> None:
    net[1].slope = 0.01


def _replaced(net: nn.Sequential) -> None:
    net[1] = nn.Tanh()


@pytest.mark.parametrize(
    ("between", "change", "after"),
    [
        (nn.BatchNorm2d(C), _pruned, ("batch_norm",)),
        (Slope(), _annealed, ("leaky_relu",)),
        (nn.ReLU(), _replaced, ("tanh",)),
    ],
)
def test_a_model_that_changes_between_epochs_is_followed_anew(between, change, after):
    net = nn.Sequential(nn.Conv2d(1, C, 3, padding=1), between, nn.Conv2d(C, 1, 3, padding=1)).eval()
    measurement, follows = Measurement(net), []
    for epoch in range(3):
        if epoch == 1:
            change(net)
        measurement.start()
        with torch.no_grad():
            net(torch.rand(32, 1, 32, 32))
        measurement.stop()
        follows.append(measurement.report().layers["0"].follows)
        assert measurement.failure is None
    assert follows[1:] == [after, after]
