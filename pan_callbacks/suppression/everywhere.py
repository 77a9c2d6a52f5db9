"""Neutral padding in every layer that has padding, without a report: hooks put on, watched and taken off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from torch import nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, named, pad_modules, why_unpadded
from pan_callbacks.measurement.pads import name_of_pad
from pan_callbacks.suppression.feeding import Feed, Feeding
from pan_callbacks.suppression.masks import forget_compiled
from pan_callbacks.suppression.neutral_hooks import NeutralHook
from pan_callbacks.suppression.presence import Presence
from pan_callbacks.suppression.ran import learns_without
from pan_callbacks.suppression.taps import may_be_padded
from pan_callbacks.suppression.targets import Target

H = TypeVar("H", bound=NeutralHook)
#: Makes the hook of a convolution.
Make = Callable[[Convolution, Feed, Feeding], H]


class PaddingHooks(Generic[H]):
    """Hooks on every layer of a model that pads with a constant, or may be fed by what does.

    They are put before all other hooks, which are to see what the network sees.

    Args:
        model: The model; what was compiled of it is compiled anew.
        make: Makes the hook of a convolution.
        who: What they belong to, for messages.
        layers: Glob or globs over layer names; None for all.

    Attributes:
        active: Whether anything is made neutral now, so that it must not get lost.

    Raises:
        PANError: If a glob matches no convolution.
    """

    def __init__(self, model: nn.Module, make: Make[H], who: str, layers: str | Iterable[str] | None = None) -> None:
        self._model, self._make, self._who = model, make, who
        self._layers = [layers] if isinstance(layers, str) else layers if layers is None else list(layers)
        self._feeding, self._presence, self.active = Feeding(model), Presence(model), False
        self.hooks: dict[str, H] = {}
        self._told_of = set[str]()  # names of layers, and "" for the model
        self._put_on()

    def _wanted(self) -> dict[str, Convolution]:
        """Return the convolutions that get a hook; what pads with values of its input gets none."""
        found = may_be_padded(self._model, self._layers)
        return {name: conv for name, conv in found.items() if why_unpadded(conv) or conv.padding_mode == "zeros"}

    def _put_on(self) -> None:
        forget_compiled(self._model)
        convs, known, before = self._wanted(), self._presence.modules, self.hooks
        self._presence.clear()
        self.hooks = {}
        for name, conv in convs.items():
            same = known.get(name) is conv
            feed = Feed(own=why_unpadded(conv) is None)
            self.hooks[name] = before[name] if same else self._make(conv, feed, self._feeding)
        put = {name: (conv, self.hooks[name].attach(conv), self.hooks[name]) for name, conv in convs.items()}
        self._presence.add(put)
        self._presence.add({name: (pad, None, None) for name, pad in pad_modules(self._model).items()})
        self._feeding.follow([hook.feed for hook in self.hooks.values()])

    def follow(self) -> None:
        """Put hooks on layers that the model grew, or that were replaced while nothing was made neutral.

        Raises:
            PANError: As :meth:`check_there`.
        """
        self.check_there()
        modules = self._presence.modules
        if self._wanted() != {name: modules[name] for name in self.hooks} or self._presence.lost():
            self._put_on()

    def rest(self) -> None:
        """Forget what was padded: a step has ended."""
        self._feeding.rest()

    def take_off(self) -> None:
        """Take the hooks off the model."""
        self._presence.clear()
        self._feeding.detach()
        self.active = False

    @property
    def padded(self) -> dict[str, H]:
        """Layer name to its hook, for those that have padding to be made neutral, as far as they ran."""
        return {name: hook for name, hook in self.hooks.items() if hook.feed.padded}

    @property
    def undecided(self) -> bool:
        """Whether there are layers that have not run, and may be fed by a pad."""
        return any(not hook.feed.seen for hook in self.hooks.values())

    @property
    def left_out(self) -> dict[str, str]:
        """Layer name to the reason why its padding stays as it is."""
        return {name: hook.feed.why for name, hook in self.hooks.items() if hook.feed.why is not None}

    def tell(self) -> None:
        """Warn of layers that keep their padding, each once, and of a model in which that goes for all."""
        new = {name: why for name, why in self.left_out.items() if name not in self._told_of}
        if new:
            self._told_of |= new.keys()
            reasons = "; ".join(f"{name}: {why}" for name, why in list(new.items())[:3])
            warnings.warn(f"{self._who} leaves the padding of {len(new)} layers as it is ({reasons})", stacklevel=3)
        if not self.padded and not self.undecided and "" not in self._told_of:
            self._told_of.add("")
            what = "no layer that it looks at pads with zeros or another constant"
            warnings.warn(f"{self._who} has nothing to do: {what}", stacklevel=3)

    def targets(self) -> dict[str, Target]:
        """Return what a mask of all padding masks."""
        names = {id(pad): name for name, pad in pad_modules(self._model).items()}
        convs: dict[str, Any] = self._presence.modules
        return {
            name: Target(tuple(range(convs[name].out_channels)), name_of_pad(hook.feed.pad, names))
            for name, hook in self.padded.items()
        }

    def check_there(self) -> None:
        """Look whether all is where it was put; cheap enough for every step.

        Raises:
            PANError: If a layer or what pads it was replaced, or a layer lost its hooks.
        """
        if not self.active:
            return
        padded = self.padded
        pads = {id(hook.feed.pad) for hook in padded.values() if hook.feed.pad is not None}
        fed = [name for name, module in self._presence.modules.items() if id(module) in pads]
        for name, why in self._presence.lost([*padded, *fed]).items():
            raise PANError(
                f"{self._who} has lost layer {name}: {why}. Change the model before fit, or where the padding is not "
                "made neutral yet (start_epoch)"
            )

    def check_learning(self) -> None:
        """Look whether layers that learn run through their hooks.

        Raises:
            PANError: If one does not: a model that was compiled and run before its hooks came ignores them.
        """
        name = learns_without(self.padded, self._presence.modules) if self.active else None
        if name is not None:
            raise PANError(
                f"gradients reach layer {name}, whose hook of {self._who} did not run. If the model was compiled and "
                "run before, call torch.compiler.reset() first, or compile in configure_model"
            )

    def check_ran(self) -> None:
        """Look whether any layer ran, at the end of an evaluation.

        Raises:
            PANError: If none did, so that the figures are those of a model with its own padding.
        """
        padded = self.padded
        if self.active and padded and not any(hook.ran for hook in padded.values()):
            raise PANError(
                f"{self._who} makes the padding of {named(list(padded))} neutral, and none of these layers ran through "
                "its hooks: the figures are those of a model with its own padding. If the model was compiled and run "
                "before, call torch.compiler.reset() first"
            )
