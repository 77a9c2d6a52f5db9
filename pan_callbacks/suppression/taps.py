"""What the penalty sees of a layer: the calls of each step, in a few strips."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import gt
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError, Reason, Skip
from pan_callbacks.layers import Convolution, convolutions, dimensions, pad_modules, select, why_unpadded
from pan_callbacks.measurement.calls import LayerCall, why_no_map
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.measurement.transforms import is_transformed, untransformed
from pan_callbacks.suppression.cap import Cap
from pan_callbacks.suppression.graph import node_of
from pan_callbacks.suppression.pad_calls import PadScope, callers
from pan_callbacks.suppression.presence import channels_of
from pan_callbacks.suppression.price import CallView
from pan_callbacks.suppression.strength import Strength
from pan_callbacks.suppression.yardstick import Sample

#: Why nobody knows whether a layer has padding.
UNSEEN = Reason(
    "no padding that is seen: a call of F.pad in code that runs compiled is not; use nn.ZeroPad2d", Skip.NO_PADDING
)


class Tap:
    """Forward hook of one layer: notes whether it runs in a step, and keeps a small view of each call while it looks.

    Args:
        name: Name of the layer.
        max_images: Images of a batch that are looked at.
        cap: How long the gradient of the penalty may be.
        pads: Knows which pad feeds a call.
        scope: Knows whether it sees every call of ``F.pad``; None if there is none.

    Attributes:
        in_step: Whether a step goes on.
        looking: Whether it looks at what runs now: the step is due for this layer.
        seen: Calls that nobody has taken yet.
        ran: Whether the layer ran with gradients in this step.
        ever_ran: Whether it did in any.
        ran_blind: Whether it ran without, while it looked.
        missed: Steps in which it did not run, by which its schedule is late; as far as that matters to the schedule.
        nothing: Why the last call left nothing to see.
        frozen: Whether no gradient can come of the last call.
        channels: The neurons to penalise, None for all.
        strength: How strongly its neurons are drawn back.
    """

    def __init__(self, name: str, max_images: int, cap: Cap, pads: PadTracker, scope: PadScope | None) -> None:
        self.name, self.max_images, self.pads, self.scope = name, max_images, pads, scope
        self.cap, self.strength = cap, Strength()
        self.channels: Tensor | None = None
        self.nothing: str | None = None
        self.ever_ran, self.frozen, self.missed = False, False, 0
        self.rest()

    @property
    def wanted(self) -> bool:
        """Whether anything of the layer is to be penalised."""
        return self.channels is None or len(self.channels) > 0

    def begin(self, due: bool) -> None:
        """Begin a step, and look at it if it is due."""
        self.in_step, self.looking = True, due and self.wanted

    def rest(self) -> None:
        """Look at nothing, and forget what was seen."""
        self.in_step = self.looking = self.ran = self.ran_blind = False
        self.seen: list[CallView] = []

    def __call__(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Is called by torch after the layer's forward; changes nothing."""
        if not self.in_step:
            return
        compiling = torch.compiler.is_compiling()
        if not torch.is_grad_enabled():
            self.ran_blind = self.looking
        elif not compiling and torch._C._current_graph_task_id() != -1:
            # a checkpoint runs it once more for a backward pass; without a first time the penalty got lost
            if self.looking and not self.ever_ran:
                raise reentrant(self.name)
        else:
            self.ran = self.ever_ran = True
            if not self.looking:
                return
            self.frozen = not any(one.requires_grad for name, one in conv.named_parameters() if name != "bias")
            self.nothing = _why_no_map(conv, args, kwargs, output)
            if self.nothing:
                return
            call = LayerCall.of(conv, args, kwargs, output)
            if not compiling and is_transformed(output):
                outside = untransformed(call)
                if outside is None:
                    raise _lost_in_a_transform(self.name)
                call = outside
            view = None if self.frozen else self._view(call, None if compiling else node_of(call.output))
            if view is not None:
                self.seen.append(view)

    def take(self, nodes: Collection[Any] | None) -> list[CallView]:
        """Return the views to penalise with a loss, and keep the others.

        Args:
            nodes: What the loss was computed by, None for all that was seen.
        """
        taken, kept = list[CallView](), list[CallView]()
        for view in self.seen:
            if isinstance(view.measured, Sample) and is_transformed(view.measured.inner):  # a compiled graph let it out
                raise _lost_in_a_transform(self.name)
            # nobody can tell of a compiled graph
            (taken if nodes is None or view.node is None or view.node in nodes else kept).append(view)
        self.seen, self.nothing = kept, None if taken else self.nothing
        return taken

    def prices(self, views: Sequence[CallView]) -> list[tuple[Tensor, float]]:
        """Return the price of each call, the sum over neurons, and how many these are, as its shares of the layer's.

        A call without a border has none.
        """
        self.strength.hold()
        try:
            found = [
                (view.price(self.cap, self.strength, self.channels), view.neurons(self.channels)) for view in views
            ]
            return [(price / len(views), neurons / len(views)) for price, neurons in found if price is not None]
        except PANError as error:
            raise PANError(f"layer {self.name}: {error}") from error

    def _view(self, call: LayerCall, node: Any) -> CallView | None:
        pad = None if why_unpadded(call.conv) is None else self.pads.pad_of(call)  # its own padding is its own
        self.nothing = why_unpadded(call.conv, pad)
        if pad is None and self.nothing and self.scope and (self.scope.blind or torch.compiler.is_compiling()):
            self.nothing = UNSEEN
        view = None if self.nothing else CallView.of(call, call.layer(pad), node, self.max_images)
        if view is None and self.nothing is None:
            size = tuple(call.output.shape[2:])
            self.nothing = f"no interior to compare with in its map of {'×'.join(map(str, size))}"
            if len(call.output) == 0:
                self.nothing = "no images in the batch"
            elif call.layer(pad).geometry(*call.layer(pad).unpadded(call.x).shape[2:]).output_size != size:
                self.nothing = Skip.MISFIT.because(height="×".join(map(str, size[:-1])), width=size[-1])
        return view

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that keeps nothing."""
        return {**self.__dict__, "in_step": False, "looking": False, "seen": []}


def _why_no_map(conv: Convolution, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> str | None:
    """Return why a call is none of a map with a channel for each row of the kernel, None if it is."""
    why = why_no_map(conv, args, kwargs, output)
    if why is not None:
        return why
    given, own = output.shape[-1 - dimensions(conv)], channels_of(conv)
    return None if given == own else f"its map has {given} channels, and its kernel {own}"


def reentrant(layer: str) -> PANError:
    """Return the error that says why a layer under such a checkpoint cannot be penalised."""
    return PANError(
        f"layer {layer} runs under a reentrant activation checkpoint, where its penalty would get "
        "lost; use checkpoint(..., use_reentrant=False), or leave the layer out with layers="
    )


def _lost_in_a_transform(layer: str) -> PANError:
    return PANError(
        f"layer {layer} runs under a transform of torch.func that leaves nothing to penalise outside of it: gradients "
        "are taken inside, or its kernel is mapped over, too, or it is compiled. Leave the layer out with layers=, or "
        "call it without the transform; torch.vmap over images alone can stay"
    )


def unpadded(layer: str, why: str | None) -> PANError:
    """Return the error that says why neurons of a layer cannot be penalised.

    Args:
        layer: The layer.
        why: What it is, None if it has no padding that is seen.
    """
    if why is not None:
        return PANError(f"layer {layer!r} is {why}. Its neurons cannot be penalised")
    return PANError(
        f"layer {layer!r} has no padding, so its neurons cannot be penalised; a call of F.pad that feeds it is seen if "
        "the code of a module's forward makes it: use nn.ZeroPad2d"
    )


def may_be_padded(model: nn.Module, layers: str | Iterable[str] | None) -> dict[str, Convolution]:
    """Return the convolutions that are padded layers, or may be fed by a pad, which shows when they run."""
    pads, chosen = pad_modules(model) or callers(model), select(model, layers)  # transposed ones among them
    found = {name: conv for name, conv in convolutions(model).items() if name in chosen}
    return {name: conv for name, conv in found.items() if why_unpadded(conv) is None or pads and _is_fed(conv)}


def not_penalised(model: nn.Module, layers: str | Iterable[str] | None) -> dict[str, Reason]:
    """Return the transposed convolutions whose windows overlap, so that their border differs, with the reason."""
    found: dict[str, Any] = {**select(model, layers)}
    overlap = {name for name, conv in found.items() if any(map(gt, conv.kernel_size, conv.stride))}
    reasons = {name: why_unpadded(conv) for name, conv in found.items() if name in overlap}
    return {name: why for name, why in reasons.items() if why is not None and why.skip is Skip.TRANSPOSED}


def _is_fed(conv: Convolution) -> bool:
    """Whether a convolution may be one that a pad feeds: it has a window, and adds nothing itself."""
    return max(conv.kernel_size) > 1 and (conv.padding == "valid" or not any(conv._reversed_padding_repeated_twice))
