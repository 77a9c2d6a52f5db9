"""Faults of users, disks, servers and of drawing; whoever caused one gets it as it is, and none of ours ends a run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as other_pl
import pytorch_lightning as pl
import torch
from pytorch_lightning import loggers
from torch import nn

from tests.attack.case import WATCHING, Case, add, case
from tests.attack.pieces import Module, setup
from tests.attack.promises import Promise

FAULT = Promise.FAULT
HOOKS = [
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "on_validation_model_eval",
    "on_validation_model_train",
    "configure_optimizers",
]


def failing(hook: str, error: BaseException, what: str) -> None:
    """A hook of the module that fails once training has begun."""

    def build(folder):
        def fail(self, *args, **kwargs):
            raise error

        return setup(
            module=type("Failing", (Module,), {hook: fail, "__module__": __name__})(),
            options={"num_sanity_val_steps": 0},
        )

    add(Case(f"{what} in {hook}", FAULT, build))


for _hook in HOOKS:
    failing(_hook, RuntimeError("out of coffee"), "an error")


def failing_step(step: str, error: BaseException, at: int) -> None:
    def build(folder):
        class Failing(Module):
            calls = 0

            def loss(self, batch):
                if (step == "training") is self.training and not self._running_sanity():
                    self.calls += 1
                    if self.calls > at:
                        raise error
                return super().loss(batch)

            def _running_sanity(self):
                return self.trainer.sanity_checking

        return setup(module=Failing())

    add(Case(f"{type(error).__name__} in {step} step {at}", FAULT, build))


for _step in ("training", "validation"):
    for _at in (0, 3):
        failing_step(_step, ValueError("bad data"), _at)
        failing_step(_step, KeyboardInterrupt(), _at)
failing_step("training", torch.OutOfMemoryError("no memory"), 1)
failing_step("validation", torch.OutOfMemoryError("no memory"), 1)
failing_step("training", SystemExit(3), 1)
failing_step("training", StopIteration(), 1)


@case(FAULT)
def interrupted_within_a_convolution(folder):
    class Interrupted(nn.Conv2d):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            if self.training and self.calls == 4:
                raise KeyboardInterrupt
            return super().forward(x)

    module = Module()
    module.net.stem = Interrupted(3, 3, 3, padding=1)
    return setup(module=module)


@case(FAULT)
def a_failing_callback_of_the_user_before_ours(folder):
    class Failing(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                raise RuntimeError("callback fell over")

    return setup(callbacks=[Failing()])


# --- loggers ---------------------------------------------------------------------------------------------------------


class _Experiment:
    """Raises at whatever is not a number."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args, **kwargs):
            raise self.error

        return refuse


def _tensorboard(error: BaseException, *refused: str) -> Any:
    """A TensorBoardLogger whose writer raises where these methods are called."""

    def make(folder):
        logger = loggers.TensorBoardLogger(folder)

        def refuse(*args, **kwargs):
            raise error

        for name in refused:
            setattr(logger.experiment, name, refuse)
        return logger

    return make


class Table(loggers.Logger, other_pl.loggers.Logger):
    """A logger of numbers that refuses some of them."""

    name, version = "table", 0

    def __init__(self, refuses: Any) -> None:
        super().__init__()
        self.refuses = refuses

    def log_metrics(self, metrics, step=None):
        if self.refuses(metrics, step):
            raise ConnectionError("the server is away")

    def log_hyperparams(self, *args, **kwargs):
        pass


def logging_to(name: str, make: Any, **options: Any) -> None:
    def build(folder):
        return setup(options={"logger": make(folder), "log_every_n_steps": 1, **options})

    add(Case(name, FAULT, build, arms=WATCHING))


FULL = OSError(28, "No space left on device")
logging_to("a full disk at every picture", _tensorboard(FULL, "add_image", "add_figure", "add_images"))
logging_to("a full disk at every text", _tensorboard(FULL, "add_text"))
logging_to("a full disk at every histogram", _tensorboard(FULL, "add_histogram"))
logging_to("a full disk at every layout", _tensorboard(FULL, "add_custom_scalars"))
logging_to(
    "a full disk at all but numbers", _tensorboard(FULL, "add_image", "add_text", "add_histogram", "add_custom_scalars")
)
logging_to("a logger that knows no pictures", _tensorboard(AttributeError("add_image"), "add_image"))
logging_to("memory that runs out at a picture", _tensorboard(MemoryError("no memory"), "add_image"))
logging_to(
    "a server that is away at pictures", _tensorboard(ConnectionError("away"), "add_image", "add_text", "add_histogram")
)
logging_to(
    "a server that is away at whatever is ours alone",
    lambda folder: Table(
        lambda metrics, step: all(k.startswith(("pan", "padding", "border_bias", "epoch")) for k in metrics)
    ),
)
logging_to("a server that is away from the start", lambda folder: Table(lambda metrics, step: True))
logging_to(
    "a server that is away from the second epoch on", lambda folder: Table(lambda metrics, step: (step or 0) > 3)
)
logging_to("a folder of logs that is gone", lambda folder: _gone(folder))
logging_to("a logger that is closed", lambda folder: _closed(folder))


def _gone(folder):
    logger = loggers.TensorBoardLogger(folder / "logs")
    logger._sub_dir = None
    return logger


def _closed(folder):
    logger = loggers.TensorBoardLogger(folder)
    logger.experiment.close()
    return logger


class WandbLogger(Table):
    """Has the name of W&B's, and no server."""

    @property
    def experiment(self):
        return _Experiment(ConnectionError("the server is away"))

    def log_metrics(self, metrics, step=None):
        if not all(isinstance(value, (int, float)) for value in metrics.values()):
            raise ConnectionError("the server is away")


logging_to("W&B without a server", lambda folder: WandbLogger(lambda metrics, step: False))


@case(FAULT, arms=WATCHING)
def drawing_that_fails(folder):
    """Whatever matplotlib is asked to draw, it fails."""
    import matplotlib.figure

    own = matplotlib.figure.Figure.add_subplot

    def fail(*args, **kwargs):
        raise RuntimeError("no fonts")

    def act(run):
        matplotlib.figure.Figure.add_subplot = matplotlib.figure.Figure.subplots = fail
        try:
            run.fit()
        finally:
            matplotlib.figure.Figure.add_subplot = own
            matplotlib.figure.Figure.subplots = subplots

    subplots = matplotlib.figure.Figure.subplots
    return setup(options={"logger": loggers.TensorBoardLogger(folder)}, act=act)


@case(FAULT)
def checkpoints_on_a_full_disk(folder):
    class Full(pl.callbacks.ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            raise FULL

    return setup(callbacks=[Full(folder)], options={"enable_checkpointing": True})


@case(FAULT)
def warnings_that_are_errors(folder):
    import warnings

    def act(run):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", module=r"torch\..*|tests\..*")
            run.fit()

    return setup(act=act)
