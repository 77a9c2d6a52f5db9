"""Calls of ``F.pad`` in a training step: seen while a module runs whose code has one, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pan_callbacks.layers import clean_name
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.measurement.trace import runs_compiled
from pan_callbacks.measurement.watching import PadWatch, calls_pad


class PadScope:
    """Forward pre-hook and hook of modules that call ``F.pad``.

    A function mode over the whole step would reach compiled code and code of others; and of most models nothing is
    watched at all.

    Args:
        pads: Is told of what pads.

    Attributes:
        blind: Whether some calls are not seen, as a module that makes them runs compiled code.
    """

    def __init__(self, pads: PadTracker) -> None:
        self._pads, self.blind = pads, False
        self._open: list[tuple[int, PadWatch | None]] = []  # modules that run, by their identity

    @property
    def watching(self) -> bool:
        """Whether calls are seen now: a module that makes some runs, and not once more for a backward pass."""
        return any(watch is not None for _, watch in self._open)

    def enter(self, module: nn.Module, args: Any) -> None:
        """Is called by torch before the module's forward."""
        if torch.compiler.is_compiling() or not self._pads.watching or torch._C._current_graph_task_id() != -1:
            return
        watch = PadWatch(self._pads) if all(outer is None for _, outer in self._open) else None
        self._open.append((id(module), watch))
        if watch is not None:
            watch.__enter__()  # type: ignore[no-untyped-call]  # of torch

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Is called by torch after the module's forward, also if that raised an error."""
        if torch.compiler.is_compiling() or not self._open or self._open[-1][0] != id(module):
            return
        _, watch = self._open.pop()
        if watch is not None:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # of torch

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that watches nothing."""
        return {**self.__dict__, "_open": []}


class PadCalls:
    """The modules of a model that call ``F.pad``, and the hooks on them.

    Args:
        model: The model.
        pads: Is told of what pads.

    Attributes:
        scope: The hook that is on all of them.
    """

    def __init__(self, model: nn.Module, pads: PadTracker) -> None:
        self.scope = PadScope(pads)
        self._handles: dict[nn.Module, list[RemovableHandle]] = {}
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Put the hook on modules that have none yet."""
        for module in callers(model).values():
            if module in self._handles:
                continue
            if runs_compiled(module):
                self.scope.blind = True
                continue
            self._handles[module] = [
                module.register_forward_pre_hook(self.scope.enter),
                module.register_forward_hook(self.scope.leave, always_call=True),
            ]

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """See the calls of a method that is not the module's forward, if the module is one of those that have some."""
        if module not in self._handles:
            yield
            return
        self.scope.enter(module, ())
        try:
            yield
        finally:
            self.scope.leave(module, (), None)

    def detach(self) -> None:
        """Take the hooks off."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()


def callers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model whose code calls ``F.pad``, by name."""
    return {clean_name(name): module for name, module in model.named_modules() if calls_pad(module)}
