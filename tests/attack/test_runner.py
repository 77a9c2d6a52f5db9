"""The runner sees what a careless callback does to a run, and nothing where there is nothing."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from pan_callbacks import PANError, PANMonitor
from tests.attack.case import Arm, Case
from tests.attack.fingerprint import fingerprint
from tests.attack.outcome import differences, judge, outcome
from tests.attack.pieces import data, loader, pictures, setup
from tests.attack.promises import Promise
from tests.attack.timm_families import FAMILIES


def plain(folder):
    generator = torch.Generator().manual_seed(1)
    val = loader(data(), shuffle=True, generator=generator)
    return setup(val=val, watched={"generator": generator})


CASE = Case("plain", Promise.TRAINER, plain)


def saboteur(hook: str, harm) -> Arm:
    return Arm("saboteur", lambda made: [type("Saboteur", (pl.Callback,), {hook: harm})()])


def _noop(self, trainer, pl_module):
    pass


def _torch(self, trainer, pl_module):
    torch.rand(())


def _numpy(self, trainer, pl_module):
    np.random.rand()


def _python(self, trainer, pl_module):
    random.random()


def _buffer(self, trainer, pl_module):
    pl_module.net.body[1].running_mean.add_(1e-6)


def _weight(self, trainer, pl_module):
    with torch.no_grad():
        pl_module.net.stem.weight.mul_(1 + 1e-6)


def _mode(self, trainer, pl_module):
    pl_module.net.body.eval()


def _hook(self, trainer, pl_module):
    pl_module.net.stem.register_forward_hook(lambda module, args, out: None)


def _attribute(self, trainer, pl_module):
    pl_module.net.left = 1


def _gradient(self, trainer, pl_module):
    pl_module.net.stem.weight.grad = torch.zeros_like(pl_module.net.stem.weight)


def _optimizer(self, trainer, pl_module):
    trainer.optimizers[0].param_groups[0]["lr"] *= 1.000001


def _metric(self, trainer, pl_module):
    trainer.callback_metrics["val_loss"] += 1e-3


def _generator(self, trainer, pl_module):
    torch.rand(3, generator=trainer.val_dataloaders.generator)


def _stop(self, trainer, pl_module):
    trainer.should_stop = True


def _error(self, trainer, pl_module):
    raise RuntimeError("fell over")


def _replace(self, trainer, pl_module):
    pl_module.net.stem = copy.deepcopy(pl_module.net.stem)
    pl_module.net.stem.__class__ = type("Conv2d2", (nn.Conv2d,), {})


HARMS = {
    "random state of torch": ("on_fit_end", _torch),
    "random state of numpy": ("on_fit_end", _numpy),
    "random state of python": ("on_fit_end", _python),
    "buffer net.body.1.running_mean": ("on_fit_end", _buffer),
    "weights net.stem.weight": ("on_fit_end", _weight),
    "mode of net.body": ("on_fit_end", _mode),
    "hooks of net.stem": ("on_fit_end", _hook),
    "attribute left of net": ("on_fit_end", _attribute),
    "gradient of net.stem.weight": ("on_fit_end", _gradient),
    "optimizer 0": ("on_train_end", _optimizer),
    "callback metrics": ("on_fit_end", _metric),
    "state of generator": ("on_fit_end", _generator),
    "should stop": ("on_fit_end", _stop),
    "exception": ("on_train_epoch_end", _error),
    "class of net.stem": ("on_fit_end", _replace),
}


@pytest.fixture(scope="module")
def without():
    return outcome(CASE)


def test_a_run_repeats(without):
    assert differences(without, outcome(CASE)) == []
    assert differences(without, outcome(CASE, saboteur("on_train_epoch_end", _noop))) == []


@pytest.mark.parametrize("fact", HARMS)
def test_harm_done_at_the_end_is_seen_where_it_was_done(without, fact):
    found = differences(without, outcome(CASE, saboteur(*HARMS[fact])))
    assert any(line.startswith(f"{fact} is ") for line in found), found


@pytest.mark.parametrize("harm", [_torch, _numpy, _python, _weight, _generator])
def test_harm_done_on_the_way_is_seen_in_what_follows(without, harm):
    found = differences(without, outcome(CASE, saboteur("on_validation_start", harm)))
    assert found[0].startswith("event ")


def test_a_hook_of_ours_that_stays_is_seen(without):
    class Staying(PANMonitor):
        def teardown(self, trainer, pl_module, stage):
            pass

    found = outcome(CASE, Arm("staying", lambda made: [Staying()]))
    assert found.left and "of ours is left on" in found.left[0]


def test_a_case_that_does_not_repeat_is_no_case():
    runs = iter(range(10))

    def changing(folder):
        return setup(val=loader(data(8, seed=next(runs))))

    with pytest.raises(AssertionError, match="does not repeat"):
        judge(Case("changing", Promise.DATA, changing))


def test_an_error_of_ours_is_refusal_for_who_acts_and_a_problem_for_who_watches():
    class Refusing(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            raise PANError("not here")

    def refusing(made):
        return [Refusing()]

    verdict = judge(
        Case("refused", Promise.TRAINER, plain, (Arm("acts", refusing, acts=True), Arm("watches", refusing)))
    )
    assert verdict.refused == [("acts", "not here")]
    assert verdict.problems == ["watches: refused: not here"]


def test_fingerprints_tell_bits():
    one = torch.tensor([0.0, 1.0])
    assert fingerprint(one) == fingerprint(one.clone())
    assert fingerprint(one) != fingerprint(one.double())
    assert fingerprint(torch.tensor(0.0)) != fingerprint(torch.tensor(-0.0))
    assert fingerprint({"a": [one]}) != fingerprint({"a": [one + 1e-7]})
    assert fingerprint(pictures(2)) != fingerprint(pictures(2).transpose(-1, -2))
    assert fingerprint(float("nan")) == fingerprint(float("nan"))
    generator = torch.Generator().manual_seed(0)
    before = fingerprint(generator)
    torch.rand((), generator=generator)
    assert fingerprint(generator) != before


def test_every_family_of_timm_is_among_the_cases():
    import timm

    modules = {timm.models.model_entrypoint(name).__module__.split(".")[-1] for name in timm.list_models()}
    assert modules == set(FAMILIES)
