"""Which modules are padded layers, and what they pad with: against timm's and torch's modules as they run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.padding import pad_same
from torch import nn

from pan_callbacks.layers import (
    PaddedLayer,
    PANError,
    clean_name,
    convolutions,
    pad_modules,
    pads_inside,
    select,
    why_unpadded,
)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2))

    def forward(self, x):
        return self.layer2[0](self.layer1(self.stem(x)))


ALL = ["stem", "layer1.0", "layer1.2", "layer2.0"]


# ---- selection


def test_all_convolutions_are_selected_by_default():
    assert list(select(Backbone())) == ALL


def test_selection_gives_the_modules_themselves():
    model = Backbone()
    assert select(model, "layer1.0")["layer1.0"] is model.layer1[0]


def test_a_star_matches_across_dots():
    assert list(select(Backbone(), "layer*")) == ["layer1.0", "layer1.2", "layer2.0"]


def test_several_globs_select_what_any_of_them_matches():
    assert list(select(Backbone(), ["stem", "*.0"])) == ["stem", "layer1.0", "layer2.0"]


def test_selection_keeps_the_order_of_the_model_not_of_the_globs():
    assert list(select(Backbone(), ["layer2*", "layer1*", "stem"])) == ALL


def test_a_convolution_matched_by_two_globs_is_selected_once():
    assert list(select(Backbone(), ["stem", "s*"])) == ["stem"]


def test_globs_may_come_from_an_iterator():
    assert list(select(Backbone(), iter(["stem", "layer2*"]))) == ["stem", "layer2.0"]


def test_a_question_mark_and_a_set_match_one_character():
    assert list(select(Backbone(), "layer[2-9].?")) == ["layer2.0"]


def test_globs_tell_upper_from_lower_case():
    with pytest.raises(PANError):
        select(Backbone(), "STEM")


def test_a_glob_that_matches_nothing_is_named_in_the_error():
    with pytest.raises(PANError, match=r"'head\.\*'"):
        select(Backbone(), ["stem", "head.*"])


def test_the_error_of_a_glob_that_matches_nothing_shows_what_there_is():
    with pytest.raises(PANError, match=r"4 convolutions.*stem, layer1\.0, layer1\.2, layer2\.0"):
        select(Backbone(), "head")


def test_the_error_shows_a_few_layers_of_a_large_model_only():
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(100)))
    with pytest.raises(PANError) as error:
        select(model, "head")
    assert len(str(error.value)) < 200


def test_a_glob_that_matches_only_modules_that_are_no_convolutions_is_an_error():
    with pytest.raises(PANError, match=r"layer1\.1"):
        select(Backbone(), "layer1.1")


def test_a_glob_on_a_model_without_convolutions_says_that_there_is_none():
    with pytest.raises(PANError, match=r"none of the 0 convolutions of this model \(none\)"):
        select(nn.Linear(2, 2), "*")


def test_a_model_without_convolutions_has_none():
    assert select(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == {}


def test_convolutions_in_one_and_three_dimensions_are_selected_and_transposed_ones_are_no_padded_layers():
    kinds = [nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    model = nn.Sequential(*(kind(1, 1, 3, padding=1) for kind in kinds))
    assert list(select(model)) == ["0", "1", "2", "3", "4"]
    assert list(convolutions(model)) == ["0", "1"]
    assert [why_unpadded(conv) is None for conv in select(model).values()] == [True, True, False, False, False]
    assert why_unpadded(model[3]).startswith("a transposed convolution: ")


def test_a_convolution_used_in_two_places_is_found_once():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    assert list(convolutions(nn.Sequential(conv, nn.ReLU(), conv))) == ["0"]


# ---- names


def test_names_do_not_change_when_a_model_is_compiled():
    assert list(convolutions(torch.compile(Backbone()))) == ALL


def test_names_do_not_change_when_a_part_of_a_model_is_compiled():
    model = Backbone()
    model.layer1 = torch.compile(model.layer1)
    assert list(convolutions(model)) == ALL


def test_names_do_not_change_when_a_convolution_itself_is_compiled():
    model = Backbone()
    model.stem = torch.compile(model.stem)
    assert list(convolutions(model)) == ALL


@pytest.mark.parametrize(
    "name, clean",
    [
        ("_orig_mod.stem", "stem"),
        ("net._orig_mod.layer1.0.conv1", "net.layer1.0.conv1"),
        ("_forward_module._orig_mod.stem", "stem"),
        ("layer1._fsdp_wrapped_module._checkpoint_wrapped_module.0", "layer1.0"),
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("", ""),
    ],
)
def test_clean_names_are_without_wrappers(name, clean):
    assert clean_name(name) == clean


@pytest.mark.parametrize("name", ["bi_forward_module.conv", "my_orig_mod.conv", "net.x_checkpoint_wrapped_module.0"])
def test_a_name_that_merely_ends_like_a_wrapper_is_left_alone(name):
    assert clean_name(name) == name


# ---- which convolutions pad


@pytest.mark.parametrize(
    "conv, reason",
    [
        (nn.Conv2d(1, 1, 3), "no padding"),
        (nn.Conv2d(1, 1, (1, 3)), "no padding"),
        (nn.Conv2d(1, 1, 3, padding="valid"), "no padding"),
        (nn.Conv2d(1, 1, 1), "1×1 kernel"),
        (nn.Conv2d(1, 1, 1, padding="valid"), "1×1 kernel"),
        (nn.Conv2d(1, 1, 1, padding="same"), "1×1 kernel"),
        (Conv2dSame(1, 1, 1, stride=2), "1×1 kernel"),
        (StdConv2d(1, 2, 3, padding=0), "no padding"),
    ],
)
def test_reason_of_a_convolution_that_does_not_pad(conv, reason):
    assert why_unpadded(conv) == reason


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 3, padding=(0, 1)),
        nn.Conv2d(1, 1, (1, 3), padding="same"),
        nn.Conv2d(1, 1, 1, padding=1),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        Conv2dSame(1, 1, 3, stride=2),
        StdConv2d(1, 2, 3),
        StdConv2dSame(1, 2, 3, stride=2),
        StdConv2dSame(1, 2, 3),
    ],
)
def test_a_convolution_that_pads_has_no_reason_to_be_left_out(conv):
    assert why_unpadded(conv) is None


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_pad_module_makes_any_convolution_after_it_a_padded_layer(kernel):
    assert why_unpadded(nn.Conv2d(1, 1, kernel), nn.ZeroPad2d(1)) is None


@pytest.mark.parametrize(
    "conv, inside",
    [
        (Conv2dSame(1, 1, 3, stride=2), True),
        (StdConv2dSame(1, 2, 3, stride=2), True),
        (ScaledStdConv2dSame(1, 2, 3, stride=2), True),
        (StdConv2dSame(1, 2, 3, stride=1), False),  # symmetric, so timm gives it an ordinary padding
        (ScaledStdConv2dSame(1, 2, 3, stride=1), False),
        (StdConv2d(1, 2, 3), False),
        (nn.Conv2d(1, 1, 3, padding="same"), False),
        (nn.Conv2d(1, 1, 3, padding=1), False),
    ],
)
def test_convolutions_that_pad_in_their_forward_are_told_from_those_that_do_not(conv, inside):
    assert pads_inside(conv) is inside


def test_a_subclass_of_a_convolution_that_pads_in_its_forward_does_so_too():
    class Mine(Conv2dSame):
        pass

    assert pads_inside(Mine(1, 1, 3, stride=2))


# ---- a convolution with the pad module before it

PADS = {
    "zeros": nn.ZeroPad2d((1, 2, 3, 0)),
    "constant": nn.ConstantPad2d((1, 2, 3, 0), -1.5),
    "reflect": nn.ReflectionPad2d((1, 2, 3, 0)),
    "replicate": nn.ReplicationPad2d((1, 2, 3, 0)),
    "circular": nn.CircularPad2d((1, 2, 3, 0)),
}


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS)
def test_geometry_with_a_pad_module_has_its_four_paddings(pad):
    geometry = PaddedLayer(nn.Conv2d(1, 1, 3), pad).geometry(8, 9)
    found = geometry.cols.before, geometry.cols.after, geometry.rows.before, geometry.rows.after
    assert found == (1, 2, 3, 0)


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS)
def test_output_size_with_a_pad_module_is_that_of_the_pair(pad):
    conv = nn.Conv2d(1, 1, 3, stride=2)
    out = conv(pad(torch.zeros(1, 1, 8, 9)))
    assert PaddedLayer(conv, pad).geometry(8, 9).output_size == tuple(out.shape[-2:])


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS)
def test_unpadded_undoes_the_pad_module(pad):
    x = torch.randn(2, 1, 8, 9)
    assert torch.equal(PaddedLayer(nn.Conv2d(1, 1, 3), pad).unpadded(pad(x)), x)


def test_unpadded_without_a_pad_module_is_the_input():
    x = torch.randn(2, 1, 8, 9)
    assert PaddedLayer(nn.Conv2d(1, 1, 3, padding=1)).unpadded(x) is x


@pytest.mark.parametrize(
    "pad, mode",
    [
        (PADS["zeros"], "zeros"),
        (PADS["constant"], "zeros"),
        (PADS["reflect"], "reflect"),
        (PADS["replicate"], "replicate"),
        (PADS["circular"], "circular"),
    ],
)
def test_mode_is_that_of_the_pad_module(pad, mode):
    assert PaddedLayer(nn.Conv2d(1, 1, 3), pad).mode == mode


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_mode_without_a_pad_module_is_that_of_the_convolution(mode):
    assert PaddedLayer(nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)).mode == mode


@pytest.mark.parametrize("pad, value", [(PADS["zeros"], 0.0), (PADS["constant"], -1.5), (None, 0.0)])
def test_value_is_the_constant_that_is_padded(pad, value):
    assert PaddedLayer(nn.Conv2d(1, 1, 3, padding=1), pad).value == value


def test_pad_modules_that_cut_values_off_are_left_out():
    model = nn.ModuleDict({"cuts": nn.ZeroPad2d((1, -1, 0, 0)), "adds": nn.ZeroPad2d((1, 1, 0, 0))})
    assert pad_modules(model) == {"adds": model["adds"]}


def test_pad_modules_of_every_mode_are_found_by_name():
    model = nn.ModuleDict({**PADS, "relu": nn.ReLU()})
    assert pad_modules(model) == PADS


def test_names_of_pad_modules_do_not_change_when_a_model_is_compiled():
    assert list(pad_modules(torch.compile(nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3))))) == ["0"]


def test_pad_modules_of_one_and_three_dimensions_are_among_them():
    assert list(pad_modules(nn.Sequential(nn.ConstantPad1d(1, 0.0), nn.Identity(), nn.CircularPad3d(1)))) == ["0", "2"]


# ---- the kernel


@pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_weight_is_the_standardised_kernel_that_the_module_convolves_with(kind, stride):
    conv = kind(3, 6, 3, stride=stride, bias=True)
    x = torch.randn(2, 3, 9, 10)
    padded = pad_same(x, [3, 3], [stride, stride]) if "Same" in kind.__name__ else F.pad(x, (1, 1, 1, 1))
    expected = F.conv2d(padded, PaddedLayer(conv).weight(x), conv.bias, stride=stride)
    torch.testing.assert_close(expected, conv(x))


def test_standardised_weight_is_not_the_parameter():
    conv = StdConv2d(3, 6, 3)
    assert not torch.allclose(PaddedLayer(conv).weight(torch.randn(1, 3, 8, 8)), conv.weight)


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 6, 3, padding=1), Conv2dSame(3, 6, 3, stride=2)])
def test_weight_of_a_plain_convolution_is_its_parameter(conv):
    assert PaddedLayer(conv).weight(torch.randn(1, 3, 8, 8)) is conv.weight


@torch.no_grad()
def test_weight_of_a_parametrized_convolution_is_the_parametrized_one():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3, padding=1, bias=False))
    conv.parametrizations.weight.original0.mul_(3)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(F.conv2d(x, PaddedLayer(conv).weight(x), padding=1), conv(x))


@torch.no_grad()
def test_weight_of_a_subclass_that_scales_its_kernel_is_the_scaled_one():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, 2 * self.weight, self.bias)

    conv = Doubled(3, 6, 3, padding=1)
    assert torch.equal(PaddedLayer(conv).weight(torch.randn(1, 3, 8, 8)), 2 * conv.weight)


def test_looking_for_the_weight_calls_no_hook():
    conv, calls = StdConv2d(3, 6, 3), []
    conv.register_forward_hook(lambda *args: calls.append(args))
    PaddedLayer(conv).weight(torch.randn(1, 3, 8, 8))
    assert calls == []
