"""The loss in what a training step returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor


def loss_of(output: Any) -> Any:
    """Return the loss in the output of a training step; None if it has none."""
    return output.get("loss") if isinstance(output, Mapping) else output


def with_loss(output: Any, loss: Tensor) -> Any:
    """Return the output of a training step with another loss in it; the user's own object stays as it is.

    Example:
        >>> with_loss({"loss": 1, "more": 2}, 3)
        {'loss': 3, 'more': 2}
    """
    if not isinstance(output, Mapping):
        return loss
    if not isinstance(output, MutableMapping):  # it cannot be changed, and a dict does as well
        return {**output, "loss": loss}
    changed: Any = copy.copy(output)
    changed["loss"] = loss
    return changed
