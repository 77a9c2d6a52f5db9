"""The hooks of a mask on a model, for the time of a run: put on, filled, watched and taken off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, convolutions, named, pad_modules
from pan_callbacks.reports.words import Mode
from pan_callbacks.suppression.masks import MaskHook, build_masks, forget_compiled
from pan_callbacks.suppression.presence import Presence
from pan_callbacks.suppression.ran import NotesRuns, learns_without
from pan_callbacks.suppression.targets import Target


class MaskHooks:
    """Hooks on every convolution of a model, those that are masked with a mask.

    They are on every convolution from the start, as a compiled model ignores hooks that come later.

    Args:
        model: The model.
        mode: As of :func:`~pan_callbacks.masked`.

    Attributes:
        masked: What is masked now.
    """

    def __init__(self, model: nn.Module, mode: Mode) -> None:
        self._model, self._mode, self.masked = model, mode, dict[str, Target]()
        self._hooks: dict[str, _Hook] = {}
        self._presence = Presence(model)
        self._put_on()

    def _put_on(self) -> None:
        forget_compiled(self._model)
        convs = convolutions(self._model)
        self._hooks = {name: _Hook() for name in convs}
        self._presence.add({n: (conv, self._hooks[n].attach(conv), self._hooks[n]) for n, conv in convs.items()})
        self._presence.add({name: (pad, None, None) for name, pad in pad_modules(self._model).items()})

    def take_off(self) -> None:
        """Take the hooks off the model."""
        self._presence.clear()
        for hook in self._hooks.values():
            hook.mask = None  # for graphs that were compiled with the hook
        self._hooks, self.masked = {}, {}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Layer name to the convolution that its hook is on."""
        return {name: self._presence.modules[name] for name in self._hooks}

    def apply(self, wanted: Mapping[str, Target]) -> None:
        """Mask these neurons and no others.

        Args:
            wanted: Layer name to what is masked in it.

        Raises:
            PANError: If a layer was replaced since the hooks were put on: what is to be masked in it was found in what
                it was before; or if layer, pad module, channel or mean are not there.
        """
        self.check_there(wanted)
        if self._changed:
            self.take_off()
            self._put_on()
        masks = build_masks(self._model, wanted, self._mode)
        for name, conv in convolutions(self._model).items():
            self._hooks[name].mask = masks.get(conv)
        self.masked = dict(wanted)

    def follow(self) -> None:
        """Put hooks on layers that the model grew, or that were replaced while they had no mask; before a measurement.

        Raises:
            PANError: If the mask is gone.
        """
        self.check_there()
        if self._changed:
            self.apply(self.masked)

    @property
    def _changed(self) -> bool:
        return convolutions(self._model) != self.modules

    def check_there(self, wanted: Mapping[str, Target] | None = None) -> None:
        """Look whether the mask is still where it was put; cheap enough for every step.

        Args:
            wanted: What is to be masked next, None for what is masked now.

        Raises:
            PANError: If a layer was replaced or lost its hooks or channels, or its pad module was replaced.
        """
        masked = self.masked if wanted is None else wanted
        pads = [target.pad for target in masked.values() if target.pad is not None]
        for name, why in self._presence.lost([*masked, *pads], indexed=True).items():
            raise PANError(
                f"the mask of layer {name} is gone: {why}. Change the model before fit, and mask what is found in it "
                "with a new PANMask"
            )

    def check_learning(self) -> None:
        """Look whether masked layers that learn run through their hooks.

        Raises:
            PANError: If one does not: a model that was compiled and run before its hooks came ignores them.
        """
        name = learns_without({name: self._hooks[name] for name in self.masked}, self._presence.modules)
        if name is not None:
            raise PANError(
                f"gradients reach layer {name} without its mask: the layer runs, and its hooks do not. If the "
                "model was compiled and run before fit, call torch.compiler.reset() first, or compile in "
                "configure_model"
            )

    def check_ran(self) -> None:
        """Look whether any masked layer ran, at the end of an evaluation.

        Raises:
            PANError: If none did, so that the figures are those of a model without masks.
        """
        if self.masked and not any(self._hooks[name].ran for name in self.masked):
            raise PANError(
                f"PANMask masks {named(list(self.masked))}, and none of these layers ran through its hooks: the "
                "figures are those of a model without masks. If the model was compiled and run before, call "
                "torch.compiler.reset() first"
            )


class _Hook(NotesRuns, MaskHook):
    """Notes that its convolution ran."""

    def __call__(
        self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Is called by torch after the convolution's forward."""
        self.note()
        return super().__call__(conv, args, kwargs, output)
