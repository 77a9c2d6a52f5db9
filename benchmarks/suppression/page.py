"""Writes docs/suppression_runs.md from the runs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.runs import Row
from benchmarks.suppression import table, verdicts
from benchmarks.suppression.job import ASKED, SCANNED
from benchmarks.suppression.jobs import planned


def write(rows: Sequence[Row], page: Path) -> None:
    """Writes the page."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text(rows), encoding="utf-8")


def text(rows: Sequence[Row]) -> str:
    """The page, from the runs."""
    there = {(row["task"], row["arm"], row["seed"]) for row in rows}
    wanted = planned()
    return _PAGE.format(
        scanned=SCANNED,
        asked=ASKED,
        done=sum(job in there for job in wanted),
        wanted=len(wanted),
        commits=", ".join(f"`{commit}`" for commit in sorted({row["commit"] for row in rows} - {""})) or "unknown",
        hours=f"{sum(row['seconds'] for row in rows) / 3600:.1f}",
        verdicts=verdicts.lines(table.Runs(rows)),
        lines=table.lines(table.Runs(rows)),
    )


_PAGE = """# Suppression: the runs

    python -m benchmarks.suppression              # makes what is not there yet; in `make bench-suppression`
    python -m benchmarks.suppression --table      # writes this page alone

This page is generated from `benchmarks/suppression/runs.jsonl`, one line a run: {done} of {wanted} that are planned,
of the package at commit {commits}; {hours} hours of one core in training. What the callbacks do, and which to take, is
in [suppression.md](suppression.md).

## Asked and reached

Of `PANPenalty()` at its defaults; in red-green of the best way, which is named. *{reached}*: the ends of the 95 %
intervals keep to the bounds, too (for the accuracy of "digit", to the ones that its interval has). *{by_mean}*: the
means do. The best way is chosen on the seeds that it is judged by, which flatters it. No interval is corrected for the
number of rows.

{verdicts}

## All runs

Each row is a mean over seeds. A seed sets weights, images and their order; all arms of a seed begin with the same.

* **PANs**: of a scan of {scanned} validation images after training; in parentheses the mean ends of its 95 %
  intervals. With a mask the network has it on; with dropout all of its padding is there.
* **% fewer**: of the means, against none over the same seeds. In brackets the 95 % interval of a bootstrap over seeds,
  which is too narrow with three seeds, and has no width where all are the same.
* **accuracy**: on the validation set, in which each placed digit is shown at four places. *Similar*: where position is
  as in training; *swapped*: where it tells the other class.
* **change**: mean of the differences to none within a seed; in brackets its 95 % interval by Student's t.
* **reliance**: how far answers move with all padding neutral (total variation × 100), and how many classes change, on
  {asked} validation images.
* **largest kernel**: its largest absolute weight over that of none; mean of the ratios within a seed.

{lines}
""".replace("{reached}", verdicts.REACHED).replace("{by_mean}", verdicts.BY_MEAN)
