"""What pads in a model, and how its padding can become neutral: seen in a forward, or as far as modules show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, PadModule, pad_mode, pad_modules, why_unpadded
from pan_callbacks.measurement.calls import EntryCall, LayerCall
from pan_callbacks.measurement.shadow import Shadow
from pan_callbacks.suppression.everywhere import PaddingHooks
from pan_callbacks.suppression.feeding import Feed, Feeding
from pan_callbacks.suppression.neutral_hooks import NeutralHook
from pan_callbacks.suppression.taps import may_be_padded
from pan_callbacks.suppression.targets import Target

_UNSEEN = "what pads and what does not is not seen here: give neutralise a batch of images"
_NOT_RUN = "it did not run on the images"
_FEEDS_NONE = "it feeds no convolution without padding of its own"


@dataclass(frozen=True)
class Seen:
    """A layer whose padding can become neutral.

    Args:
        target: What a mask of it masks: all channels, and what pads before it.
        mode: ``"reflect"`` or ``"replicate"``, which makes it neutral in all its calls; None if neither does.
        replaces_pad: Whether what pads before it is a module that feeds such layers alone.
    """

    target: Target
    mode: str | None = "reflect"
    replaces_pad: bool = False


@dataclass
class PaddingSeen:
    """What pads in a model.

    Args:
        layers: Layer name to how it becomes neutral.
        left: Name of a layer or pad to the reason why it does not.
    """

    layers: dict[str, Seen] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class _Look(NeutralHook):
    """Notes how a layer's padding becomes neutral, and changes nothing.

    Attributes:
        modes: What does so, of each call: ``"reflect"``, ``"replicate"``, or both of them, on different axes.
    """

    def __init__(self, conv: Convolution, feed: Feed, feeding: Feeding) -> None:
        super().__init__(feed, feeding)
        self.modes, self.calls = set[str](), 0

    def __call__(self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Is called by torch after the convolution's forward."""
        self.note()
        layer = self.feed.layer(conv) if self.looks_padded(conv, args, kwargs, output) else None
        if layer is not None:
            x = LayerCall.of(conv, args, kwargs, output).x
            axes = layer.geometry(*layer.unpadded(x).shape[2:]).axes
            self.modes |= {axis.neutral for axis in axes if axis.before or axis.after}
            self.calls += 1


def padding_seen(model: nn.Module, images: Tensor) -> PaddingSeen:
    """Run a copy of a model and return what pads in it.

    Args:
        model: The model, which is left as it is.
        images: What it is run on (images, channels, height, width).

    Raises:
        PANError: If it cannot be copied, or does not run on these images.
    """
    shadow = Shadow(model, {})
    twin = shadow.of(model)
    hooks, pads, calls = PaddingHooks(twin, _Look, "neutralise"), constant_pads(twin), Counter[str]()
    for name, pad in pads.items():
        pad.register_forward_hook(partial(_count, calls, name))
    try:
        with shadow.running():
            EntryCall("", twin, (images,), {}).run()
    except Exception as error:
        shape = "×".join(map(str, images.shape[1:]))
        raise PANError(f"the model does not run on an image of {shape}: {type(error).__name__}: {error}") from error
    found, targets = PaddingSeen(left=hooks.left_out), hooks.targets()
    fed, modes = Counter[str](), dict[str, set[str]]()
    for name, target in targets.items():
        if target.pad in pads:
            fed[target.pad] += hooks.hooks[name].calls
            modes[target.pad] = modes.get(target.pad, set()) | hooks.hooks[name].modes
    for name, target in targets.items():
        own = hooks.hooks[name].modes or {"reflect"}  # an own padding of a layer that did not run
        alone = target.pad in pads and fed[target.pad] == calls[target.pad] and len(modes[target.pad]) == 1
        found.layers[name] = Seen(target, min(own) if len(own) == 1 else None, alone)
    used = {target.pad for target in targets.values()}
    found.left |= {name: _FEEDS_NONE for name in pads if name not in used and calls[name]}
    found.left |= {name: _NOT_RUN for name in pads if name not in used and not calls[name]}
    return found


def padding_written(model: nn.Module) -> PaddingSeen:
    """Return what pads in a model as far as its modules show it, without running it.

    Args:
        model: The model.
    """
    found, pads, before = PaddingSeen(), constant_pads(model), _pads_before(model)
    names, used = {id(pad): name for name, pad in pads.items()}, set[str]()
    for name, conv in may_be_padded(model, None).items():
        channels, pad = tuple(range(conv.out_channels)), before.get(conv)
        if why_unpadded(conv) is None:
            if conv.padding_mode == "zeros":
                found.layers[name] = Seen(Target(channels))
        elif pad is None:
            found.left[name] = _UNSEEN
        elif id(pad) in names:
            used.add(names[id(pad)])
            found.layers[name] = Seen(Target(channels, names[id(pad)]), "reflect", replaces_pad=True)
    found.left |= {name: _UNSEEN for name in pads if name not in used}
    return found


def constant_pads(model: nn.Module) -> dict[str, PadModule]:
    """Return the pad modules of a model that add a constant, by name."""
    pads = pad_modules(model)
    return {name: pad for name, pad in pads.items() if any(pad.padding) and pad_mode(pad) == "zeros"}


def _count(calls: Counter[str], name: str, *call: Any) -> None:
    """Forward hook that counts the calls of a module."""
    calls[name] += 1


def _pads_before(model: nn.Module) -> dict[nn.Module, PadModule]:
    """Return the convolutions that a pad stands directly before in a sequence, each of both in one place alone."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, PadModule] = {}
    for sequence in model.modules():
        leaves = _leaves(sequence)
        for pad, conv in zip(leaves, leaves[1:], strict=False):
            alone = places[pad] == places[conv] == 1
            if alone and isinstance(pad, PadModule) and isinstance(conv, Convolution):
                found[conv] = pad
    return found


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Return what runs one after another in a sequence, and in sequences within it."""
    if type(module).forward is not nn.Sequential.forward:
        return [module]
    return [leaf for child in module.children() for leaf in _leaves(child)]
