"""How one layer was measured, and what was found in it: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.padding import SIDES
from pan_callbacks.reports._fields import maybe, number, one_of, pair, record, row, several, shown, text, whole
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
        "kernel_size": pair(whole(1)),
        "stride": pair(whole(1)),
        "reference": maybe(one_of(*REFERENCES)),
        "reason": maybe(text),
        "skipped": maybe(text),
        "output_size": maybe(pair(whole())),
        "leftover": maybe(pair(whole())),
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


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured in one convolution layer.

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
        pad: Name of the pad module that feeds the layer, None if it pads itself.
    """

    channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    reference: str | None = None
    reason: str | None = None
    skipped: str | None = None
    output_size: tuple[int, int] | None = None
    leftover: tuple[int, int] | None = None
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
        for key in ("contrast", "effect"):
            rows = values[key]
            if rows is not None:
                if len(rows) != len(SIDES) or any(len(one) != channels for one in rows):
                    raise ValueError(
                        f"{where}: {key} of {shown(name)} is not (8 sides, channels), which are {channels}"
                    )
                values[key] = torch.tensor(rows, dtype=torch.float32)
        if values["mean"] is not None:
            if len(values["mean"]) != channels:
                raise ValueError(f"{where}: mean of {shown(name)} is not (channels,), which are {channels}")
            values["mean"] = torch.tensor(values["mean"], dtype=torch.float32)
        return cls(**values)
