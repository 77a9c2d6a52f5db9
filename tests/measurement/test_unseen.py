"""What hooks on layers do not show: paddings and convolutions that are calls, and images that are not finite."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pan_callbacks import PANReport, impact, masked, scan
from pan_callbacks.layers import CalledPad, Skip
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.grouping import Number
from pan_callbacks.measurement.pads import find_pad
from tests.support import planted
from tests.support.sampling import sampled

IMAGES, SIZE = 32, 24
SMALL = 16  # of solids, of which a scan takes as many times as long as they have pixels


def quiet(model: nn.Module, *batches: Tensor, **kwargs) -> PANReport:
    return scan(model, list(batches), progress=False, **kwargs)


def content(dims: int = 2) -> Tensor:
    return planted.content_of(dims, IMAGES, SIZE if dims < 3 else SMALL)


def found(report: PANReport) -> dict:
    return {
        (pan.layer, pan.channel): ({side for side in pan.sides if "-" not in side}, pan.origin) for pan in report.pans
    }


def same(one: PANReport, other: PANReport) -> bool:
    """Whether two reports have the same figures, bit for bit."""
    return list(one.measured) == list(other.measured) and all(
        torch.equal(one.contrast(name).nan_to_num(9), other.contrast(name).nan_to_num(9))
        and torch.equal(one.effect(name).nan_to_num(9), other.effect(name).nan_to_num(9))
        and torch.equal(line.mean, other.layers[name].mean)
        and (line.border_bias, line.images) == (other.layers[name].border_bias, other.layers[name].images)
        for name, line in one.measured.items()
    )


class Padding(nn.Module):
    """A planted network whose first layer is padded in the forward."""

    def __init__(self, dims: int, pad, size: int = SIZE) -> None:
        super().__init__()
        network = planted.line_or_solid(dims, size=size, padding=0)
        self.first, self.second, self.pad, self.truth = network.model.first, network.model.second, pad, network.truth

    def forward(self, x):
        return self.second(F.relu(self.first(self.pad(x))))


# ---- F.pad


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_f_pad_in_a_forward_is_measured_as_padding_of_the_layer_itself(dims):
    own, images = planted.line_or_solid(dims, size=SIZE), content(dims)
    pads = (1, 1) * dims
    report = quiet(Padding(dims, lambda x: F.pad(x, pads)), images)
    assert report.layers["first"].pad == f"F.pad({pads}, 'constant', 0.0)"
    assert same(report, quiet(own.model, images))
    assert found(report) == {key: (set(truth.sides), truth.origin) for key, truth in own.truth.items()}


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 1, 1, 1), "constant", 0.0),
        lambda x: F.pad(input=x, pad=[1, 1, 1, 1], value=0),
        lambda x: nn.functional.pad(x, pad=(1, 1, 1, 1, 0, 0)),
        lambda x: torch.constant_pad_nd(x, (1, 1, 1, 1), 0),
        lambda x: F.pad(F.pad(x, (1, 1)), (0, 0, 1, 1)),
        lambda x: nn.ZeroPad2d(1)(x),
        lambda x: F.pad(nn.ZeroPad2d((1, 1, 0, 0))(x), (0, 0, 1, 1)),
        lambda x: F.pad(F.pad(x, (1, 1, 1, 1)), (0, 0, 0, 0)),
    ],
)
def test_every_way_to_call_it_is_seen(pad):
    assert same(quiet(Padding(2, pad), content()), quiet(planted.line_or_solid(2, size=SIZE).model, content()))


def test_a_constant_other_than_zero_is_what_the_effect_is_measured_with():
    images = content()
    ones = quiet(Padding(2, lambda x: F.pad(x, (1, 1, 1, 1), value=1.0)), images)
    assert ones.layers["first"].pad == "F.pad((1, 1, 1, 1), 'constant', 1.0)"
    assert ones.count == 0  # the detectors read ones where they look for zeros
    module = Padding(2, nn.ConstantPad2d(1, 1.0))
    assert same(ones, quiet(module, images))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_modes_are_no_border_and_are_known_for_what_they_are(mode):
    report = quiet(Padding(2, lambda x: F.pad(x, (1, 1, 1, 1), mode)), content())
    assert report.layers["first"].pad == f"F.pad((1, 1, 1, 1), {mode!r}, 0.0)"
    assert (report.count, list(report.measured)) == (0, ["first", "second"])


@pytest.mark.parametrize(
    "pad, skip",
    [
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 1))[:, :-1], Skip.NO_PADDING),  # of channels
        (lambda x: F.pad(x, (-1, -1, -1, -1)), Skip.NO_PADDING),
        (lambda x: F.pad(x, (2, -1, 1, 1)), Skip.UNKNOWN_PAD),
        (lambda x: F.pad(F.pad(x, (1, 1, 1, 1)), (1, 1, 1, 1), "reflect"), Skip.UNKNOWN_PAD),
        (lambda x: F.pad(x, (1, 1, 1, 1)) * 1.0, Skip.UNKNOWN_PAD),
        (lambda x: F.pad(x, (2, 2, 2, 2))[..., 1:-1, 1:-1], Skip.UNKNOWN_PAD),
        (nn.Sequential(nn.ZeroPad2d(1), nn.BatchNorm2d(4, affine=False).eval()), Skip.UNKNOWN_PAD),
        (lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1), Skip.NO_PADDING),
        (lambda x: x + 0 * F.pad(x, (1, 1, 1, 1)).mean(), Skip.UNKNOWN_PAD),  # nobody can tell
    ],
)
def test_what_does_not_pad_the_layer_or_cannot_be_measured_is_left_out_with_the_reason(pad, skip):
    report = quiet(Padding(2, pad), content())
    assert report.layers["first"].skip is skip
    assert "second" in report.measured


def test_a_layer_that_pads_as_well_is_left_out_as_with_a_module():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    model.forward = lambda x: model[0](F.pad(x, (1, 1, 1, 1)))
    assert quiet(model, content()).layers["0"].skip is Skip.PADDED_TWICE


def test_the_name_of_a_call_in_a_report_is_that_call_again():
    pad = CalledPad((1, 1, 2, 0), "constant", -0.5)
    assert find_pad({}, str(pad)) == pad
    with pytest.raises(ValueError, match="is no call of F.pad"):
        find_pad({}, "F.pad((1, 1), open('x'))")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_masks_of_a_layer_padded_in_the_forward_blind_it_to_the_padding(dims, tmp_path):
    model, images = Padding(dims, lambda x: F.pad(x, (1, 1) * dims)), content(dims)
    quiet(model, images).save(tmp_path / "pans.json")
    report = PANReport.load(tmp_path / "pans.json")
    with torch.no_grad():
        plain = model.first(F.pad(images, (1, 1) * dims))
        reflected = model.first(F.pad(images, (1, 1) * dims, "reflect"))
        with masked(model, report, "neutral"):
            neutral = model.first(F.pad(images, (1, 1) * dims))
    pans = report.neurons_by_layer()["first"]
    others = sorted(set(range(plain.shape[1])) - set(pans))
    torch.testing.assert_close(neutral[:, pans], reflected[:, pans])
    assert torch.equal(neutral[:, others], plain[:, others])
    for mode in ("zero", "mean", "neutral"):
        with masked(model, report, mode):
            assert quiet(model, images).count == 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_impact_masks_layers_padded_in_the_forward(dims):
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Padding(dims, lambda x: F.pad(x, (1, 1) * dims))

        def forward(self, x):
            return self.net(x).flatten(2).amax(2)

    model, images = Classifier().eval(), content(dims)
    report = quiet(model, images)
    labels = model(images).argmax(1)
    arms = impact(model, [(images, labels)], report, progress=False)
    neutral = arms.arm("padding", "neutral")
    assert neutral.neurons == report.neurons
    assert neutral.kl > 0


class Outer(nn.Module):
    """Pads, in a method of its own, what a part of it that holds all layers is called with."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.body, self.sides = nn.Sequential(*planted.line_or_solid(dims, size=SIZE, padding=0).model), (1, 1) * dims

    def prepared(self, x):
        return F.pad(x, self.sides)

    def forward(self, x):
        return self.body(self.prepared(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_forward_that_pads_before_the_part_that_holds_all_layers_is_where_images_enter(dims):
    model, images = Outer(dims), content(dims)
    measurement = Measurement(model)
    measurement.start()
    measurement.expect(total=len(images))
    model(images)
    report = measurement.report()
    measurement.detach()
    assert same(report, quiet(model, images))
    assert report.layers["body.0"].pad == f"F.pad({(1, 1) * dims}, 'constant', 0.0)"
    assert report.count == len(planted.line_or_solid(dims, size=SIZE).truth)


# ---- convolutions without a module


class OwnConvolution(nn.Module):
    def __init__(self, dims: int, **options) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, *(3,) * dims))
        self.call, self.options = getattr(F, f"conv{dims}d"), options

    def forward(self, x):
        return self.call(x, self.weight, **self.options)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": "same"}, {"padding": (1,)}])
def test_a_convolution_without_a_module_stands_in_the_notes(dims, options):
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    if options["padding"] == (1,):
        options = {"padding": (1,) + (0,) * (dims - 1)}
    model = nn.ModuleDict({"stem": kind(4, 4, 3), "blocks": nn.Sequential(OwnConvolution(dims, **options), nn.ReLU())})
    model.forward = lambda x: model["blocks"](model["stem"](x))
    note = f"1 call of F.conv{dims}d with padding in blocks.0 has no module that could be measured: use nn.Conv{dims}d"
    assert quiet(model, content(dims)).notes == (note,)


def test_several_calls_are_counted_and_their_modules_named_once_also_for_two_image_sizes():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.own = nn.Conv2d(4, 4, 3, padding=1), OwnConvolution(2, padding=1)

        def forward(self, x):
            x = self.own(self.own(self.stem(x)))
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.own.weight)

    notes = (
        "how far the answers rely on padding is not known: the answers to some images have another shape than those to "
        "others",
        "3 calls of F.conv2d with padding in own, the model have no module that could be measured: use nn.Conv2d",
    )
    assert quiet(Model(), content()[..., :20], content()).notes == notes


def test_a_network_of_nothing_else_says_so():
    report = quiet(nn.Sequential(OwnConvolution(2, padding=1), nn.ReLU(), OwnConvolution(2, padding=1)), content())
    assert (report.neurons, report.count) == (0, 0)
    assert report.notes[-1].startswith("2 calls of F.conv2d with padding in 0, 2 have no module that could be measured")


@pytest.mark.parametrize("options", [{}, {"padding": 0}, {"padding": "valid"}])
def test_one_without_padding_is_nothing_to_speak_of(options):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), OwnConvolution(2, **options))
    assert quiet(model, content()).notes == ()


def test_a_convolution_module_that_calls_it_in_its_own_forward_is_a_layer_and_no_call():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    report = quiet(
        nn.Sequential(Standardised(4, 8, 3, padding=1), nn.ReLU(), Standardised(8, 4, 3, padding=1)), content()
    )
    assert (list(report.measured), report.notes) == (["0", "2"], ())


def test_nothing_that_was_put_on_for_the_trace_stays_also_after_an_error():
    before = dict(nn.modules.module._global_forward_hooks), dict(nn.modules.module._global_forward_pre_hooks)
    model = Padding(2, lambda x: F.pad(x, (1, 1, 1, 1)))
    quiet(model, content())
    model.second = nn.Conv2d(99, 1, 3, padding=1)
    with pytest.raises(RuntimeError):
        quiet(model, content())
    assert before == (nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks)
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.parametrize("kind, dims", [(nn.ConvTranspose1d, 1), (nn.ConvTranspose2d, 2), (nn.ConvTranspose3d, 3)])
def test_a_transposed_convolution_stands_in_the_report_with_the_reason(kind, dims):
    plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 4, 3, padding=1)
    report = quiet(nn.Sequential(plain, kind(4, 6, 3, 2, padding=1)), content(dims))
    assert report.layers["1"].skip is Skip.TRANSPOSED
    assert "fewer inputs reach its border by construction" in report.summary()
    assert (list(report.measured), report.neurons, report.layers["1"].channels) == (["0"], 4, 6)


# ---- images that are not finite


VALUES, REFERENCES, PLACES = (torch.nan, torch.inf, -torch.inf), ("crop", "mirror", "centre"), (0, 17)
#: Each reference with two values, and each of these at another place.
QUICK = [
    (VALUES[(number + at) % 3], reference, PLACES[at]) for number, reference in enumerate(REFERENCES) for at in (0, 1)
]


@pytest.mark.parametrize("value, reference, at", sampled(itertools.product(VALUES, REFERENCES, PLACES), QUICK))
def test_one_image_that_is_not_finite_is_left_out_and_the_rest_measured_as_without_it(value, reference, at):
    network, images = planted.chain(3), planted.stationary(IMAGES, 64)
    broken = images.clone()
    broken[at] = value
    groups = [Number(number) for number in range(IMAGES)]  # which of the others belong together does not depend on it
    report = quiet(network.model, broken[:20], broken[20:], reference=reference, groups=groups)
    without = torch.cat([images[:at], images[at + 1 : 20]])
    groups = groups[:at] + groups[at + 1 :]
    assert same(report, quiet(network.model, without, images[20:], reference=reference, groups=groups))
    assert {line.reference for line in report.layers.values()} == {reference}
    assert {line.images for line in report.layers.values()} == {IMAGES - 1}
    assert "1 image with NaN or infinite activations was left out" in report.notes


def test_in_small_maps_too():
    network, images = planted.pooled(8), planted.stationary(128, 32)
    broken = images.clone()
    broken[64, :, 0, 0] = torch.nan  # outside of the middle whose border is read
    report = quiet(network.model, *broken.split(32))
    assert {name: line.reference for name, line in report.layers.items()} == {
        "first": "crop",
        "copy": "zoom",
        "own": "zoom",
    }
    assert report.layers["own"].images == 127
    assert {key: sides for key, (sides, _) in found(report).items()} == {
        key: {side for side in truth.sides if "-" not in side} for key, truth in network.truth.items()
    }


def test_a_network_that_repairs_its_images_loses_none():
    class Repairing(nn.Sequential):
        def forward(self, x):
            return super().forward(x.nan_to_num(0.0))

    images = content()
    images[:, 0, 5] = torch.nan
    report = quiet(Repairing(*planted.line_or_solid(2, size=SIZE).model), images)
    assert ({line.images for line in report.layers.values()}, report.notes) == ({IMAGES}, ())


@pytest.mark.parametrize("broken, measured", [(16, True), (17, False), (32, False)])
def test_a_layer_is_left_out_once_more_than_half_of_the_images_are_not_finite_in_it(broken, measured):
    images = content()
    images[:broken] = torch.nan
    report = quiet(planted.line_or_solid(2, size=SIZE).model, images)
    assert bool(report.measured) is measured
    assert {line.skip for line in report.layers.values()} == {None if measured else Skip.NOT_FINITE}
    told = [note for note in report.notes if "images with NaN" in note]
    assert told == (["16 images with NaN or infinite activations were left out"] if measured else [])


def test_an_overflow_in_one_layer_leaves_the_image_out_there_and_behind_it():
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.two(self.one(x) * torch.where(x.amax((1, 2, 3), keepdim=True) > 5, torch.inf, 1.0))

    images = content()
    images[3], images[4] = 10.0, 11.0
    report = quiet(Overflowing(), images)
    assert [line.images for line in report.layers.values()] == [IMAGES, IMAGES - 2]
    assert report.notes == (
        "how far the answers rely on padding is not known: the network answers with NaN or infinity to some images",
        "2 images with NaN or infinite activations were left out",
    )


def test_a_layer_that_is_called_twice_counts_an_image_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    images = content()
    images[7] = torch.nan
    report = quiet(Twice(), images)
    assert report.layers["conv"].images == IMAGES - 1
    assert "1 image with NaN or infinite activations was left out" in report.notes
