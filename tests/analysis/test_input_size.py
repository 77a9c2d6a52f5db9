"""Input sizes without leftover padding: known ones, found without a trace."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pan_callbacks import PANError, scan
from pan_callbacks.analysis.input_size import next_size_without_leftover


class Fussy(nn.Module):
    """Runs on multiples of eight and one more alone, with a head of fixed size."""

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.step, self.sizes = step, []

    def forward(self, x):
        self.sizes.append(x.shape[-1])
        if x.shape[-1] % self.step not in (0, 1):
            raise ValueError("another size")
        return self.down(x)


def stack(*strides: int, kernel: int = 3) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(2, 2, kernel, stride, kernel // 2) for stride in strides))


def test_a_resnet_at_224_needs_225():
    assert next_size_without_leftover(timm.create_model("resnet18"), (224, 224)) == (225, 225)


@pytest.mark.parametrize("size", [(20, 20), (31, 47), (32, 32), (33, 33)])
def test_a_scan_at_the_size_that_is_found_has_no_leftover_and_at_every_size_before_it_some(size):
    model = stack(2, 2, 1, 2)
    found = next_size_without_leftover(model, size)
    for more in range(1, found[0] - size[0] + 1):
        report = scan(model, [torch.rand(8, 2, size[0] + more, size[1] + more)], progress=False)
        some = any(max(layer.leftover) > 0 for layer in report.layers.values())
        assert some == (more < found[0] - size[0])


def test_both_sides_grow_by_the_same():
    assert next_size_without_leftover(stack(2, 2), (32, 40)) == (33, 41)


def test_sides_that_never_suit_at_once_have_no_such_size():
    assert next_size_without_leftover(stack(2, 2), (32, 33)) is None


def test_no_size_within_the_limit_is_none():
    assert next_size_without_leftover(stack(2, 2), (30, 30), limit=2) is None
    assert next_size_without_leftover(stack(2, 2), (30, 30), limit=3) == (33, 33)


def test_padding_by_a_module_of_its_own_counts():
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3, 2), nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3, 2))
    assert next_size_without_leftover(model, (32, 32)) == (33, 33)


def test_strides_without_padding_leave_no_padding_over():
    assert next_size_without_leftover(nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 1, 2)), (32, 32)) == (33, 33)


def test_padding_that_follows_the_size_leaves_nothing_over():
    model = timm.create_model("tf_efficientnet_lite0")
    assert next_size_without_leftover(model, (64, 65)) == (65, 66)


def test_layers_that_are_not_selected_may_have_leftover():
    model = stack(2, 2, 2)
    assert next_size_without_leftover(model, (32, 32), layers="0") == (33, 33)
    assert next_size_without_leftover(model, (33, 33)) == (41, 41)
    assert next_size_without_leftover(model, (33, 33), layers=["0", "1"]) == (37, 37)


def test_a_head_of_fixed_size_does_not_matter():
    model = nn.Sequential(stack(2, 2), nn.Flatten(), nn.Linear(2 * 8 * 8, 3))
    assert next_size_without_leftover(model, (32, 32)) == (33, 33)


def test_sizes_on_which_the_model_does_not_run_are_passed_over():
    assert next_size_without_leftover(Fussy(step=8), (33, 33)) == (41, 41)


def test_a_forward_ends_at_the_first_layer_that_rules_its_size_out():
    model = stack(2, 2)
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    assert next_size_without_leftover(model, (29, 29)) == (33, 33)
    assert seen == [15, 16, 17]  # from 29, 31 and 33: an even size ends in the first layer


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(stack(2, 2), nn.BatchNorm2d(2), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert next_size_without_leftover(model, (32, 32)) == (33, 33)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_hooks_are_gone_when_no_size_will_do():
    model = Fussy(step=1000)
    with pytest.raises(PANError, match="does not run on a batch of one 3×32×32 image: ValueError: another size"):
        next_size_without_leftover(model, (32, 32))
    assert all(not module._forward_hooks for module in model.modules())


def test_the_image_has_the_model_s_type():
    assert next_size_without_leftover(stack(2).double(), (32, 32)) == (33, 33)


def test_a_compiled_model_is_looked_into():
    assert next_size_without_leftover(torch.compile(stack(2, 2), backend="eager"), (32, 32)) == (33, 33)


def test_sizes_and_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="limit=0"):
        next_size_without_leftover(stack(2), (32, 32), limit=0)
    with pytest.raises(ValueError, match=r"size=\(0, 32\)"):
        next_size_without_leftover(stack(2), (0, 32))
