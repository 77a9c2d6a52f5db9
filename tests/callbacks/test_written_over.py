"""PANPenalty where a network writes over what its layers read and gave: the penalty needs the kernels alone."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import PaddingBiasPenalty, PANPenalty
from tests.support.lightning_models import SmallModule, loaders, trainer


class Writing(SmallModule):
    """``side`` teaches nobody, as its output is detached; then something is written over under no_grad."""

    over = "nothing"

    def __init__(self):
        super().__init__()
        self.net = nn.Identity()
        self.stem, self.side, self.head = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.last = nn.Linear(4, 3)
        self.seen = []

    def training_step(self, batch, batch_idx):
        x = self.stem(batch[0])
        out = self.side(x)
        features = self.head(F.relu(out.detach().clone()))
        with torch.no_grad():
            {"input": x, "output": out, "nothing": torch.ones(1)}[self.over].zero_()
        return F.cross_entropy(self.last(features.mean((2, 3))), batch[1])

    def on_after_backward(self):
        self.seen.append([None if p.grad is None else p.grad.clone() for p in self.parameters()])


def fit(tmp_path, module, **kwargs):
    pl.seed_everything(5, verbose=False)  # of the loader
    run = trainer(tmp_path, [PANPenalty(every_n_steps=1, **kwargs)], 1, limit_val_batches=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, loaders()[0])
    return [str(warning.message) for warning in caught if "PANPenalty has no penalty" in str(warning.message)]


def built(over):
    pl.seed_everything(3, verbose=False)
    module = Writing()
    module.over = over
    return module


def assert_same_gradients(one, other):
    for step, expected in zip(one.seen, other.seen, strict=True):
        for a, b in zip(step, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("over", ["input", "output"])
def test_what_is_written_into_an_input_or_an_output_after_the_hook_changes_nothing(tmp_path, over):
    written, expected = built(over), built("nothing")
    assert fit(tmp_path, written) == fit(tmp_path, expected) == []
    assert_same_gradients(written, expected)
    assert written.side.weight.grad is None  # the task has none for it, and the penalty no more than the task
    assert written.head.weight.grad.any()


def test_a_penalty_of_a_loss_is_that_of_the_calls_that_it_was_computed_from():
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(2))
    model, x = nn.ModuleList([one, other]), torch.randn(4, 1, 12, 12) / 2 + 2
    penalty = PaddingBiasPenalty(model)
    loss = one(x).sum()
    other(x)
    value = penalty(loss)
    one(x), other(x)
    both = penalty()
    penalty.detach()

    def alone(layer, part):
        penalty = PaddingBiasPenalty(model, layers=layer)
        part(x)
        return penalty().detach()

    assert value == alone("0.0", one) > 0
    assert both.item() == pytest.approx((value + alone("1.0", other)).item() / 2) != value.item()


def test_a_call_on_one_image_is_found_again_although_its_output_is_written_into():
    torch.manual_seed(0)
    model, image = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)), torch.randn(1, 12, 12) / 2 + 2
    taken = PaddingBiasPenalty(model).take(model(image).sum())
    assert taken is not None
    penalty = PaddingBiasPenalty(model)
    model(image)
    assert taken == penalty() > 0
