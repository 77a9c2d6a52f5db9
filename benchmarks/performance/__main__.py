"""What measuring costs: runs the rows of docs/performance.md, and writes it.

python -m benchmarks.performance                    # all rows and the page, what `make bench` does
python -m benchmarks.performance forward report     # some rows alone, printed and kept in runs/performance/
python -m benchmarks.performance profile --quick    # for trying: small, and kept elsewhere
python -m benchmarks.performance page               # the page alone, from what is kept
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.performance.results import FOLDER, QUICK, load
from benchmarks.performance.rows import LONG, TITLES, module_of, run, run_apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*TITLES, "all", "page"], default="all", help="all by default")
    parser.add_argument("--quick", action="store_true", help="as small as possible; the page goes to the results, too")
    parser.add_argument("--results", type=Path, help=f"folder of results ({FOLDER}, with --quick {QUICK})")
    parser.add_argument(
        "--page", type=Path, help="page to write (docs/performance.md, with --quick beside the results)"
    )
    args = parser.parse_args()
    folder = args.results or (QUICK if args.quick else FOLDER)
    wanted = [args.rows] if isinstance(args.rows, str) else args.rows
    failed = run_all(args.quick, folder) if "all" in wanted else []
    for row in wanted:
        if row in TITLES:
            result = run(row, args.quick, folder)
            print(
                "\n".join(
                    ["", f"{row}, {result['minutes']:.1f} minutes", "", *module_of(row).section(read(row, folder))]
                )
            )
    if {"all", "page"} & set(wanted):
        from benchmarks.performance.page import PAGE, render

        page = args.page or (folder / PAGE.name if args.quick else PAGE)
        render(load(folder), page)
        print(f"{page} written")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def read(row: str, folder: Path) -> dict:
    """What a row gave, as the page reads it."""
    return load(folder)[row]["values"]


def run_all(quick: bool, folder: Path) -> list[str]:
    """Runs every row in a process of its own, two at a time and the long ones first; returns those that failed."""
    failed = []

    def work(row: str) -> None:
        why = run_apart(row, quick, folder)
        print(row, "done" if why is None else f"failed: {why}", flush=True)
        failed.extend([] if why is None else [row])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, sorted(TITLES, key=lambda row: row not in LONG)))
    return failed


if __name__ == "__main__":
    main()
