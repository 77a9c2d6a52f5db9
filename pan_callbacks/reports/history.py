"""How the padding aware neurons of a model change over epochs: plain data that fits into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, TypedDict

from pan_callbacks.layers import Skip, named
from pan_callbacks.reports.pan_report import PANReport

#: Half the width of the band around the threshold within which a neuron is neither born nor gone. With one reading an
#: image, 256 images and a contrast of 0.8, chance moves a contrast by 0.027 (a standard deviation of the binomials
#: behind it); 0.05 is about two of these.
BAND = 0.05
#: Why a layer has no count in any epoch; for every other reason it may have one in another epoch.
_NEVER_COUNTED = {Skip.POINTWISE, Skip.NO_PADDING, Skip.PADDED_TWICE}


class _Figures(TypedDict):
    """What every entry has."""

    epoch: int
    step: int
    count: float
    fraction: float
    nascent: float
    inherited: float
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
        nascent: PANs that read the padding themselves.
        inherited: PANs that do not.
        born: PANs that came since the entry before.
        gone: PANs that went since then.
        border_bias: Mean border bias over layers.
        sides: Side to PANs.
        layers: Measured layer to PANs.
        pans: Measured layer to channel to the signed contrast on the strongest side, for PANs.
        missing: Layers that the count lacks though other epochs have them, see :func:`missing_layers`; only there if
            there are any.
    """

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
        missing: Layers that the count lacks; None for those that the report alone tells.
    """
    origins = report.count_by("origin")
    pans: dict[str, dict[int, float]] = {name: {} for name in report.measured}
    for pan in report.pans:
        pans[pan.layer][pan.channel] = pan.contrast[pan.strongest]
    entry = Entry(
        epoch=epoch,
        step=step,
        count=report.count,
        fraction=report.fraction,
        nascent=origins["nascent"],
        inherited=origins["inherited"],
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
        entry["count"] = entry["nascent"] = entry["inherited"] = entry["fraction"] = entry["border_bias"] = math.nan
        entry["sides"] = dict.fromkeys(entry["sides"], math.nan)
    return entry


def scalars(report: PANReport, entry: Entry) -> dict[str, float]:
    """Return what is logged of a report and its entry, by tag; figures that are not known are left out.

    Where layers are missing, they and everything that adds up over layers are NaN: a tag that is not there would end
    the run of whoever watches it.

    Args:
        report: What was found.
        entry: The entry of a history, or of :func:`entry_of`.
    """
    of_layers: dict[str, float] = {f"pan_layer/{name}": count for name, count in entry["layers"].items()}
    of_layers |= {f"border_bias/{name}": line.border_bias for name, line in report.measured.items()}
    totals: dict[str, float] = {
        "pan/count": entry["count"],
        "pan/fraction": entry["fraction"],
        "pan/nascent": entry["nascent"],
        "pan/inherited": entry["inherited"],
        "pan/born": entry["born"],
        "pan/gone": entry["gone"],
        **{f"pan_side/{side}": count for side, count in entry["sides"].items()},
        "border_bias/mean": entry["border_bias"],
    }
    missing = entry.get("missing")
    if not missing:
        return {tag: float(value) for tag, value in (totals | of_layers).items() if not math.isnan(value)}
    of_missing = [f"{group}/{name}" for group in ("pan_layer", "border_bias") for name in missing]
    known = {tag: float(value) for tag, value in of_layers.items() if not math.isnan(value)}
    return known | dict.fromkeys([*totals, *of_missing], math.nan)


class History:
    """The count of every probed epoch, and the epoch in which each living PAN was born.

    A neuron is born when its contrast rises over the threshold by :data:`BAND`, and gone when it falls below it by as
    much; in between it stays what it was. ``count`` knows no band, so it can change while nobody is born or gone.
    Births and deaths are counted against the entry before: of a layer that was not measured there, of channels that a
    layer did not have there, and of a layer that has fewer channels than it had, nobody is born and nobody gone.

    Args:
        threshold: Absolute contrast from which a neuron is a PAN.

    Attributes:
        report: The report behind the last entry, None if there is none, or if it comes from an early checkpoint.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.entries: list[Entry] = []
        self.births: dict[str, dict[int, int]] = {}  # layer -> channel -> epoch of birth
        self.report: PANReport | None = None
        self._channels: dict[str, int] = {}  # layer -> channels that it had when it was measured last
        # the same two, at the epoch before the last
        self._births_before: dict[str, dict[int, int]] = {}
        self._channels_before: dict[str, int] = {}

    @property
    def known(self) -> list[str]:
        """Layers that were measured in any entry."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry["layers"]))

    def add(self, report: PANReport, epoch: int, step: int, failed: bool = False) -> Entry:
        """Add what was found in an epoch; an earlier entry of the same epoch is replaced.

        Args:
            report: What was found.
            epoch: Epoch, -1 for the network before its first step.
            step: Optimizer step.
            failed: Whether the measurement ended early; on one rank of several means on all of them.

        Returns:
            The new entry.
        """
        self.entries, measured = [earlier for earlier in self.entries if earlier["epoch"] < epoch], len(self.entries)
        if len(self.entries) < measured:  # this epoch was measured before: compare with the one before it again
            self.births, self._channels = deepcopy(self._births_before), dict(self._channels_before)
        self._births_before, self._channels_before = deepcopy(self.births), dict(self._channels)
        missing = missing_layers(report, self.known, failed)
        born, gone = self._update_births(report, epoch, missing)
        self.entries.append(entry_of(report, epoch, step, born, gone, missing))
        self.report = report
        return self.entries[-1]

    def _update_births(self, report: PANReport, epoch: int, missing: list[str]) -> tuple[int, int]:
        band = min(BAND, (1 - self.threshold) / 2, self.threshold / 2)
        before = {
            name for entry in self.entries[-1:] for name in entry["layers"] if name not in entry.get("missing", [])
        }
        born = gone = 0
        for name, margins in report.margins.items():  # of layers not measured this time nobody is born, nobody gone
            if name in missing:
                continue
            margin = margins.tolist()
            had = self._channels.get(name, len(margin) if name in self.births else 0)  # not in early checkpoints
            if len(margin) < had:  # which of its channels it still has nobody knows
                self.births[name], had = {}, 0
            alive = self.births.setdefault(name, {})
            coming = [c for c, over in enumerate(margin) if c not in alive and over >= (band if c < had else 0.0)]
            going = [c for c in alive if margin[c] < -band]
            alive.update(dict.fromkeys(coming, epoch))
            for channel in going:
                del alive[channel]
            self._channels[name] = len(margin)
            if name in before:
                born, gone = born + sum(channel < had for channel in coming), gone + len(going)
        return born, gone

    def state_dict(self) -> dict[str, Any]:
        """Return lists, dicts, strings and numbers only, as ``torch.load(weights_only=True)`` wants it."""
        plain = {
            "entries": self.entries,
            "births": self.births,
            "births_before": self._births_before,
            "channels": self._channels,
            "channels_before": self._channels_before,
        }
        return deepcopy(plain)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, also that of an earlier release."""
        state = deepcopy(state)
        self.entries, self.births = state["entries"], state["births"]
        self._births_before = state["births_before"]
        self._channels, self._channels_before = state.get("channels", {}), state.get("channels_before", {})
