"""A case is plain data: its name, the promise it belongs to, and a function that builds what is run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from pan_callbacks import PANMask, PANMonitor, PANPenalty
from tests.attack.promises import Promise


@dataclass
class Setup:
    """One run, built anew for every arm of a case.

    Args:
        module: The LightningModule.
        train: Training loader, or whatever ``fit`` takes in its place.
        val: Validation loader likewise.
        options: Arguments of the Trainer, beside those that all cases share.
        callbacks: The user's own callbacks.
        act: What is done; fits, if it is not given.
        watched: What else must be as it is without ours afterwards: generators, datasets, samplers, other models.
        batches: For ``PANMonitor(batches=...)``; without it a case has no such arm.
        library: ``pytorch_lightning`` or ``lightning.pytorch``.
        datamodule: In the place of loaders.
    """

    module: nn.Module
    train: Any = None
    val: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    act: Callable[[Run], None] | None = None
    watched: dict[str, Any] = field(default_factory=dict)
    batches: Iterable[Any] | None = None
    library: Any = pl
    datamodule: Any = None


class Run:
    """What ``Setup.act`` gets to work with: the setup, and Trainers that hold the callbacks of this arm.

    Attributes:
        ours: The callbacks of this arm.
        trainer: The Trainer in use, of which the outcome is read at last.
    """

    def __init__(self, setup: Setup, make: Callable[[Setup], list[Any]], recorder: Any, folder: Path) -> None:
        self.setup, self.recorder, self.folder, self._make = setup, recorder, folder, make
        self.ours = make(setup)
        self.trainer = self.new_trainer()

    @property
    def module(self) -> Any:
        return self.setup.module

    def new_trainer(self, fresh: bool = False, **options: Any) -> Any:
        """Make another Trainer, with this arm's callbacks or with fresh ones of their kind."""
        if fresh:
            self.ours = self._make(self.setup)
        shared = {
            "default_root_dir": self.folder,
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": self.recorder.logger,
        }
        callbacks = [self.recorder, *self.setup.callbacks, *self.ours]
        arguments = {**shared, **self.setup.options, **options}
        if arguments.get("barebones"):
            arguments = {name: value for name, value in arguments.items() if name not in shared or name == "max_epochs"}
        self.trainer = self.setup.library.Trainer(callbacks=callbacks, **arguments)
        return self.trainer

    def fit(self, module: Any = None, **kwargs: Any) -> None:
        if self.setup.datamodule is not None:
            self.trainer.fit(module or self.module, datamodule=self.setup.datamodule, **kwargs)
        else:
            self.trainer.fit(module or self.module, self.setup.train, self.setup.val, **kwargs)

    def validate(self, loader: Any = None, **kwargs: Any) -> None:
        self.trainer.validate(self.module, self.setup.val if loader is None else loader, verbose=False, **kwargs)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Arm:
    """A way to add callbacks of ours to a run.

    Args:
        name: Its name.
        make: Makes the callbacks.
        acts: Whether they are meant to change the run; if not, it is bit for bit what it is without them.
        due: Whether a setup has this arm.
    """

    name: str
    make: Callable[[Setup], list[Any]]
    acts: bool = False
    due: Callable[[Setup], bool] = lambda setup: True


NOTHING = Arm("nothing", lambda setup: [])
WATCH = Arm("PANMonitor()", lambda setup: [PANMonitor()])
CENTRE = Arm('PANMonitor(reference="centre")', lambda setup: [PANMonitor(reference="centre")])
BATCHES = Arm(
    "PANMonitor(batches=...)",
    lambda setup: [PANMonitor(batches=setup.batches)],
    due=lambda setup: setup.batches is not None,
)
WAITING = Arm(
    "PANMask and PANPenalty that are not due yet",
    lambda setup: [PANMonitor(), PANMask(start_epoch=1000), PANPenalty(start_epoch=1000)],
)
WEIGHTLESS = Arm("PANPenalty(weight=0)", lambda setup: [PANPenalty(weight=0.0)])
PENALTY = Arm("PANPenalty()", lambda setup: [PANPenalty(every_n_steps=1)], acts=True)
MASK = Arm("PANMonitor() and PANMask()", lambda setup: [PANMonitor(threshold=0.3), PANMask()], acts=True)

WATCHING = (WATCH, CENTRE, BATCHES)
ALL = (*WATCHING, WAITING, WEIGHTLESS, PENALTY, MASK)


@dataclass(frozen=True)
class Case:
    """A run that is made without us and in each of its arms, and must come out alike.

    Args:
        name: Its name, in words.
        promise: What it holds.
        build: Builds a run, in a folder of its own.
        arms: In which it is run.
        check: Looks at the run of each arm that watches and returns what is wrong with what was measured, or nothing.
        repeats: Whether it is first run twice without us, to see that it repeats.
        heavy: Whether it takes so long that ``make test`` leaves it out.
    """

    name: str
    promise: Promise
    build: Callable[[Path], Setup]
    arms: tuple[Arm, ...] = ALL
    check: Callable[[Run], str | None] | None = None
    repeats: bool = True
    heavy: bool = False

    @property
    def id(self) -> str:
        return f"{self.promise.name.lower()}: {self.name}"


CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    """Take a case into the matrix."""
    if case.id in CASES:
        raise ValueError(f"two cases are called {case.id!r}")
    CASES[case.id] = case


def case(promise: Promise, name: str | None = None, **kwargs: Any) -> Callable[[Any], Any]:
    """Decorate a function that builds a case; its name in words is that of the function, unless one is given."""

    def register(build: Callable[[Path], Setup]) -> Callable[[Path], Setup]:
        add(Case(name or build.__name__.replace("_", " ").strip(), promise, build, **kwargs))
        return build

    return register
