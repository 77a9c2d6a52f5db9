"""How one layer was measured, and what was found in it: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pan_callbacks.layers import Reason, Skip
from pan_callbacks.padding import SIDES
from pan_callbacks.reports._json import finite, with_nan

_TENSORS = {"contrast": (len(SIDES),), "effect": (len(SIDES),), "mean": ()}  # their sizes before the channels
_LATER = {"mean": None, "pad": None}  # not in reports of the first release
_PAIRS = ("kernel_size", "stride", "output_size", "leftover")


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What was measured in one convolution layer.

    Args:
        channels: Number of output channels, the neurons.
        kernel_size: Rows and columns of the kernel.
        stride: Stride along rows and columns.
        reference: The reference used: ``"crop"``, ``"zoom"``, ``"mirror"`` or ``"centre"``; None if skipped.
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
    def from_dict(cls, data: dict[str, Any]) -> LayerReport:
        """Make the line that :meth:`to_dict` described.

        Raises:
            ValueError: If a tensor has another shape than the layer's.
        """
        values = {item.name: {**_LATER, **data}[item.name] for item in fields(cls)}
        for key, sides in _TENSORS.items():
            if values[key] is not None:
                values[key] = torch.tensor(with_nan(values[key]), dtype=torch.float32)
                if values[key].shape != (*sides, data["channels"]):
                    wanted = "(8 sides, channels)" if sides else "(channels,)"
                    raise ValueError(f"a damaged PAN report: {key} of {data['name']} is not {wanted}")
        for key in _PAIRS:
            values[key] = None if values[key] is None else tuple(values[key])
        for key in ("border_bias", "drift"):
            values[key] = math.nan if values[key] is None else values[key]
        return cls(**values)
