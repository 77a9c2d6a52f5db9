"""A report in a few lines of plain words."""

from __future__ import annotations

import math
from collections import Counter

from pan_callbacks.reports._text import visible
from pan_callbacks.reports.findings import Findings
from pan_callbacks.reports.words import ORIGINS


def summary_of(report: Findings) -> str:
    """Return a report in words: how many and how sure, where, of which kind, and what was left out.

    Args:
        report: What was found.
    """
    reasons = Counter(report.skipped.values()).most_common()
    count = [
        f"{report.count} of {report.neurons} neurons are padding aware ({report.fraction:.1%}) "
        f"at |contrast| >= {report.threshold:g}: {_origins(report)}"
    ]
    unsure = sum(line.channels for line in report.measured.values() if line.reference == "centre")
    if unsure and report.reference != "centre":
        which = f"all {unsure}" if unsure == report.neurons else f"{unsure} of the {report.neurons}"
        count.append(f"{which} were compared with the centre of their own map, where content deceives")
    lines = [
        "; ".join(count) + ".",
        _how_sure(report),
        "" if report.reliance is None else report.reliance.in_words(),
        "by side: " + ", ".join(f"{side} {n}" for side, n in report.count_by("side").items() if n)
        if report.pans
        else "",
        f"{len(report.measured)} layers measured, {len(report.skipped)} left out"
        + (" (" + "; ".join(f"{n}× {visible(why)}" for why, n in reasons) + ")" if reasons else "")
        + ".",
        *map(visible, report.notes),
    ]
    return "\n".join(line for line in lines if line)


def _origins(report: Findings) -> str:
    found = report.count_by("origin")
    return ", ".join(f"{found[origin]} {origin}" for origin in found if found[origin] or origin in ORIGINS[:2])


def _how_sure(report: Findings) -> str:
    """Return what is known beyond the count: how sure it is, what the next layer sees, and who reads the padding."""
    low, high = report.interval
    parts = []
    if not report.neurons:
        return ""
    if all(line.error is None for line in report.measured.values()):
        return ""  # of an early release
    if math.isnan(low):
        parts.append("How sure that is nobody knows: it takes images that do not all belong together")
    else:
        certain = sum(pan.certain for pan in report.pans)
        parts.append(f"Other images may give {low:.0f} to {high:.0f} (95 %); {certain} are certain one by one")
    if report.pans and not math.isnan(report.visible):
        parts.append(f"the next layer sees {report.visible:.0f} of them")
    if not math.isnan(report.readers):
        parts.append(f"{report.readers:.0f} neurons read the padding")
    return "; ".join(parts) + "."
