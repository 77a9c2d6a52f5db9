"""The networks and images that are measured, and an epoch of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import timm
import torch
from torch import Tensor, nn

from pan_callbacks.measurement.engine import Measurement


def resnet50() -> nn.Module:
    """ResNet-50 with random weights, in evaluation mode: what it computes costs the same as with others."""
    torch.manual_seed(0)
    return timm.create_model("resnet50", pretrained=False).eval()


def sharing(model: nn.Module) -> nn.Module:
    """A copy with hooks of its own, and the very weights of the other, so that no cache holds them twice."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def noise(count: int, size: int) -> Tensor:
    """Images (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def plain_epoch(model: nn.Module, batches: Sequence[Tensor]) -> list[Callable[[], object]]:
    """The steps of an epoch without us."""
    return [partial(model, batch) for batch in batches]


def epoch(measurement: Measurement, model: nn.Module, batches: Sequence[Tensor]) -> list[Callable[[], object]]:
    """The steps of a measured epoch; the first one starts the measurement as well."""

    def first() -> None:
        measurement.start()
        model(batches[0])

    return [first, *plain_epoch(model, batches[1:])]
