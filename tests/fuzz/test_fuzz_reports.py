"""Report files, damaged in any way: what is loaded is whole and of use, else a ValueError names the file."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from pan_callbacks.cli.compare import Entry, notes, table
from pan_callbacks.figures.impact import class_changes, impact_changes
from pan_callbacks.figures.model import depth_share, layer_sides
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.pans import margin
from pan_callbacks.reports.taxonomy import cross_table
from tests.support.fuzzing import fuzzed
from tests.support.synthetic import layer


def reports() -> list[dict]:
    """Reports of every kind of line."""
    contrast = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    contrast[5] = math.nan
    whole = LayerReport(
        3, (3, 5), (2, 1), "zoom", "crop: too small", None, (7, 9), (1, 0), 256, 1 / 3, 0.1, contrast, contrast * 9
    )
    corner = layer(4, {1: {"top-left": -1.0}, 2: {"top": 0.9, "left": -0.85}}, effect=0.0, pad="pad")
    left_out = LayerReport(8, (1, 1), skipped="1×1 kernel")
    lines = {"a": whole, "b.c": corner, "": left_out, "größe": layer(1)}
    return [
        PANReport(lines, 0.7, "crop", ("Few images.",)).to_dict(),
        PANReport({}).to_dict(),
        PANReport({"a": layer(0)}, 0.99, "centre").to_dict(),
    ]


def impacts() -> list[dict]:
    """Impacts on a classifier, and on something else."""
    classes = ClassChanges(torch.tensor([3, 0, 4]), *torch.linspace(-0.5, 0.5, 18).view(6, 3), 0.5)
    arms = [Arm("baseline", "", 0, 0.75, classes=classes)]
    for mode in ("zero", "mean"):
        arms += [Arm("pans", mode, 4, 0.5, None, (-0.4, -0.1), 0.25, 0.5, classes)]
        arms += [Arm("control", mode, 4, 0.7, draw, (-0.4, -0.1), 0.25, 0.5, classes) for draw in range(3)]
    arms += [Arm("padding", "neutral", 9, 0.5, None, (-0.4, -0.1), 0.25, 0.5, classes)]
    return [
        ImpactReport("accuracy", 7, tuple(arms), ("cat", "dog", "<b>"), ("a note",)).to_dict(),
        ImpactReport("MeanSquaredError", 7, (Arm("baseline", "", 0, math.nan), Arm("pans", "zero", 3, 9.5))).to_dict(),
    ]


LIMITS = [
    0,
    1,
    -1,
    2,
    0.5,
    0.8,
    1.0,
    -1.0,
    1e-46,
    1 - 1e-17,
    1.0000001,
    2**20,
    2**20 + 1,
    2**53,
    2**53 + 1,
    10**9,
    10**400,
]
LIMITS += [math.nan, math.inf, -math.inf, 3.4e38, 3.5e38, 1e300, 5e-324, -0.0, True, False, None, "", [], {}]
NAMES = [
    "",
    "x",
    "crop",
    "centre",
    "zero",
    "neutral",
    "baseline",
    "control",
    "top",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "=1",
]
scalars = st.one_of(
    st.sampled_from(LIMITS), st.sampled_from(NAMES), st.integers(), st.floats(), st.text(max_size=5), st.booleans()
)
keys = st.sampled_from(["name", "layers", "version", "schema", "mode", "draw", "more", ""])
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a tree."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, originals: list[dict]) -> Any:
    """A report with one to four things changed; also none, seldom."""
    data = {"all": copy.deepcopy(draw(st.sampled_from(originals)))}
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 1, 2, 2, 3, 4, 0]))):
        path = draw(st.sampled_from([path for path in places(data) if path]))
        parent, key = at(data, path[:-1]), path[-1]
        what = draw(st.sampled_from(["junk", "scalar", "near", "remove", "twice", "swap", "other", "nest", "more"]))
        old = parent[key]
        if what == "junk":
            parent[key] = draw(junk)
        elif what == "scalar":
            parent[key] = draw(scalars)
        elif what == "near" and isinstance(old, (int, float)):
            parent[key] = old * draw(st.sampled_from([-1, 0, 2, 1.5])) + draw(st.sampled_from([-1, 0, 1, 0.01]))
        elif what == "remove" and path != ("all",):
            del parent[key]
        elif what == "twice" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(old))
        elif what == "swap" and isinstance(parent, list):
            other = draw(st.integers(0, len(parent) - 1))
            parent[key], parent[other] = parent[other], parent[key]
        elif what == "other":
            parent[key] = copy.deepcopy(at(data, draw(st.sampled_from([p for p in places(data) if p]))))
        elif what == "nest":
            parent[key] = [old]
        elif what == "more" and isinstance(parent, dict):
            parent[draw(keys)] = draw(junk)
    return data["all"]


@st.composite
def cut(draw: st.DrawFn, originals: list[dict]) -> bytes:
    """The bytes of a report with a few of them gone, changed or put in."""
    content = bytearray(json.dumps(draw(st.sampled_from(originals))).encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        what = draw(st.sampled_from(["end", "remove", "change", "put in", "digits"]))
        if what == "end":
            del content[place:]
        elif what == "remove":
            del content[place : place + draw(st.integers(1, 9))]
        elif what == "change":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=2))
        elif what == "put in":
            content[place:place] = draw(
                st.sampled_from([b"[" * 3000, b"9" * 5000, b"NaN", b"null", b"-", b"e9", b'"', b","])
            )
        else:
            content[place : place + 1] = draw(st.sampled_from([b"0", b"9", b"-1", b"1e9", b"true"]))
    return bytes(content)


def loaded(kind: Any, content: bytes) -> Any:
    """What a file of these bytes holds, None if it is refused as it should be; saved and loaded it is the same."""
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "mine.json", Path(folder) / "again.json"
        path.write_bytes(content)
        try:
            found = kind.load(path)
        except ValueError as error:
            assert type(error) is ValueError and str(path) in str(error) and len(str(error)) < 1000
            return None
        found.save(again)
        assert json.dumps(kind.load(again).to_dict()) == json.dumps(found.to_dict())
        return found


def as_json(data: Any) -> bytes:
    return json.dumps(data).encode()


def use_report(report: PANReport) -> None:
    """All that is done with a report, with what has to hold of any."""
    assert 0 < report.threshold < 1 and 0 <= report.fraction <= 1
    assert report.count == sum(report.count_by("layer").values()) == sum(cross_table(report).values())
    assert set(report.measured) | set(report.skipped) == set(report.layers)
    for name, line in report.measured.items():
        assert report.contrast(name).shape == report.effect(name).shape == (len(SIDES), line.channels)
        assert report.hits(name).any(0).tolist() == (margin(report.contrast(name), report.threshold) >= 0).tolist()
    for pan in report.pans:
        assert pan.sides and abs(pan.contrast[pan.strongest]) <= 1 and pan.kind and pan.sign
    assert len(report.strongest(3)) == min(3, report.count)
    assert report.summary().count("neurons are padding aware") >= 1
    assert len(report.markdown().splitlines()) >= 2
    report.table()
    entries = [Entry("a", "b", report, None)]
    assert table(entries).csv().count("\n") == 2 and notes(entries) == []
    layer_sides(report), depth_share(report)


def use_impact(impact: ImpactReport) -> None:
    """All that is done with the report of an impact."""
    assert impact.baseline.kind == "baseline" and len(impact.summary().splitlines()) >= 2
    for mode in impact.modes:
        assert impact.arm("pans", mode).mode == mode
        assert math.isnan(impact.likeness(mode)) or abs(impact.likeness(mode)) <= 1.001
        class_changes(impact, mode)
    impact_changes(impact)
    found = table([Entry("a", "b", PANReport({}), impact)])
    assert len(found.rows) == 1 and found.csv() and found.text()


@fuzzed(damaged(reports()).map(as_json), examples=150)
def test_a_report_with_anything_changed_is_whole_or_refused(content):
    report = loaded(PANReport, content)
    if report is not None:
        use_report(report)


@fuzzed(damaged(impacts()).map(as_json), examples=150)
def test_an_impact_with_anything_changed_is_whole_or_refused(content):
    impact = loaded(ImpactReport, content)
    if impact is not None:
        use_impact(impact)


@fuzzed(cut(reports()), examples=100)
def test_a_report_with_any_bytes_changed_is_whole_or_refused(content):
    report = loaded(PANReport, content)
    if report is not None:
        use_report(report)


@fuzzed(cut(impacts()), examples=100)
def test_an_impact_with_any_bytes_changed_is_whole_or_refused(content):
    impact = loaded(ImpactReport, content)
    if impact is not None:
        use_impact(impact)


@fuzzed(junk, examples=60)
def test_any_json_is_no_report(data):
    assert loaded(PANReport, as_json(data)) is None and loaded(ImpactReport, as_json(data)) is None


def test_what_is_damaged_is_loaded_if_nothing_is():
    """Else the tests above would say nothing."""
    assert all(loaded(PANReport, as_json(data)) is not None for data in reports())
    assert all(loaded(ImpactReport, as_json(data)) is not None for data in impacts())
