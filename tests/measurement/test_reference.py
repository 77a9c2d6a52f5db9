"""Which reference a layer is measured with: the better one wherever one fits, with the truth planted."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.layers import convolutions
from pan_callbacks.measurement.alignment import StrideLadder
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.reference import plan
from tests.measurement.test_planted_truth import IMAGES, assert_true, found, largest_contrast, references
from tests.support import planted
from tests.support.planted import DISTRACTORS, RECIPES, SIDES, Planted
from tests.support.sampling import sampled


class OneSize(nn.Module):
    """Takes maps of one size alone, as position embeddings and attention biases do."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, x):
        if x.shape[-2:] != self.size:
            raise ValueError(f"maps of {self.size} are needed, these are {tuple(x.shape[-2:])}")
        return x


def with_first(network: Planted, **modules: nn.Module) -> Planted:
    """The network behind other modules."""
    layers = OrderedDict(**modules, **dict(network.model.named_children()))
    return replace(network, model=nn.Sequential(layers))


def passing(kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without padding that hands on its centre tap."""
    conv = nn.Conv2d(planted.CHANNELS, planted.CHANNELS, kernel, stride=stride, bias=False).requires_grad_(False)
    nn.init.zeros_(conv.weight)
    conv.weight[:, :, kernel // 2, kernel // 2] = torch.eye(planted.CHANNELS)
    return conv


def patches(size: int) -> nn.Conv2d:
    """A stem that averages patches, and moves by whole ones."""
    conv = nn.Conv2d(planted.CHANNELS, planted.CHANNELS, size, stride=size, bias=False).requires_grad_(False)
    conv.weight[:] = torch.eye(planted.CHANNELS)[:, :, None, None] / size**2
    return conv


def crowd(kernel: int, **options) -> Planted:
    """One layer of detectors, all of whose sides exist, and distractors."""
    model = nn.Sequential(OrderedDict(conv=planted.detectors(kernel, **options)))
    distractors = tuple(("conv", len(RECIPES) + i) for i in range(DISTRACTORS))
    return Planted(model, planted.truths("conv", RECIPES), distractors, {"conv": frozenset(SIDES)})


def deceived(network: Planted, images: torch.Tensor) -> bool:
    """Whether the centre of the same map calls neurons that read no padding."""
    report = scan(network.model, [images], reference="centre", progress=False)
    return largest_contrast(report, network.distractors) >= 0.8


ONE_SIZE = {
    "a layer": lambda: crowd(3),
    "5×5": lambda: crowd(5),
    "7×7, inner tap": lambda: crowd(7, reach=1),
    "dilated": lambda: crowd(3, dilation=2),
    "stride 2": lambda: planted.single(3, stride=2),
    "depthwise": lambda: planted.depthwise(3),
    "a chain": lambda: planted.chain(3),
    "maps of 4×4": lambda: planted.pooled(16),
}


CONTENTS = [planted.positional, planted.stationary]


@pytest.mark.parametrize(
    "name, content", sampled(itertools.product(ONE_SIZE, CONTENTS), zip(ONE_SIZE, CONTENTS * 4, strict=True))
)
def test_a_model_of_one_size_is_measured_in_windows_and_the_truth_holds(name, content):
    network = with_first(ONE_SIZE[name](), check=OneSize(64, 64))
    report = scan(network.model, [content(IMAGES, 64)], progress=False)
    assert {line.reference for line in report.measured.values()} == {"windows"}
    assert all("does not run on another size (ValueError: maps of" in line.reason for line in report.measured.values())
    assert_true(report, network)


def test_the_centre_is_deceived_where_windows_are_not():
    network = with_first(planted.chain(3), check=OneSize(64, 64))
    assert deceived(network, planted.positional(IMAGES, 64))


def test_windows_see_every_side_of_a_wide_image_and_count_each_image_once():
    network = with_first(planted.chain(3), check=OneSize(48, 80))
    images = planted.positional(IMAGES, 80)[:, :, 16:64].contiguous()
    report = scan(network.model, [images], progress=False)
    assert {line.images for line in report.layers.values()} == {IMAGES}
    assert_true(report, network)


def test_many_images_in_one_batch_leave_no_side_without_a_padding_effect():
    network = with_first(crowd(3), check=OneSize(32, 32))
    report = scan(network.model, [planted.stationary(400, 32)], max_images=400, progress=False)
    assert report.layers["conv"].images == 400
    assert not report.effect("conv").isnan().any()
    assert_true(report, network)


def test_layers_before_the_one_that_fixes_the_size_are_cropped_all_the_same():
    chain = dict(planted.chain(3).model.named_children())
    layers = OrderedDict(first=chain["first"], relu1=chain["relu1"], check=OneSize(64, 64))
    layers |= {name: chain[name] for name in ("second", "relu2", "third")}
    network = replace(planted.chain(3), model=nn.Sequential(layers))
    report = scan(network.model, [planted.positional(IMAGES, 64)], progress=False)
    assert {name: line.reference for name, line in report.layers.items()} == {
        "first": "crop", "second": "windows", "third": "windows",
    }  # fmt: skip
    assert_true(report, network)


def test_windows_can_be_asked_for():
    network = planted.chain(5)
    report = scan(network.model, [planted.positional(IMAGES, 64)], reference="windows", progress=False)
    assert set(references(report).values()) == {"windows"}
    assert {line.reason for line in report.layers.values()} == {None}
    assert {line.drift for line in report.layers.values()} == {0.0}
    assert_true(report, network)


STEMS = {
    "patches of 7, 9×9 on 16×16": (crowd(9), {"stem": patches(7)}, 112, "zoom"),
    "patches of 7, 3×3 on 16×16": (crowd(3), {"stem": patches(7)}, 112, "crop"),
    "patches of 6 on an image they do not divide": (crowd(3), {"stem": patches(6)}, 100, "crop"),
    "valid convolutions, 17 rows of 150": (
        crowd(3), {"a": passing(3, 2), "b": passing(3), "c": nn.MaxPool2d(3, 2), "d": passing(3, 2)}, 150, "crop",
    ),
    "valid convolutions, 7×7 on 17×17": (
        crowd(7), {"a": passing(3, 2), "b": passing(3), "c": nn.AvgPool2d(3, 2), "d": passing(3, 2)}, 150, "crop",
    ),
    "AlexNet's stem, 13 rows of 227": (
        crowd(3), {"a": passing(11, 4), "b": nn.AvgPool2d(3, 2), "c": nn.AvgPool2d(3, 2)}, 227, "crop",
    ),
    "a stem of stride 3 and a pool of 2": (crowd(3), {"a": passing(5, 3), "b": nn.AvgPool2d(2)}, 128, "crop"),
    "a patch stem on one size": (crowd(3), {"check": OneSize(112, 112), "stem": patches(7)}, 112, "windows"),
    "valid convolutions on one size": (
        crowd(3), {"check": OneSize(150, 150), "a": passing(3, 2), "b": passing(3), "c": passing(5, 4)}, 150, "windows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("network, before, size, reference", STEMS.values(), ids=STEMS)
@pytest.mark.parametrize("content", [planted.stationary, planted.positional])
def test_maps_that_are_no_round_share_of_the_image_are_aligned_exactly(network, before, size, reference, content):
    network = with_first(network, **before)
    report = scan(network.model, [content(IMAGES, size)], progress=False)
    assert report.layers["conv"].reference == reference
    assert_true(report, network)


@pytest.mark.parametrize("glob", [None, "conv"])
def test_strides_are_known_whichever_layers_are_asked_for(glob):
    network, before, size, reference = STEMS["valid convolutions, 17 rows of 150"]
    model = with_first(network, **before).model
    report = scan(model, [planted.positional(IMAGES, size)], layers=glob, progress=False)
    assert report.layers["conv"].reference == reference
    assert found(report) == {key: (dict(truth.signs), truth.origin) for key, truth in network.truth.items()}


def test_layers_that_need_different_offsets_each_get_theirs():
    """17 rows of stride 8 read by 7×7, and 8 rows of stride 16 read by 3×3: no crop serves both."""
    stem = {"a": passing(3, 2), "b": passing(3), "c": nn.MaxPool2d(3, 2), "d": passing(3, 2)}
    conv = crowd(7).model.conv
    down = nn.Conv2d(conv.out_channels, planted.CHANNELS, 3, stride=2).requires_grad_(False)
    nn.init.zeros_(down.weight), nn.init.zeros_(down.bias)
    down.bias[planted.ONES] = 1.0
    down.weight[:3, -3:, 1, 1] = torch.eye(3)
    deep = planted.detectors(3)
    model = nn.Sequential(OrderedDict(**stem, conv=conv, down=down, deep=deep))
    truth = planted.truths("conv", RECIPES) | planted.truths("deep", RECIPES)
    distractors = tuple((name, len(RECIPES) + i) for name in ("conv", "deep") for i in range(DISTRACTORS))
    network = Planted(model, truth, distractors, dict.fromkeys(("conv", "deep"), frozenset(SIDES)))
    report = scan(model, [planted.positional(IMAGES, 150)], progress=False)
    assert report.layers["deep"].output_size == (8, 8)
    assert "centre" not in references(report).values()
    assert_true(report, network)


def used(name: str, size: int) -> Counter:
    """References that the plan gives the padded layers of an untrained timm model."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=2).eval()
    coarse = nn.functional.interpolate(torch.rand(1, 3, size // 8, size // 8), size=(size, size), mode="bilinear")
    images = coarse + 0.3 * torch.rand(1, 3, size, size)
    probes = Probes({name: conv for name, conv in convolutions(model).items() if max(conv.kernel_size) > 1}, {})
    probes.attach()
    with torch.no_grad():
        made = plan(EntryCall("", model, (images,), {}), probes, "crop")
    return Counter(site.view.name for site in made.sites.values())


@pytest.mark.parametrize(
    "name, size",
    [
        ("efficientformerv2_s0", 224),  # an attention bias for 7×7 positions
        ("convmixer_768_32", 112),  # patches of 7
        ("inception_next_atto", 150),
        ("test_maxvit", 160),  # windows of attention that divide one size only
        ("pit_xs_224", 224),  # position embeddings
    ],
)
def test_no_layer_of_a_model_with_irregular_maps_is_left_to_the_centre(name, size):
    kinds = used(name, size)
    assert kinds.total() > 0
    assert kinds["centre"] == 0


def test_most_layers_of_inception_at_150_pixels_have_a_better_reference_than_the_centre():
    kinds = used("inception_v3", 150)  # untrained, its deepest maps of 7×7 and 3×3 know nothing of the image
    assert kinds["centre"] <= kinds.total() // 3


def test_the_stride_of_a_map_larger_than_the_image_is_a_fraction():
    ladder = StrideLadder(20, 30)
    net = nn.Sequential(
        nn.ConvTranspose2d(1, 1, 2, stride=2), nn.Conv2d(1, 1, 4, stride=4), nn.Upsample(scale_factor=2)
    )
    for handle in (ladder.attach(net), net(torch.rand(1, 1, 20, 30)))[0]:
        handle.remove()
    assert [str(stride) for size in ((40, 60), (10, 15), (20, 30), (5, 3)) for stride in ladder.at(*size)] == [
        "1/2", "1/2", "2", "2", "1", "1", "4", "10",
    ]  # fmt: skip
