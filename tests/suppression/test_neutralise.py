"""A neutralised copy answers as the network does while all of its padding is neutral; and exports as any other."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import Conv2dSame, StdConv2d
from torch import nn

from pan_callbacks import PANError, PANReport, mask_permanently, masked, neutralise, scan
from pan_callbacks.layers import PaddedLayer, convolutions
from pan_callbacks.measurement.neutral import padding_neutral
from pan_callbacks.suppression.masks import ChannelMask
from pan_callbacks.suppression.targets import padded_channels
from tests.suppression.test_masks import report_of


def images(*size, n=2):
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(0))


def zero_padded():
    torch.manual_seed(0)
    first = nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 4, 3), nn.ReLU())
    return nn.Sequential(first, nn.ConstantPad2d(2, 0.5), nn.Conv2d(4, 5, 5, stride=2)).eval()


NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(), (3, 72, 64), True),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(), (3, 100, 96), True),
    "same as TensorFlow": (lambda: timm.create_model("tf_efficientnet_lite0"), (3, 96, 80), False),
    "pad modules": (zero_padded, (3, 20, 18), True),
    "1-D": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 5, padding="same", dilation=2), nn.Conv1d(3, 2, 3, 2, 1)),
        (2, 30),
        True,
    ),
    "3-D": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, (3, 4, 3), padding="same"), nn.Conv3d(3, 2, 3, 2, 1)),
        (2, 9, 8, 7),
        True,
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", NETWORKS)
def test_it_answers_as_the_network_with_all_padding_masked(name):
    torch.manual_seed(0)
    make, size, plain = NETWORKS[name]
    model, x = make().eval(), images(*size)
    if name == "pad modules":
        expected = reflected_by_hand(model, x)
    else:
        with padding_neutral(map(PaddedLayer, convolutions(model).values())):
            expected = model(x)
    own = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = neutralise(model, x)
    unit = expected.std()  # of random weights, answers may be tiny
    torch.testing.assert_close(found(x) / unit, expected / unit, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(own / unit, expected / unit, rtol=1e-2, atol=1e-2)
    assert torch.equal(model(x), own) and not found.training  # the original is untouched
    masks = [module for module in found.modules() if isinstance(module, ChannelMask)]
    assert bool(masks) != plain
    if plain:
        assert not any(module._forward_hooks for module in found.modules())
        assert list(found.state_dict()) == list(model.state_dict())
        found.load_state_dict(model.state_dict())
        model.load_state_dict(found.state_dict())


def reflected_by_hand(model, x):
    """What the network of pad modules gives with reflected padding."""
    conv, last = model[0][1], model[2]
    x = F.relu(F.conv2d(F.pad(x, (1, 2, 0, 1), mode="reflect"), conv.weight, conv.bias))
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), last.weight, last.bias, stride=2)


def test_masks_of_all_channels_of_a_report_answer_alike():
    torch.manual_seed(0)
    model, x = timm.create_model("test_efficientnet").eval(), images(3, 64, 64, n=4)
    report = scan(model, [x], reference="centre", progress=False)
    with masked(model, report, neurons=padded_channels(model, report)):
        expected = model(x)
    torch.testing.assert_close(neutralise(model, x)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "same as TensorFlow", "pad modules"])
def test_without_images_the_answer_is_the_same_where_maps_are_large(name):
    torch.manual_seed(0)
    make, _, _ = NETWORKS[name]
    model, x = make().eval(), images(3, 96, 96)
    torch.testing.assert_close(neutralise(model)(x), neutralise(model, x)(x), rtol=1e-4, atol=1e-5)


def test_small_maps_are_replicated_where_images_show_them_and_raise_in_torch_where_not():
    model, x = nn.Sequential(nn.MaxPool2d(4), nn.Conv2d(2, 3, 5, padding=2)).eval(), images(2, 8, 8)
    found = neutralise(model, x)
    assert found[1].padding_mode == "replicate" and neutralise(model)[1].padding_mode == "reflect"
    with padding_neutral([PaddedLayer(model[1])]):
        torch.testing.assert_close(found(x), model(x))
    with pytest.raises(RuntimeError, match="[Pp]adding size"):
        neutralise(model)(x)


def test_a_map_that_is_too_small_on_one_axis_alone_is_masked():
    model, x = nn.Sequential(nn.Conv2d(2, 3, 5, padding=2)).eval(), images(2, 2, 9)
    found = neutralise(model, x)
    with padding_neutral([PaddedLayer(model[0])]):
        torch.testing.assert_close(found(x), model(x))
    assert found[0].padding_mode == "zeros"


class Calls(nn.Module):
    """Pads by a call."""

    def __init__(self):
        super().__init__()
        self.conv, self.mode = nn.Conv2d(3, 4, 3), "constant"

    def forward(self, x):
        return self.conv(F.pad(x, (1, 2, 0, 1), mode=self.mode))


@pytest.mark.parametrize("make", [Calls, lambda: nn.Sequential(StdConv2d(3, 4, 3, padding=1))])
def test_what_pads_otherwise_gets_a_permanent_mask(make):
    torch.manual_seed(0)
    model, x = make().eval(), images(3, 9, 8)
    if isinstance(model, Calls):
        expected = copy.deepcopy(model)
        expected.mode = "reflect"
    else:
        inner = copy.deepcopy(model[0])
        inner.padding = (0, 0)
        expected = nn.Sequential(nn.ReflectionPad2d(1), inner)
    found = neutralise(model, x)
    torch.testing.assert_close(found(x), expected(x), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, ChannelMask) for module in found.modules()) == 1


def test_padding_that_was_changed_after_the_layer_was_made_is_that_which_counts():
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)).eval(), images(2, 9, 9)
    model[0].padding, model[0].dilation = (2, 2), (2, 2)  # as segmentation networks dilate a backbone
    with padding_neutral([PaddedLayer(model[0])]):
        expected = model(x)
    torch.testing.assert_close(neutralise(model)(x), expected)


def test_a_pad_that_feeds_something_else_as_well_stays_and_its_convolution_is_masked():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad, self.conv, self.pool = nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3), nn.MaxPool2d(3, 1)

        def forward(self, x):
            return self.conv(self.pad(x)) + self.pool(self.pad(-x))

    model, x = Both().eval(), images(2, 9, 8)
    found = neutralise(model, x)
    expected = model.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")) + model.pool(model.pad(-x))
    torch.testing.assert_close(found(x), expected)


def test_what_cannot_be_neutral_is_said_once_with_reasons():
    class Misfit(nn.Conv2d):
        def forward(self, x):
            return super().forward(x)[:, :, :-1]

    model = nn.Sequential(
        nn.ZeroPad2d(1), nn.MaxPool2d(3, 1), Misfit(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
    )
    with pytest.warns(UserWarning) as caught:
        found = neutralise(model.eval(), images(2, 9, 8))
    assert len(caught) == 1
    assert "padding of 2 modules" in str(caught[0].message)
    assert "0: it feeds no convolution" in str(caught[0].message)
    assert "2: its output of 8×8 does not fit" in str(caught[0].message)
    assert found[3].padding_mode == "reflect" and isinstance(found[0], nn.ZeroPad2d)


def test_without_images_what_is_not_seen_is_said():
    with pytest.warns(UserWarning, match=r"padding of 1 modules .*conv: .*give neutralise a batch of images"):
        neutralise(Calls())


def test_a_model_without_constants_is_returned_and_that_is_said():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 2, 3)).eval()
    for batch in (None, images(2, 9, 8)):
        with pytest.warns(UserWarning, match="nothing to do"):
            found = neutralise(model, batch)
        x = images(2, 9, 8)
        assert found is not model and torch.equal(found(x), model(x))


def test_a_batch_with_labels_does_and_nothing_of_the_model_moves():
    torch.manual_seed(0)
    seen = []
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout()).train()
    model.register_forward_hook(lambda *_: seen.append(1))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = neutralise(model, (images(2, 9, 8), torch.tensor([0, 1])))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and not seen and model.training and found.training


def test_bad_input_is_named():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    with pytest.raises(PANError, match="does not run on an image of 5×9×8"):
        neutralise(model, images(5, 9, 8))
    with pytest.raises(PANError, match="images is no batch of images"):
        neutralise(model, "cat.png")
    report: PANReport = report_of({"0": [0]}, {"0": 3})
    with pytest.raises(PANError, match="permanent masks already"):
        neutralise(mask_permanently(model, report))


@pytest.mark.parametrize("name", ["plain", "same as TensorFlow"])
def test_it_is_exported_and_scripted(name, tmp_path):
    torch.manual_seed(0)
    if name == "plain":
        model, x = (
            nn.Sequential(*zero_padded(), nn.ReLU(), nn.Conv2d(5, 4, 3, padding="same")).eval(),
            images(3, 20, 18),
        )
    else:
        model, x = (
            nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)).eval(),
            images(3, 20, 18),
        )
    found = neutralise(model, x)
    expected = found(x).detach()
    program = torch.export.export(found, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x[:1]), expected[:1])
    torch.onnx.export(found, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    if name == "plain":
        torch.testing.assert_close(torch.jit.script(found)(x), expected)
