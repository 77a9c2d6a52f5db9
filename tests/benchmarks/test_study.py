"""The study: its images say of position what they are said to; its page follows from its runs."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from benchmarks.study import __main__ as study
from benchmarks.study import tasks
from benchmarks.study.experiments import EXPERIMENTS, patch_movement
from benchmarks.study.measures import OneLabel, accuracy, census, movement, probabilities, removal
from benchmarks.study.page import render, text
from benchmarks.study.summary import Results, change, direction, less
from pan_callbacks import PANReport, scan
from pan_callbacks.analysis.agreement import VARIANTS
from pan_callbacks.analysis.position import TARGETS
from pan_callbacks.reports.layer_report import LayerReport

SEED = 3


def block_rows_and_columns(image: torch.Tensor, channel: int) -> tuple[list[int], list[int]]:
    bright = image[channel] == 1
    return bright.any(1).nonzero().flatten().tolist(), bright.any(0).nonzero().flatten().tolist()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_order_of_the_colours_is_the_class_and_the_half_goes_with_it(swapped):
    images, labels = tasks.red_green(40, SEED, swapped)
    for image, label in zip(images, labels.tolist(), strict=True):
        (red_rows, red), (green_rows, green) = (block_rows_and_columns(image, channel) for channel in (0, 1))
        assert red_rows == green_rows and len(red_rows) == len(red) == len(green) == tasks.BLOCK
        assert (red[-1] < green[0]) == (label == 0) and (green[-1] < red[0]) == (label == 1)
        lower = red_rows[0] >= tasks.SIZE // 2
        assert lower == (label == 1) ^ swapped and (lower or red_rows[-1] < tasks.SIZE // 2)


def test_both_classes_are_as_frequent_and_blocks_are_everywhere_along_the_image():
    images, labels = tasks.red_green(400, SEED)
    assert labels.bincount().tolist() == [200, 200]
    columns = (images[:, :2] == 1).any(2).any(1).sum(0)
    assert (columns > 0).all()


def test_nothing_but_the_position_distinguishes_similar_and_swapped_images():
    similar, swapped = (tasks.red_green(20, SEED, exchanged)[0] for exchanged in (False, True))
    blocks = [(images[:, :2] == 1).sum((1, 2, 3)) for images in (similar, swapped)]
    assert torch.equal(*blocks)
    assert torch.equal(*((images[:, :2] == 1).any(2) for images in (similar, swapped)))  # the same columns


def where_the_digit_is(images: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    return (images - empty).abs() > 1e-6


def test_digits_near_the_border_touch_it_within_a_pixel_and_central_ones_do_not(monkeypatch):
    drawn = []
    monkeypatch.setattr(tasks, "scene", lambda digits, tops, lefts, size, seed: drawn.append((tops, lefts)))
    tasks.near_and_central(torch.arange(200), SEED)
    near, central = (torch.stack(place) for place in drawn)
    last = tasks.SIZE - tasks.DIGIT
    assert (torch.minimum(near, last - near).min(0).values <= tasks.NEAR).all()
    assert (torch.minimum(central, last - central).min(0).values >= 5).all()
    assert near.min() >= 0 and near.max() <= last


def test_a_scene_has_the_digit_where_it_is_asked_for_and_a_photograph_elsewhere():
    digits = torch.tensor([0, 4000])
    one, other = (
        tasks.scene(digits, torch.tensor(tops), torch.tensor([0, 16]), tasks.SIZE, SEED) for tops in ([0, 0], [16, 16])
    )
    changed = (one - other).abs() > 0
    assert changed[0, :, :16].any() and not changed[0, :, 16:].any()
    assert changed[1, :, 16:].any() and not changed[1, :, :16].any()


def test_windows_show_the_same_world_from_beside():
    world = torch.arange(12.0 * 12).reshape(1, 12, 12)
    middle, up, down, left, right = tasks.windows(world, shift=2, room=3)
    assert middle.shape == (1, 6, 6)
    assert torch.equal(middle[:, :-2], up[:, 2:]) and torch.equal(middle[:, 2:], down[:, :-2])
    assert torch.equal(middle[..., :-2], left[..., 2:]) and torch.equal(middle[..., 2:], right[..., :-2])


@pytest.mark.parametrize("noise", [False, True])
def test_a_patch_is_at_the_border_or_inside_and_never_on_the_digit(noise):
    digits = torch.arange(0, 5000, 250)
    sets = tasks.patched(digits, SEED, noise)
    digit = where_the_digit_is(
        sets.plain,
        tasks.PHOTO_BRIGHTNESS * tasks.photo_pieces(len(digits), tasks.SIZE, torch.Generator().manual_seed(SEED)),
    )
    at_border, inside = (where_the_digit_is(images, sets.plain) for images in (sets.border, sets.interior))
    assert not (inside & digit).any() and not (at_border & digit).any()
    frame = torch.ones(tasks.SIZE, tasks.SIZE, dtype=torch.bool)
    frame[tasks.STRIP[0] : -tasks.STRIP[0], tasks.STRIP[0] : -tasks.STRIP[0]] = False
    assert not (at_border & ~frame).any()
    assert at_border[:, [0, -1]].flatten(1).any(1).logical_or(at_border[:, :, [0, -1]].flatten(1).any(1)).all()
    frame = torch.zeros(tasks.SIZE, tasks.SIZE, dtype=torch.bool)
    frame[: tasks.INWARD] = True
    touched = [inside[i] & turned for i, turned in enumerate((frame, frame.flip(0), frame.T, frame.T.flip(1)))]
    assert not torch.stack(touched).any()


class Centre(nn.Module):
    """Sees the middle of an image and nothing else."""

    def forward(self, images):
        middle = images[..., 12:20, 12:20].mean((1, 2, 3))
        return torch.stack((middle, 1 - middle), 1)


class Edge(nn.Module):
    """Sees the outermost pixels and nothing else."""

    def forward(self, images):
        rows, columns = images[..., [0, -1], :].mean((1, 2, 3)), images[..., [0, -1]].mean((1, 2, 3))
        return torch.stack((10 * (rows + columns), torch.ones(len(images))), 1)


@pytest.mark.parametrize(("net", "still", "moves"), [(Centre(), "border", None), (Edge(), "interior", "border")])
def test_a_network_moves_just_where_it_looks(net, still, moves):
    images = torch.zeros(16, 1, 32, 32)
    sets = tasks.patch(images, torch.arange(16) % 4, SEED, tasks.STRIP, tasks.INWARD, noise=False)
    found = patch_movement(net, "strip", sets)
    assert found[f"strip/{still}/tv"] == 0 == found[f"strip/{still}/flips"]
    if moves:
        assert found[f"strip/{moves}/tv"] > 0.1


def test_movement_is_total_variation_and_flips():
    before, after = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    found = movement(before, after)
    assert found["tv"] == pytest.approx((0.7 + 0.1) / 2) and found["flips"] == 0.5


def test_one_label_has_its_own_logits_alone():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(probabilities(OneLabel(net, 2, 3), images), net(images)[:, 2:].softmax(1).detach())


def test_a_census_sorts_every_pan_once_by_each_kind():
    contrast = torch.zeros(8, 4)
    contrast[0, 0], contrast[:2, 1], contrast[4, 2] = 0.9, -0.9, 0.95  # one edge, two edges, a corner, none
    effect = torch.zeros(8, 4)
    effect[0, 0] = 2.0
    layers = {
        "first": LayerReport(4, (3, 3), contrast=contrast, effect=effect),
        "second": LayerReport(4, (3, 3), contrast=torch.zeros(8, 4), effect=effect),
        "pointwise": LayerReport(4, (1, 1), skipped="1×1 kernel"),
        "third": LayerReport(4, (3, 3), contrast=contrast.clamp(min=0), effect=effect),
    }
    found = census(PANReport(layers))
    assert found["pans"] == 5 and found["neurons"] == 12
    assert (found["nascent"], found["inherited"]) == (2, 3)
    assert (found["excited"], found["inhibited"]) == (4, 1)
    assert (found["early"], found["middle"], found["late"]) == (3, 0, 2)
    assert (found["one edge"], found["several edges"], found["corner"]) == (2, 1, 2)


def test_what_the_head_does_not_read_is_removed_for_nothing():
    conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)  # two that sum their window, which the border darkens, and a copy
    conv.weight.data[:2], conv.weight.data[2] = 1, 0
    conv.weight.data[2, 0, 1, 1] = 1
    head = nn.Linear(3, 2)
    head.weight.data[:], head.bias.data[:] = torch.tensor([[0.0, 1, 0], [0, 0, 0]]), torch.tensor([0.0, 5.0])
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    images = 1 + torch.rand(16, 1, 16, 16) / 10
    report = scan(net, [images], progress=False)
    labels = torch.zeros(16, dtype=torch.long)
    assert report.neurons_by_layer() == {"0": [0, 1]} and accuracy(net, images, labels) == 1
    found = removal(net, images, labels, report)
    assert found["all/zero/change"] == -1 and found["all/zero/control"] == 0
    assert found["alone/pans"] == 0.5 and found["alone/control"] == 1


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


def test_words_follow_from_the_numbers():
    assert direction({0: 0.10, 1: 0.11, 2: 0.12}) == 1 and direction({0: -0.10, 1: -0.11, 2: -0.12}) == -1
    assert direction({0: 0.1, 1: -0.1, 2: 0.2}) == 0 == direction({0: 0.3})  # one seed tells nothing
    assert change({0: -0.10, 1: -0.11, 2: -0.12}) == "falls by 11.0 ± 0.6 points"


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
