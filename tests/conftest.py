"""What all tests share: one thread, so that a run on a shared machine repeats; and the count of made-up examples."""

import pytest
import torch

from tests.support.fuzzing import COUNTS

torch.set_num_threads(1)

# no doctests in it; taken for a module of its own it clashes with the one of that name in tests/attack
collect_ignore = ["conftest.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = COUNTS[item.name]
    try:
        return (yield)
    finally:
        if COUNTS[item.name] > before:  # travels to the process that reports, if there are several
            item.user_properties.append(("examples", COUNTS[item.name] - before))


def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get("passed", [])
    counts = {report.nodeid: dict(report.user_properties).get("examples", 0) for report in passed}
    fuzzed = {name: count for name, count in counts.items() if count}
    if fuzzed:
        terminalreporter.write_line(f"fuzzing: {sum(fuzzed.values()):,} examples in {len(fuzzed)} tests")
