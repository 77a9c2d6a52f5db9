"""How the padding aware neurons of a model change over epochs: plain data that fits into a checkpoint."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.pan_report import PANReport, padding_aware

#: Half the width of the band around the threshold within which a neuron is neither born nor gone. With one reading an
#: image, 256 images and a contrast of 0.8, chance moves a contrast by 0.027 (a standard deviation of the binomials
#: behind it); 0.05 is about two of these.
BAND = 0.05


class History:
    """The count of every probed epoch, and the epoch in which each living PAN was born.

    A neuron is born when its contrast rises over the threshold by :data:`BAND`, and gone when it falls below it by as
    much; in between it stays what it was. ``count`` knows no band, so it can change while nobody is born or gone.

    Args:
        threshold: Absolute contrast from which a neuron is a PAN.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.entries: list[dict[str, Any]] = []
        self.births: dict[str, dict[int, int]] = {}  # layer -> channel -> epoch of birth
        self._births_before: dict[str, dict[int, int]] = {}  # the same, at the epoch before the last

    def add(self, report: PANReport, epoch: int, step: int) -> dict[str, Any]:
        """Adds what was found in an epoch; an earlier entry of the same epoch is replaced.

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
        nascent = sum(pan.origin == "nascent" for pan in report.pans)
        pans: dict[str, dict[int, float]] = {name: {} for name in report.count_by_layer()}
        for pan in report.pans:
            pans[pan.layer][pan.channel] = pan.contrast[pan.strongest]
        entry = {
            "epoch": epoch,
            "step": step,
            "count": report.count,
            "fraction": report.fraction,
            "nascent": nascent,
            "inherited": report.count - nascent,
            "born": born,
            "gone": gone,
            "border_bias": report.border_bias,
            "sides": report.count_by_side(),
            "layers": report.count_by_layer(),
            "pans": pans,
        }
        self.entries.append(entry)
        return entry

    def _update_births(self, report: PANReport, epoch: int) -> tuple[int, int]:
        band = min(BAND, (1 - self.threshold) / 2, self.threshold / 2)
        first = not self.entries
        born = gone = 0
        for name, line in report.layers.items():
            if line.contrast is None:
                continue  # not measured this time: nobody is born, nobody gone
            surely = padding_aware(line.contrast, self.threshold, slack=0.0 if first else -band)
            perhaps = padding_aware(line.contrast, self.threshold, slack=band)
            alive = self.births.setdefault(name, {})
            for channel in surely.nonzero().flatten().tolist():
                if channel not in alive:
                    alive[channel] = epoch
                    born += 1
            for channel in [c for c in alive if not perhaps[c] and not surely[c]]:
                del alive[channel]
                gone += 1
        return (0, 0) if first else (born, gone)

    def scalars(self, report: PANReport, entry: dict[str, Any]) -> dict[str, float]:
        """What is logged for an entry, by tag."""
        values = {
            f"pan/{key}": float(entry[key]) for key in ("count", "fraction", "nascent", "inherited", "born", "gone")
        }
        values |= {f"pan_side/{side}": float(entry["sides"][side]) for side in SIDES}
        values |= {f"pan_layer/{name}": float(count) for name, count in entry["layers"].items()}
        values["border_bias/mean"] = report.border_bias
        values |= {
            f"border_bias/{name}": line.border_bias for name, line in report.layers.items() if line.skipped is None
        }
        return {tag: value for tag, value in values.items() if value == value}  # without NaN

    def state_dict(self) -> dict[str, Any]:
        """Lists, dicts, strings and numbers only, as ``torch.load(weights_only=True)`` wants it."""
        return deepcopy({"entries": self.entries, "births": self.births, "births_before": self._births_before})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        state = deepcopy(state)
        self.entries, self.births = state["entries"], state["births"]
        self._births_before = state["births_before"]
