"""Masks against plain arithmetic, on planted networks, and made permanent."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, StdConv2d
from torch import nn

from pan_callbacks import PANError, PANReport, mask_permanently, masked, scan
from pan_callbacks.measurement.hooks import replaced_channels
from pan_callbacks.padding import SIDES
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.suppression.targets import Target, merge
from tests.support import planted


def report_of(neurons: dict[str, list[int]], channels: dict[str, int], mean=True, pad=None) -> PANReport:
    """A report whose PANs are the given neurons."""
    layers = {}
    for name, n in channels.items():
        contrast = torch.zeros(len(SIDES), n)
        contrast[0, neurons.get(name, [])] = 0.9
        means = torch.arange(n, dtype=torch.float32) + 0.5 if mean else None
        layers[name] = LayerReport(
            n, (3, 3), contrast=contrast, effect=torch.ones(len(SIDES), n), mean=means, pad=pad, images=99
        )
    return PANReport(layers)


def images(n=3, channels=4, height=9, width=7, dtype=torch.float32):
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def padded_by_numpy(x: torch.Tensor, rows: tuple[int, int], cols: tuple[int, int]) -> torch.Tensor:
    mode = "reflect"
    if max(rows) >= x.shape[2] or max(cols) >= x.shape[3]:
        mode = "edge"
    return torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), rows, cols), mode=mode))


CONVS = {
    "3x3": (nn.Conv2d(4, 6, 3, padding=1), (1, 1), (1, 1)),
    "no bias": (nn.Conv2d(4, 6, 3, padding=1, bias=False), (1, 1), (1, 1)),
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 1), (1, 1)),
    "5x3": (nn.Conv2d(4, 6, (5, 3), padding=(2, 1)), (2, 2), (1, 1)),
    "dilation": (nn.Conv2d(4, 6, 3, padding=2, dilation=2), (2, 2), (2, 2)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (1, 1), (1, 1)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), (1, 1), (1, 1)),
    "same, even kernel": (nn.Conv2d(4, 6, 4, padding="same"), (1, 2), (1, 2)),
    "TensorFlow's same": (Conv2dSame(4, 6, 3, stride=2), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", CONVS)
def test_neutral_is_the_layer_on_a_reflected_input_for_the_masked_channels_alone(name):
    conv, rows, cols = CONVS[name]
    torch.manual_seed(1)
    conv = copy.deepcopy(conv)
    conv.reset_parameters()
    model, x, channels = nn.Sequential(conv), images(), [1, 4]
    own = model(x).detach()
    with masked(model, report_of({"0": channels}, {"0": conv.out_channels})):
        found = model(x).detach()
    x = padded_by_numpy(x, rows, cols)
    expected = F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups).detach()
    others = [c for c in range(conv.out_channels) if c not in channels]
    assert torch.equal(found[:, others], own[:, others])
    torch.testing.assert_close(found[:, channels], expected[:, channels], rtol=1e-5, atol=1e-5)
    assert (found[:, channels] != own[:, channels]).any()
    inside = (slice(None), channels, slice(2, -2), slice(2, -2))  # reads no padding in any of these layers
    assert torch.equal(found[inside], own[inside])


@pytest.mark.parametrize("size", [(1, 5), (2, 2), (1, 1)])
def test_neutral_replicates_where_the_map_is_too_small_to_reflect(size):
    conv = nn.Conv2d(1, 1, 5, padding=2)
    x = images(2, 1, *size)
    with masked(nn.Sequential(conv), report_of({"0": [0]}, {"0": 1})) as model:
        found = model(x)
    for axis in (0, 1):
        pads = ((0, 0),) * (2 + axis) + ((2, 2),) + ((0, 0),) * (1 - axis)
        x = torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect" if x.shape[2 + axis] > 2 else "edge"))
    torch.testing.assert_close(found, F.conv2d(x, conv.weight, conv.bias))


def test_neutral_undoes_a_pad_module_of_any_constant():
    conv = nn.Conv2d(4, 6, 3)
    model, x = nn.Sequential(nn.ConstantPad2d((1, 2, 0, 1), 3.0), conv), images()
    with masked(model, report_of({"1": [0, 5]}, {"1": 6}, pad="0")):
        found = model(x)
    expected = F.conv2d(padded_by_numpy(x, (0, 1), (1, 2)), conv.weight, conv.bias)
    torch.testing.assert_close(found[:, [0, 5]], expected[:, [0, 5]], rtol=1e-5, atol=1e-5)


def test_a_scan_tells_the_mask_which_pad_module_feeds_a_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 2, 3, bias=False)).eval()
    nn.init.ones_(model[1].weight)
    x = 1 + 0.1 * images(8, 1, 24, 24)
    report = scan(model, [x], progress=False)
    assert (report.count, report.layers["1"].pad) == (2, "0")
    with masked(model, report):
        assert scan(model, [x], progress=False).count == 0


def test_weight_standardised_layers_are_masked_with_the_kernel_that_they_make():
    conv = StdConv2d(4, 6, 3, padding=1)
    x = images()
    with masked(nn.Sequential(conv), report_of({"0": [2]}, {"0": 6})) as model:
        found = model(x)
    inner = StdConv2d(4, 6, 3, padding=0)
    inner.load_state_dict(conv.state_dict())
    torch.testing.assert_close(found[:, [2]], inner(padded_by_numpy(x, (1, 1), (1, 1)))[:, [2]], rtol=1e-5, atol=1e-5)


def test_zero_silences_and_mean_answers_the_reference_mean():
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)), images()
    own = model(x)
    for mode, value in (("zero", [0.0, 0.0]), ("mean", [1.5, 3.5])):
        with masked(model, report_of({"0": [1, 3]}, {"0": 6}), mode):
            found = model(x)
        assert torch.equal(found[:, [1, 3]], torch.tensor(value)[:, None, None].expand_as(found[:, [1, 3]]))
        assert torch.equal(found[:, [0, 2, 4, 5]], own[:, [0, 2, 4, 5]])


def test_the_mean_of_a_report_is_the_mean_reference_activation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)).eval()
    x = images(16, 3, 24, 24)
    line = scan(model, [x], reference="centre", progress=False).layers["0"]
    inner = model(x)[:, :, 6:18, 6:18][..., ::2, ::2].detach()
    torch.testing.assert_close(line.mean, inner.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["neutral", "neutral-mean", "zero", "mean"])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_flow_through_a_mask(mode, groups):
    conv = nn.Conv2d(2, 4, 3, padding=1, groups=groups).double()
    with masked(nn.Sequential(conv), report_of({"0": [0, 3]}, {"0": 4}), mode) as model:
        x = images(2, 2, 4, 5, torch.float64).requires_grad_()
        weights = (x, conv.weight, conv.bias)
        call = lambda x, weight, bias: torch.func.functional_call(model, {"0.weight": weight, "0.bias": bias}, (x,))  # noqa: E731
        assert torch.autograd.gradcheck(call, weights)


def test_nothing_is_left_on_the_model_after_the_context_or_an_exception():
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)), images()
    own = model(x)
    report = report_of({"0": [1, 3]}, {"0": 6})
    with pytest.raises(KeyError), masked(model, report):
        assert not torch.equal(model(x), own)
        raise KeyError
    assert torch.equal(model(x), own)
    assert not model[0]._forward_hooks and list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("kernel", [3, 5])
def test_planted_neurons_lose_the_border_and_distractors_change_nothing(kernel):
    truth = planted.single(kernel)
    x = planted.stationary(48, 64)
    report = scan(truth.model, [x], progress=False)
    assert report.count == len(truth.truth)
    own = truth.model(x)
    with masked(truth.model, report):
        assert scan(truth.model, [x], progress=False).count == 0
        found = truth.model(x)
    quiet = [channel for _, channel in truth.distractors]
    assert torch.equal(found[:, quiet], own[:, quiet])


def test_inherited_neurons_lose_the_border_with_the_layer_that_reads_it():
    truth = planted.chain(3)
    x = planted.stationary(48, 64)
    report = scan(truth.model, [x], progress=False)
    first = {"first": report.neurons_by_layer()["first"]}
    with masked(truth.model, report, neurons=first):
        left = scan(truth.model, [x], progress=False).pans
    assert sum(pan.origin == "inherited" for pan in report.pans) > 10
    assert {(pan.layer, pan.channel) for pan in left} <= {("third", 0)}  # the one that reads the padding itself


def test_a_masked_neuron_has_no_padding_effect_of_its_own():
    truth = planted.single(3)
    x = planted.stationary(48, 64)
    report = scan(truth.model, [x], progress=False)
    masked_channels = report.neurons_by_layer()["conv"][::2]
    others = report.neurons_by_layer()["conv"][1::2]
    with masked(truth.model, report, neurons={"conv": masked_channels}):
        left = scan(truth.model, [x], progress=False)
    assert left.effect("conv")[:, masked_channels].abs().nan_to_num(0).max() == 0
    assert left.neurons_by_layer()["conv"] == others


@pytest.mark.parametrize("mode", ["neutral", "zero"])
def test_an_image_that_is_in_no_batch_is_masked_alike(mode):
    model, x = network(), images(1)
    with masked(model, REPORT, mode):
        expected = model(x)[0]
        found = model[0](x[0])
        torch.testing.assert_close(found, model[0](x)[0])
    assert expected.shape == (6, 5, 4)


def test_attaching_a_mask_does_not_move_a_parametrised_kernel():
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, padding=1))).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with masked(model, report_of({"0": [1]}, {"0": 6}), "zero"):
        pass
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- permanent ------------------------------------------------


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3)
    ).eval()


REPORT = report_of({"0": [0, 2], "3": [1, 5]}, {"0": 6, "3": 6})


@pytest.mark.parametrize("mode", ["neutral", "neutral-mean", "zero", "mean"])
def test_a_permanent_mask_answers_like_the_context_saved_loaded_and_exported(mode, tmp_path):
    model, x = network(), images()
    own = model(x)
    with masked(model, REPORT, mode):
        expected = model(x).detach()
    permanent = mask_permanently(model, REPORT, mode)
    assert torch.equal(model(x), own)  # the original is untouched
    assert torch.equal(permanent(x), expected)
    assert torch.equal(copy.deepcopy(permanent)(x), expected)

    torch.save(permanent, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x), expected)

    torch.save(permanent.state_dict(), tmp_path / "weights.pt")
    other = nn.Sequential(*copy.deepcopy(list(network())))
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other = mask_permanently(other, REPORT, mode)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(x), expected)

    batch = torch.export.Dim("batch")
    program = torch.export.export(permanent, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(program.module()(x[:2]), expected[:2])

    torch.onnx.export(permanent, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_permanently_masked_network_is_scanned_as_it_answers():
    truth = planted.single(3)
    x = planted.stationary(48, 64)
    permanent = mask_permanently(truth.model, scan(truth.model, [x], progress=False))
    report = scan(permanent, [x], progress=False)
    assert (list(report.layers), report.count) == (["conv"], 0)
    with pytest.raises(PANError, match="permanent masks already"):
        mask_permanently(permanent, REPORT)


# --- bad input ------------------------------------------------


def test_a_report_of_another_model_is_refused_by_name():
    model = network()
    with pytest.raises(PANError, match=r"layer 'stem' is not among its 2 convolutions; there is '0', '3'"):
        masked(model, report_of({"stem": [0]}, {"stem": 6})).__enter__()
    with pytest.raises(PANError, match="there is 'net.0'"):
        masked(nn.ModuleDict({"net": model}), report_of({"0": [0]}, {"0": 6})).__enter__()
    with pytest.raises(PANError, match="channel 7 of layer '0', which has 6"):
        masked(model, report_of({"0": [7]}, {"0": 8})).__enter__()
    with pytest.raises(PANError, match="pad module 'pad'"):
        masked(model, report_of({"0": [0]}, {"0": 6}, pad="pad")).__enter__()
    with pytest.raises(PANError, match="not in the report"):
        masked(model, REPORT, neurons={"9": [0]}).__enter__()
    with pytest.raises(PANError, match="no means of layer '0'"):
        masked(model, report_of({"0": [0]}, {"0": 6}, mean=False), "mean").__enter__()
    with pytest.raises(ValueError, match="mode='off' is unknown; choose one of zero, mean, neutral"):
        masked(model, REPORT, "off").__enter__()
    assert not any(module._forward_hooks for module in model.modules())


def test_an_empty_report_masks_nothing_and_says_so():
    model = network()
    with pytest.warns(UserWarning, match="no PANs"), masked(model, report_of({}, {"0": 6})):
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_silencing_a_whole_layer_warns(mode):
    report = report_of({"0": [0, 1, 2, 3, 4, 5]}, {"0": 6})
    with pytest.warns(UserWarning, match="all 6 channels of layer 0"), masked(network(), report, mode):
        pass


def test_merged_targets_keep_the_mean_from_before_the_mask():
    old = {"a": Target((1,), mean=torch.tensor([0.0, 5.0, 0.0]))}
    new = {"a": Target((2,), mean=torch.tensor([1.0, 2.0, 3.0])), "b": Target((0,))}
    merged = merge(old, new)
    assert merged["a"].channels == (1, 2)
    assert merged["a"].mean.tolist() == [1.0, 5.0, 3.0]
    assert merged["b"].channels == (0,)


def test_the_channels_that_a_mask_replaces_are_known():
    model = network()
    assert replaced_channels(model[0]) is None
    with masked(model, REPORT):
        assert replaced_channels(model[0]).tolist() == [0, 2]
