"""Padding that is dropped by chance while a network trains, so that it does not rely on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.layers import Convolution
from pan_callbacks.reports.words import PER, Per
from pan_callbacks.suppression.everywhere import PaddingHooks
from pan_callbacks.suppression.feeding import Feed, Feeding
from pan_callbacks.suppression.neutral_hooks import NeutralHook


class Chance:
    """How often padding is dropped; the hooks of all layers share it.

    Args:
        p: Chance of neutral padding, 0 to 1.
        per: ``"image"`` or ``"call"``: what is drawn for, once in each call of a layer.

    Attributes:
        on: Whether anything is dropped now.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, p: float, per: Per = "image") -> None:
        if not 0 <= p <= 1:  # nan is neither
            raise ValueError(f"p={p!r} is no chance; choose a number from 0 (own padding) to 1 (always neutral)")
        if per not in PER:
            raise ValueError(f"per={per!r} is unknown; choose 'image' or 'call'")
        self.p, self.per, self.on = p, per, False


class DropoutHook(NeutralHook):
    """Makes a layer's padding neutral by chance, in training mode alone.

    Args:
        conv: The convolution.
        feed: As for :class:`~pan_callbacks.suppression.neutral_hooks.NeutralHook`.
        feeding: Likewise.
        chance: How often.
    """

    def __init__(self, conv: Convolution, feed: Feed, feeding: Feeding, chance: Chance) -> None:
        super().__init__(feed, feeding)
        self.chance = chance

    def __call__(
        self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Is called by torch after the convolution's forward."""
        self.note()
        if not (self.chance.on and conv.training and self.chance.p > 0):
            return None
        if not self.looks_padded(conv, args, kwargs, output):
            return None
        neutral = self.neutral(conv, args, kwargs, output)
        if self.chance.p == 1:  # nn.Dropout draws nothing then, either
            return neutral
        batched = output.ndim == 2 + len(conv.kernel_size)
        images = output.shape[0] if batched and self.chance.per == "image" else 1
        draws = torch.rand((images, *(1,) * (output.ndim - 1)), device=output.device)
        return torch.where(draws < self.chance.p, neutral, output)


def dropout_hooks(
    model: nn.Module, chance: Chance, layers: str | Iterable[str] | None, who: str
) -> PaddingHooks[DropoutHook]:
    """Put hooks on a model that drop its padding once the chance is on, and warn if there is nothing to drop.

    Args:
        model: The model.
        chance: How often.
        layers: Glob or globs over layer names; None for all.
        who: What the hooks belong to, for messages.

    Raises:
        PANError: If a glob matches no convolution.
    """
    hooks = PaddingHooks(model, partial(DropoutHook, chance=chance), who, layers)
    hooks.tell()
    return hooks


@contextmanager
def padding_dropout(
    model: nn.Module, p: float = 0.5, layers: str | Iterable[str] | None = None, per: Per = "image"
) -> Iterator[nn.Module]:
    """Drop the padding of a model by chance while the context lasts, so that training does not come to rely on it.

    Each padded convolution in training mode pads by chance ``p`` neutrally, with its input's own values (reflected, or
    replicated where the map is too small), and else with its own constant. In evaluation mode nothing changes. Chances
    are drawn from torch's global random state, as :class:`torch.nn.Dropout` draws its own, so that seeds, resumed runs
    and activation checkpoints behave alike.

    Random padding (Yang et al. 2023, `2302.08682 <https://arxiv.org/abs/2302.08682>`_) adds, by its abstract, zero
    padding randomly to half of the border of feature maps. This is not that method: here all sides of a map are padded
    always, and what is random is whether with the layer's constant or with values of the map.

    Args:
        model: The model; it is left as it was, also after an exception.
        p: Chance of neutral padding. 0.5, the default, shows the network both equally often.
        layers: Glob or globs over layer names; None for all.
        per: ``"image"``: each image of a batch has a draw of its own in each call of a layer. ``"call"``: all images
            of the batch have the same.

    Raises:
        ValueError: If ``p`` is no chance, or ``per`` is unknown.
        PANError: If a glob matches no convolution.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
        >>> with padding_dropout(net, p=1.0):
        ...     trained = net.train()(torch.ones(1, 1, 8, 8))
        ...     evaluated = net.eval()(torch.ones(1, 1, 8, 8))
        >>> bool((trained == trained[0, 0, 4, 4]).all()), bool((evaluated == evaluated[0, 0, 4, 4]).all())
        (True, False)
    """
    chance = Chance(p, per)
    hooks = dropout_hooks(model, chance, layers, "padding_dropout")
    ends = model.register_forward_hook(_Rests(hooks), always_call=True)
    chance.on = hooks.active = True
    try:
        yield model
    finally:
        chance.on = False  # for graphs that were compiled with the hooks
        ends.remove()
        hooks.take_off()


class _Rests:
    """Forward hook of a model that has what was padded forgotten."""

    def __init__(self, hooks: PaddingHooks[DropoutHook] | None) -> None:
        self._hooks = hooks

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        if self._hooks is not None:
            self._hooks.rest()

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the model a hook that does nothing."""
        return {"_hooks": None}
