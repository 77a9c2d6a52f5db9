"""Which outputs read padding, on axes larger and odder than any layer's: against a walk over the coordinates."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from pan_callbacks.measurement.effect import mean_padding_effects, padding_effect
from pan_callbacks.padding import EDGES, SIDES, Axis, Geometry, neutral_pad, same_padding, source
from tests.support.fuzzing import fuzzed

#: Size, kernel, stride, dilation, padding before and after: far beyond what a layer has, and often as small.
axes = st.builds(
    Axis,
    st.integers(1, 9) | st.integers(1, 70),
    st.integers(1, 5) | st.integers(1, 33),
    st.integers(1, 3) | st.integers(1, 17),
    st.integers(1, 2) | st.integers(1, 9),
    st.integers(0, 3) | st.integers(0, 40),
    st.integers(0, 3) | st.integers(0, 40),
)
#: Of the size of small maps, with an output; padding may be wider than the map.
small_axes = st.builds(
    Axis,
    st.integers(1, 14),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 3) | st.integers(0, 15),
    st.integers(0, 3) | st.integers(0, 15),
).filter(lambda axis: axis.outputs > 0)


def coordinates(axis: Axis) -> np.ndarray:
    """The input coordinates that every output reads, (outputs, taps)."""
    line, width = np.arange(-axis.before, axis.size + axis.after), axis.dilation * (axis.kernel - 1) + 1
    if len(line) < width:
        return np.empty((0, axis.kernel), int)
    return sliding_window_view(line, width)[:: axis.stride, :: axis.dilation]


def places(where: slice, outputs: int) -> list[int]:
    return list(range(outputs))[where]


@fuzzed(axes, examples=150)
def test_every_property_of_an_axis_is_that_of_its_coordinates(axis):
    taps = coordinates(axis)
    before, after = (taps < 0).any(1), (taps >= axis.size).any(1)
    outputs = len(taps)
    assert axis.outputs == outputs
    assert (axis.leading, axis.trailing) == (before.sum(), after.sum())
    clean = [i for i in range(outputs) if not before[i] and not after[i]]
    assert places(axis.clean, outputs) == clean
    assert [axis.taps(i).tolist() for i in range(outputs)] == taps.tolist()
    if outputs:
        assert axis.leftover == axis.size + axis.after - 1 - taps[-1, -1]
    first = [0] if outputs and before[0] and not after[0] else []
    last = [outputs - 1] if outputs and after[-1] and not before[-1] else []
    assert ([] if axis.first is None else places(axis.first, outputs)) == first
    assert ([] if axis.last is None else places(axis.last, outputs)) == last
    inner = places(axis.inner, outputs)
    half = [i for i in clean if outputs // 4 <= i < outputs - outputs // 4]
    assert len(inner) <= 8 and set(inner) <= set(half) and bool(inner) == bool(half)
    assert len(set(np.diff(inner))) <= 1
    assert outputs == 0 or places(axis.middle, outputs) == [i for i in range(outputs) if abs(2 * i - outputs + 1) <= 1]


@fuzzed(axes, axes, examples=100)
def test_masks_and_borders_are_those_of_the_coordinates(rows, cols):
    geometry = Geometry(rows, cols)
    down, across = coordinates(rows), coordinates(cols)
    shape = (len(down), len(across))
    lines = {
        "top": (down < 0).any(1)[:, None],
        "bottom": (down >= rows.size).any(1)[:, None],
        "left": (across < 0).any(1)[None],
        "right": (across >= cols.size).any(1)[None],
    }
    reads = {edge: np.broadcast_to(line, shape) for edge, line in lines.items()}
    for edge in EDGES:
        assert np.array_equal(geometry.reads(edge).numpy(), reads[edge]), edge
    assert np.array_equal(geometry.reads_padding().numpy(), np.any([*reads.values()], axis=0))
    outermost = {"top": (0, 0), "bottom": (0, -1), "left": (1, 0), "right": (1, -1)}
    for side in SIDES:
        expected = np.full(shape, bool(shape[0] and shape[1]))
        for edge in EDGES:  # reads these edges and no other
            expected &= reads[edge] if edge in side.split("-") else ~reads[edge]
        for edge in side.split("-"):  # and lies outermost
            axis, place = outermost[edge]
            index = np.arange(shape[axis]) == (place % shape[axis] if shape[axis] else 0)
            expected &= index[:, None] if axis == 0 else index[None]
        found = np.zeros(shape, bool)
        if geometry.border(side) is not None:
            found[geometry.border(side)] = True
        assert np.array_equal(found, expected), side


@fuzzed(small_axes, small_axes, st.sampled_from([1, 2]), st.sampled_from([0.0, 1.75]), st.integers(0, 99), examples=60)
def test_the_padding_effect_is_the_difference_of_two_convolutions(rows, cols, groups, value, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, rows.size, cols.size, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 2 // groups, rows.kernel, cols.kernel, generator=generator, dtype=torch.float64)
    geometry, width = Geometry(rows, cols), (cols.before, cols.after, rows.before, rows.after)
    neutral = x.numpy()
    for axis, place in ((rows, 2), (cols, 3)):  # numpy reflects again and again where torch would refuse to
        pads = [(axis.before, axis.after) if dim == place else (0, 0) for dim in range(4)]
        mode = "reflect" if max(axis.before, axis.after) < axis.size else "edge"
        neutral = np.pad(neutral, pads, mode=mode)
    assert torch.equal(neutral_pad(x, geometry), torch.from_numpy(neutral))
    options = {"stride": (rows.stride, cols.stride), "dilation": (rows.dilation, cols.dilation), "groups": groups}
    own = F.conv2d(F.pad(x, width, value=value), weight, **options)
    difference = own - F.conv2d(torch.from_numpy(neutral), weight, **options)
    means = []
    for side in SIDES:
        found, border = padding_effect(x, weight, geometry, side, value=value, groups=groups), geometry.border(side)
        assert (found is None) == (border is None)
        if found is not None:
            torch.testing.assert_close(found, difference[:, :, border[0], border[1]], rtol=1e-9, atol=1e-9)
            means.append(found.mean((0, 2, 3)))
    together = mean_padding_effects(x.mean(0, keepdim=True), weight, geometry, value=value, groups=groups)
    torch.testing.assert_close(together, torch.stack(means) if means else x.new_zeros(0, 4), rtol=1e-9, atol=1e-9)


@fuzzed(st.integers(1, 500), st.integers(1, 33), st.integers(1, 17), st.integers(1, 9), examples=100)
def test_same_padding_gives_as_many_outputs_as_it_promises_and_no_more_padding_than_that_takes(
    size, kernel, stride, dilation
):
    before, after = same_padding(size, kernel, stride, dilation)
    axis = Axis(size, kernel, stride, dilation, before, after)
    assert len(coordinates(axis)) == -(-size // stride) and after - before in (0, 1)
    if before + after:
        less = Axis(size, kernel, stride, dilation, before, after - 1)
        assert len(coordinates(less)) < len(coordinates(axis))


@fuzzed(st.integers(1, 30), st.integers(0, 80), st.integers(0, 80), examples=100)
def test_where_a_padding_takes_its_values_from_is_numpy_s_answer(size, before, after):
    line = torch.arange(-before, size + after)
    modes = {"replicate": "edge", "circular": "wrap"} | ({"reflect": "reflect"} if max(before, after) < size else {})
    for mode, theirs in modes.items():
        assert source(line, size, mode).tolist() == np.pad(np.arange(size), (before, after), mode=theirs).tolist()
    neutral = "reflect" if max(before, after) < size else "edge"
    assert source(line, size, "neutral").tolist() == np.pad(np.arange(size), (before, after), mode=neutral).tolist()


def test_axes_are_of_every_kind():
    """Padding that no window reaches, maps smaller than the kernel, outputs that read both ends: all of them occur."""
    kinds = set()
    for size, kernel, stride, before in product(range(1, 6), range(1, 8), range(1, 4), range(4)):
        taps = coordinates(Axis(size, kernel, stride, 1, before, 2))
        kinds.add("none" if not len(taps) else "both" if ((taps < 0).any(1) & (taps >= size).any(1)).any() else "one")
    assert kinds == {"none", "both", "one"}
