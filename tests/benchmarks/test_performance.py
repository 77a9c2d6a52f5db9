"""What the benchmark of costs is made of: turns, counts, bytes, and a page that says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.performance.bounds import BOUNDS, Bound
from benchmarks.performance.counting import counted, run
from benchmarks.performance.hooks import idle, watched
from benchmarks.performance.memory import storages
from benchmarks.performance.others import nearest, split
from benchmarks.performance.page import render
from benchmarks.performance.profiling import AGAIN, FORWARD, OUTSIDE, PACKAGE, Profile
from benchmarks.performance.results import load, look_up, save
from benchmarks.performance.rows import TITLES, module_of
from benchmarks.performance.subjects import epoch, sharing
from benchmarks.performance.timing import differences, interleave, ratios, spread, step_ratios
from benchmarks.performance.words import number, quartiles
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

# --- turns ---------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only if somebody lets it: on a machine that slows down after every four steps."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def __call__(self) -> float:
        return self.now

    def spends(self, name: str, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.order.append(name)
            self.now += seconds * (1 + max(0, len(self.order) - 1) // 4)  # a machine that slows down

        return step


def test_a_known_ratio_is_found_on_a_machine_that_slows_down():
    clock = Clock()
    arms = {"plain": [clock.spends("plain", 2.0)] * 2, "ours": [clock.spends("ours", 3.0)] * 2}
    found = interleave(arms, rounds=5, clock=clock)
    assert ratios(found, "ours", "plain") == pytest.approx([1.5] * 5)
    assert found["plain"][-1] > found["plain"][0]
    assert differences(found, "ours", "plain")[0] == pytest.approx(0.5 * sum(found["plain"][0]))


def test_no_arm_always_goes_first_and_the_warm_up_does_not_count():
    clock = Clock()
    arms = {"a": [clock.spends("a", 1.0)] * 4, "b": [clock.spends("b", 1.0)] * 4}
    found = interleave(arms, rounds=2, warm_steps=1, clock=clock)
    pairs = list(zip(clock.order[::2], clock.order[1::2], strict=True))
    assert len(pairs) == 1 + 2 * 4 and all(set(pair) == {"a", "b"} for pair in pairs)
    assert [pair[0] for pair in pairs[1:5]] == ["b", "a", "b", "a"]
    assert [len(steps) for steps in found["a"]] == [4, 4]


def test_arms_of_different_lengths_are_compared_step_by_step_where_both_have_one():
    clock = Clock()
    arms = {"plain": [clock.spends("p", 1.0)] * 3, "ours": [clock.spends("o", 4.0), *[clock.spends("o", 2.0)] * 3]}
    clock.order = Forgetful()
    found = interleave(arms, rounds=1, warm_steps=0, clock=clock)
    assert step_ratios(found, "ours", "plain", skip=1) == [2.0, 2.0]
    assert ratios(found, "ours", "plain", first=1) == [4.0] and ratios(found, "ours", "plain") == [10 / 3]


class Forgetful(list):
    """A list that stays empty, so that the clock does not slow down."""

    def append(self, item: object) -> None:
        pass


def test_quartiles_are_numpy_s_and_one_value_is_all_of_them():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    expected = dict(zip(("low", "median", "high"), np.percentile(values, [25, 50, 75]), strict=True))
    assert spread(values) == pytest.approx(expected | {"n": 7})
    assert spread([2.5]) == {"low": 2.5, "median": 2.5, "high": 2.5, "n": 1}


# --- counts --------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.calls: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images))


def test_forwards_of_copies_are_counted_with_their_sizes_and_how_far_they_went():
    model = Small()
    copy = sharing(model)
    with counted(Small) as forwards:
        for images in (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 6, 6)):
            model(images)
        run(copy, torch.zeros(5, 3, 7, 7), "first")
    model(torch.zeros(9, 3, 8, 8))
    assert forwards.in_words() == {"5×3×7×7 up to first": 1, "2×3×8×8": 2, "1×3×6×6": 1}
    assert forwards.images == 5 + 2 + 2 + 1
    with counted(Small) as again:
        forwards.replay(model)
    assert again.counts == forwards.counts
    assert not model.first._forward_hooks


def test_a_crop_is_found_among_the_forwards_of_a_measurement():
    model = Small().eval()
    measurement = Measurement(model, Settings(None, "crop", 0.8, 8))
    steps = epoch(measurement, model, torch.randn(8, 3, 32, 32).split(4))
    with torch.no_grad():
        steps[0]()
        with counted(Small) as forwards:
            steps[1]()
    sizes = {shape[-1] for shape, _ in forwards.counts}
    # the user's, ours, and ours without padding for the reliance
    assert forwards.counts[(4, 3, 32, 32), None] == 3 and min(sizes) < 32
    assert measurement.images == 8


def test_an_idle_hook_looks_up_one_attribute():
    found = idle(Small(), torch.zeros(1, 3, 8, 8))
    assert found["LayerProbe.__call__"] == {"called": 2, "attributes": 2, "calls": 0}


def test_what_a_function_of_ours_does_is_counted():
    found = watched(Settings, None, "centre")
    assert found["Settings.__post_init__"] == {"called": 1, "attributes": 3, "calls": 0}


def test_storages_are_counted_once_and_without_the_network_s():
    model, values = Small(), torch.zeros(1000)
    hidden = {"kept": [values, values[:10], values.view(10, 100)], "copy": torch.zeros(5, dtype=torch.float64)}
    held = [model, model.first.weight.detach(), lambda: hidden, np.zeros(7, dtype=np.int16)]
    assert sorted(storages(held, model).values()) == [14, 40, 4000]
    assert sum(storages(held).values()) > sum(storages(held, model).values())


def test_each_moment_belongs_to_the_nearest_function_of_ours():
    clock = Clock()
    clock.order = Forgetful()
    spaces: dict[str, object] = {}
    for name, path in (("ours", "measurement/x.py"), ("theirs", None)):
        code = compile(
            f"def {name}(*steps):\n    for step in steps: step()", f"{PACKAGE}/{path}" if path else "t", "exec"
        )
        exec(code, spaces)
    ours, theirs = spaces["ours"], spaces["theirs"]

    def forward() -> None:
        theirs(clock.spends("", 1.0))

    profile = Profile(forward.__code__, clock)
    profile.run(lambda: (forward(), ours(clock.spends("", 2.0), forward, lambda: theirs(clock.spends("", 4.0)))))
    found = {name: seconds for name, seconds in profile.seconds.items() if seconds}
    assert found == {FORWARD: 1.0, "measurement/x.py: ours": 6.0, AGAIN: 1.0} and OUTSIDE not in found


def test_border_and_reference_of_a_map_are_its_rim_and_its_inner_half():
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    border, reference = split(maps)
    assert border.shape == (1, 28) and sorted(reference[0].tolist()) == maps[0, 0, 2:6, 2:6].flatten().tolist()


def test_the_nearest_alternative_is_one_that_tells_neurons_apart():
    def arm(ratio: float) -> dict:
        return {"epoch": spread([ratio]), "forward": spread([ratio])}

    arms = {"centre": arm(1.02), "crop": arm(1.5), "histc": arm(1.05), "ks_2samp": arm(37.0)}
    found = nearest(arms | {"histc of neurons": arm(1.4)})
    assert found["nearest"] == "histc of neurons"
    assert found["times"] == pytest.approx({"centre": 20.0, "crop": 0.8})
    assert found["factors"]["ks_2samp"]["crop"] == pytest.approx(72.0)


# --- the page ------------------------------------------------------------------------------------------------------

MACHINE = {"cpu": "Made-up 9000", "cores": 2, "python": "3.11.0", "commit": "abc1234", "date": "2030-01-02",
           "versions": {"torch": "9.9", "scipy": None}}  # fmt: skip


def result(row: str, values: dict, **more: object) -> dict:
    beside = {"machine": MACHINE | more, "command": f"python -m benchmarks.performance {row}", "minutes": 1.25}
    return {"values": values} | beside


def reference(ratio: float) -> dict:
    one = spread([ratio, ratio + 0.01, ratio + 0.02])
    return {"epoch": one, "middle": one, "first": one, "by_images": {16: ratio + 0.5, 32: ratio}}


@pytest.fixture
def page(tmp_path: Path) -> str:
    forward = {"centre": reference(1.015), "crop": reference(1.7), "alone": spread([0.5]), "plain": spread([85.0]),
               "forwards": {"16×3×160×160": 1}, "images": 32, "batch": 16, "rounds": 3, "size": 224}  # fmt: skip
    save("forward", result("forward", forward), tmp_path)
    counted = {"LayerProbe.__call__": {"called": 17, "attributes": 17, "calls": 0}}
    save("hooks", result("hooks", {"functions": counted, "attributes": 1.0, "calls": 0.0}), tmp_path)
    imports = {name: spread([1.0, 2.0]) for name in ("lightning", "ours", "callback")}
    save("imports", result("imports", {"seconds": imports, "ratios": imports}, cores=64), tmp_path)
    save("memory", {"failed": "MemoryError", "command": "c", "machine": MACHINE}, tmp_path)
    render(load(tmp_path), tmp_path / "performance.md")
    return (tmp_path / "performance.md").read_text(encoding="utf-8")


def line(page: str, *words: str) -> str:
    return next(line for line in page.splitlines() if all(word in line for word in words))


def test_the_page_says_what_was_reached_and_what_was_not(page: str):
    assert "| ≤ 1.03 | 1.025 | yes |" in line(page, "validation epoch", "centre")
    assert "| ≤ 1.6 | 1.710 | **no** |" in line(page, "validation epoch", "crop")
    assert "| – | **the run failed** |" in line(page, "10,000 small images")
    assert "| – | not measured |" in line(page, "event file of ResNet-50, an")
    assert "| ≤ 0 | 0.000 | yes |" in line(page, "calls that an idle hook makes")


def test_every_number_has_its_command_and_machine(page: str):
    for row in TITLES:
        assert f'<a id="{row}"></a>' in page and f"](#{row})" in page or row in ("sweeps", "profile")
    assert page.count("<sub>`python -m benchmarks.performance") == 3
    assert (
        "Not measured yet: `python -m benchmarks.performance training`." in page and "**Failed**: MemoryError" in page
    )
    assert "Made-up 9000, 64 cores" in line(page, "(imports)") and "commit abc1234" in line(page, "(forward, ")


def test_the_figure_is_drawn_from_what_is_there(page: str, tmp_path: Path):
    assert "](performance.png)" in page
    assert (tmp_path / "performance.png").stat().st_size > 10_000


def test_a_bound_from_below_is_one():
    bound = Bound("what", "row", "a/b", 10, least=True)
    results = {value: {"row": {"values": {"a": {"b": value}}}} for value in (9.0, 10.0)}
    assert [bound.verdict(one) for one in results.values()] == ["**no**", "yes"]


def test_rows_are_files_and_bounds_are_of_rows():
    assert {bound.row for bound in BOUNDS} <= set(TITLES)
    for row in TITLES:
        assert callable(module_of(row).measure) and callable(module_of(row).section)


def test_results_are_read_back(tmp_path: Path):
    save("row", result("row", {"a": {"b": 1.5, "c": {"1": 2}}}), tmp_path)
    found = load(tmp_path)
    assert json.loads((tmp_path / "row.json").read_text()) == found["row"]
    assert look_up(found["row"], "a/b") == 1.5
    assert look_up(found["row"], "a/x") is look_up(found["row"], "a/b/c") is look_up(None, "a") is None


def test_numbers_are_written_with_the_digits_that_count():
    assert [number(v) for v in (1.0264, 37.26, 412.0, 12345.6, None)] == ["1.026", "37.3", "412", "12,346", "–"]
    assert quartiles(spread([1.0, 2.0, 3.0])) == "2.000 (1.500 … 2.500)" and quartiles(spread([2.0])) == "2.000"
