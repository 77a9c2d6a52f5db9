"""How the padding aware neurons of a model change over epochs: plain data that fits into a checkpoint."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pan_callbacks.reports.entries import Entry, entry_of, missing_layers
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport

#: Half the width of the band around the threshold within which a neuron is neither born nor gone, if nobody knows how
#: sure its contrast is: with one image, and in reports of early releases.
BAND = 0.05


def _surely(line: LayerReport, threshold: float) -> tuple[list[float], list[float]]:
    """Return by how much each neuron is beyond what makes a PAN, at both ends of what its standard error allows.

    The images of two epochs are the same as a rule, so that what images alone cannot tell (the rule of three) plays no
    part.
    """
    width = line.sampling
    if width is None or bool(width.isnan().all()):
        band = min(BAND, (1 - threshold) / 2, threshold / 2)
        low, high = line.margin(threshold) - band, line.margin(threshold) + band
    else:
        low, high = line.margins(threshold, width.nan_to_num(0.0))
    return low.tolist(), high.tolist()


class History:
    """The count of every probed epoch, and the epoch in which each living PAN was born.

    A neuron is born when its contrast, less half the width of its 95 % interval, is over the threshold, and gone when
    with it it is below; in between it stays what it was. ``count`` knows no such band, so it can change while nobody is
    born or gone.
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
        before = {
            name for entry in self.entries[-1:] for name in entry["layers"] if name not in entry.get("missing", [])
        }
        born = gone = 0
        for name, margins in report.margins.items():  # of layers not measured this time nobody is born, nobody gone
            if name in missing:
                continue
            margin, (low, high) = margins.tolist(), _surely(report.layers[name], self.threshold)
            had = self._channels.get(name, len(margin) if name in self.births else 0)  # not in early checkpoints
            if len(margin) < had:  # which of its channels it still has nobody knows
                self.births[name], had = {}, 0
            alive = self.births.setdefault(name, {})
            coming = [c for c, over in enumerate(margin) if c not in alive and (low[c] if c < had else over) >= 0]
            going = [c for c in alive if high[c] < 0]
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
