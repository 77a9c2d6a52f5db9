"""The page of the study follows from its runs: cells, intervals, verdicts and the words that go with them."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

from benchmarks.study import __main__ as study
from benchmarks.study import tasks
from benchmarks.study.answer import answer, count_and_use, row
from benchmarks.study.effects import Effect, T, of_seeds, share, student
from benchmarks.study.experiments import EXPERIMENTS
from benchmarks.study.measures import census
from benchmarks.study.page import render, text
from benchmarks.study.questions import QUESTIONS
from benchmarks.study.summary import Results, less
from pan_callbacks import PANReport
from pan_callbacks.analysis.agreement import VARIANTS
from pan_callbacks.analysis.position import TARGETS
from pan_callbacks.reports.layer_report import LayerReport

PAGE = Path(__file__).parents[2] / "docs" / "study.md"

# --- the page ------------------------------------------------------------------------------------------------------

PATHS = {
    "families": [
        "accuracy",
        *(
            f"worth/{what}change"
            for what in ("pans/neutral/", "control/neutral/", "padding/", "pans/zero/", "control/zero/")
        ),
    ],
    "red_green": [
        f"{variant}/{what}" for variant in ("as is", "PANs", "padding") for what in ("similar", "swapped", "gap")
    ],
    "respects": [
        *(f"{v}/{label}/accuracy" for v in ("as is", "PANs", "padding") for label in ("digit", "place")),
        *(
            f"{v}/{s}"
            for v in ("as is", "PANs", "padding")
            for s in ("near", "central", "size 32", "size 48", "size 64")
        ),
        *(f"{v}/shift {s}/{w}" for v in ("as is", "PANs", "padding") for s in tasks.SHIFTS for w in ("tv", "flips")),
        *(f"worth/{label}/padding/change" for label in ("digit", "place")),
        *(
            f"worth/{label}/{kind}/{mode}/change"
            for label in ("digit", "place")
            for kind in ("pans", "control")
            for mode in ("neutral", "mean", "zero")
        ),
        *(
            f"removal/{label}/{which}/{what}"
            for label in ("digit", "place")
            for which in ("all", "nascent", "inherited")
            for what in ("neurons", "zero/change", "zero/control", "mean/change", "mean/control")
        ),
        *(f"removal/{label}/alone/{kind}" for label in ("digit", "place") for kind in ("pans", "control")),
    ],
    "imagenet": [
        *(
            f"worth/{kind}/{mode}/{w}"
            for kind in ("pans", "control")
            for mode in ("neutral", "mean", "zero")
            for w in ("kl", "flips")
        ),
        *(f"worth/padding/{w}" for w in ("kl", "flips")),
        *(f"{v}/shift {s}/{w}" for v in ("as is", "PANs", "padding") for s in (1, 4) for w in ("tv", "flips")),
        *(f"position/{v}/{what}" for v in VARIANTS for what in (*TARGETS, "best layer")),
        "agreement/flip score | contrast",
    ],
}
PATCHES = [
    f"{v}/{name}/{where}/{w}"
    for v in ("as is", "PANs", "padding")
    for name in ("strip", "noise")
    for where in ("border", "interior")
    for w in ("tv", "flips")
]
CENSUS = list(census(PANReport({"conv": LayerReport(4, (3, 3), contrast=torch.zeros(8, 4), border_bias=0.0)})))


def made_up(seed: int) -> list[dict]:
    """Runs of everything, with numbers that mean nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for experiment, (_, arms, seeds) in EXPERIMENTS.items():
        paths = [*PATHS[experiment], *(PATCHES if experiment in ("respects", "imagenet") else []), *CENSUS]
        paths += (
            [f"{when}/{name}" for when in ("before", "after") for name in CENSUS] if experiment == "families" else []
        )
        for arm in arms:
            for number in range(seeds):
                values = (1000 * torch.rand(len(paths), generator=generator)).tolist()
                numbers = dict(zip(paths, values, strict=True))
                rows.append(dict(experiment=experiment, arm=arm, seed=number, seconds=1.0, numbers=numbers))
    return rows


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    render(made_up(0), folder / "page0.md")
    (folder / "page1.md").write_text(text(Results(made_up(1)), "page1"))
    return folder


def table_cells(page: str) -> list[str]:
    return [c.strip() for line in page.splitlines() if line.startswith("| ") for c in line.strip("| ").split("|")[1:]]


def test_every_number_in_a_table_comes_from_the_runs(pages):
    one, other = (table_cells((pages / f"page{seed}.md").read_text()) for seed in (0, 1))
    numeric = [pair for pair in zip(one, other, strict=True) if re.search(r"\d\.\d", pair[0])]
    assert len(numeric) > 300
    assert not [pair for pair in numeric if pair[0] == pair[1]]


def test_a_cell_is_the_mean_and_its_standard_error(pages):
    rows = [row for row in made_up(0) if (row["experiment"], row["arm"]) == ("red_green", "circular")]
    values = 100 * torch.tensor([row["numbers"]["as is/swapped"] for row in rows]).double()
    line = next(line for line in (pages / "page0.md").read_text().splitlines() if line.startswith("| circular padding"))
    assert f"{values.mean():.1f} ± {values.std() / len(values) ** 0.5:.1f}" in line


def test_every_figure_that_the_page_names_is_there_and_no_other(pages):
    named = set(re.findall(r"\]\(page0/(.+?)\.png\)", (pages / "page0.md").read_text()))
    assert named == {path.stem for path in (pages / "page0").glob("*.png")} and len(named) == 5


def test_a_page_of_one_experiment_has_no_other_section(tmp_path):
    rows = [row for row in made_up(0) if row["experiment"] == "red_green" and row["seed"] == 0]
    results = tmp_path / "study.jsonl"
    results.write_text("\n".join(map(json.dumps, rows)))
    render(study.read(results), tmp_path / "study.md")
    headings = re.findall(r"^## (.+)$", (tmp_path / "study.md").read_text(), re.M)
    assert headings == ["The answer", "When position must not be used: red and green", "What this does not say"]


def test_trainings_of_earlier_runs_are_shown_where_they_are_and_left_out_elsewhere():
    rows = [row for row in made_up(0) if (row["experiment"], row["arm"]) == ("red_green", "penalty")]
    earlier = [{**row, "arm": "effect penalty"} for row in rows]
    name = 'PANPenalty(kind="effect")'
    assert f"| {name} |" in text(Results([*rows, *earlier]), "study") and "weight=1" not in text(
        Results([*rows, *earlier]), "study"
    )
    assert name not in text(Results(rows), "study")


def test_differences_are_taken_within_a_seed():
    rows = [
        dict(experiment="e", arm=a, seed=s, seconds=1, numbers={"x": v})
        for a, s, v in [("a", 0, 5), ("b", 0, 3), ("a", 1, 9)]
    ]
    results = Results(rows)
    assert less(results.get("e", "a", "x"), results.get("e", "b", "x")) == {0: 2}


def test_every_run_is_named_once_and_seeds_can_be_fewer():
    jobs = study.jobs(list(EXPERIMENTS))
    assert len(jobs) == len(set(jobs)) == sum(len(arms) * seeds for _, arms, seeds in EXPERIMENTS.values())
    assert {seed for _, _, seed in study.jobs(["red_green"], 2)} == {0, 1}


# --- intervals and verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(2, 11))
def test_the_interval_is_that_of_students_t(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).double().tolist()
    found = of_seeds(dict(enumerate(values)))
    low, high = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3, abs=1e-3) and found.count == count


def test_beyond_the_table_of_t_the_interval_is_too_wide_and_never_too_narrow():
    assert max(T) == 9
    found = student(0, 1, 40)
    assert found.high > stats.t.ppf(0.975, 39)


@pytest.mark.parametrize(("part", "count"), [(47 / 128, 128), (0.0, 96), (1.0, 96)])
def test_the_interval_of_a_share_is_wilsons(part, count):
    found = share(part, count)
    wilson = stats.binomtest(round(part * count), count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * wilson.low, 100 * wilson.high), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "rise_is_good", "fall_is_good"),
    [
        ([0.10, 0.11, 0.12], "helps", "hurts"),
        ([-0.10, -0.11, -0.12], "hurts", "helps"),
        ([0.1, -0.1, 0.2], "unknown", "unknown"),
        ([-0.05, -0.2, -0.4], "unknown", "unknown"),  # down in every seed, and its interval holds zero
        ([-0.3], "unknown", "unknown"),
        ([0.0, 0.0, 0.0], "unknown", "unknown"),
    ],
)
def test_the_interval_alone_decides_the_verdict(values, rise_is_good, fall_is_good):
    effect = of_seeds(dict(enumerate(values)))
    assert (effect.verdict(1), effect.verdict(-1)) == (rise_is_good, fall_is_good)


def test_one_seed_has_no_interval_and_nothing_is_no_effect():
    assert not of_seeds({0: 0.3}).has_interval and of_seeds({}) is None
    assert row("digit/blind", of_seeds({0: -0.3}))[1:4] == (
        "-0.3 points; interval: none (one seed)",
        "1 seed",
        "unknown",
    )


def test_an_end_that_rounds_to_zero_shows_its_sign():
    assert Effect(1.0, 0.04, 1.96, 3).interval() == "[+0.04, +1.96]"
    assert Effect(1.0, -0.5, 2.5, 3).interval() == "[-0.5, +2.5]"


VERDICT_OF = {"helps": (1.0, 2.0, 3.0), "hurts": (-3.0, -2.0, -1.0)}  # low, middle, high where a rise is good


@pytest.mark.parametrize("key", QUESTIONS)
def test_a_row_has_at_most_two_sentences_whatever_its_verdict(key):
    good = QUESTIONS[key].good
    sure = {
        verdict: Effect(good * middle, *sorted((good * low, good * high)), 3)
        for verdict, (low, middle, high) in VERDICT_OF.items()
    }
    for verdict, effect in {**sure, "unknown": Effect(0.5, -1, 2, 3)}.items():
        question, size, n, found, words = row(key, effect)
        assert found == verdict and question.endswith("?") and n.startswith("3 ") and effect.interval() in size
        assert 1 <= len(re.findall(r"[.!?](?= |$)", words)) <= 2 and words.endswith(".")


def planted(experiment: str, arm: str, **paths: list[float]) -> list[dict]:
    """Runs of one arm with these numbers by seed; ``__`` stands for a slash and ``_`` for a blank."""
    rows = []
    for seed, values in enumerate(zip(*paths.values(), strict=True)):
        numbers = dict(zip((path.replace("__", "/").replace("_", " ") for path in paths), values, strict=True))
        rows.append(dict(experiment=experiment, arm=arm, seed=seed, seconds=1.0, numbers=numbers))
    return rows


def line_of(section: str, words: str) -> list[str]:
    """The cells of the one row whose question has these words."""
    (line,) = (line for line in section.splitlines() if line.startswith("| ") and words in line)
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_a_narrower_gap_helps_a_wider_one_hurts_and_differences_are_within_a_seed():
    rows = planted("red_green", "zero", as_is__gap=[0.80, 0.90, 0.70], pans=[9.0, 9.0, 9.0])
    rows += planted("red_green", "circular", as_is__gap=[0.01, 0.10, -0.08], pans=[0.0, 0.0, 0.0])
    rows += planted("red_green", "mask", as_is__gap=[0.85, 0.95, 0.74], pans=[0.0, 0.0, 0.0])
    rows += planted("red_green", "reflect", as_is__gap=[0.70, 1.00, 0.70], pans=[0.0, 0.0, 0.0])
    section = answer(Results(rows))
    assert line_of(section, "with circular")[3] == "helps"
    assert line_of(section, "`PANMask()`")[1:4] == ["+4.7 points [+3.2, +6.1]", "3 seeds", "hurts"]
    assert line_of(section, "with reflect")[3] == "unknown"


def test_a_fall_of_accuracy_in_every_seed_is_unknown_where_the_interval_holds_zero():
    rows = planted("respects", "both/zero", worth__place__pans__neutral__change=[-0.05, -0.2, -0.43])
    section = answer(Results(rows))
    assert line_of(section, "blinded")[1:4] == ["-22.7 points [-70.2, +24.9]", "3 seeds", "unknown"]


def test_networks_are_the_draws_of_the_count():
    rows = [
        run
        for arm, before, after in (("a/zeros", 50.0, 10.0), ("b/zeros", 60.0, 18.0), ("c/reflect", 0.0, 900.0))
        for run in planted("families", arm, before__pans=[before], after__pans=[after])
    ]
    assert line_of(answer(Results(rows)), "random weights")[1:4] == ["-41.0 PANs [-53.7, -28.3]", "2 networks", "helps"]


def test_flipped_classes_are_drawn_by_image_and_the_rest_of_one_network_has_no_interval():
    numbers = {"worth/pans/neutral/flips": 47 / 128, "worth/control/neutral/flips": 0.19, "worth/images": 128}
    rows = [dict(experiment="imagenet", arm="as is", seed=0, seconds=1.0, numbers=numbers)]
    section = answer(Results(rows))
    assert line_of(section, "do classes change")[1:4] == [
        "+36.7 % of the images [+28.9, +45.3]",
        "128 images of 1 network",
        "hurts",
    ]
    assert line_of(section, "do more classes change")[1:4] == [
        "+17.7 % of the images; interval: none (one network)",
        "1 network",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("trained", "says"),
    [
        ({"a": (0.0, 80.0, 84.0), "b": (0.0, -1.0, 1.0), "c": (9.0, 78.0, 82.0)}, "does not decide"),
        ({"a": (0.0, 40.0, 84.0), "b": (0.0, 30.0, 60.0)}, "do not tell apart"),
        ({"a": (0.0, 40.0, 84.0), "b": (7.0, -1.0, 1.0)}, "Fewer than two"),
        ({"a": (0.0, math.nan, math.nan), "b": (0.0, math.nan, math.nan)}, "do not tell apart"),
        ({}, "was not run"),
    ],
)
def test_the_first_lines_tell_count_and_use_apart_by_the_numbers(trained, says):
    middles = {"a": 62.0, "b": 0.0, "c": 80.0}
    words = count_and_use({name: (count, Effect(middles[name], *ends, 5)) for name, (count, *ends) in trained.items()})
    assert says in words and len(re.findall(r"[.](?=\*| |$)", words.replace("et al.", "et al"))) <= 3
    assert ("left by b." in words) == (trained.get("b", (0, 0, math.nan))[2] == 1.0)


def answer_rows(page: str) -> list[list[str]]:
    """The rows of the answer's table, without its head."""
    section = page.split("## The answer")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:]]


def test_the_page_in_docs_gives_no_verdict_that_its_interval_does_not():
    rows = answer_rows(PAGE.read_text(encoding="utf-8"))
    questions = {question.text: question for question in QUESTIONS.values()}
    assert len(rows) > 30
    for text_, size, _, verdict, words in rows:
        ends = re.search(r"\[(.+), (.+)\]$", size)
        low, high = map(float, ends.groups()) if ends else (math.nan, math.nan)
        assert verdict == Effect(float(size.split()[0]), low, high).verdict(questions[text_].good), text_
        assert words == getattr(questions[text_], verdict) and ("none (one" in size) == (ends is None)


def test_the_page_in_docs_has_the_fixed_words_of_the_code(pages):
    there = PAGE.read_text(encoding="utf-8")
    made = (pages / "page0.md").read_text(encoding="utf-8").split("\n## ")
    prose = [line for part in made if not part.startswith("The answer") for line in part.splitlines()]
    prose = [line for line in prose if line and not line.startswith(("|", "!", "<sub>"))]
    assert len(prose) > 40 and [line for line in prose if line not in there] == []


def test_nothing_is_written_where_there_are_no_runs(tmp_path, monkeypatch):
    page = tmp_path / "study.md"
    page.write_text("as it was")
    arguments = ["study", "--render", "--results", str(tmp_path / "none.jsonl"), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        study.main()
    assert page.read_text() == "as it was"
