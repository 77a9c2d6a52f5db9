"""What is kept and logged of one probe: plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from pan_callbacks.layers import Skip, named
from pan_callbacks.reports.pan_report import PANReport

_Total = Literal[
    "count",
    "count_low",
    "count_high",
    "fraction",
    "nascent",
    "inherited",
    "both",
    "neither",
    "visible",
    "readers",
    "reliance",
    "flips",
    "born",
    "gone",
]
#: Why a layer has no count in any epoch; for every other reason it may have one in another epoch.
_NEVER_COUNTED = {Skip.POINTWISE, Skip.NO_PADDING, Skip.PADDED_TWICE}


_Perhaps = Literal["count_low", "count_high", "visible", "readers", "reliance", "flips"]
#: Figures that an entry has only if they are known.
_PERHAPS: tuple[_Perhaps, ...] = ("count_low", "count_high", "visible", "readers", "reliance", "flips")
#: Tags of what is logged of any network, so that whoever watches one finds it, to the figures of an entry.
TOTALS: Mapping[str, _Total] = {
    "pan/count": "count",
    "pan/count_low": "count_low",
    "pan/count_high": "count_high",
    "pan/fraction": "fraction",
    "pan/nascent": "nascent",
    "pan/inherited": "inherited",
    "pan/both": "both",
    "pan/neither": "neither",
    "pan/visible": "visible",
    "pan/reads_padding": "readers",
    "padding/reliance": "reliance",
    "pan/born": "born",
    "pan/gone": "gone",
}


#: Tag of the share of images whose class changes without padding: logged of networks that answer with classes.
FLIPS = "padding/flips"


class _Figures(TypedDict):
    """What every entry has."""

    epoch: int
    step: int
    count: float
    fraction: float
    nascent: float
    inherited: float
    both: float
    neither: float
    born: int
    gone: int
    border_bias: float
    sides: dict[str, float]
    layers: dict[str, int]
    pans: dict[str, dict[int, float]]


class Entry(_Figures, total=False):
    """What is kept of one probe.

    Args:
        epoch: Epoch, -1 for the network before its first step.
        step: Optimizer step.
        count: PANs; NaN where layers are missing, and with it all else that adds up over layers.
        fraction: PANs per measured neuron.
        nascent: PANs that this layer's own padding makes.
        inherited: PANs that the padding of earlier layers makes.
        both: PANs that either makes.
        neither: PANs that neither makes.
        born: PANs that came since the entry before.
        gone: PANs that went since then.
        border_bias: Mean border bias over layers.
        sides: Side to PANs.
        layers: Measured layer to PANs.
        pans: Measured layer to channel to the signed contrast on the strongest side, for PANs.
        count_low: Lower end of the 95 % interval of the count; it and what follows are only there if they are known.
        count_high: Its upper end.
        visible: PANs that the next layer sees.
        readers: Neurons that read the padding, PANs or not.
        reliance: How far the answers move with all padding neutral, see
            :class:`~pan_callbacks.reports.reliance.Reliance`.
        flips: Share of the images whose class changes then; only there of answers that are classes.
        distance: How the answers were compared.
        missing: Layers that the count lacks though other epochs have them, see :func:`missing_layers`; only there if
            there are any.
    """

    count_low: float
    count_high: float
    visible: float
    readers: float
    reliance: float
    flips: float
    distance: str
    missing: list[str]


def missing_layers(report: PANReport, known: Iterable[str] = (), failed: bool = False) -> list[str]:
    """Return the layers that a report's count lacks, so that it cannot be compared with that of another epoch.

    Args:
        report: What was found.
        known: Layers that were measured in earlier epochs; one that is not now is missing, whatever the reason.
        failed: Whether the measurement ended early: then every layer is missing, for none has all of its images.

    Returns:
        Their names. A layer with NaN activations is missing in the first epoch already.
    """
    lines = report.layers
    if failed:
        missing = [name for name, line in lines.items() if line.skip not in _NEVER_COUNTED]
    else:
        missing = [name for name, line in lines.items() if line.skip is Skip.NOT_FINITE]
    return list(dict.fromkeys([*missing, *(name for name in known if failed or name not in report.measured)]))


def why_missing(report: PANReport, entry: Entry) -> str | None:
    """Return a sentence on what an entry's count lacks, None if that is nothing.

    Args:
        report: What was found.
        entry: Its entry.
    """
    missing = entry.get("missing")
    if not missing:
        return None
    first = missing[0]
    line = report.layers.get(first)
    why = "no longer in the model" if line is None else line.skipped or "the measurement ended early"
    return (
        f"the count of epoch {entry['epoch']} lacks {len(missing)} layer{'s' * (len(missing) > 1)} ({named(missing)}; "
        f"{first}: {why}), so it is logged as NaN: it cannot be compared with that of other epochs"
    )


def entry_of(
    report: PANReport, epoch: int, step: int, born: int = 0, gone: int = 0, missing: Iterable[str] | None = None
) -> Entry:
    """Return what is kept of a report.

    Args:
        report: What was found.
        epoch: Epoch, -1 for the network before its first step.
        step: Optimizer step.
        born: PANs that came since the entry before.
        gone: PANs that went since then.
        count_low: Lower end of the 95 % interval of the count; it and what follows are only there if they are known.
        count_high: Its upper end.
        visible: PANs that the next layer sees.
        readers: Neurons that read the padding, PANs or not.
        missing: Layers that the count lacks; None for those that the report alone tells.
    """
    origins = report.count_by("origin")
    pans: dict[str, dict[int, float]] = {name: {} for name in report.measured}
    for pan in report.pans:
        pans[pan.layer][pan.channel] = pan.strongest_contrast
    entry = Entry(
        epoch=epoch,
        step=step,
        count=report.count,
        fraction=report.fraction,
        nascent=origins["nascent"],
        inherited=origins["inherited"],
        both=origins["both"],
        neither=origins["neither"],
        born=born,
        gone=gone,
        border_bias=report.border_bias,
        sides=dict(report.count_by("side")),
        layers=report.count_by("layer"),
        pans=pans,
    )
    lacking = missing_layers(report) if missing is None else list(missing)
    if lacking:  # a lower count would be taken for a better one
        entry["missing"] = lacking
        entry["count"] = entry["fraction"] = entry["border_bias"] = math.nan
        entry["nascent"] = entry["inherited"] = entry["both"] = entry["neither"] = math.nan
        entry["sides"] = dict.fromkeys(entry["sides"], math.nan)
        return entry
    relies, flips = math.nan, math.nan
    if report.reliance is not None:
        entry["distance"], relies = report.reliance.distance, report.reliance.value
        flips = math.nan if report.reliance.flips is None else report.reliance.flips
    figures = *report.interval, report.visible, report.readers, relies, flips
    for key, value in zip(_PERHAPS, figures, strict=True):
        if not math.isnan(value):
            entry[key] = value
    return entry


def scalars(report: PANReport, entry: Entry) -> dict[str, float]:
    """Return what is logged of a report and its entry, by tag.

    Figures of layers that are not known are left out; those of the whole network are NaN then, for a tag that is not
    there would keep what it had, and end the run of whoever watches it.

    Where layers are missing, they and everything that adds up over layers are NaN: a tag that is not there would end
    the run of whoever watches it.

    Args:
        report: What was found.
        entry: The entry of a history, or of :func:`entry_of`.
    """
    of_layers: dict[str, float] = {f"pan_layer/{name}": count for name, count in entry["layers"].items()}
    of_layers |= {f"border_bias/{name}": line.border_bias for name, line in report.measured.items()}
    totals: dict[str, float] = {
        **{tag: entry.get(key, math.nan) for tag, key in TOTALS.items()},
        **{f"pan_side/{side}": count for side, count in entry["sides"].items()},
        "border_bias/mean": entry["border_bias"],
    }
    if report.reliance is not None and report.reliance.flips is not None:
        totals[FLIPS] = entry.get("flips", math.nan)
    missing = entry.get("missing")
    if not missing:
        every = {tag: float(value) for tag, value in (totals | of_layers).items()}
        return {tag: value for tag, value in every.items() if tag in TOTALS or not math.isnan(value)}
    of_missing = [f"{group}/{name}" for group in ("pan_layer", "border_bias") for name in missing]
    known = {tag: float(value) for tag, value in of_layers.items() if not math.isnan(value)}
    return known | dict.fromkeys([*totals, *of_missing], math.nan)
