"""Whether layers that learn run through the hooks that are to change what they give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class NotesRuns:
    """Base of hooks that note that their convolution ran.

    Attributes:
        ran: Whether it did.
        ran_with_gradients: Whether it did while gradients were recorded.
    """

    ran = ran_with_gradients = False

    def note(self) -> None:
        """Note that the convolution ran."""
        self.ran = True
        if torch.is_grad_enabled():
            self.ran_with_gradients = True


def learns_without(hooks: Mapping[str, NotesRuns], modules: Mapping[str, nn.Module]) -> str | None:
    """Return the name of a layer that gradients reached and whose hook did not run; None if there is none.

    A model that was compiled and run before its hooks came ignores them.

    Args:
        hooks: Layer name to its hook.
        modules: Layer name to its module, of these layers at least.
    """
    for name, hook in hooks.items():
        if hook.ran_with_gradients:
            continue
        gradients = [parameter.grad for parameter in modules[name].parameters()]
        if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            return name
    return None
