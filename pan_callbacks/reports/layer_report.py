"""How one layer was measured, and what was found in it: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.padding import ALL_SIDES, SIDES
from pan_callbacks.reports._fields import few, maybe, number, one_of, record, row, several, shown, text, whole
from pan_callbacks.reports._json import finite

#: What a border may be compared with.
REFERENCES = ("crop", "zoom", "windows", "mirror", "centre")
#: Channels beyond which a file is no report, so that one of a few bytes cannot ask for all memory.
MOST_CHANNELS = 2**20
#: A line of a saved report.
_LINE = record(
    {
        "name": text,
        "channels": whole(0, MOST_CHANNELS),
        "kernel_size": few(whole(1)),
        "stride": few(whole(1)),
        "reference": maybe(one_of(*REFERENCES)),
        "reason": maybe(text),
        "skipped": maybe(text),
        "output_size": maybe(few(whole())),
        "leftover": maybe(few(whole())),
        "images": whole(),
        "border_bias": maybe(number(0), math.nan),
        "drift": maybe(number(0, 1), math.nan),
        "contrast": maybe(several(row(-1, 1))),
        "effect": maybe(several(row())),
        "mean": maybe(row()),
        "pad": maybe(text),
    },
    later={"mean": None, "pad": None},  # not in reports of the first release
)


def sides_in(dimensions: int) -> tuple[str, ...]:
    """Return the names of the sides of a layer in so many dimensions, those that one in two has at least."""
    return ALL_SIDES if dimensions == 3 else SIDES


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured in one convolution layer.

    A layer in one dimension has columns alone and the sides left and right; one in three has depth before the rows, and
    the sides front and back after the eight.

    Args:
        channels: Number of output channels, the neurons.
        kernel_size: Rows and columns of the kernel.
        stride: Stride along rows and columns.
        reference: The reference used: ``"crop"``, ``"zoom"``, ``"windows"``, ``"mirror"`` or ``"centre"``; None if
            skipped.
        reason: Why this reference and not the one that was asked for; None if it is the one.
        skipped: Why the layer was left out; None if it was measured.
        output_size: Height and width of the output map at the probed image size.
        leftover: Leftover padding along rows and columns at that size.
        images: Number of images behind the figures.
        border_bias: Mean over channels and sides of ``|mean(border) - mean(reference)| / std(reference)``.
        drift: Largest absolute contrast of interior positions, the control: what the view alone changes.
        contrast: Signed contrast (8 sides, channels), NaN if a side has no border.
        effect: Padding effect (8 sides, channels) in standard deviations of the reference, NaN likewise.
        mean: Mean reference activation (channels,).
        pad: Name of the pad module that feeds the layer, or the call of ``F.pad``; None if it pads itself.
    """

    channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    reference: str | None = None
    reason: str | None = None
    skipped: str | None = None
    output_size: tuple[int, ...] | None = None
    leftover: tuple[int, ...] | None = None
    images: int = 0
    border_bias: float = math.nan
    drift: float = math.nan
    contrast: Tensor | None = field(default=None, repr=False)
    effect: Tensor | None = field(default=None, repr=False)
    mean: Tensor | None = field(default=None, repr=False)
    pad: str | None = None

    @property
    def skip(self) -> Skip | None:
        """Kind of the reason in ``skipped``; None also in a report from a file, which holds the sentence alone."""
        return self.skipped.skip if isinstance(self.skipped, Reason) else None

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the rows of ``contrast`` and ``effect``."""
        return sides_in(len(self.kernel_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the line as a dict of lists, numbers and strings only."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in values.items()}
        return {key: finite(value) for key, value in plain.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "the line") -> LayerReport:
        """Make the line that :meth:`to_dict` described.

        Args:
            data: The description, with the layer's name.
            where: What to call it in errors.

        Raises:
            ValueError: If a field is missing or not what it should be, with its name and value.
        """
        values = _LINE(data, where)
        name, channels = values.pop("name"), values["channels"]
        if (values["contrast"] is None) != (values["skipped"] is not None):
            raise ValueError(
                f"{where}: layer {shown(name)} has to have either a contrast or, in 'skipped', a reason for none"
            )
        sizes = {len(values[key]) for key in ("kernel_size", "stride", "output_size", "leftover") if values[key]}
        if len(sizes) > 1:
            by_axis = "kernel_size, stride, output_size and leftover"
            raise ValueError(f"{where}: {by_axis} of {shown(name)} have not as many numbers each, one for each axis")
        sides = len(sides_in(*sizes))
        for key in ("contrast", "effect"):
            rows = values[key]
            if rows is not None:
                if len(rows) != sides or any(len(one) != channels for one in rows):
                    raise ValueError(
                        f"{where}: {key} of {shown(name)} is not ({sides} sides, channels), which are {channels}"
                    )
                values[key] = torch.tensor(rows, dtype=torch.float32)
        if values["mean"] is not None:
            if len(values["mean"]) != channels:
                raise ValueError(f"{where}: mean of {shown(name)} is not (channels,), which are {channels}")
            values["mean"] = torch.tensor(values["mean"], dtype=torch.float32)
        return cls(**values)
