"""Hooks come and go without a trace, and a model run on the side does not notice."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from pan_callbacks.layers import convolutions
from pan_callbacks.measurement.calls import EntryCall, LayerCall, StopForward
from pan_callbacks.measurement.entries import entry_modules
from pan_callbacks.measurement.hooks import EntryProbe, LayerProbe, Probes, quietly
from pan_callbacks.measurement.pads import PadTracker


class Net(nn.Module):
    """Dropout, batch norm and convolutions at three depths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.body(self.norm(self.stem(x))).mean((2, 3)))


IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def probed() -> tuple[Net, Probes]:
    model = Net()
    layers = convolutions(model)
    return model, Probes(layers, entry_modules(model, layers))


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class Ear:
    """A listener that keeps what it is handed."""

    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def __call__(self, *what) -> None:
        self.heard.append(what)


# ---- attached and detached


def test_probes_are_off_until_they_are_attached():
    model, probes = probed()
    assert hooks_of(model) == 0 and not probes.attached


def test_attached_probes_are_on_the_model():
    model, probes = probed()
    probes.attach()
    assert hooks_of(model) > 0 and probes.attached


def test_attaching_twice_attaches_once():
    model, probes = probed()
    probes.attach()
    once = hooks_of(model)
    probes.attach()
    assert hooks_of(model) == once


def test_detaching_leaves_no_hook():
    model, probes = probed()
    probes.attach()
    probes.detach()
    assert hooks_of(model) == 0 and not probes.attached


def test_detaching_leaves_no_mark_of_a_hook_that_takes_keywords():
    model, probes = probed()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    probes.attach()
    probes.detach()
    left = [module._forward_hooks_with_kwargs or module._forward_pre_hooks_with_kwargs for module in model.modules()]
    assert not any(left) and before == {name: set(vars(module)) for name, module in model.named_modules()}


def test_detaching_twice_is_harmless():
    model, probes = probed()
    probes.attach()
    probes.detach()
    probes.detach()
    assert hooks_of(model) == 0


def test_detaching_before_attaching_is_harmless():
    model, probes = probed()
    probes.detach()
    assert hooks_of(model) == 0


def test_probes_can_be_attached_again():
    model, probes = probed()
    probes.attach()
    once = hooks_of(model)
    probes.detach()
    probes.attach()
    assert hooks_of(model) == once


def test_hooks_of_others_stay():
    model, probes = probed()
    others = Ear()
    model.stem.register_forward_hook(others)
    probes.attach()
    probes.detach()
    model(IMAGES)
    assert hooks_of(model) == 1 and len(others.heard) == 1


def test_detaching_silences_the_probes():
    _, probes = probed()
    probes.attach()
    probes.listen({"stem": Ear()})
    probes.detach()
    assert all(probe.listener is None for probe in probes.layers.values())


# ---- listening


def test_a_listener_is_handed_module_input_and_output():
    model, probes = probed()
    probes.attach()
    ear = Ear()
    probes.listen(ear, ["stem"])
    model(IMAGES)
    [(name, call)] = ear.heard
    assert name == "stem" and call.conv is model.stem and call.x is IMAGES
    assert torch.equal(call.output, model.stem(IMAGES))


def test_a_layer_called_by_keyword_is_heard():
    model, probes = probed()
    probes.attach()
    ear = Ear()
    probes.listen(ear, ["stem"])
    model.stem(input=IMAGES)
    assert ear.heard[0][1].x is IMAGES


def test_layers_that_are_not_named_are_silent():
    model, probes = probed()
    probes.attach()
    ear = Ear()
    probes.listen(ear, ["stem", "body.0"])
    probes.listen(ear, ["body.0"])
    model(IMAGES)
    assert [name for name, _ in ear.heard] == ["body.0"]


def test_muted_probes_are_silent():
    model, probes = probed()
    probes.attach()
    layer, entry = Ear(), Ear()
    probes.listen(layer, ["stem"])
    for probe in probes.entries.values():
        probe.entered = probe.left = entry
    probes.mute()
    model(IMAGES)
    assert layer.heard == entry.heard == []


def test_an_entry_is_handed_its_name_and_all_arguments_before_and_after():
    class Keywords(nn.Module):
        def forward(self, x, scale=1.0):
            return x * scale

    module = Keywords()
    probes = Probes({}, {"backbone": module})
    probes.attach()
    probe = probes.entries["backbone"]
    entered, left = Ear(), Ear()
    probe.entered, probe.left = entered, left
    module(IMAGES, scale=2.0)
    for [(call,)] in (entered.heard, left.heard):
        assert (call.name, call.module, call.args, call.kwargs) == ("backbone", module, (IMAGES,), {"scale": 2.0})


def test_entry_is_heard_before_its_layers_and_left_after_them():
    model, probes = probed()
    probes.attach()
    order: list[str] = []
    probes.entries[""].entered = lambda *args: order.append("in")
    probes.entries[""].left = lambda *args: order.append("out")
    probes.listen(lambda name, call: order.append(name))
    model(IMAGES)
    assert order == ["in", "stem", "body.0", "out"]


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_bit_identical_with_hooks_on(listening, training):
    model, probes = probed()
    plain = copy.deepcopy(model)
    probes.attach()
    if listening:
        probes.listen(lambda name, call: None)
    outputs, gradients = [], []
    for one in (plain, model):
        one.train(training)
        torch.manual_seed(0)
        out = one(IMAGES)
        out.square().sum().backward()
        outputs.append(out)
        gradients.append([parameter.grad for parameter in one.parameters()])
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# ---- models with hooks on


def listening_model() -> Net:
    model, probes = probed()
    probes.attach()
    probes.listen(lambda name, call: None)  # a lambda cannot be pickled
    for probe in probes.entries.values():
        probe.entered = probe.left = lambda *args: None
    return model.eval()


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, pickled, saved])
def test_a_copy_of_a_model_with_hooks_works_like_the_model(how):
    model = listening_model()
    assert torch.equal(how(model)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("how", [copy.deepcopy, pickled, saved])
def test_hooks_of_a_copy_listen_to_nobody(how):
    ear = Ear()
    model, probes = probed()
    probes.attach()
    probes.listen(ear)
    for probe in probes.entries.values():
        probe.entered = probe.left = ear
    copied = how(model)
    ear.heard.clear()
    copied(IMAGES)
    assert ear.heard == []


def test_copying_a_model_leaves_its_own_listeners():
    model, probes = probed()
    probes.attach()
    ear = Ear()
    probes.listen(ear, ["stem"])
    copy.deepcopy(model)
    model(IMAGES)
    assert len(ear.heard) == 1


def test_hooks_add_nothing_to_the_state_dict():
    model, probes = probed()
    before = list(model.state_dict())
    probes.attach()
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("probe", [LayerProbe("conv"), EntryProbe("conv")])
def test_a_copied_probe_keeps_its_name(probe):
    assert copy.deepcopy(probe).name == pickle.loads(pickle.dumps(probe)).name == "conv"


# ---- calls


def test_a_single_image_is_a_batch_of_one():
    conv = nn.Conv2d(1, 2, 3)
    call = LayerCall.of(conv, (IMAGES[0],), {}, conv(IMAGES[0]))
    assert (call.x.shape, call.output.shape) == ((1, 1, 8, 8), (1, 2, 6, 6))


def test_the_first_images_of_a_call_have_no_gradient():
    conv = nn.Conv2d(1, 2, 3)
    call = LayerCall.of(conv, (), {"input": IMAGES}, conv(IMAGES))
    first = call.first(3)
    assert torch.equal(first.output, call.output[:3]) and len(first.x) == 3
    assert call.output.requires_grad and not first.output.requires_grad


@pytest.mark.parametrize(
    ("args", "has"),
    [
        ((IMAGES, 3), True),
        ((), False),
        ((IMAGES.to(torch.uint8),), True),
        ((IMAGES.to(torch.int64),), False),
        ((IMAGES[0],), False),
        ((IMAGES[:0],), False),
        (([IMAGES],), False),
    ],
)
def test_images_are_batches_of_floats_or_bytes(args, has):
    assert EntryCall("", nn.Identity(), args, {}).has_images is has


def test_images_may_come_by_keyword_or_in_a_dict():
    labels = torch.arange(len(IMAGES))
    for call in (
        EntryCall("", nn.Identity(), (), {"labels": labels, "pixel_values": IMAGES}),
        EntryCall("", nn.Identity(), ({"labels": labels, "pixel_values": IMAGES},), {}),
    ):
        assert call.images is IMAGES
        assert call.first(2).images.shape[0] == 2


def test_an_entry_can_be_called_on_other_images():
    call = EntryCall("net", nn.Identity(), (IMAGES, 3), {"a": 1}).on(IMAGES[:1])
    assert call.images is call.args[0] and len(call.images) == 1 and call.args[1:] == (3,) and call.kwargs == {"a": 1}


def taking(x: torch.Tensor) -> LayerCall:
    """A convolution's call on a tensor."""
    conv = nn.Conv2d(1, 1, 3)
    return LayerCall.of(conv, (x,), {}, conv(x))


class TestPadTracker:
    def tracked(self) -> tuple[nn.Sequential, PadTracker]:
        net, pads = nn.Sequential(nn.ZeroPad2d(1), nn.ReflectionPad2d(1)), PadTracker()
        pads.attach(net)
        return net, pads

    def test_knows_which_module_made_a_tensor_also_if_others_padded_since(self):
        net, pads = self.tracked()
        pads.watch()
        first = net[0](IMAGES)
        second = net[1](IMAGES)
        assert [pads.pad_of(taking(x)) for x in (first, second, IMAGES)] == [net[0], net[1], None]

    def test_knows_the_pad_of_a_single_image(self):
        net, pads = self.tracked()
        pads.watch()
        assert pads.pad_of(taking(net[0](IMAGES[0]))) is net[0]

    def test_keeps_nothing_unless_it_watches(self):
        net, pads = self.tracked()
        assert pads.pad_of(taking(net[0](IMAGES))) is None
        pads.watch()
        made = net[0](IMAGES)
        pads.watch(False)
        assert pads.pad_of(taking(made)) is None

    @pytest.mark.parametrize("how", [copy.deepcopy, pickled])
    def test_a_copy_keeps_nothing(self, how):
        net, pads = self.tracked()
        pads.watch()
        net(IMAGES)
        [hook] = how(net)[0]._forward_hooks.values()
        empty = {"_watching": False, "_made": [], "_convolved": None, "_since": [], "_before": []}
        assert hook.__getstate__() == empty == vars(hook)


# ---- running a model on the side


def mixed_modes() -> Net:
    model = Net().train()
    model.norm.eval()
    model.body[2].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_a_model_runs_quietly_in_evaluation_mode():
    model = mixed_modes()
    with quietly(model):
        assert not any(modes(model))


def test_every_module_has_its_own_mode_again():
    model = mixed_modes()
    before = modes(model)
    with quietly(model):
        model(IMAGES)
    assert modes(model) == before


def test_every_module_has_its_own_mode_again_after_an_exception():
    model = mixed_modes()
    before = modes(model)
    with pytest.raises(KeyError), quietly(model):
        raise KeyError
    assert modes(model) == before


def test_modes_that_change_meanwhile_are_as_they_were():
    model = mixed_modes()
    before = modes(model)
    with quietly(model):
        model.train()
    assert modes(model) == before


def test_a_model_that_refuses_to_be_put_into_evaluation_mode_is_run_all_the_same():
    class Stubborn(Net):
        def train(self, mode=True):
            raise RuntimeError("no")

    model = Stubborn()
    with quietly(model):
        assert not any(modes(model))


def test_random_numbers_go_on_as_if_nothing_had_happened():
    model = Net()
    torch.manual_seed(0)
    expected = torch.rand(5)
    torch.manual_seed(0)
    with quietly(model):
        torch.rand(100)
    assert torch.equal(torch.rand(5), expected)


def test_random_numbers_go_on_as_if_nothing_had_happened_after_an_exception():
    model = Net()
    torch.manual_seed(0)
    expected = torch.rand(5)
    torch.manual_seed(0)
    with pytest.raises(KeyError), quietly(model):
        torch.rand(100)
        raise KeyError
    assert torch.equal(torch.rand(5), expected)


def test_statistics_of_normalisation_do_not_move():
    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    with quietly(model):
        model(IMAGES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_no_gradients_are_recorded():
    model = Net()
    with quietly(model):
        assert not model(IMAGES).requires_grad


@pytest.mark.parametrize("enabled", [False, True])
def test_gradients_are_recorded_afterwards_as_before(enabled):
    with torch.set_grad_enabled(enabled):
        with pytest.raises(KeyError), quietly(Net()):
            raise KeyError
        assert torch.is_grad_enabled() is enabled


def test_a_listener_may_end_the_forward():
    model, probes = probed()
    probes.attach()
    head = Ear()
    model.head.register_forward_hook(head)

    def stop(*args):
        raise StopForward

    probes.listen(stop, ["body.0"])
    EntryCall("", model, (IMAGES,), {}).run()
    assert head.heard == []


def test_other_exceptions_of_a_model_come_through():
    with pytest.raises(RuntimeError):
        EntryCall("", Net(), (torch.zeros(1, 7, 8, 8),), {}).run()


def test_run_passes_all_arguments_on():
    class Keywords(nn.Module):
        def forward(self, *args, **kwargs):
            self.given = args, kwargs

    module = Keywords()
    EntryCall("", module, (1, 2), {"a": 3}).run()
    assert module.given == ((1, 2), {"a": 3})


# ---- where images may enter


class Wrapped(nn.Module):
    """As a LightningModule holds its network: convolutions at several depths, in containers and beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stem = nn.Conv2d(1, 3, 3)
        self.backbone.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 3)), nn.Sequential(nn.Conv2d(3, 3, 3))])
        self.head = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(2, 2))


def names(layers: list[str]) -> list[str]:
    return list(entry_modules(Wrapped(), layers))


STAGES = ["backbone.stages.0.0", "backbone.stages.1.0"]


def test_the_smallest_module_that_holds_all_layers_comes_first():
    assert names(["backbone.stem", *STAGES])[0] == "backbone"


def test_the_model_itself_comes_first_where_nothing_smaller_holds_all_layers():
    assert names(["backbone.stem", "head.0"])[0] == ""


def test_modules_above_the_smallest_common_one_are_no_entries():
    assert "" not in names(STAGES) and "backbone" not in names(STAGES)


def test_a_container_that_is_never_called_comes_with_its_children():
    assert names(STAGES)[:3] == ["backbone.stages", "backbone.stages.0", "backbone.stages.1"]


def test_modules_that_hold_no_layer_are_no_entries():
    assert not any(name.startswith("head") for name in names(["backbone.stem", *STAGES]))


def test_every_module_that_holds_a_layer_is_an_entry():
    expected = {"backbone", "backbone.stem", "backbone.stages", "backbone.stages.0", "backbone.stages.1", *STAGES}
    assert set(names(["backbone.stem", *STAGES])) == expected


def test_outer_entries_come_before_inner_ones():
    depths = [name.count(".") + 1 if name else 0 for name in names(["backbone.stem", *STAGES, "head.0"])]
    assert depths == sorted(depths)


def test_a_single_layer_comes_with_the_module_that_holds_it():
    assert names(["backbone.stem"]) == ["backbone", "backbone.stem"]


def test_a_model_that_is_one_convolution_is_its_own_entry():
    conv = nn.Conv2d(1, 1, 3)
    assert entry_modules(conv, [""]) == {"": conv}


def test_names_that_begin_alike_are_told_apart():
    model = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(1, 1, 3)), "network": nn.Sequential(nn.Conv2d(1, 1, 3))})
    assert list(entry_modules(model, ["net.0"])) == ["net", "net.0"]


def test_no_layers_have_no_entries():
    assert entry_modules(Net(), []) == {}


def test_entries_are_the_modules_of_their_names():
    model = Wrapped()
    found = entry_modules(model, ["backbone.stem", "head.0"])
    assert all(module is model.get_submodule(name) for name, module in found.items())


def test_entries_of_a_compiled_model_are_found_by_the_names_of_its_layers():
    model = torch.compile(Net())
    assert list(entry_modules(model, convolutions(model))) == ["", "body", "stem", "body.0"]


def test_hooks_on_a_compiled_convolution_are_on_something_that_is_called():
    model = Net()
    model.stem = torch.compile(model.stem, backend="eager")
    layers = convolutions(model)
    probes = Probes(layers, entry_modules(model, layers))
    probes.attach()
    heard: list[str] = []
    probes.listen(lambda name, call: heard.append(name))
    model(IMAGES)
    assert heard == list(layers)
