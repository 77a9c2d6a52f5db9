"""Contrast, border bias and padding effect as torchmetrics: update with readings, compute, reset, reduce over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pan_callbacks.measurement.contrast import RESOLUTION, contrast, mean_and_std, moments, thin
from pan_callbacks.padding import SIDES

Readings = Mapping[str, Tensor]
#: Golden ratio: multiples of it, less their whole parts, spread evenly over 0 to 1 however many there are.
GOLDEN = 0.6180339887498949
_BORDER, _REFERENCE = 0, 1


class PaddingAwareness(Metric):
    """Contrast of every neuron of one layer, on every side: the statistic that makes a neuron a PAN.

    Readings are kept as they are while they fit, and the contrast is then exact. Past ``capacity`` readings of one
    side, every second one in order of size is dropped and the rest count twice, so that memory is bounded whatever the
    number of images (:func:`pan_callbacks.measurement.contrast.thin`). Batches and ranks merge by concatenation.

    As input to ``update``: border and reference readings, side name to a tensor (readings, channels). The reference
    may be one tensor that all sides share. As output of ``compute``: the signed contrast (sides, channels), NaN where a
    side has fewer than ``min_readings`` readings.

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
    readings: list[Tensor]

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
        self._heads: list[tuple[int, int, int]] = []
        self._left_out: dict[int, int] = {}  # batches of each group that others stand for
        # one state for everything: rows of (group, weight, value of each channel), so that ranks exchange one tensor
        self.add_state("readings", default=[], dist_reduce_fx="cat")

    def update(self, border: Readings, reference: Readings | Tensor) -> None:
        """Adds the readings of a batch."""
        if isinstance(reference, Tensor):
            self._add(self._group(None, _REFERENCE), reference)
        else:
            for side, values in reference.items():
                self._add(self._group(side, _REFERENCE), values)
        for side, values in border.items():
            self._add(self._group(side, _BORDER), values)

    def compute(self) -> Tensor:
        """Signed contrast (sides, channels)."""
        rows = []
        for side in self.sides:
            border, reference = self.samples(side)
            enough = min(len(border), len(reference)) >= self.min_readings
            missing = torch.full((self.channels,), torch.nan, device=border.device)
            rows.append(contrast(border, reference) if enough else missing)
        return torch.stack(rows)

    def samples(self, side: str) -> tuple[Tensor, Tensor]:
        """Border and reference readings of one side, (n, channels) and (m, channels), as far as they were kept."""
        border, _ = self._gather(self._group(side, _BORDER))
        reference, _ = self._gather(self._group(side, _REFERENCE))
        if len(reference) == 0:
            reference, _ = self._gather(self._group(None, _REFERENCE))
        return border, reference

    def _group(self, side: str | None, kind: int) -> int:
        """Number of a sample: two for each side, and one for a reference that all sides share."""
        if side is None:
            return 2 * len(self.sides) + kind
        if side not in self.sides:
            raise ValueError(f"unknown side {side!r}; this metric has {', '.join(self.sides)}")
        return 2 * self.sides.index(side) + kind

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduces over ranks; a rank that saw nothing brings an empty block, so that none waits for it."""
        if not self._is_synced and len(self.readings) == 0:
            self.readings.append(torch.empty(0, 2 + self.channels, device=self.device))
            self._heads = [(-1, 1, 0)]
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        """Forgets all readings."""
        super().reset()
        self._heads, self._left_out = [], {}

    def _add(self, group: int, values: Tensor) -> None:
        if values.ndim != 2 or values.shape[1] != self.channels:
            raise ValueError(f"readings must be (readings, {self.channels} channels), got {tuple(values.shape)}")
        if len(values) == 0:
            return
        heads = self._read_heads()
        blocks = [(weight, rows) for head, weight, rows in heads if head == group]
        weight = max((weight for weight, _ in blocks), default=1)
        if weight > 1:
            batch = len(heads) + sum(self._left_out.values())
            values = thin(values, weight, start=int(weight * (batch * GOLDEN % 1)))
            if len(values) == 0:
                self._left_out[group] = self._left_out.get(group, 0) + 1
                return
        self._append(group, weight, values.detach().float())
        held = len(values) + sum(rows for _, rows in blocks)
        while held > self.capacity:
            kept, weight = self._gather(group)
            kept = thin(kept, 2, start=len(heads) % 2)
            self._left_out.pop(group, None)
            keep = [i for i, (head, _, _) in enumerate(self._heads) if head != group]
            self.readings, self._heads = [self.readings[i] for i in keep], [self._heads[i] for i in keep]
            self._append(group, 2 * weight, kept)
            held = len(kept)

    def _append(self, group: int, weight: int, values: Tensor) -> None:
        head = values.new_tensor([group, weight]).expand(len(values), 2)
        self.readings.append(torch.cat([head, values], 1))
        self._heads.append((group, weight, len(values)))

    def _read_heads(self) -> list[tuple[int, int, int]]:
        """Group, weight and length of each block, noted in Python so that no update waits for the device."""
        if len(self._heads) != len(self.readings):  # after a reset or a merge
            self._heads = [
                (int(block[0, 0]), int(block[0, 1]), len(block)) if len(block) else (-1, 1, 0)
                for block in self.readings
            ]
        return self._heads

    def _gather(self, group: int) -> tuple[Tensor, int]:
        """All readings of a group with one common weight: the largest among what batches and ranks brought."""
        if isinstance(self.readings, Tensor):  # reduced over ranks
            rows = self.readings[self.readings[:, 0] == group]
        else:
            heads = self._read_heads()
            blocks = [block for block, head in zip(self.readings, heads, strict=True) if head[0] == group]
            rows = torch.cat(blocks) if blocks else torch.empty(0, 2 + self.channels, device=self.device)
        if len(rows) == 0:
            return rows[:, 2:], 1
        weights = rows[:, 1].unique().int().tolist()
        heaviest = weights[-1]
        parts = [(rows[rows[:, 1] == weight, 2:], heaviest // weight) for weight in weights]
        parts = [part if step == 1 else thin(part, step, start=step // 2) for part, step in parts]
        return torch.cat(parts), heaviest


class BorderBias(Metric):
    """How far border readings lie from the reference, in standard deviations of the reference, over a layer.

    ``mean over sides and channels of |mean(border) - mean(reference)| / std(reference)``. Channels whose reference is
    constant have no scale and are left out. Input to ``update`` as for :class:`PaddingAwareness`; output of ``compute``
    is a scalar, NaN where nothing could be compared.

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
        """Adds the readings of a batch."""
        for side, values in border.items():
            self.border[self.sides.index(side)] += moments(values)
        if isinstance(reference, Tensor):
            self.reference += moments(reference)
        else:
            for side, values in reference.items():
                self.reference[self.sides.index(side)] += moments(values)

    def compute(self) -> Tensor:
        """Border bias of the layer, a scalar."""
        return self.by_neuron().abs().nanmean().float()

    def by_neuron(self) -> Tensor:
        """Signed border bias (sides, channels) of what this process saw, NaN where it has no scale."""
        border, _ = mean_and_std(self.border.transpose(0, 1))
        reference, scale = mean_and_std(self.reference.transpose(0, 1))
        return torch.where(scale > 0, (border - reference) / scale, torch.nan)

    def reference_mean(self) -> Tensor:
        """Mean reference activation of each neuron over all sides (channels,), of what this process saw."""
        return mean_and_std(self.reference.sum(0))[0].float()


class PaddingEffect(BorderBias):
    """Mean paired difference that a layer's own padding makes, in standard deviations of the reference.

    Input to ``update``: the differences of :func:`pan_callbacks.padding.padding_effect` in place of border readings,
    and the reference. Output of ``compute``: (sides, channels), NaN where there is no border or no scale.
    """

    def compute(self) -> Tensor:
        """Padding effect (sides, channels)."""
        difference, _ = mean_and_std(self.border.transpose(0, 1))
        mean, scale = mean_and_std(self.reference.transpose(0, 1))
        rounding = RESOLUTION * torch.maximum(mean.abs(), difference.abs())  # the scale of a constant reference
        of_constant = torch.where(difference.abs() > rounding, difference / rounding, torch.nan)
        return torch.where(scale > 0, difference / scale, of_constant).float()
