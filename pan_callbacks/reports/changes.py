"""Which neurons differ between two reports on the same layers, by more than their intervals allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pan_callbacks.reports._json import finite
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.tables import Table

Kind = Literal["came", "went", "changed"]


@dataclass(frozen=True)
class Change:
    """A neuron that differs, on the side where it is a PAN, or on that where it changed most.

    Args:
        layer: Name of its convolution.
        channel: Output channel of that convolution.
        kind: ``"came"``: surely no PAN before, and surely one after; ``"went"``: the other way round; ``"changed"``: a
            PAN in both, with intervals of the contrast that do not meet.
        side: The side.
        before: Contrast on it in the first report.
        after: In the second.
        width_before: Half the width of its 95 % interval in the first report.
        width_after: In the second.
    """

    layer: str
    channel: int
    kind: Kind
    side: str
    before: float
    after: float
    width_before: float
    width_after: float


@dataclass(frozen=True)
class Changes:
    """How the neurons of one report differ from those of another.

    Args:
        neurons: Every neuron that surely differs, in the model's order.
        unsure: Neurons that are PANs in one of the reports alone, within their intervals.
        compared: Neurons that both reports measured.
        apart: Layers that only one of them has, or with another number of channels.
    """

    neurons: tuple[Change, ...]
    unsure: int
    compared: int
    apart: tuple[str, ...] = ()

    def of(self, kind: Kind) -> tuple[Change, ...]:
        """Return the neurons that came, went, or changed."""
        return tuple(one for one in self.neurons if one.kind == kind)

    def summary(self) -> str:
        """Return how many of what, in a sentence."""
        if not self.compared:
            return "no layer is in both: neurons cannot be compared"
        came, went, changed = (len(self.of(kind)) for kind in ("came", "went", "changed"))
        sure = f"{came} PANs came, {went} went, {changed} changed beyond their intervals"
        more = f"; {self.unsure} are PANs in one of the two alone, within their intervals" if self.unsure else ""
        apart = f"; {len(self.apart)} layers are not in both" if self.apart else ""
        return f"{sure}{more}{apart}"

    def table(self) -> Table:
        """Return a row for each neuron that differs: those that came first, then those that went."""
        rows = [
            (kind, one.layer, one.channel, one.side, *_with_width(one))
            for kind in ("came", "went", "changed")
            for one in self.of(kind)
        ]
        head = ("", "layer", "channel", "side", "contrast before", "after")
        return Table.of(head, rows, numbers=("channel", *head[4:]))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, numbers and strings only."""
        found: dict[str, Any] = {"compared": self.compared, "unsure": self.unsure, "apart": list(self.apart)}
        for kind in ("came", "went", "changed"):
            found[kind] = [{k: v for k, v in asdict(one).items() if k != "kind"} for one in self.of(kind)]
        plain: dict[str, Any] = finite(found)
        return plain


def _with_width(change: Change) -> tuple[str, str]:
    return (
        f"{change.before:+.2f} ± {change.width_before:.2f}",
        f"{change.after:+.2f} ± {change.width_after:.2f}",
    )


def changes_between(before: PANReport, after: PANReport) -> Changes:
    """Return which neurons differ between two reports, each judged at its own threshold.

    The images may be others, so the whole 95 % interval of a contrast counts. A neuron came if all of it makes no PAN
    before, and all of it makes one after: two such intervals seldom err together, so that of many neurons few are named
    by chance.

    Args:
        before: The first report.
        after: The second, of a network with the same layers.
    """
    names = [name for name in before.margins if name in after.margins]
    shared = [name for name in names if before.layers[name].channels == after.layers[name].channels]
    apart = [name for name in {**before.margins, **after.margins} if name not in shared]
    found: list[Change] = []
    unsure = 0
    for name in shared:
        sure = list(_of_layer(name, before, after))
        one_alone = (before.margins[name] >= 0) ^ (after.margins[name] >= 0)
        unsure += int(one_alone.sum()) - sum(one.kind != "changed" and bool(one_alone[one.channel]) for one in sure)
        found += sure
    return Changes(tuple(found), unsure, sum(before.layers[name].channels for name in shared), tuple(apart))


def _of_layer(name: str, before: PANReport, after: PANReport) -> Iterator[Change]:
    reports = (before, after)
    contrasts = torch.stack([report.contrast(name) for report in reports])  # (2, sides, channels)
    widths = torch.stack([_width(report.layers[name], len(report.sides)) for report in reports])
    (low_before, high_before), (low_after, high_after) = (
        report.layers[name].margins(report.threshold, report.layers[name].half_width) for report in reports
    )
    came, went = (high_before < 0) & (low_after >= 0), (low_before >= 0) & (high_after < 0)
    hits = torch.stack([report.hits(name) for report in reports])
    in_both = hits.any(1).all(0)
    apart = (contrasts[1] - contrasts[0]).abs() - widths.sum(0)  # above 0: the intervals do not meet
    apart = torch.where(hits.any(0), apart, torch.nan).nan_to_num(-1.0)
    changed = in_both & (apart.amax(0) > 0) & ~came & ~went
    size = torch.where(hits, contrasts.abs(), -1.0)
    for channel in torch.nonzero(came | went | changed)[:, 0].tolist():
        if changed[channel]:
            kind: Kind = "changed"
            side = int(apart[:, channel].argmax())
        else:
            kind = "came" if came[channel] else "went"
            side = int(size[int(kind == "came"), :, channel].argmax())
        first, second = contrasts[:, side, channel].tolist()
        yield Change(name, channel, kind, before.sides[side], first, second, *widths[:, side, channel].tolist())


def _width(line: LayerReport, sides: int) -> Tensor:
    """Half the width of the intervals (sides, channels), without an end where nobody knows."""
    known = line.half_width
    found = torch.full((sides, line.channels), torch.inf)
    if known is not None:
        found[: len(known)] = known.nan_to_num(torch.inf)
    return found
