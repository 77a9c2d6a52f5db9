"""scan: what it accepts, what it refuses, and that it leaves no trace on the model."""

from __future__ import annotations

import itertools
import random
from queue import SimpleQueue

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from pan_callbacks import PANError, scan


def pictures(images: int, size: int = 32, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return 1 + torch.randn(images, channels, size, size, generator=torch.Generator().manual_seed(seed)) / 2


class Network(nn.Module):
    """Batch norm, dropout, in-place activations, and a head that takes one size only."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        fixed = (nn.Flatten(), nn.Linear(8 * (size // 2) ** 2, 4)) if size else (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(*fixed)

    def forward(self, x):
        if bool((x > 50).any()):
            raise ArithmeticError("the model does not like these images")
        return self.head(self.conv3(self.act(self.conv2(self.drop(self.act(self.norm(self.conv1(x))))))))


def seeded(make, *args, **kwargs):
    torch.manual_seed(0)
    return make(*args, **kwargs)


def trace_of(model: nn.Module) -> dict:
    """Everything that a scan could leave changed."""
    hooks = {
        name: [len(getattr(module, kind)) for kind in vars(module) if "hooks" in kind]
        for name, module in model.named_modules()
    }
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "gradients": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "hooks": hooks,
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "weights": {name: value.tolist() for name, value in model.state_dict().items()},
        "grad mode": torch.is_grad_enabled(),
    }


def quiet(model, batches, **kwargs):
    return scan(model, batches, progress=False, **kwargs)


def same(one, other) -> bool:
    return list(one.layers) == list(other.layers) and all(
        torch.equal(one.contrast(name).nan_to_num(9), other.contrast(name).nan_to_num(9))
        and torch.allclose(one.effect(name), other.effect(name), atol=1e-5, equal_nan=True)
        for name in one.layers
    )


# --- the model is left as it was -------------------------------------------------------------------------------------


def mixed_modes(model: nn.Module) -> nn.Module:
    model.train()
    model.norm.eval()
    model.head[0].eval()
    return model


@pytest.mark.parametrize("prepare", [nn.Module.eval, nn.Module.train, mixed_modes])
@pytest.mark.parametrize("size", [None, 32])
def test_the_model_is_left_as_it_was(prepare, size):
    model = prepare(seeded(Network, size))
    before = trace_of(model)
    quiet(model, [pictures(4), pictures(4, seed=1)])
    assert trace_of(model) == before


def test_hooks_of_others_stay_and_are_called_as_before():
    model, calls = seeded(Network).eval(), []
    model.conv1.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    before = trace_of(model)
    quiet(model, [pictures(4)])
    assert trace_of(model) == before
    calls.clear()
    model(pictures(5))
    assert calls == [5]


def test_the_model_is_left_as_it_was_after_its_own_exception_at_the_second_batch():
    model = mixed_modes(seeded(Network))
    before = trace_of(model)
    with pytest.raises(ArithmeticError, match="does not like these images"):
        quiet(model, [pictures(4), pictures(4) + 100])
    assert trace_of(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_the_model_is_left_as_it_was_after_an_exception_of_the_batches(error):
    def batches():
        yield pictures(4)
        raise error

    model = mixed_modes(seeded(Network))
    before = trace_of(model)
    with pytest.raises(error):
        quiet(model, batches())
    assert trace_of(model) == before


def test_gradients_that_were_there_stay():
    model = seeded(Network)
    model(pictures(4)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    quiet(model, [pictures(4)])
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())


def test_batches_that_draw_random_numbers_leave_the_random_state_as_it_was():
    model = seeded(Network)
    before = torch.get_rng_state()
    quiet(model, (torch.rand(4, 3, 32, 32) for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), before)


# --- what it accepts -------------------------------------------------------------------------------------------------

HOLDERS = {
    "tensor": lambda images: images,
    "tuple": lambda images: (images, torch.arange(len(images))),
    "list": lambda images: [images, torch.arange(len(images))],
    "dict": lambda images: {"label": torch.arange(len(images)), "image": images},
    "nested": lambda images: ({"label": 3, "views": [images, images + 1]}, "name"),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_batches_may_be_tensors_or_hold_one(holder):
    model, batches = seeded(Network), [pictures(4, seed=seed) for seed in range(2)]
    plain = quiet(model, batches)
    assert plain.layers["conv1"].images == 8
    assert same(quiet(model, [HOLDERS[holder](images) for images in batches]), plain)


@pytest.mark.parametrize("holder", HOLDERS)
def test_integer_images_are_refused_with_what_the_batch_holds(holder):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(PANError, match=r"\(4, 3, 32, 32\) and torch.uint8.*floating point"):
        quiet(seeded(Network), [HOLDERS[holder](images)])


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        (torch.rand(3, 32, 32), r"shape \(3, 32, 32\)"),
        ((torch.rand(4, 7), torch.arange(4)), r"tuple of a tensor of shape \(4, 7\)"),
        ("images", "a str"),
        (None, "a NoneType"),
        (7, "an? int"),
    ],
)
def test_batches_without_images_are_refused_with_what_they_hold(batch, named):
    with pytest.raises(PANError, match=f"holds no images: .*{named}"):
        quiet(seeded(Network), [batch])


@pytest.mark.parametrize("batches", [[], [torch.rand(0, 3, 32, 32)], iter(())])
def test_no_images_at_all_are_an_error(batches):
    with pytest.raises(PANError, match="empty"):
        quiet(seeded(Network), batches)


@pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.8, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold=.*\(0, 1\)"):
        quiet(seeded(Network), [pictures(4)], threshold=threshold)


def test_an_unknown_reference_and_no_images_wanted_are_refused():
    with pytest.raises(ValueError, match="reference='corner'.*crop"):
        quiet(seeded(Network), [pictures(4)], reference="corner")
    with pytest.raises(ValueError, match="max_images=0"):
        quiet(seeded(Network), [pictures(4)], max_images=0)


def test_a_glob_without_match_is_refused_with_the_names_there_are():
    with pytest.raises(PANError, match=r"layers='backbone\.\*' matches none of the 3 convolutions.*conv1, conv2"):
        quiet(seeded(Network), [pictures(4)], layers="backbone.*")


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (["conv[12]", "conv1"], ["conv1", "conv2"]),
        ("conv3", ["conv3"]),
        ("*", ["conv1", "conv2", "conv3"]),
    ],
)
def test_globs_choose_layers_and_change_nothing_for_them(layers, names):
    model = seeded(Network)
    chosen, everything = (quiet(model, [pictures(16)], layers=wanted) for wanted in (layers, None))
    assert list(chosen.layers) == names
    for name in names:
        assert chosen.layers[name].reference == everything.layers[name].reference
        assert torch.equal(chosen.contrast(name).nan_to_num(9), everything.contrast(name).nan_to_num(9))


@pytest.mark.parametrize(("batch", "wanted", "images"), [(4, 10, 10), (4, 100, 24), (16, 10, 10), (4, 1, 1)])
def test_max_images_is_honoured(batch, wanted, images):
    report = quiet(seeded(Network), [pictures(batch, seed=seed) for seed in range(24 // batch or 1)], max_images=wanted)
    assert report.layers["conv1"].reference == "crop"
    assert {layer.images for layer in report.layers.values() if layer.skipped is None} == {min(images, 24)}


def test_batches_without_end_are_read_until_there_are_enough():
    read = (pictures(4, seed=seed) for seed in itertools.count())
    assert quiet(seeded(Network), read, max_images=10).layers["conv1"].images == 10
    assert torch.equal(next(read), pictures(4, seed=3))


def test_the_division_into_batches_does_not_matter():
    model, images = seeded(Network), pictures(24)
    assert same(quiet(model, [images]), quiet(model, images.split([1, 7, 16])))


def test_batches_of_several_sizes_add_up():
    report = quiet(seeded(Network), [pictures(8, 32), pictures(8, 48)])
    assert report.layers["conv3"].images == 16
    assert report.layers["conv3"].skipped is None


def test_few_images_are_noted():
    assert any("only 4 images" in note for note in quiet(seeded(Network), [pictures(4)]).notes)


def test_a_progress_bar_changes_nothing(capsys):
    model = seeded(Network)
    assert same(scan(model, [pictures(8)]), quiet(model, [pictures(8)]))


# --- models of many shapes -------------------------------------------------------------------------------------------


def test_a_head_of_fixed_size_does_not_keep_layers_from_being_cropped():
    free, fixed = seeded(Network).eval(), seeded(Network, 32).eval()
    one, other = (quiet(model, [pictures(16)]) for model in (free, fixed))
    assert [layer.reference for layer in one.layers.values()] == ["crop", "crop", "crop"]
    assert [layer.reference for layer in other.layers.values()] == ["crop", "crop", "crop"]
    assert same(one, other)


class Patches(nn.Module):
    """A transformer's way in: a convolution without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.mix = nn.Conv2d(16, 16, 1)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        return self.layer(self.mix(self.embed(x)).flatten(2).mT)


@pytest.mark.parametrize(
    "make",
    [
        Patches,
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
    ],
    ids=["by hand", "vit_tiny_patch16_224", "no convolution"],
)
def test_a_model_without_padded_convolutions_is_reported_as_such(make):
    model = seeded(make)
    before = trace_of(model)
    report = quiet(model, [pictures(4)])
    assert (report.count, report.neurons, report.fraction) == (0, 0, 0.0)
    assert all(layer.skipped in ("no padding", "1×1 kernel") for layer in report.layers.values())
    assert "0 of 0 neurons" in report.summary()
    assert report.notes[-1].startswith("no padded convolution was measured: ")
    assert ("the model has no convolution" in report.summary()) == (not report.layers)
    assert trace_of(model) == before


@pytest.mark.parametrize(("kind", "words"), [("scripted", "of TorchScript"), ("quantised", "quantised convolutions")])
def test_convolutions_that_are_not_looked_at_are_named(kind, words):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval()
    if kind == "scripted":
        model = torch.jit.script(net)
    else:
        quantised = torch.ao.quantization
        model = nn.Sequential(quantised.QuantStub(), net, quantised.DeQuantStub()).eval()
        model.qconfig = quantised.get_default_qconfig("fbgemm")
        quantised.prepare(model, inplace=True)(pictures(4))
        quantised.convert(model, inplace=True)
    report = quiet(model, [pictures(4)])
    assert report.neurons == 0 and words in report.notes[-1] and "scan the" in report.notes[-1]


@pytest.mark.parametrize("size", [1, 2])
def test_images_too_small_for_any_reference_are_an_error(size):
    model = seeded(nn.Conv2d, 3, 4, 3, padding=1)
    with pytest.raises(PANError, match="too small for any reference.*larger images"):
        quiet(model, [pictures(8, size)])


def test_layers_too_small_are_left_out_with_the_reason_and_others_measured():
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3, padding=1))
    )
    report = quiet(model, [pictures(8)])
    assert report.layers["0"].skipped is None
    assert "map of 1×1" in report.layers["2"].skipped


def test_a_layer_that_is_not_called_is_left_out_with_the_reason():
    model = seeded(Network)
    model.spare = nn.Conv2d(3, 3, 3, padding=1)
    report = quiet(model, [pictures(8)])
    assert report.layers["spare"].skipped == "never called"
    assert report.layers["conv1"].skipped is None


def test_activations_that_are_not_finite_leave_their_layers_out():
    model = seeded(Network)
    model.conv2.weight.data[:] = float("nan")
    report = quiet(model, [pictures(8)])
    assert report.layers["conv1"].skipped is None
    assert report.layers["conv2"].skipped == report.layers["conv3"].skipped == "NaN or infinite activations"


def test_in_place_activations_are_not_read():
    def model(inplace: bool):
        return seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(6, 6, 3, 1, 1)))

    assert same(quiet(model(True), [pictures(16)]), quiet(model(False), [pictures(16)]))


class Normalise(nn.Module):
    """Normalises images, in place or not."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x):
        return x.sub_(1).mul_(3) if self.inplace else (x - 1) * 3


def test_a_model_that_changes_its_images_in_place_is_measured_like_one_that_does_not():
    def model(inplace: bool):
        convs = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        return nn.Sequential(Normalise(inplace), *convs)

    one, other = (quiet(seeded(model, inplace), [pictures(16)]) for inplace in (False, True))
    assert same(one, other)


def test_the_images_reach_a_model_that_changes_them_in_place_as_they_were():
    seen, images = SimpleQueue(), pictures(16)  # in a list it would be taken back

    class Noting(Normalise):
        def forward(self, x):
            seen.put(x.clone())
            return super().forward(x)

    convs = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
    quiet(seeded(lambda: nn.Sequential(Noting(True), *convs)), [images])
    own, without_padding = [x for x in (seen.get() for _ in range(seen.qsize())) if x.shape == images.shape]
    assert torch.equal(own, pictures(16)) and torch.equal(without_padding, pictures(16))


class Shared(nn.Module):
    """One convolution, called twice in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return self.shared(torch.relu(self.shared(self.stem(x))))


def test_a_layer_called_twice_in_a_forward_is_measured_in_both_calls():
    model = seeded(Shared)
    report = quiet(model, [pictures(8), pictures(8, seed=1)])
    assert report.layers["shared"].reference == "crop"
    assert {name: layer.images for name, layer in report.layers.items()} == {"stem": 16, "shared": 16}


class ByKeyword(nn.Module):
    """Calls its second convolution by keyword, or not."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.keyword = keyword

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(input=x) if self.keyword else self.second(x)


def test_a_layer_called_by_keyword_is_measured_like_any_other():
    assert same(*(quiet(seeded(ByKeyword, keyword), [pictures(16)]) for keyword in (False, True)))


class UNet(nn.Module):
    """Down, up and a skip connection, all 'same'."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 6, 3, padding="same")
        self.down2 = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.bottom = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.joined = nn.Conv2d(12, 6, 5, padding=2)
        self.out = nn.Conv2d(6, 1, 1)

    def forward(self, x):
        skip = torch.relu(self.down1(x))
        deep = self.up(torch.relu(self.bottom(torch.relu(self.down2(skip)))))
        return {"mask": self.out(torch.relu(self.joined(torch.cat([skip, deep], 1))))}


def test_skip_connections_line_up_in_the_crop():
    report = quiet(seeded(UNet), [pictures(16, 48)])
    assert {name: layer.reference for name, layer in report.layers.items() if layer.skipped is None} == dict.fromkeys(
        ("down1", "down2", "bottom", "joined"), "crop"
    )
    assert {layer.drift for layer in report.layers.values() if layer.skipped is None} == {0.0}


@pytest.mark.parametrize("before", [(), (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())], ids=["first", "behind another"])
def test_a_pad_module_and_its_convolution_are_one_padded_layer(before):
    conv = seeded(nn.Conv2d, 3, 6, 3, padding=1)
    apart = nn.Conv2d(3, 6, 3)
    apart.load_state_dict(conv.state_dict())
    one = quiet(nn.Sequential(*before, conv), [pictures(16)])
    other = quiet(nn.Sequential(*before, nn.ZeroPad2d(1), apart), [pictures(16)])
    name, name_apart = str(len(before)), str(len(before) + 1)
    assert other.layers[name_apart].skipped is None
    assert other.layers[name_apart].output_size == (32, 32)
    assert torch.equal(one.contrast(name), other.contrast(name_apart))
    assert torch.allclose(one.effect(name), other.effect(name_apart), atol=1e-5)


def test_a_pad_module_on_two_sides_gives_its_convolution_two_borders():
    pad = nn.ZeroPad2d((0, 1, 0, 1))
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pad, nn.Conv2d(4, 6, 3, stride=2)))
    report = quiet(model, [pictures(16)])
    line = dict(zip(report.sides, (~report.contrast("2").isnan()).all(1).tolist(), strict=True))
    assert {side for side, present in line.items() if present} == {"bottom", "right", "bottom-right"}
    assert report.layers["2"].output_size == (16, 16)


def test_a_bfloat16_model_is_measured():
    report = quiet(seeded(Network).bfloat16(), [pictures(16).bfloat16()])
    assert [layer.skipped for layer in report.layers.values()] == [None] * 3


FAMILIES = [
    "resnet18",
    "mobilenetv3_small_050",
    "convnext_atto",
    "efficientnet_b0",
    "densenet121",
    "regnetx_002",
    "ghostnet_100",
    "repvgg_a0",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_timm_is_measured_and_left_as_it_was(name):
    model = seeded(timm.create_model, name, pretrained=False, num_classes=7).eval()
    images = pictures(3, 64)
    with torch.no_grad():
        before = model(images)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    report = quiet(model, [images])
    assert report.neurons > 0
    assert {layer.images for layer in report.layers.values() if layer.reference == "crop"} == {3}
    with torch.no_grad():
        assert torch.equal(model(images), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Detector(nn.Module):
    """Hands a batch to a detector, which takes a list of images."""

    def __init__(self) -> None:
        super().__init__()
        make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
        self.detector = make(weights=None, weights_backbone=None, min_size=96, max_size=96, rpn_pre_nms_top_n_test=20)

    def forward(self, x):
        return [found["boxes"] for found in self.detector(list(x))]


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)

    def forward(self, x):
        return [self.net(x)["out"]]


@pytest.mark.parametrize("make", [Detector, Segmenter])
def test_detection_and_segmentation_of_torchvision_are_measured_and_left_as_they_were(make):
    model, images = seeded(make).eval(), pictures(2, 96)
    with torch.no_grad():
        before = model(images)
    report = quiet(model, [images])
    assert report.neurons > 0
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(images), before, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
