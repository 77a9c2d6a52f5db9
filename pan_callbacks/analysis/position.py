"""Reads the position out of a frozen network: how much each layer knows of where it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchmetrics.functional.regression import spearman_corrcoef

from pan_callbacks.errors import PANError
from pan_callbacks.layers import select
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.hooks import Probes, quietly

#: What is read out, each a map from 0 to 1: position from top to bottom, from left to right, nearness to the centre.
TARGETS = ("row", "column", "centre")
GRID = 14  # positions along each axis of a map that are read, its first and its last among them
_RIDGE = 1e-3  # share of a feature's variance; features of a layer are many and alike


@dataclass(frozen=True, eq=False)
class PositionReadout:
    """How well the position is read out of a layer, on images that the read-out was not fitted to.

    Args:
        spearman: Rank correlation of truth and read-out over positions, averaged over images, for each of
            :data:`TARGETS`; 0 is chance.
        error: Mean absolute error, in shares of the map.
        by_neuron: Correlation of each neuron's activation with each target (3, channels), NaN for constant neurons.
    """

    spearman: tuple[float, ...]
    error: tuple[float, ...]
    by_neuron: Tensor = field(repr=False)


def position_readout(model: nn.Module, batches: Iterable[Tensor], layers: Sequence[str]) -> dict[str, PositionReadout]:
    """Read the position out of every layer with a linear map from its channels, fitted on every other image.

    After PosENet (Islam et al. 2020, arXiv 2001.08248), which trains a small convolution without padding to paint a
    position map from frozen features, and judges it by rank correlation and mean absolute error. Here the read-out is
    ridge regression at each position, solved in closed form: nothing to tune, nothing by chance, and no neighbour is
    read. What the content gives away (a sky above) is read out, too; the same network without padding shows how much
    that is.

    The batches are read twice. A read-out is judged by ranks of what it says of images that it was not fitted to, and
    there is none before the last image was seen: with one reading these images, or their features, would have to be
    kept, as many as there are.

    Args:
        model: The model; it is left as it was.
        batches: Images (images, channels, height, width), two at least: a list, or a loader that gives the same images
            in the same order again.
        layers: Names of the layers.

    Returns:
        Layer name to its read-out; layers that are not called in a forward are left out.

    Raises:
        PANError: If the batches can be read only once.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)).eval()
        >>> noise = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> readout = position_readout(net, [noise], ["0"])["0"]
        >>> len(readout.spearman), readout.by_neuron.shape
        (3, torch.Size([3, 4]))
    """
    if isinstance(batches, Iterator):
        raise PANError(
            "batches is an iterator, which can be read only once, and is read twice: give a list or a loader"
        )
    modules = select(model, list(layers)) if layers else {}
    probes, device = Probes({name: modules[name] for name in layers}, {}), device_of(model)
    fits: dict[str, _Fit] = {}
    scores: dict[str, list[Tensor]] = {}

    def fit(name: str, call: LayerCall) -> None:
        fits.setdefault(name, _Fit(call.output.shape[1])).add(*_features(call.output))

    def judge(name: str, call: LayerCall) -> None:
        if name in fits:
            scores.setdefault(name, []).append(fits[name].judge(*_features(call.output)))

    probes.attach()
    try:
        with quietly(model):
            for listener, start in ((fit, 0), (judge, 1)):
                probes.listen(listener)
                for part in (part for batch in batches for part in torch.split(batch, 16)):
                    if len(part) > start:
                        model(part[start::2].to(device))
                    start = (start + len(part)) % 2  # every other image, also if batches are of one image
    finally:
        probes.detach()
    return {
        name: PositionReadout(
            tuple(torch.cat(found)[:, 0].mean(0).tolist()),
            tuple(torch.cat(found)[:, 1].mean(0).tolist()),
            fits[name].correlations(),
        )
        for name, found in scores.items()
    }


def targets(height: int, width: int) -> Tensor:
    """Return the position maps that are read out (3, height, width), for the centre a Gaussian of a quarter of it."""
    # offsets from the middle that are exactly opposite, so that mirrored positions have one and the same nearness
    down, across = ((2 * torch.arange(n) + 1 - n) / (2 * n) for n in (height, width))
    down, across = down[:, None].expand(height, width), across[None, :].expand(height, width)
    centre = (-(down.square() + across.square()) / (2 * 0.25**2)).exp()
    return torch.stack([down + 0.5, across + 0.5, centre])


def _features(output: Tensor) -> tuple[Tensor, Tensor]:
    """Activations (images, positions, channels) and targets (positions, 3) on a grid of a map."""
    places = [torch.linspace(0, n - 1, min(n, GRID)).round().long() for n in output.shape[2:]]
    picked = output[:, :, places[0][:, None].to(output.device), places[1][None, :].to(output.device)]
    wanted = targets(*output.shape[2:])[:, places[0][:, None], places[1][None, :]]
    return picked.detach().flatten(2).transpose(1, 2).double(), wanted.flatten(1).T.double().to(output.device)


class _Fit:
    """Sums of a ridge regression from channels to targets."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(1 + channels + len(TARGETS), 1 + channels + len(TARGETS), dtype=torch.float64)
        self.weight: Tensor | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add activations (images, positions, channels) with their targets (positions, targets)."""
        rows = torch.cat([x.flatten(0, 1), y.repeat(len(x), 1)], 1)
        rows = torch.cat([torch.ones_like(rows[:, :1]), rows], 1)
        self.sums = self.sums.to(rows.device) + rows.T @ rows
        self.count += len(rows)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means and covariance of channels and targets together."""
        mean = self.sums[0, 1:] / self.count
        return mean, self.sums[1:, 1:] / self.count - mean[:, None] * mean[None, :]

    def correlations(self) -> Tensor:
        """Return the correlation of every channel with every target (targets, channels)."""
        mean, covariance = self._moments()
        variance = covariance.diagonal().clamp(min=0)
        k = len(TARGETS)
        scale = (variance[:-k, None] * variance[None, -k:]).sqrt()
        constant = variance[:-k, None] <= (1e-6 * mean[:-k, None]).square()
        return torch.where(constant, torch.nan, covariance[:-k, -k:] / scale).T.float().cpu()

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        """Return rank correlation and mean absolute error on other images (images, 2, targets)."""
        k = len(TARGETS)
        mean, covariance = self._moments()
        if self.weight is None:
            scale = covariance.diagonal()[:-k].clamp(min=0).sqrt()
            scale = torch.where(scale > 0, scale, torch.inf)  # a constant channel has no say
            normal = covariance[:-k, :-k] / scale[:, None] / scale[None, :]
            normal = normal + _RIDGE * torch.eye(len(scale), dtype=normal.dtype, device=normal.device)
            self.weight = torch.linalg.solve(normal, covariance[:-k, -k:] / scale[:, None]) / scale[:, None]
        read = (x - mean[:-k]) @ self.weight + mean[-k:]
        error = (read.clamp(0, 1) - y).abs().mean(1)
        rank = [spearman_corrcoef(image.float(), y.float()) for image in read]
        return torch.stack([torch.stack(rank).nan_to_num(0.0).double(), error], 1).cpu()
