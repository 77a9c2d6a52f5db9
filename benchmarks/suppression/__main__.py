"""Trains with and without what suppresses PANs; the tables of docs/suppression_runs.md.

python -m benchmarks.suppression                                       # what is not there yet, then the page
python -m benchmarks.suppression --minutes 60                          # start no run after an hour
python -m benchmarks.suppression --tasks mnist --arms none mask --seeds 1
python -m benchmarks.suppression --table                               # the page alone

Runs are kept in benchmarks/suppression/runs.jsonl, and none is made twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.runs import add_options, read, tell
from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.job import one
from benchmarks.suppression.jobs import planned, run_missing
from benchmarks.suppression.page import write
from benchmarks.suppression.tasks import TASKS

RESULTS = Path(__file__).with_name("runs.jsonl")
PAGE = Path(__file__).parents[2] / "docs" / "suppression_runs.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, help="seeds at most")
    add_options(parser, RESULTS, PAGE)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], args.one[1], int(args.one[2]))))
        return
    late, failed = [], []
    if not args.table:
        jobs = planned(args.tasks, args.arms, args.seeds)
        if not jobs:
            parser.error(
                "none of these tasks is run with any of these arms; see seeds_of in benchmarks/suppression/jobs"
            )
        late, failed = run_missing(jobs, args.results, args.processes, args.minutes)
    rows = read(args.results)
    if not rows:  # a page of nothing would take the place of the one that is there
        parser.error(f"{args.results} holds no runs; without --table they are made")
    write(rows, args.page)
    print(f"{args.page} written from {len(rows)} runs")
    tell(late, failed)


if __name__ == "__main__":
    main()
