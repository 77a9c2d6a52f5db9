"""A copy of a model computes what the model computes, and whatever its forward leaves behind stays in the copy."""

from __future__ import annotations

import collections
import threading
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.utils import parametrizations, prune

from pan_callbacks.layers import convolutions
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.shadow import InPlace, Shadow

IMAGES = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Keeping(nn.Module):
    """Keeps what passes in every way that came to mind, and draws random numbers."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("average", torch.zeros(3))
        self.accuracy = torchmetrics.MeanMetric()
        self.features: list[torch.Tensor] = []
        self.last = collections.deque(maxlen=2)
        self.by_name = collections.defaultdict(list)
        self.generator = torch.Generator().manual_seed(3)
        self.numbers = np.random.default_rng(3)
        self.counter = type("Counter", (), {})()
        self.counter.value = 0
        self.lock = threading.Lock()
        self.me = [self]
        self.parent = weakref.ref(self)
        self.hidden = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.scaled = partial(self.scale, 2.0)
        count = 0

        def counted(x: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += 1
            self.counted = count
            return x

        self.closure = counted

    def scale(self, by: float, x: torch.Tensor) -> torch.Tensor:
        self.scaled_by = by
        return by * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.closure(self.scaled(self.norm(self.conv(x))))
        self.average.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).detach())
        self.hidden.data.copy_(x.mean((0, 2, 3)).detach())
        self.accuracy.update(x.detach().mean())
        self.features.append(x)
        self.last.append(x)
        self.by_name["x"].append(x)
        with self.lock:
            self.me[0].counter.value += 1
        self.parent().seen = tuple(x.shape)
        return x + torch.rand((), generator=self.generator) + self.numbers.random()


def run(model: nn.Module, copy: Shadow | InPlace) -> None:
    with copy.running():
        copy.call(EntryCall("", model, (IMAGES[:2],), {})).run()


def state_of(model: Keeping) -> list:
    """What a forward of it may change."""
    kept = (model.features, model.last, dict(model.by_name), model.counter.value, vars(model).keys() - {"training"})
    metric = model.accuracy.mean_value.clone(), model.accuracy._update_count
    generators = model.generator.get_state(), model.numbers.bit_generator.state["state"]["state"]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return [*map(repr, kept), *metric, *generators, *tensors.values(), torch.get_rng_state()]


def assert_same(before: list, after: list) -> None:
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_whatever_a_forward_keeps_the_model_is_as_it_was(kind):
    model = Keeping()
    model(IMAGES)
    before = state_of(model)
    run(model, kind(model, convolutions(model)))
    if kind is InPlace:  # weights alone are not put back: they may be sharded, or too large
        before = [item for item in before if not isinstance(item, torch.Tensor) or item.shape != model.hidden.shape]
        after = [item for item in state_of(model) if not isinstance(item, torch.Tensor) or item.shape != (3,)]
        assert_same(before, after)
    else:
        assert_same(before, state_of(model))
    assert model.training


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(1, 3, 3, padding=1)), nn.BatchNorm2d(3))


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(1, 3, 3, padding=1)), nn.ReLU())


def pruned() -> nn.Module:
    conv = nn.Conv2d(1, 3, 3, padding=1)
    prune.l1_unstructured(conv, "weight", amount=0.5)
    return nn.Sequential(conv)


def tied() -> nn.Module:
    first, second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
    second.weight = first.weight
    return nn.Sequential(first, second, first)


def patched() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    own = model[0].forward
    model[0].forward = lambda x: own(x) * 2
    return model


def recurrent() -> nn.Module:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv2d(1, 1, 3, padding=1), nn.GRU(12, 5, batch_first=True)
            self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

        def forward(self, x):
            x = self.rnn(self.conv(x)[:, 0])[0]
            return self.attention(x, x, x)[0]

    return Rows()


@pytest.mark.parametrize("make", [spectral, weight_normed, pruned, tied, patched, recurrent, Keeping])
def test_the_copy_computes_what_the_model_computes(make):
    torch.manual_seed(0)
    model = make()
    model(IMAGES)
    model.eval()
    shadow = Shadow(model, convolutions(model))
    with torch.no_grad(), shadow.running():
        given = shadow.of(model)(IMAGES)
    with torch.no_grad():
        assert torch.equal(given, model(IMAGES))


def test_a_patched_forward_of_the_copy_runs_the_copy():
    model = patched()
    shadow = Shadow(model, {})
    shadow.of(model[0]).weight.data.zero_()
    shadow.of(model[0]).bias.data.zero_()
    with torch.no_grad():
        assert shadow.of(model)(IMAGES).abs().max() == 0 < model(IMAGES).abs().max()


def test_the_copy_of_a_compiled_model_is_not_compiled_and_runs_its_own_weights():
    model = torch.compile(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1)), backend="eager")
    model(IMAGES)
    shadow = Shadow(model, {})
    assert type(shadow.of(model)) is nn.Sequential
    shadow.of(model)[0].weight.data.zero_()
    assert model._orig_mod[0].weight.abs().max() > 0


def test_scripted_parts_are_copied():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), torch.jit.script(nn.BatchNorm2d(3)))
    shadow = Shadow(model, convolutions(model))
    model[1].running_mean.add_(5)
    assert shadow.of(model[1]).running_mean.abs().max() == 0


def test_a_copy_keeps_the_weights_that_there_were():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    shadow, kept = Shadow(model, {}, device="cpu"), model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(shadow.of(model[0]).weight, kept)


def test_modules_that_cannot_be_copied_are_named():
    with pytest.raises(Exception, match="lazy module without weights"):
        Shadow(nn.Sequential(nn.LazyConv2d(3, 3)), {})


class Observer:
    """A hook that notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, module, args, output) -> None:
        self.seen.append(tuple(output.shape))


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_hooks_of_the_user_see_no_forward_of_ours(kind):
    model, mine, everywhere, before = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1)), Observer(), Observer(), []
    model[0].register_forward_hook(mine)
    model.register_forward_pre_hook(lambda module, args: before.append(1))
    handle = nn.modules.module.register_module_forward_hook(everywhere)
    try:
        run(model, kind(model, convolutions(model)))
        assert (mine.seen, everywhere.seen, before) == ([], [], [])
        model(IMAGES)
        assert (mine.seen, len(everywhere.seen), before) == ([(4, 3, 12, 12)], 2, [1])
    finally:
        handle.remove()


def test_copies_of_hooks_come_along_if_they_are_asked_for_and_keep_to_themselves():
    model, observer = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1)), Observer()
    model[0].register_forward_hook(observer)
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    shadow = Shadow(model, {}, with_hooks=True)
    with torch.no_grad():
        assert torch.equal(shadow.of(model)(IMAGES), model(IMAGES))
    assert len(observer.seen) == 1


def test_what_belongs_to_the_run_is_shared():
    class Dataset(torch.utils.data.Dataset):
        pass

    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    model.data = Dataset()
    model.loaders = {"val": torch.utils.data.DataLoader([1, 2])}
    twin = Shadow(model, {}).of(model)
    assert twin.data is model.data and twin.loaders["val"] is model.loaders["val"]
    assert twin.loaders is not model.loaders
