"""What is to be reached, and whether it was."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.performance.results import look_up
from benchmarks.performance.words import number


@dataclass(frozen=True)
class Bound:
    """One line of the overview.

    Args:
        what: What is measured.
        row: The row that measures it.
        path: Where its number lies in what the row gave; with `` - `` between two, their difference.
        limit: What the number may be.
        unit: Of the number.
        least: Whether the number is to be at least the limit, not at most.
    """

    what: str
    row: str
    path: str
    limit: float
    unit: str = ""
    least: bool = False

    def cells(self, results: dict[str, dict]) -> list[str]:
        """The line of the table."""
        sign, value = "≥" if self.least else "≤", look_up(results.get(self.row), self.path)
        unit = f" {self.unit}" if self.unit else ""
        measured = "–" if value is None else f"{number(value)}{unit}"
        return [
            self.what,
            f"{sign} {self.limit:g}{unit}",
            measured,
            self.verdict(results),
            f"[{self.row}](#{self.row})",
        ]

    def verdict(self, results: dict[str, dict]) -> str:
        """Whether it was reached."""
        if "failed" in results.get(self.row, {}):
            return "**the run failed**"
        value = look_up(results.get(self.row), self.path)
        if value is None:
            return "not measured"
        return "yes" if (value >= self.limit if self.least else value <= self.limit) else "**no**"


BOUNDS = (
    Bound("validation epoch, `centre`, of the plain one", "forward", "centre/epoch/median", 1.03),
    Bound("a forward in the middle of it", "forward", "centre/middle/median", 1.03),
    Bound("validation epoch, `crop`, of the plain one", "forward", "crop/epoch/median", 1.60),
    Bound("two epochs of training with `PANMonitor()`, of those without", "training", "ratio/median", 1.05),
    Bound("twenty epochs of it", "training", "long/ratio", 1.05),
    Bound("report of ResNet-50, 64 images (the monitor's default)", "report", "by_images/64/first", 0.3, "s"),
    Bound("report of ResNet-50, 256 images", "report", "by_images/256/first", 0.3, "s"),
    Bound("kept of ResNet-50, 256 images of 224 px", "report", "kept/going_on - kept/copies", 64, "MB"),
    Bound("the same with the copy of its weights, gone when the epoch ends", "report", "kept/going_on", 64, "MB"),
    Bound("kept after 10,000 small images", "memory", "by_images/10000/going_on - by_images/10000/copies", 64, "MB"),
    Bound("kept after 50 epochs", "memory", "by_epochs/50/stopped", 64, "MB"),
    Bound("attributes that an idle hook looks up", "hooks", "attributes", 1),
    Bound("calls that an idle hook makes", "hooks", "calls", 0),
    Bound("`import pan_callbacks`, of `import pytorch_lightning`", "imports", "ratios/ours/median", 1.05),
    Bound("event file of ResNet-50, an epoch", "events", "megabytes", 1, "MB"),
    Bound("scan of EfficientNet-Lite0 with its page, of the bare forwards", "scanning", "ratio", 3),
    Bound("overhead of the nearest alternative, of ours with `centre`", "others", "times/centre", 10, least=True),
    Bound("overhead of the nearest alternative, of ours with `crop`", "others", "times/crop", 10, least=True),
)
