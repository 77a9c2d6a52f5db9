"""Flip score: how much a neuron's mean activation distinguishes an image from its mirror image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pan_callbacks.layers import select
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.hooks import Probes, quietly

#: Flips in the order of the scores' rows: left to right, and top to bottom.
FLIPS = ("horizontal", "vertical")
_DIMS = (3, 2)


def flip_scores(model: nn.Module, batches: Iterable[Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean of ``|GAP(f(x)) - GAP(f(flip x))|`` over images for every neuron, in deviations of ``GAP(f(x))``.

    The score of Islam et al. 2021, "Global Pooling, More than Meets the Eye" (arXiv 2108.07884), where GAP is global
    average pooling. They take it of the last features; here it is taken of the output of any convolution, and divided
    by the standard deviation of ``GAP(f(x))`` over the images, so that neurons can be compared with one another.

    Args:
        model: The model; it is left as it was.
        batches: Images (images, channels, height, width).
        layers: Names of the layers.

    Returns:
        Layer name to scores (2, channels): for the flip from left to right, and for the flip from top to bottom. NaN
        if the mean activation is the same for all images, or there is just one.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False)).eval()
        >>> _ = nn.init.constant_(net[0].weight, 1.0)
        >>> images = torch.rand(8, 1, 9, 9, generator=torch.Generator().manual_seed(0))
        >>> flip_scores(net, [images], ["0"])["0"].round().tolist()  # a symmetric kernel sees no difference
        [[0.0], [0.0]]
    """
    modules = select(model, list(layers)) if layers else {}
    modules = {name: modules[name] for name in layers}
    probes, device = Probes(modules, {}), device_of(model)
    pooled: dict[str, Tensor] = {}

    def listen(name: str, call: LayerCall) -> None:
        pooled[name] = _pooled(call.output.detach())

    sums = {name: torch.zeros(2 + len(FLIPS), conv.out_channels, dtype=torch.float64) for name, conv in modules.items()}
    count = 0
    probes.attach()
    try:
        probes.listen(listen)
        with quietly(model):
            for images in batches:
                images = images.to(device)
                model(images)
                own = dict(pooled)
                for name, values in own.items():
                    sums[name][:2] += torch.stack([values.sum(0), values.square().sum(0)]).cpu()
                for row, dim in enumerate(_DIMS):
                    model(images.flip(dim))
                    for name, values in own.items():
                        sums[name][2 + row] += (values - pooled[name]).abs().sum(0).cpu()
                count += len(images)
    finally:
        probes.detach()
    return {name: _standardised(total, count) for name, total in sums.items()}


def _pooled(output: Tensor) -> Tensor:
    """Return the means of maps (images, channels), in 64 bits: image by image, for a wide copy of all is slow."""
    wide = output.new_empty(output.shape[1:], dtype=torch.float64)
    return torch.stack([wide.copy_(image).mean((1, 2)) for image in output])


def _standardised(sums: Tensor, count: int) -> Tensor:
    """Scores (2, channels) from sums of values, of squares, and of the differences under each flip."""
    if count < 2:
        return torch.full((len(FLIPS), sums.shape[1]), torch.nan)
    mean = sums[0] / count
    variance = (sums[1] - count * mean.square()).clamp(min=0) / (count - 1)
    rounding = (1e-6 * mean).square()  # what is left of the variance of a constant
    return torch.where(variance > rounding, sums[2:] / count / variance.sqrt(), torch.nan).float()
