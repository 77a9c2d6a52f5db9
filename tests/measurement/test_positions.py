"""Which positions are read: all while they fit, and else a few that go evenly over all of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pan_callbacks.measurement.positions import (
    LEAST_POSITIONS,
    LEAST_ROWS,
    MEMORY,
    MEMORY_OF_A_NEURON,
    SHARED,
    Keep,
    Places,
    chosen,
    read,
)
from pan_callbacks.padding import Axis, Geometry

SQUARE = Geometry(Axis(12, 3, before=1, after=1), Axis(9, 3, before=1, after=1))
CUBE = Geometry(*(Axis(n, 3, before=1, after=1) for n in (5, 6, 7)))


def sliced(output: torch.Tensor, position: tuple[slice, ...]) -> torch.Tensor:
    """What slicing the map gives, (images, positions, channels)."""
    return output[(slice(None), slice(None), *position)].flatten(2).transpose(1, 2)


def laid_out(x: torch.Tensor, how: str) -> torch.Tensor:
    if how == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    if how == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return torch.cat([x, x], 1)[:, : x.shape[1]] if how == "part of a larger one" else x


@pytest.mark.parametrize("how", ["contiguous", "channels_last", "transposed", "part of a larger one"])
@pytest.mark.parametrize("geometry", [SQUARE, CUBE])
def test_all_positions_are_what_slicing_gives_however_the_map_lies_in_memory(geometry, how):
    output = laid_out(torch.randn(3, 4, *geometry.output_size), how)
    places = Places.of(geometry.borders)
    layout = places.layout(Keep(1000, 10**6))
    assert [n for _, slots, n in layout if slots == n] == [n for *_, n in layout]
    rows = read(
        output,
        places.at(torch.arange(3), layout),
    )
    parts = torch.split(rows, [slots for _, slots, _ in layout], 1)
    for (side, *_), part in zip(layout, parts, strict=True):
        assert torch.equal(part, sliced(output, geometry.borders[side])), side


@pytest.mark.parametrize("positions", [1, 2, 3, 5])
def test_a_few_positions_lie_apart_and_go_evenly_over_all(positions):
    n, images = 10, 1000
    which = chosen((("top", positions, n), ("left", 1, 1)), torch.arange(images))
    top, corner = which[:, :positions], which[:, positions:]
    assert bool((corner == n).all()) and int(top.min()) == 0 and int(top.max()) == n - 1
    assert bool((top.diff(dim=1) >= n // positions).all())  # one in each part
    counts = Counter(top.flatten().tolist())
    expected = images * positions / n
    assert all(abs(count - expected) <= 0.02 * images for count in counts.values()), counts


def test_what_is_read_of_an_image_depends_on_its_number_alone():
    layout = (("top", 2, 17), ("top-left", 1, 1))
    whole = chosen(layout, torch.arange(40))
    for part in range(3):
        assert torch.equal(chosen(layout, torch.arange(40)[part::3]), whole[part::3])


def test_in_every_sixteenth_image_all_positions_have_their_turn():
    """Groups are dealt out by the number of an image, too, and none may see one part of an edge alone."""
    for first in range(16):
        which = chosen((("top", 1, 8),), torch.arange(first, 4000, 16)).flatten()
        counts = torch.bincount(which, minlength=8)
        assert int(counts.min()) > 0.8 * 250 / 8, (first, counts)


@pytest.mark.parametrize("neurons", [1, 176, 3776, 20_000])
@pytest.mark.parametrize("images", [1, 16, 64, 256, 10_000])
def test_what_is_kept_fits_into_memory_unless_too_little_would_be_known(neurons, images):
    keep = Keep.of(neurons, images)
    large = Geometry(*(Axis(500, 3, before=1, after=1),) * 2)
    layout = Places.of({**large.borders, "interior": (slice(0, 2),) * 2}).layout(keep)
    rows = min(images, keep.rows(layout))
    size = 2 * rows * sum(slots for _, slots, _ in layout) * neurons * keep.dtype.itemsize
    least = rows * keep.positions <= LEAST_ROWS
    assert size <= max(MEMORY, neurons * MEMORY_OF_A_NEURON) or least
    assert keep.positions >= LEAST_POSITIONS or keep.dtype is torch.float16


def test_the_shared_reference_is_read_at_more_positions_than_an_edge():
    places = Places.of({SHARED: (slice(2, 10), slice(2, 10))})
    ((side, slots, n),) = places.layout(Keep(3, 1000))
    assert (side, slots, n) == (SHARED, 6, 64)
