"""Which neurons a report calls padding aware, and that it survives being saved: from layers made by hand."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import SCHEMA_VERSION, PANReport
from pan_callbacks.reports.pans import NASCENT_EFFECT, PAN, margin

NAN = math.nan


def sides(*channels: dict[str, float], default: float = 0.0) -> torch.Tensor:
    """(8 sides, channels) from one dict a channel."""
    return torch.tensor([[channel.get(side, default) for channel in channels] for side in SIDES])


def layer(*contrast: dict[str, float], effect=None, default: float = 0.0, **kwargs) -> LayerReport:
    """A measured layer from what its channels have on each side."""
    options = {"reference": "crop", "images": 64, "border_bias": 0.25} | kwargs
    effects = sides(*([{}] * len(contrast) if effect is None else effect), default=default)
    return LayerReport(len(contrast), (3, 3), contrast=sides(*contrast, default=default), effect=effects, **options)


def report(*contrast: dict[str, float], **kwargs) -> PANReport:
    return PANReport({"conv": layer(*contrast, **kwargs)})


def only(found: PANReport) -> PAN:
    assert found.count == 1
    return found.pans[0]


# ---- which neurons are padding aware


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_neuron_over_the_threshold_on_an_edge_is_a_pan(side, sign):
    assert only(report({side: sign * 0.9})).sides == {side}


@pytest.mark.parametrize("corner", SIDES[4:])
def test_a_neuron_over_the_threshold_on_a_corner_alone_is_a_pan(corner):
    assert only(report({corner: 0.9})).sides == {corner}


@pytest.mark.parametrize("corner", SIDES[4:])
@pytest.mark.parametrize("which", [0, 1])
def test_a_corner_beside_a_weak_edge_is_no_pan(corner, which):
    assert report({corner: 0.95, corner.split("-")[which]: -0.5}).count == 0


@pytest.mark.parametrize("corner", SIDES[4:])
def test_a_corner_beside_a_hardly_noticeable_edge_is_a_pan(corner):
    assert report({corner: 0.95} | dict.fromkeys(corner.split("-"), 0.39)).count == 1


def test_a_weak_edge_elsewhere_does_not_disqualify_a_corner():
    assert only(report({"top-left": 0.9, "bottom": 0.7, "right": 0.7})).sides == {"top-left"}


def test_a_corner_that_accompanies_its_edge_does_not_count_as_another_neuron():
    assert report({"top": 0.9, "top-left": 0.95, "top-right": 0.95}).count == 1


def test_a_neuron_below_the_threshold_everywhere_is_no_pan():
    assert report(dict.fromkeys(SIDES, 0.79)).count == 0


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_a_contrast_at_the_threshold_counts(threshold):
    assert PANReport({"conv": layer({"top": threshold})}, threshold).count == 1


def test_sides_without_border_are_neither_pans_nor_in_the_way():
    assert only(report({"top": 0.9}, default=NAN)).contrast == {"top": pytest.approx(0.9)}


def test_a_corner_where_no_edge_has_a_border_counts():
    assert only(report({"top-left": 0.9}, default=NAN)).sides == {"top-left"}


def test_a_layer_without_any_border_has_no_pans():
    assert report({}, {}, default=NAN).count == 0


def test_channels_are_told_apart():
    found = report({}, {"top": 0.9}, {"left": 0.1}, {"right": -0.85})
    assert [pan.channel for pan in found.pans] == [1, 3]


@pytest.mark.parametrize("sides", [8, 10])
@pytest.mark.parametrize("known", [True, False])
def test_pans_of_a_layer_are_those_of_its_channels_one_by_one(sides, known):
    noise = torch.Generator().manual_seed(sides)
    values = {
        key: 2 * torch.rand(sides, 60, generator=noise) - 1
        for key in ("contrast", "effect", "consistency", "shift", "own", "earlier", "after", "error")
    }
    values["error"] = values["error"].abs() / 10
    values["contrast"][2, ::7] = math.nan
    values["own"][:, ::5] = math.nan
    if not known:
        values = {"contrast": values["contrast"]}
    counts = {"groups": (8,) * sides, "clusters": (64,) * sides} if known else {}
    kernel = (3,) * (2 if sides == 8 else 3)
    found = LayerReport(60, kernel, **values, **counts).pans("conv", 0.6)
    assert len(found) > 10
    alone = []
    for channel in range(60):
        own = {key: value[:, channel : channel + 1] for key, value in values.items()}
        for pan in LayerReport(1, kernel, **own, **counts).pans("conv", 0.6):
            alone.append(replace(pan, channel=channel))
    assert found == alone
    assert {pan.origin for pan in found} == ({"nascent", "inherited", "both", "neither"} if known else {"inherited"})


def test_pans_come_in_the_order_of_the_model():
    found = PANReport({"b": layer({"top": 0.9}, {"top": 0.81}), "a": layer({"top": 1.0})})
    assert [(pan.layer, pan.channel) for pan in found.pans] == [("b", 0), ("b", 1), ("a", 0)]


def test_a_pan_knows_the_contrast_of_every_side_with_a_border():
    contrast = {"top": 0.9, "left": -0.25}
    assert only(report(contrast, default=NAN)).contrast == pytest.approx(contrast)


def test_the_margin_agrees_with_a_loop_over_sides_and_channels():
    contrast = torch.rand(8, 4000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    contrast[torch.rand(8, 4000, generator=torch.Generator().manual_seed(1)) < 0.1] = NAN
    contrast[:4] *= 0.85  # so that corners alone occur

    def loop(values: dict[str, float]) -> bool:
        size = {side: 0.0 if math.isnan(value) else abs(value) for side, value in values.items()}
        if any(size[edge] >= 0.8 for edge in ("top", "bottom", "left", "right")):
            return True
        return any(size[c] >= 0.8 and all(size[edge] < 0.4 for edge in c.split("-")) for c in SIDES if "-" in c)

    expected = [loop(dict(zip(SIDES, column, strict=True))) for column in contrast.T.tolist()]
    assert (margin(contrast, 0.8) >= 0).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_corner_whose_edge_is_at_half_the_threshold_is_none_of_its_own(dtype):
    contrast = torch.zeros(8, 3, dtype=dtype)
    contrast[4] = 0.9  # top-left
    contrast[0] = torch.tensor([0.4, 0.3999, 0.4001])
    assert (margin(contrast, 0.8) >= 0).tolist() == [False, True, False]


# ---- what is said about one


@pytest.mark.parametrize(
    "over, kind",
    [
        (["top"], "top"),
        (["right", "top"], "top+right"),
        (["top", "top-left", "top-right"], "top"),
        (["top-left"], "top-left"),
        (["top-left", "bottom-right"], "top-left+bottom-right"),
        (["left", "top-right"], "left+top-right"),
        (list(SIDES), "top+bottom+left+right"),
    ],
)
def test_kind_names_a_corner_only_where_no_edge_of_it_is_named(over, kind):
    assert PAN("conv", 0, frozenset(over), {}, {}, "nascent").kind == kind


def test_strongest_is_the_side_of_largest_absolute_contrast():
    assert only(report({"top": 0.85, "left": -0.95, "right": 0.9})).strongest == "left"


def test_a_corner_that_accompanies_an_edge_is_not_the_strongest_side():
    assert only(report({"top": 0.85, "top-left": 0.99})).strongest == "top"


def test_strongest_of_a_pan_in_corners_alone_is_a_corner():
    assert only(report({"top-left": 0.85, "bottom-right": -0.95})).strongest == "bottom-right"


def test_a_pan_that_reads_the_padding_itself_is_nascent():
    assert only(report({"top": 0.9}, effect=[{"top": 0.7}])).origin == "nascent"


def test_the_sign_of_the_padding_effect_is_irrelevant_to_the_origin():
    assert only(report({"top": 0.9}, effect=[{"top": -0.7}])).origin == "nascent"


def test_a_pan_whose_padding_does_little_is_inherited():
    assert only(report({"top": 0.9}, effect=[{"top": 0.3}])).origin == "inherited"


def test_a_padding_effect_at_the_limit_counts_as_nascent():
    assert only(report({"top": 0.9}, effect=[{"top": NASCENT_EFFECT}])).origin == "nascent"


def test_a_padding_effect_on_a_side_where_it_is_no_pan_does_not_make_it_nascent():
    assert only(report({"top": 0.9}, effect=[{"bottom": 3.0}])).origin == "inherited"


def test_one_side_with_a_padding_effect_among_several_is_enough():
    assert only(report({"top": 0.9, "left": 0.9}, effect=[{"left": 3.0}])).origin == "nascent"


def test_a_padding_effect_that_is_missing_makes_a_pan_inherited():
    assert only(report({"top": 0.9}, default=NAN)).origin == "inherited"


def test_a_layer_whose_padding_effects_were_not_measured_has_pans_without_effects():
    line = LayerReport(1, (3, 3), contrast=sides({"top": 0.9}))
    assert only(PANReport({"conv": line})).effect == {}


# ---- counts


def mixed() -> PANReport:
    """Two measured layers with three PANs, and three left out."""
    effect = [{"top": 2.0}, {}, {}, {}]
    first = layer({"top": 0.9, "left": -0.82}, {}, {"top": -0.95}, {}, effect=effect, border_bias=0.5)
    second = layer({"top-left": 1.0}, {}, border_bias=0.1)
    left_out = {
        "stem": LayerReport(8, (7, 7), skipped="no padding"),
        "down": LayerReport(16, (1, 1), skipped="1×1 kernel"),
        "proj": LayerReport(16, (1, 1), skipped="1×1 kernel"),
    }
    return PANReport({"first": first, "second": second, **left_out}, notes=("Only 3 images were seen.",))


def test_count_is_the_number_of_pans():
    assert mixed().count == 3


def test_neurons_are_those_of_measured_layers():
    assert mixed().neurons == 6


def test_fraction_is_of_the_measured_neurons():
    assert mixed().fraction == pytest.approx(3 / 6)


def test_count_by_layer_has_every_measured_layer():
    found = PANReport({"a": layer({"top": 0.9}), "b": layer({}), "c": LayerReport(4, (1, 1), skipped="1×1 kernel")})
    assert found.count_by_layer() == {"a": 1, "b": 0}


def test_count_by_side_counts_a_neuron_on_each_of_its_sides():
    expected = dict.fromkeys(SIDES, 0) | {"top": 2, "left": 1, "top-left": 1}
    assert mixed().count_by_side() == expected


def test_border_bias_is_the_mean_over_layers():
    assert mixed().border_bias == pytest.approx(0.3)


def test_border_bias_leaves_out_layers_that_have_none():
    found = PANReport({"a": layer({}, border_bias=0.4), "b": layer({}, border_bias=NAN)})
    assert found.border_bias == pytest.approx(0.4)


def test_strongest_come_by_falling_contrast():
    assert [(pan.layer, pan.channel) for pan in mixed().strongest()] == [("second", 0), ("first", 2), ("first", 0)]


def test_strongest_are_limited():
    assert len(mixed().strongest(2)) == 2


def test_layers_cannot_be_changed():
    with pytest.raises(TypeError):
        mixed().layers["new"] = layer({})


def test_contrast_of_a_layer_is_sides_by_channels():
    assert mixed().contrast("first").shape == (8, 4)


@pytest.mark.parametrize("what", ["contrast", "effect"])
def test_figures_of_a_layer_that_was_left_out_are_nan(what):
    found = getattr(mixed(), what)("stem")
    assert found.shape == (8, 8) and found.isnan().all()


@pytest.mark.parametrize("what", ["contrast", "effect"])
def test_an_unknown_layer_is_named_with_those_there_are(what):
    with pytest.raises(KeyError, match="'head'.*first, second"):
        getattr(mixed(), what)("head")


# ---- in words


def test_summary_says_how_many():
    assert "3 of 6 neurons are padding aware (50.0%) at |contrast| >= 0.8" in mixed().summary()


def test_summary_says_of_which_origin():
    assert "1 nascent, 2 inherited" in mixed().summary()


def test_the_line_of_the_count_says_how_many_neurons_were_left_to_the_centre():
    layers = {"a": layer({"top": 0.9}), "b": layer({}, {}, reference="centre"), "c": layer({}, reference="windows")}
    said = "1 of 4 neurons are padding aware (25.0%) at |contrast| >= 0.8: 0 nascent, 1 inherited"
    centre = "were compared with the centre of their own map, where content deceives."
    assert PANReport(layers).summary().splitlines()[0] == f"{said}; 2 of the 4 {centre}"
    assert PANReport({"b": layers["b"]}).summary().splitlines()[0].endswith(f"; all 2 {centre}")
    assert PANReport(layers).markdown().startswith(f"{said}; 2 of the 4 {centre}")


def test_a_centre_that_was_asked_for_needs_no_word():
    lines = PANReport({"b": layer({}, reference="centre")}, reference="centre").summary().splitlines()
    assert lines[0] == "0 of 1 neurons are padding aware (0.0%) at |contrast| >= 0.8: 0 nascent, 0 inherited."


def test_summary_says_on_which_sides():
    assert "by side: top 2, left 1, top-left 1" in mixed().summary()


def test_summary_says_what_was_left_out_and_why():
    assert "2 layers measured, 3 left out (2× 1×1 kernel; 1× no padding)" in mixed().summary()


def test_summary_ends_with_the_notes():
    assert mixed().summary().splitlines()[-1] == "Only 3 images were seen."


def test_summary_without_pans_has_no_line_of_sides():
    assert "by side" not in report({}, {}).summary()


def test_summary_has_no_blank_lines():
    assert all(report({}, {}).summary().splitlines())


def test_markdown_has_a_row_for_every_pan():
    rows = [line for line in mixed().markdown().splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| second | 0 | top-left | +1.00 | +0.00 | inherited |",
        "| first | 2 | top | -0.95 | +0.00 | inherited |",
        "| first | 0 | top+left | +0.90 | +2.00 | nascent |",
    ]


def test_every_row_of_the_markdown_table_has_as_many_cells():
    rows = [line for line in mixed().markdown().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {7}


def test_markdown_shows_a_dash_for_an_effect_that_is_missing_and_no_column_of_them():
    some = report({"top": 0.9}, {"top": 0.95}, effect=[{}, {"top": 2.0}], default=NAN).markdown()
    assert "| +0.90 | - | inherited |" in some and "| +0.95 | +2.00 | nascent |" in some
    assert "| +0.90 | inherited |" in report({"top": 0.9}, default=NAN).markdown()


def test_markdown_is_limited():
    rows = [line for line in mixed().markdown(limit=1).splitlines() if line.startswith("| ")]
    assert len(rows) == 2


def test_repr_says_count_and_threshold():
    assert repr(mixed()) == "PANReport(count=3, neurons=6, threshold=0.8, reference='crop')"


# ---- as a table


def printed(table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 120])
def test_table_fits_the_terminal(width):
    assert max(map(len, printed(mixed().table(), width).splitlines())) <= width


@pytest.mark.parametrize("cell", ["second", "first", "+1.00", "-0.95", "+2.00", "nascent", "top-left", "top+left"])
def test_table_shows_every_pan(cell):
    assert cell in printed(mixed().table(), 120)


@pytest.mark.parametrize("width", [60, 120])
def test_table_shows_long_layer_names_and_sides_in_full(width):
    name = "features.denseblock4.denselayer16.conv2"
    found = PANReport({name: layer(dict.fromkeys(SIDES, 0.9), effect=[{"top": -12.25}])})
    lines = [line.split("│") for line in printed(found.table(), width).splitlines() if line.startswith("│")]
    columns = ["".join(cells).replace(" ", "") for cells in zip(*lines, strict=True)]
    assert columns[1:-1] == [name, "0", "top+bottom+left+right", "+0.90", "-12.25", "nascent"]


def test_table_shows_brackets_in_layer_names():
    assert "blocks[left].conv" in printed(PANReport({"blocks[left].conv": layer({"top": 0.9})}).table(), 120)


def test_table_says_when_it_shows_only_the_strongest():
    assert "strongest 2 of 3" in printed(mixed().table(limit=2), 120)


def test_table_with_all_pans_does_not_speak_of_the_strongest():
    assert "strongest" not in printed(mixed().table(), 120)


# ---- nothing measured


def test_an_empty_report_has_no_pans():
    assert (PANReport({}).count, PANReport({}).pans, PANReport({}).fraction) == (0, (), 0.0)


def test_an_empty_report_has_no_border_bias():
    assert math.isnan(PANReport({}).border_bias)


def test_an_empty_report_has_a_summary():
    assert PANReport({}).summary().splitlines() == [
        "0 of 0 neurons are padding aware (0.0%) at |contrast| >= 0.8: 0 nascent, 0 inherited.",
        "0 layers measured, 0 left out.",
    ]


def test_an_empty_report_has_a_table_of_headings():
    assert "contrast" in printed(PANReport({}).table(), 120)


def test_an_empty_report_is_saved_and_loaded(tmp_path):
    PANReport({}).save(tmp_path / "pans.json")
    assert dict(PANReport.load(tmp_path / "pans.json").layers) == {}


# ---- saved and loaded


def full() -> PANReport:
    """Every field set, with figures that have no short decimal and with missing ones."""
    generator = torch.Generator().manual_seed(0)
    contrast = torch.rand(8, 5, generator=generator) * 2 - 1
    effect = torch.randn(8, 5, generator=generator) * 1e-5
    contrast[3], effect[3] = NAN, NAN
    measured = LayerReport(
        channels=5,
        kernel_size=(3, 5),
        stride=(2, 1),
        reference="mirror",
        reason="crop: the map is too small",
        output_size=(7, 9),
        leftover=(1, 0),
        images=256,
        border_bias=1 / 3,
        drift=0.1,
        contrast=contrast,
        effect=effect,
    )
    layers = {"größe.conv1": measured, "head": LayerReport(4, (1, 1), skipped="1×1 kernel")}
    return PANReport(layers, 0.7, "crop", ("Few images.", "Zwölf Bilder."))


@pytest.fixture
def loaded(tmp_path) -> PANReport:
    full().save(tmp_path / "pans.json")
    return PANReport.load(tmp_path / "pans.json")


@pytest.mark.parametrize("key", ["contrast", "effect"])
def test_tensors_come_back_bit_by_bit(loaded, key):
    before, after = (getattr(one.layers["größe.conv1"], key) for one in (full(), loaded))
    assert torch.equal(before.view(torch.int32), after.view(torch.int32))


@pytest.mark.parametrize("name", ["größe.conv1", "head"])
def test_every_other_field_of_a_layer_comes_back(loaded, name):
    before, after = (vars(one.layers[name]) for one in (full(), loaded))
    keys = [key for key in before if key not in ("contrast", "effect")]
    assert repr([after[key] for key in keys]) == repr([before[key] for key in keys])


def test_tensors_of_a_layer_that_was_left_out_come_back_as_none(loaded):
    assert loaded.layers["head"].contrast is None and loaded.layers["head"].effect is None


def test_threshold_reference_and_notes_come_back(loaded):
    assert (loaded.threshold, loaded.reference, loaded.notes) == (0.7, "crop", ("Few images.", "Zwölf Bilder."))


def test_layers_come_back_in_order(loaded):
    assert list(loaded.layers) == ["größe.conv1", "head"]


def test_pans_come_back(loaded):
    assert loaded.pans == full().pans


def test_summary_comes_back(loaded):
    assert loaded.summary() == full().summary()


def test_a_layer_without_channels_comes_back(tmp_path):
    empty = LayerReport(0, (3, 3), contrast=torch.empty(8, 0), effect=torch.empty(8, 0))
    PANReport({"conv": empty}).save(tmp_path / "pans.json")
    assert PANReport.load(tmp_path / "pans.json").contrast("conv").shape == (8, 0)


def test_the_file_is_json_that_other_languages_read(tmp_path):
    full().save(tmp_path / "pans.json")

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "pans.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert [layer["name"] for layer in read["layers"]] == list(full().layers)


def test_saving_makes_the_folder(tmp_path):
    full().save(tmp_path / "a" / "b" / "pans.json")
    assert (tmp_path / "a" / "b" / "pans.json").exists()


def test_saving_takes_a_string(tmp_path):
    full().save(f"{tmp_path}/pans.json")
    assert PANReport.load(f"{tmp_path}/pans.json").count == full().count


def test_saving_leaves_no_other_file(tmp_path):
    full().save(tmp_path / "pans.json")
    assert [path.name for path in tmp_path.iterdir()] == ["pans.json"]


def test_saving_replaces_an_earlier_report(tmp_path):
    full().save(tmp_path / "pans.json")
    mixed().save(tmp_path / "pans.json")
    assert PANReport.load(tmp_path / "pans.json").count == mixed().count


def test_a_report_that_cannot_be_written_as_json_leaves_the_earlier_one(tmp_path):
    full().save(tmp_path / "pans.json")
    with pytest.raises(TypeError):
        PANReport({}, notes=(object(),)).save(tmp_path / "pans.json")
    assert PANReport.load(tmp_path / "pans.json").count == full().count


def test_a_report_that_cannot_take_its_place_leaves_no_part_of_itself(tmp_path):
    (tmp_path / "pans.json").mkdir()
    with pytest.raises(OSError):
        full().save(tmp_path / "pans.json")
    assert [path.name for path in tmp_path.iterdir()] == ["pans.json"]


# ---- files that are no reports


def damage(data: dict, change) -> str:
    change(data)
    return json.dumps(data)


DAMAGES = {
    "no layers": lambda data: data.pop("layers"),
    "no threshold": lambda data: data.pop("threshold"),
    "layers are a number": lambda data: data.update(layers=5),
    "a layer is a word": lambda data: data.update(layers=["conv"]),
    "a layer without a name": lambda data: data["layers"][0].pop("name"),
    "a layer without a contrast": lambda data: data["layers"][0].pop("contrast"),
    "a contrast in words": lambda data: data["layers"][0].update(contrast="high"),
    "a contrast with a word in it": lambda data: data["layers"][0]["contrast"][0].__setitem__(0, "high"),
    "a ragged contrast": lambda data: data["layers"][0]["contrast"][0].pop(),
    "a contrast of seven sides": lambda data: data["layers"][0]["contrast"].pop(),
    "a contrast of fewer channels": lambda data: [row.pop() for row in data["layers"][0]["contrast"]],
    "a contrast that is empty": lambda data: data["layers"][0].update(contrast=[]),
    "a number for a kernel size": lambda data: data["layers"][0].update(kernel_size=3),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_report_is_refused_with_the_file_named(change, tmp_path):
    path = tmp_path / "pans.json"
    path.write_text(damage(full().to_dict(), change))
    with pytest.raises(ValueError, match="pans.json"):
        PANReport.load(path)


OTHER_FILES = {
    "empty": b"",
    "text": b"no JSON at all",
    "cut off": json.dumps({"schema": "pan_callbacks.report", "version": 1}).encode()[:-5],
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "null": b"null",
    "other JSON": b'{"name": "package"}',
    "another schema": b'{"schema": "pan_callbacks.impact", "version": 1}',
    "no version": b'{"schema": "pan_callbacks.report"}',
    "a version in words": b'{"schema": "pan_callbacks.report", "version": "one"}',
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_a_file_that_is_no_report_is_refused_with_the_file_named(content, tmp_path):
    (tmp_path / "pans.json").write_bytes(content)
    with pytest.raises(ValueError, match="pans.json"):
        PANReport.load(tmp_path / "pans.json")


def test_a_report_of_a_later_version_is_refused_with_both_versions_named(tmp_path):
    data = full().to_dict() | {"version": SCHEMA_VERSION + 1}
    (tmp_path / "pans.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"pans.json: schema version {SCHEMA_VERSION + 1}.* up to {SCHEMA_VERSION}"):
        PANReport.load(tmp_path / "pans.json")


def test_a_file_that_is_not_there_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="pans.json"):
        PANReport.load(tmp_path / "pans.json")


def test_keys_that_this_version_does_not_know_are_passed_over(tmp_path):
    data = full().to_dict() | {"comment": "mine"}
    (tmp_path / "pans.json").write_text(json.dumps(data))
    assert PANReport.load(tmp_path / "pans.json").pans == full().pans


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))])
def test_a_report_can_be_copied_and_pickled(how):
    found = report({"top": 0.9})
    assert how(found).to_dict() == found.to_dict() and how(found).pans == found.pans
