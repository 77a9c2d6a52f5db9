"""Networks that take turns by the step are all penalised, each in every n-th step of its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint

from pan_callbacks import PaddingBiasPenalty, PANPenalty
from tests.callbacks.test_suppression import WEIGHT, Module, assert_same_weights, build, fit
from tests.support.lightning_models import SmallModule, loaders, trainer


class TakesTurns(Module):
    """Two networks, as in adversarial training; ``own`` adds the penalties by hand, each by its own runs."""

    own = None
    turns = 2

    def __init__(self):
        super().__init__()
        self.other = SmallModule().net

    def runs(self, step):
        return "other" if step % self.turns else "net"

    def loss(self, batch):
        name = self.runs(self.trainer.fit_loop.total_batch_idx)
        if self.own is None:
            return F.cross_entropy(getattr(self, name)(batch[0]), batch[1])
        every, penalties, ran = self.own
        loss = F.cross_entropy(getattr(self, name)(batch[0]), batch[1])
        if ran[name] % every == 0:
            loss = loss + WEIGHT * penalties[name]()
        else:
            penalties[name].begin(0)  # forgets this forward
        ran[name] += 1
        return loss

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class ManualTurns(TakesTurns):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers().step()


class TwicePerStep(TakesTurns):
    """Several backward passes in a step, and each network called twice in it."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        if self.own is not None:
            every, penalties, ran = self.own
            name = self.runs(self.trainer.fit_loop.total_batch_idx)
            for x in (batch[0], batch[0].flip(-1)):
                loss = F.cross_entropy(getattr(self, name)(x), batch[1])
                self.manual_backward(loss + WEIGHT * penalties[name]() if ran[name] % every == 0 else loss)
                penalties[name].begin(0)
            ran[name] += 1
        else:
            name = self.runs(self.trainer.fit_loop.total_batch_idx)
            for x in (batch[0], batch[0].flip(-1)):
                self.manual_backward(F.cross_entropy(getattr(self, name)(x), batch[1]))
        self.optimizers().step()


def by_hand(kind, every, **attributes):
    module = build(kind, **attributes)
    penalties = {name: PaddingBiasPenalty(getattr(module, name)) for name in ("net", "other")}
    object.__setattr__(module, "own", (every, penalties, {"net": 0, "other": 0}))
    return module


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(TakesTurns, {}), (TakesTurns, {"accumulate_grad_batches": 2}), (ManualTurns, {}), (TwicePerStep, {})],
    ids=["automatic", "accumulate", "manual", "twice per step"],
)
def test_gradients_are_those_of_a_penalty_in_every_nth_run_of_each_network(tmp_path, kind, options, turns, every):
    added = build(kind, turns=turns)
    fit(tmp_path, added, [PANPenalty(WEIGHT, every_n_steps=every)], epochs=4, **options)
    explicit, _ = fit(tmp_path, by_hand(kind, every, turns=turns), epochs=4, **options)
    without, _ = fit(tmp_path, build(kind, turns=turns), epochs=4, **options)
    for (name, a), b in zip(added.named_parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("net.0.weight", "other.0.weight"):
        assert not torch.equal(added.get_parameter(name), without.get_parameter(name))


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on_with_the_schedules(tmp_path):
    saves = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")

    class Steady(TakesTurns):
        def __init__(self):
            super().__init__()
            for network in (self.net, self.other):
                network[5] = torch.nn.Identity()

    def data():
        train, val = loaders()
        return torch.utils.data.DataLoader(train.dataset, batch_size=16), val  # not shuffled

    def run(ckpt=None, **kwargs):
        module = build(Steady)
        callbacks = [PANPenalty(WEIGHT, every_n_steps=4), *kwargs.pop("more", [])]
        trainer(tmp_path, callbacks, 5, num_sanity_val_steps=0, **kwargs).fit(module, *data(), ckpt_path=ckpt)
        return module

    whole = run(more=[saves], enable_checkpointing=True)
    for epoch in range(4):
        assert_same_weights(whole, run(tmp_path / f"epoch={epoch}.ckpt"))


def test_a_network_that_waits_for_its_turn_is_not_said_to_be_without_a_penalty(tmp_path, recwarn):
    fit(tmp_path, build(TakesTurns), [PANPenalty(every_n_steps=1)], epochs=2)
    assert not [w for w in recwarn if "no penalty for" in str(w.message)]


def test_a_network_that_never_runs_is_told_once(tmp_path, recwarn):
    fit(tmp_path, build(TakesTurns, turns=1), [PANPenalty()], epochs=3)
    (told,) = [str(w.message) for w in recwarn if "no penalty for" in str(w.message)]
    assert told.startswith("PANPenalty has no penalty for 3 layers ('other.0', 'other.3', 'other.6': did not run")
