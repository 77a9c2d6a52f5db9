"""The penalty of convolutions whose classes have a forward of their own, and of maps that are none."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from pan_callbacks import PaddingBiasPenalty, PANError, PANPenalty
from tests.support.lightning_models import SmallModule, loaders, trainer

IMAGES = torch.randn(6, 2, 12, 12, generator=torch.Generator().manual_seed(0)) / 2 + 2


class WithMore(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), "more"


class ByKeyword(nn.Conv2d):
    def forward(self, *, image):
        return super().forward(image)


class OfPair(nn.Conv2d):
    def forward(self, pair):
        return super().forward(pair[0])


class Masked(nn.Conv2d):
    def forward(self, x, mask):
        return super().forward(x * mask)


class Fewer(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)[:, :2]


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)[:, :, ::2]


class ChannelsLast(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


OTHER = "its forward takes or gives something else than one map"
NONE = {
    "gives more": (WithMore, lambda conv, x: conv(x)[0], OTHER),
    "by keyword": (ByKeyword, lambda conv, x: conv(image=x), OTHER),
    "of a pair": (OfPair, lambda conv, x: conv((x, x)), OTHER),
    "fewer channels": (Fewer, lambda conv, x: conv(x), "its map has 2 channels, and its kernel 4"),
    "every other row": (Halved, lambda conv, x: conv(x), "its output of 6×12 does not fit its declared padding"),
    "channels at the end": (
        ChannelsLast,
        lambda conv, x: conv(x.permute(0, 2, 3, 1)),
        "its map has 12 channels, and its kernel 4",
    ),
}


def seen(conv, call, x=IMAGES, **kwargs):
    torch.manual_seed(1)
    plain = nn.Conv2d(2, 4, 3, padding=1)
    model = nn.ModuleList([conv, plain])
    penalty = PaddingBiasPenalty(model, **kwargs)
    alone = PaddingBiasPenalty(model, layers="1", **kwargs)
    call(conv, x)
    plain(IMAGES)
    return penalty, alone


@pytest.mark.parametrize("name", NONE)
def test_a_call_that_gives_no_map_is_left_out_with_the_reason_and_the_rest_is_penalised(name):
    make, call, why = NONE[name]
    penalty, alone = seen(make(2, 4, 3, padding=1), call)
    assert penalty.left_out() == {"0": why}
    assert penalty() == alone() > 0


def test_complex_maps_are_left_out():
    conv = nn.Conv2d(2, 4, 3, padding=1, dtype=torch.cfloat)
    penalty, alone = seen(conv, lambda conv, x: conv(x), IMAGES.to(torch.cfloat))
    assert penalty.left_out() == {"0": "its map is of complex numbers"}
    assert penalty() == alone()


def test_a_batch_without_images_says_so():
    penalty, alone = seen(nn.Conv2d(2, 4, 3, padding=1), lambda conv, x: conv(x), IMAGES[:0])
    assert penalty.left_out() == {"0": "no images in the batch"}
    assert penalty() == alone()


def test_a_kernel_that_cannot_be_read_is_refused_by_name():
    def call(conv, x):
        conv(x, mask=torch.ones_like(x))

    penalty, alone = seen(Masked(2, 4, 3, padding=1), call)
    with pytest.raises(PANError, match=r"layer 0: the kernel of a Masked cannot be read.*layers=.*PaddingDropout"):
        penalty()
    assert alone() > 0  # the way out


def pruned(conv):
    return prune.random_unstructured(conv, "weight", 0.3)


@pytest.mark.parametrize(
    "change", [parametrizations.weight_norm, nn.utils.weight_norm, parametrizations.orthogonal, pruned]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_the_kernel_of_a_convolution_that_computes_it_is_the_one_it_convolves_with(change):
    torch.manual_seed(0)
    conv = change(nn.Conv2d(2, 4, 3, padding=1))
    conv(IMAGES)
    plain = nn.Conv2d(2, 4, 3, padding=1)
    plain.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    values = []
    for one in (conv, plain):
        penalty = PaddingBiasPenalty(one)
        one(IMAGES)
        values.append(penalty())
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    values[0].backward()
    assert values[0] > 0.01
    gradients = {name: p.grad for name, p in conv.named_parameters()}
    assert gradients.pop("bias") is None  # which padding does not enter
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0


def test_a_layer_of_which_the_bias_alone_learns_is_frozen():
    conv = nn.Conv2d(2, 4, 3, padding=1)
    conv.weight.requires_grad_(False)
    penalty, alone = seen(conv, lambda conv, x: conv(x))
    assert penalty.left_out() == {"0": "frozen: its kernel needs no gradient"}
    assert penalty() == alone() > 0


def test_a_bias_that_is_computed_and_learns_beside_a_frozen_kernel_costs_nothing():
    conv = parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1), "bias", dim=None)
    conv.weight.requires_grad_(False)
    penalty, alone = seen(conv, lambda conv, x: conv(x))
    assert penalty() == alone() > 0


def test_one_convolution_called_twice_is_the_mean_of_both_calls():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1)
    values = []
    for x in (IMAGES, IMAGES.flip(1) + 2):
        penalty = PaddingBiasPenalty(conv)
        conv(x)
        values.append(penalty().item())
        penalty.detach()
    penalty = PaddingBiasPenalty(conv)
    conv(IMAGES), conv(IMAGES.flip(1) + 2)
    assert values[0] > 0.01 and values[1] != pytest.approx(values[0], rel=0.1)
    assert penalty().item() == pytest.approx((values[0] + values[1]) / 2, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_other_numbers_and_layouts_give_the_same_penalty(dtype, memory):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, padding=1)
    penalty = PaddingBiasPenalty(conv)
    conv(IMAGES)
    expected = penalty()
    penalty.detach()
    conv.to(dtype=dtype, memory_format=memory)
    penalty = PaddingBiasPenalty(conv)
    conv(IMAGES.to(dtype=dtype, memory_format=memory))
    value = penalty()
    assert value.dtype == torch.float32
    assert value.item() > 0.01
    assert value.item() == pytest.approx(expected.item(), rel=1e-5 if dtype is torch.float64 else 2e-2)
    value.backward()
    assert conv.weight.grad.isfinite().all()


def test_a_training_goes_on_beside_such_a_layer_and_names_it(tmp_path):
    class Module(SmallModule):
        def __init__(self):
            super().__init__()
            self.own = WithMore(1, 1, 3, padding=1)

        def training_step(self, batch, batch_idx):
            return super().training_step((self.own(batch[0])[0], batch[1]), batch_idx)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [PANPenalty(every_n_steps=1)], 1, limit_val_batches=0).fit(Module(), loaders()[0])
    told = [str(warning.message) for warning in caught if str(warning.message).startswith("PANPenalty")]
    assert told == [f"PANPenalty has no penalty for 1 layers (own: {OTHER})"]
