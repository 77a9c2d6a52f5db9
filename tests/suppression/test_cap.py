"""How long the gradient of the penalty may be, in backward passes of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pan_callbacks import PaddingBiasPenalty
from pan_callbacks.suppression.cap import MOST

HEAVY = 1e4


def images(n=8, channels=2, seed=0):
    return torch.randn(n, channels, 12, 12, generator=torch.Generator().manual_seed(seed)) + 2


def conv(inputs=2, outputs=4):
    torch.manual_seed(inputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def task_of(*outputs):
    return sum(output.square().mean() for output in outputs)


def longest(added, task):
    """Length of what was added on a neuron over the task's on it or on the average neuron, at most."""
    size = task.flatten(1).norm(dim=1)
    return float((added.flatten(1).norm(dim=1) / size.maximum(size.square().mean().sqrt())).max())


def test_one_kernel_in_two_layers_has_one_measure():
    one, two = conv(2, 2), conv(2, 2)
    two.weight = one.weight
    model, x = nn.Sequential(one, nn.ReLU(), two), images()
    task = torch.autograd.grad(task_of(model(x)), one.weight)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True)
    (task_of(model(x)) + HEAVY * penalty()).backward()
    assert 0.5 < longest(one.weight.grad - task, task) <= MOST * 1.01


def test_other_weights_in_the_same_step_have_their_own():
    model, x = nn.Sequential(conv()), images()
    others = {name: (2 * value).detach().requires_grad_() for name, value in model.named_parameters()}
    weights = (model[0].weight, others["0.weight"])

    def loss():
        return task_of(model(x), torch.func.functional_call(model, others, (x,)))

    tasks = torch.autograd.grad(loss(), weights)
    penalty = PaddingBiasPenalty(model, beside_task=True)
    (loss() + HEAVY * penalty()).backward()
    for weight, task in zip(weights, tasks, strict=True):
        assert 0.5 < longest(weight.grad - task, task) <= MOST * 1.01


class _Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        raise RuntimeError("broken off")


def test_a_pass_that_was_broken_off_leaves_nothing_to_the_next():
    model, x = nn.Sequential(conv()), images()
    task = torch.autograd.grad(task_of(model(x)), model[0].weight)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True, every_n_steps=2)
    with pytest.raises(RuntimeError, match="broken off"):
        (task_of(_Breaks.apply(model(x))) + HEAVY * penalty()).backward()
    model.zero_grad()
    (task_of(model(x)) + HEAVY * penalty()).backward()  # no step that is due
    torch.testing.assert_close(model[0].weight.grad, task)


def test_what_nobody_asked_for_in_a_pass_is_not_added_in_another():
    model, x = nn.Sequential(nn.utils.parametrizations.weight_norm(conv())), images()
    scale, direction = (getattr(model[0].parametrizations.weight, name) for name in ("original0", "original1"))
    task = torch.autograd.grad(task_of(model(x)), scale)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True)
    torch.autograd.grad(task_of(model(x)) + HEAVY * penalty(), direction)
    torch.testing.assert_close(torch.autograd.grad(task_of(model(x)), scale)[0], task)


class _Transposed(nn.Module):
    def forward(self, weight):
        return weight.transpose(0, 1)


def test_rows_of_what_a_kernel_is_computed_from_are_not_taken_for_neurons():
    model, x = nn.Sequential(conv(4, 4)), images(channels=4)
    parametrize.register_parametrization(model[0], "weight", _Transposed())
    original = model[0].parametrizations.weight.original
    task = torch.autograd.grad(task_of(model(x)), original)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True, neurons={"0": [0]})
    (task_of(model(x)) + HEAVY * penalty()).backward()
    added = (original.grad - task).transpose(0, 1).flatten(1).norm(dim=1)  # by neuron
    assert added[0] > 0.1 * task.norm() and added[1:].max() < 1e-3 * added[0]
    assert added.norm() <= MOST * 1.01 * task.norm()


def test_the_graph_of_the_tasks_gradient_stays():
    model, x = nn.Sequential(conv()), images()
    penalty = PaddingBiasPenalty(model, beside_task=True)
    loss = task_of(model(x)) + 0.1 * penalty()
    (gradient,) = torch.autograd.grad(loss, model[0].weight, create_graph=True)
    second = torch.autograd.grad(gradient.square().sum(), model[0].weight)[0]
    (plain,) = torch.autograd.grad(task_of(model(x)), model[0].weight, create_graph=True)
    assert second.isfinite().all() and plain.requires_grad and second.norm() > 0


def test_a_line_has_a_kernel_that_is_not_copied():
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1))
    x = torch.randn(8, 2, 24) + 2
    task = torch.autograd.grad(task_of(model(x)), model[0].weight)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True)
    (task_of(model(x)) + HEAVY * penalty()).backward()
    assert 0.5 < longest(model[0].weight.grad - task, task) <= MOST * 1.01


def test_a_number_that_scales_a_kernel_is_shortened_as_a_whole():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(1.5))

        def forward(self, weight):
            return self.factor * weight

    model, x = nn.Sequential(conv()), images()
    parametrize.register_parametrization(model[0], "weight", Scaled())
    factor = model[0].parametrizations.weight[0].factor
    task = torch.autograd.grad(task_of(model(x)), factor)[0]
    penalty = PaddingBiasPenalty(model, beside_task=True)
    (task_of(model(x)) + HEAVY * penalty()).backward()
    assert factor.grad.shape == () and 0 < float((factor.grad - task).abs()) <= MOST * 1.01 * float(task.abs())
