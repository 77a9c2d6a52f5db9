"""What Lightning asks for callbacks when a Trainer is built; without ``PAN_CALLBACKS`` it loads nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback


def callbacks_of_environment() -> list[Callback]:
    """Return what brings the callbacks that ``PAN_CALLBACKS`` names to a Trainer; nothing if it names none.

    The entry point of the groups ``pytorch_lightning.callbacks_factory`` and ``lightning.pytorch.callbacks_factory``;
    a class of ours is a callback of both namespaces.
    """
    value = os.environ.get("PAN_CALLBACKS", "")
    if not value.strip(" ,"):
        return []
    from pan_callbacks.callbacks.trial import PANTrial, known_names

    names = known_names(value)
    return [PANTrial(names)] if names else []
