"""Gradients that arrive at layers whose penalty is still waiting."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pan_callbacks.errors import PANError
from pan_callbacks.suppression.penalty import PaddingBiasPenalty


class Arrivals:
    """Refuses a backward pass of manual optimization that passes the penalty by."""

    def __init__(self) -> None:
        self._hooks: dict[int, tuple[Tensor, Any]] = {}  # by the identity of the parameter, which is kept for that
        self._expected = False

    def watch(self, penalty: PaddingBiasPenalty) -> None:
        """Watch the parameters of the layers that are penalised, also those that were frozen before."""
        for name, layer in penalty.modules_by_layer().items():
            for parameter in layer.parameters():
                if parameter.requires_grad and parameter.is_leaf and id(parameter) not in self._hooks:
                    arrived = functools.partial(self._on_gradient, penalty, name)
                    hook = parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]  # of torch
                    self._hooks[id(parameter)] = (parameter, hook)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Let gradients arrive, of a loss that the penalty is in."""
        self._expected = True
        try:
            yield
        finally:
            self._expected = False

    def clear(self) -> None:
        """Watch no longer."""
        for _, hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _on_gradient(self, penalty: PaddingBiasPenalty, layer: str, parameter: Tensor) -> None:
        if not self._expected and penalty.holds(layer):
            raise PANError(
                f"gradients reach layer {layer} without its penalty: this training_step calls loss.backward(); "
                "call self.manual_backward(loss) instead"
            )
