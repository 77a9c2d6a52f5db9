"""A line of a report: what a layer is, and what was found in it or why it was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from pan_callbacks.layers import Convolution, Reason, dimensions
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.measurement.tail import Tail
from pan_callbacks.padding import Geometry
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.words import Reference


@dataclass(frozen=True)
class HowMeasured:
    """How a layer is measured, as far as this process knows.

    Args:
        site: How its first measured call is, None if none is.
        geometry: Its geometry in the model's own forward, if it is a padded layer.
        skipped: Why it is not measured.
        pad: Name of the pad module that feeds it, None if it pads itself.
        tail: What follows it at that call, None if nobody knows.
    """

    site: SitePlan | None = None
    geometry: Geometry | None = None
    skipped: Reason | None = None
    pad: str | None = None
    tail: Tail | None = None


class Figures(TypedDict, total=False):
    """The fields of a line of the report that a layer has if it was measured."""

    reference: Reference | None
    reason: str | None
    images: int
    border_bias: float
    drift: float
    contrast: Tensor
    effect: Tensor
    mean: Tensor
    error: Tensor
    groups: tuple[int, ...]
    clusters: tuple[int, ...]
    draws: tuple[int, ...]
    shift: Tensor
    consistency: Tensor | None
    own: Tensor
    earlier: Tensor
    after: Tensor | None
    follows: tuple[str, ...]
    until: str


def line_of(conv: Convolution, how: HowMeasured, skipped: Reason | None, figures: Figures | None = None) -> LayerReport:
    """Return a line of the report: what a layer is, and what was found in it or why it was left out.

    Args:
        conv: The convolution.
        how: How it was measured.
        skipped: Why it was left out, None if it was measured.
        figures: What was found.
    """
    axes = () if how.geometry is None else how.geometry.axes[-dimensions(conv) :]
    return LayerReport(
        channels=conv.out_channels,
        kernel_size=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        skipped=skipped,
        output_size=tuple(axis.outputs for axis in axes) or None,
        leftover=tuple(axis.leftover for axis in axes) or None,
        pad=how.pad,
        **(figures or Figures()),
    )
