"""Every n-th step, counted by the steps in which a layer runs."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pan_callbacks import PaddingBiasPenalty, PANError


class Branches(nn.Module):
    """Two convolutions, of which a forward runs those that it is told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = (nn.Conv2d(2, 4, 3, padding=1) for _ in range(2))

    def forward(self, x, names):
        return sum(getattr(self, name)(x).square().mean() for name in names) + x.new_zeros(())


IMAGES = torch.randn(6, 2, 12, 12, generator=torch.Generator().manual_seed(0)) / 2 + 2


def alone(name: str) -> float:
    """The penalty of one branch by itself."""
    model = Branches()
    penalty = PaddingBiasPenalty(model, layers=name)
    model(IMAGES, name)
    return penalty().item()


def penalised(steps: list[str], every: int, runs: int = 1) -> list[str]:
    """Which layers each step has a penalty for, by its gradient."""
    model = Branches()
    penalty = PaddingBiasPenalty(model, every_n_steps=every)
    found = []
    for names in steps:
        for _ in range(runs):
            model(IMAGES, names)
        if not names:
            penalty.begin(penalty._step + 1)  # as a callback does in a step that runs nothing
            found.append("")
            continue
        model.zero_grad()
        value = penalty()
        if value.requires_grad:
            value.backward()
        has = {name: getattr(model, name).weight.grad for name in "ab"}
        found.append("".join(name for name, gradient in has.items() if gradient is not None and gradient.any()))
        assert (value > 0.01) == bool(found[-1])
    return found


def expected(steps: list[str], every: int) -> list[str]:
    """The rule, said once more: every n-th of the steps in which a layer runs, the first one among them."""
    runs = dict.fromkeys("ab", 0)
    due = []
    for names in steps:
        due.append("".join(name for name in names if runs[name] % every == 0))
        for name in names:
            runs[name] += 1
    return due


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("period", [["a", "b"], ["a", "a", "b"], ["ab"], ["ab", "a"], ["b", "a", "a", "a"], ["a", ""]])
def test_every_layer_is_due_in_every_nth_step_in_which_it_runs(period, every):
    steps = list(itertools.islice(itertools.cycle(period), 24))
    found = penalised(steps, every)
    assert found == expected(steps, every)
    assert all(any(name in due for due in found) for name in set("".join(period)))


@pytest.mark.parametrize("every", [2, 3])
def test_layers_that_are_dropped_by_chance_are_due_by_their_own_runs(every):
    generator = torch.Generator().manual_seed(4)
    choices = ["a", "b", "ab"]
    steps = [choices[i] for i in torch.randint(3, (30,), generator=generator).tolist()]
    assert penalised(steps, every) == expected(steps, every)


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_a_layer_that_is_called_twice_in_a_step_ran_once(runs):
    steps = ["a", "b"] * 8
    assert penalised(steps, 4, runs) == expected(steps, 4)


def test_where_all_layers_run_in_each_step_the_schedule_is_that_of_the_steps():
    assert penalised(["ab"] * 9, 4) == ["ab", "", "", "", "ab", "", "", "", "ab"]


def test_a_forward_without_gradients_is_no_run():
    model = Branches()
    penalty = PaddingBiasPenalty(model, every_n_steps=2)
    values = []
    for _ in range(4):
        with torch.no_grad():
            model(IMAGES, "b")
        model(IMAGES, "a")
        values.append(penalty().item())
    model(IMAGES, "b")
    assert [value > 0 for value in values] == [True, False, True, False]
    assert penalty().item() == pytest.approx(alone("b"))  # its first run


def test_schedules_and_strengths_go_on_from_a_checkpoint():
    steps = ["a", "b", "b", "ab", "a", "b"] * 3
    for stop in range(1, len(steps)):
        model, twin = Branches(), Branches()
        penalties = PaddingBiasPenalty(model, every_n_steps=4), PaddingBiasPenalty(twin, every_n_steps=4)
        for names in steps[:stop]:
            model(IMAGES, names)
            penalties[0]()
        state = copy.deepcopy(penalties[0].state())
        penalties[1].rest()
        penalties[1].resume({**state, "gone": state["a"]})
        penalties[1].begin(stop)
        for names in steps[stop:]:
            values = []
            for penalty, network in zip(penalties, (model, twin), strict=True):
                network(IMAGES, names)
                values.append(penalty().item())
            assert values[0] == values[1]


def test_neurons_that_are_set_within_a_step_do_not_count_it_as_missed():
    model = Branches()
    penalty = PaddingBiasPenalty(model, every_n_steps=2)
    penalty.set_neurons(model, {"a": [1]})
    penalty.set_neurons(model, None)
    model(IMAGES, "ab")
    assert penalty().item() == pytest.approx((alone("a") + alone("b")) / 2)  # of as many neurons
    assert [of_layer["missed"] for of_layer in penalty.state().values()] == [0, 0]


def test_neurons_of_one_layer_leave_the_schedules_of_others_running():
    model = Branches()
    penalty = PaddingBiasPenalty(model, every_n_steps=2, neurons={"a": [0]})
    model(IMAGES, "ab")
    penalty()
    penalty.set_neurons(model, {"b": [0, 1, 2, 3]})
    model(IMAGES, "ab")
    assert penalty().item() == 0  # the second run of b, though the first that anybody asked for
    model(IMAGES, "ab")
    assert penalty().item() == pytest.approx(alone("b"))


# ---- penalties that are no longer there


def swapped(model):
    model.a = nn.Conv2d(2, 4, 3, padding=1)


def unhooked(model):
    model.a._forward_hooks.clear()


def removed(model):
    del model.a
    model.forward = lambda x, names: model.b(x).mean()


def wrapped(model):
    model.a = nn.Sequential(model.a)


LOSSES = {
    swapped: r"layer a is gone: it was replaced during training \(by a Conv2d\)",
    unhooked: "layer a is gone: its forward hooks were removed",
    removed: "layer a is gone: it is no longer in the model",
    wrapped: r"layer a is gone: it was replaced during training \(by a Sequential\)",
}


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("neurons", [None, {"a": [1]}])
def test_a_layer_that_is_gone_is_named(lose, neurons):
    model = Branches()
    penalty = PaddingBiasPenalty(model, neurons=neurons)
    model(IMAGES, "ab")
    penalty()
    lose(model)
    model(IMAGES, "ab")
    with pytest.raises(PANError, match=LOSSES[lose] + ".*layers="):
        penalty()


@pytest.mark.parametrize("lose", LOSSES)
def test_a_layer_that_is_gone_and_not_penalised_is_no_offence(lose):
    model = Branches()
    penalty = PaddingBiasPenalty(model, neurons={"b": [1]})
    lose(model)
    model(IMAGES, "ab")
    assert penalty().item() > 0
    penalty = PaddingBiasPenalty(Branches(), layers="b")
    assert penalty.layers == ("b",)


def test_channels_that_are_pruned_in_place_take_the_numbers_of_neurons_along():
    for neurons, offence in (({"a": [1]}, True), (None, False)):
        model = Branches()
        penalty = PaddingBiasPenalty(model, neurons=neurons)
        model.a.weight, model.a.bias = (nn.Parameter(p.detach()[1:]) for p in (model.a.weight, model.a.bias))
        model.a.out_channels = 3
        model(IMAGES, "ab")
        if offence:
            with pytest.raises(PANError, match="layer a is gone: it has 3 channels now and had 4"):
                penalty()
        else:
            assert penalty().item() > 0


def test_a_pad_module_that_is_gone_is_named():
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 4, 3))
    penalty = PaddingBiasPenalty(model)
    model[0] = nn.ReflectionPad2d(1)
    model(IMAGES)
    with pytest.raises(PANError, match="layer 0 is gone: it was replaced"):
        penalty()


def test_what_wraps_a_model_without_changing_it_is_no_offence():
    torch.compiler.reset()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)))
    penalty = PaddingBiasPenalty(model)
    model[0] = torch.compile(model[0], backend="eager")
    model(IMAGES)
    assert penalty().item() > 0
    model(IMAGES)
    assert penalty().item() > 0


def test_parametrised_and_pruned_weights_are_no_offence():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1))
    penalty = PaddingBiasPenalty(model, neurons={"0": [1]})
    nn.utils.parametrizations.weight_norm(model[0])
    model(IMAGES)
    assert penalty().item() > 0
    pruned = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1))
    penalty = PaddingBiasPenalty(pruned, neurons={"0": [1]})
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    pruned(IMAGES)
    assert penalty().item() > 0


def test_layers_that_came_since_are_taken_up():
    model = Branches()
    penalty = PaddingBiasPenalty(model, neurons={"a": [0]})
    model.c = nn.Conv2d(2, 4, 3, padding=1)
    swapped_b = model.b = nn.Conv2d(2, 4, 3, padding=1)
    assert list(penalty.follow(model)) == ["b"]
    penalty.set_neurons(model, {"b": [0], "c": [1]})
    model(IMAGES, "abc")
    penalty().backward()
    assert model.a.weight.grad is None
    assert swapped_b.weight.grad.abs().sum((1, 2, 3)).gt(0).tolist() == [True, False, False, False]
    assert model.c.weight.grad.abs().sum((1, 2, 3)).gt(0).tolist() == [False, True, False, False]


def test_a_copied_penalty_watches_no_model():
    model = Branches()
    penalty = PaddingBiasPenalty(model)
    twin = copy.deepcopy(penalty)
    assert all(not isinstance(value, nn.Module) for value in vars(twin._hooks).values())
    swapped(model)
    twin.check_there()
    with pytest.raises(PANError, match="layer a is gone"):
        penalty.check_there()
