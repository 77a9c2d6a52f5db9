"""Brings callbacks to a Trainer that the code does not name: ``PAN_CALLBACKS=monitor python train.py``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks.dropout import PaddingDropout
from pan_callbacks.callbacks.mask import PANMask
from pan_callbacks.callbacks.monitor import PANMonitor
from pan_callbacks.callbacks.penalty import PANPenalty

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_VARIABLE = "PAN_CALLBACKS"
#: What each name stands for: a class, and how to make one.
_KINDS: dict[str, tuple[type, Callable[[], Callback]]] = {
    "monitor": (PANMonitor, PANMonitor),
    "penalty": (PANPenalty, PANPenalty),
    "mask": (PANMask, PANMask),
    "mask-all": (PANMask, partial(PANMask, which="all")),
    "dropout": (PaddingDropout, PaddingDropout),
}


class PANTrial(Callback):
    """Adds callbacks at their defaults to the Trainer that it is in, where that has none of their kind.

    Lightning asks for callbacks without saying for which Trainer, so this one waits until it sees the Trainer, with all
    that the code and ``LightningModule.configure_callbacks`` put into it.

    Args:
        names: Names of callbacks, as :func:`known_names` returns them.

    Raises:
        PANError: What the callbacks raise; but without validation there is a warning, and no monitor.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add what lacks, behind this one: Lightning goes on with them, and checkpoints stay the last."""
        present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        for name in reversed(self.names):  # each comes before the last one
            kind, make = _KINDS[name]
            if any(isinstance(callback, kind) for callback in present):
                continue
            if name == "monitor" and "mask" not in self.names and stage == "fit" and not trainer.enable_validation:
                warnings.warn(
                    f"{_VARIABLE}={name}: this Trainer runs no validation, so nothing is watched", stacklevel=2
                )
                continue
            present.insert(present.index(self) + 1, make())


def known_names(value: str) -> tuple[str, ...]:
    """Return the callbacks that the variable names, each once; warn about names that are none.

    Args:
        value: Names with commas between them.

    Returns:
        The names; with ``"mask"`` comes a monitor, which finds what it masks.

    Example:
        >>> known_names("Penalty, mask")
        ('penalty', 'mask', 'monitor')
    """
    names = dict.fromkeys(name.strip().lower() for name in value.split(",") if name.strip())
    unknown = [name for name in names if name not in _KINDS]
    if unknown:
        warnings.warn(
            f"{_VARIABLE}={value}: there is no callback {', '.join(map(repr, unknown))}; choose of "
            f"{', '.join(_KINDS)}, several with commas between them. Training goes on without",
            stacklevel=3,
        )
    if {"mask", "mask-all"} <= names.keys():
        warnings.warn(f"{_VARIABLE}={value}: mask-all masks what mask would, and takes its place", stacklevel=3)
        del names["mask"]
    if "mask" in names:
        names["monitor"] = None
    return tuple(name for name in names if name in _KINDS)
