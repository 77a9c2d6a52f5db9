"""What several callbacks of one kind in a Trainer log their figures under."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

T = TypeVar("T")


class Tags:
    """Keeps the figures of two callbacks of a kind apart: under one tag Lightning would log their mean.

    The first in the Trainer's list has the public names; the second has a 2 behind the group (``pan_penalty2/loss``),
    and says so.

    Args:
        kind: Class of the callbacks.
        example: One of the tags, for the warning.
    """

    def __init__(self, kind: type, example: str) -> None:
        self._kind, self._example = kind, example
        self._told = False
        self.number = 1

    def take_number(self, trainer: Trainer, callback: Callback) -> None:
        """Find out which of its kind a callback is.

        Args:
            trainer: The Trainer that it is in.
            callback: The callback.
        """
        callbacks = getattr(trainer, "callbacks", ())  # an attribute that Lightning does not declare
        places = [other is callback for other in callbacks if isinstance(other, self._kind)]
        self.number = places.index(True) + 1 if True in places else 1
        if self.number > 1 and not self._told:
            self._told = True
            warnings.warn(
                f"this Trainer has {len(places)} callbacks {self._kind.__name__}; number {self.number} logs its "
                f"figures as {self.of(self._example)} and so on",
                stacklevel=3,
            )

    def of(self, tag: str) -> str:
        """Return the tag that a figure gets.

        Args:
            tag: Its public tag, ``"group/name"``.

        Example:
            >>> tags = Tags(dict, "pan/count")
            >>> tags.number = 2
            >>> tags.of("pan_layer/body.0/conv")
            'pan_layer2/body.0/conv'
        """
        group, slash, name = tag.partition("/")
        return tag if self.number == 1 else f"{group}{self.number}{slash}{name}"

    def of_all(self, figures: Mapping[str, T]) -> dict[str, T]:
        """Return figures under the tags that they get."""
        return {self.of(tag): value for tag, value in figures.items()}
