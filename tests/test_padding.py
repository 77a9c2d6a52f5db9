"""Which outputs read padding, and what it does to them: against brute force, torch's own padding, numpy and timm."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from timm.layers import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import nn

from pan_callbacks.layers import PaddedLayer, lifted, unlifted
from pan_callbacks.measurement.effect import mean_padding_effects, padding_effect
from pan_callbacks.padding import EDGES, SIDES, Axis, Geometry, neutral_pad, same_padding, source

MEETING = {side: frozenset(side.split("-")) for side in SIDES}


def cases(examples: int):
    """Random cases that are the same in every run."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


def _axes(widest_pad: Callable[[int], int]) -> list[Axis]:
    """Every axis of these sizes that has an output, the small ones first."""
    shapes = product(range(1, 15), range(1, 8), range(1, 5), range(1, 4))
    return [
        Axis(size, kernel, stride, dilation, before, after)
        for size, kernel, stride, dilation in shapes
        for before, after in product(range(widest_pad(size) + 1), repeat=2)
        if size + before + after > dilation * (kernel - 1)
    ]


AXES = _axes(lambda size: 6)
# one draw for a whole axis: drawing its six numbers one by one takes several times as long
axes = st.sampled_from(AXES)
axes_that_reflect = st.sampled_from(_axes(lambda size: min(4, size - 1)))


def windows(axis: Axis, first: str, last: str) -> list[set[str]]:
    """The ends whose padding each output reads, by walking along the padded axis."""
    line = [first] * axis.before + ["inside"] * axis.size + [last] * axis.after
    found, start = [], 0
    while start + (axis.kernel - 1) * axis.dilation < len(line):
        found.append({line[start + tap * axis.dilation] for tap in range(axis.kernel)} - {"inside"})
        start += axis.stride
    return found


def readers(geometry: Geometry) -> dict[tuple[int, int], frozenset[str]]:
    """The edges whose padding every output position reads."""
    rows, cols = windows(geometry.rows, "top", "bottom"), windows(geometry.cols, "left", "right")
    return {(i, j): frozenset(rows[i] | cols[j]) for i, j in product(range(len(rows)), range(len(cols)))}


def outermost(side: str, geometry: Geometry) -> set[tuple[int, int]]:
    """Positions of the outermost lines of a side, whatever they read."""
    height, width = len(windows(geometry.rows, "", "")), len(windows(geometry.cols, "", ""))
    lines = {
        "top": lambda i, j: i == 0,
        "bottom": lambda i, j: i == height - 1,
        "left": lambda i, j: j == 0,
        "right": lambda i, j: j == width - 1,
    }
    return {(i, j) for i in range(height) for j in range(width) if all(lines[edge](i, j) for edge in MEETING[side])}


def expected_border(side: str, geometry: Geometry) -> set[tuple[int, int]]:
    """What is outermost on a side and reads the padding of that side (for a corner, of both) and of no other."""
    reads = readers(geometry)
    return {position for position in outermost(side, geometry) if reads[position] == MEETING[side]}


def padded_zeros(rows: Axis, cols: Axis) -> torch.Tensor:
    """Room for an input and its padding; float64, for which torch builds no kernel anew for every shape."""
    height, width = (axis.before + axis.size + axis.after for axis in (rows, cols))
    return torch.zeros(1, 1, height, width, dtype=torch.float64)


def positions(where: tuple[slice, slice] | None) -> set[tuple[int, int]]:
    return set() if where is None else set(product(*(range(part.start, part.stop) for part in where)))


def mask_positions(mask: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(position) for position in mask.nonzero().tolist()}


# ---- which outputs read it


@cases(400)
@given(axes, axes)
def test_output_size_is_that_of_the_convolution(rows, cols):
    padded = padded_zeros(rows, cols)
    kernel = torch.ones(1, 1, rows.kernel, cols.kernel, dtype=torch.float64)
    out = F.conv2d(padded, kernel, stride=(rows.stride, cols.stride), dilation=(rows.dilation, cols.dilation))
    assert Geometry(rows, cols).output_size == tuple(out.shape[-2:])


@cases(500)
@given(axes, axes)
def test_an_output_reads_the_padding_of_an_edge_where_a_convolution_of_that_padding_alone_is_not_zero(rows, cols):
    geometry = Geometry(rows, cols)
    kernel = torch.ones(1, 1, rows.kernel, cols.kernel, dtype=torch.float64)
    for edge in EDGES:
        padded = padded_zeros(rows, cols)
        {
            "top": padded[..., : rows.before, :],
            "bottom": padded[..., rows.before + rows.size :, :],
            "left": padded[..., : cols.before],
            "right": padded[..., cols.before + cols.size :],
        }[edge].fill_(1)
        out = F.conv2d(padded, kernel, stride=(rows.stride, cols.stride), dilation=(rows.dilation, cols.dilation))
        assert torch.equal(geometry.reads(edge), out[0, 0] > 0), edge


@cases(350)
@given(axes, axes)
def test_the_border_of_an_edge_is_its_outermost_line_less_what_reads_a_second_edge(rows, cols):
    geometry = Geometry(rows, cols)
    for side in EDGES:
        assert positions(geometry.border(side)) == expected_border(side, geometry), side


@cases(350)
@given(axes, axes)
def test_the_border_of_a_corner_is_the_position_where_two_outermost_lines_meet_and_both_paddings_are_read(rows, cols):
    geometry = Geometry(rows, cols)
    for side in SIDES[4:]:
        assert positions(geometry.border(side)) == expected_border(side, geometry), side


@cases(200)
@given(axes, axes)
def test_a_side_without_positions_has_no_border(rows, cols):
    geometry = Geometry(rows, cols)
    for side in SIDES:
        assert (geometry.border(side) is None) == (not expected_border(side, geometry)), side


@cases(350)
@given(axes, axes)
def test_clean_positions_are_all_that_read_no_padding(rows, cols):
    geometry = Geometry(rows, cols)
    assert positions(geometry.clean) == {where for where, edges in readers(geometry).items() if not edges}


@cases(300)
@given(axes)
def test_no_position_belongs_to_two_borders(axis):
    geometry = Geometry(axis, axis)
    found = [position for side in SIDES for position in positions(geometry.border(side))]
    assert len(found) == len(set(found))


def test_leftover_is_what_lies_behind_the_last_window_on_every_axis():
    for axis in AXES:
        length = axis.before + axis.size + axis.after
        last_start = max(range(0, length - axis.dilation * (axis.kernel - 1), axis.stride))
        assert axis.leftover == length - len(range(last_start + axis.dilation * (axis.kernel - 1) + 1)), axis


def test_taps_are_the_coordinates_that_a_sliding_window_shows():
    for axis in AXES[::23]:
        coordinates = np.arange(-axis.before, axis.size + axis.after)
        width = axis.dilation * (axis.kernel - 1) + 1
        shown = sliding_window_view(coordinates, width)[:: axis.stride, :: axis.dilation]
        assert [axis.taps(output).tolist() for output in range(axis.outputs)] == shown.tolist(), axis


def test_leading_and_trailing_outputs_are_those_that_read_padding_on_every_axis():
    for axis in AXES:
        ends = windows(axis, "before", "after")
        counted = sum("before" in end for end in ends), sum("after" in end for end in ends)
        assert (axis.leading, axis.trailing) == counted, axis


@pytest.mark.parametrize("side", SIDES)
def test_an_input_smaller_than_the_window_has_no_border(side):
    tiny = Geometry(Axis(size=2, kernel=7, before=1, after=1), Axis(size=2, kernel=7, before=1, after=1))
    assert tiny.output_size == (0, 0) and tiny.border(side) is None


@pytest.mark.parametrize("size", range(1, 15))
def test_far_padding_that_a_stride_never_reaches_has_no_border(size):
    axis = Axis(size, kernel=3, stride=2, before=1, after=1)
    geometry = Geometry(axis, Axis(9, 3, before=1, after=1))
    reached = any("bottom" in ends for ends in windows(axis, "top", "bottom"))
    assert bool(geometry.reads("bottom").any()) == reached


# ---- modules as they are


def reads_any(geometry: Geometry) -> torch.Tensor:
    return torch.stack([geometry.reads(edge) for edge in EDGES]).any(0)


def below_full_sum(conv: nn.Conv2d, height: int, width: int) -> torch.Tensor:
    """Where a convolution of ones with ones misses taps, so that it read zeros of its own."""
    nn.init.ones_(conv.weight)
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    with torch.no_grad():
        return conv.double()(torch.ones(1, 1, height, width, dtype=torch.float64))[0, 0] < taps


def pairs_of(low: int, high: int):
    return st.sampled_from(list(product(range(low, high + 1), repeat=2)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@cases(350)
@given(kernel=pairs_of(1, 7), dilation=pairs_of(1, 3), size=pairs_of(1, 14))
def test_geometry_of_torch_same_padding_is_what_the_module_does(kernel, dilation, size):
    conv = nn.Conv2d(1, 1, kernel, padding="same", dilation=dilation, bias=False)
    assert torch.equal(reads_any(PaddedLayer(conv).geometry(*size)), below_full_sum(conv, *size))


@cases(400)
@given(kernel=pairs_of(1, 7), stride=pairs_of(1, 4), dilation=pairs_of(1, 3), size=pairs_of(1, 14))
def test_geometry_of_timm_same_padding_is_what_the_module_does(kernel, stride, dilation, size):
    conv = Conv2dSame(1, 1, kernel, stride=stride, dilation=dilation, bias=False)
    assert torch.equal(reads_any(PaddedLayer(conv).geometry(*size)), below_full_sum(conv, *size))


@cases(350)
@given(kernel=pairs_of(1, 7), stride=pairs_of(1, 4), dilation=pairs_of(1, 3), pad=pairs_of(0, 6), size=pairs_of(1, 14))
def test_geometry_of_a_plain_convolution_is_what_the_module_does(kernel, stride, dilation, pad, size):
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, pad, dilation, kernel, strict=True)))
    conv = nn.Conv2d(1, 1, kernel, stride=stride, dilation=dilation, padding=pad, bias=False)
    assert torch.equal(reads_any(PaddedLayer(conv).geometry(*size)), below_full_sum(conv, *size))


SAME = list(product([*range(1, 40), 223, 224, 225, 299], range(1, 8), range(1, 5), range(1, 4)))


def test_same_padding_adds_as_much_as_timm():
    for case in SAME:
        assert sum(same_padding(*case)) == get_same_padding(*case), case


def test_same_padding_puts_the_odd_value_after():
    for case in SAME:
        before, after = same_padding(*case)
        assert after - before in (0, 1), case


# ---- where values come from


@pytest.mark.parametrize("mode, numpy_mode", [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize("size", range(1, 8))
def test_source_follows_numpy(mode, numpy_mode, size):
    widest = size - 1 if mode == "reflect" else size
    expected = np.pad(np.arange(size), widest, mode=numpy_mode)
    assert source(torch.arange(-widest, size + widest), size, mode).tolist() == expected.tolist()


@pytest.mark.parametrize("size", range(2, 8))
def test_neutral_source_reflects_where_the_map_is_large_enough(size):
    expected = np.pad(np.arange(size), size - 1, mode="reflect")
    assert source(torch.arange(1 - size, 2 * size - 1), size, "neutral").tolist() == expected.tolist()


def test_neutral_source_replicates_on_a_map_of_one_pixel():
    assert source(torch.arange(-3, 4), 1, "neutral").tolist() == [0] * 7


@cases(400)
@given(st.integers(1, 9), st.sampled_from(["neutral", "replicate", "circular"]), st.integers(-30, 30))
def test_source_lies_inside_and_leaves_what_is_inside(size, mode, coordinate):
    found = int(source(torch.tensor([coordinate]), size, mode))
    assert 0 <= found < size and (found == coordinate or not 0 <= coordinate < size)


# ---- padding effect

PADS = {
    "zeros": nn.ZeroPad2d,
    "constant": lambda padding: nn.ConstantPad2d(padding, 1.75),
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "circular": nn.CircularPad2d,
}


def neutrally_padded(x: torch.Tensor, rows: Axis, cols: Axis) -> torch.Tensor:
    """Mirrored at the edge by numpy, which repeats the one value of an axis of length 1."""
    width = ((0, 0), (0, 0), (rows.before, rows.after), (cols.before, cols.after))
    return torch.from_numpy(np.pad(x.numpy(), width, mode="reflect"))


def effect_of(layer: PaddedLayer, x: torch.Tensor, side: str) -> torch.Tensor | None:
    geometry = layer.geometry(*x.shape[-2:])
    options = {"mode": layer.mode, "value": layer.value, "groups": layer.module.groups}
    return padding_effect(x, layer.module.weight, geometry, side, **options)


@torch.no_grad()
def check_effect(rows: Axis, cols: Axis, mode: str, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pad = PADS[mode]((cols.before, cols.after, rows.before, rows.after))
    kernel, stride, dilation = zip(*((a.kernel, a.stride, a.dilation) for a in (rows, cols)), strict=True)
    conv = nn.Conv2d(4, 4, kernel, stride=stride, dilation=dilation, groups=groups).double()
    conv.weight.normal_(generator=generator)
    x = torch.randn(2, 4, rows.size, cols.size, generator=generator, dtype=torch.float64)
    difference = conv(pad(x)) - conv(neutrally_padded(x, rows, cols))
    layer = PaddedLayer(conv, pad)
    for side in SIDES:
        where = expected_border(side, Geometry(rows, cols))
        found = effect_of(layer, x, side)
        if not where:
            assert found is None, side
            continue
        lines = [sorted({position[axis] for position in where}) for axis in (0, 1)]
        expected = difference[:, :, lines[0]][:, :, :, lines[1]]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=lambda text, s=side: f"{s}: {text}")


@pytest.mark.parametrize("mode", PADS)
def test_padding_effect_is_the_output_less_the_output_with_neutral_padding(mode):
    @cases(180)
    @given(
        axes_that_reflect,
        axes_that_reflect,
        st.sampled_from([1, 2, 4]),
        st.integers(0, 2**20),
    )
    def check(rows, cols, groups, seed):
        check_effect(rows, cols, mode, groups, seed)

    check()


@pytest.mark.parametrize("mode", ["zeros", "constant", "replicate"])
@pytest.mark.parametrize("height, width", [(1, 5), (5, 1), (1, 1)])
def test_padding_effect_on_a_map_of_one_pixel_is_against_replicated_padding(mode, height, width):
    rows = Axis(height, kernel=2, before=1, after=0)
    cols = Axis(width, kernel=2, before=0, after=1)
    check_effect(rows, cols, mode, groups=1, seed=height + 10 * width)


@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_reflect_padding_has_no_effect_at_all(side):
    conv = nn.Conv2d(3, 5, 5, padding=2, padding_mode="reflect")
    effect = effect_of(PaddedLayer(conv), torch.randn(2, 3, 9, 9), side)
    assert torch.equal(effect, torch.zeros_like(effect))


@pytest.mark.parametrize("padding_mode", ["zeros", "replicate", "circular"])
@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_padding_effect_of_a_convolution_that_pads_itself(side, padding_mode):
    conv = nn.Conv2d(3, 5, 3, padding=1, padding_mode=padding_mode).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    neutral = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias)
    inner = slice(1, -1)
    rows = slice(0, 1) if "top" in side else slice(5, 6) if "bottom" in side else inner
    cols = slice(0, 1) if "left" in side else slice(6, 7) if "right" in side else inner
    torch.testing.assert_close(effect_of(PaddedLayer(conv), x, side), (conv(x) - neutral)[:, :, rows, cols])


@pytest.mark.parametrize("side", ["bottom", "right", "bottom-right"])
@torch.no_grad()
def test_padding_effect_of_timm_same_padding(side):
    conv = Conv2dSame(3, 5, 3, stride=2).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    neutral = F.conv2d(F.pad(x, (0, 1, 0, 1), mode="reflect"), conv.weight, conv.bias, stride=2)
    rows, cols = (slice(3, 4) if edge in side else slice(0, 3) for edge in ("bottom", "right"))
    torch.testing.assert_close(effect_of(PaddedLayer(conv), x, side), (conv(x) - neutral)[:, :, rows, cols])


@torch.no_grad()
def test_a_constant_that_equals_the_image_has_no_effect():
    layer = PaddedLayer(nn.Conv2d(2, 3, 3), nn.ConstantPad2d(1, 4.0))
    effects = [effect_of(layer, torch.full((1, 2, 6, 6), 4.0), side) for side in SIDES]
    assert all(torch.equal(effect, torch.zeros_like(effect)) for effect in effects)


@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_padding_effect_leaves_out_the_bias(side):
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 6, 6)
    before = effect_of(PaddedLayer(conv), x, side)
    conv.bias.add_(100)
    assert torch.equal(effect_of(PaddedLayer(conv), x, side), before)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride, dilation, pads", [(1, 1, (1, 1)), (2, 1, (1, 1)), (1, 2, (2, 3)), (3, 1, (2, 0))])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_mean_effects_of_all_sides_are_the_means_of_the_effects_of_each(groups, stride, dilation, pads, value):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 4, 11, 13).double(), torch.randn(8, 4 // groups, 3, 3).double()
    geometry = Geometry(Axis(11, 3, stride, dilation, *pads), Axis(13, 3, stride, dilation, *pads[::-1]))
    effects = (padding_effect(x, weight, geometry, side, value=value, groups=groups) for side in SIDES)
    expected = torch.stack([effect.mean((0, 2, 3)) for effect in effects if effect is not None])
    found = mean_padding_effects(x.mean(0, keepdim=True), weight, geometry, value=value, groups=groups)
    torch.testing.assert_close(found, expected)


# ---- in one dimension and in three

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIDES_OF = {1: ("left", "right"), 2: EDGES, 3: ("front", "back", *EDGES)}
AXIS_OF = {"front": (-3, 0), "back": (-3, -1), "top": (-2, 0), "bottom": (-2, -1), "left": (-1, 0), "right": (-1, -1)}


def in_dimensions(dims: int, stride: int, dilation: int, groups: int, mode: str = "zeros") -> tuple:
    """A convolution with another padding on each axis, and an input of another size on each."""
    generator = torch.Generator().manual_seed(dims)
    padding = (1, 2, 1)[-dims:]
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding_mode": mode}
    conv = KINDS[dims](4, 8, 3, padding=padding, **options).double().requires_grad_(False)
    conv.weight.normal_(generator=generator)
    return conv, torch.randn(2, 4, *(7, 9, 8)[-dims:], generator=generator, dtype=torch.float64)


def reading(conv: nn.Module, x: torch.Tensor, edge: str) -> torch.Tensor:
    """Which outputs read the padding of one edge, seen in a convolution of ones: not finite there."""
    axis, end = AXIS_OF[edge]
    ones = KINDS[x.ndim - 2](1, 1, conv.kernel_size, conv.stride, 0, conv.dilation, bias=False).double()
    nn.init.ones_(ones.weight)
    padded = torch.ones(1, 1, *(n + 2 * p for n, p in zip(x.shape[2:], conv.padding, strict=True)), dtype=x.dtype)
    width = conv.padding[axis]
    padded.narrow(axis, 0 if end == 0 else padded.shape[axis] - width, width)[:] = torch.nan
    return ones(padded)[0, 0].isnan()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (3, 2)])
@torch.no_grad()
def test_borders_in_any_number_of_dimensions_are_what_reads_one_side_alone(dims, stride, dilation):
    conv, x = in_dimensions(dims, stride, dilation, 1)
    geometry = PaddedLayer(conv).geometry(*(1,) * (2 - dims), *x.shape[2:])
    read = {edge: reading(conv, x, edge) for edge in SIDES_OF[dims]}
    assert geometry.output_size[-dims:] == next(iter(read.values())).shape
    assert torch.equal(
        geometry.reads_padding().view(next(iter(read.values())).shape), torch.stack([*read.values()]).any(0)
    )
    for edge, own in read.items():
        axis, end = AXIS_OF[edge]
        assert torch.equal(geometry.reads(edge).view(own.shape), own)
        outermost = torch.zeros_like(own)
        outermost.select(axis, end).fill_(True)
        alone = own & outermost & ~torch.stack([other for name, other in read.items() if name != edge]).any(0)
        found, where = torch.zeros(geometry.output_size, dtype=torch.bool), geometry.border(edge)
        if where is not None:
            found[where] = True
        assert torch.equal(found.view(own.shape), alone), edge
    assert geometry.border("front" if dims < 3 else "top-left") is None
    assert set(geometry.borders) <= {*SIDES_OF[dims], *(SIDES if dims == 2 else ())}


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 2), (1, 2, 4), (2, 2, 1)])
@torch.no_grad()
def test_padding_effect_in_one_and_three_dimensions_is_the_output_less_that_with_neutral_padding(
    dims, stride, dilation, groups, mode
):
    conv, x = in_dimensions(dims, stride, dilation, groups, mode)
    layer = PaddedLayer(conv)
    width = ((0, 0), (0, 0), *((p, p) for p in conv.padding))
    neutral = torch.from_numpy(np.pad(x.numpy(), width, mode="reflect"))
    call = {1: F.conv1d, 3: F.conv3d}[dims]
    options = {"stride": conv.stride, "dilation": conv.dilation, "groups": groups}
    difference = lifted(conv, conv(x) - call(neutral, conv.weight, conv.bias, **options))
    x = lifted(conv, x)
    geometry, weight = layer.geometry(*x.shape[2:]), layer.weight(x)
    assert torch.equal(unlifted(conv, neutral_pad(x, geometry)), neutral)
    found = {
        edge: padding_effect(x, weight, geometry, edge, mode=layer.mode, groups=groups)
        for edge in SIDES_OF[dims]
        if geometry.border(edge)
    }
    assert found
    for edge, effect in found.items():
        torch.testing.assert_close(effect, difference[(slice(None), slice(None), *geometry.border(edge))], msg=edge)
    means = mean_padding_effects(x.mean(0, keepdim=True), weight, geometry, mode=layer.mode, groups=groups)
    in_order = [found[side] for side in geometry.sides if side in found]
    torch.testing.assert_close(means, torch.stack([effect.transpose(0, 1).flatten(1).mean(1) for effect in in_order]))
