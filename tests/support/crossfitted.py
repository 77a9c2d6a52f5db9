"""The cross-fitted contrast and its standard error, by loops over channels and groups, for comparison."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def _distance(border: Array, reference: Array, at: Array) -> Array:
    """Difference of the two empirical distribution functions."""
    shares = (np.searchsorted(np.sort(sample), at, "right") / len(sample) for sample in (reference, border))
    return np.round(np.subtract(*shares), 12)


def _best(border: Array, reference: Array) -> tuple[float, float]:
    """Largest difference, of equal ones that of excitation and the first; and a cut halfway to the next value."""
    grid = np.unique(np.concatenate([border, reference]))
    if len(grid) == 1:
        return 0.0, float(grid[0])
    cuts = grid[:-1] / 2 + grid[1:] / 2
    sizes = _distance(border, reference, cuts)
    at = int(np.argmax(sizes)) if sizes.max() >= -sizes.min() else int(np.argmin(sizes))
    return float(sizes[at]), float(cuts[at])


def crossfitted(border: Array, reference: Array, groups: Array, choice: float) -> tuple[Array, Array]:
    """Contrast and standard error of each channel.

    Args:
        border: Readings (n, channels).
        reference: Readings of the same pixels (n, channels).
        groups: Group of each reading (n,).
        choice: Share of what is lost between the halves that is uncertain.
    """
    found = [_of_channel(border[:, i], reference[:, i], groups, choice) for i in range(border.shape[1])]
    return np.array([one for one, _ in found]), np.array([one for _, one in found])


def _of_channel(border: Array, reference: Array, groups: Array, choice: float) -> tuple[float, float]:
    names = sorted({*groups.tolist()})
    half = {name: number % 2 for number, name in enumerate(names)}
    of_reading = np.array([half[name] for name in groups.tolist()])
    best = [_best(border[of_reading == which], reference[of_reading == which]) for which in (0, 1)]
    values, weights = [], []
    for name in names:
        size, cut = best[1 - half[name]]
        at = np.array([cut], dtype=border.dtype)
        values.append(np.sign(size) * _distance(border[groups == name], reference[groups == name], at)[0])
        weights.append(np.sum(groups == name))
    shares = np.array(weights) / sum(weights)
    mean = float(shares @ np.array(values))
    variance = 0.0  # of the jackknife: what becomes of the mean without each of the groups
    without = [(mean - share * value) / (1 - share) for share, value in zip(shares, values, strict=True)]
    variance = sum((one - mean) ** 2 for one in without) * (len(names) - 1) / len(names)
    lost = max(0.0, (abs(best[0][0]) + abs(best[1][0])) / 2 - mean)
    sign = np.sign(max((best[0][0], best[1][0]), key=abs))
    return float(sign * max(mean, 0.0)), (variance + (choice * lost) ** 2) ** 0.5
