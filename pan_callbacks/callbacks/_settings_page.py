"""What TensorBoard's page of hyperparameters has of our callbacks: how they are set, and the figures to compare by."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pan_callbacks.callbacks._loggers import show_settings

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.loggers import Logger

#: Figures by which runs are compared.
METRICS = ("pan/count", "padding/reliance")
#: Settings that change no figure.
_SHOWN_ONLY = {"figures", "figures_every", "prog_bar"}


class SettingsPage:
    """Describes a run once for each logger that has such a page.

    TensorBoard takes the first description of a run. If Lightning is about to describe it by the module's saved
    hyperparameters, ours have to come before, with those among them; else somebody may still do so until the end of
    training, and ours come then, to be ignored if there are others.

    Args:
        enabled: Whether to describe anything.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._described: set[int] = set()

    def before_lightning(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describe the run where Lightning is about to."""
        parts: tuple[Any, ...] = pl_module, getattr(trainer, "datamodule", None)
        saving = [part for part in parts if getattr(part, "_log_hyperparams", False)]
        if saving:
            loggers = [logger for logger in trainer.loggers if getattr(logger, "_default_hp_metric", False)]
            self._describe(trainer, loggers, saving)

    def at_the_end(self, trainer: Trainer) -> None:
        """Describe the run where nobody has."""
        self._describe(trainer, [logger for logger in trainer.loggers if id(logger) not in self._described], [])

    def _describe(self, trainer: Trainer, loggers: Iterable[Logger], saving: Sequence[Any]) -> None:
        """Describe the run by our settings, and by the hyperparameters of the user's that are saved."""
        if not self._enabled:
            return
        try:
            saved = {name: value for part in saving for name, value in part.hparams_initial.items()}
            saved.pop("_class_path", None)  # which Lightning leaves out, too
            settings, metrics = plain({**saved, **settings_of(trainer)}), [*METRICS, *["hp_metric"] * bool(saving)]
            for logger in loggers:
                if show_settings(logger, settings, metrics):
                    self._described.add(id(logger))
        except Exception as error:  # a page is not worth a training
            warnings.warn(f"PANMonitor could not show its settings: {type(error).__name__}: {error}", stacklevel=2)


def settings_of(trainer: Trainer) -> dict[str, Any]:
    """Return how our callbacks are set: ``"pan_monitor.threshold"`` and so on, without what is None or no setting.

    Args:
        trainer: A Trainer.
    """
    settings: dict[str, Any] = {}
    for callback in getattr(trainer, "callbacks", ()):  # an attribute that Lightning does not declare
        kind = next((kind for kind in type(callback).__mro__ if kind.__module__.startswith("pan_callbacks.")), None)
        if kind is None:
            continue
        for name in inspect.signature(kind).parameters:
            value = getattr(callback, name, None)
            if name not in _SHOWN_ONLY and isinstance(value, (bool, int, float, str, list, tuple)):
                settings[f"{_in_lower_case(kind.__name__)}.{name}"] = value
    return settings


def _in_lower_case(name: str) -> str:
    """Return a name that stands behind the user's: TensorBoard shows the first few, and capitals would be the first."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=PAN)(?=[A-Z])", "_", name).lower()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as TensorBoard takes them: numbers, words and truths, nested names with a slash between.

    Args:
        settings: Any values by name.

    Example:
        >>> plain({"lr": 0.1, "optimizer": {"betas": (0.9, 0.99)}, "seed": None})
        {'lr': 0.1, 'optimizer/betas': '(0.9, 0.99)', 'seed': 'None'}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": each for inner, each in plain(value).items()})
        else:
            flat[str(name)] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
