"""How far padding moves a convolution beyond its margin, in float64, position by position, from plain arithmetic."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from pan_callbacks.suppression.yardstick import FARTHEST, FEWEST, LEAST_ALLOWED, LEAST_MARGIN, MARGIN, POSITIONS, SCALE

PADS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
NAMES = [
    ("left", "right"),
    ("top", "bottom"),
    ("front", "back"),
]  # of the last axis, the one before, and the one before


@dataclass
class ByHand:
    """Side by side, and of every neuron.

    Args:
        by_tap: Side to what padding adds to what each tap reads (in channels, *kernel).
        effect: Side to the mean of what it adds to the output (channels,).
        allowed: Side to how much of that costs nothing (channels,).
        distance: Side to how far the kernel must move at least, for no more than that (channels,).
    """

    by_tap: dict[str, np.ndarray]
    effect: dict[str, np.ndarray]
    allowed: dict[str, np.ndarray]
    distance: dict[str, np.ndarray]

    @property
    def beyond(self) -> np.ndarray:
        """How far the effect is beyond what is allowed, in parts of that, on the side where it is most (channels,)."""
        sides = []
        for side, effect in self.effect.items():
            unit = np.maximum(self.allowed[side], np.abs(effect) / FARTHEST)
            sides.append((np.abs(effect) - self.allowed[side]) / unit)
        return np.maximum(np.max(sides, axis=0), 0)

    @property
    def gradient(self) -> np.ndarray:
        """The way back from the farthest side, straight, to scale (channels, in channels, *kernel); of one group."""
        sides = list(self.distance)
        far = np.argmax(list(self.distance.values()), axis=0)
        ways = []
        for channel, side in enumerate(sides[i] for i in far):
            way = self.by_tap[side] * np.sign(self.effect[side][channel])
            ways.append(SCALE * self.distance[side][channel] * way / max(np.linalg.norm(way), 1e-300))
        return np.stack(ways)


def by_hand(conv, x, max_images: int = 16) -> ByHand:
    """Price a convolution of 1, 2 or 3 dimensions, of any stride, dilation, padding mode and groups.

    Args:
        conv: With a padding in numbers, and a bias or none; it is left as it is.
        x: (images, in channels, *size), with an interior.
        max_images: Images that are measured, the first ones.
    """
    x = x.detach().double().numpy()[:max_images]
    weight = conv.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if conv.bias is None else conv.bias.detach().double().numpy()
    sizes, pads = x.shape[2:], list(conv.padding)
    taps = [
        [[out * s - p + d * k for k in range(length)] for out in range((n + 2 * p - d * (length - 1) - 1) // s + 1)]
        for n, length, s, p, d in zip(sizes, conv.kernel_size, conv.stride, pads, conv.dilation, strict=True)
    ]
    own = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pads)], PADS[conv.padding_mode])
    neutral = x
    for axis, (n, p) in enumerate(zip(sizes, pads, strict=True), 2):
        width = [(p, p) if i == axis else (0, 0) for i in range(x.ndim)]
        neutral = np.pad(neutral, width, "reflect" if p < n else "edge")

    def patch(padded, where):
        """What the output at a position reads (images, in channels, *kernel)."""
        for axis, (one, out, p) in enumerate(zip(taps, where, pads, strict=True), 2):
            padded = padded.take([tap + p for tap in one[out]], axis)
        return padded

    of_group = x.shape[1] // conv.groups
    groups = [slice(g * of_group, (g + 1) * of_group) for g in range(conv.groups)]
    group_of = [groups[channel * conv.groups // len(weight)] for channel in range(len(weight))]

    def times_kernels(patches):
        """The kernels times (..., in channels, *kernel): (..., channels)."""
        axes = tuple(range(-weight.ndim + 1, 0))
        dims = (slice(None),) * (weight.ndim - 2)
        found = [(patches[(..., g, *dims)] * kernel).sum(axes) for g, kernel in zip(group_of, weight, strict=True)]
        return np.stack(found, -1)

    def readings(where):
        """Outputs at a few of these positions (images * positions, channels)."""
        few = [one[:: max(1, math.ceil(len(one) / POSITIONS))] for one in where]
        return np.concatenate([times_kernels(patch(own, at)) + bias for at in itertools.product(*few)])

    axes = [_Outputs(one, n) for one, n in zip(taps, sizes, strict=True)]
    inner = readings([one.inner for one in axes])
    least = LEAST_ALLOWED * np.sort(inner.std(0))[(len(weight) - 1) // 2]
    found = ByHand({}, {}, {}, {})
    for side, border in _sides(axes).items():
        added = [patch(own, at) - patch(neutral, at) for at in itertools.product(*border)]
        by_tap = np.mean(added, axis=(0, 1))
        beside = [
            sorted({min(axis.clean, key=lambda c, i=i: abs(c - i)) for i in one})
            for axis, one in zip(axes, border, strict=True)
        ]
        seen = readings(border), readings(beside)
        effect, shift = times_kernels(by_tap), seen[0].mean(0) - seen[1].mean(0)
        whole, in_any_case = (
            np.maximum(np.mean([_shortest(one if len(one) >= FEWEST else inner, share) for one in seen], axis=0), least)
            for share in (MARGIN, LEAST_MARGIN)
        )
        allowed = np.where(np.sign(shift - effect) == np.sign(effect), whole - np.abs(shift - effect), whole)
        allowed = np.maximum(allowed, in_any_case)
        size = np.array([np.linalg.norm(by_tap[g]) for g in group_of])
        beyond = np.maximum(np.abs(effect) - allowed, 0)
        found.by_tap[side], found.effect[side], found.allowed[side] = by_tap, effect, allowed
        found.distance[side] = np.divide(beyond, size, out=np.zeros_like(beyond), where=size > 0)
    return found


class _Outputs:
    """Outputs of one axis, by what they read.

    Args:
        taps: Of each output, the coordinates that it reads.
        n: Length of the input, from 0 on; all else is padding.
    """

    def __init__(self, taps, n):
        before, after = ([i for i, one in enumerate(taps) if test(one)] for test in (_below, lambda t: max(t) >= n))
        outputs = range(len(taps))
        self.clean = [i for i in outputs if i not in before and i not in after]
        self.ends = {
            -1: [i for i in outputs[:1] if i in before and i not in after],
            1: [i for i in outputs[-1:] if i in after and i not in before],
        }
        quarter = len(taps) // 4
        self.inner = [i for i in self.clean if quarter <= i < len(taps) - quarter]


def _below(taps):
    return min(taps) < 0


def _sides(axes) -> dict[str, list[list[int]]]:
    """Positions along each axis of every side that has a border: one axis at an end; two, in the plane."""
    found = {}
    names = NAMES[: len(axes)][::-1]
    for at in itertools.product((0, -1, 1), repeat=len(axes)):
        off = [axis for axis, end in enumerate(at) if end]
        if len(off) == 1 or len(off) == len(axes) == 2:
            where = [axis.ends[end] if end else axis.clean for axis, end in zip(axes, at, strict=True)]
            if all(where):
                found["-".join(names[axis][at[axis] > 0] for axis in off)] = where
    return found


def _shortest(readings, share):
    """Length of the shortest interval that holds a share of the readings, of every channel."""
    count = math.ceil(share * len(readings))
    ordered = np.sort(readings, axis=0)
    return np.min([ordered[i + count - 1] - ordered[i] for i in range(len(ordered) - count + 1)], axis=0)
