"""Files that look like reports and are none: each is refused with the file, the field and the value."""

from __future__ import annotations

import copy
import json
import os
import re
import tracemalloc

import pytest
import torch

from pan_callbacks.measurement.reference import FALLBACKS
from pan_callbacks.reports._json import read_json, write_json
from pan_callbacks.reports.impact_report import Arm, ClassChanges, ImpactReport
from pan_callbacks.reports.layer_report import REFERENCES, LayerReport
from pan_callbacks.reports.pan_report import PANReport
from tests.support.synthetic import layer


def report() -> dict:
    left_out = LayerReport(4, (1, 1), skipped="1×1 kernel")
    return PANReport({"conv": layer(2, {0: {"top": 0.9}}, images=5, drift=0.1), "head": left_out}).to_dict()


def impact() -> dict:
    classes = ClassChanges(torch.tensor([3, 4]), *torch.zeros(6, 2), 0.5, 0.25)
    arms = [Arm("baseline", "", 0, 0.75, classes=classes)]
    arms += [Arm("pans", "zero", 4, 0.5, None, (-0.4, -0.1), 0.25, 0.5, classes)]
    arms += [Arm("control", "zero", 4, 0.7, draw, (-0.4, -0.1), 0.25, 0.5, classes) for draw in range(2)]
    return ImpactReport("accuracy", 7, tuple(arms), ("cat", "dog"), ("a note",)).to_dict()


def put(data: dict, where: str, value: object) -> dict:
    """The data with another value at ``layers[0].contrast[0][1]`` or the like."""
    data = copy.deepcopy(data)
    *path, last = [int(key) if key.isdecimal() else key for key in re.findall(r"\w+", where)]
    place = data
    for key in path:
        place = place[key]
    place[last] = value
    return data


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


HUGE = 10**400
WRONG = [
    *(("threshold", value) for value in (-1, 0, 1, 9, "x", "0.8", None, True, [0.8], {}, HUGE)),
    *(("reference", value) for value in ("corner", "", None, 3, ["crop"], True)),
    *(("notes", value) for value in (None, 3, "a note", {"a": 1}, [3], [None], [["a"]])),
    *(("sides", value) for value in (None, [], ["top"], "top", 8, ["left"] * 8)),
    *(("version", value) for value in (True, 0, -1, 2, 1.0, "1", None, [1], HUGE)),
    *(("layers", value) for value in (None, 3, "conv", {}, [None], [[]], ["conv"], [{}])),
    *(("layers[0].name", value) for value in (None, 3, True, ["conv"], {}, 1.5)),
    *(("layers[0].channels", value) for value in (-1, 10**9, HUGE, 2.0, 3, "2", True, None, [2])),
    *(("layers[1].channels", value) for value in (-1, 10**9, HUGE, 4.5, "4", True, None)),  # it has no contrast
    *((f"layers[0].{name}", value) for name in ("kernel_size", "stride") for value in (3, [3], [3, 3, 3], [0, 3])),
    *((f"layers[0].{name}", value) for name in ("kernel_size", "stride") for value in (None, "33", [-3, 3], [3.5, 3])),
    *(
        (f"layers[0].{name}", [3, value])
        for name in ("kernel_size", "output_size")
        for value in (True, "3", None, HUGE)
    ),
    *((f"layers[0].{name}", value) for name in ("output_size", "leftover") for value in ([-1, 2], [1], 7, "77", {})),
    *(("layers[0].reference", value) for value in ("corner", 3, True, ["crop"])),
    *((f"layers[0].{name}", value) for name in ("reason", "pad", "skipped") for value in (3, True, ["a"], {})),
    ("layers[0].skipped", "no padding"),  # and a contrast all the same
    ("layers[1].skipped", None),  # and no contrast
    *(("layers[0].images", value) for value in (-1, 1.5, "5", None, True, HUGE)),
    *(("layers[0].border_bias", value) for value in (-0.5, "x", True, [1], 1e300, HUGE)),
    *(("layers[0].drift", value) for value in (-0.5, 1.5, "x", False, [1])),
    *(("layers[0].contrast", value) for value in (None, 3, "high", [], {}, [[]], [[0.0, 0.0]] * 7, [[0.0]] * 8)),
    *(("layers[0].contrast[2]", value) for value in (None, 0.5, "ab", [0.5], [0.1, 0.2, 0.3], {})),
    *(("layers[0].contrast[2][1]", value) for value in (9, -1.5, "high", True, [0.5], {}, HUGE)),
    *(("layers[0].effect[2][1]", value) for value in (1e300, "high", True, [0.5], {}, HUGE)),
    *(("layers[0].effect", value) for value in (3, [], [[0.0, 0.0]] * 9)),
    *(("layers[0].mean", value) for value in (3, [], [1.0], [1.0, "2"], [[1.0, 2.0]], "ab", [1.0, 1e300])),
]


@pytest.mark.parametrize(("where", "value"), WRONG, ids=[f"{where}={str(value)[:20]}" for where, value in WRONG])
def test_a_wrong_value_in_a_report_is_named_with_the_file_and_the_field(where, value, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(put(report(), where, value)))
    with pytest.raises(ValueError, match="mine.json") as caught:
        PANReport.load(tmp_path / "mine.json")
    field = re.findall(r"[a-z_]+", where)[-1]
    assert field in str(caught.value) or "contrast" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("threshold", -1, "threshold is -1: a number between 0 and 1 is needed"),
        ("layers[0].contrast[2][1]", 9, "layers[0].contrast[2][1] is 9: a number from -1 to 1 is needed"),
        ("layers[0].channels", 10**9, "layers[0].channels is 1000000000: a whole number from 0 to 1048576 is needed"),
        ("version", True, "schema version True, this version of pan_callbacks reads up to 1"),
        ("reference", "corner", "reference is 'corner': one of 'crop', 'zoom', 'windows', 'mirror', 'centre' is"),
        ("layers[1].name", "conv", "layers[1].name is 'conv', which another layer has"),
        ("layers[1].name", "\x1b[2J\u202e", "layers[1].skipped"),
    ],
)
def test_the_message_says_what_is_there_and_what_is_needed(where, value, words, tmp_path):
    data = put(report(), where, value)
    if words.endswith("skipped"):
        data = put(data, "layers[1].skipped", 3)
    with pytest.raises(ValueError) as caught:
        PANReport.from_dict(data)
    assert words in str(caught.value) and "\x1b" not in str(caught.value)


WRONG_IMPACTS = [
    *(("metric", value) for value in (None, 3, True, ["accuracy"])),
    *(("images", value) for value in (-1, 1.5, None, True, "7", HUGE)),
    *(("class_names", value) for value in (3, "cat", [3], [None, "dog"], {"cat": 0})),
    *(("notes", value) for value in (None, 3, "a note", [3])),
    *(("version", value) for value in (True, 0, -1, 2, "1", None)),
    *(("arms", value) for value in (None, 3, [], {}, [None], [3], ["ab"], [{}])),
    *(("arms[1].kind", value) for value in ("baseline", "control", "other", None, 3, ["pans"])),
    *(("arms[1].mode", value) for value in ("", "../../x", None, 3, ["zero"])),
    *(("arms[0].mode", value) for value in ("zero", None)),
    *(("arms[1].neurons", value) for value in (-1, 1.5, None, True, HUGE)),
    *(("arms[1].value", value) for value in (7, -0.5, "0.5", True, [0.5], HUGE)),
    *(("arms[1].draw", value) for value in (0, "0", True, 1.5)),
    *(("arms[3].draw", value) for value in (0, 2, None, True, -1)),
    *(("arms[1].interval", value) for value in (3, [1], [1, 2, 3], ["a", "b"], {}, [True, 1])),
    *(("arms[1].kl", value) for value in ("0", True, [1], HUGE)),
    *(("arms[1].flips", value) for value in (-0.5, 1.5, "0", True)),
    *(("arms[1].classes", value) for value in (3, [], {}, "ab", [1])),
    *(
        ("arms[1].classes.images", value)
        for value in (3, None, [1], [1, -1], [1, 1.5], [1, HUGE], [1, None], [True, 1])
    ),
    *(("arms[1].classes.change", value) for value in (3, None, [1.0], [0.0, 9], [0.0, "1"], [[0.0], [1.0]])),
    *(("arms[1].classes.split_half", value) for value in (9, "x", [], True)),
]


@pytest.mark.parametrize(
    ("where", "value"), WRONG_IMPACTS, ids=[f"{where}={str(value)[:20]}" for where, value in WRONG_IMPACTS]
)
def test_a_wrong_value_in_an_impact_report_is_named_with_the_file_and_the_field(where, value, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(put(impact(), where, value)))
    with pytest.raises(ValueError, match="mine.json") as caught:
        ImpactReport.load(tmp_path / "mine.json")
    assert re.findall(r"[a-z_]+", where)[-1] in str(caught.value)


FILES = {
    "NaN": json.dumps(report()).replace("0.8", "NaN", 1),
    "Infinity": json.dumps(report()).replace("0.8", "Infinity", 1),
    "-Infinity": json.dumps(report()).replace("0.8", "-Infinity", 1),
    "a float without end": json.dumps(report()).replace("0.8", "1e999", 1),
    "a whole number of 5000 digits": json.dumps(report()).replace("0.8", "9" * 5000, 1),
    "lists within lists": deep(100_000),
    "lists within lists in a field": json.dumps(report()).replace("0.8", deep(100_000), 1),
    "lists within lists in a contrast": json.dumps(report()).replace("0.0", deep(900), 1),
    "objects within objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "UTF-16": json.dumps(report()).encode("utf-16"),
}


@pytest.mark.parametrize("kind", [PANReport, ImpactReport])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_what_no_report_can_hold_is_refused_with_the_file_named(kind, content, tmp_path):
    (tmp_path / "mine.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="mine.json"):
        kind.load(tmp_path / "mine.json")


@pytest.mark.parametrize("kind", [PANReport, ImpactReport])
def test_data_that_no_file_can_hold_are_refused_as_well(kind):
    endless: list = []
    endless.append(endless)
    for value in (endless, 10**6000, {1, 2}, object(), b"bytes"):
        for field in ("version", "notes", "threshold" if kind is PANReport else "images"):
            data = report() if kind is PANReport else impact()
            with pytest.raises(ValueError, match=field):
                kind.from_dict({**data, field: value})


def test_a_few_bytes_do_not_ask_for_all_memory(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(put(report(), "layers[1].channels", 10**9)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="channels is 1000000000"):
        PANReport.load(tmp_path / "mine.json")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_references_are_those_that_can_be_measured():
    assert set(REFERENCES) == set(FALLBACKS)


def test_a_pipe_that_has_the_name_of_a_report_is_replaced_and_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "pans.json")
    write_json(tmp_path / "pans.json", [1])
    assert read_json(tmp_path / "pans.json", lambda data: data) == [1]
