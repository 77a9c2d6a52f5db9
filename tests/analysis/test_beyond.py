"""All that goes beyond the contrast, put together: for a reader, for a spreadsheet, and as plain data."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.analysis.beyond import Beyond, beyond
from pan_callbacks.analysis.paired_maps import NO_PAIRS
from tests.support import planted
from tests.support.synthetic import report_on

DETECTORS = len(planted.RECIPES)


@pytest.fixture(scope="module")
def found() -> Beyond:
    net, images = planted.chain(3).model.eval(), planted.stationary(16, 32)
    return beyond(net, images.split(5), scan(net, [images], progress=False))


def test_every_layer_has_a_line_in_the_models_order(found):
    assert list(found.layers) == ["first", "second", "third"]
    assert found.skipped == {}
    assert found.images == 16


def test_counts_are_those_of_neurons_that_answer_on_an_edge(found):
    on_edges = sum(any(side in planted.EDGES for side in truth.sides) for truth in truths("first"))
    assert found.layers["first"].over(0.8) == [on_edges, 0, 0, 0]
    assert int(found.layers["first"].pans.sum()) == DETECTORS


def truths(layer: str):
    return [truth for (name, _), truth in planted.chain(3).truth.items() if name == layer]


def test_planted_neurons_change_their_level_and_those_that_are_no_pans_nothing(found):
    assert [found.spread_alone(layer) for layer in found.layers] == [(0, 0)] * 3
    assert found.inwards(pans=False) == [(0.0, 0.0)] * 4
    assert found.inwards(pans=True)[0] == (1.0, 1.0)


def test_the_table_has_a_row_for_each_layer_and_all_its_columns_have_a_place(found):
    table = found.table()
    assert [row[0] for row in table.rows] == list(found.layers)
    assert table.rows[0][1:3] == (str(DETECTORS), " / ".join(map(str, found.layers["first"].over(0.8))))
    assert len(table.head) == 8


def test_the_csv_says_the_same(found):
    rows = list(csv.DictReader(found.csv().splitlines()))
    assert [row["layer"] for row in rows] == list(found.layers)
    for row, layer in zip(rows, found.layers.values(), strict=True):
        assert [int(row[f"over {i}"]) for i in range(4)] == layer.over(0.8)
        assert float(row["population accuracy"]) == pytest.approx(layer.population, abs=1e-5)
        sizes = layer.size[~layer.size.isnan()].sort().values  # one neuron of the second layer is constant
        assert float(row["pattern median"]) == pytest.approx(float(sizes[round((len(sizes) - 1) / 2)]), rel=1e-5)
        assert float(row["median of PANs 0"]) == 1.0


def test_as_plain_data_it_is_json(found):
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["schema"] == "pan_callbacks.beyond"
    assert sum(plain["layers"]["second"]["pans"]) == int(found.layers["second"].pans.sum())


def test_what_has_no_pairs_is_left_out_with_its_reason():
    net, images = planted.single(3).model.eval(), planted.stationary(4, 24)
    found = beyond(net, [images], scan(net, [images], reference="centre", progress=False))
    assert found.layers == {}
    assert found.skipped == {"conv": NO_PAIRS}
    assert found.images == 0
    assert found.table().rows == ()


def test_one_image_is_too_few_for_what_needs_others():
    net = planted.single(3).model.eval()
    images = planted.stationary(8, 32)
    layer = beyond(net, [images[:1]], scan(net, [images], progress=False)).layers["conv"]
    assert not layer.changed.any()
    assert layer.population != layer.population  # NaN
    assert layer.over(0.8)[0] > 0


def test_without_images_there_is_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    assert beyond(net, [], report_on(net, {})).layers == {}


def test_images_of_another_size_are_passed_over():
    net, images = planted.single(3).model.eval(), planted.stationary(8, 32)
    report = scan(net, [images], progress=False)
    mixed = beyond(net, [images, planted.stationary(8, 40)], report)
    assert torch.equal(mixed.layers["conv"].contrast, beyond(net, [images], report).layers["conv"].contrast)
