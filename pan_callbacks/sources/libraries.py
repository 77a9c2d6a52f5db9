"""What a library of models has to offer, whether it is timm, torchvision or a function of the user's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from pan_callbacks.errors import UsageError
from pan_callbacks.sources.preprocessing import Preprocessing


class Library(Protocol):
    """Makes one model, with its weights or without.

    Attributes:
        name: Name of the model.
        default_weights: What its pretrained weights are called in a report.
        random_weights: What a random initialisation is called.
    """

    name: str
    default_weights: str
    random_weights: str

    def make(self, pretrained: bool = False, progress: bool = False, **changed: Any) -> nn.Module:
        """Make the model.

        Args:
            pretrained: Whether with the library's weights.
            progress: Whether the library shows a bar while it downloads them.
            changed: Arguments of the library's own, as :meth:`changes` offers them.
        """
        ...

    def check_pretrained(self) -> bool:
        """Return whether pretrained weights have to be downloaded; PANError if there are none to be had."""
        ...

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterable[dict[str, Any]]:
        """Offer arguments that might make the model fit a checkpoint.

        Args:
            model: The model as it is made without them.
            state: The checkpoint's state dict.
        """
        ...

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what the model expects of its images."""
        ...


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error that something is not known, with what its name is like."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return UsageError(f"{what}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
