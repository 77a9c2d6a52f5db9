"""How the padding aware neurons of a model change over epochs: plain data that fits into a checkpoint."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypedDict

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.pan_report import PANReport

#: Half the width of the band around the threshold within which a neuron is neither born nor gone. With one reading an
#: image, 256 images and a contrast of 0.8, chance moves a contrast by 0.027 (a standard deviation of the binomials
#: behind it); 0.05 is about two of these.
BAND = 0.05


class Entry(TypedDict):
    """What is kept of one probe.

    Args:
        epoch: Epoch, -1 for the network before its first step.
        step: Optimizer step.
        count: PANs.
        fraction: PANs per measured neuron.
        nascent: PANs that read the padding themselves.
        inherited: PANs that do not.
        born: PANs that came since the entry before.
        gone: PANs that went since then.
        border_bias: Mean border bias over layers.
        sides: Side to PANs.
        layers: Measured layer to PANs.
        pans: Measured layer to channel to the signed contrast on the strongest side, for PANs.
    """

    epoch: int
    step: int
    count: int
    fraction: float
    nascent: int
    inherited: int
    born: int
    gone: int
    border_bias: float
    sides: dict[str, int]
    layers: dict[str, int]
    pans: dict[str, dict[int, float]]


def entry_of(report: PANReport, epoch: int, step: int, born: int = 0, gone: int = 0) -> Entry:
    """Return what is kept of a report.

    Args:
        report: What was found.
        epoch: Epoch, -1 for the network before its first step.
        step: Optimizer step.
        born: PANs that came since the entry before.
        gone: PANs that went since then.
    """
    origins = report.count_by("origin")
    pans: dict[str, dict[int, float]] = {name: {} for name in report.measured}
    for pan in report.pans:
        pans[pan.layer][pan.channel] = pan.contrast[pan.strongest]
    return Entry(
        epoch=epoch,
        step=step,
        count=report.count,
        fraction=report.fraction,
        nascent=origins["nascent"],
        inherited=origins["inherited"],
        born=born,
        gone=gone,
        border_bias=report.border_bias,
        sides=report.count_by("side"),
        layers=report.count_by("layer"),
        pans=pans,
    )


def scalars(report: PANReport, entry: Entry) -> dict[str, float]:
    """Return what is logged of a report and its entry, by tag; figures that are not known are left out.

    Args:
        report: What was found.
        entry: The entry of a history, or of :func:`entry_of`.
    """
    values: dict[str, float] = {
        "pan/count": entry["count"],
        "pan/fraction": entry["fraction"],
        "pan/nascent": entry["nascent"],
        "pan/inherited": entry["inherited"],
        "pan/born": entry["born"],
        "pan/gone": entry["gone"],
    }
    values |= {f"pan_side/{side}": entry["sides"][side] for side in SIDES}
    values |= {f"pan_layer/{name}": count for name, count in entry["layers"].items()}
    values["border_bias/mean"] = entry["border_bias"]
    values |= {f"border_bias/{name}": line.border_bias for name, line in report.measured.items()}
    return {tag: float(value) for tag, value in values.items() if value == value}  # without NaN


class History:
    """The count of every probed epoch, and the epoch in which each living PAN was born.

    A neuron is born when its contrast rises over the threshold by :data:`BAND`, and gone when it falls below it by as
    much; in between it stays what it was. ``count`` knows no band, so it can change while nobody is born or gone.

    Args:
        threshold: Absolute contrast from which a neuron is a PAN.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.entries: list[Entry] = []
        self.births: dict[str, dict[int, int]] = {}  # layer -> channel -> epoch of birth
        self._births_before: dict[str, dict[int, int]] = {}  # the same, at the epoch before the last

    def add(self, report: PANReport, epoch: int, step: int) -> Entry:
        """Add what was found in an epoch; an earlier entry of the same epoch is replaced.

        Args:
            report: What was found.
            epoch: Epoch, -1 for the network before its first step.
            step: Optimizer step.

        Returns:
            The new entry.
        """
        self.entries, measured = [earlier for earlier in self.entries if earlier["epoch"] < epoch], len(self.entries)
        if len(self.entries) < measured:  # this epoch was measured before: compare with the one before it again
            self.births = deepcopy(self._births_before)
        self._births_before = deepcopy(self.births)
        born, gone = self._update_births(report, epoch)
        self.entries.append(entry_of(report, epoch, step, born, gone))
        return self.entries[-1]

    def _update_births(self, report: PANReport, epoch: int) -> tuple[int, int]:
        band = min(BAND, (1 - self.threshold) / 2, self.threshold / 2)
        first = not self.entries
        born = gone = 0
        for name, margins in report.margins.items():  # of layers not measured this time nobody is born, nobody gone
            alive, margin = self.births.setdefault(name, {}), margins.tolist()
            coming = [c for c, over in enumerate(margin) if c not in alive and over >= (0.0 if first else band)]
            going = [c for c in alive if margin[c] < -band]
            alive.update(dict.fromkeys(coming, epoch))
            for channel in going:
                del alive[channel]
            born, gone = born + len(coming), gone + len(going)
        return (0, 0) if first else (born, gone)

    def state_dict(self) -> dict[str, Any]:
        """Return lists, dicts, strings and numbers only, as ``torch.load(weights_only=True)`` wants it."""
        return deepcopy({"entries": self.entries, "births": self.births, "births_before": self._births_before})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        state = deepcopy(state)
        self.entries, self.births = state["entries"], state["births"]
        self._births_before = state["births_before"]
