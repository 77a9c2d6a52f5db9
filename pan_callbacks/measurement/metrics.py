"""Contrast, border bias and padding effect as torchmetrics: update with readings, compute, reset, reduce over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pan_callbacks.measurement.contrast import RESOLUTION, contrast, mean_and_std, moments
from pan_callbacks.measurement.crossfit import Estimate, Sample, crossfit
from pan_callbacks.measurement.readings import ReadingStore, one_group
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.pans import GROUPS

#: Side to the readings there (readings, channels).
Readings = Mapping[str, Tensor]
#: The same, or with the group of images that each reading is of.
Samples = Mapping[str, Tensor | Sample]
_BORDER, _REFERENCE = 0, 1


class PaddingAwareness(Metric):
    """Contrast of every neuron of one layer, on every side: the statistic that makes a neuron a PAN.

    Readings are kept as they are while they fit, and the contrast is then exact. Past ``capacity`` readings of one
    side, every second one in order of size is dropped and the rest count twice, so that memory is bounded whatever the
    number of images (:class:`~pan_callbacks.measurement.readings.ReadingStore`). Batches and ranks merge.

    As input to ``update``: border and reference readings, side name to a tensor (readings, channels). The reference
    may be one tensor that all sides share. A reading that is NaN in every channel is none, and left out. As output of
    ``compute``: the signed contrast (sides, channels), NaN if a side has fewer than ``min_readings`` readings. In place
    of a tensor there may be a :class:`~pan_callbacks.measurement.crossfit.Sample`, which says of which group of images
    each reading is; then :meth:`estimate` has the contrast of images that were not seen, and its error.

    Args:
        channels: Number of neurons.
        sides: Names of the sides, the order of the output.
        capacity: Readings kept for each side of border and reference, at most.
        min_readings: Readings that a side needs; with fewer, chance alone reaches a high contrast.
        kwargs: For :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If a side is unknown or a tensor is not (readings, channels).

    Example:
        >>> metric = PaddingAwareness(channels=2, sides=("top",))
        >>> interior = torch.linspace(0, 1, 20)[:, None].repeat(1, 2)
        >>> metric.update({"top": interior + torch.tensor([2.0, 0.0])}, {"top": interior})
        >>> metric.compute()
        tensor([[1., 0.]])
    """

    full_state_update = False
    higher_is_better = False
    values: list[Tensor]
    heads: list[Tensor]
    groups: list[Tensor]

    def __init__(
        self,
        channels: int,
        sides: tuple[str, ...] = SIDES,
        capacity: int = 4096,
        min_readings: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channels, self.sides, self.capacity, self.min_readings = channels, tuple(sides), capacity, min_readings
        # the lists of a store of readings; ranks concatenate them
        for name in ("values", "heads", "groups"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._own: ReadingStore | None = None

    @property
    def store(self) -> ReadingStore:
        """The readings of this process, or of all once they are reduced; two samples a side and one for all sides."""
        if isinstance(self.values, Tensor):
            return ReadingStore.of(self.channels, self.capacity, self.values, self.heads, self.groups)
        if self._own is None or self._own.values is not self.values or self._own.heads is not self.heads:
            # the first, or torchmetrics has put other lists in their place
            self._own = ReadingStore(self.channels, self.capacity, self.values, self.heads, self.groups)
        return self._own

    def update(self, border: Samples, reference: Samples | Tensor | Sample) -> None:
        """Add the readings of a batch."""
        if isinstance(reference, (Tensor, Sample)):
            self._add(None, _REFERENCE, reference)
        else:
            for side, values in reference.items():
                self._add(side, _REFERENCE, values)
        for side, values in border.items():
            self._add(side, _BORDER, values)

    def compute(self) -> Tensor:
        """Return the signed contrast (sides, channels)."""
        return torch.stack([self.contrast_of(side) for side in self.sides])

    def contrast_of(self, side: str) -> Tensor:
        """Return the signed contrast of a side (channels,), in the very images that its threshold is looked for in."""
        border, reference = self.samples(side)
        if min(len(border), len(reference)) < self.min_readings:
            return torch.full((self.channels,), torch.nan, device=border.device)
        return contrast(border, reference)

    def estimate(self, side: str) -> Estimate:
        """Return the contrast of a side as it is of other images, and how sure that is.

        Args:
            side: One of ``sides``.
        """
        border, reference = self.grouped(side)
        if min(len(border.readings), len(reference.readings)) < self.min_readings:
            nothing = torch.full((GROUPS, self.channels), torch.nan, device=border.readings.device)
            return Estimate(nothing[0], nothing, 0, 0)
        return crossfit(border, reference)

    def samples(self, side: str) -> tuple[Tensor, Tensor]:
        """Return the border and reference readings of a side, (n, channels) and (m, channels), as far as they are kept.

        Args:
            side: One of ``sides``.
        """
        border, reference = self.grouped(side)
        return border.readings, reference.readings

    def grouped(self, side: str) -> tuple[Sample, Sample]:
        """Return what :meth:`samples` does, with the group of each reading.

        Args:
            side: One of ``sides``.
        """
        border, reference = (self._kept(self._sample(side, kind)) for kind in (_BORDER, _REFERENCE))
        return border, reference if len(reference.readings) else self._kept(self._sample(None, _REFERENCE))

    def _kept(self, sample: int) -> Sample:
        readings, groups = self.store.sample(sample)
        known = ~readings.isnan().all(1)
        return Sample(readings[known], groups[known.to(groups.device)])

    def _sample(self, side: str | None, kind: int) -> int:
        """Return number of a sample in the store: two for each side, and one for a reference that all sides share."""
        if side is None:
            return 2 * len(self.sides) + kind
        if side not in self.sides:
            raise ValueError(f"unknown side {side!r}; this metric has {', '.join(self.sides)}")
        return 2 * self.sides.index(side) + kind

    def _add(self, side: str | None, kind: int, values: Tensor | Sample) -> None:
        sample = self._sample(side, kind)
        readings, groups = values if isinstance(values, Sample) else (values, one_group(values))
        if readings.ndim != 2 or readings.shape[1] != self.channels:
            raise ValueError(f"readings must be (readings, {self.channels} channels), got {tuple(readings.shape)}")
        self.store.add(sample, readings.detach().float(), groups)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduce over ranks; a rank that saw nothing brings an empty block, so that none waits for it."""
        if not self._is_synced:
            if not self.values:
                self.values = [torch.empty(0, self.channels, device=self.device)]
                self.heads, self.groups = [torch.tensor([[0, 1, 0, 0]])], [one_group(self.values[0])]
            # made where Python reads them without waiting
            self.heads, self.groups = ([one.to(self.device) for one in of] for of in (self.heads, self.groups))
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        """Forget all readings."""
        super().reset()
        self._own = None


class SideMoments(Metric):
    """Counts, sums and sums of squares of border and reference readings, by side and channel.

    Args:
        channels: Number of neurons.
        sides: Names of the sides.
        kwargs: For :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = False
    border: Tensor
    reference: Tensor

    def __init__(self, channels: int, sides: tuple[str, ...] = SIDES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sides = tuple(sides)
        # sums only, so that ranks reduce by adding: (sides, [count, sum, sum of squares], channels)
        zeros = torch.zeros(len(self.sides), 3, channels, dtype=torch.float64)
        self.add_state("border", default=zeros, dist_reduce_fx="sum")
        self.add_state("reference", default=zeros.clone(), dist_reduce_fx="sum")

    def update(self, border: Readings, reference: Readings | Tensor) -> None:
        """Add the readings of a batch."""
        for side, values in border.items():
            self.border[self.sides.index(side)] += moments(values)
        if isinstance(reference, Tensor):
            self.reference += moments(reference)
        else:
            for side, values in reference.items():
                self.reference[self.sides.index(side)] += moments(values)

    def border_mean(self) -> Tensor:
        """Return the mean of the border readings (sides, channels), NaN if there are none."""
        return mean_and_std(self.border.transpose(0, 1))[0]

    def reference_mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the reference, each (sides, channels), NaN if there is none."""
        return mean_and_std(self.reference.transpose(0, 1))


class BorderBias(SideMoments):
    """How far border readings lie from the reference, in standard deviations of the reference, over a layer.

    ``mean over sides and channels of |mean(border) - mean(reference)| / std(reference)``. Channels whose reference is
    constant have no scale and are left out. Input to ``update`` as for :class:`PaddingAwareness`; output of ``compute``
    is a scalar, NaN if nothing could be compared.

    Args:
        channels: Number of neurons.
        sides: Names of the sides.
        kwargs: For :class:`torchmetrics.Metric`.

    Example:
        >>> metric = BorderBias(channels=1, sides=("left",))
        >>> metric.update({"left": torch.tensor([[4.0], [6.0]])}, {"left": torch.tensor([[-1.0], [1.0]])})
        >>> metric.compute()
        tensor(5.)
    """

    def compute(self) -> Tensor:
        """Return the border bias of the layer, a scalar."""
        return self.of_layer()

    def of_layer(self) -> Tensor:
        """Return the border bias of what was reduced so far, a scalar."""
        return self.by_neuron().abs().nanmean().float()

    def by_neuron(self) -> Tensor:
        """Return the signed border bias (sides, channels) of what was reduced so far, NaN if it has no scale."""
        reference, scale = self.reference_mean_and_std()
        return torch.where(scale > 0, (self.border_mean() - reference) / scale, torch.nan)

    def reference_mean(self) -> Tensor:
        """Return the mean reference activation of each neuron over all sides (channels,), as far as reduced."""
        return mean_and_std(self.reference.sum(0))[0].float()


class PaddingEffect(SideMoments):
    """Mean paired difference that a layer's own padding makes, in standard deviations of the reference.

    Input to ``update``: the differences of :func:`~pan_callbacks.measurement.effect.padding_effect` in place of border
    readings, and the reference. Output of ``compute``: (sides, channels), NaN if there is no border or no scale.
    """

    def compute(self) -> Tensor:
        """Return the padding effect (sides, channels)."""
        return self.by_side()

    def by_side(self) -> Tensor:
        """Return the padding effect (sides, channels) of what was reduced so far."""
        difference, (mean, scale) = self.border_mean(), self.reference_mean_and_std()
        rounding = RESOLUTION * torch.maximum(mean.abs(), difference.abs())  # the scale of a constant reference
        of_constant = torch.where(difference.abs() > rounding, difference / rounding, torch.nan)
        return torch.where(scale > 0, difference / scale, of_constant).float()
