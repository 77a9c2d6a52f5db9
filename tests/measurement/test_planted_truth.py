"""Reports against the truth: networks whose padding aware neurons were planted."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pan_callbacks import PANReport, masked, scan
from tests.support import planted
from tests.support.planted import SIDES, Planted
from tests.support.sampling import sampled

IMAGES = 32
CONTENTS = {"stationary": planted.stationary, "positional": planted.positional}
MAKERS = {
    f"{name} {kernel}×{kernel} tap {reach} off stride {stride}": (maker, kernel, reach, stride)
    for name, maker in (("full", planted.single), ("depthwise", planted.depthwise))
    for kernel, reach in ((3, 1), (5, 2), (5, 1), (7, 3), (7, 2), (7, 1))
    for stride in (1, 2)
}


@pytest.fixture(scope="module", params=CONTENTS)
def content(request):
    return CONTENTS[request.param]


def found(report: PANReport) -> dict:
    """Layer and channel of every PAN, to its sides with their signs and its origin."""
    return {
        (pan.layer, pan.channel): ({side: 1 if pan.contrast[side] > 0 else -1 for side in pan.sides}, pan.origin)
        for pan in report.pans
    }


def true(network: Planted) -> dict:
    return {key: (dict(truth.signs), truth.origin) for key, truth in network.truth.items()}


def largest_contrast(report: PANReport, neurons) -> float:
    contrasts = torch.stack([report.contrast(layer)[:, channel] for layer, channel in neurons])
    assert not contrasts.isnan().all(1).any()
    return float(contrasts.abs().nan_to_num(0.0).max())


def sides_of(report: PANReport, layer: str) -> set[str]:
    has_border = ~report.contrast(layer).isnan()
    assert torch.equal(has_border.all(1), has_border.any(1))
    return {side for side, present in zip(report.sides, has_border.all(1).tolist(), strict=True) if present}


def assert_true(report: PANReport, network: Planted) -> None:
    """Every planted neuron is found and no other, with exact sides, signs and origins."""
    assert found(report) == true(network)
    assert largest_contrast(report, network.distractors) == 0.0
    assert {layer: sides_of(report, layer) for layer in network.sides} == network.sides


def references(report: PANReport) -> dict:
    return {name: layer.reference for name, layer in report.layers.items()}


def test_the_plan_says_what_is_written_here():
    truth = planted.single(3).truth
    told = {tuple(recipe.items()): truth["conv", i].signs for i, recipe in enumerate(planted.RECIPES)}
    top = {"top": 1, "top-left": 1, "top-right": 1}
    assert told[("top", 1),] == top
    assert told[("top", -1),] == {side: -1 for side in top}
    assert told[("bottom-right", -1),] == {"bottom-right": -1}
    assert told[("top", 1), ("bottom", 1)] == {side: 1 for side in SIDES if side not in ("left", "right")}
    assert told[("top", 1), ("left", 1)] == {**top, "left": 1, "bottom-left": 1}
    assert told[("top", 1), ("left", -1)] == {"top": 1, "top-right": 1, "left": -1, "bottom-left": -1}
    assert told[("top", 1), ("top-left", -1), ("top-right", -1)] == {"top": 1}


def test_leftover_padding_leaves_far_sides_without_border_and_their_detectors_blind():
    network = planted.single(3, stride=2)
    assert network.sides == {"conv": {"top", "left", "top-left"}}
    assert {side for truth in network.truth.values() for side in truth.sides} == {"top", "left", "top-left"}


def _in_sample(number: int, content: str) -> bool:
    """Whether a maker is tried on this content: each kernel, reach, stride and kind of layer, on either content."""
    kind, (taps, stride) = number // 12, divmod(number % 12, 2)
    return (kind + taps + stride) % 2 == 0 and (content == "stationary") == ((taps // 2 + kind) % 2 == 0)


SAMPLE = [(name, content) for number, name in enumerate(MAKERS) for content in CONTENTS if _in_sample(number, content)]


@pytest.mark.parametrize("name, content", sampled(itertools.product(MAKERS, CONTENTS), SAMPLE), indirect=["content"])
def test_detectors_of_every_kernel_and_stride_are_found(name, content):
    maker, kernel, reach, stride = MAKERS[name]
    network = maker(kernel, reach, stride=stride)
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert report.layers["conv"].reference == "crop"
    assert_true(report, network)


@pytest.mark.parametrize("maker", [planted.single, planted.depthwise])
def test_a_stride_of_two_reaches_all_sides_of_an_odd_size(maker, content):
    network = maker(3, stride=2, size=65)
    assert network.sides == {"conv": set(SIDES)}
    assert_true(scan(network.model, [content(IMAGES, 65)], progress=False), network)


def test_dilated_detectors_are_found(content):
    network = planted.single(3, dilation=2)
    assert_true(scan(network.model, [content(IMAGES, 64)], progress=False), network)


def test_content_on_taps_that_read_padding_does_not_hide_detectors():
    network = planted.single(5, stray=0.002)
    assert_true(scan(network.model, [planted.stationary(IMAGES, 64)], progress=False), network)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_centre_taps_inherit_and_corners_are_inherited_where_edges_meet(kernel, content):
    network = planted.chain(kernel)
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert references(report) == dict.fromkeys(("first", "second", "third"), "crop")
    assert_true(report, network)


def test_a_copied_detector_has_no_padding_effect_of_its_own(content):
    report = scan(planted.chain(3).model, [content(IMAGES, 64)], progress=False)
    copies = [pan for pan in report.pans if pan.layer == "second"]
    assert len(copies) == len(planted.RECIPES)
    assert {effect for pan in copies for effect in pan.effect.values()} == {0.0}


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_what_an_average_inherits_is_found_although_rows_inside_the_border_have_it_too(kernel):
    network = planted.blurred(kernel)
    assert_true(scan(network.model, [planted.stationary(IMAGES, 64)], progress=False), network)


@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_layer_scanned_alone_inherits_from_the_layers_before_it_all_the_same(layer):
    network = planted.chain(3)
    report = scan(network.model, [planted.stationary(IMAGES, 64)], layers=layer, progress=False)
    assert found(report) == {key: truth for key, truth in true(network).items() if key[0] == layer}


LINES_AND_SOLIDS = [*itertools.product([1, 3], [3, 5], [1, 2], [False, True])]
#: All lines, and of the solids, which take long, half: every pair of a kernel, a stride and a content.
QUICK = [
    (dims, kernel, stride, positional)
    for dims, kernel, stride, positional in LINES_AND_SOLIDS
    if dims == 1 or positional == ((kernel == 3) != (stride == 1))
]


@pytest.mark.parametrize("dims, kernel, stride, positional", sampled(LINES_AND_SOLIDS, QUICK))
def test_lines_and_solids_have_their_sides_as_images_have(dims, kernel, stride, positional):
    size = {1: 48, 3: 24}[dims]
    network = planted.line_or_solid(dims, kernel, stride, size)
    report = scan(network.model, [planted.content_of(dims, IMAGES // 2, size, positional)], progress=False)
    assert references(report) == {"first": "crop", "second": "crop"}
    assert_true(report, network)
    assert report.layers["first"].kernel_size == (kernel,) * dims
    assert report.layers["first"].output_size == (size // stride,) * dims
    assert report.sides == (SIDES if dims == 1 else (*SIDES, "front", "back"))


@pytest.mark.parametrize("dims, size", [(1, 49), (3, 25)])
def test_a_stride_of_two_reaches_both_ends_of_an_odd_size(dims, size):
    network = planted.line_or_solid(dims, 3, 2, size)
    assert network.sides["first"] == {*planted.edges_of(dims)}
    assert_true(scan(network.model, [planted.content_of(dims, IMAGES // 2, size)], progress=False), network)


@pytest.mark.parametrize("reference", ["zoom", "mirror", "centre"])
@pytest.mark.parametrize("dims, size", [(1, 48), (3, 24)])
def test_other_references_hold_on_lines_and_solids(dims, size, reference):
    network = planted.line_or_solid(dims, 3, 1, size)
    report = scan(network.model, [planted.content_of(dims, IMAGES // 2, size)], reference=reference, progress=False)
    assert references(report) == {"first": reference, "second": reference}
    assert found(report) == true(network)


def test_an_axis_of_a_solid_may_have_padding_alone():
    network = planted.line_or_solid(3, 3, 1, 20)
    network.model.first.padding, network.model.first._reversed_padding_repeated_twice = (1, 0, 0), [0, 0, 0, 0, 1, 1]
    report = scan(network.model, [planted.content_of(3, IMAGES // 2, 20)], progress=False)
    assert sides_of(report, "first") == {"front", "back"}
    told = {
        sides for (layer, _), (sides, _) in found(report).items() if layer == "first" for sides in [frozenset(sides)]
    }
    assert told == {frozenset({"front"}), frozenset({"back"}), frozenset({"front", "back"})}


@pytest.mark.parametrize("size", [64, 32])
def test_maps_too_small_to_crop_are_measured_on_zoomed_images_and_the_truth_holds(size, content):
    network = planted.pooled(size // 4)
    report = scan(network.model, [content(IMAGES, size)], progress=False)
    assert references(report) == {"first": "crop", "copy": "zoom", "own": "zoom"}
    assert report.layers["own"].output_size == (4, 4)
    assert report.layers["own"].reason.startswith("crop: ")
    assert_true(report, network)


@pytest.mark.parametrize("reference", ["zoom", "mirror", "centre"])
def test_other_references_hold_on_stationary_content(reference):
    network = planted.chain(3)
    report = scan(network.model, [planted.stationary(IMAGES, 64)], reference=reference, progress=False)
    assert references(report) == dict.fromkeys(("first", "second", "third"), reference)
    assert found(report) == true(network)


def test_centre_reference_is_fooled_by_content_crop_is_not():
    network, images = planted.chain(3), planted.positional(IMAGES, 64)
    by_reference = {
        reference: scan(network.model, [images], reference=reference, progress=False)
        for reference in ("centre", "crop")
    }
    called = {reference: set(found(report)) & {*network.distractors} for reference, report in by_reference.items()}
    assert len(called["centre"]) >= 3
    assert largest_contrast(by_reference["centre"], network.distractors) >= 0.8
    assert called["crop"] == set()
    assert largest_contrast(by_reference["crop"], network.distractors) == 0.0


PADDED_OTHERWISE = {
    "full 3×3": lambda mode: planted.single(3, mode=mode),
    "full 7×7 stride 2": lambda mode: planted.single(7, reach=1, stride=2, mode=mode),
    "depthwise 5×5": lambda mode: planted.depthwise(5, mode=mode),
    "chain": lambda mode: planted.chain(3, mode=mode),
    "pooled": lambda mode: planted.pooled(16, mode=mode),
}
MODES = ["circular", "reflect", "replicate"]


@pytest.mark.parametrize(
    "name, mode", sampled(itertools.product(PADDED_OTHERWISE, MODES), zip(PADDED_OTHERWISE, MODES * 2, strict=False))
)
def test_without_zero_padding_the_same_filters_know_no_border(name, mode):
    network = PADDED_OTHERWISE[name](mode)
    report = scan(network.model, [planted.stationary(IMAGES, 64)], progress=False)
    assert report.neurons > 0
    assert report.pans == ()
    assert largest_contrast(report, network.distractors) == 0.0


def test_a_plain_network_does_not_drift(content):
    report = scan(planted.chain(5).model, [content(IMAGES, 64)], progress=False)
    assert [layer.drift for layer in report.layers.values()] == [0.0, 0.0, 0.0]


def test_global_context_is_reported_as_drift_behind_it_and_hides_no_detector(content):
    network = planted.chain(3, between=planted.GlobalGate())
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert report.layers["first"].drift == 0.0
    assert report.layers["second"].drift > 0.0
    assert report.layers["third"].drift > 0.0
    assert found(report) == true(network)


def test_a_detector_that_is_constant_inside_is_nascent():
    conv = planted.detectors(3)
    conv.weight[:, planted.CONTENT] = 0.0  # its reference has no spread to measure the padding effect by
    report = scan(nn.Sequential(conv), [planted.stationary(IMAGES, 32)], progress=False)
    assert {pan.channel: set(pan.sides) for pan in report.pans} == {
        channel: truth.sides for (_, channel), truth in planted.single(3).truth.items()
    }
    assert {pan.origin for pan in report.pans} == {"nascent"}


# ---- other ways through a network


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_border_that_takes_a_residual_path_is_inherited_behind_it(kernel, content):
    network = planted.residual(kernel)
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert_true(report, network)


def test_a_layer_that_is_called_twice_is_measured_at_both_calls(content):
    network = planted.twice()
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert_true(report, network)
    assert report.layers["conv"].images == IMAGES


def test_a_neuron_that_answers_with_its_spread_is_no_pan_and_reads_the_padding_with_no_consistent_sign(content):
    network = planted.spread_answers()
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert_true(report, network)
    contrast = report.contrast("conv")[:4, :4].diagonal().abs()
    assert (contrast < 0.65).all()  # half of the answers inside lie on either side of it
    consistency = report.layers["conv"].consistency
    assert consistency is not None and (consistency[:4, :4].diagonal().abs() < 0.5).all() and report.readers == 0


def test_planted_neurons_read_the_padding_where_they_are_pans(content):
    network = planted.chain(3)
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert report.readers == report.count
    assert all(pan.reads_padding for pan in report.pans)
    assert {abs(value) for pan in report.pans for side in pan.sides for value in [pan.consistency[side]]} == {1.0}


def test_what_is_consistent_and_small_beside_the_content_reads_the_padding_and_is_no_pan():
    conv = torch.nn.Conv2d(4, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 1, 1] = conv.weight[1, 0, 1, 1] = 1.0  # content
        conv.weight[0, 3, 0, 1] = 0.1  # a little of the channel of ones, which is zero above
    report = scan(torch.nn.Sequential(conv).eval(), [planted.stationary(IMAGES, 64)], progress=False)
    assert (report.count, report.readers) == (0, 1)
    assert report.layers["0"].consistency[0].tolist() == [-1.0, 0.0]
    assert 0.2 < abs(float(report.contrast("0")[0, 0])) < 0.8


# ---- what remains of a contrast, and what the next layer sees


def test_own_padding_takes_nascent_contrasts_away_and_that_of_earlier_layers_inherited_ones(content):
    report = scan(planted.chain(3).model, [content(IMAGES, 64)], progress=False)
    for pan in report.pans:
        line = report.layers[pan.layer]
        over = [SIDES.index(side) for side in pan.sides]
        own, earlier = line.own[over, pan.channel].abs(), line.earlier[over, pan.channel].abs()
        if (pan.layer, pan.channel) == ("third", 0):  # inherits the top, and detects the bottom itself
            continue
        assert torch.equal(own, torch.full_like(own, float(pan.origin == "inherited")))
        assert torch.equal(earlier, torch.full_like(earlier, float(pan.origin == "nascent")))


@pytest.mark.parametrize("reference", ["crop", "zoom", "windows", "mirror", "centre"])
def test_causes_are_tried_whatever_the_reference(reference):
    report = scan(planted.chain(3).model, [planted.stationary(IMAGES // 2, 64)], reference=reference, progress=False)
    assert report.count
    for pan in report.pans:
        over = [SIDES.index(side) for side in pan.sides]
        for remaining in (report.layers[pan.layer].own, report.layers[pan.layer].earlier):
            assert not remaining[over, pan.channel].isnan().any()


@pytest.mark.parametrize("own, earlier, origin", [(3.0, 1.0, "nascent"), (1.0, 3.0, "inherited")])
def test_of_two_causes_the_one_without_which_less_than_half_remains_is_named(own, earlier, origin):
    first = planted.detectors(3, recipes=({"top": 1},))
    second = torch.nn.Conv2d(first.out_channels, 1, 3, padding=1)
    with torch.no_grad():
        first.weight[-1] = second.weight[:] = 0.0  # the last channel is constant by its bias
        second.weight[0, 0, 1, 1] = earlier / planted.STRENGTH  # what the first layer knows of the top
        second.weight[0, -1] = own * planted.pattern({"top": 1}, 3, 1)
        second.weight[0, 1:-1, 1, 1] = 0.2
    net = torch.nn.Sequential(first, torch.nn.ReLU(), second).eval()
    report = scan(net, [planted.stationary(IMAGES, 64)], progress=False)
    assert {pan.origin for pan in report.pans if pan.layer == "2"} == {origin}


def test_a_detector_that_relu_cuts_off_is_not_visible(content):
    """Inhibited below zero, where the activation makes nothing of it; excited above, where it passes."""
    conv = planted.detectors(3, recipes=({"top": -1}, {"top": 1}, {"left": -1}))
    with torch.no_grad():
        conv.bias[:3] = torch.tensor([-1.0, -1.0, 3.0])
        conv.weight[:3, planted.CONTENT] = 0.3 * conv.weight[:3, planted.CONTENT]
    net = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(conv.out_channels), torch.nn.ReLU(), torch.nn.Conv2d(11, 1, 1))
    report = scan(net.eval(), [content(IMAGES, 64)], progress=False)
    assert report.layers["0"].follows == ("batch_norm", "relu") and report.layers["0"].until == "conv2d"
    assert [(pan.channel, pan.visible) for pan in report.pans] == [(0, False), (1, True), (2, True)]
    assert report.visible == 2 and report.pans[0].after["top"] == 0.0


def test_what_is_visible_before_a_residual_addition_is_said_so():
    report = scan(planted.residual().model, [planted.stationary(IMAGES, 64)], progress=False)
    line = report.layers["second"]
    assert (line.follows, line.until) == ((), "add")
    assert all(pan.visible for pan in report.pans if pan.layer == "second")


@pytest.mark.parametrize("norm", [torch.nn.GroupNorm(2, 32), torch.nn.InstanceNorm2d(32, affine=True)])
def test_behind_what_normalises_whole_maps_nobody_knows_what_is_visible(norm):
    conv = planted.detectors(3)
    torch.nn.init.constant_(norm.bias, -9.0)  # all that follows sees zeros
    net = torch.nn.Sequential(conv, norm, torch.nn.ReLU(), torch.nn.Conv2d(32, 1, 1)).eval()
    report = scan(net, [planted.stationary(IMAGES, 64)], progress=False)
    assert report.count and {pan.visible for pan in report.pans} == {None} and math.isnan(report.visible)


def test_a_black_first_image_hides_nothing_of_what_follows(content):
    net = torch.nn.Sequential(
        planted.detectors(3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Conv2d(32, 1, 1)
    )
    images = content(IMAGES, 64)
    images[0] = 0.0
    report = scan(net.eval(), [images], progress=False)
    assert report.layers["0"].follows == ("batch_norm", "relu")


def test_a_mask_is_no_padding_that_could_be_made_neutral():
    """A neuron that reads its own padding, and a masked one of the layer before, whose padding the mask has taken."""
    first = planted.detectors(3, recipes=({"top": 1}, {"top": 1}))
    second = torch.nn.Conv2d(first.out_channels, 1, 3, padding=1)
    with torch.no_grad():
        first.weight[-1] = second.weight[:] = 0.0
        second.weight[0, 0, 1, 1] = -1.0  # of the masked detector
        second.weight[0, -1] = 2.0 * planted.pattern({"top": 1}, 3, 1)
        second.weight[0, 2:-1, 1, 1] = 0.05
    net = torch.nn.Sequential(first, torch.nn.ReLU(), second).eval()
    images = [planted.stationary(IMAGES, 64)]
    for mode in ("zero", "mean", "neutral"):
        with masked(net, scan(net, images, progress=False), mode=mode, neurons={"0": [0]}):
            report = scan(net, images, progress=False)
        (pan,) = [pan for pan in report.pans if pan.layer == "2"]
        assert (pan.origin, float(report.layers["2"].earlier[0, 0])) == ("nascent", 1.0)
