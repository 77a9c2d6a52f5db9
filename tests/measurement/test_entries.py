"""Images enter by the call that holds all layers, whatever way a network is called in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pan_callbacks.layers import convolutions
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.entries import Entrance
from pan_callbacks.measurement.settings import Settings

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def convs() -> list[nn.Conv2d]:
    return [nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]


class Listed(nn.Module):
    """Convolutions in a list, which nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(convs())

    def forward(self, x: torch.Tensor, times: int = 1) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class Keyed(Listed):
    """Convolutions in a dict, called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(dict(zip("abc", convs(), strict=True)))

    def forward(self, *, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        x = pixel_values
        for stage in self.stages.values():
            x = stage(x)
        return {"logits": x}


class Sliced(nn.Module):
    """A sequence that is called in two slices."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*convs())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features[1:](self.features[:1](x))


class Outer(nn.Module):
    """What holds a network, as a LightningModule does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x=x) if isinstance(self.net, nn.Identity) else self.net(x)


def entries_of(model: nn.Module, run) -> list[str]:
    """Names by which images entered while the model ran."""
    entrance, found = Entrance(model, convolutions(model)), []
    entrance.began = lambda call: found.append(call.name)
    handles = []
    for name, module in entrance.modules.items():
        enter = lambda m, args, kwargs, name=name: entrance.enter(EntryCall(name, m, args, kwargs))  # noqa: E731
        leave = lambda m, args, kwargs, y, name=name: entrance.leave(EntryCall(name, m, args, kwargs))  # noqa: E731
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    run(model)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("model", "run", "expected"),
    [
        (nn.Sequential(*convs()), lambda m: m(IMAGES), [""]),
        (Outer(nn.Sequential(*convs())), lambda m: m(IMAGES), ["net"]),
        (Outer(Listed()), lambda m: m(IMAGES), ["net"]),
        (Outer(Listed()), lambda m: m.net(x=IMAGES), ["net"]),
        (Outer(Listed()), lambda m: m.net(IMAGES, times=1), ["net"]),
        (Outer(Keyed()), lambda m: m.net(pixel_values=IMAGES), ["net"]),
        (Outer(Sliced()), lambda m: m(IMAGES), ["net"]),
        (Outer(Sliced()), lambda m: [m.net(IMAGES), m.net(IMAGES[:2])], ["net", "net"]),
        (Outer(nn.Sequential(*convs())), lambda m: m([IMAGES[0]][0][None]), ["net"]),
        (Listed(), lambda m: [stage(IMAGES) for stage in m.stages], ["stages.0", "stages.1", "stages.2"]),
    ],
)
def test_images_enter_by_the_innermost_call_that_holds_all_layers(model, run, expected):
    assert entries_of(model, run) == expected


def test_a_step_is_the_entry_of_layers_that_it_calls_one_by_one():
    model, found = Listed(), []
    entrance = Entrance(model, convolutions(model))
    entrance.began = lambda call: found.append((call.name, call.images is IMAGES))
    step = EntryCall("validation_step()", model, ([IMAGES, torch.zeros(4)], 0), {}, "validation_step")
    entrance.enter(step)
    for name, stage in convolutions(model).items():
        entrance.enter(EntryCall(name, stage, (IMAGES,), {}))
        entrance.leave(EntryCall(name, stage, (IMAGES,), {}))
    assert found == [("validation_step()", True)]
    entrance.leave(step)
    entrance.enter(EntryCall("stages.0", model.stages[0], (IMAGES,), {}))
    assert found[1:] == [("stages.0", True)]


def test_a_forward_that_ended_with_an_exception_does_not_hide_the_next():
    class Failing(Listed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 1:
                self.stages[0](x)
                raise ValueError("theirs")
            return super().forward(x)

    def run(model: nn.Module) -> None:
        with pytest.raises(ValueError, match="theirs"):
            model(IMAGES[:1])
        model(IMAGES)

    assert entries_of(Outer(Failing()), run) == ["net", "net"]


def test_images_that_were_changed_in_place_on_the_way_are_not_run_twice():
    class Normalising(Listed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.sub_(0.5))

    # seen when the first layer is reached, and expected from then on
    assert entries_of(Outer(Normalising()), lambda model: [model(IMAGES.clone()) for _ in range(3)]) == ["net", "net"]


def truth(model: nn.Module, call) -> tuple:
    """Contrasts and origins of a model whose first layer is planted, measured while it is called."""
    layers = list(convolutions(model).values())
    with torch.no_grad():
        for layer in layers:
            layer.weight.zero_()
            layer.bias.zero_()
        layers[0].weight[:, :, 1, 1] = 0.3
        layers[0].weight[0, :, 0, 1] = 30.0  # reads the row above: dark at the top
        for layer in layers[1:]:
            for channel in range(3):
                layer.weight[channel, channel, 1, 1] = 1.0  # hands on: inherits
    measurement = Measurement(model.eval(), Settings(max_images=8))
    measurement.start()
    with torch.no_grad():
        for _ in range(2):
            call(model)
    measurement.detach()
    report = measurement.report()
    return [(pan.channel, sorted(pan.sides & {"top", "bottom"}), pan.origin) for pan in report.pans], report


@pytest.mark.parametrize(
    ("make", "call"),
    [
        (Listed, lambda m: m(IMAGES)),
        (Listed, lambda m: m(x=IMAGES)),
        (Keyed, lambda m: m(pixel_values=IMAGES)),
        (Sliced, lambda m: m(IMAGES)),
        (lambda: Outer(Sliced()), lambda m: m(IMAGES)),
        (lambda: nn.Sequential(*convs()), lambda m: m(IMAGES)),
    ],
)
def test_inherited_neurons_are_found_whatever_way_the_network_is_called(make, call):
    found, report = truth(make(), call)
    assert found == [(0, ["top"], "nascent"), (0, ["top"], "inherited"), (0, ["top"], "inherited")]
    assert all(line.reason is None and line.reference == "crop" for line in report.layers.values())


def test_parts_that_are_called_by_themselves_say_so():
    _, report = truth(Listed(), lambda m: m.stages[2](m.stages[1](m.stages[0](IMAGES))))
    reasons = [line.reason for line in report.layers.values()]
    assert reasons[0] is None
    assert all("which is called by itself" in reason for reason in reasons[1:])
