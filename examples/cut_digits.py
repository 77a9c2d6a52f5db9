"""For the examples of segmentation and detection: digits that the border may cut, and what masking does to errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.data import PLACED_MEAN, PLACED_STD, PlacedDigits, mnist_digits
from pan_callbacks import PANReport, masked, neutralise

_DIGIT = 18  # pixels; half of it at most is cut off


def cut_digits(count: int, size: int = 40, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Digits anywhere on photographs, up to half of them beyond the border.

    Args:
        count: Pictures, 5,000 at most; a fifth of them is the second set.
        size: Height and width of a picture.
        seed: Seed of everything.

    Returns:
        Two sets, each of: pictures (1, size, size); what the pixels show (size, size), a digit, or 10 for the
        photograph; and the row and column of the digit's centre, in pixels.
    """
    indices = torch.randperm(len(mnist_digits()[1]), generator=torch.Generator().manual_seed(seed))[:count]
    cut, canvas = _DIGIT // 2, size + 2 * (_DIGIT // 2)
    # the same places twice: with the photographs, and with nothing behind the digits
    pictures, alone = (
        PlacedDigits(indices, "digit", canvas, _DIGIT, grid=1, background=background, seed=seed)
        for background in ("photos", "empty")
    )
    ink = alone.images * PLACED_STD + PLACED_MEAN
    across = torch.arange(canvas) + 0.5
    centres = torch.stack([(ink.sum(axis) * across).sum(1) / ink.sum((1, 2)) - cut for axis in (2, 1)], dim=1)
    inside = slice(cut, canvas - cut)
    shown = torch.where(ink[:, inside, inside] > 0.3, alone.targets[:, None, None], 10)
    everything = (pictures.images[:, None, inside, inside].contiguous(), shown, centres)
    split = count - count // 5
    return (
        TensorDataset(*(values[:split] for values in everything)),
        TensorDataset(*(values[split:] for values in everything)),
    )


def train_on(digits: TensorDataset, net: nn.Module, loss_of: Callable[..., Tensor], epochs: int) -> None:
    """Trains a network, by a loss of its answers, of what the pixels show, and of the centres."""
    loader = DataLoader(digits, batch_size=50, shuffle=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(loader))
    for _ in range(epochs):
        for images, shown, centres in loader:
            loss = loss_of(net(images), shown, centres)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def arms(net: nn.Module, report: PANReport, images: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """The network as it is, and with padding that says nothing: to its PANs, to as many others, to all."""
    pans = report.neurons_by_layer()
    others = {
        layer: [channel for channel in range(report.layers[layer].channels) if channel not in found][: len(found)]
        for layer, found in pans.items()
    }
    for name, context in {
        "as it is": nullcontext(),
        "PANs neutral": masked(net, report),
        "as many others neutral": masked(net, report, neurons=others),
    }.items():
        with context:
            yield name, net
    yield "all padding neutral", neutralise(net, images[:1])


@torch.no_grad()
def print_errors(
    net: nn.Module, report: PANReport, images: Tensor, error: Callable[[Tensor], tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Prints the error near the border and inside, of each arm.

    Args:
        net: The network, in evaluation mode.
        report: Its PANs.
        images: Pictures that it was not trained on.
        error: Of the network's answers, near the border and inside.
    """
    print(report.summary())
    print(f"\n{'':24}near the border    inside")
    found = {name: error(arm(images)) for name, arm in arms(net, report, images)}
    for name, (border, inside) in found.items():
        print(f"{name:24}{border:15.3f}{inside:10.3f}")
    return found
