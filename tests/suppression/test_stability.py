"""A penalty never blows weights up: whatever the network and optimizer, they stay within twice those without."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import nn

from pan_callbacks import PaddingBiasPenalty
from tests.support.sampling import sampled

STEPS, CLASSES = 500, 4


class Lion(torch.optim.Optimizer):
    """The sign of a running mean of the gradient, as in Chen et al. 2023, 2302.06675."""

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                parameter -= group["lr"] * (0.9 * mean + 0.1 * parameter.grad).sign()
                mean.mul_(0.99).add_(parameter.grad, alpha=0.01)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 3e-3),
    "lion": lambda parameters: Lion(parameters, 3e-4),
}
NORMS = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(2, channels),
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


def network(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 6, 1), (6, 8, 2), (8, 8, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), NORMS[norm](outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def largest_weight(norm: str, optimizer: str, weight: float, bf16: bool) -> float:
    """Train on bright stripes of four directions, whose border padding darkens."""
    net = network(norm)
    penalty = PaddingBiasPenalty(net, every_n_steps=4) if weight else None
    steps = OPTIMIZERS[optimizer](net.parameters())
    generator = torch.Generator().manual_seed(1)
    rows, cols = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    phases = torch.stack([rows, cols, rows + cols, rows - cols])
    for _ in range(STEPS):
        labels = torch.randint(CLASSES, (8,), generator=generator)
        shift, noise = 6 * torch.rand(8, 1, 1, generator=generator), torch.randn(8, 10, 10, generator=generator)
        images = (2 + (phases[labels] + shift).sin() + 0.3 * noise)[:, None]
        steps.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(net(images), labels)
        if penalty is not None:
            loss = loss + weight * penalty()
        loss.backward()
        steps.step()
    return max(float(parameter.detach().abs().max()) for parameter in net.parameters() if parameter.ndim == 4)


without = functools.cache(functools.partial(largest_weight, weight=0.0))


CASES = [*itertools.product(NORMS, OPTIMIZERS, [10.0]), ("none", "sgd", 0.1), ("batch", "sgd", 0.1)]
#: Every norm, every optimizer, and the largest weight; the smallest one and bfloat16 follow below.
KEPT = [("none", "sgd", 10.0), ("batch", "adamw", 10.0), ("group", "lion", 10.0), ("layer", "sgd", 10.0)]


@pytest.mark.parametrize(("norm", "optimizer", "weight"), sampled(CASES, KEPT))
def test_kernels_stay_within_twice_those_of_a_training_without(norm, optimizer, weight):
    assert largest_weight(norm, optimizer, weight, bf16=False) <= 2 * without(norm, optimizer, bf16=False)


@pytest.mark.parametrize("bf16, weight", [(True, 10.0), (False, 0.01)])
def test_so_they_do_in_bfloat16_and_at_a_weight_that_is_next_to_nothing(bf16, weight):
    assert largest_weight("none", "sgd", weight, bf16) <= 2 * without("none", "sgd", bf16=bf16)
