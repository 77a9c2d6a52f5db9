"""EfficientNet-Lite0 with its ImageNet weights on natural images: counts, sides, and contrasts against scipy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor, nn

from pan_callbacks import PANReport, scan
from pan_callbacks.measurement.crossfit import CHOICE
from pan_callbacks.reports.pans import GROUPS
from tests.support.crossfitted import crossfitted
from tests.support.planted import SIDES
from tests.support.real import SIZE, efficientnet_lite0, natural_images

IMAGES, COMPARED, BATCH = 32, 128, 16  # of all layers, and of those that are read a second time
STRIDED = ("conv_stem", "blocks.1.0.conv_dw", "blocks.3.0.conv_dw")  # 3×3, stride 2
CROPPED = ("conv_stem", "blocks.1.0.conv_dw", "blocks.2.1.conv_dw", "blocks.3.1.conv_dw", "blocks.5.0.conv_dw")
ZOOMED = ("blocks.5.3.conv_dw",)


@dataclass
class Scanned:
    """One scan for several tests, with the sizes of the batches that the model was called with."""

    model: nn.Module
    images: Tensor
    report: PANReport
    calls: list[tuple[int, int]]


def scanned(images: Tensor, layers: tuple[str, ...] | None = None) -> Scanned:
    model, calls = efficientnet_lite0(), []
    forward = type(model).forward

    def recording(self, x):
        calls.append((len(x), x.shape[-1]))
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:  # of the class: a hook on the model sees no forward of a scan
        patch.setattr(type(model), "forward", recording)
        report = scan(model, images.split(BATCH), layers=layers, progress=False)
    return Scanned(model, images, report, calls)


@pytest.fixture(scope="module")
def lite0() -> Scanned:
    return scanned(natural_images(IMAGES))


def test_the_weights_are_those_of_a_network_that_knows_its_pictures():
    model, pictures = efficientnet_lite0(), natural_images(8)
    with torch.no_grad():
        logits = model(pictures)
    assert logits.isfinite().all()
    assert logits.softmax(1).amax(1).median() > 0.2  # random weights: 0.001


def test_about_three_in_a_hundred_neurons_are_padding_aware(lite0):
    assert lite0.report.neurons == 8992
    assert 150 <= lite0.report.count <= 350


def test_early_layers_are_measured_by_crop_and_every_neuron_on_every_image(lite0):
    for name, layer in lite0.report.layers.items():
        if layer.skipped is None and min(layer.output_size) >= 14:
            assert (name, layer.reference, layer.images) == (name, "crop", IMAGES)


def test_pointwise_layers_are_left_out(lite0):
    skipped = {layer.kernel_size: layer.skipped for layer in lite0.report.layers.values() if layer.skipped is not None}
    assert skipped == {(1, 1): "1×1 kernel"}


@pytest.mark.parametrize("layer", STRIDED)
def test_strided_layers_pad_at_the_bottom_and_right_alone(lite0, layer):
    assert lite0.report.layers[layer].stride == (2, 2)
    present = (~lite0.report.contrast(layer).isnan()).all(1).tolist()
    assert {side for side, there in zip(SIDES, present, strict=True) if there} == {"bottom", "right", "bottom-right"}
    assert bool(lite0.report.contrast(layer)[[0, 2, 4, 5, 6]].isnan().all())


def test_all_pans_of_strided_layers_lie_where_these_pad(lite0):
    sides = {side for pan in lite0.report.pans if pan.layer in STRIDED for side in pan.sides}
    assert sides == {"bottom", "right", "bottom-right"}


def unpadded(size: int, kernel: int, stride: int) -> tuple[list[int], bool, bool]:
    """Outputs of an axis that read no padding, and whether the first and the last one read some, by looking at each."""
    outputs = -(-size // stride)  # TensorFlow's "same", which for stride 1 is what PyTorch calls so too
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    taps = [[i * stride - before + tap for tap in range(kernel)] for i in range(outputs)]
    clean = [i for i, covered in enumerate(taps) if covered[0] >= 0 and covered[-1] < size]
    return clean, taps[0][0] < 0, taps[-1][-1] >= size


def read(window: Tensor, size: int, kernel: int, stride: int) -> dict[str, Tensor]:
    """Border readings (images * positions, channels) of a square window of a map, by side."""
    clean, at_start, at_end = unpadded(size, kernel, stride)
    ends = {"first": [0] if at_start else [], "last": [-1] if at_end else [], "": clean}
    rows = {"top": "first", "bottom": "last"}
    cols = {"left": "first", "right": "last"}
    readings = {}
    for side in SIDES:
        parts = side.split("-")
        r = ends[next((rows[p] for p in parts if p in rows), "")]
        c = ends[next((cols[p] for p in parts if p in cols), "")]
        if r and c:
            readings[side] = window[:, :, r][:, :, :, c].permute(0, 2, 3, 1).flatten(0, 2)
    return readings


@torch.no_grad()
def read_pair(
    scanned: Scanned, layers: tuple[str, ...], views, batches=None
) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """Border and reference readings of each layer and side, by hooks of our own.

    Args:
        scanned: Model and images.
        layers: Layers to read.
        views: Makes of a batch the input whose borders are read, and the one that holds the same pixels inside.
        batches: The images, if not all of them.
    """
    kept: dict[str, dict[str, list]] = {name: {} for name in layers}
    inner: dict[str, tuple[int, int]] = {}

    def hook(name: str, conv: nn.Module, x: Tensor, output: Tensor) -> None:
        if is_inner:
            inner[name] = x.shape[-1], output.shape[-1]
        size, outputs = inner[name]
        start = (output.shape[-1] - outputs) // 2
        window = output[:, :, start : start + outputs, start : start + outputs]
        for side, readings in read(window, size, conv.kernel_size[0], conv.stride[0]).items():
            kept[name].setdefault(side, ([], []))[0 if is_inner else 1].append(readings)

    handles = [
        scanned.model.get_submodule(name).register_forward_hook(lambda conv, x, y, name=name: hook(name, conv, x[0], y))
        for name in layers
    ]
    for batch in scanned.images.split(BATCH) if batches is None else batches:
        inside, around = views(batch)
        is_inner = True  # the hooks read it
        scanned.model(inside)
        is_inner = False
        scanned.model(around)
    for handle in handles:
        handle.remove()
    return {
        name: {side: (torch.cat(border), torch.cat(reference)) for side, (border, reference) in sides.items()}
        for name, sides in kept.items()
    }


def middle(images: Tensor, size: int) -> Tensor:
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def assert_is_cross_fitted(report: PANReport, pairs: dict[str, dict[str, tuple[Tensor, Tensor]]], images: int) -> None:
    """Contrast and error on every side are those of loops over all readings, of every fourth neuron in wide layers.

    In large maps readings are thinned, and the thresholds may be others of nearly the same difference.

    Args:
        report: What the package says.
        pairs: Readings by layer and side.
        images: Images that the readings are of.
    """
    for name, sides in pairs.items():
        present = (~report.contrast(name).isnan()).any(1).tolist()
        assert [side for side, there in zip(SIDES, present, strict=True) if there] == list(sides)
        some = slice(None, None, 4 if report.layers[name].channels > 128 else 1)
        exact = {"contrast": [], "error": []}
        for border, reference in sides.values():
            groups = np.repeat(np.arange(images) % GROUPS, len(border) // images)
            one, error = crossfitted(border[:, some].numpy(), reference[:, some].numpy(), groups, CHOICE)
            exact["contrast"].append(one)
            exact["error"].append(error)
        found = report.contrast(name)[present, some].numpy()
        off = np.abs(np.abs(found) - np.abs(np.array(exact["contrast"])))
        assert off.mean() <= 0.01 and (off <= 0.03).mean() >= 0.95, name
        strong = np.array(exact["contrast"]).__abs__() >= 0.6
        assert (np.sign(found) == np.sign(exact["contrast"]))[strong].all(), name
        ratio = report.layers[name].error[present, some].numpy().mean() / np.mean(exact["error"])
        assert 0.9 < ratio < 1.5, name


@pytest.fixture(scope="module")
def by_crop() -> Scanned:
    return scanned(natural_images(COMPARED), CROPPED)


@pytest.fixture(scope="module")
def cropped(by_crop) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """Readings of the layers that are measured by crop."""
    (size,) = {size for batch, size in by_crop.calls if batch == BATCH and size < SIZE}
    return read_pair(by_crop, CROPPED, lambda images: (middle(images, size), images))


def test_contrasts_and_errors_by_crop_are_those_of_loops_over_all_readings(by_crop, cropped):
    assert {by_crop.report.layers[name].reference for name in CROPPED} == {"crop"}
    assert_is_cross_fitted(by_crop.report, cropped, COMPARED)


def test_contrasts_by_crop_agree_with_those_of_scipy_in_the_same_images(by_crop, cropped):
    ours, theirs = [], []
    for name, sides in cropped.items():
        for side, (border, reference) in sides.items():
            exact = ks_2samp(border.numpy(), reference.numpy(), axis=0, method="asymp")
            ours.append(by_crop.report.contrast(name)[SIDES.index(side)].numpy())
            theirs.append(-exact.statistic * exact.statistic_sign)  # scipy tells the higher distribution function
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    assert np.corrcoef(ours, theirs)[0, 1] >= 0.98  # with 128 images; docs/statistics.md has 256
    assert np.abs(ours).mean() < np.abs(theirs).mean()  # which chance adds to


@pytest.mark.slow
def test_contrasts_by_zoom_are_those_of_loops_over_all_readings():
    by_zoom = scanned(natural_images(COMPARED), ZOOMED)
    assert {by_zoom.report.layers[name].reference for name in ZOOMED} == {"zoom"}
    (size,) = {size for batch, size in by_zoom.calls if batch == BATCH and size > SIZE}

    def views(images):
        large = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        return middle(large, SIZE), large

    assert_is_cross_fitted(by_zoom.report, read_pair(by_zoom, ZOOMED, views), COMPARED)


def test_maps_too_small_to_crop_are_measured_on_every_image(lite0):
    assert {line.images for line in lite0.report.measured.values()} == {IMAGES}


def test_some_pans_are_cut_off_by_the_activation_that_follows(lite0):
    following = {line.follows for line in lite0.report.measured.values()}
    assert following == {("batch_norm", "hardtanh")}  # ReLU6
    assert 0.2 < lite0.report.visible / lite0.report.count < 0.8


def test_more_neurons_read_the_padding_than_recognise_the_border(lite0):
    assert lite0.report.readers > 3 * lite0.report.count
    assert all(pan.reads_padding for pan in lite0.report.pans if pan.certain)
