"""The suppression benchmark: what is run in which order, what its tables make of runs, and one small run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.runs import append, read
from benchmarks.study.effects import Effect
from benchmarks.suppression import verdicts
from benchmarks.suppression.arms import ARMS
from benchmarks.suppression.job import train_and_measure
from benchmarks.suppression.jobs import planned, run_missing
from benchmarks.suppression.page import text, write
from benchmarks.suppression.table import Runs, change, fewer, lines, ratio, written
from benchmarks.suppression.tasks import TASKS, placed
from benchmarks.suppression.verdicts import BY_MEAN, NOT_REACHED, NOT_RUN, REACHED, Bound, best_way, red_green, verdict
from examples.data import LabelledImages, PlacedDigitsData


def row(task: str, arm: str, seed: int, **numbers) -> dict:
    """An invented run."""
    plain = {
        "commit": "abc",
        "pans": 10,
        "interval": [8.0, 14.0],
        "neurons": 208,
        "accuracy": {"digit": 0.9},
        "reliance": {"digit": {"value": 0.1, "flips": 0.05}},
        "kernel": 1.0,
        "parameter": 2.0,
        "seconds": 36.0,
    }
    return {"task": task, "arm": arm, "seed": seed, **plain, **numbers}


def paired(arm: str, values: list[float], plain: list[float], first: int = 0) -> list[dict]:
    """Runs of "digit" with these accuracies, with and without an arm; the plain ones begin at seed 0."""
    rows = [row("digit", "none", seed, accuracy={"digit": value}) for seed, value in enumerate(plain)]
    return rows + [row("digit", arm, seed, accuracy={"digit": value}) for seed, value in enumerate(values, first)]


def cells(page: str, task: str, arm: str) -> list[str]:
    """The cells of the one row of a task and an arm."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {task} | {arm} |"))
    return [cell.strip() for cell in line.strip("| ").split("|")]


# --- what is run ---------------------------------------------------------------------------------------------------


def test_a_seed_is_run_with_and_without_the_penalty_before_other_arms_and_before_the_next_seed():
    jobs = planned()
    assert len(jobs) == len(set(jobs))
    assert [seed for _, _, seed in jobs] == sorted(seed for _, _, seed in jobs)
    assert [job[:2] for job in jobs[:18]] == [(task, arm) for task in TASKS for arm in ("none", "penalty")]
    assert all(seed == 0 and arm not in ("none", "penalty") for _, arm, seed in jobs[18:49])
    assert jobs[18][0] == "digit" and jobs[49] == ("digit", "none", 1)


def test_there_are_as_many_seeds_as_were_asked_for():
    count = {}
    for task, arm, _ in planned():
        count[task, arm] = count.get((task, arm), 0) + 1
    assert {count[task, "penalty"] for task in ("digit", "digit and place", "mnist")} == {10}
    assert {count[task, "none"] for task in list(TASKS)[3:]} == {5}
    assert count["mnist", "mask all"] == 3 and count["red-green", "circular"] == count["red-green", "dropout"] == 5
    assert count["fine-tune", "mask"] == count["digit, no batch norm", "mask all"] == 2
    assert ("fine-tune", "dropout") not in count and ("digit", "circular") not in count


def test_a_part_keeps_the_order_of_the_whole():
    part = planned(["red-green", "digit"], ["mask", "none"], 2)
    assert part == [job for job in planned() if job in part]
    assert len(part) == 8 and {seed for _, _, seed in part} == {0, 1}


def test_what_is_there_is_kept_and_a_line_that_was_cut_off_is_run_again(tmp_path):
    file = tmp_path / "runs.jsonl"
    append(row("digit", "none", 0, pans=7), file)
    cut = json.dumps(row("digit", "none", 1))
    file.write_text(file.read_text() + cut[: len(cut) // 2])
    assert [r["seed"] for r in read(file)] == [0]
    made = []

    def work(job):
        made.append(job)
        return row(*job, pans=9)

    late, failed = run_missing([("digit", "none", seed) for seed in range(3)], file, 1, work=work)
    assert made == [("digit", "none", 1), ("digit", "none", 2)] and late == failed == []
    assert {r["seed"]: r["pans"] for r in read(file)} == {0: 7, 1: 9, 2: 9}


def test_a_cut_off_line_is_said(tmp_path, capsys):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"task": "dig')
    assert read(file) == [] and "cut off" in capsys.readouterr().err
    assert read(tmp_path / "none.jsonl") == []


def test_a_failure_keeps_nothing_else_from_running_and_is_told(tmp_path):
    def work(job):
        if job[2] == 0:
            raise RuntimeError(f"{job} ended with 1: no memory")
        return row(*job)

    jobs = [("digit", "none", seed) for seed in range(2)]
    late, failed = run_missing(jobs, tmp_path / "runs.jsonl", 1, work=work)
    assert late == [] and len(failed) == 1 and "no memory" in failed[0]
    assert [r["seed"] for r in read(tmp_path / "runs.jsonl")] == [1]


def test_no_run_starts_after_the_time_and_what_is_not_done_is_said(tmp_path):
    jobs = [("digit", "none", seed) for seed in range(2)]
    late, failed = run_missing(jobs, tmp_path / "runs.jsonl", 1, minutes=0, work=lambda job: row(*job))
    assert late == jobs and failed == [] and read(tmp_path / "runs.jsonl") == []


# --- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_change_is_paired_and_its_interval_is_that_of_the_paired_t_test(count):
    generator = torch.Generator().manual_seed(count)
    own, plain = (torch.rand(count, generator=generator).double().tolist() for _ in range(2))
    found = change(Runs(paired("penalty", own, plain)), "digit", "penalty", "digit")
    low, high = stats.ttest_rel(own, plain).confidence_interval(0.95)
    assert found.middle == pytest.approx(100 * np.mean(np.subtract(own, plain)))
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), rel=1e-4, abs=1e-2)


def test_seeds_that_only_one_of_both_has_count_for_neither():
    rows = paired("penalty", [0.8, 0.7, 0.2], [0.5, 0.9, 0.9], first=1)  # seeds 1, 2, 3 against 0, 1, 2
    found = change(Runs(rows), "digit", "penalty", "digit")
    assert found.count == 2 and found.middle == pytest.approx((-10 - 20) / 2)
    assert fewer({1: 2, 2: 4, 3: 100}, {0: 50, 1: 10, 2: 20}).middle == pytest.approx(80)
    assert ratio({1: 2.0, 2: 3.0, 3: 9.0}, {1: 1.0, 2: 2.0}) == pytest.approx(1.75)


def test_fewer_is_the_ratio_of_means_and_its_interval_has_all_draws_of_two_seeds():
    found = fewer({0: 0, 1: 4}, {0: 10, 1: 10})
    assert found.middle == pytest.approx(80)
    assert (found.low, found.high) == pytest.approx((60, 100))  # each of the two alone is drawn every fourth time
    assert fewer({0: 0, 1: 4}, {0: 10, 1: 30}).middle == pytest.approx(90)  # no mean of ratios, which is 93.3
    assert found == fewer({0: 0, 1: 4}, {0: 10, 1: 10})


def test_the_bootstrap_agrees_with_scipys():
    generator = np.random.default_rng(5)
    plain, own = generator.integers(20, 60, 10), generator.integers(0, 9, 10)
    found = fewer(dict(enumerate(own)), dict(enumerate(plain)))
    other = stats.bootstrap(
        (own, plain),
        lambda a, b, axis: 100 * (1 - a.mean(axis) / b.mean(axis)),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.3)


@pytest.mark.parametrize(("own", "plain"), [({}, {0: 1}), ({1: 1}, {0: 1}), ({0: 3}, {0: 0})])
def test_nothing_to_compare_with_gives_no_percentage(own, plain):
    assert fewer(own, plain) is None


def test_an_arm_without_none_has_its_numbers_and_no_comparison():
    page = lines(Runs([row("digit", "mask", 0), row("digit", "mask", 1, pans=13, interval=[9.0, 20.0])]))
    assert cells(page, "digit", "mask") == [
        "digit", "mask", "2", "11.5 (8.5–17.0) of 208", "–", "90.00", "–", "10.0, 5.0", "–",
    ]  # fmt: skip
    assert "| none |" not in page


def test_a_row_of_the_table_by_hand():
    rows = [row("digit", "none", seed, pans=20, kernel=2.0) for seed in (0, 1)]
    rows += [row("digit", "penalty", 0, pans=2, accuracy={"digit": 0.89}, kernel=3.0)]
    rows += [row("digit", "penalty", 1, pans=0, accuracy={"digit": 0.91}, kernel=1.0, interval=None)]
    page = lines(Runs(rows))
    half = 100 * stats.t.ppf(0.975, 1) * 0.01  # of two differences ±1 point
    assert cells(page, "digit", "penalty")[3:] == [
        "1.0 of 208", "95.0 [90.0, 100.0]", "90.00", f"+0.00 [-{half:.2f}, +{half:.2f}]", "10.0, 5.0", "× 1.00",
    ]  # fmt: skip
    assert cells(page, "digit", "none")[4] == cells(page, "digit", "none")[6] == ""


def test_rounding_makes_no_interval_narrower():
    assert written(Effect(0.0, -0.501, 0.501, 5), 2, "+") == "+0.00 [-0.51, +0.51]"
    assert written(Effect(98.0, 94.99, 99.01, 5)) == "98.0 [94.9, 99.1]"
    assert written(Effect(100.0, 100.0, 100.0, 5)) == "100.0 [100.0, 100.0]"
    assert written(Effect(3.0)) == "3.0" and written(None) == "–"


# --- asked and reached ---------------------------------------------------------------------------------------------

WITHIN = Bound(95, -0.3, within=0.5)


@pytest.mark.parametrize(
    ("bound", "gone", "changed", "says"),
    [
        (WITHIN, (98, 96, 99), (-0.1, -0.4, 0.2), REACHED),
        (WITHIN, (98, 96, 99), (-0.1, -0.6, 0.4), BY_MEAN),
        (WITHIN, (98, 96, 99), (0.3, 0.0, 0.6), BY_MEAN),
        (WITHIN, (98, 94, 99), (-0.1, -0.4, 0.2), BY_MEAN),
        (WITHIN, (94, 96, 99), (-0.1, -0.4, 0.2), NOT_REACHED),
        (WITHIN, (98, 96, 99), (-0.31, -0.4, 0.2), NOT_REACHED),
        (Bound(90, -0.5), (98, 96, 99), (-0.1, -0.4, 2.0), REACHED),
        (Bound(90, -0.5), (98, 96, 99), (-0.4, -0.6, 0.2), BY_MEAN),
    ],
)
def test_a_verdict_says_no_more_than_the_interval(bound, gone, changed, says):
    assert verdict(bound, Effect(*gone, 5), [Effect(*changed, 5)]) == says


def test_each_label_must_keep_to_the_bound_and_one_seed_has_no_interval():
    good, bad = Effect(0.1, -0.1, 0.3, 5), Effect(-0.6, -0.7, -0.5, 5)
    assert verdict(Bound(85, -0.5), Effect(90, 88, 92, 5), [good, bad]) == NOT_REACHED
    assert verdict(Bound(85, -0.5), Effect(90), [Effect(0.0)]) == BY_MEAN
    assert verdict(Bound(85, -0.5), None, [good]) == verdict(Bound(85, -0.5), Effect(90), []) == NOT_RUN


def red_green_rows(**gaps: list[float]) -> list[dict]:
    """Runs of red-green with these gaps by seed."""
    return [
        row("red-green", arm, seed, accuracy={"similar": 1.0, "swapped": 1 - gap})
        for arm, values in gaps.items()
        for seed, gap in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("way", "says"),
    [([0.3, 0.32], REACHED), ([0.2, 0.54], BY_MEAN), ([0.5, 0.52], NOT_REACHED)],
)
def test_the_gap_above_that_of_circular_padding_must_be_halved_by_the_best_way(way, says):
    rows = red_green_rows(none=[0.8, 0.82], circular=[0.0, 0.02], mask=[0.9, 0.9], dropout=way)
    words, found = red_green(Runs(rows))
    assert found == says and best_way(Runs(rows)) == "dropout"
    assert words.startswith("best: dropout, gap above circular padding's +")


@pytest.mark.parametrize("missing", ["none", "circular", "dropout"])
def test_red_and_green_without_an_arm_is_not_run(missing):
    gaps = {"none": [0.8, 0.8], "circular": [0.0, 0.0], "dropout": [0.3, 0.3]}
    assert red_green(Runs(red_green_rows(**{arm: v for arm, v in gaps.items() if arm != missing})))[1] == NOT_RUN


def test_the_page_says_what_was_not_run_and_what_it_is_of(tmp_path):
    rows = paired("penalty", [0.9, 0.91], [0.9, 0.91])
    rows = [{**one, "pans": 0 if one["arm"] == "penalty" else 20} for one in rows]
    write(rows, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page == text(rows)
    said = [line.split(" | ")[-1].strip(" |") for line in verdicts.lines(Runs(rows)).splitlines()[2:]]
    assert said == [REACHED] + [NOT_RUN] * 8
    assert f"4 of {len(planned())}" in page and "`abc`" in page and "python -m benchmarks.suppression" in page
    assert "{" not in page


# --- runs ----------------------------------------------------------------------------------------------------------


def test_each_held_out_digit_is_shown_at_four_places():
    _, val, classes = placed("both", normalised=True)(3)
    data = PlacedDigitsData("both", canvas=32, digit_size=16, seed=3)
    data.setup()
    assert len(val) == 4000 and classes == {"digit": 10, "place": 9}
    first, *others = val.images.split(1000)
    digits = val.targets[:, 0].reshape(4, 1000)
    assert torch.equal(first, data.val_set.images) and all(torch.equal(digits[0], one) for one in digits)
    assert not any((first == other).flatten(1).all(1).any() for other in others)


def small(seed: int):
    train, val, classes = placed("both", normalised=True, draws=1)(seed)
    parts = [LabelledImages(part.images[:n], part.targets[:n]) for part, n in ((train, 128), (val, 64))]
    return *parts, classes


@pytest.mark.parametrize("arm", ["penalty", "mask all", "mask"])
def test_a_small_run_has_every_number(arm):
    task = replace(TASKS["digit and place, SGD"], data=small, epochs=1)
    found = train_and_measure(task, ARMS[arm], 0)
    assert json.loads(json.dumps(found)) == found
    low, high = found["interval"]
    assert found["neurons"] == 208 and 0 <= low <= found["pans"] <= high
    assert set(found["accuracy"]) == set(found["reliance"]) == {"digit", "place"}
    values = [number for one in found["reliance"].values() for number in one.values()]
    assert (values == [0] * 4) == (arm == "mask all")  # nothing is left to rest on
    assert 0 < found["kernel"] <= found["parameter"] and found["seconds"] > 0
    page = lines(Runs([{"task": "digit and place", "arm": arm, "seed": 0, "commit": "", **found}]))
    assert cells(page, "digit and place", arm)[2] == "1"
