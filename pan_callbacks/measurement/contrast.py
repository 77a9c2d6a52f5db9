"""The contrast and what it is computed from: pure functions of tensors.

A *reading* is the value of one neuron at one output position of one image. Readings are tensors (readings, channels).
"""

from __future__ import annotations

from math import log2

import numpy as np
import torch
from torch import Tensor

from pan_callbacks._runtime import moved_to

#: Values closer than this many parts of a channel's largest reading are rounding, not signal: the same convolution on
#: inputs of two sizes differs in the last bits, and two-sample statistics are blind to how small a difference is.
RESOLUTION = 2.0**-20
#: Readings that are sorted at once: as many as stay in the processor's cache.
AT_ONCE = 2**17
#: Fraction of the golden ratio.
GOLDEN = 0.6180339887498949


def contrast(border: Tensor, reference: Tensor) -> Tensor:
    """Signed two-sample Kolmogorov-Smirnov statistic between border and reference readings.

    ``max over t of |F_reference(t) - F_border(t)|`` with F the empirical distribution functions (Kolmogorov 1933,
    Smirnov 1939), signed + if the border readings are larger. Exact, with ties, but for one thing: values that
    differ by less than rounding (:data:`RESOLUTION`) count as equal. Rounding to a grid could still split a tie that
    lies on a grid line, so two grids half a cell apart are used and the smaller result is taken.

    The threshold is looked for in the very readings, to which chance adds: reports use
    :func:`~pan_callbacks.measurement.crossfit.crossfit`.

    Args:
        border: Readings at the border (n, channels), any floating dtype.
        reference: Readings of the reference (m, channels).

    Returns:
        Contrast (channels,), float32 in [-1, 1]; NaN for a channel with a reading that is not finite, and for all
        channels if n or m is 0.

    Example:
        >>> contrast(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [2.0]]))
        tensor([1.])
        >>> contrast(torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [5.0]]))
        tensor([-0.5000])
    """
    return separation(border, reference)[0]


def separation(border: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the :func:`contrast`, and the threshold at which the two distribution functions lie so far apart.

    The threshold lies halfway between the two readings that it separates, so that it separates others like them, too.

    Args:
        border: Readings at the border (n, channels), any floating dtype.
        reference: Readings of the reference (m, channels).

    Returns:
        Contrast and threshold (channels,), float32. Where the contrast is NaN the threshold means nothing.

    Example:
        >>> separation(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [2.0]]))
        (tensor([1.]), tensor([2.5000]))
    """
    return separated(border.T.float(), reference.T.float())


def separated(border: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Do what :func:`separation` does, of readings with the channels first: the layout in which they are sorted.

    Args:
        border: (channels, n), float32.
        reference: (channels, m), float32.
    """
    n, m = border.shape[1], reference.shape[1]
    if n == 0 or m == 0:
        nothing = torch.full((len(border),), torch.nan, device=border.device)
        return nothing, nothing
    some = max(1, AT_ONCE // (n + m))
    found = [_separated(*part) for part in zip(torch.split(border, some), torch.split(reference, some), strict=True)]
    contrasts, thresholds = zip(*found, strict=True)
    return torch.cat(contrasts), torch.cat(thresholds)


def _separated(border: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    n, m = border.shape[1], reference.shape[1]
    # a sum is finite only if all that is added is; one that overflows is looked at twice
    finite = (border.sum(1) + reference.sum(1)).isfinite()
    if not bool(finite.all()):
        finite = border.isfinite().all(1) & reference.isfinite().all(1)
        border, reference = (torch.where(finite[:, None], one, 0.0) for one in (border, reference))
    # sorted together; of which sample a value is stands in the lowest of its 32 bits, where all else is rounding
    keys = _sorted_rows(torch.cat([_ordered_bits(border) & -2, _ordered_bits(reference) | 1], 1))
    # difference of the two distribution functions after each value, in units of 1 / (n * m): integers, so exact
    steps = (keys & 1).to(torch.int32 if n * m < 2**31 else torch.int64)
    difference = _cumulated(steps.mul_(n + m).sub_(m))
    keys &= -2
    extreme, at = _extreme(difference)
    after = (at + 1).clamp_max(n + m - 1)
    # the largest difference counts if no other value is as good as equal to the one that it lies behind
    here, there = (_of_ordered_bits(keys.gather(1, where[:, None])) for where in (at, after))
    largest = _of_ordered_bits(torch.stack([keys[:, 0], keys[:, -1]], 1)).abs().amax(1, keepdim=True)
    tied = (_cells(here, largest) == _cells(there, largest)).any(0)[:, 0] & (extreme != 0)
    if bool(tied.any()):
        values = _of_ordered_bits(keys[tied])
        extreme[tied], at[tied] = _where_cells_end(difference[tied], values, largest[tied])
        after = (at + 1).clamp_max(n + m - 1)
        here, there = (_of_ordered_bits(keys.gather(1, where[:, None])) for where in (at, after))
    contrasts = torch.where(finite, (extreme.double() / (n * m)).float(), torch.nan)
    return contrasts, (here / 2 + there / 2)[:, 0]


def _extreme(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entry of largest absolute value in each row, and where it first is."""
    high, low = difference.max(1), difference.min(1)
    larger = high.values >= -low.values
    return torch.where(larger, high.values, low.values), torch.where(larger, high.indices, low.indices)


def _cells(values: Tensor, largest: Tensor) -> Tensor:
    """Return the numbers of the cells that values lie in, of two grids half a cell apart (2, channels, readings).

    Args:
        values: (channels, readings).
        largest: The largest absolute value of each channel (channels, 1).
    """
    cell = torch.exp2(torch.frexp(largest).exponent.float() + log2(RESOLUTION))  # 2**128 would overflow
    position = values / cell.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack([position.floor(), (position + 0.5).floor()])


def _where_cells_end(difference: Tensor, values: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entry of largest absolute value in each row, and where it is, looking only where equal cells end.

    Of the two grids the one that finds less: a tie is no signal, and a grid line may split it.
    """
    found = []
    for cell in _cells(values, largest):
        ends = torch.ones_like(cell, dtype=torch.bool)
        ends[:, :-1] = cell[:, 1:] != cell[:, :-1]
        found.append(_extreme(torch.where(ends, difference, 0)))
    (one, at_one), (other, at_other) = found
    first = one.abs() <= other.abs()
    return torch.where(first, one, other), torch.where(first, at_one, at_other)


def _ordered_bits(values: Tensor) -> Tensor:
    """Return whole numbers (32 bits) that order as float32 values do."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0 into 0
    signs = bits >> 31
    return bits.bitwise_xor_(signs.bitwise_and_(0x7FFFFFFF))


def _of_ordered_bits(numbers: Tensor) -> Tensor:
    """Return the float32 values that :func:`_ordered_bits` made the numbers of."""
    bits = numbers.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _sorted_rows(values: Tensor) -> Tensor:
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))  # several times faster than torch's
    return values.sort(1).values


def _cumulated(values: Tensor) -> Tensor:
    """Return the sums of each row up to each of its values."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().cumsum(1, dtype=values.numpy().dtype))  # likewise
    return values.cumsum(1, dtype=values.dtype)


def evenly(number: int, first: float = 0.0) -> float:
    """Return one of a sequence of numbers in [0, 1) that spread evenly, however many of them are used.

    Multiples of the golden ratio, less their whole parts (Weyl's sequence of the lowest discrepancy).

    Args:
        number: Number in the sequence.
        first: Where it begins, at number 0.

    Example:
        >>> [round(evenly(number), 2) for number in range(5)]
        [0.0, 0.62, 0.24, 0.85, 0.47]
    """
    return (number * GOLDEN + first) % 1


def thin(readings: Tensor, step: int, start: int) -> Tensor:
    """Every step-th reading of each channel in order of size: fewer readings, nearly the same distribution.

    Each kept reading stands for ``step`` of them: the bars of a histogram of equal counts, whose edges follow the data.
    The distribution function moves by at most ``step / readings``, however the values lie; a histogram of as many
    fixed bins has no such bound (docs/statistics.md has the measurement).

    Args:
        readings: (n, channels).
        step: How many readings one kept reading stands for.
        start: Rank of the first one kept, ``0 <= start < step``; vary it from call to call, so that errors cancel.

    Returns:
        (about n / step, channels), ascending in each channel.
    """
    ordered = _sorted_rows(readings.T.contiguous().float())
    return ordered[:, start::step].T.contiguous()


def thin_each(readings: Tensor, groups: Tensor, step: int, start: int) -> tuple[Tensor, Tensor]:
    """Do :func:`thin` with each group of readings by itself, and return what is kept and its groups.

    The first rank kept is another one in each group, spread evenly over all that there are, so that what several groups
    lose evens out, whichever of them are put together.

    Args:
        readings: (n, channels).
        groups: Number of the group of each reading, 0 to 2³⁰ (n,), on the CPU.
        step: How many readings one kept reading stands for.
        start: Rank of the first one kept in group 0, ``0 <= start < step``.

    Example:
        >>> kept, groups = thin_each(torch.arange(8.0)[:, None], torch.tensor([0, 1] * 4), 2, start=0)
        >>> kept[:, 0].tolist(), groups.tolist()
        ([0.0, 4.0, 3.0, 7.0], [0, 0, 1, 1])
    """
    labels, counts = torch.unique(groups, return_counts=True)
    if len(labels) <= 1:
        kept = thin(readings, step, _start(start, step, int(labels[0])) if len(labels) else start)
        return kept, labels.repeat_interleave(len(kept)) if len(labels) else groups
    # each channel in order of group, then of size: the group is the upper half of a 64-bit key
    keys = _ordered_bits(readings.T.contiguous().float()).long() + 2**31 + (moved_to(groups, readings.device) << 32)
    ordered = _of_ordered_bits((_sorted_rows(keys) & 0xFFFFFFFF) - 2**31)
    first = counts.cumsum(0) - counts
    ranks = [
        torch.arange(int(begin), int(begin + count))[_start(start, step, int(label)) :: step]
        for label, count, begin in zip(labels, counts, first, strict=True)
    ]
    where = torch.cat(ranks)
    kept_groups = labels.repeat_interleave(torch.tensor([len(part) for part in ranks]))
    return ordered[:, moved_to(where, readings.device)].T.contiguous(), kept_groups


def _start(start: int, step: int, group: int) -> int:
    """Return the first rank kept of a group, if that of group 0 is ``start``."""
    return (start + int(step * evenly(group))) % step


def moments(readings: Tensor) -> Tensor:
    """Count, sum and sum of squares of each channel, (3, channels) float64; they add over batches and ranks.

    A reading that is NaN in every channel is none.
    """
    values = readings.double() if readings.device.type != "mps" else readings.float()
    missing = values.isnan().all(1, keepdim=True)
    values = torch.where(missing, 0.0, values)
    count = torch.zeros_like(values[:1].sum(0)) + (~missing).sum()
    return torch.stack([count, values.sum(0), values.square().sum(0)])


def mean_and_std(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) from :func:`moments`, over its first dimension.

    A spread below rounding is returned as exactly 0, so that a constant channel can be recognised.

    Args:
        sums: (3, ...), as :func:`moments` gives them, possibly added up.

    Returns:
        Two tensors (...); NaN if the count is 0.
    """
    count, total, square = sums
    mean = total / count
    variance = square / count - mean.square()
    noise = (RESOLUTION * mean.abs()).square()
    return mean, torch.where(variance <= noise, torch.zeros_like(variance), variance).sqrt()
