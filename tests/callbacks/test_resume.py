"""A run that is resumed is the same run, whenever its checkpoint was written."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pan_callbacks import PANMask, PANMonitor, PANPenalty
from pan_callbacks.figures.timeline import timeline
from tests.support.lightning_models import SmallModule, dataset, trainer
from tests.support.sampling import sampled

EPOCHS, BATCHES = 4, 4


class Steady(SmallModule):
    """Draws no random numbers, so that a resumed run can be the same run."""

    def __init__(self):
        super().__init__()
        self.net[5] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def data():
    """Batches that are all alike: a plain loader does not go on in the middle of an epoch."""
    images, labels = dataset(16).tensors
    train = DataLoader(TensorDataset(images.repeat(BATCHES, 1, 1, 1), labels.repeat(BATCHES)), batch_size=16)
    return train, DataLoader(dataset(40), batch_size=16)


def monitor(**kwargs):
    return PANMonitor(threshold=0.4, figures=False, **kwargs)


SETS = {
    "mask": lambda: [monitor(), PANMask()],
    "mask of means": lambda: [PANMask("mean"), monitor()],
    "mask once, later": lambda: [monitor(), PANMask(start_epoch=2, refresh="once")],
    "only pans": lambda: [PANPenalty(only_pans=True, every_n_steps=3), monitor()],
    "both, rarely": lambda: [monitor(every_n_epochs=2), PANMask("zero"), PANPenalty(1.0, only_pans=True)],
}
SAVES = {
    "after validation": {},
    "after the epoch": {"save_on_train_epoch_end": True},
    "within the epoch": {"every_n_train_steps": 3},
    "after the first batch": {"every_n_train_steps": BATCHES + 1},
}
#: Of a mask and a penalty, which have most to keep, two; of every other set one, and of every time.
QUICK = [
    ("mask", "after validation"),
    ("mask", "within the epoch"),
    ("mask of means", "after the epoch"),
    ("mask once, later", "after the first batch"),
    ("only pans", "within the epoch"),
    ("only pans", "after the first batch"),
    ("both, rarely", "after validation"),
]


def fit(folder, callbacks, save=None, ckpt=None, **kwargs):
    pl.seed_everything(3, verbose=False)
    module = Steady()
    if save is not None:
        saves = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **save)
        callbacks, kwargs = [*callbacks, saves], {"enable_checkpointing": True, **kwargs}
    run = trainer(folder, callbacks, EPOCHS, num_sanity_val_steps=0, **kwargs)
    run.fit(module, *data(), ckpt_path=ckpt, weights_only=True)
    return module, callbacks


def kind(callbacks, wanted):
    return next((callback for callback in callbacks if isinstance(callback, wanted)), None)


def assert_same_run(one, two):
    (module, callbacks), (other_module, other_callbacks) = one, two
    for (name, a), b in zip(module.state_dict().items(), other_module.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    watched, other_watched = kind(callbacks, PANMonitor), kind(other_callbacks, PANMonitor)
    assert watched.history == other_watched.history and watched.births == other_watched.births
    for name in watched.report.layers:
        a, b = watched.report.contrast(name), other_watched.report.contrast(name)
        assert torch.equal(a.nan_to_num(9), b.nan_to_num(9)), name
    drawn = [timeline(which.history).axes[1].images[0].get_array() for which in (watched, other_watched)]
    assert (drawn[0].filled(9) == drawn[1].filled(9)).all()
    mask, other_mask = kind(callbacks, PANMask), kind(other_callbacks, PANMask)
    if mask is not None:
        assert mask.channels == other_mask.channels and mask.channels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what, when", sampled(itertools.product(SETS, SAVES), QUICK))
def test_a_resumed_run_is_the_run_in_one_go(tmp_path, what, when):
    whole = fit(tmp_path, SETS[what](), SAVES[when])
    counts = [entry["count"] for entry in kind(whole[1], PANMonitor).history]
    assert len(set(counts)) > 1, "else an old report would do"
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) >= 3
    for file in files[:-1]:
        step = int(file.stem.split("=")[1])
        if step < BATCHES or when == "within the epoch" and step % BATCHES == 0:
            continue  # the first point is lost, or Lightning loses a validation: see below
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_same_run(whole, fit(tmp_path / "again", SETS[what](), ckpt=file))
        assert not any("before the validation" in str(w.message) for w in caught)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["mask", "only pans"])
def test_a_checkpoint_before_a_validation_that_lightning_loses_is_told(tmp_path, what):
    whole, _ = fit(tmp_path, SETS[what](), {"every_n_train_steps": BATCHES})
    callbacks = SETS[what]()
    with pytest.warns(UserWarning, match="before the validation of epoch 1, .* goes on with what was found in epoch 0"):
        resumed, _ = fit(tmp_path / "again", callbacks, ckpt=tmp_path / f"step={2 * BATCHES}.ckpt")
    assert [entry["epoch"] for entry in kind(callbacks, PANMonitor).history] == [-1, 0, 2, 3]
    assert len(whole.seen) == 4 * 3 and len(resumed.seen) == 2 * 3  # batches that were validated: that of 1 is lost


@pytest.mark.filterwarnings("ignore")
def test_a_validation_in_between_changes_neither_the_checkpoint_nor_the_run(tmp_path):
    module, callbacks = fit(tmp_path, SETS["mask"](), SAVES["after validation"])
    watched = kind(callbacks, PANMonitor)
    before = copy.deepcopy(watched.state_dict()["report"])
    trainer(tmp_path, callbacks[:-1]).validate(module, DataLoader(dataset(24), batch_size=8), verbose=False)
    after = watched.state_dict()["report"]
    for name, line in before["layers"].items():
        assert torch.equal(line["contrast"].nan_to_num(9), after["layers"][name]["contrast"].nan_to_num(9))


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_an_earlier_release_are_resumed(tmp_path):
    _, callbacks = fit(tmp_path, SETS["both, rarely"](), SAVES["after validation"])
    file = min(tmp_path.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    checkpoint = torch.load(file, weights_only=True)
    for key, state in checkpoint["callbacks"].items():
        if key.startswith("PAN"):
            of_penalty = ["layers", "settled"] if key.startswith("PANPenalty") else []
            for later in ("report", "channels", "channels_before", *of_penalty):
                state.pop(later, None)
    torch.save(checkpoint, tmp_path / "old.ckpt")
    resumed = SETS["both, rarely"]()
    fit(tmp_path, resumed, ckpt=tmp_path / "old.ckpt")
    assert [entry["epoch"] for entry in resumed[0].history] == [-1, 1, 3]


def test_a_checkpoint_holds_tensors_and_no_long_lists(tmp_path):
    fit(tmp_path, SETS["mask"](), SAVES["after validation"])
    file = max(tmp_path.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    states = torch.load(file, weights_only=True)["callbacks"]
    state = next(state for key, state in states.items() if key.startswith("PANMonitor"))
    assert isinstance(state["report"]["layers"]["net.0"]["contrast"], torch.Tensor)
