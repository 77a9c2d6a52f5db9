"""Row 3: a small training with PANMonitor at its defaults, to the same without; and what each part of it costs."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import timm
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.performance.subjects import epoch, noise
from benchmarks.performance.timing import differences, interleave, once, ratios, spread, step_ratios, totals
from benchmarks.performance.words import number, quartiles, table, times
from pan_callbacks import PANMonitor
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

SIZE, BATCH, LONG = 64, 32, 20
PARTS = {
    "defaults": {},
    "no figures": {"figures": False},
    "every 2nd epoch": {"every_n_epochs": 2},
    "64 images": {"max_images": 64},
    'reference="centre"': {"reference": "centre"},
}


class Classifier(LightningModule):
    """ResNet-18 on noise."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet18", pretrained=False, num_classes=10)

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def loader(images: int) -> DataLoader:
    """Noise and classes."""
    return DataLoader(TensorDataset(noise(images, SIZE), torch.arange(images) % 10), BATCH)


def fit(data: tuple[DataLoader, DataLoader], monitor: dict | None, epochs: int, train_batches: int | None) -> None:
    """Trains with a monitor of these arguments or without one, everything else alike."""
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            max_epochs=epochs,
            limit_train_batches=train_batches,
            callbacks=[] if monitor is None else [PANMonitor(**monitor)],
            logger=TensorBoardLogger(folder),
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Classifier(), *data)


def measure(quick: bool) -> dict:
    """Whole trainings in turns; then trainings of one step an epoch, in which the parts show."""
    quiet()
    train, val, rounds, long = (64, 64, 1, 3) if quick else (1600, 400, 3, LONG)
    data = loader(train), loader(val)
    short = partial(fit, data, epochs=2, train_batches=1)
    short(None)
    cold, warm = (once(partial(short, {})) for _ in range(2))
    full = partial(fit, data, epochs=2, train_batches=None)
    whole = interleave({"plain": [partial(full, None)], "monitored": [partial(full, {})]}, rounds, warm_steps=0)
    arms = {"plain": [partial(short, None)]} | {name: [partial(short, options)] for name, options in PARTS.items()}
    parts = interleave(arms, min(rounds, 2), warm_steps=0)
    with timed() as seconds:
        short({})
    longer = partial(fit, data, epochs=long, train_batches=1)
    lasting = interleave({"plain": [partial(longer, None)], "monitored": [partial(longer, {})]}, 1, warm_steps=0)
    over = differences(lasting, "monitored", "plain")[0]
    plain = spread(totals(whole, "plain"))["median"]
    return {
        "ratio": spread(ratios(whole, "monitored", "plain")),
        "plain": spread(totals(whole, "plain")),
        "over": {name: spread(differences(parts, name, "plain")) for name in PARTS},
        "calls": seconds,
        "plan": plan(val),
        "imports": cold - warm,
        "long": {"over": over, "ratio": 1 + over / (plain * long / 2), "epochs": long},
        **{"train": train, "val": val, "rounds": rounds},
    }


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Seconds of the calls of methods of every measurement, while the context lasts."""
    found: dict[str, list[float]] = {name: [] for name in ("report", "measure")}
    originals = {name: getattr(Measurement, name) for name in found}

    def clocked(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            try:
                return originals[name](*args, **kwargs)
            finally:
                found[name].append(time.process_time() - start)

        return call

    try:
        for name in found:
            setattr(Measurement, name, clocked(name))
        yield found
    finally:
        for name, original in originals.items():
            setattr(Measurement, name, original)


def plan(images: int) -> dict[str, float]:
    """By how much the first batch of all, and the first of a later epoch, are longer than those that follow."""
    model = Classifier().model.eval()
    steps = epoch(Measurement(model, Settings(max_images=images)), model, noise(images, SIZE).split(BATCH))
    with torch.no_grad():
        arms = {"measured": steps, "plain": [partial(model, noise(BATCH, SIZE))] * len(steps)}
        found = interleave(arms, 2, warm_steps=0)
    usual = spread(step_ratios(found, "measured", "plain", 1))["median"] * found["plain"][0][-1]
    first, later = (steps[0] - usual for steps in found["measured"])
    return {"made": first - later, "later": later}


def quiet() -> None:
    """Lets Lightning say nothing."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)


def section(found: dict) -> list[str]:
    """What the page says."""
    over, calls, long = found["over"], found["calls"], found["long"]
    defaults, figures = over["defaults"]["median"], over["no figures"]["median"]
    rows = [[f"`PANMonitor`: {name}", quartiles(spread)] for name, spread in over.items()]
    rows += [
        ["of the defaults: figures (the difference of two lines above)", number(defaults - figures)],
        [f"of the defaults: {len(calls['report'])} reports", number(sum(calls["report"]))],
        [f"of the defaults: first point ({len(calls['measure'])} forwards of a copy)", number(sum(calls["measure"]))],
        ["of the defaults: making the plan, once", number(found["plan"]["made"])],
        ["of the defaults: the first batch of each later epoch, above the others", number(found["plan"]["later"])],
        ["once in a process, not in the lines above: what the first run imports", number(found["imports"])],
    ]
    return [
        f"Two epochs of ResNet-18 at {SIZE} px, {found['train']:,} training and {found['val']} validation images, "
        f"TensorBoard in both, {found['rounds']} rounds: {times(found['ratio'])} of {quartiles(found['plain'])} s.",
        "",
        "What is added in two epochs, measured where an epoch has one training step and all of its validation, so that "
        "nothing else is large:",
        "",
        *table(["part", "s more"], rows),
        "",
        f"{long['epochs']} epochs: the monitor adds {number(long['over'])} s (run, with one training step an epoch); "
        f"to {long['epochs']} such epochs as above, extrapolated from their two, that is {number(long['ratio'])}.",
    ]
