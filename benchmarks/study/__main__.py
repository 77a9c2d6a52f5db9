"""The study behind docs/study.md: runs what is not in the file of results yet, then writes the page and its figures.

python -m benchmarks.study                                  # all of it, about half an hour on two cores
python -m benchmarks.study --only red_green --seeds 1       # a part
python -m benchmarks.study --render                         # the page alone
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from benchmarks.runs import Job, Row, in_a_process, quietly, read, run_missing
from benchmarks.study.experiments import EXPERIMENTS, run
from benchmarks.study.page import render

RESULTS, PAGE = Path("runs/study.jsonl"), Path("docs/study.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, help="seeds at most")
    parser.add_argument("--render", action="store_true", help="write the page from the results that are there")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="one line of JSON a run; runs that are there are kept"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--one", nargs=3, metavar=("EXPERIMENT", "ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], args.one[1], int(args.one[2]))))
        return
    if not args.render:
        work, wanted = partial(in_a_process, "benchmarks.study"), jobs(args.only, args.seeds)
        _, failed = run_missing(wanted, args.results, work, "experiment", _told, args.processes)
        if failed:
            raise RuntimeError("\n".join(failed))
    rows = read(args.results)
    if not rows:  # a page of nothing would take the place of the one that is there
        parser.error(f"{args.results} holds no runs; without --render they are made")
    render(rows, args.page)
    print(f"{args.page} written")


def jobs(experiments: list[str], most: int | None = None) -> list[Job]:
    """What belongs to some experiments, the first seeds of all first."""
    return [
        (name, arm, seed)
        for name in EXPERIMENTS
        if name in experiments
        for seed in range(min(EXPERIMENTS[name][2], most or EXPERIMENTS[name][2]))
        for arm in EXPERIMENTS[name][1]
    ]


def one(experiment: str, arm: str, seed: int) -> dict:
    """A run in this process and one thread."""
    quietly()
    start = time.process_time()
    numbers = run(experiment, arm, seed)
    seconds = time.process_time() - start
    return {"experiment": experiment, "arm": arm, "seed": seed, "seconds": seconds, "numbers": numbers}


def _told(row: Row) -> str:
    return f"{row['seconds']:.0f} s"


if __name__ == "__main__":
    main()
