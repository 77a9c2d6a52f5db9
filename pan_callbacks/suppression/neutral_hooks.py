"""Forward hooks that make the padding of a layer neutral, without anybody having scanned it before."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import Skip
from pan_callbacks.layers import Convolution, dimensions
from pan_callbacks.measurement.calls import LayerCall, why_no_map
from pan_callbacks.measurement.hooks import ReplacingHook, replaced_channels
from pan_callbacks.measurement.neutral import neutral_output
from pan_callbacks.suppression.feeding import Feed, Feeding
from pan_callbacks.suppression.ran import NotesRuns


class NeutralHook(NotesRuns, ReplacingHook):
    """Base of forward hooks that know what a layer would give with neutral padding.

    Args:
        feed: What is known of the layer's padding.
        feeding: Finds out what is not; None for a copy, which goes by what is known.
    """

    def __init__(self, feed: Feed, feeding: Feeding | None) -> None:
        self.feed, self._feeding = feed, feeding

    def looks_padded(self, conv: Convolution, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> bool:
        """Whether this call of the layer has padding that can be made neutral.

        Args:
            conv: The convolution.
            args: What it was called with.
            kwargs: Likewise.
            output: What it returned.
        """
        why = why_no_map(conv, args, kwargs, output)
        if why is None and not self.feed.own and self._feeding is not None:
            self._feeding.learn(self.feed, LayerCall.of(conv, args, kwargs, output))
        layer = self.feed.layer(conv)
        if layer is None:
            return False
        if why is None:
            call = LayerCall.of(conv, args, kwargs, output)
            given = tuple(call.output.shape[2:])
            if layer.geometry(*layer.unpadded(call.x).shape[2:]).output_size != given:
                why = str(Skip.MISFIT.because(height="×".join(map(str, given[:-1])), width=given[-1]))
        self.feed.why = why
        return why is None

    def neutral(
        self,
        conv: Convolution,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Tensor,
        mean: bool = False,
    ) -> Tensor:
        """Return the output of a padded layer with neutral padding, but for what masks have put there.

        Args:
            conv: The convolution.
            args: What it was called with.
            kwargs: Likewise.
            output: What it returned.
            mean: Whether to pad with means, see :func:`~pan_callbacks.measurement.neutral.neutral_output`.
        """
        layer, x = self.feed.layer(conv), args[0] if args else kwargs["input"]
        assert layer is not None, "the layer has no padding"
        if output.ndim == 1 + dimensions(conv):  # one image, not in a batch
            return self.neutral(conv, (x[None],), {}, output[None], mean)[0]
        with nullcontext() if self._feeding is None else self._feeding.overlooking():
            found = neutral_output(layer, x, output, mean=mean)
        masked = replaced_channels(conv, but=self)
        if masked is None:
            return found
        masked = masked.to(found.device)
        return found.index_copy(1, masked, output.index_select(1, masked))

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that goes by what is known."""
        return {**self.__dict__, "_feeding": None}


class Share:
    """How much of all padding is neutral, in a tensor, so that compiled graphs need not be compiled anew for it.

    Args:
        value: 0 for none, 1 for all.

    Attributes:
        mean: Whether neutral padding is the mean of each input channel, in place of its values near the border.
    """

    def __init__(self, value: float = 0.0, mean: bool = False) -> None:
        self.mean = mean
        self._tensors: dict[torch.device, Tensor] = {}
        self.set(value)

    def set(self, value: float) -> None:
        """Change it."""
        self.value = value
        self.off, self.whole = value <= 0, value >= 1  # of which compiled graphs know
        for tensor in self._tensors.values():
            tensor.fill_(value)

    def prepare(self, model: nn.Module) -> None:
        """Make the tensor on every device that a model has parameters on."""
        with torch.inference_mode(False):  # what is made in inference mode cannot be changed outside
            for device in {parameter.device for parameter in model.parameters()} - self._tensors.keys():
                self._tensors[device] = torch.full((), self.value, device=device)

    def like(self, output: Tensor) -> Tensor:
        """Return it in the type of an output, on its device."""
        found = self._tensors.get(output.device)
        return output.new_full((), self.value) if found is None else found.to(output.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Share:
        twin = Share(self.value, self.mean)
        twin._tensors = {device: tensor.clone() for device, tensor in self._tensors.items()}
        return twin


class ShareHook(NeutralHook):
    """Makes a share of a layer's padding neutral.

    Args:
        conv: The convolution.
        feed: As for :class:`NeutralHook`.
        feeding: Likewise.
        share: How much.
    """

    def __init__(self, conv: Convolution, feed: Feed, feeding: Feeding, share: Share) -> None:
        super().__init__(feed, feeding)
        self.share = share
        self._all = torch.arange(conv.out_channels, device=next(conv.parameters()).device)

    @property
    def replaced(self) -> Tensor | None:
        """All channels, if none has padding of its own any more."""
        return self._all if self.feed.padded and self.share.whole else None

    @property
    def padding_left(self) -> float:
        """The share that is not neutral."""
        return 1.0 - self.share.value if self.feed.padded else 1.0

    def __call__(
        self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Is called by torch after the convolution's forward."""
        self.note()
        if not self.looks_padded(conv, args, kwargs, output) or self.share.off:
            return None
        neutral = self.neutral(conv, args, kwargs, output, self.share.mean)
        return neutral if self.share.whole else torch.lerp(output, neutral, self.share.like(output))

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module the share that holds now."""
        return {**super().__getstate__(), "share": copy.deepcopy(self.share)}
