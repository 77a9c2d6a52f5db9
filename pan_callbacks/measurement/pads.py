"""Which pad module made a tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import PadModule, pad_modules
from pan_callbacks.measurement.calls import LayerCall


class PadTracker:
    """Forward hook of all pad modules of a model: knows which of them made a tensor.

    It holds what they made while it is watching, so that no other tensor can be mistaken for it.
    """

    def __init__(self) -> None:
        self._watching = False
        self._made: list[tuple[Tensor, PadModule]] = []

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put the hook on every pad module of a model; nothing is kept before :meth:`watch`."""
        return [pad.register_forward_hook(self) for pad in pad_modules(model).values()]

    def watch(self, on: bool = True) -> None:
        """Start or stop watching, and forget what was seen."""
        self._watching, self._made = on, []

    def __call__(self, pad: PadModule, args: tuple[Any, ...], output: Tensor) -> None:
        """Is called by torch after the pad module's forward; changes nothing."""
        if self._watching:
            self._made.append((output, pad))

    def pad_of(self, call: LayerCall) -> PadModule | None:
        """Return the pad module that the input of a call comes from directly, None if it comes from none."""
        return next((pad for made, pad in reversed(self._made) if made is call.given), None)

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that keeps nothing."""
        return {"_watching": False, "_made": []}
