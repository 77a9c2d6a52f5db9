"""Which pad feeds a layer, found out while the model runs: nobody has scanned it before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import CalledPad, Convolution, Pad, PaddedLayer, pad_mode, pad_modules, why_unpadded
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.suppression.pad_calls import PadCalls
from pan_callbacks.suppression.taps import UNSEEN

_MOST = 64  # padded tensors that are held, where nobody says when a forward ends


class Feed:
    """What is known of the padding of one layer; copies of a hook share it, so that they know what was found since.

    Attributes:
        own: Whether the layer pads itself, so that there is nothing to find out.
        seen: Whether the layer has run, so that it is known what feeds it.
        pad: What feeds it, of constant values; None if nothing does.
        why: Why its padding stays as it is, None if it does not, or has none.
    """

    def __init__(self, own: bool) -> None:
        self.own = self.seen = own
        self.pad: Pad | None = None
        self.why: str | None = None

    @property
    def padded(self) -> bool:
        """Whether the layer has padding that can be made neutral, as far as is known."""
        return self.why is None and (self.own or self.pad is not None)

    def layer(self, conv: Convolution) -> PaddedLayer | None:
        """Return the layer with what pads it, None if nothing does, or not by what is known."""
        return PaddedLayer(conv, self.pad) if self.padded else None


class Feeding:
    """Watches what pads, as long as that is not known of all layers that pad nothing themselves.

    Of a pad module it is known for good once the layer has run; a call of ``F.pad`` may pad otherwise the next time.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pads, self._feeds = _RecentPads(), list[Feed]()
        self._calls = PadCalls(model, self._pads)
        self._handles: dict[nn.Module, RemovableHandle] = {}
        self._model = model

    def follow(self, feeds: list[Feed]) -> None:
        """Watch for these layers, in the modules that the model has now."""
        for pad in pad_modules(self._model).values():
            if pad not in self._handles:
                self._handles[pad] = pad.register_forward_hook(self._pads)
        self._calls.follow(self._model)
        self._feeds = [feed for feed in feeds if not feed.own]
        self.rest()

    def rest(self) -> None:
        """Forget what was padded: a forward has ended."""
        self._pads.watch(any(not feed.seen or isinstance(feed.pad, CalledPad) for feed in self._feeds))

    def learn(self, feed: Feed, call: LayerCall) -> None:
        """Find out what feeds the layer of a call that ended just now."""
        compiling = torch.compiler.is_compiling()
        changes = isinstance(feed.pad, CalledPad) and self._calls.scope.watching  # and not in a second run, say
        if not self._pads.watching or feed.seen and not changes:
            return
        pad = self._pads.pad_of(call)
        reason = why_unpadded(call.conv, pad)
        feed.seen, feed.why, feed.pad = True, None, None
        if pad is None and (compiling or self._calls.scope.blind):
            feed.why = UNSEEN
        elif pad is not None and reason is not None:
            feed.why = str(reason)
        elif pad is not None and pad_mode(pad) == "zeros":
            feed.pad = pad
        if all(one.seen and not isinstance(one.pad, CalledPad) for one in self._feeds):
            self._pads.watch(False)

    @contextmanager
    def overlooking(self) -> Iterator[None]:
        """Overlook what pads within, for it is we who do."""
        self._pads.resting = True
        try:
            yield
        finally:
            self._pads.resting = False

    def detach(self) -> None:
        """Take the hooks off the model."""
        self._pads.watch(False)
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._calls.detach()


class _RecentPads(PadTracker):
    """Holds the last few padded tensors only, and none that is padded by us.

    Attributes:
        resting: Whether it overlooks what pads now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resting = False

    def note(self, x: Tensor, pad: Pad, output: Tensor) -> None:
        if not self.resting:
            super().note(x, pad, output)
            self._made, self._since = self._made[-_MOST:], self._since[-_MOST:]

    def note_convolution(self, x: Tensor) -> None:
        if not self.resting:
            super().note_convolution(x)

    def note_pool(self, x: Tensor) -> None:
        if not self.resting:
            super().note_pool(x)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "resting": False}
