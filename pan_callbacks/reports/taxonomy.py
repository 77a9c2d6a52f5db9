"""Of which types the padding aware neurons of a report are."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pan_callbacks.padding import ALL_EDGES
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import PAN


class PANType(NamedTuple):
    """What kind of neuron a PAN is.

    Args:
        side: An edge or a corner, ``"several edges"`` or ``"several corners"``; see :func:`place_of`.
        sign: ``"excited"`` or ``"inhibited"`` on all of its sides, else ``"mixed"``.
        origin: ``"nascent"``, ``"inherited"``, ``"both"`` or ``"neither"``, see :class:`PAN`.
        depth: ``"early"``, ``"middle"`` or ``"late"``: third of the measured layers that it lies in.
        kernel: Kernel size of its layer, rows×columns.
        stride: Stride of its layer; one number if rows and columns have the same.
    """

    side: str
    sign: str
    origin: str
    depth: str
    kernel: str
    stride: str


def type_of(pan: PAN, report: PANReport) -> PANType:
    """Return the type of a PAN.

    Args:
        pan: One of the report's PANs.
        report: The report.
    """
    layers = list(report.measured)
    third = 3 * layers.index(pan.layer) // len(layers)
    layer = report.layers[pan.layer]
    stride = layer.stride[:1] if len(set(layer.stride)) == 1 else layer.stride
    return PANType(
        place_of(pan),
        pan.sign,
        pan.origin,
        ("early", "middle", "late")[third],
        "×".join(map(str, layer.kernel_size)),
        "×".join(map(str, stride)),
    )


def place_of(pan: PAN) -> str:
    """Return the one edge or corner that a neuron knows, or that there are several.

    Example:
        >>> place_of(PAN("conv", 0, frozenset({"left", "top-right"}), {}, {}, "nascent"))
        'left'
    """
    if len(pan.side) == 1:
        return pan.side[0]
    return "several edges" if pan.side[0] in ALL_EDGES else "several corners"


def cross_table(report: PANReport) -> Counter[PANType]:
    """Return the number of PANs of every type that there is.

    Example:
        >>> from pan_callbacks import LayerReport
        >>> import torch
        >>> contrast = torch.full((8, 2), torch.nan)
        >>> contrast[0] = torch.tensor([0.9, -1.0])
        >>> report = PANReport({"conv1": LayerReport(2, (3, 3), contrast=contrast)})
        >>> [(kind.side, kind.sign, count) for kind, count in cross_table(report).items()]
        [('top', 'excited', 1), ('top', 'inhibited', 1)]
    """
    return Counter(type_of(pan, report) for pan in report.pans)


def counts(report: PANReport, by: str) -> dict[str, int]:
    """Return the number of PANs by one property of their type, the largest first.

    Args:
        report: The report.
        by: A field of :class:`PANType`.

    Raises:
        ValueError: If there is no such field.
    """
    if by not in PANType._fields:
        raise ValueError(f"by={by!r} is no property of a type; choose one of {', '.join(PANType._fields)}")
    found: Counter[str] = Counter()
    for kind, count in cross_table(report).items():
        found[getattr(kind, by)] += count
    return dict(found.most_common())
