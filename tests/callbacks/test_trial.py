"""``PAN_CALLBACKS=monitor python train.py``: Lightning asks, and gets what the variable names, once."""

from __future__ import annotations

import configparser
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import lightning.pytorch as other_pl
import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from pan_callbacks import PaddingDropout, PANError, PANMask, PANMonitor, PANPenalty
from pan_callbacks.callbacks._factory import callbacks_of_environment
from tests.support.lightning_models import SmallModule, in_namespace, loaders, trainer

ROOT = Path(__file__).parents[2]
GROUPS = ("pytorch_lightning.callbacks_factory", "lightning.pytorch.callbacks_factory")
OURS = (PANMonitor, PANPenalty, PANMask, PaddingDropout)


def declared(group):
    """The entry points of a group as an installation of setup.cfg has them."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    lines = config.get("options.entry_points", group, fallback="").strip().splitlines()
    return [EntryPoint(*map(str.strip, line.split("=")), group=group) for line in lines]


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Lightning finds our entry points, whichever an earlier installation in this environment left."""
    for registry in ("lightning_fabric.utilities.registry", "lightning.fabric.utilities.registry"):
        monkeypatch.setattr(f"{registry}.entry_points", declared)
    monkeypatch.setenv("PAN_CALLBACKS", "")


def named(monkeypatch, value):
    monkeypatch.setenv("PAN_CALLBACKS", value)


def of_ours(run):
    return sorted(type(callback).__name__ for callback in run.callbacks if isinstance(callback, OURS))


def fitted(tmp_path, module=None, callbacks=(), **kwargs):
    options = {"epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    run = trainer(tmp_path, callbacks, **{**options, **kwargs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "PAN_CALLBACKS")
        run.fit(module or SmallModule(), *loaders())
    return run


def set_up(tmp_path, module=None, callbacks=()):
    """A Trainer that has set itself up for training, and then has nothing to train with."""
    return fitted(tmp_path, module, callbacks, limit_train_batches=0)


def test_setup_cfg_declares_a_factory_that_can_be_loaded_for_both_namespaces():
    assert [[point.load()() for point in declared(group)] for group in GROUPS] == [[[]], [[]]]


@pytest.mark.parametrize("library", [pl, other_pl], ids=["pytorch_lightning", "lightning"])
def test_a_training_that_does_not_name_the_monitor_is_watched(tmp_path, monkeypatch, library):
    named(monkeypatch, "monitor")
    run = fitted(tmp_path, in_namespace(library), library=library)
    assert of_ours(run) == ["PANMonitor"] and all(isinstance(one, library.Callback) for one in run.callbacks)
    assert "pan/count" in run.callback_metrics


@pytest.mark.parametrize("value", ["", "  ", " , "])
def test_without_a_name_nothing_is_added(tmp_path, monkeypatch, value):
    named(monkeypatch, value)
    assert trainer(tmp_path).callbacks == []


def test_without_the_variable_nothing_of_ours_is_loaded_and_neither_torch_nor_lightning():
    code = "import sys; from pan_callbacks.callbacks._factory import callbacks_of_environment as ask; print(ask())\n"
    code += "print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env={})
    answer, modules = ran.stdout.splitlines()
    ours = {name for name in modules.split() if name.startswith("pan_callbacks")}
    assert answer == "[]"
    assert ours == {"pan_callbacks", "pan_callbacks.callbacks", "pan_callbacks.callbacks._factory"}
    assert not {"torch", "pytorch_lightning", "lightning", "numpy"} & set(modules.split())


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("penalty,dropout", ["PANPenalty", "PaddingDropout"]),
        (" Monitor , monitor", ["PANMonitor"]),
        ("mask", ["PANMask", "PANMonitor"]),
        ("mask-all", ["PANMask"]),
    ],
)
def test_each_name_brings_its_callback_and_a_mask_what_finds_its_pans(tmp_path, monkeypatch, value, kinds):
    named(monkeypatch, value)
    run = set_up(tmp_path)
    assert of_ours(run) == kinds
    masks = [callback.which for callback in run.callbacks if isinstance(callback, PANMask)]
    assert masks == (["all"] if value == "mask-all" else ["pans"] if value == "mask" else [])


def test_mask_and_mask_all_are_one_callback(monkeypatch):
    named(monkeypatch, "mask,mask-all")
    with pytest.warns(UserWarning, match="mask-all masks what mask would"):
        (trial,) = callbacks_of_environment()
    assert trial.names == ("mask-all",)


def test_an_unknown_name_is_said_with_those_that_are_known_and_training_goes_on(tmp_path, monkeypatch):
    named(monkeypatch, "montior,dropout")
    with pytest.warns(UserWarning, match="'montior'; choose of monitor, penalty, mask, mask-all, dropout"):
        run = trainer(tmp_path, epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(SmallModule(), *loaders())
    assert of_ours(run) == ["PaddingDropout"] and run.global_step == 1


def test_unknown_names_alone_add_nothing(monkeypatch):
    named(monkeypatch, "moniter")
    with pytest.warns(UserWarning, match="moniter"):
        assert callbacks_of_environment() == []


class BringsItsOwn(SmallModule):
    """Has a monitor in the module's code, where the Trainer's constructor does not see it."""

    def configure_callbacks(self):
        return [PANMonitor(threshold=0.5)]


def test_what_the_code_has_already_is_not_added_again(tmp_path, monkeypatch):
    named(monkeypatch, "monitor,dropout")

    class Own(PANMonitor):
        """A user's."""

    run = set_up(tmp_path, callbacks=[Own(), PaddingDropout(p=0.1)])
    assert of_ours(run) == ["Own", "PaddingDropout"]
    run = set_up(tmp_path, BringsItsOwn())
    assert [one.threshold for one in run.callbacks if isinstance(one, PANMonitor)] == [0.5]


def test_a_list_in_two_trainers_and_a_second_fit_get_one_each(tmp_path, monkeypatch):
    named(monkeypatch, "monitor")
    shared = []
    for _ in range(2):  # Lightning appends to the list that it is given
        run = set_up(tmp_path, callbacks=shared)
        assert of_ours(run) == ["PANMonitor"]
    run.fit(SmallModule(), *loaders())
    assert of_ours(run) == ["PANMonitor"]


def test_checkpoints_stay_behind_and_hold_what_the_monitor_found(tmp_path, monkeypatch):
    named(monkeypatch, "monitor")
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="pan/count", mode="min")
    run = fitted(tmp_path, callbacks=[checkpoint], enable_checkpointing=True)
    assert run.callbacks[-1] is checkpoint
    resumed = trainer(tmp_path, epochs=2, limit_train_batches=1, limit_val_batches=1)
    resumed.fit(SmallModule(), *loaders(), ckpt_path=checkpoint.best_model_path)
    (monitor,) = (one for one in resumed.callbacks if isinstance(one, PANMonitor))
    assert [entry["epoch"] for entry in monitor.history] == [-1, 0, 1]


def test_a_trainer_without_validation_goes_on_unwatched_but_a_mask_says_what_it_lacks(tmp_path, monkeypatch):
    train, _ = loaders()
    named(monkeypatch, "monitor")
    run = trainer(tmp_path, epochs=1, limit_train_batches=1)
    with pytest.warns(UserWarning, match="PAN_CALLBACKS=monitor: this Trainer runs no validation"):
        run.fit(SmallModule(), train)
    assert of_ours(run) == [] and run.global_step == 1
    named(monkeypatch, "mask")
    with pytest.raises(PANError, match="runs no validation"):
        trainer(tmp_path, epochs=1, limit_train_batches=1).fit(SmallModule(), train)
